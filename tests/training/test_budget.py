"""Small train splits: the budget of steps, the plan that is printed, and warnings about scores that mean little."""

import json
from dataclasses import replace

import pytest

from textmask.config import LITE_STEPS, Ramp, Stage
from textmask.data.manifest import read_manifest
from textmask.data.phantom import PhantomConfig, write_phantoms
from textmask.methods.registry import get_method, list_methods
from textmask.training.budget import StepTimer, cap_batches, fit_stage
from textmask.training.loop import train

QATA_TRAIN = 5716


def lite_stages():
    for name in list_methods():
        for stage in get_method(name).recipe().lite().stages:
            if stage.optim is not None:
                yield pytest.param(stage, id=f"{name}-{stage.name}")


@pytest.mark.parametrize("stage", list(lite_stages()))
def test_full_qata_trains_for_as_many_steps_as_before(stage):
    fitted, adapted = fit_stage(stage, QATA_TRAIN)
    assert adapted == ""
    assert fitted == stage.model_copy(update={"steps": None})


@pytest.mark.parametrize("stage", list(lite_stages()))
@pytest.mark.parametrize("images", [1, 5, 60, 100, 500])
def test_few_images_get_enough_steps(stage, images):
    fitted, adapted = fit_stage(stage, images)
    per_epoch = fitted.steps_per_epoch or max(images // fitted.batch_size, 1)
    assert fitted.epochs >= stage.epochs
    assert fitted.epochs * per_epoch >= (stage.steps or 100)
    assert fitted.epochs <= max(40, stage.epochs), "each epoch writes a checkpoint"
    if stage.steps:
        assert str(images) in adapted
        assert str(stage.steps) in adapted


def test_60_images_train_for_the_budget_and_not_for_14_steps():
    stage = get_method("statement_unet").recipe().lite().stages[0]
    assert stage.epochs * (60 // stage.batch_size) == 14
    fitted, adapted = fit_stage(stage, 60)
    assert fitted.batch_size == 8
    assert fitted.epochs * (fitted.steps_per_epoch or 60 // 8) >= LITE_STEPS
    assert "batch 32 -> 8" in adapted


def test_what_counts_in_epochs_is_stretched_with_them():
    ramp = Ramp(to=1.0, start_epoch=1, end_epoch=2)
    stage = Stage(name="s", epochs=4, steps=400, batch_size=32, weights={"a": ramp}, patience=2)
    fitted, _ = fit_stage(stage, 320)
    longer = fitted.epochs / 4
    assert fitted.weights["a"] == Ramp(
        to=1.0, start_epoch=round(longer), end_epoch=round(2 * longer)
    )
    assert fitted.patience == 2 * longer
    assert fitted.validate_every == int(longer)


def test_batches_stay_divisible_by_the_processes():
    stage = Stage(name="s", epochs=4, steps=400, batch_size=12)
    assert fit_stage(stage, 20, processes=3)[0].batch_size % 3 == 0
    assert fit_stage(stage, 20, processes=4)[0].batch_size % 4 == 0


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        (["seed=1"], LITE_STEPS),
        (["stages.segment.epochs=2"], None),
        (["stages.*.batch_size=4"], None),
        (["stages.0.steps_per_epoch=5"], None),
        (["stages.*.steps=50", "stages.*.epochs=2"], 50),
    ],
)
def test_a_number_of_epochs_that_was_set_is_kept(settings, steps):
    assert get_method("unet").recipe().lite().override(*settings).stages[0].steps == steps


@pytest.mark.parametrize("name", list_methods())
def test_smoke_has_no_budget_and_stays_seconds(name):
    for stage in get_method(name).recipe().lite().smoke().stages:
        assert stage.steps is None
        assert stage.epochs <= 1


def budgeted(steps=12):
    recipe = get_method("statement_unet").recipe().smoke()
    stage = recipe.stages[0].model_copy(update={"steps_per_epoch": None, "steps": steps})
    return recipe.model_copy(update={"stages": (stage,)})


def test_the_plan_is_printed_stored_and_kept_when_a_run_is_resumed(
    phantom_manifest, tmp_path, capsys
):
    run = tmp_path / "run"
    recipe = budgeted(40)
    train(recipe, phantom_manifest, run, cache_dir=tmp_path, progress=False)
    shown = capsys.readouterr().out
    plan = json.loads((run / "data.json").read_text())["plan"][0]
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]

    assert log[-1]["step"] == plan["epochs"] * plan["steps_per_epoch"] >= 40
    assert log[-1]["epoch"] == plan["epochs"]
    assert f"{plan['images']} labelled images" in shown
    assert f"{plan['epochs'] * plan['steps_per_epoch']} steps" in shown
    assert "the budget is 40" in shown
    assert "s per step" in shown
    assert shown.index("plan:") < shown.index(f"1/{plan['epochs']}: loss")

    # the run keeps the recipe as it was declared; resuming makes the same plan and has nothing to do
    assert json.loads((run / "recipe.json").read_text())["stages"][0]["steps"] == 40
    train(recipe, phantom_manifest, run, resume=True, cache_dir=tmp_path, progress=False)
    again = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert again == log


def test_the_plan_names_splits_that_are_not_used(phantom_manifest, tmp_path, capsys):
    rows = list(phantom_manifest.rows)
    held = [i for i, row in enumerate(rows) if row.split == "train"][:2]
    for i in held:
        rows[i] = replace(rows[i], split="holdout")
    recipe = get_method("unet").recipe().smoke()
    manifest = replace(phantom_manifest, rows=tuple(rows))
    train(recipe, manifest, tmp_path / "run", cache_dir=tmp_path, progress=False)
    shown = capsys.readouterr().out
    assert "'holdout' (2 rows)" in shown.split(" 1/")[0]

    train(recipe, phantom_manifest, tmp_path / "whole", cache_dir=tmp_path, progress=False)
    assert "not used" not in capsys.readouterr().out


def test_a_run_of_an_earlier_version_is_resumed(phantom_manifest, tmp_path):
    run = tmp_path / "run"
    recipe = get_method("unet").recipe().smoke()
    train(recipe, phantom_manifest, run, cache_dir=tmp_path, progress=False)
    stored = json.loads((run / "recipe.json").read_text())
    del stored["stages"][0]["steps"]
    (run / "recipe.json").write_text(json.dumps(stored))
    train(recipe, phantom_manifest, run, resume=True, cache_dir=tmp_path, progress=False)


def test_time_is_told_once_after_a_few_steps():
    said = []
    timer = StepTimer(said.append, "segment", 101)
    for second in range(50):
        timer.tick(2.0 * second)
    assert said == [
        "plan: segment: about 3 minutes for 101 steps (2.00 s per step), plus validation"
    ]


def test_a_run_below_its_baselines_is_warned_of(phantom_manifest, tmp_path):
    hopeless = get_method("unet").recipe().smoke()
    hopeless = hopeless.override("threshold=0.999", "stages.*.steps_per_epoch=1")
    result = train(hopeless, phantom_manifest, tmp_path / "run", cache_dir=tmp_path, progress=False)
    text = "\n".join(result.warnings)
    assert "foreground everywhere" in text
    assert "text_prior" in text
    assert "only 1 steps" in text


def test_a_text_prior_is_not_compared_with_itself(phantom_manifest, tmp_path):
    recipe = get_method("text_prior").recipe().smoke()
    result = train(recipe, phantom_manifest, tmp_path / "run", cache_dir=tmp_path, progress=False)
    assert result.warnings == ()


def test_empty_masks_are_warned_of(tmp_path):
    absent = PhantomConfig(size=(32, 32), p_absent=1.0)
    table = write_phantoms(tmp_path / "data", {"train": 8, "valid": 4}, absent, seed=0)
    recipe = get_method("unet").recipe().smoke()
    manifest = read_manifest(table)
    result = train(recipe, manifest, tmp_path / "run", cache_dir=tmp_path, progress=False)
    text = "\n".join(result.warnings)
    assert "all 8 masks of the train split are empty" in text
    assert "all 4 masks of the valid split are empty" in text
    assert "perfect score" in text


def test_a_cpu_without_bf16_trains_in_fp32_and_says_so(
    phantom_manifest, tmp_path, monkeypatch, capsys
):
    recipe = get_method("unet").recipe().smoke().override("precision=bf16")
    for software, name in ((True, "fp32"), (False, "bf16")):
        monkeypatch.setattr(
            "textmask.runs.session.slow_bf16", lambda _, software=software: software
        )
        run = tmp_path / name
        train(recipe, phantom_manifest, run, cache_dir=tmp_path, progress=False)
        assert json.loads((run / "data.json").read_text())["trained_in"] == name
        assert json.loads((run / "recipe.json").read_text())["precision"] == "bf16"
        assert ("no bf16 instructions" in capsys.readouterr().out) == software


def test_images_that_are_never_flipped_are_counted(phantom_manifest, tmp_path):
    rows = list(phantom_manifest.rows)
    for i in [i for i, row in enumerate(rows) if row.split == "train"][:3]:
        rows[i] = replace(rows[i], text="opacity in the right middle lobe")
    manifest = replace(phantom_manifest, rows=tuple(rows))
    recipe = get_method("unet").recipe().smoke()
    counts = {}
    for flip in (0.0, 0.5):
        augment = recipe.stages[0].augment.model_copy(update={"flip": flip})
        stage = recipe.stages[0].model_copy(update={"augment": augment})
        out = tmp_path / str(flip)
        train(
            recipe.model_copy(update={"stages": (stage,)}),
            manifest,
            out,
            cache_dir=tmp_path,
            progress=False,
        )
        counts[flip] = json.loads((out / "data.json").read_text())["plan"][0]["not_flipped"]
    assert counts == {0.0: 0, 0.5: 3}


def test_a_batch_larger_than_the_data_is_capped_with_a_word():
    stage = Stage(name="a", batch_size=60_000, unlabelled_batch_size=50_000)
    capped, said = cap_batches(stage, labelled=100, unlabelled=300, processes=3)
    assert (capped.batch_size, capped.unlabelled_batch_size) == (102, 300)
    assert "batch_size 60000 -> 102" in said
    assert "only 100 images" in said


def test_a_small_batch_may_repeat_the_images_of_a_smaller_split():
    stage = Stage(name="a", batch_size=32)
    assert cap_batches(stage, labelled=5) == (stage, "")


@pytest.mark.parametrize("name", ["dusss", "semi_medref", "mean_teacher"])
def test_a_semi_supervised_method_without_unlabelled_images_says_what_to_set(
    name, phantom_manifest, tmp_path
):
    recipe = get_method(name).recipe().smoke().override("stages.*.steps_per_epoch=1")
    result = train(recipe, phantom_manifest, tmp_path / "all", cache_dir=tmp_path, progress=False)
    said = [warning for warning in result.warnings if "unlabelled" in warning]
    assert said
    assert "labelled_fraction=0.05" in said[0]
    some = recipe.override("stages.*.labelled_fraction=0.5")
    result = train(some, phantom_manifest, tmp_path / "some", cache_dir=tmp_path, progress=False)
    assert not [warning for warning in result.warnings if "unlabelled" in warning]
