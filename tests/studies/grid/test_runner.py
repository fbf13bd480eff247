"""Studies: order, resumption, refusals, and every figure of the table against a literal computation."""

import csv
import hashlib
import json
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
from scipy.stats import t as student_t

from textmask.data.loaders import open_split
from textmask.data.manifest import read_manifest
from textmask.errors import ConfigError, DataError
from textmask.evaluation.protocol import count_groups
from textmask.evaluation.scores import read_scores
from textmask.evaluation.summary import StudyProtocol, StudySummary, read_summary
from textmask.inference.predict_split import predict_split
from textmask.methods.registry import Arm, get_method
from textmask.metrics.overlap import Counts, dice_per_image
from textmask.metrics.statistics import bootstrap_ci, bootstrap_pooled, paired_difference_pooled
from textmask.metrics.surface import surface_distances
from textmask.runs.checkpoint import load_run
from textmask.studies.grid import design as designs
from textmask.studies.grid import trials as grid
from textmask.studies.grid.design import find_arms, plan_ablation
from textmask.studies.grid.runner import StudyOptions, plan_trials, run_study
from textmask.studies.grid.summary import (
    ONE_SEED,
    FinishedTrial,
    TrialRow,
    over_seeds,
    study_table,
    summarise,
)

MORE = (
    "stages.segment.steps_per_epoch=8",
    "stages.segment.optim.lr=0.01",
    "threshold=0.05",
)  # finds something
ARMS = (
    Arm("image", "image only", MORE, method="unet"),
    Arm("map", "a map | no FiLM", ("film=false", *MORE)),
    Arm("whole", "+ FiLM", MORE),
)
N = 40  # resamples


@pytest.fixture(scope="module", autouse=True)
def studies():
    """`statement_unet` names the studies of these tests."""
    spec = replace(
        get_method("statement_unet"),
        ablation_tables={
            "small": ARMS,
            "twice": (ARMS[0], ARMS[0]),
            "bad": (Arm("x", "x", ("y=1",)),),
        },
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            designs,
            "get_method",
            lambda name: spec if name == "statement_unet" else get_method(name),
        )
        yield


@pytest.fixture(scope="module")
def go(phantom_manifest, tmp_path_factory):
    """Runs an ablation with small settings."""
    cache = tmp_path_factory.mktemp("cache")

    def call(out, manifest=phantom_manifest, study="small", arms=None, **options):
        options = {"preset": "smoke", "n_bootstrap": N, "cache_dir": cache, **options}
        plan = plan_ablation("statement_unet", study, arms)
        return run_study(plan, manifest, out, StudyOptions(**options))

    call.cache, call.manifest = cache, phantom_manifest
    return call


@pytest.fixture(scope="module")
def whole(go, tmp_path_factory):
    """A finished study of three arms and two seeds: its folder and its summary. Tests do not change it."""
    out = tmp_path_factory.mktemp("whole")
    return out, go(out, seeds=(0, 1))


@pytest.fixture
def trainings(monkeypatch):
    """Names of the trials that are trained, in order; `stop_before` interrupts."""
    seen, real = [], grid.train

    def train(recipe, manifest, out, **options):
        if len(seen) == train.stop_before:
            raise KeyboardInterrupt
        seen.append(out.name)
        return real(recipe, manifest, out, **options)

    train.stop_before, train.seen = None, seen
    monkeypatch.setattr(grid, "train", train)
    return train


def rows_of(out):
    with (out / "study.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_arms_are_found_in_the_order_of_the_list():
    assert [arm.name for arm in find_arms("statement_unet", "small")] == ["image", "map", "whole"]
    assert [arm.name for arm in find_arms("statement_unet", "small", ["whole", "image"])] == [
        "image",
        "whole",
    ]
    assert [arm.name for arm in find_arms("c2seg", "table3", list("daf"))] == ["a", "d", "f"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("statement_unet", "smal"),
            ["unknown table of statement_unet 'smal'", "'small'", "twice"],
        ),
        (
            ("statement_unet", "small", ["mapp"]),
            ["unknown arm of small 'mapp'", "'map'", "image, map, whole"],
        ),
        (("statement_unet", "twice"), ["names an arm twice"]),
        (("unet", "table3"), ["unknown table of unet 'table3'", "sizes"]),
        (("unett", "table3"), ["unknown method 'unett'"]),
    ],
)
def test_unknown_lists_and_arms_are_named(arguments, said):
    with pytest.raises(ConfigError) as error:
        find_arms(*arguments)
    assert all(part in str(error.value) for part in said), error.value


def test_trials_go_seed_by_seed_and_the_arm_decides(tmp_path):
    options = StudyOptions(
        seeds=(3, 1, 3),
        preset="smoke",
        settings=("film=true", "precision=bf16"),
        labelled_fraction=0.5,
    )
    trials = plan_trials("statement_unet", ARMS[1:], tmp_path, options)
    assert [trial.path.name for trial in trials] == [
        "map-seed3",
        "whole-seed3",
        "map-seed1",
        "whole-seed1",
    ]
    found = [(t.recipe.film, t.recipe.precision, t.recipe.seed, t.fraction) for t in trials[:2]]
    assert found == [(False, "bf16", 3, 0.5), (True, "bf16", 3, 0.5)]
    with pytest.raises(ConfigError, match="arm 'image': unknown field"):  # unet has no FiLM
        plan_trials("statement_unet", ARMS, tmp_path, options)
    with pytest.raises(ConfigError, match="0 seeds"):
        plan_trials("statement_unet", ARMS, tmp_path, replace(options, seeds=()))


def test_every_figure_equals_a_literal_computation(whole, go):
    out, summary = whole
    assert len({row["dice_pooled"] for row in rows_of(out)}) == 6  # no two trials do the same
    data = open_split(go.manifest, "test", (32, 32), go.cache)
    dice, pooled, hd95 = {}, {}, {}
    for row in rows_of(out):
        run = load_run(out / f"{row['arm']}-seed{row['seed']}")
        masks = predict_split(run.method, data, run.recipe) > run.recipe.threshold
        truth = np.asarray(data.masks) != 0
        both, sizes = (masks & truth).sum((1, 2)), masks.sum((1, 2)) + truth.sum((1, 2))
        key = row["arm"], int(row["seed"])
        dice[key] = np.array([2 * b / s if s else 1.0 for b, s in zip(both, sizes, strict=True)])
        pooled[key] = 2 * both.sum() / sizes.sum()
        hd95[key] = surface_distances(masks, truth).hd95_pooled
        assert float(row["dice_per_image"]) == pytest.approx(dice[key].mean())
        assert float(row["dice_pooled"]) == pytest.approx(pooled[key])
        assert float(row["iou_pooled"]) == pytest.approx(pooled[key] / (2 - pooled[key]))
        assert float(row["hd95_pooled_px"]) == pytest.approx(hd95[key].mean())
        assert (row["n"], row["fraction"], row["method"]) == (
            "8",
            "1.0",
            "unet" if row["arm"] == "image" else "statement_unet",
        )
    for arm in summary.arms:
        name = arm.arm
        assert arm.dice_per_image.estimate == pytest.approx(
            (dice[name, 0] + dice[name, 1]).mean() / 2
        )
        assert arm.dice_pooled.estimate == pytest.approx((pooled[name, 0] + pooled[name, 1]) / 2)
        assert arm.hd95_pooled_px.estimate == pytest.approx(
            (hd95[name, 0] + hd95[name, 1]).mean() / 2
        )
        assert arm.by_seed.dice_pooled == pytest.approx([pooled[name, 0], pooled[name, 1]])
        assert (arm.seeds, arm.n) == ((0, 1), 8)
        assert arm.dice_pooled.low <= arm.dice_pooled.estimate <= arm.dice_pooled.high
    pairs = [(found.arm, found.minus) for found in summary.differences]
    assert pairs == [("map", "image"), ("whole", "map"), ("whole", "image")]
    for found, (a, b) in zip(summary.differences, pairs, strict=True):
        by_seed = [(dice[a, seed] - dice[b, seed]).mean() for seed in (0, 1)]
        assert found.dice_per_image_by_seed == pytest.approx(by_seed)
        assert found.dice_per_image.estimate == pytest.approx(np.mean(by_seed))
        values = (dice[a, 0] + dice[a, 1] - dice[b, 0] - dice[b, 1]) / 2
        groups = [row.group for row in data.rows]
        assert found.dice_per_image.low == pytest.approx(bootstrap_ci(values, groups, n=N).low)
        by_seed = [pooled[a, seed] - pooled[b, seed] for seed in (0, 1)]
        assert found.dice_pooled_by_seed == pytest.approx(by_seed)
        assert found.dice_pooled.estimate == pytest.approx(np.mean(by_seed))


def test_the_files_say_what_they_are(whole):
    out, summary = whole
    assert [(row["seed"], row["arm"]) for row in rows_of(out)] == [
        (seed, arm) for seed in "01" for arm in ("image", "map", "whole")
    ]
    assert rows_of(out)[2]["title"] == "'+ FiLM"  # no formula for a spreadsheet
    assert rows_of(out)[1]["settings"] == " ".join(("film=false", *MORE, "seed=0"))
    assert read_summary(out / "study.json", StudySummary) == summary
    text = (out / "table.md").read_text()
    assert text == study_table(summary)
    assert f"{summary.arms[0].dice_per_image.estimate * 100:.2f} (" in text
    assert "a map \\| no FiLM" in text  # a bar would be another column
    assert "over images" in text
    assert "It says nothing about seeds" in text
    assert "Student's t" in text
    assert ONE_SEED not in text
    assert (out / "study.png").read_bytes().startswith(b"\x89PNG")
    scores = read_scores(out / "scores.csv")
    assert list(scores)[:2] == ["image-seed0", "map-seed0"]
    mean = np.mean([scores[f"map-seed{seed}"].dice.mean() for seed in (0, 1)])
    assert mean == pytest.approx(summary.arms[1].dice_per_image.estimate, abs=1e-6)
    assert (summary.missing, summary.protocol.n) == ((), 8)


def test_a_stopped_study_goes_on_and_trains_no_finished_trial_again(
    go, trainings, tmp_path, monkeypatch
):
    trainings.stop_before = 2
    lines = []
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, arms=["map", "whole"], seeds=(0, 1), progress=lines.append)
    assert trainings.seen == ["map-seed0", "whole-seed0"]  # seed by seed
    text = (tmp_path / "table.md").read_text()
    assert ONE_SEED in text
    assert "not finished: map-seed1, whole-seed1" in text
    assert "unknown (one seed)" in text
    assert len(rows_of(tmp_path)) == 2
    assert "4 trials left" in lines[0]
    assert "[3/4] map-seed1" in lines[-1]
    assert "2 trials left, about" in lines[-1]
    kept = (tmp_path / "map-seed0" / "weights.safetensors").stat().st_mtime_ns

    trainings.stop_before = None
    summary = go(tmp_path, arms=["map", "whole"], seeds=(0, 1))
    assert trainings.seen[2:] == ["map-seed1", "whole-seed1"]
    assert (tmp_path / "map-seed0" / "weights.safetensors").stat().st_mtime_ns == kept
    assert summary.missing == ()

    monkeypatch.setattr(grid, "load_run", None)  # nothing is predicted again either
    assert go(tmp_path, arms=["map", "whole"], seeds=(0, 1)) == summary
    assert len(trainings.seen) == 4


def test_a_trial_stopped_while_training_is_resumed_and_one_stopped_while_scoring_is_only_scored(
    whole, go, trainings, tmp_path
):
    out = shutil.copytree(whole[0], tmp_path / "study")
    (out / "map-seed1" / "result.json").unlink()  # killed before the end of its training
    (out / "whole-seed0" / "study-test.json").unlink()  # killed before its row was written
    (out / "image-seed0" / "study-test.npz").write_bytes(b"PK half")
    summary = go(out, seeds=(0, 1))
    assert trainings.seen == ["map-seed1"]
    for made, kept in zip(summary.arms, whole[1].arms, strict=True):
        assert made.model_copy(update={"seconds": kept.seconds}) == kept


def test_another_seed_or_arm_joins_an_old_study(whole, go, trainings, tmp_path):
    out = shutil.copytree(whole[0], tmp_path / "study")
    summary = go(out, arms=["whole"], seeds=(0, 1, 2))
    assert trainings.seen == ["whole-seed2"]
    assert summary.arms[0].seeds == (0, 1, 2)
    assert summary.differences == ()
    assert len(rows_of(out)) == 7  # the csv has all trials of the folder


def test_other_settings_or_data_in_an_old_folder_are_refused_before_anything_is_trained(
    whole, go, trainings
):
    out = whole[0]
    with pytest.raises(
        ConfigError,
        match=r"image-seed0 holds a run with other settings \(it differs in precision\)",
    ):
        go(out, settings=("precision=bf16",))
    with pytest.raises(ConfigError, match="differs in stages"):
        go(out, labelled_fraction=0.5)
    rows = tuple(row for row in go.manifest.rows if row.split != "train" or "1" not in row.image)
    with pytest.raises(DataError, match="trained on another manifest"):
        go(out, replace(go.manifest, rows=rows))
    assert not trainings.seen


@pytest.fixture
def listed(go, tmp_path):
    """A published list of six labelled images, written as lists on the web are: other case, another ending."""
    names = [row.image for row in go.manifest.rows_of("train")[3:9]]
    path = tmp_path / "few.txt"
    path.write_text("\n".join(name.upper().replace(".PNG", ".jpg") for name in names) + "\n")
    return path, names


def test_a_labelled_list_is_that_of_every_trial_and_is_recorded(go, listed, tmp_path):
    path, names = listed
    summary = go(tmp_path / "few", arms=["map", "whole"], labelled_list=path)
    for row in rows_of(tmp_path / "few"):
        run = tmp_path / "few" / f"{row['arm']}-seed0"
        assert (run / "splits" / "labelled-segment.txt").read_text().split() == names
        assert (row["labelled_list"], row["labelled_rows"], float(row["fraction"])) == (
            "few.txt",
            "6",
            6 / 24,
        )
        assert row["labelled_list_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    kept = {"file": "few.txt", "sha256": sha256, "rows": 6, "train_rows": 24}
    assert (
        json.loads((tmp_path / "few" / "study.json").read_text())["protocol"]["labelled_list"]
        == kept
    )
    assert f"labelled: the 6 of 24 train images of few.txt ({sha256[:12]})" in study_table(summary)


def test_a_labelled_list_beside_a_fraction_is_refused(go, trainings, listed, tmp_path):
    for options in (
        {"labelled_fraction": 0.5},
        {"settings": ("stages.segment.labelled_fraction=0.5",)},
    ):
        with pytest.raises(
            ConfigError, match=r"few.txt, but stage 'segment' has labelled_fraction=0.5"
        ):
            go(tmp_path / "few", labelled_list=listed[0], **options)
    with pytest.raises(DataError, match=r"gone.txt: the list of labelled images cannot be read"):
        go(tmp_path / "few", labelled_list=tmp_path / "gone.txt")
    listed[0].write_text("nobody.png")
    with pytest.raises(DataError, match="1 of 1 names match no training row"):
        go(tmp_path / "few", labelled_list=listed[0])
    assert not trainings.seen


def test_other_labelled_images_in_an_old_folder_are_refused(whole, go, trainings, listed, tmp_path):
    path, names = listed
    with pytest.raises(DataError, match=r"other labelled images \(24 in stage 'segment', now 6\)"):
        go(whole[0], labelled_list=path)
    everyone = tmp_path / "everyone.txt"
    everyone.write_text("\n".join(row.image for row in go.manifest.rows_of("train")))
    go(whole[0], labelled_list=everyone)  # the same images
    assert not trainings.seen

    out = tmp_path / "few"
    go(out, arms=["map"], labelled_list=path)
    with pytest.raises(DataError, match=r"\(6 in stage 'segment', now 24\)"):
        go(out, arms=["map"])
    path.write_text("\n".join([*names[1:], go.manifest.rows_of("train")[0].image]))
    with pytest.raises(
        DataError,
        match=r"\(6 in stage 'segment', now 6\). Use the same --labelled-list",
    ):
        go(out, arms=["map"], labelled_list=path)


def test_a_list_that_changes_while_the_study_runs_stops_it(go, trainings, listed, tmp_path):
    def change(line):
        listed[0].write_text(listed[1][0])

    with pytest.raises(DataError, match=r"few.txt changed while the study ran"):
        go(tmp_path / "few", arms=["map"], labelled_list=listed[0], progress=change)
    assert not trainings.seen


def test_what_would_stop_a_study_stops_it_at_once(go, trainings, tmp_path):
    with pytest.raises(ConfigError, match="arm 'x': unknown field"):
        go(tmp_path, study="bad")
    with pytest.raises(ConfigError, match="train, valid"):
        go(tmp_path, split="tset")
    rows = tuple(
        replace(row, mask=None) if row.split == "test" else row for row in go.manifest.rows
    )
    with pytest.raises(DataError, match="no mask to score"):
        go(tmp_path, replace(go.manifest, rows=rows))
    assert not trainings.seen
    assert not list(tmp_path.iterdir())


def finished(arm, seed, counts):
    scores = dict.fromkeys(("dice_per_image", "dice_pooled", "iou_per_image", "iou_pooled"), 0.5)
    distances = {name: np.ones(len(counts)) for name in ("hd95_pooled_px", "assd_px")}
    row = TrialRow(
        arm=arm,
        title="",
        seed=seed,
        fraction=1.0,
        split="test",
        n=len(counts),
        seconds=60.0,
        method="unet",
        settings="",
        weights_sha256="",
        **scores,
        **dict.fromkeys(distances, 1.0),
    )
    return FinishedTrial(row, counts, distances)


@pytest.fixture
def counts():
    """Makes counts of 12 images against one truth; every third truth is empty."""
    rng = np.random.default_rng(0)
    true = rng.integers(20, 60, 12) * (np.arange(12) % 3 > 0)

    def make(empty=False):
        predicted = np.where(
            true == 0, 0 if empty else rng.integers(0, 3, 12), rng.integers(20, 60, 12)
        )
        return Counts(np.minimum(true, predicted) // 2, predicted, true)

    return make


def ends(value):
    return [value.estimate, value.low, value.high]


GROUPS = ["a", "a", "a", "b", "b", "c", "d", "e", "e", "", "", ""]
SHARED = StudyProtocol(
    kind="ablation",
    title="x",
    method="unet",
    study="x",
    preset="smoke",
    settings=(),
    labelled_fraction=None,
    data="films",
    data_hash="",
    split="test",
    size=(8, 8),
    empty_policy="one",
    hd95="",
    n_bootstrap=300,
    n=12,
    n_groups=8,
)


def test_one_seed_gives_the_intervals_of_the_single_run_functions(counts):
    a, b = counts(), counts()
    arms = (Arm("a", "A"), Arm("b", "B"))
    summary = summarise(
        arms, [finished("a", 0, a), finished("b", 0, b)], GROUPS, SHARED, [(arms[1], arms[0])]
    )
    expected = bootstrap_pooled(a, GROUPS, "iou", n=300)
    assert ends(summary.arms[0].iou_pooled) == pytest.approx(
        [expected.estimate, expected.low, expected.high]
    )
    expected = paired_difference_pooled(b, a, GROUPS, "dice", n=300)
    (found,) = summary.differences
    assert ends(found.dice_pooled) == pytest.approx(
        [expected.estimate, expected.low, expected.high]
    )
    assert found.dice_pooled_over_seeds is None
    assert count_groups(GROUPS) == 8
    assert summary.protocol.commits == ("unknown",)


def test_skipped_images_are_left_out_of_all_seeds_alike(counts):
    runs = [finished("a", 0, counts(empty=True)), finished("a", 1, counts())]
    summary = summarise(
        (Arm("a", "A"),), runs, GROUPS, SHARED.model_copy(update={"empty_policy": "skip"}), []
    )
    kept = np.logical_and.reduce([~run.counts.both_empty for run in runs])
    assert 0 < kept.sum() < 12
    assert summary.arms[0].n == kept.sum()
    literal = np.mean([dice_per_image(run.counts)[kept].mean() for run in runs])
    assert summary.arms[0].dice_per_image.estimate == pytest.approx(literal)


def test_differences_use_the_seeds_that_both_have(counts):
    runs = [
        finished("a", 0, counts()),
        finished("a", 1, counts()),
        finished("b", 1, counts()),
        finished("b", 2, counts()),
    ]
    arms = (Arm("a", "A"), Arm("b", "B"), Arm("c", "C"))
    pairs = [(arms[1], arms[0]), (arms[2], arms[1]), (arms[2], arms[0])]
    summary = summarise(arms, runs, GROUPS, SHARED, pairs)
    assert [(d.arm, d.minus, d.seeds) for d in summary.differences] == [("b", "a", (1,))]
    assert [arm.arm for arm in summary.arms] == ["a", "b"]


def test_the_interval_over_seeds_is_students():
    values = [0.01, 0.03, -0.01, 0.02]
    low, high = student_t.interval(0.95, 3, np.mean(values), np.std(values, ddof=1) / 2)
    assert ends(over_seeds(values)) == pytest.approx([np.mean(values), low, high])
    assert over_seeds([0.1]) is None


@pytest.mark.parametrize("split", ["test", "train"])
def test_a_study_notices_images_that_change_in_place(go, tmp_path, trainings, split):
    folder = tmp_path / "data"
    shutil.copytree(go.manifest.root, folder)
    manifest = read_manifest(folder / "manifest.csv")
    arguments = {"manifest": manifest, "arms": ["whole"], "seeds": (0,)}
    go(tmp_path / "study", **arguments)
    scored = rows_of(tmp_path / "study")[0]["dice_per_image"]
    assert len(trainings.seen) == 1

    # the masks of a split are corrected in their files
    for row in manifest.rows_of(split):
        path = folder / row.mask
        cv2.imwrite(str(path), 255 - cv2.imread(str(path), cv2.IMREAD_UNCHANGED))
    if split == "train":
        with pytest.raises(DataError, match="trained on other content of split train"):
            go(tmp_path / "study", **arguments)
        return
    go(tmp_path / "study", **arguments)
    assert len(trainings.seen) == 1  # the weights are as good as before
    assert rows_of(tmp_path / "study")[0]["dice_per_image"] != scored


def test_a_seed_among_the_settings_is_refused():
    with pytest.raises(ConfigError, match="given by --seeds"):
        StudyOptions(settings=("stages.*.epochs=1", "seed = 7"))
