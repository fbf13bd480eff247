"""Fine-tuning: `--init` starts from trained weights, `--freeze` keeps some, `--epochs +N` continues a finished run."""

import contextlib
import json

import pytest
import torch

from textmask.cli import app as cli
from textmask.config import frozen
from textmask.errors import CheckpointError, ConfigError
from textmask.methods.registry import build_method, get_method
from textmask.runs.checkpoint import read_tensors
from textmask.training.init import load_init
from textmask.training.longer import with_more_epochs
from textmask.training.loop import TrainOptions, train


def smoke(name="statement_unet", *settings):
    return get_method(name).recipe().smoke().override(*settings)


@pytest.fixture(scope="module")
def first_run(phantom_manifest, tmp_path_factory):
    folder = tmp_path_factory.mktemp("first")
    train(smoke(), phantom_manifest, folder / "run", cache_dir=folder, progress=False)
    return folder / "run"


def weights_of(run):
    return read_tensors(run / "weights.safetensors")[0]


def test_a_new_run_starts_from_the_weights_of_another(
    phantom_manifest, tmp_path, first_run, capsys
):
    # the smallest possible step, so that the weights stay what they were
    recipe = smoke("statement_unet", "stages.*.optim.lr=1e-12", "stages.*.optim.weight_decay=0")
    options = TrainOptions(init=first_run)
    run = tmp_path / "run"
    train(recipe, phantom_manifest, run, cache_dir=tmp_path, progress=False, options=options)
    before, after = weights_of(first_run), weights_of(run)
    for name, _ in build_method(recipe).named_parameters():
        assert torch.allclose(before[name], after[name], atol=1e-6), name

    stored = json.loads((run / "data.json").read_text())["init"]
    assert stored["source"] == str(first_run)
    assert stored["loaded"] == len(before)
    assert stored["missing"] == stored["reshaped"] == stored["unused"] == []
    result = json.loads((first_run / "result.json").read_text())
    assert stored["weights_sha256"] == result["weights_sha256"]
    assert f"{len(before)} of {len(before)} tensors loaded" in capsys.readouterr().out


def test_a_run_stopped_before_its_first_epoch_starts_again_from_the_same_weights(
    phantom_manifest, tmp_path, first_run
):
    recipe, run = smoke(), tmp_path / "run"
    options = TrainOptions(init=first_run)
    train(recipe, phantom_manifest, run, cache_dir=tmp_path, progress=False, options=options)
    expected = weights_of(run)
    for name in ("last.safetensors", "weights.safetensors", "log.csv", "log.jsonl", "result.json"):
        (run / name).unlink()  # as they are before the first epoch has ended
    train(recipe, phantom_manifest, run, resume=True, cache_dir=tmp_path, progress=False)
    assert all(torch.equal(expected[name], tensor) for name, tensor in weights_of(run).items())
    assert json.loads((run / "data.json").read_text())["init"]["source"] == str(first_run)


def test_missing_and_reshaped_tensors_are_listed(first_run):
    recipe = smoke("statement_unet", "widths=[8,16]")
    method = build_method(recipe)
    own = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    report = load_init(method, recipe, first_run)
    assert report.reshaped
    assert report.loaded + len(report.missing) + len(report.reshaped) == len(own)
    for name in (*report.reshaped, *report.missing):
        assert torch.equal(method.state_dict()[name], own[name])
    assert "of another shape, new here" in "\n".join(report.lines())


def test_weights_that_do_not_fit_at_all_are_refused(phantom_manifest, tmp_path, first_run):
    options, run = TrainOptions(init=first_run), tmp_path / "run"
    with pytest.raises(CheckpointError, match=r"no tensor of .* fits 'text_prior'"):
        train(
            smoke("text_prior"),
            phantom_manifest,
            run,
            cache_dir=tmp_path,
            progress=False,
            options=options,
        )
    assert not (run / "recipe.json").exists()


def test_the_bundled_model_is_a_start_and_its_convention_is_compared(phantom_manifest):
    from textmask.statement import Laterality

    recipe = get_method("statement_unet").recipe().lite()
    report = load_init(build_method(recipe), recipe, "default", Laterality.IMAGE)
    assert report.missing == report.reshaped == report.unused == ()
    assert report.laterality == ""
    report = load_init(build_method(recipe), recipe, "default", Laterality.PATIENT)
    assert "left and right" in "\n".join(report.lines())


def test_frozen_parameters_stay_as_they_are(phantom_manifest, tmp_path, first_run):
    recipe = frozen(smoke(), ["*stem*"])
    run = tmp_path / "run"
    options = TrainOptions(init=first_run)
    train(recipe, phantom_manifest, run, cache_dir=tmp_path, progress=False, options=options)
    before, after, names = weights_of(first_run), weights_of(run), build_method(recipe)
    moved = {n for n, _ in names.named_parameters() if not torch.equal(before[n], after[n])}
    assert moved
    assert not any("stem" in name for name in moved)


def test_a_pattern_that_freezes_nothing_is_an_error_before_anything_is_written(
    phantom_manifest, tmp_path
):
    run = tmp_path / "run"
    with pytest.raises(ConfigError, match="match no parameter"):
        train(
            frozen(smoke(), ["encodr.*"]),
            phantom_manifest,
            run,
            cache_dir=tmp_path,
            progress=False,
        )
    assert not run.exists()


def test_a_finished_run_is_continued(phantom_manifest, tmp_path):
    run, recipe = tmp_path / "run", smoke("unet", "stages.*.epochs=2")
    train(recipe, phantom_manifest, run, cache_dir=tmp_path, progress=False)
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    longer = with_more_epochs(run, recipe, 3)
    train(longer, phantom_manifest, run, resume=True, cache_dir=tmp_path, progress=False)
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5]
    assert rows[:2] == log
    assert (run / "result.json").exists()


def test_a_run_with_a_budget_is_continued_from_what_it_trained(phantom_manifest, tmp_path):
    run, recipe = tmp_path / "run", smoke("unet")
    stage = recipe.stages[0].model_copy(update={"steps_per_epoch": None, "steps": 30})
    recipe = recipe.model_copy(update={"stages": (stage,)})
    train(recipe, phantom_manifest, run, cache_dir=tmp_path, progress=False)
    trained = json.loads((run / "data.json").read_text())["plan"][0]["epochs"]
    longer = with_more_epochs(run, recipe, 2)
    assert longer.stages[0].epochs == trained + 2
    train(longer, phantom_manifest, run, resume=True, cache_dir=tmp_path, progress=False)
    assert len((run / "log.jsonl").read_text().splitlines()) == trained + 2


def test_an_unfinished_run_is_not_continued(phantom_manifest, tmp_path):
    with pytest.raises(CheckpointError, match="not finished"):
        with_more_epochs(tmp_path, smoke("unet"), 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["unet", "DATA", "--epochs", "20"], "adds epochs to a finished run"),
        (["unet", "DATA", "--seeds", "a"], "comma-separated whole numbers"),
        (["--resume", "RUN", "--seeds", "0,1"], "Leave out --init"),
        (["unet", "DATA", "--init", "no-run"], "no-run"),
    ],
)
def test_wrong_options_are_refused(
    phantom_manifest, tmp_path, capsys, monkeypatch, arguments, message
):
    data = str(next(phantom_manifest.root.glob("*.csv")))
    command = [data if word == "DATA" else word for word in arguments]
    if "--resume" not in command:
        command += ["--preset", "smoke", "--out", str(tmp_path / "run")]
    monkeypatch.setattr("sys.argv", ["textmask", "train", *command])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_several_seeds_are_several_runs(phantom_manifest, tmp_path, capsys, monkeypatch):
    data = str(next(phantom_manifest.root.glob("*.csv")))
    command = ["train", "unet", data, "--preset", "smoke", "--seeds", "0,3", "--quiet"]
    command += ["--out", str(tmp_path / "runs"), "--cache-dir", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["textmask", *command])
    with contextlib.suppress(SystemExit):
        cli.main()
    for seed in (0, 3):
        stored = json.loads((tmp_path / "runs" / f"seed{seed}" / "recipe.json").read_text())
        assert stored["seed"] == seed
    assert "2 seeds: validation score" in capsys.readouterr().out
