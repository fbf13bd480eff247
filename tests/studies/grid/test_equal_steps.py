"""A study of labels compares labels, not lengths of training."""

import csv

import pytest

from textmask.methods.registry import get_method
from textmask.studies.grid.design import plan_ablation, plan_labels
from textmask.studies.grid.equal_steps import equal_steps
from textmask.studies.grid.runner import StudyOptions, plan_trials, run_study
from textmask.training.budget import fit_stage

QATA = 5716
FRACTIONS = [0.01, 0.05, 1.0]


def steps(recipe, rows):
    total = []
    for stage in recipe.stages:
        labelled = round(rows * stage.labelled_fraction)
        unlabelled = rows - labelled if stage.unlabelled_batch_size else 0
        fitted, _ = fit_stage(stage, labelled, unlabelled)
        passes = max(labelled // fitted.batch_size, 1)
        if unlabelled:
            passes = max(passes, unlabelled // fitted.unlabelled_batch_size)
        total.append(fitted.epochs * (fitted.steps_per_epoch or passes))
    return total


@pytest.mark.parametrize("preset", ["paper", "lite"])
@pytest.mark.parametrize("name", ["biclip", "c2seg", "semi_medref", "dusss"])
def test_one_percent_of_the_labels_trains_as_long_as_all_of_them(name, preset, tmp_path):
    plan = plan_labels(name, FRACTIONS)
    trials = plan_trials(name, plan.arms, tmp_path, StudyOptions(preset=preset))
    equal = equal_steps(trials, QATA)
    found = [steps(trial.recipe, QATA) for trial in equal]
    assert found == [found[0]] * len(FRACTIONS)
    longest = [max(each) for each in zip(*(steps(t.recipe, QATA) for t in trials), strict=True)]
    assert all(a >= b for a, b in zip(found[0], longest, strict=True))
    # epochs, and with them schedules and growing weights, are those of the recipe
    assert [s.epochs for s in equal[0].recipe.stages] == [s.epochs for s in trials[0].recipe.stages]


@pytest.mark.parametrize(("name", "table"), [("ssa", "table3"), ("semi_medref", "table1")])
def test_a_table_of_the_paper_over_labels_has_equal_steps_too(name, table, tmp_path):
    arms = plan_ablation(name, table).arms
    trials = plan_trials(name, arms, tmp_path, StudyOptions(preset="paper"))
    equal = [t.recipe for t in equal_steps(trials, QATA) if t.recipe.method == name]
    assert len({tuple(steps(recipe, QATA)) for recipe in equal}) == 1


def test_other_tables_are_left_as_they_are(tmp_path):
    arms = plan_ablation("c2seg", "table4-batch").arms
    trials = plan_trials("c2seg", arms, tmp_path, StudyOptions(preset="paper"))
    assert equal_steps(trials, QATA) == trials


@pytest.mark.parametrize("name", ["semi_medref", "mean_teacher"])
@pytest.mark.parametrize("fraction", [0.01, 0.05, 1.0])
def test_the_burn_in_repeats_its_labelled_images(name, fraction):
    """The released code of Semi-MedRef draws 179 batches of 32 per epoch, 895 at 1 % too, not one pass of 57 images."""
    stage = get_method(name).recipe().stage("burn_in")
    labelled = round(QATA * fraction)
    fitted, _ = fit_stage(stage, labelled)
    assert (fitted.epochs * fitted.steps_per_epoch, fitted.batch_size) == (895, 32)


def test_the_table_shows_the_steps(phantom_manifest, tmp_path):
    plan = plan_labels("unet", [0.25, 1.0])
    settings = ("stages.*.steps_per_epoch=null", "stages.*.batch_size=4")
    options = StudyOptions(preset="smoke", settings=settings, n_bootstrap=50, cache_dir=tmp_path)
    run_study(plan, phantom_manifest, tmp_path / "study", options)
    with (tmp_path / "study" / "study.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["steps"] for row in rows] == ["6", "6"]
    assert "| steps |" in (tmp_path / "study" / "table.md").read_text()
