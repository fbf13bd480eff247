import json
import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from textmask.data import checks
from textmask.data.check_report import CheckReport, summary_rows
from textmask.data.checks import check
from textmask.data.facts import left_share, measure
from textmask.data.manifest import Manifest, Row, read_manifest
from textmask.data.near_identical import near_identical
from textmask.data.phantom import PhantomConfig, write_phantoms
from textmask.errors import PromptWarning
from textmask.layouts.read import read_layout
from textmask.statement import Laterality, Level, Side, Statement

TEXT = {
    "left": "unilateral pulmonary infection, one infected area, lower left lung.",
    "right": "unilateral pulmonary infection, one infected area, lower right lung.",
}


def texture(seed: int, shape: tuple[int, int] = (64, 64)) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 4), None, 0, 255, cv2.NORM_MINMAX)


def mask_on(side: str, shape: tuple[int, int] = (64, 64)) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    if side in ("left", "both"):
        mask[30:50, 8:24] = 255
    if side in ("right", "both"):
        mask[30:50, 40:56] = 255
    return mask


def data_set(root: Path, n: int = 24, laterality: Laterality = Laterality.IMAGE) -> Manifest:
    """n clean rows: two splits, own groups, every prompt true."""
    rows = []
    for i in range(n):
        side = "left" if i % 2 else "right"
        cv2.imwrite(str(root / f"i{i}.png"), texture(i))
        cv2.imwrite(str(root / f"m{i}.png"), mask_on(side))
        split = "test" if i >= 3 * n // 4 else "train"
        rows.append(Row(f"i{i}.png", f"m{i}.png", TEXT[side], split, f"p{i}", laterality))
    return Manifest(root, tuple(rows), "own")


def changed(manifest: Manifest, index: int, **fields: object) -> Manifest:
    rows = list(manifest.rows)
    rows[index] = replace(rows[index], **fields)
    return replace(manifest, rows=tuple(rows))


def codes(report: CheckReport) -> dict[str, str]:
    return {finding.code: finding.severity for finding in report.findings}


def keys(report: CheckReport, code: str) -> set[str]:
    return set(next(finding.keys for finding in report.findings if finding.code == code))


def test_clean_data_has_no_errors_and_no_warnings(tmp_path: Path) -> None:
    report = check(data_set(tmp_path))
    assert codes(report) == {"laterality": "note"}
    assert not report.has_errors
    assert report.measured["laterality"] == {
        "one_sided": 24,
        "on_image_side": 1.0,
        "verdict": "image",
    }
    assert report.measured["side_contradictions"] == {"n": 0, "of": 24}
    assert report.measured["splits"] == {"train": 18, "test": 6}


def test_splits_that_nothing_reads_are_named(tmp_path: Path) -> None:
    manifest = data_set(tmp_path)
    for index, split in enumerate(["tr", "tr", "holdout"]):
        manifest = changed(manifest, index, split=split)
    report = check(manifest, pixels=False)
    assert codes(report)["unread-split"] == "warning"
    assert keys(report, "unread-split") == {"i0.png", "i1.png", "i2.png"}
    message = next(f.message for f in report.findings if f.code == "unread-split")
    for part in ("'holdout' (1 row)", "'tr' (2 rows)", "train, valid and test"):
        assert part in message

    # further test splits are there to be asked for
    tested = changed(changed(data_set(tmp_path), 0, split="testA"), 1, split="test-site2")
    assert "unread-split" not in codes(check(tested, pixels=False))


def test_report_as_json_and_as_table(tmp_path: Path) -> None:
    report = check(changed(data_set(tmp_path), 0, group="p20"))
    content = json.loads(report.to_json())
    assert content["name"] == "own"
    assert content["measured"]["laterality"]["verdict"] == "image"
    assert content["findings"][0]["code"] == "shared-group"
    assert content["findings"][0]["keys"] == ["i0.png", "i20.png"]
    first = summary_rows(report, keys=1)[0]
    assert first[:2] == ("error", "shared-group")
    assert first[3] == "i0.png and 1 more"


def test_progress_counts_rows(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    check(data_set(tmp_path, 5), progress=lambda *step: seen.append(step))
    assert [step for step in seen if step[0] == "images"] == [("images", i, 5) for i in range(6)]


def test_without_pixels_nothing_is_read(tmp_path: Path) -> None:
    rows = (
        Row("gone1.png", "gone.png", TEXT["left"], "train", "p"),
        Row("gone2.png", None, "", "test", "p"),
    )
    report = check(Manifest(tmp_path, rows), pixels=False)
    assert codes(report) == {"shared-group": "error", "no-text": "warning"}


def test_shared_groups(tmp_path: Path) -> None:
    manifest = changed(changed(data_set(tmp_path), 0, group="p20"), 1, group="")
    report = check(manifest, pixels=False)
    assert keys(report, "shared-group") == {"i0.png", "i20.png"}
    assert "1 of 24 (4.2 %) rows have no group" in next(
        f.message for f in report.findings if f.code == "no-group"
    )


def test_identical_files_across_and_within_splits(tmp_path: Path) -> None:
    manifest = data_set(tmp_path)
    (tmp_path / "i23.png").write_bytes((tmp_path / "i0.png").read_bytes())
    (tmp_path / "i2.png").write_bytes((tmp_path / "i1.png").read_bytes())
    report = check(manifest)
    assert codes(report) == {
        "identical-image": "error",
        "repeated-image": "warning",
        "laterality": "note",
    }
    assert keys(report, "identical-image") == {"i0.png", "i23.png"}
    assert keys(report, "repeated-image") == {"i1.png", "i2.png"}


def test_near_identical_survives_processing(tmp_path: Path) -> None:
    """The same film at another size, contrast, brightness and compression; a shifted one of another patient is not."""
    manifest = data_set(tmp_path)
    film = cv2.imread(str(tmp_path / "i0.png"), cv2.IMREAD_GRAYSCALE)
    other = cv2.resize((0.6 * film + 60).astype(np.uint8), (90, 90))
    cv2.imwrite(str(tmp_path / "i23.jpg"), other, [cv2.IMWRITE_JPEG_QUALITY, 50])
    manifest = changed(
        changed(manifest, 23, image="i23.jpg", mask=None, labelled=False), 1, text=TEXT["left"]
    )
    report = check(manifest)
    assert codes(report) == {"near-identical-image": "warning", "laterality": "note"}
    assert keys(report, "near-identical-image") == {"i0.png", "i23.jpg"}
    assert report.measured["near_identical_pairs"] == 1


def test_near_identical_by_brute_force(tmp_path: Path) -> None:
    """Against a literal loop of `np.corrcoef`, with blocks smaller than the data."""
    manifest = data_set(tmp_path, 12)
    base = texture(99).astype(float)
    for i in range(12):  # mixtures: correlations from clearly below to clearly above the threshold
        weight = 0.01 + 0.02 * (i * 5 % 12)
        cv2.imwrite(
            str(tmp_path / f"i{i}.png"),
            ((1 - weight) * base + weight * texture(i)).astype(np.uint8),
        )
    facts = measure(manifest)
    want = {
        (a.row.image, b.row.image)
        for a in facts
        for b in facts
        if (a.row.split, b.row.split) == ("train", "test")
        and np.corrcoef(a.thumbnail.ravel(), b.thumbnail.ravel())[0, 1] >= 0.985
    }
    assert 0 < len(want) < 27
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("textmask.data.near_identical.BLOCK", 4)
        assert {(a.image, b.image) for a, b in near_identical(facts)} == want


def test_flat_images_are_not_near_identical(tmp_path: Path) -> None:
    manifest = data_set(tmp_path)
    for i in (0, 23):
        cv2.imwrite(str(tmp_path / f"i{i}.png"), np.full((64, 64), 3 + i, np.uint8))
    assert "near-identical-image" not in codes(check(manifest))


def test_text_on_the_wrong_side(tmp_path: Path) -> None:
    manifest = changed(data_set(tmp_path), 4, text=TEXT["left"])
    report = check(manifest)
    assert codes(report) == {"side-contradiction": "warning", "laterality": "note"}
    assert keys(report, "side-contradiction") == {"i4.png"}
    assert report.measured["side_contradictions"] == {"n": 1, "of": 24}


def swapped(manifest: Manifest) -> Manifest:
    other = {TEXT["left"]: TEXT["right"], TEXT["right"]: TEXT["left"]}
    return replace(
        manifest, rows=tuple(replace(row, text=other[row.text]) for row in manifest.rows)
    )


def test_laterality_is_measured_and_compared(tmp_path: Path) -> None:
    image, patient, unknown = Laterality.IMAGE, Laterality.PATIENT, Laterality.UNKNOWN
    for declared, flip, code, severity in (
        (patient, True, "laterality", "note"),
        (patient, False, "laterality-contradicted", "error"),
        (image, True, "laterality-contradicted", "error"),
        (unknown, False, "laterality-undeclared", "warning"),
        (unknown, True, "laterality-undeclared", "warning"),
    ):
        manifest = data_set(tmp_path, laterality=declared)
        report = check(swapped(manifest) if flip else manifest)
        assert codes(report) == {
            code: severity
        }  # and no prompt contradicts its mask under the measured reading
        assert report.measured["laterality"]["verdict"] == ("patient" if flip else "image")
        assert (
            f"left means the {'patient' if flip else 'image'}'s left" in report.findings[0].message
        )


def test_patient_sided_text_on_the_wrong_side(tmp_path: Path) -> None:
    manifest = swapped(data_set(tmp_path, laterality=Laterality.PATIENT))
    report = check(changed(manifest, 4, text=TEXT["right"]))
    assert keys(report, "side-contradiction") == {"i4.png"}


def test_too_few_or_undecided_prompts_give_no_verdict(tmp_path: Path) -> None:
    few = check(data_set(tmp_path, 8, Laterality.UNKNOWN))
    assert few.measured["laterality"] == {
        "one_sided": 8,
        "on_image_side": 1.0,
        "verdict": "unknown",
    }
    assert "side_contradictions" not in few.measured  # nobody knows how to read "left"
    manifest = data_set(tmp_path, 24, Laterality.UNKNOWN)
    half = replace(manifest, rows=tuple(replace(row, text=TEXT["left"]) for row in manifest.rows))
    assert check(half).measured["laterality"]["verdict"] == "unknown"


def test_mixed_laterality_is_an_error(tmp_path: Path) -> None:
    report = check(changed(data_set(tmp_path), 0, laterality=Laterality.PATIENT))
    assert codes(report)["laterality-mixed"] == "error"


def test_unilateral_and_bilateral_against_the_mask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements = {
        "uni": Statement(lateral="unilateral", grammar="x"),
        "bi": Statement(lateral="bilateral", grammar="x"),
        "none": Statement(absent=True, grammar="x"),
        "place": Statement(frozenset({(Side.LEFT, Level.UPPER)}), grammar="x"),
        "odd": Statement(grammar="x", warnings=("count-mismatch",)),
    }
    monkeypatch.setattr(checks, "parse", lambda text, grammar: statements[text])
    manifest = data_set(tmp_path, 12)
    for i, (text, side) in enumerate(
        [
            ("uni", "left"),
            ("uni", "both"),
            ("bi", "both"),
            ("bi", "right"),
            ("none", "left"),
            ("none", "no"),
            ("place", "no"),
        ]
    ):
        cv2.imwrite(str(tmp_path / f"m{i}.png"), mask_on(side))
        manifest = changed(manifest, i, text=text)
    for i in range(7, 12):
        manifest = changed(manifest, i, text="odd")
    report = check(manifest)
    assert keys(report, "lateral-contradiction") == {"i1.png", "i3.png"}
    assert report.measured["lateral_contradictions"] == {"n": 2, "of": 4}
    assert keys(report, "absence-contradiction") == {"i4.png", "i6.png"}
    assert keys(report, "empty-mask") == {"i5.png", "i6.png"}
    assert keys(report, "text-count-mismatch") == {f"i{i}.png" for i in range(7, 12)}


def test_prompt_warnings_of_the_parser_are_counted_not_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def warn(text: str, grammar: str) -> Statement:
        import warnings

        warnings.warn("odd sentence", PromptWarning, stacklevel=2)
        return Statement(grammar="x", warnings=("odd",))

    monkeypatch.setattr(checks, "parse", warn)
    assert codes(check(data_set(tmp_path, 4), pixels=False)) == {"text-odd": "note"}


def test_prompts_no_grammar_understands(tmp_path: Path) -> None:
    report = check(
        changed(data_set(tmp_path), 2, text="zwölf Boxkämpfer jagen Viktor"), pixels=False
    )
    assert keys(report, "not-understood") == {"i2.png"}


def test_empty_masks_and_empty_splits(tmp_path: Path) -> None:
    manifest = data_set(tmp_path)
    cv2.imwrite(str(tmp_path / "m0.png"), np.zeros((64, 64), np.uint8))
    for i in range(18, 24):
        cv2.imwrite(str(tmp_path / f"m{i}.png"), np.zeros((64, 64), np.uint8))
    report = check(manifest)
    assert codes(report)["empty-split"] == "error"
    assert keys(report, "empty-split") == {f"i{i}.png" for i in range(18, 24)}
    assert keys(report, "empty-mask") == {"i0.png"}
    assert report.measured["empty_masks"] == 7


def test_unreadable_and_unequal_files(tmp_path: Path) -> None:
    manifest = data_set(tmp_path)
    (tmp_path / "i0.png").write_bytes((tmp_path / "i0.png").read_bytes()[:200])
    (tmp_path / "m1.png").unlink()
    (tmp_path / "i2.png").write_bytes(b"")
    cv2.imwrite(str(tmp_path / "m3.png"), mask_on("left", (64, 80)))
    cv2.imwrite(str(tmp_path / "i4.png"), np.dstack([texture(4), texture(5), texture(6)]))
    report = check(manifest)
    assert keys(report, "unreadable") == {"i0.png", "i1.png", "i2.png"}
    assert keys(report, "size-mismatch") == {"i3.png"}
    assert "image (64, 64), mask (64, 80)" in next(
        f.message for f in report.findings if f.code == "size-mismatch"
    )
    assert keys(report, "mixed-colour") == {"i4.png"}
    assert (report.measured["grey"], report.measured["colour"]) == (21, 1)
    assert report.has_errors


def test_left_share() -> None:
    mask = np.zeros((3, 5), np.uint8)
    assert left_share(mask) is None
    mask[0, 0] = 1
    assert left_share(mask) == 1.0
    mask[0, 2] = 1  # the middle column counts half
    assert left_share(mask) == 0.75
    mask[:, 3:] = 1
    assert left_share(mask) == 1.5 / 8
    assert left_share(np.eye(6, dtype=np.uint8)) == 0.5


# --- real data --------------------------------------------------------------------------------------------------------


def real_set(name: str) -> Manifest:
    root = os.environ.get("TEXTMASK_DATA")
    if not root or not (Path(root) / name).is_dir():
        pytest.skip(f"TEXTMASK_DATA does not name a folder with {name}")
    return read_layout(Path(root) / name)


@pytest.mark.data
def test_real_qata_sample() -> None:
    """Every one-sided caption of valid and test: 3-4 % contradict their mask, left is the image's left."""
    manifest = real_set("qata-cov19-v2")
    rows = tuple(
        row for row in manifest.rows if row.split != "train" and row.text.startswith("unilateral")
    )
    report = check(replace(manifest, rows=rows))
    assert report.measured["laterality"]["verdict"] == "image"
    wrong = report.measured["side_contradictions"]
    assert wrong["of"] > 400  # so the share has a standard error below one point
    assert 0.01 <= wrong["n"] / wrong["of"] <= 0.06
    assert "identical-image" not in codes(report)
    assert "shared-group" not in codes(report)


@pytest.mark.data
@pytest.mark.slow
def test_real_qata_whole() -> None:
    """All 8217 rows: 55 of 1710 one-sided captions are wrong, and three films of train lie in valid too."""
    report = check(real_set("qata-cov19-v2"))
    wrong = report.measured["side_contradictions"]
    assert 0.03 <= wrong["n"] / wrong["of"] <= 0.04
    assert report.measured["identical_across_splits"] == 0
    assert report.measured["near_identical_pairs"] == 3
    assert {
        "images/train/covid_2077.jpg",
        "images/train/covid_3495.jpg",
        "images/train/covid_967.jpg",
    } <= keys(report, "near-identical-image")
    assert report.measured["empty_masks"] == 0


@pytest.mark.data
def test_real_cvc_leaks_its_videos() -> None:
    report = check(real_set("cvc-clinicdb"))
    assert report.measured["shared_groups"] == 21
    assert report.measured["near_identical_pairs"] > 0
    assert report.has_errors


def test_black_and_tiny_images_are_named(tmp_path):
    counts = {"train": 4, "valid": 0, "test": 0}
    table = write_phantoms(tmp_path, counts, PhantomConfig(size=(32, 32)))
    manifest = read_manifest(table)
    first, second = manifest.rows[0], manifest.rows[1]
    cv2.imwrite(str(manifest.image_path(first)), np.zeros((32, 32), np.uint8))
    cv2.imwrite(str(manifest.image_path(second)), np.full((1, 1), 9, np.uint8))
    found = {finding.code: finding for finding in check(manifest).findings}
    assert f"{first.image}, which is all black" in found["flat-image"].message
    assert f"{second.image} (1 x 1)" in found["tiny-image"].message


def test_a_mask_that_several_images_name_is_found(tmp_path):
    """A table whose mask cell was filled downwards."""
    rng = np.random.default_rng(0)
    mask = np.zeros((32, 32), np.uint8)
    mask[8:20, 8:20] = 255
    for name in ("m.png", "own.png"):
        cv2.imwrite(str(tmp_path / name), mask)
    rows = []
    for i, name in enumerate(("m.png", "m.png", "own.png")):
        cv2.imwrite(str(tmp_path / f"{i}.png"), rng.integers(0, 255, (32, 32), dtype=np.uint8))
        rows.append(Row(f"{i}.png", name, "opacity", "train"))
    found = [f for f in check(Manifest(tmp_path, tuple(rows))).findings if f.code == "shared-mask"]
    assert [f.severity for f in found] == ["warning"]
    assert "m.png for 2 images" in found[0].message
    assert len(found[0].keys) == 2
