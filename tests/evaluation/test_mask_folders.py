"""Masks that another tool made, scored in the same table as a run, with the same paired statistics."""

import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from textmask.data.manifest import Manifest, Row
from textmask.data.mask_scan import decide_rule
from textmask.errors import ConfigError, DataError
from textmask.evaluation.evaluate import EvaluationOptions, evaluate
from textmask.evaluation.mask_folders import read_folder
from textmask.io.images import read_mask_pixels, write_png
from textmask.methods.registry import get_method
from textmask.training.loop import train


@pytest.fixture(scope="module")
def prior(phantom_manifest, tmp_path_factory):
    """A text prior that was trained for a moment, and the decoded cache."""
    root = tmp_path_factory.mktemp("prior")
    recipe = get_method("text_prior").recipe().smoke()
    train(recipe, phantom_manifest, root / "run", cache_dir=root / "cache", progress=False)
    return root


@pytest.fixture
def score(prior, phantom_manifest, tmp_path):
    """`evaluate` of the text prior next to folders of masks."""

    def go(masks, **options):
        given = EvaluationOptions(
            masks=masks,
            out=tmp_path / "out",
            n_bootstrap=50,
            cache_dir=prior / "cache",
            **options,
        )
        return evaluate(prior / "run", phantom_manifest, "test", given)

    go.out = tmp_path / "out"
    return go


def copy_truth(manifest, folder, change=None):
    """The true masks of the test split under the stems of the images, as another tool would write them."""
    folder.mkdir()
    for row in manifest.rows_of("test"):
        mask = read_mask_pixels(manifest.mask_path(row))
        name = f"{row.image.rpartition('/')[2].rpartition('.')[0]}.png"
        write_png(folder / name, mask if change is None else change(mask))
    return folder


@pytest.mark.parametrize("native", [False, True])
def test_the_true_masks_score_one_and_are_compared_in_pairs(
    score, phantom_manifest, tmp_path, native
):
    folder = copy_truth(phantom_manifest, tmp_path / "nnunet")
    (folder / "dataset.json").write_text("{}")  # what a tool writes next to its masks
    summary = score({"nnU-Net": folder}, native=native)

    row = summary.rows["nnU-Net"]
    assert (row.dice_per_image.estimate, row.iou_pooled.estimate) == (1.0, 1.0)
    assert row.hd95_pooled_px.estimate == 0.0
    assert (row.run, row.sentences, row.threshold, row.seed) == ("nnunet", "masks", None, None)
    assert len(row.weights_sha256) == 64

    found = next(one for one in summary.differences if one.minus == "nnU-Net")
    own = summary.rows["text_prior"].dice_per_image.estimate
    assert found.dice_per_image.estimate == pytest.approx(own - 1)
    assert 0 < found.dice_per_image_p <= 1
    text = (score.out / "table.md").read_text()
    assert "nnU-Net: masks of the folder nnunet, sha256" in text


def test_a_prediction_scores_what_it_overlaps(score, phantom_manifest, tmp_path):
    empty = copy_truth(phantom_manifest, tmp_path / "empty", np.zeros_like)
    whole = copy_truth(phantom_manifest, tmp_path / "full", lambda mask: np.full_like(mask, 255))
    summary = score({"none": empty, "all": whole}, native=True)

    truth = [
        read_mask_pixels(phantom_manifest.mask_path(row)) > 0
        for row in phantom_manifest.rows_of("test")
    ]
    shares = np.array([mask.mean() for mask in truth])
    full = np.mean(2 * shares / (1 + shares))
    assert summary.rows["all"].dice_per_image.estimate == pytest.approx(full)
    assert summary.rows["none"].dice_per_image.estimate == pytest.approx((shares == 0).mean())
    assert summary.rows["none"].prediction_empty == len(truth)


def test_masks_of_the_scored_size_are_taken_as_they_are(phantom_manifest, tmp_path):
    folder = copy_truth(
        phantom_manifest, tmp_path / "small", lambda mask: np.ascontiguousarray(mask[::2, ::2])
    )
    rows = phantom_manifest.rows_of("test")
    found = read_folder("LViT", folder, phantom_manifest, rows, (32, 32))
    assert all(mask.shape == (32, 32) for mask in found.masks)
    with pytest.raises(DataError, match=r"32 x 32.*64 x 64"):
        read_folder("LViT", folder, phantom_manifest, rows, None)


def faulty(kind, manifest, folder):
    """A folder of masks with one fault, and what the message must say."""
    copy_truth(manifest, folder)
    files = sorted(folder.iterdir())
    if kind == "missing":
        files[0].unlink()
        return f"1 of 8 images of the split have no mask.*{files[0].stem}"
    if kind == "extra":
        shutil.copy(files[0], folder / "other.png")
        return "1 file matches no image of the split.*other.png"
    if kind == "twice":
        shutil.copy(files[0], files[0].with_suffix(".bmp"))
        return "two files have the same name"
    if kind == "size":
        write_png(files[0], np.zeros((10, 12), np.uint8))
        return r"10 x 12.*64 x 64"
    if kind == "values":
        write_png(files[0], np.full((64, 64), 2, np.uint8))
        return r"not binary.*0, 2, 255"
    if kind == "damaged":
        files[0].write_bytes(b"no image")
        return files[0].name
    shutil.rmtree(folder)
    if kind == "empty":
        folder.mkdir()
        (folder / "case.nii.gz").write_bytes(b"")
        return r"contains no mask.*\.gz"
    return "is not a directory"


@pytest.mark.parametrize(
    "kind", ["missing", "extra", "twice", "size", "values", "damaged", "empty", "absent"]
)
def test_a_folder_that_does_not_fit_is_refused_and_nothing_is_written(
    score, phantom_manifest, tmp_path, kind
):
    message = faulty(kind, phantom_manifest, tmp_path / "masks")
    with pytest.raises(DataError, match=message):
        score({"tool": tmp_path / "masks"})
    assert not score.out.exists()


def test_a_name_that_is_taken_is_refused(score, phantom_manifest, tmp_path):
    folder = copy_truth(phantom_manifest, tmp_path / "masks")
    with pytest.raises(ConfigError, match=r"text_prior.*already"):
        score({"text_prior": folder})


def labelled(root, rule=None):
    """Two structures in one label map, and a manifest of both."""
    stored = np.zeros((8, 8), np.uint8)
    stored[:2], stored[6:] = 1, 2
    write_png(root / "case_0000.png", np.full((8, 8), 90, np.uint8))
    write_png(root / "case.png", stored)
    rows = tuple(
        Row("case_0000.png", "case.png", name, "test", label=(value,))
        for value, name in ((1, "liver"), (2, "spleen"))
    )
    return Manifest(root, rows, "two", rule), stored


def test_a_label_map_is_scored_structure_by_structure_under_the_name_of_its_mask(tmp_path):
    manifest, stored = labelled(tmp_path)
    folder = tmp_path / "predicted"
    folder.mkdir()
    write_png(folder / "case.png", stored)
    liver, spleen = read_folder("nnU-Net", folder, manifest, manifest.rows, None).masks
    assert liver.sum() == spleen.sum() == 16
    assert liver[0, 0]
    assert spleen[7, 7]

    # binary masks do not say which structure they show
    write_png(folder / "case.png", np.uint8(stored > 0) * 255)
    with pytest.raises(DataError, match=r"255.*label map.*1, 2"):
        read_folder("nnU-Net", folder, manifest, manifest.rows, None)


def test_the_rule_of_the_data_set_also_reads_the_masks_of_a_tool(tmp_path):
    from textmask.io.mask_rule import MaskRule

    manifest, stored = labelled(tmp_path)
    rows = (replace(manifest.rows[0], label=()),)
    manifest = decide_rule(replace(manifest, rows=rows, mask_rule=MaskRule("values", values=(2,))))
    folder = tmp_path / "predicted"
    folder.mkdir()
    write_png(folder / "case.png", stored)
    (mask,) = read_folder("tool", folder, manifest, rows, None).masks
    assert mask.sum() == 16
    assert mask[7, 7]

    # 0 and 255 is a mask, whatever the rule; 0 and 1 could be structure 1, or the mask
    write_png(folder / "case.png", np.uint8(stored == 2) * 255)
    (mask,) = read_folder("tool", folder, manifest, rows, None).masks
    assert mask.sum() == 16
    assert mask[7, 7]
    write_png(folder / "case.png", np.uint8(stored == 1))
    with pytest.raises(DataError, match=r"0, 1.*0 and 255"):
        read_folder("tool", folder, manifest, rows, None)


def test_rows_of_one_image_with_masks_of_their_own_are_matched_by_the_names_of_the_masks(tmp_path):
    write_png(tmp_path / "a.png", np.full((4, 4), 90, np.uint8))
    rows = []
    for number in (1, 2):
        mask = np.zeros((4, 4), np.uint8)
        mask[number] = 255
        write_png(tmp_path / f"a_{number}.png", mask)
        rows.append(Row("a.png", f"a_{number}.png", f"lesion {number}", "test"))
    manifest = decide_rule(Manifest(tmp_path, tuple(rows), "two"))

    folder = tmp_path / "predicted"
    folder.mkdir()
    write_png(folder / "a.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match="a_1"):
        read_folder("tool", folder, manifest, rows, None)
    (folder / "a.png").unlink()
    for number in (1, 2):
        shutil.copy(tmp_path / f"a_{number}.png", folder)
    first, second = read_folder("tool", folder, manifest, rows, None).masks
    assert first[1].all()
    assert second[2].all()


def run_command(*arguments):
    command = [sys.executable, "-m", "textmask", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_the_command_line_scores_folders_of_masks(prior, phantom_manifest, tmp_path):
    folder = copy_truth(phantom_manifest, tmp_path / "masks")
    data = phantom_manifest.root / "manifest.csv"
    start = (
        "evaluate",
        prior / "run",
        data,
        "--cache-dir",
        prior / "cache",
        "--out",
        tmp_path / "out",
    )
    found = run_command(*start, "--masks", f"nnU-Net={folder}", "--no-surface")
    assert found.returncode == 0, found.stderr
    assert "minus nnU-Net" in found.stdout

    for wrong in (folder, f"={folder}", "nnU-Net="):
        found = run_command(*start, "--masks", wrong)
        assert found.returncode == 2
        assert "expected NAME=FOLDER" in " ".join(found.stderr.split())
