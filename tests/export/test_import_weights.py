"""Pickled weights: nothing runs, nothing leaves its folder, and what is kept fits its recipe."""

import os
import pickle
import shutil
import stat
import zipfile

import pytest
import torch

from textmask.errors import CheckpointError, ConfigError, DataError
from textmask.export.export import export
from textmask.export.import_weights import import_weights
from textmask.io.archives import check_archive, safe_extract
from textmask.methods.registry import build_method, get_method
from textmask.runs.checkpoint import load_run
from textmask.training.loop import train


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """A recipe file and a state dict that fits it."""
    root = tmp_path_factory.mktemp("state")
    recipe = get_method("unet").recipe().smoke()
    (root / "recipe.json").write_text(recipe.to_json())
    tensors = build_method(recipe).state_dict()
    torch.save(tensors, root / "model.pt")
    return root, tensors


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("how", ["torch", "plain"])
def test_a_malicious_pickle_does_not_run(state, tmp_path, how):
    target, file = tmp_path / "owned", tmp_path / "model.pt"
    bomb = {"weight": torch.zeros(1), "x": Evil(target)}
    if how == "plain":
        file.write_bytes(pickle.dumps(bomb))
    else:
        torch.save(bomb, file)
    with pytest.raises(CheckpointError, match="was not opened"):
        import_weights(file, tmp_path / "run", recipe=state[0] / "recipe.json")
    assert not target.exists()
    assert not (tmp_path / "run").exists()


def test_a_state_dict_becomes_a_run(state, tmp_path):
    root, tensors = state
    file = tmp_path / "trainer.pt"
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in tensors.items()}}, file
    )
    import_weights(file, tmp_path / "run", recipe=root / "recipe.json", laterality="image")
    run = load_run(tmp_path / "run")
    assert all(torch.equal(value, tensors[key]) for key, value in run.method.state_dict().items())
    assert run.data["laterality"] == "image"
    with pytest.raises(ConfigError, match="already contains weights"):
        import_weights(file, tmp_path / "run", recipe=root / "recipe.json")


def test_weights_that_do_not_fit_and_files_that_are_none_are_refused(state, tmp_path):
    root = state[0]
    torch.save({"a": torch.zeros(2)}, tmp_path / "other.pt")
    torch.save({"a": torch.zeros(2), "lr": 1e-3}, tmp_path / "mixed.pt")
    torch.save({"module.a": torch.ones(2), "a": torch.zeros(2)}, tmp_path / "twice.pt")
    for name, said in (
        ("other", "do not fit the recipe"),
        ("twice", "with and without the prefix"),
        ("mixed", "are not tensors"),
        ("none", "does not exist"),
    ):
        with pytest.raises(CheckpointError, match=said):
            import_weights(tmp_path / f"{name}.pt", tmp_path / "run", recipe=root / "recipe.json")
    with pytest.raises(ConfigError, match="method of these weights is unknown"):
        import_weights(root / "model.pt", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_bundle_comes_back_from_its_folder_and_its_zip(phantom_manifest, tmp_path):
    run = tmp_path / "run"
    train(
        get_method("unet").recipe().smoke(),
        phantom_manifest,
        run,
        cache_dir=tmp_path,
        progress=False,
    )
    export(run, tmp_path / "bundle", "monai", gate=False)
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path, "bundle")
    for name, source in (("a", tmp_path / "bundle"), ("b", tmp_path / "packed.zip")):
        import_weights(source, tmp_path / name)
        got, want = load_run(tmp_path / name), load_run(run)
        assert got.recipe == want.recipe
        assert got.data == want.data
        state = want.method.state_dict()
        assert all(torch.equal(value, state[key]) for key, value in got.method.state_dict().items())
    assert packed


def archive(path, name="a.txt", data=b"x", mode=0, compress=zipfile.ZIP_STORED):
    entry = zipfile.ZipInfo(name)
    entry.external_attr, entry.compress_type = mode << 16, compress
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(entry, data)
    return path


@pytest.mark.parametrize(
    "name", ["../out.txt", "a/../../out.txt", "/tmp/out.txt", "..\\out.txt", "C:\\out.txt"]
)
def test_an_entry_outside_the_folder_is_refused(tmp_path, name):
    folder = tmp_path / "in"
    folder.mkdir()
    with pytest.raises(DataError, match="outside the folder"):
        safe_extract(archive(tmp_path / "x.zip", name), folder)
    assert not list(folder.iterdir())
    assert not (tmp_path / "out.txt").exists()


def test_links_bombs_and_noise_are_refused(tmp_path):
    link = archive(tmp_path / "link.zip", "link", b"/etc/passwd", stat.S_IFLNK | 0o777)
    with pytest.raises(DataError, match="link or a device"):
        check_archive(link)
    bomb = archive(tmp_path / "bomb.zip", data=bytes(4 << 20), compress=zipfile.ZIP_DEFLATED)
    assert (4 << 20) / bomb.stat().st_size > 500
    with pytest.raises(DataError, match="times the size"):
        check_archive(bomb)
    shutil.copy(bomb, tmp_path / "bomb.pt")  # what torch writes is a zip archive too
    (tmp_path / "recipe.json").write_text(get_method("unet").recipe().smoke().to_json())
    with pytest.raises(DataError, match="times the size"):
        import_weights(tmp_path / "bomb.pt", tmp_path / "run", recipe=tmp_path / "recipe.json")
    (tmp_path / "noise.zip").write_bytes(b"noise")
    with pytest.raises(DataError, match="not a readable zip"):
        check_archive(tmp_path / "noise.zip")
    folder = tmp_path / "in"
    folder.mkdir()
    safe_extract(archive(tmp_path / "fine.zip", "a/b.txt", b"hello"), folder)
    assert (folder / "a" / "b.txt").read_bytes() == b"hello"
