"""Weights are checked where they enter and leave: damage and NaN are errors, never an empty mask."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from textmask.data.loaders import open_split
from textmask.errors import CheckpointError
from textmask.export.export import export
from textmask.inference.predict_split import predict_split
from textmask.inference.predictor import Predictor
from textmask.methods.registry import preset_recipe
from textmask.runs.checkpoint import load_run, read_tensors, write_tensors
from textmask.runs.layout import LAST, RESULT, WEIGHTS
from textmask.runs.recover import restore_recipe
from textmask.training.loop import train


@pytest.fixture(scope="module")
def trained(phantom_manifest, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    recipe = preset_recipe("unet", "smoke")
    return train(
        recipe, phantom_manifest, folder / "run", cache_dir=folder / "cache", progress=False
    ).path


@pytest.fixture
def run(trained, tmp_path):
    import shutil

    return shutil.copytree(trained, tmp_path / "run")


def flip_bits(path, at=-100):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    data[at - 64] ^= 1
    path.write_bytes(data)


def with_nan(run):
    """The same run with one NaN, as a program that knows nothing of checksums would write it."""
    tensors = load_file(run / WEIGHTS)
    name = next(key for key, value in tensors.items() if value.is_floating_point())
    tensors[name].view(-1)[0] = torch.nan
    metadata = read_tensors(run / WEIGHTS)[1]
    save_file(tensors, run / WEIGHTS, metadata={"textmask": json.dumps(metadata)})
    result = json.loads((run / RESULT).read_text())
    del result["weights_sha256"]
    (run / RESULT).write_text(json.dumps(result))
    return name


def test_two_flipped_bits_are_found_by_the_stored_hash(run):
    stored = json.loads((run / RESULT).read_text())["weights_sha256"]
    load_run(run)
    flip_bits(run / WEIGHTS)
    with pytest.raises(CheckpointError, match=stored) as caught:
        load_run(run)
    assert WEIGHTS in str(caught.value)
    assert "its sha256 is" in str(caught.value)


@pytest.mark.parametrize("name", [WEIGHTS, LAST])
def test_flipped_bits_of_a_run_that_is_not_finished_are_found_by_the_checksum(run, name):
    (run / RESULT).unlink()
    flip_bits(run / name)
    with pytest.raises(CheckpointError, match=rf"{name} is damaged: the checksum"):
        read_tensors(run / name)


def test_the_bundled_model_is_checked_too_and_files_without_checksum_are_read(tmp_path):
    assert load_run("default").method is not None
    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors", metadata={"textmask": "{}"})
    tensors, metadata = read_tensors(tmp_path / "a.safetensors")
    assert tensors["a"].tolist() == [1, 1]
    assert metadata == {}


def test_the_checksum_is_of_every_type_and_shape(tmp_path):
    tensors = {
        "scalar": torch.tensor(3),
        "none": torch.zeros(0, 4),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "truth": torch.tensor([True, False]),
    }
    write_tensors(tmp_path / "a.safetensors", tensors, {"epoch": 1})
    found, metadata = read_tensors(tmp_path / "a.safetensors")
    assert metadata == {"epoch": 1}
    assert all(torch.equal(found[name], value) for name, value in tensors.items())


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_never_replace_the_last_good_ones(tmp_path, bad):
    path = tmp_path / WEIGHTS
    write_tensors(path, {"good": torch.ones(2)}, {})
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=r"1 of 2 numbers in head\.bias are NaN or infinite"):
        write_tensors(path, {"head.bias": torch.tensor([1.0, bad])}, {})
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == [WEIGHTS]


def test_nan_weights_stop_every_command_that_loads_a_run(run, tmp_path):
    name = with_nan(run)
    with pytest.raises(CheckpointError, match=name):
        load_run(run)
    with pytest.raises(CheckpointError, match=name):
        Predictor(run, device="cpu")
    with pytest.raises(CheckpointError, match=name):
        export(run, tmp_path / "hub", "hf")
    assert not (tmp_path / "hub").exists()


def test_nan_outputs_are_an_error_and_not_an_empty_mask(trained, phantom_manifest, tmp_path):
    loaded = load_run(trained)
    with torch.no_grad():
        for parameter in loaded.method.parameters():
            parameter.fill_(torch.nan)
    data = open_split(phantom_manifest, "test", loaded.recipe.image_size, tmp_path)
    with pytest.raises(CheckpointError, match=f"{data.keys[0]}.*NaN or infinite"):
        predict_split(loaded.method, data, loaded.recipe)

    predictor = Predictor(dataclasses.replace(loaded), device="cpu")
    with pytest.raises(CheckpointError, match="No mask is made"):
        predictor.open(np.zeros((64, 64), np.uint8)).segment("opacity in the left lung")


def test_a_torn_recipe_is_named_and_restored_from_the_last_checkpoint(run):
    whole = (run / "recipe.json").read_text()
    assert not restore_recipe(run)
    (run / "recipe.json").write_text(whole[:40])
    with pytest.raises(CheckpointError, match=r"recipe\.json is damaged.*--resume"):
        load_run(run)
    assert restore_recipe(run)
    assert (run / "recipe.json").read_text() == whole
    (run / "recipe.json").write_text("")
    (run / LAST).unlink()
    assert not restore_recipe(run)
