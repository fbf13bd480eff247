"""Studies of one run: what each image is given, what is counted, what is kept, and which model ignores its prompt."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch

from textmask.data.corruptions import BICLIP_TABLE_3, CORRUPTIONS, corrupt, image_generators
from textmask.data.loaders import open_split
from textmask.data.manifest import Row
from textmask.errors import CheckpointError, ConfigError, DataError
from textmask.evaluation import scoring
from textmask.evaluation.records import Overlapped, PerturbationRow, Value
from textmask.evaluation.scores import read_scores
from textmask.evaluation.summary import RobustnessSummary, read_summary
from textmask.evaluation.tables import cell
from textmask.inference.predict_split import predict_split
from textmask.methods.base import Method
from textmask.methods.registry import get_method
from textmask.metrics.overlap import counts, dice_per_image, iou_per_image
from textmask.metrics.statistics import bootstrap_ci, paired_difference, paired_difference_pooled
from textmask.runs.checkpoint import load_run
from textmask.statement import Laterality
from textmask.studies.robustness import perturbations
from textmask.studies.robustness import prompts as study_prompts_file
from textmask.studies.robustness import severity as study_severity
from textmask.studies.robustness.comparison import robustness_table
from textmask.studies.robustness.perturbations import (
    Perturbation,
    RobustnessOptions,
    each,
    limited,
    open_bench,
)
from textmask.studies.robustness.prompts import MOVES, PLACES, study_prompts, verdicts
from textmask.studies.robustness.severity import study_corruption, study_text_noise
from textmask.text.edit import UNRELATED, mirror
from textmask.text.grammar import parse
from textmask.text.noise import TEXT_NOISE
from textmask.text.zones import ZONE_MAPS, image_zones
from textmask.training.loop import train
from textmask.types import Output

N = 60  # resamples


class Blind(Method):
    """Marks what is bright and reads no word. Remembers the images and prompts it was given."""

    def __init__(self):
        super().__init__()
        self.seen, self.images = [], []

    def forward(self, image, text):
        self.seen += text.prompts
        self.images.append(image)
        return Output((image.mean(1, keepdim=True) - 0.55) * 50)


class Obedient(Blind):
    """Paints the zones of the sentence and nothing else."""

    def forward(self, image, text):
        super().forward(image, text)
        out = torch.full((len(image), 1, *image.shape[2:]), -9.0)
        table = ZONE_MAPS["phantom"]
        for i, statement in enumerate(text.statements):
            for side, level in image_zones(statement):
                columns, rows = table.sides[side], table.levels[level]
                h, w = image.shape[2:]
                part = (
                    slice(round(rows.low * h), round(rows.high * h)),
                    slice(round(columns.low * w), round(columns.high * w)),
                )
                out[(i, 0, *part)] = 9.0
        return Output(out)


@pytest.fixture(scope="module")
def trained(phantom_manifest, tmp_path_factory):
    """A run folder of statement_unet and of unet, trained for a moment, and the decoded cache."""
    root = tmp_path_factory.mktemp("trained")
    for name in ("statement_unet", "unet"):
        recipe = get_method(name).recipe().smoke()
        train(recipe, phantom_manifest, root / name, cache_dir=root / "cache", progress=False)
    return root


@pytest.fixture
def go(trained, phantom_manifest, tmp_path, monkeypatch):
    """Runs a study of a fake method in the clothes of a trained run, at a commit with a name; plots are left out."""
    monkeypatch.setattr(scoring, "git_commit", lambda: "abc")
    monkeypatch.setattr(study_prompts_file, "bar_intervals_png", lambda *_: b"\x89PNG")
    monkeypatch.setattr(study_severity, "severity_png", lambda *_: b"\x89PNG")

    def call(
        study,
        *arguments,
        method=None,
        run="statement_unet",
        manifest=phantom_manifest,
        split="test",
        **options,
    ):
        if method is not None:
            monkeypatch.setattr(
                perturbations,
                "load_run",
                lambda path, device: replace(load_run(path), method=method),
            )
        options = {
            "n_bootstrap": N,
            "cache_dir": trained / "cache",
            "out": tmp_path / "out",
            "zones": "phantom",
            **options,
        }
        return study(
            trained / run, manifest, split, *arguments, options=RobustnessOptions(**options)
        )

    call.cache, call.manifest, call.runs = trained / "cache", phantom_manifest, trained
    call.data = open_split(phantom_manifest, "test", (32, 32), trained / "cache")
    return call


def by_kind(found):
    return {(row.kind, row.severity): row for row in found.summary.rows}


def per_image(found):
    with (found.out / "per_image.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def masks_of(method, data, recipe, prompts=None, damage=None):
    return predict_split(method, data, recipe, prompts=prompts, damage=damage) > recipe.threshold


# the mechanism


def test_fewer_images_are_among_more_and_patients_stay_whole():
    rows = [
        Row(f"{i}.png", f"{i}.png", "", "test", f"p{i // 3}" if i % 7 else "") for i in range(60)
    ]
    chosen = {n: limited(rows, n, 0) for n in (1, 5, 17, 40, 60, 99)}
    sizes = [len(indices) for indices in chosen.values()]
    assert sizes == sorted(sizes)
    assert all(len(indices) <= max(n, 3) for n, indices in chosen.items())
    assert len(chosen[99]) == len(chosen[60]) == 60
    for few, more in zip(list(chosen.values()), list(chosen.values())[1:], strict=False):
        assert set(few) <= set(more)
    inside = {rows[i].group for i in chosen[17]} - {""}
    assert all(
        (i in chosen[17]) == (row.group in inside) for i, row in enumerate(rows) if row.group
    )
    assert (np.diff(chosen[40]) > 0).all()
    assert not np.array_equal(limited(rows, 17, 1), chosen[17])
    assert len(limited(rows, None, 0)) == 60
    with pytest.raises(ConfigError, match="expected at least 1"):
        limited(rows, 0, 0)


def test_an_image_gets_the_same_prompt_in_any_subset(go):
    rewrite = each("drawn", lambda text, rng: f"{text} {rng.integers(10**9)}", seed=3)
    whole, some = rewrite(go.data), rewrite(go.data.take(np.array([1, 4])))
    assert some == [whole[1], whole[4]]
    assert (
        each("other", lambda text, rng: f"{text} {rng.integers(10**9)}", seed=3)(go.data) != whole
    )


def test_a_split_of_some_rows_holds_those_rows(go):
    flags = np.arange(len(go.data)) % 3 == 0
    some = go.data.take(flags)
    assert some.keys == tuple(key for key, keep in zip(go.data.keys, flags, strict=True) if keep)
    np.testing.assert_array_equal(some.images, np.asarray(go.data.images)[flags])
    np.testing.assert_array_equal(some.masks, np.asarray(go.data.masks)[flags])
    assert (len(some), some.statements[0]) == (3, go.data.statements[0])
    assert some.native_sizes.shape == (3, 2)


def test_only_changed_images_are_predicted_and_the_others_hold_the_clean_mask(go):
    method = Obedient()
    perturbation = Perturbation(
        "some", prompts=lambda data: [None, data.prompts[1], "upper left lung", *[None] * 5]
    )

    def study(run, manifest, split, options):
        bench = open_bench(run, manifest, split, "some", options)
        return list(bench.results([perturbation]))

    clean, other = go(study, method=method)
    assert method.seen == [*go.data.prompts, "upper left lung"]  # the second came out as it was
    assert other.changed.tolist() == [False, False, True, *[False] * 5]
    assert other.prompts == (*go.data.prompts[:2], "upper left lung", *go.data.prompts[3:])
    assert other.statements[2].zones == parse("upper left lung").zones
    np.testing.assert_array_equal(other.masks[~other.changed], clean.masks[~other.changed])
    assert (other.masks[2] != clean.masks[2]).any()


def test_a_finished_perturbation_is_not_predicted_again(go, monkeypatch):
    two = {"contrast": (0.5,), "gamma": (1.6,)}

    def images(kinds=("contrast", "gamma"), **change):
        method = Blind()
        found = go(
            study_corruption, kinds, {kind: two[kind] for kind in kinds}, method=method, **change
        )
        return len(method.images), found.out

    def files():
        return [(out / name).read_bytes() for name in ("summary.json", "table.md", "per_image.csv")]

    n, out = images(["contrast"])
    assert n == 2  # clean and one
    assert images()[0] == 1  # more joins what is there
    before = files()
    assert images()[0] == 0
    assert files() == before
    (out / "predictions" / "gamma-1.6.npz").write_bytes(b"PK half")  # stopped while writing
    assert images()[0] == 1
    assert files() == before
    assert images(["contrast"], seed=1)[0] == 2
    assert images(["contrast"], limit=3)[0] == 2
    monkeypatch.setattr(
        scoring, "git_commit", lambda: "abc+changes"
    )  # a state without a name is never trusted
    assert [images(["contrast"])[0] for _ in range(2)] == [2, 2]


def test_an_interrupted_study_goes_on(go):
    class Stopped(Blind):
        def forward(self, image, text):
            if len(self.images) == 2:
                raise KeyboardInterrupt
            return super().forward(image, text)

    with pytest.raises(KeyboardInterrupt):
        go(study_corruption, ["contrast"], method=Stopped())
    rest = Blind()
    found = go(study_corruption, ["contrast"], method=rest)
    assert len(rest.images) == 2
    assert len(found.summary.rows) == 4


def test_leaks_splits_and_folders_are_refused(go, tmp_path):
    with pytest.raises(ConfigError, match="unknown split"):
        go(study_prompts, split="tset")
    with pytest.raises(ConfigError, match="zone map"):
        go(study_prompts, zones="lungs")
    rows = tuple(
        replace(row, split="test") if row.split == "train" else row for row in go.manifest.rows
    )
    with pytest.raises(DataError, match="were trained on"):
        go(study_prompts, manifest=replace(go.manifest, rows=rows))
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="another one with --out"):
        go(study_prompts, out=tmp_path / "file" / "out")


# prompts


def test_a_method_that_ignores_its_text_is_named(go):
    found = go(study_prompts, method=Blind())
    verdict = found.summary.verdicts
    assert verdict.ignores_text.holds is True
    assert verdict.ignores_place.holds is True
    assert verdict.paints_absent.holds is True
    assert (verdict.paints_unrelated.holds, verdict.paints_unrelated.share) == (True, 1.0)
    assert set(verdict.ignores_text.medians.values()) == {1.0}
    assert "statement_unet IGNORES its prompt" in found.table
    assert "SEGMENTS findings reported as absent" in found.table
    for row in found.summary.rows:
        assert row.iou_to_clean.median == 1.0
        assert row.dice_per_image_minus_clean.estimate == 0.0
        assert row.where.distance == 0.0
    assert found.summary.equivariance.error.estimate == 0.0  # brightness follows a flip


def test_a_method_that_obeys_is_not(go):
    method = Obedient()
    found = go(study_prompts, method=method)
    verdict, rows = found.summary.verdicts, by_kind(found)
    assert [rule.holds for rule in verdict.named.values()] == [False] * 4
    assert "IGNORES" not in found.table
    assert "SEGMENTS" not in found.table
    for kind in ("shuffled", "side_swapped", "level_swapped"):
        row = rows[kind, 0]
        assert row.n > 0
        assert row.location_given.estimate == pytest.approx(1.0)
        assert row.location_own.estimate < 1.0
        assert row.iou_to_clean.median < 0.5
    assert rows["clean", 0].location_own.estimate == pytest.approx(1.0)
    for kind in ("empty", "absent", "unrelated"):
        assert rows[kind, 0].empty_masks == rows[kind, 0].n
        assert rows[kind, 0].location_given is None
        assert rows[kind, 0].still_painted == 0.0
    assert rows["side_swapped", 0].n < len(
        go.data
    )  # a sentence that names both sides alike has no other side
    assert (
        found.summary.equivariance.error.estimate < 0.1
    )  # bands of the two sides differ by a pixel


def test_the_prompts_given_are_what_they_are_called(go):
    found = go(study_prompts, method=Obedient())
    own = {row["image"]: row["text"] for row in per_image(found) if row["kind"] == "clean"}
    assert tuple(own.values()) == go.data.prompts
    for row in per_image(found):
        text, true = row["text"], own[row["image"]]
        if row["kind"] == "clean" or row["changed"] == "0":
            assert text == true
            continue
        a, b = parse(text), parse(true)
        assert {
            "empty": lambda a, b, t: t == "",
            "shuffled": lambda a, b, t: (
                t in own.values() and (a.zones, a.absent) != (b.zones, b.absent)
            ),
            "side_swapped": lambda a, b, t: a.zones == b.mirrored().zones != b.zones,
            "level_swapped": lambda a, b, t: a.zones == b.inverted().zones != b.zones,
            "contradictory": lambda a, b, t: a.negated == b.zones,
            "absent": lambda a, b, t: a.absent and not b.absent,
            "unrelated": lambda a, b, t: t in UNRELATED,
        }[row["kind"]](a, b, text), row


def test_every_figure_of_the_prompt_study_equals_a_literal_one(go):
    method = Obedient()
    found = go(study_prompts, method=method)
    recipe, data, row = (
        load_run(go.runs / "statement_unet").recipe,
        go.data,
        by_kind(found)["side_swapped", 0],
    )
    kept = [
        i
        for i, text in enumerate(data.prompts)
        if (m := mirror(text)) and parse(m).zones != parse(text).zones
    ]
    assert row.n == len(kept) > 1
    some, groups = data.take(np.array(kept)), [data.rows[i].group for i in kept]
    before = masks_of(method, some, recipe)
    after = masks_of(method, some, recipe, [mirror(text) for text in some.prompts])
    truth = np.asarray(some.masks) != 0
    a, b = counts(after, truth), counts(before, truth)
    dice_a, dice_b = dice_per_image(a), dice_per_image(b)
    interval = bootstrap_ci(dice_a, groups, n=N)
    assert row.dice_per_image.model_dump() == pytest.approx(
        {"estimate": interval.estimate, "low": interval.low, "high": interval.high}
    )
    paired = paired_difference(dice_a, dice_b, groups, n=N)
    assert row.dice_per_image_minus_clean.low == pytest.approx(paired.low)
    pooled = 2 * (after & truth).sum() / (after.sum() + truth.sum())
    assert row.dice_pooled.estimate == pytest.approx(pooled)
    paired = paired_difference_pooled(a, b, groups, "iou", n=N)
    assert row.iou_pooled_minus_clean.high == pytest.approx(paired.high)
    moved = iou_per_image(counts(after, before))
    assert row.iou_to_clean.median == pytest.approx(np.median(moved))
    assert row.iou_to_clean.mean.estimate == pytest.approx(moved.mean())

    left, right = [], []
    for x, y in zip(before, after, strict=True):
        left.append((x[:, :16].sum() / x.sum(), y[:, :16].sum() / y.sum()))
        centres = [((np.argwhere(m) + 0.5) / 32).mean(0) for m in (x, y)]
        right.append(centres[1] - centres[0])
    where = row.where
    assert [where.left_before, where.left_after] == pytest.approx(np.mean(left, 0))
    assert [where.down_by, where.right_by] == pytest.approx(np.mean(right, 0))
    assert where.distance == pytest.approx(np.mean(np.linalg.norm(right, axis=1)))
    assert where.area_after == pytest.approx(after.mean())


def test_equivariance_flips_image_and_prompt(go):
    class Corner(Blind):
        """Always marks the left upper quarter: the worst that can be."""

        def forward(self, image, text):
            out = torch.full_like(image[:, :1], -9.0)
            out[:, :, :16, :16] = 9.0
            return Output(out)

    found = go(study_prompts, method=Corner())
    assert found.summary.equivariance.error == Value(estimate=1.0, low=1.0, high=1.0)
    assert found.summary.equivariance.n == sum(mirror(text) is not None for text in go.data.prompts)
    assert "1 - Dice, percent: 100.00" in found.table
    rows = tuple(replace(row, laterality=Laterality.UNKNOWN) for row in go.manifest.rows)
    method = Blind()
    found = go(study_prompts, method=method, manifest=replace(go.manifest, rows=rows))
    assert found.summary.equivariance.n == 0
    assert "could be mirrored" in found.table


def test_the_flipped_image_is_what_the_model_sees(go):
    method = Blind()
    go(study_prompts, method=method)
    flipped = method.images[-1]
    kept = [i for i, text in enumerate(go.data.prompts) if mirror(text) is not None]
    expected = torch.from_numpy(np.array(go.data.images)[kept]).float().div(255).flip(-1)
    torch.testing.assert_close(flipped[:, :1], expected)
    assert method.seen[-len(kept) :] == [mirror(go.data.prompts[i]) for i in kept]


def test_verdicts_need_every_kind_and_something_to_judge():
    def row(kind, median, still=1.0):
        moved = Overlapped(n=5, mean=None, median=median)
        return PerturbationRow(kind=kind, n=5, iou_to_clean=moved, still_painted=still)

    same = [row(kind, 0.95) for kind in MOVES]
    assert verdicts(same).ignores_text.holds is True
    one_moves = [*same[:-1], row(MOVES[-1], 0.94)]
    assert verdicts(one_moves).ignores_text.holds is False
    assert verdicts(one_moves).ignores_place.holds is True
    place_moves = [row(kind, 0.5 if kind == PLACES[1] else 1.0) for kind in MOVES]
    assert verdicts(place_moves).ignores_place.holds is False
    nothing = [PerturbationRow(kind=kind, n=0, note="") for kind in MOVES]
    assert {entry.holds for entry in verdicts(nothing).named.values()} == {None}
    half = verdicts([row("absent", 0.5, 0.5), row("unrelated", 0.5, 0.51)])
    assert (half.paints_absent.holds, half.paints_unrelated.holds) == (False, True)


def test_a_method_without_text_is_not_predicted_for_other_prompts(go):
    found = go(study_prompts, run="unet")
    assert found.summary.verdicts.ignores_text.holds in (True, None)
    assert {path.stem for path in (found.out / "predictions").glob("*.npz")} == {"clean", "flipped"}


def test_the_files_of_a_study_say_what_they_are(go):
    found = go(study_prompts, method=Obedient(), limit=6)
    protocol = found.summary.protocol
    assert read_summary(found.out / "summary.json", RobustnessSummary) == found.summary
    scores = read_scores(found.out / "scores.csv")
    assert list(scores) == [row.name for row in found.summary.rows]
    clean = scores["clean"].dice.mean()
    assert clean == pytest.approx(found.summary.rows[0].dice_per_image.estimate, abs=1e-6)
    assert (found.out / "table.md").read_text() == found.table
    assert (found.out / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert (protocol.data_hash, protocol.limit) == (go.manifest.hash(), 6)
    assert protocol.n <= 6
    for part in (
        "statement_unet (statement_unet)",
        f"n = {protocol.n} in {protocol.n_groups} groups",
        "weights sha256",
    ):
        assert part in found.table
    assert (
        str(go.runs) not in found.table + found.summary.model_dump_json()
    )  # committed without a path of a machine
    assert len(per_image(found)) == 8 * protocol.n


# text noise


def test_text_noise_reports_severity_understanding_and_paired_drops(go):
    method = Obedient()
    found = go(study_text_noise, method=method)
    rows = by_kind(found)
    assert list(rows) == [
        ("clean", 0),
        *((name, s) for name, noise in TEXT_NOISE.items() for s in noise.severities),
    ]
    clean = rows["clean", 0]
    assert (
        clean.n,
        clean.dice_per_image_minus_clean.estimate,
        clean.read_the_same,
    ) == (8, 0.0, 8)
    assert rows["keyboard", 1].read_the_same <= rows["keyboard", 1].n
    for kind in ("paraphrase", "negation"):
        row = rows[kind, 1]
        assert row.read_the_same == row.n > 0
        assert row.iou_to_clean.median in (
            1.0,
            None,
        )  # the zones are the same, so is what the obedient one paints
        assert row.location_own_minus_clean.estimate == 0.0
    assert rows["denied", 1].read_the_same == 0
    assert rows["denied", 1].location_given is None
    assert rows["denied", 1].empty_masks == rows["denied", 1].n
    assert rows["missing", 3].location_own.estimate == 0.0  # no place, no mask
    assert rows["missing", 3].location_own_minus_clean.estimate == pytest.approx(-1.0)
    assert "words misspelt as in the released QaTa table" in found.table


def test_a_misspelling_reaches_the_model_and_a_blind_one_does_not_care(go):
    method = Blind()
    found = go(study_text_noise, ["drop"], method=method)
    given = [
        row["text"] for row in per_image(found) if row["severity"] == "3" and row["changed"] == "1"
    ]
    assert given
    assert set(given) <= set(method.seen)
    assert all(row.dice_per_image_minus_clean.estimate == 0 for row in found.summary.rows)
    with pytest.raises(ConfigError, match="unknown text noise 'dropp'"):
        go(study_text_noise, ["dropp"], method=method)


# corruptions


def test_corruptions_are_those_asked_for_and_cost_what_a_literal_computation_says(go):
    method = Blind()
    found = go(study_corruption, method=method, seed=5)
    rows = by_kind(found)
    assert list(rows) == [
        ("clean", 0),
        *((name, v) for name, c in CORRUPTIONS.items() for v in c.severities),
    ]
    assert list(rows)[1:7] == list(BICLIP_TABLE_3)
    recipe, data, groups = (
        load_run(go.runs / "statement_unet").recipe,
        go.data,
        [row.group for row in go.data.rows],
    )
    truth = np.asarray(data.masks) != 0
    clean = masks_of(method, data, recipe)
    for name, value in (("low_dose", 110), ("motion_blur", 7), ("burned_text", 0.12)):
        image = torch.from_numpy(np.array(data.images)).float() / 255
        damaged = corrupt(image, name, value, image_generators(data.keys, 5))
        masks = (torch.sigmoid((damaged.mean(1) - 0.55) * 50) > recipe.threshold).numpy()
        a, b = dice_per_image(counts(masks, truth)), dice_per_image(counts(clean, truth))
        row = rows[name, value]
        assert row.n == len(data)
        assert row.dice_per_image.estimate == pytest.approx(a.mean(), abs=1e-3)
        paired = paired_difference(a, b, groups, n=N, seed=5)
        assert row.dice_per_image_minus_clean.estimate == pytest.approx(paired.estimate, abs=1e-3)
    assert rows["contrast", 0.3].iou_to_clean.median < rows["contrast", 0.75].iou_to_clean.median


def test_severities_can_be_replaced_and_impossible_ones_stop_at_once(go):
    method = Blind()
    found = go(study_corruption, ["low_dose"], {"low_dose": (500, 20)}, method=method)
    assert [row.severity for row in found.summary.rows] == [0, 500, 20]
    assert found.summary.severities == {"low_dose": (500, 20)}
    method = Blind()
    for kinds, values, said in (
        (["motion_blur"], {"motion_blur": (3, 4)}, "odd whole number"),
        (["low_dose"], {"low_dose": (-1,)}, "positive product"),
        (["low_dose"], {"gamma": (2,)}, "unknown corruption of this study 'gamma'"),
        (["low_dose"], {"low_dose": ()}, "distinct values"),
        (["blur"], None, "unknown corruption 'blur'"),
    ):
        with pytest.raises(ConfigError, match=said):
            go(study_corruption, kinds, values, method=method)
    assert not method.images


def test_an_image_is_damaged_alike_with_any_limit(go):
    method, few = Blind(), Blind()
    go(study_corruption, ["low_dose"], method=method)
    go(study_corruption, ["low_dose"], method=few, limit=3)
    chosen = limited(go.data.rows, 3, 0)
    assert torch.equal(few.images[-1], method.images[-1][chosen])


def test_text_is_never_encoded_again_for_a_corruption(go, phantom_manifest, tmp_path, monkeypatch):
    from textmask.nn import text_cache

    recipe = get_method("c2seg").recipe().smoke()
    train(recipe, phantom_manifest, tmp_path / "c2seg", cache_dir=go.cache, progress=False)
    calls, real = [], text_cache._FrozenTower.encode

    def encode(self, text, device):
        calls.append(text.prompts)
        return real(self, text, device)

    monkeypatch.setattr(text_cache._FrozenTower, "encode", encode)
    go(study_corruption, ["gamma"], run=tmp_path / "c2seg", out=tmp_path / "one")
    once = sorted(text for prompts in calls for text in prompts)
    assert once == sorted(set(go.data.prompts))  # each distinct sentence once, for four passes
    calls.clear()
    go(study_corruption, ["low_dose", "contrast"], run=tmp_path / "c2seg", out=tmp_path / "more")
    assert sorted(text for prompts in calls for text in prompts) == once


def test_runs_are_compared_by_what_each_condition_costs(go, tmp_path):
    blind = go(study_prompts, method=Blind(), out=tmp_path / "blind").summary
    obedient = go(study_prompts, method=Obedient(), out=tmp_path / "obedient").summary
    renamed = obedient.protocol.model_copy(update={"run": "obedient"})
    obedient = obedient.model_copy(update={"protocol": renamed})
    blur = go(
        study_corruption,
        ["motion_blur"],
        {"motion_blur": [3.0, 9.0]},
        method=Blind(),
        out=tmp_path / "blur",
    ).summary
    text = robustness_table([blind, obedient, blur])
    assert "| other prompts | statement_unet | obedient |" in text
    shuffled = next(row for row in obedient.rows if row.kind == "shuffled")
    loss = shuffled.dice_per_image_minus_clean
    assert f"| shuffled | 0.00 (0.00 to 0.00) | {cell(loss)} |" in text
    assert "| still segments a finding reported as absent, % of images | 100.0 | 0.0 |" in text
    assert "| sides swapped, median IoU to its own mask, % | 100.0 |" in text
    worst = min(obedient.rows, key=lambda row: row.dice_per_image_minus_clean.estimate).kind
    assert f"| costs most | nothing | {worst} |" in text
    assert "| motion_blur 9 |" in text
    fewer = obedient.protocol.model_copy(update={"n": 1})
    with pytest.raises(CheckpointError, match="differ in n: they do not belong in one table"):
        robustness_table([blind, obedient.model_copy(update={"protocol": fewer})])
