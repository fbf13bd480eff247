"""`study ambiguity`: which sentences are compared, by which figures, and a clear word where there is no map."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from textmask.cli.app import app
from textmask.data.loaders import open_split
from textmask.data.manifest import write_manifest
from textmask.errors import ConfigError, DataError
from textmask.io.images import read_image
from textmask.methods.registry import build_method, get_method
from textmask.runs.checkpoint import Run, text_fingerprint, write_tensors
from textmask.runs.layout import WEIGHTS
from textmask.studies.probes import ambiguity as module
from textmask.studies.probes.ambiguity import (
    FIGURES,
    OWN,
    WORDINGS,
    AmbiguityOptions,
    choose_rows,
    compare_wordings,
    look,
    measure_ambiguity,
    wordings,
)
from textmask.text.grammar import parse
from textmask.types import Output

CAPTION = "unilateral pulmonary infection, one infected area, lower left lung."


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Run folders of untrained methods: what they look at is nonsense, and looked at all the same."""
    root = tmp_path_factory.mktemp("ambiguity")
    for name in ("dusss", "ssa", "unet"):
        recipe = get_method(name).recipe().smoke()
        method = build_method(recipe)
        (root / name).mkdir()
        (root / name / "recipe.json").write_text(recipe.to_json())
        (root / name / "data.json").write_text('{"laterality": "image"}')
        told = {"method": name, "text_encoder": text_fingerprint(method)}
        write_tensors(root / name / WEIGHTS, method.state_dict(), told)
    return root


@pytest.mark.parametrize(
    "sentence",
    [
        CAPTION,
        CAPTION.capitalize(),
        "Patchy opacity in the lower left lung.",
        "one lesion, located in top left of the image.",
    ],
)
def test_the_wordings_say_what_their_names_say(sentence):
    said = dict(zip(WORDINGS, wordings(sentence, np.random.default_rng(0)), strict=True))
    own = parse(sentence)
    assert said[OWN] == sentence
    assert len({text.lower() for text in said.values()}) == 5
    assert parse(said["reworded"]).zones == own.zones
    assert parse(said["no place"]).zones == parse(said["vague place"]).zones == frozenset()
    assert "a region of the" in said["vague place"]
    assert parse(said["other side"]).zones == own.mirrored().zones


@pytest.mark.parametrize(
    "sentence", ["Hello World", "", "lower left lung", "right middle lobe opacity"]
)
def test_a_sentence_that_cannot_be_worded_in_every_way_is_left_out(sentence):
    assert wordings(sentence, np.random.default_rng(0)) is None
    both = (
        "bilateral pulmonary infection, two infected areas, lower left lung and lower right lung."
    )
    assert wordings(both, np.random.default_rng(0)) is None  # its mirror image says the same


def test_figures_against_slow_loops():
    rng = np.random.default_rng(0)
    maps, mask = rng.random((3, 4, 5)), rng.random((4, 5)) > 0.6
    found = compare_wordings(maps, mask)
    for k in range(3):
        dot = larger = smaller = inner = total = 0.0
        lengths = [0.0, 0.0]
        for y in range(4):
            for x in range(5):
                a, b = maps[0, y, x], maps[k, y, x]
                dot, smaller, larger, total = (
                    dot + a * b,
                    smaller + min(a, b),
                    larger + max(a, b),
                    total + b,
                )
                lengths = [lengths[0] + a * a, lengths[1] + b * b]
                inner += b if mask[y, x] else 0
        expected = (dot / (lengths[0] * lengths[1]) ** 0.5, smaller / larger, inner / total)
        assert [found[name][k] for name in FIGURES] == pytest.approx(expected)
    assert (found["cosine"][0], found["overlap"][0]) == pytest.approx((1, 1))


def test_flat_and_empty_maps():
    mask = np.zeros((4, 4), bool)
    mask[:2] = True
    found = compare_wordings(
        np.stack([np.zeros((4, 4)), np.zeros((4, 4)), np.full((4, 4), 0.3)]), mask
    )
    assert found["cosine"].tolist() == found["overlap"].tolist() == [1, 1, 0]
    assert found["inside"].tolist() == [0, 0, 0.5]  # a flat map has the mask's share inside


def follower(image, text):
    """A method that looks where the sentence says and nowhere else."""
    maps = torch.zeros(len(text), 1, 8, 8)
    for one, statement in zip(maps, text.statements, strict=True):
        for side, _ in statement.zones:
            one[0, :, :4] += side == "left"
            one[0, :, 4:] += side == "right"
    return Output(torch.zeros(len(text), 1, 64, 64), {"attention": maps.clamp(max=1)})


def test_a_map_that_follows_the_sentence_stays_when_reworded_and_leaves_when_swapped(
    phantom_manifest, tmp_path
):
    data = open_split(phantom_manifest, "train", (64, 64), tmp_path)
    chosen, usable = choose_rows(data, 100, seed=0)
    assert len(chosen) == usable > 5
    method = torch.nn.Module()
    method.forward = follower
    recipe = SimpleNamespace(precision="fp32", method="mine")
    run = Run(tmp_path, recipe, method, {}, {})
    looks = look(run, data, chosen, 2)
    assert len(looks.maps) == 2
    one_sided = [k for k, (i, _) in enumerate(chosen) if len(data.statements[i].sides) == 1]
    cosine, inside = (looks.figures[name][one_sided].mean(0) for name in ("cosine", "inside"))
    assert cosine[:2] == pytest.approx([1, 1])
    assert cosine[4] < 0.2  # but for the seam, which resizing blurs
    assert inside[0] > 4 * inside[4]
    assert looks.figures["inside"][:, 2:4].sum() == 0


@pytest.mark.parametrize("name", ["dusss", "ssa"])
def test_it_draws_and_measures(runs, phantom_manifest, tmp_path, name):
    options = AmbiguityOptions("train", images=2, count=5, seed=3, cache_dir=runs / "cache")
    summary = measure_ambiguity(runs / name, phantom_manifest, tmp_path / "a.png", options)
    assert json.loads((tmp_path / "a.json").read_text()) == summary.model_dump(mode="json")
    assert (summary.n, summary.seed, summary.method, len(summary.drawn)) == (5, 3, name, 2)
    assert list(summary.wordings) == list(WORDINGS)
    own = summary.wordings[OWN]
    assert own.cosine.estimate == pytest.approx(1)
    assert own.inside_minus_own.estimate == 0
    rows, columns = get_method(name).recipe().smoke().image_size
    assert read_image(tmp_path / "a.png").shape == (2 * (18 + rows), 6 * columns + 5 * 4, 3)
    again = measure_ambiguity(runs / name, phantom_manifest, tmp_path / "b.png", options)
    assert again == summary
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "a.png").read_bytes()
    options = replace(options, seed=4)
    other = measure_ambiguity(runs / name, phantom_manifest, tmp_path / "c.png", options)
    assert other.drawn != summary.drawn


def test_two_runs_are_shown_the_same_pictures_and_sentences(runs, phantom_manifest, tmp_path):
    options = AmbiguityOptions("train", images=2, count=2, cache_dir=runs / "cache")
    found = [
        measure_ambiguity(runs / n, phantom_manifest, tmp_path / f"{n}.png", options)
        for n in ("dusss", "ssa")
    ]
    assert found[0].drawn == found[1].drawn


def test_what_cannot_be_compared_is_told_and_nothing_is_written(
    runs, phantom_manifest, tmp_path, monkeypatch
):
    out, options = tmp_path / "a.png", AmbiguityOptions("train", cache_dir=runs / "cache")
    with pytest.raises(
        ConfigError, match=r"method 'unet' publishes no attention map.*such as ssa, c2seg or dusss"
    ):
        measure_ambiguity(runs / "unet", phantom_manifest, out, options)
    with pytest.raises(ConfigError, match="0 images to draw and count 64"):
        measure_ambiguity(runs / "ssa", phantom_manifest, out, replace(options, images=0))
    monkeypatch.setattr(module, "wordings", lambda *_: None)
    with pytest.raises(DataError, match="none of the 24 images"):
        measure_ambiguity(runs / "ssa", phantom_manifest, out, options)
    assert not list(tmp_path.iterdir())


def test_the_command(runs, phantom_manifest, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    table = phantom_manifest.root / "ambiguity.csv"
    write_manifest(phantom_manifest, table)
    command = [
        "study",
        "ambiguity",
        str(runs / "dusss"),
        str(table),
        "--split",
        "train",
        "--count",
        "3",
    ]
    result = CliRunner().invoke(
        app,
        [
            *command,
            "--pictures",
            "1",
            "--out",
            str(tmp_path / "a.png"),
            "--cache-dir",
            str(runs / "cache"),
        ],
    )
    assert result.exit_code == 0, result.output
    assert "n = 3 of" in " ".join(result.output.split())
    assert all(name in result.output for name in WORDINGS)
    assert (tmp_path / "a.png").exists()
