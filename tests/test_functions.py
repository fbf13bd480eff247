"""textmask.train, textmask.evaluate and textmask.data.from_rows, as a notebook uses them."""

import numpy as np
import pytest
import torch
from PIL import Image

import textmask
from textmask.data.manifest import read_manifest, write_manifest
from textmask.errors import ConfigError, DataError
from textmask.evaluation.evaluate import EvaluationOptions
from textmask.io.images import read_image
from textmask.io.masks import read_mask

RNG = np.random.default_rng(0)


def samples(count=12):
    """Images with a bright square on one side, and what is said about it."""
    rows = []
    for i in range(count):
        image = RNG.integers(0, 80, (48, 48)).astype(np.uint8)
        mask = np.zeros((48, 48), bool)
        left = i % 2 == 0
        mask[20:40, 4:20] = left
        mask[20:40, 28:44] = not left
        image[mask] += 120
        split = ("train", "train", "train", "valid", "valid", "test")[i // 2 % 6]
        text = f"opacity in the lower {'left' if left else 'right'} lung"
        rows.append({"image": image, "mask": mask, "text": text, "split": split})
    return rows


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("functions")
    rows = samples()
    textmask.data.from_rows(rows, root / "data", name="squares")
    result = textmask.train(
        "statement_unet",
        root / "data",
        root / "run",
        preset="smoke",
        epochs=2,
        seed=3,
        cache_dir=root / "cache",
        progress=False,
        device="cpu",
    )
    return root, result


def test_a_method_name_a_path_and_settings_are_enough_to_train(trained):
    root, result = trained
    predictor = textmask.load(result.path, device="cpu")
    assert predictor.run.recipe.seed == 3
    assert {stage.epochs for stage in predictor.run.recipe.stages} == {2}
    assert predictor.run.source == (root / "data").resolve()
    assert predictor.segment(samples(1)[0]["image"], "opacity in the left lung").mask.shape == (
        48,
        48,
    )


def test_a_run_is_evaluated_on_its_own_data_or_on_a_path_with_the_same_result(trained):
    root, result = trained
    how = {"surface": False, "n_bootstrap": 50, "cache_dir": root / "cache"}
    own = textmask.evaluate(result.path, split="valid", out=root / "own", **how)
    path = textmask.evaluate(result.path, root / "data", "valid", out=str(root / "path"), **how)
    options = EvaluationOptions(out=root / "old", **how)
    manifest = read_manifest(root / "data" / "manifest.csv")
    old = textmask.evaluate(result.path, manifest, "valid", options)
    assert own.rows == path.rows == old.rows

    pytest.importorskip("pandas")
    frame = own.to_pandas()
    assert frame["row"].tolist() == list(own.rows)
    assert frame["dice_per_image"][0] == own.rows[own.model].dice_per_image.estimate


def test_settings_that_do_not_exist_and_wrong_types_are_refused(trained, tmp_path):
    root, result = trained
    with pytest.raises(ConfigError, match="epoch"):
        textmask.train("unet", root / "data", tmp_path / "a", epoch=3)
    with pytest.raises(ConfigError, match="expected a recipe, the name of a method"):
        textmask.train(3, root / "data", tmp_path / "a")
    with pytest.raises(ConfigError, match="Did you mean 'unet'"):
        textmask.train("unett", root / "data", tmp_path / "a")
    with pytest.raises(DataError, match="from_rows makes one"):
        textmask.train("unet", [1, 2], tmp_path / "a")
    with pytest.raises(ConfigError, match="expected a number"):
        textmask.train("unet", root / "data", tmp_path / "a", seed=object())
    manifest = read_manifest(root / "data" / "manifest.csv")
    with pytest.raises(ConfigError, match="mask_threshold: applies when data are read"):
        textmask.train("unet", manifest, tmp_path / "a", mask_threshold=9.0)
    with pytest.raises(ConfigError, match="no setting 'surfaces'"):
        textmask.evaluate(result.path, surfaces=False)
    assert not (tmp_path / "a").exists()


def test_rows_of_arrays_tensors_and_paths_become_a_manifest(tmp_path):
    image = RNG.integers(0, 256, (20, 30), dtype=np.uint8)
    mask = image > 99
    outside = tmp_path / "elsewhere" / "b.png"
    outside.parent.mkdir()
    Image.fromarray(image).save(outside)
    rows = [
        {"image": image, "mask": mask, "text": "left", "group": "p1", "split": "val"},
        {"image": image, "mask": ~mask, "text": "right", "labelled": False, "split": "val"},
        {
            "image": torch.from_numpy(image)[None] / 255,
            "mask": torch.from_numpy(mask),
            "text": "both",
        },
        {"image": outside, "text": "none"},
        {"image": image.astype(np.int16) - 50, "window": (-50, 205), "text": "ct"},
    ]
    manifest = textmask.data.from_rows(rows, tmp_path / "data")
    assert [row.split for row in manifest.rows] == ["valid", "valid", *["train"] * 3]
    assert manifest.rows[0].image == manifest.rows[1].image  # one array, one file
    assert manifest.rows[0].mask != manifest.rows[1].mask
    assert [row.labelled for row in manifest.rows] == [True, False, True, False, False]
    for row in manifest.rows:
        np.testing.assert_array_equal(read_image(manifest.image_path(row)), image)
    np.testing.assert_array_equal(read_mask(manifest.mask_path(manifest.rows[0])), mask)
    assert read_manifest(tmp_path / "data" / "manifest.csv").hash() == manifest.hash()


def test_files_stay_in_their_place_without_a_folder(tmp_path):
    for name in ("images/a.png", "masks/a.png"):
        (tmp_path / name).parent.mkdir()
        Image.fromarray(np.zeros((5, 5), np.uint8)).save(tmp_path / name)
    row = {"image": tmp_path / "images/a.png", "mask": str(tmp_path / "masks/a.png"), "text": "a"}
    manifest = textmask.data.from_rows([row])
    assert (manifest.rows[0].image, manifest.rows[0].mask) == ("images/a.png", "masks/a.png")
    write_manifest(manifest, tmp_path / "manifest.csv")


IMAGE = np.zeros((8, 9), np.uint8)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"text": "a"}, "row 0 needs an image and a text"),
        ({"image": IMAGE}, "row 0 needs an image and a text"),
        ({"image": IMAGE, "text": "a", "maks": 1}, "row 0 has the key 'maks'"),
        ({"image": 3, "text": "a"}, "row 0: image is of type int"),
        ({"image": IMAGE.astype(np.uint16), "text": "a"}, "row 0: .*window="),
        ({"image": IMAGE, "mask": IMAGE + 0.5, "text": "a"}, "row 0: .*threshold"),
        ({"image": IMAGE, "mask": IMAGE.T, "text": "a"}, "row 0: .*expected one size"),
        ({"image": IMAGE, "mask": IMAGE[None], "text": "a"}, "row 0: .*expected H W"),
        ({"image": "gone.png", "text": "a"}, r"row 0: gone\.png: no such file"),
        ("row", "row 0 is a str"),
    ],
)
def test_a_wrong_row_is_named(row, words, tmp_path):
    with pytest.raises(DataError, match=words):
        textmask.data.from_rows([row], tmp_path / "data")
    assert not (tmp_path / "data" / "manifest.csv").exists()


def test_a_mask_that_is_its_own_image_is_refused(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(IMAGE).save(path)
    with pytest.raises(DataError, match="mask"):
        textmask.data.from_rows([{"image": path, "mask": path, "text": "a"}])
    with pytest.raises(DataError, match="no rows"):
        textmask.data.from_rows([])
