"""Data sets of arrays: .npz with imgs and gts, .npy, NIfTI files of one slice."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

from textmask.cli.app import app
from textmask.data.cache import open_split
from textmask.data.checks import check
from textmask.data.manifest import read_manifest
from textmask.errors import ConfigError, DataError, DataWarning
from textmask.io.images import read_image, read_mask_pixels, stored_size
from textmask.io.nifti import read_nifti
from textmask.layouts.read import detect, read_layout
from textmask.layouts.slices import write_slices


def arrays(seed: int, top: int = 1) -> tuple[np.ndarray, np.ndarray]:
    image = np.random.default_rng(seed).integers(0, 255, (20, 14, 3)).astype(np.uint8)
    mask = np.zeros((20, 14), np.uint8)
    mask[4 : 9 + seed, 3:8] = top
    return image, mask


def write(root: Path, keys: tuple[str, str] = ("imgs", "gts"), top: int = 1) -> None:
    (root / "train").mkdir(parents=True)
    for i in range(3):
        np.savez_compressed(root / f"train/{i}.npz", **dict(zip(keys, arrays(i, top), strict=True)))


@pytest.mark.parametrize("keys", [("imgs", "gts"), ("image", "label")])
def test_image_and_mask_in_one_file(tmp_path: Path, keys: tuple[str, str]) -> None:
    write(tmp_path / "d", keys)
    assert detect(tmp_path / "d") == "npz"
    with pytest.warns(DataWarning, match="have no text"):
        manifest = read_layout(tmp_path / "d")
    assert [(row.image, row.mask) for row in manifest.rows] == [
        (f"train/{i}.npz", f"train/{i}.npz") for i in range(3)
    ]
    data = open_split(manifest, "train", (20, 14), tmp_path / "cache")
    for i in range(3):
        image, mask = arrays(i)
        assert np.array_equal(data.images[i], image.transpose(2, 0, 1))
        assert np.array_equal(data.masks[i], mask)
    assert not [finding for finding in check(manifest).findings if finding.severity == "error"]


@pytest.mark.filterwarnings("ignore::textmask.errors.DataWarning")
def test_label_maps_in_npz_become_a_manifest(tmp_path: Path) -> None:
    write(tmp_path, top=2)
    (tmp_path / "classes.csv").write_text("value,name\n1,liver\n2,spleen\n")
    out = tmp_path / "table.csv"
    words = ["data", "convert", str(tmp_path), "--out", str(out)]
    # without the names the values are not guessed
    result = CliRunner().invoke(app, words)
    assert result.exit_code != 0
    assert "--classes" in str(result.exception)
    assert not out.exists()

    result = CliRunner().invoke(app, [*words, "--classes", "classes.csv"])
    assert result.exit_code == 0, result.output
    rows = read_manifest(out).rows
    assert [(row.text, row.label, row.mask) for row in rows] == [
        ("spleen", (2,), f"train/{i}.npz") for i in range(3)
    ]


def test_a_table_of_npz_files(tmp_path: Path) -> None:
    write(tmp_path)
    lines = "".join(f"train/{i}.npz,prompt {i},train\n" for i in range(3))
    (tmp_path / "cases.csv").write_text("file_name,text,split\n" + lines)
    rows = read_layout(tmp_path).rows
    assert [(row.mask, row.text) for row in rows] == [
        (f"train/{i}.npz", f"prompt {i}") for i in range(3)
    ]


def test_the_mask_of_another_npz_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "manifest.csv").write_text(
        "image,mask,text,split\ntrain/0.npz,train/1.npz,a,train\ntrain/1.npz,train/1.npz,a,train\n"
    )
    with pytest.raises(DataError, match="an image of the data set"):
        read_layout(tmp_path)


def test_folders_of_npy(tmp_path: Path) -> None:
    for i in range(3):
        for folder, array in zip(("imgs", "gts"), arrays(i), strict=True):
            (tmp_path / "train" / folder).mkdir(parents=True, exist_ok=True)
            np.save(tmp_path / "train" / folder / f"{i}.npy", array)
    with pytest.warns(DataWarning, match="have no text"):
        manifest = read_layout(tmp_path)
    data = open_split(manifest, "train", (20, 14), tmp_path / "cache")
    assert np.array_equal(data.masks[2], arrays(2)[1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"imgs": np.zeros((5, 20, 14), np.uint8)}, "the shape .5, 20, 14.*slice"),
        ({"imgs": np.array([{"a": 1}], dtype=object)}, "object"),
        ({"features": np.zeros((4, 4))}, "no array imgs.* has features"),
        ({"imgs": np.full((4, 4), np.nan)}, "NaN"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, content: dict, message: str) -> None:
    np.savez(tmp_path / "a.npz", **content)
    with pytest.raises(DataError, match=message):
        read_image(tmp_path / "a.npz")


def test_a_truncated_npz_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", imgs=np.zeros((40, 40), np.uint8))
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"a\.npz: cannot be read"):
        read_image(tmp_path / "a.npz")


def nnunet(root: Path, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    for folder, name in (("imagesTr", "c{}_0000.nii.gz"), ("labelsTr", "c{}.nii.gz")):
        (root / folder).mkdir(parents=True)
        for i in range(2):
            values = rng.integers(0, 1000, shape).astype(np.int16)
            if folder == "labelsTr":
                values = np.zeros(shape, np.uint8)
                values[4:9, 2 : 5 + i] = 1
            nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), root / folder / name.format(i))
    (root / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "liver": 1}}))


@pytest.mark.parametrize("shape", [(20, 14, 1), (20, 14)])
def test_nnunet_slices_in_nifti(tmp_path: Path, shape: tuple[int, ...]) -> None:
    nnunet(tmp_path, shape)
    manifest = read_layout(tmp_path)
    assert [(row.image, row.text, row.label) for row in manifest.rows] == [
        (f"imagesTr/c{i}_0000.nii.gz", "liver", (1,)) for i in range(2)
    ]
    data = open_split(manifest, "train", (14, 20), tmp_path / "cache")
    # the first axis of a volume runs along the columns of the image
    expected = np.zeros((14, 20), np.uint8)
    expected[2:6, 4:9] = 1
    assert np.array_equal(data.masks[1], expected)
    path = tmp_path / "imagesTr/c1_0000.nii.gz"
    assert np.array_equal(data.images[1][0], read_nifti(path)[0].pixels)
    assert stored_size(path) == (14, 20)


def test_nnunet_volumes_are_refused(tmp_path: Path) -> None:
    nnunet(tmp_path, (20, 14, 3))
    with pytest.raises(
        DataError, match=r"volumes \(c0_0000.nii.gz\).*textmask data slices .* --out FOLDER"
    ):
        read_layout(tmp_path)


def test_the_slices_of_volumes_are_written_and_read(tmp_path: Path) -> None:
    root, out = tmp_path / "volumes", tmp_path / "slices"
    nnunet(root, (20, 14, 3))
    result = CliRunner().invoke(app, ["data", "slices", str(root), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "6 images" in result.output
    manifest = read_layout(out)
    assert [(row.image, row.mask, row.text, row.group) for row in manifest.rows] == [
        (f"imagesTr/c{c}_z{z:03d}_0000.png", f"labelsTr/c{c}_z{z:03d}.png", "liver", f"c{c}")
        for c in range(2)
        for z in range(3)
    ]
    pixels = [image.pixels for image in read_nifti(root / "imagesTr/c1_0000.nii.gz")]
    for z in range(3):
        assert np.array_equal(read_image(out / f"imagesTr/c1_z{z:03d}_0000.png"), pixels[z])
    expected = np.zeros((14, 20), np.uint8)
    expected[2:6, 4:9] = 1
    assert np.array_equal(read_mask_pixels(out / "labelsTr/c1_z002.png"), expected)

    # nothing is replaced, and along another axis there are other slices
    with pytest.raises(ConfigError, match="exists and is not replaced"):
        write_slices(root, out)
    assert write_slices(root, tmp_path / "other", axis=0) == 40
    assert read_image(tmp_path / "other/imagesTr/c0_z019_0000.png").shape == (3, 14)


def test_label_maps_that_do_not_fit_leave_nothing(tmp_path: Path) -> None:
    root, out = tmp_path / "volumes", tmp_path / "slices"
    nnunet(root, (20, 14, 3))
    label = root / "labelsTr/c1.nii.gz"
    for values, message in (
        (np.zeros((20, 14, 2), np.uint8), r"c1.nii.gz: has the slices.*\(3, 14, 20\)"),
        (np.full((20, 14, 3), 0.5, np.float32), "not whole numbers"),
    ):
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), label)
        with pytest.raises(DataError, match=message):
            write_slices(root, out)
        assert not out.exists()
    label.unlink()
    with pytest.raises(DataError, match="has no label map c1 in labelsTr"):
        write_slices(root, out)


def test_a_label_map_with_other_axes_than_its_image_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "volumes"
    nnunet(root, (20, 14, 3))
    label = root / "labelsTr/c1.nii.gz"
    values = np.asarray(nibabel.load(label).dataobj)
    mirrored = np.diag([-1.0, 1.0, 1.0, 1.0])
    mirrored[0, 3] = 19

    # the same voxels in the patient, stored from the other side: a mask in the wrong half of every slice
    nibabel.save(nibabel.Nifti1Image(values[::-1], mirrored), label)
    with pytest.raises(DataError, match=r"c1\.nii\.gz: its affine gives its axes other"):
        write_slices(root, tmp_path / "out")
    assert not (tmp_path / "out").exists()

    # an affine without a meaning, or one with rounding, says nothing against the pair
    nameless = nibabel.Nifti1Image(values, mirrored)
    nameless.set_qform(None, 0)
    nameless.set_sform(None, 0)
    nibabel.save(nameless, label)
    assert write_slices(root, tmp_path / "nameless") == 6
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4) + 0.01), label)
    assert write_slices(root, tmp_path / "rounded") == 6


def test_a_slice_with_a_mirrored_mask_is_refused_and_inspected(tmp_path: Path) -> None:
    nnunet(tmp_path, (20, 14, 1))
    label = tmp_path / "labelsTr/c1.nii.gz"
    values = np.asarray(nibabel.load(label).dataobj)
    nibabel.save(nibabel.Nifti1Image(values[:, ::-1], np.diag([1.0, -1.0, 1.0, 1.0])), label)
    manifest = read_layout(tmp_path)
    with pytest.raises(DataError, match="other directions"):
        open_split(manifest, "train", (14, 20), tmp_path / "cache")
    unreadable = next(f for f in check(manifest).findings if f.code == "unreadable")
    assert unreadable.keys == ("imagesTr/c1_0000.nii.gz",)
    assert "other directions" in unreadable.message
