"""Sentences made from masks: true of their own mask by the metric that judges masks, and said to leak."""

import warnings

import numpy as np
import pytest
from typer.testing import CliRunner

from textmask.cli.app import app
from textmask.data.describe import describe_mask, describe_masks
from textmask.data.manifest import Manifest, Row, read_manifest
from textmask.data.phantom import PhantomConfig, make_phantom
from textmask.errors import ConfigError, DataError
from textmask.io.images import write_png
from textmask.layouts.read import read_layout
from textmask.metrics.agreement import agreement, shown
from textmask.statement import Laterality, Level, Side
from textmask.text.grammar import parse
from textmask.text.mask_captions import CAPTION_STYLES, caption, mask_statement, style_map

IMAGE, PATIENT = Laterality.IMAGE, Laterality.PATIENT
LOWER_LEFT = (Side.LEFT, Level.LOWER)


def blobs(n=60, size=(48, 64), seed=0):
    """Masks of nought to many rectangles and specks anywhere."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((n, *size), np.uint8)
    for mask in masks:
        for _ in range(rng.integers(0, 7)):
            y, x, h, w = (int(v) for v in (*rng.integers(0, size), *rng.integers(1, 20, 2)))
            mask[y : y + h, x : x + w] = 1
        if rng.random() < 0.2:
            mask |= (rng.random(size) < 0.03).astype(np.uint8)
    return masks


def scores(mask, sentence, laterality, table):
    """Aspect -> (agreed, shown, claimed)."""
    statement = parse(sentence, laterality=laterality)
    counts = agreement(shown(mask[None], [statement], table), [statement])
    return {
        name: (int(c.intersection[0]), int(c.predicted[0]), int(c.true[0]))
        for name, c in counts.items()
    }


@pytest.mark.parametrize("laterality", [IMAGE, PATIENT])
@pytest.mark.parametrize("style", CAPTION_STYLES)
def test_a_prompt_is_true_of_its_own_mask_in_every_aspect(style, laterality):
    said = dict.fromkeys(("side", "level", "zone", "lateral", "count", "absence"), 0)
    for mask in blobs():
        sentence = describe_mask(mask, style, laterality)
        for name, (agreed, seen, claimed) in scores(mask, sentence, laterality, None).items():
            assert agreed == seen == claimed, (sentence, name)
            said[name] += claimed
        statement = parse(sentence)
        assert statement.warnings == ()  # nor does it contradict itself
        assert statement.absent is (not mask.any())
        assert bool(statement.zones) is bool(mask.any())
    silent = {"report": {"count"}}.get(style, set())
    assert {
        name for name, claimed in said.items() if not claimed
    } == silent  # the test looked at something


def test_a_phantoms_own_claims_are_found_again():
    for seed in range(20):
        film = make_phantom(PhantomConfig(p_absent=0.2, laterality=PATIENT), seed=seed)
        again = parse(describe_mask(film.mask, "qata", PATIENT, "phantom"), laterality=PATIENT)
        claims = (
            film.statement.zones,
            film.statement.count,
            film.statement.absent,
            film.statement.lateral,
        )
        assert (again.zones, again.count, again.absent, again.lateral) == claims


def test_the_words():
    mask = np.zeros((30, 30), np.uint8)
    assert describe_mask(mask) == "no lesion in the image."
    mask[24:28, 2:6] = mask[12:16, 12:16] = 255
    assert describe_mask(mask) == "two lesions, located in center and bottom left of the image."
    assert describe_mask(mask > 0, laterality=PATIENT).startswith(
        "two lesions, located in center and bottom right"
    )
    mask[12:16, 12:16] = 0
    assert describe_mask(mask, "qata_original") == (
        "Unilateral pulmonary infection, one infected area, lower left lung."
    )
    assert describe_mask(mask, "report", PATIENT) == "Patchy opacity in the lower right lung."
    wide = np.zeros((30, 30), np.uint8)
    wide[24:28] = 1  # one piece over both sides: no number that would contradict "bilateral"
    assert (
        describe_mask(wide, "qata")
        == "bilateral pulmonary infection, lower left lung and lower right lung."
    )


@pytest.mark.parametrize("style", CAPTION_STYLES)
def test_nothing_but_specks_is_a_finding_without_place_and_number(style):
    mask = np.zeros((90, 90), np.uint8)
    mask[::9, ::9] = 1  # 100 pieces of 1 %
    sentence = describe_mask(mask, style, zones="thirds")
    statement = parse(sentence)
    assert (statement.zones, statement.count, statement.absent, statement.warnings) == (
        frozenset(),
        None,
        False,
        (),
    )
    assert all(
        agreed == seen == claimed
        for agreed, seen, claimed in scores(mask, sentence, IMAGE, "thirds").values()
    )
    assert (
        parse(describe_mask(mask, "qata")).count is None
    )  # by area there are places, and still nothing to count


def test_what_cannot_be_said_is_refused():
    for style in ("mosmed", "nuclei", "lesions"):
        with pytest.raises(ConfigError, match="unknown style of prompts made from masks"):
            style_map(style)
    with pytest.raises(ConfigError, match="laterality image, or patient"):
        mask_statement([LOWER_LEFT], 1, False, Laterality.UNKNOWN)
    with pytest.raises(ConfigError, match="has no words for the centre"):
        caption(mask_statement([(Side.CENTER, Level.MIDDLE)], 1, False, IMAGE), "qata")
    with pytest.raises(DataError, match="threshold them"):
        describe_mask(np.full((4, 4), 0.7))


@pytest.fixture
def table(tmp_path):
    """Three images: a mask, an empty mask, none."""
    (tmp_path / "masks").mkdir()
    mask = np.zeros((30, 30), np.uint8)
    mask[24:28, 2:6] = 255
    write_png(tmp_path / "masks/a.png", mask)
    write_png(tmp_path / "masks/b.png", mask * 0)
    rows = [Row(f"{name}.png", f"masks/{name}.png", "", "train") for name in "ab"]
    return Manifest(
        tmp_path,
        (*rows, Row("c.png", None, "left lower lobe", "train", "", PATIENT, labelled=False)),
        "mine",
    )


def test_a_table_gets_its_prompts_and_a_note_that_they_leak(table):
    out = table.root / "table.csv"
    made = describe_masks(table, out)
    assert (made.described, made.unmasked, made.absent, made.placeless, made.agreeing) == (
        2,
        1,
        1,
        0,
        2,
    )
    rows = {row.image: (row.text, row.laterality) for row in made.manifest.rows}
    assert rows == {
        "a.png": ("one lesion, located in bottom left of the image.", IMAGE),
        "b.png": ("no lesion in the image.", IMAGE),
        "c.png": ("left lower lobe", PATIENT),  # no mask, so it stays
    }
    assert read_manifest(out).rows == made.manifest.rows
    note = (table.root / "table.README.md").read_text()
    assert "These prompts leak position" in note
    assert f"| hash of the original manifest | {table.hash()} |" in note
    assert "| laterality convention | image |" in note
    assert "in every aspect | 2 of 2 |" in note


@pytest.mark.parametrize("name", ["table.csv", "table.README.md"])
def test_what_exists_is_not_replaced(table, name):
    (table.root / name).write_text("mine")
    with pytest.raises(ConfigError, match=f"{name} exists and is not replaced"):
        describe_masks(table, table.root / "table.csv")
    assert (table.root / name).read_text() == "mine"
    assert len(list(table.root.glob("table.*"))) == 1


def test_a_table_without_masks_is_refused(table):
    bare = Manifest(table.root, (Row("c.png", None, "", "train", labelled=False),))
    with pytest.raises(DataError, match="no row has a mask"):
        describe_masks(bare, table.root / "table.csv")
    assert not (table.root / "table.csv").exists()


def test_the_command(table):
    for name in "ab":
        (table.root / "images").mkdir(exist_ok=True)
        write_png(table.root / f"images/{name}.png", np.zeros((30, 30), np.uint8))
    command = [
        "data",
        "describe",
        str(table.root),
        "--style",
        "report",
        "--out",
        str(table.root / "table.csv"),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # no split, no prompts: told by the reader, and why the command is run
        result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "2 prompts from masks (2 agree with the existing ones)" in " ".join(
        result.output.split()
    )
    assert {row.text for row in read_manifest(table.root / "table.csv").rows} == {
        "Patchy opacity in the lower left lung.",
        "No focal opacity.",
    }


@pytest.mark.data
@pytest.mark.filterwarnings("ignore::textmask.errors.DataWarning")
def test_real_bm_seg_slices_get_true_prompts(data_root):
    manifest = read_layout(data_root / "bm-seg-mini")
    assert manifest.laterality is Laterality.UNKNOWN
    from textmask.io.masks import read_mask

    for row in manifest.rows:
        mask = read_mask(manifest.mask_path(row))
        found = scores(mask, describe_mask(mask), IMAGE, None)
        assert all(agreed == seen == claimed for agreed, seen, claimed in found.values())
        assert found["zone"][0] > 0
