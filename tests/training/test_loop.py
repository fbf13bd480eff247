"""The training loop: resume after kill -9, two processes, full disks, damaged weights."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from textmask.data.manifest import write_manifest
from textmask.data.splits import merge_split
from textmask.errors import CheckpointError, ConfigError, DataError, TextMaskError
from textmask.io.files import file_sha256
from textmask.methods.registry import get_method
from textmask.runs import checkpoint, layout
from textmask.training import trainer as train_module
from textmask.training.loop import TrainOptions, train


def smoke(name="unet", **changes):
    recipe = get_method(name).recipe().smoke()
    stage = recipe.stages[0].model_copy(update=changes)
    return recipe.model_copy(update={"stages": (stage,)})


def log_of(path):
    return [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]


def same_numbers(a, b):
    timing = ("seconds", "images_per_s")
    return [{k: v for k, v in row.items() if k not in timing} for row in a] == [
        {k: v for k, v in row.items() if k not in timing} for row in b
    ]


def test_a_run_folder_explains_itself(phantom_manifest, tmp_path):
    run = tmp_path / "run"
    result = train(
        smoke("statement_unet", epochs=2), phantom_manifest, run, cache_dir=tmp_path, progress=False
    )
    names = {path.name for path in run.iterdir()}
    assert names == {
        "recipe.json",
        "data.json",
        "environment.json",
        "splits",
        "log.jsonl",
        "log.csv",
        "card.md",
        "weights.safetensors",
        "last.safetensors",
        "result.json",
    }
    assert len(log_of(run)) == 2
    assert result.best == max(row["valid/dice_per_image"] for row in log_of(run))
    data = json.loads((run / "data.json").read_text())
    assert data["hash"] == phantom_manifest.hash()
    loaded = checkpoint.load_run(run)
    assert not loaded.method.training
    assert not any(p.requires_grad for p in loaded.method.parameters())


def test_the_frozen_text_tower_is_not_stored(phantom_manifest, tmp_path):
    run = tmp_path / "run"
    train(smoke("biclip"), phantom_manifest, run, cache_dir=tmp_path, progress=False)
    for name in (layout.WEIGHTS, layout.LAST):
        tensors, _ = checkpoint.read_tensors(run / name)
        assert not [key for key in tensors if "tower" in key or "embeddings" in key]
    assert checkpoint.load_run(run).recipe.method == "biclip"


def test_stages_run_in_order_and_what_the_method_watches_is_logged(phantom_manifest, tmp_path):
    recipe = get_method("c2seg").recipe().smoke().override("stages.pretrain.epochs=2")
    train(recipe, phantom_manifest, tmp_path / "run", cache_dir=tmp_path, progress=False)
    log = log_of(tmp_path / "run")
    assert [row["stage"] for row in log] == ["pretrain", "pretrain", "segment"]
    assert all(row["monitor/target_entropy"] >= 0 for row in log[:2])
    assert not [key for key in log[2] if key.startswith("monitor/")]
    # a stage that predicts no mask yet is not validated, and its weights claim no score
    assert [any(key.startswith("valid/") for key in row) for row in log] == [False, False, True]
    _, metadata = checkpoint.read_tensors(tmp_path / "run" / "weights-pretrain.safetensors")
    assert metadata["epoch"] == 2
    assert not [key for key in metadata if key.startswith("valid/")]


def test_a_stage_of_no_epochs_is_left_out(phantom_manifest, tmp_path):
    recipe = (
        get_method("c2seg").recipe().smoke().override("stages.pretrain.epochs=0", "contrast=none")
    )
    train(recipe, phantom_manifest, tmp_path / "run", cache_dir=tmp_path, progress=False)
    assert [row["stage"] for row in log_of(tmp_path / "run")] == ["segment"]


def test_validation_every_few_epochs_and_at_the_last(phantom_manifest, tmp_path):
    result = train(
        smoke(epochs=5, validate_every=2),
        phantom_manifest,
        tmp_path / "run",
        cache_dir=tmp_path,
        progress=False,
    )
    scores = {row["epoch"]: row.get("valid/dice_per_image") for row in log_of(tmp_path / "run")}
    assert [epoch for epoch, score in scores.items() if score is not None] == [2, 4, 5]
    assert scores[result.best_epoch] == result.best


def test_a_time_limit_stops_each_stage_after_an_epoch_and_validates_it(phantom_manifest, tmp_path):
    recipe = smoke(epochs=50, validate_every=7)
    options = TrainOptions(time_limit_s=1e-6)
    run = tmp_path / "run"
    result = train(
        recipe, phantom_manifest, run, cache_dir=tmp_path, progress=False, options=options
    )
    (row,) = log_of(run)
    assert (result.best_epoch, result.best) == (1, row["valid/dice_per_image"])
    assert (run / "result.json").exists()

    two_stages = get_method("c2seg").recipe().smoke().override("stages.*.epochs=3")
    both = tmp_path / "both"
    train(two_stages, phantom_manifest, both, cache_dir=tmp_path, progress=False, options=options)
    assert [row["stage"] for row in log_of(both)] == ["pretrain", "segment"]


def test_text_prior_is_the_mean_mask_of_the_statement(phantom_manifest, tmp_path):
    recipe = get_method("text_prior").recipe().smoke()
    train(recipe, phantom_manifest, tmp_path / "run", cache_dir=tmp_path, progress=False)
    method = checkpoint.load_run(tmp_path / "run").method
    assert int(method.counts.sum()) == phantom_manifest.splits["train"]


def test_equal_weights_are_equal_bytes(tmp_path):
    metadata = {
        name: i for i, name in enumerate("method stage epoch laterality text_encoder data".split())
    }
    for name in ("a", "b", "c"):
        checkpoint.write_tensors(tmp_path / name, {"w": torch.ones(3)}, metadata)
        assert checkpoint.read_tensors(tmp_path / name)[1] == metadata
    assert len({file_sha256(tmp_path / name) for name in ("a", "b", "c")}) == 1


def test_same_seed_same_numbers_and_another_seed_others(phantom_manifest, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        recipe = smoke().model_copy(update={"seed": seed})
        train(recipe, phantom_manifest, tmp_path / name, cache_dir=tmp_path, progress=False)
    assert same_numbers(log_of(tmp_path / "a"), log_of(tmp_path / "b"))
    assert not same_numbers(log_of(tmp_path / "a"), log_of(tmp_path / "c"))


def run_cli(arguments, **options):
    env = {**os.environ, "OMP_NUM_THREADS": "1", **options.pop("env", {})}
    return subprocess.Popen(
        [sys.executable, *arguments],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def semi(name, *overrides):
    settings = ("stages.*.labelled_fraction=0.5", "stages.*.steps_per_epoch=3", *overrides)
    return get_method(name).recipe().smoke().override(*settings)


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    [
        smoke("biclip", epochs=5, steps_per_epoch=4, ema_decay=0.9),
        semi("semi_medref", "stages.semi.epochs=4"),  # teacher, ramp and both streams
    ],
    ids=["biclip", "semi_medref"],
)
def test_kill_9_loses_at_most_one_epoch_and_resume_is_bit_for_bit(
    recipe, phantom_manifest, tmp_path
):
    """A real process is killed in the middle of a run; the resumed run's log and weights equal an unbroken run's."""
    manifest = phantom_manifest.root / "kill.csv"
    write_manifest(phantom_manifest, manifest)
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    command = ["-m", "textmask", "train", "--recipe", str(tmp_path / "recipe.json"), str(manifest)]
    env = {"TEXTMASK_CACHE": str(tmp_path / "cache")}
    process = run_cli([*command, "--out", str(tmp_path / "killed")], env=env)
    deadline = time.time() + 120
    log = tmp_path / "killed" / "log.jsonl"
    while time.time() < deadline and not (log.exists() and len(log.read_text().splitlines()) >= 2):
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    finished = len(log_of(tmp_path / "killed"))
    assert 2 <= finished < 5
    for out, extra in (("killed", ["--resume"]), ("whole", [])):
        process = run_cli([*command, "--out", str(tmp_path / out), *extra], env=env)
        output, _ = process.communicate(timeout=180)
        assert process.returncode == 0, output
    assert same_numbers(log_of(tmp_path / "killed"), log_of(tmp_path / "whole"))
    a, _ = checkpoint.read_tensors(tmp_path / "killed" / layout.WEIGHTS)
    b, _ = checkpoint.read_tensors(tmp_path / "whole" / layout.WEIGHTS)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.slow
def test_two_processes_give_the_loss_curve_of_one_with_the_same_global_batch(
    phantom_manifest, tmp_path
):
    recipe = smoke("statement_unet", epochs=2, steps_per_epoch=3, batch_size=8).model_copy(
        update={"norm": "group"}
    )
    manifest = phantom_manifest.root / "ddp.csv"
    write_manifest(phantom_manifest, manifest)
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    arguments = ["train", "--recipe", str(tmp_path / "recipe.json"), str(manifest)]
    torchrun = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        "-m",
        "textmask",
    ]
    for out, command in (
        ("one", ["-m", "textmask", *arguments]),
        ("two", [*torchrun, *arguments, "--devices", "2"]),
    ):
        env = {"TEXTMASK_CACHE": str(tmp_path / "cache")}
        process = run_cli([*command, "--out", str(tmp_path / out)], env=env)
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0, output
    one, two = log_of(tmp_path / "one"), log_of(tmp_path / "two")
    for a, b in zip(one, two, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], abs=2e-5)
        assert b["valid/dice_per_image"] == pytest.approx(a["valid/dice_per_image"], abs=2e-3)


@pytest.mark.slow
def test_a_teacher_and_two_streams_run_in_two_processes(phantom_manifest, tmp_path):
    """Both ranks end with one teacher; the run folder holds one log and says who answers."""
    manifest = phantom_manifest.root / "semi-ddp.csv"
    write_manifest(phantom_manifest, manifest)
    (tmp_path / "recipe.json").write_text(semi("mean_teacher").to_json())
    command = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        "-m",
        "textmask",
        "train",
    ]
    command += ["--recipe", str(tmp_path / "recipe.json"), str(manifest), "--devices", "2"]
    process = run_cli(
        [*command, "--out", str(tmp_path / "run")], env={"TEXTMASK_CACHE": str(tmp_path / "cache")}
    )
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert [row["stage"] for row in log_of(tmp_path / "run")] == ["burn_in", "semi"]
    assert json.loads((tmp_path / "run" / "result.json").read_text())["variant"] in (
        "student",
        "teacher",
    )


def test_student_and_teacher_are_validated_and_the_better_one_answers(phantom_manifest, tmp_path):
    result = train(
        semi("mean_teacher", "stages.semi.epochs=3"),
        phantom_manifest,
        tmp_path / "run",
        progress=False,
    )
    rows = [row for row in log_of(tmp_path / "run") if row["stage"] == "semi"]
    for row in rows:
        each = [row[f"valid/{variant}/dice_per_image"] for variant in ("student", "teacher")]
        assert row["valid/dice_per_image"] == max(each)
    stored = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (
        stored["valid/dice_per_image"]
        == result.best
        == max(row["valid/dice_per_image"] for row in rows)
    )
    loaded = checkpoint.load_run(tmp_path / "run").method
    chosen = loaded.answering(loaded.net)
    assert chosen is (loaded.teacher.net if stored["variant"] == "teacher" else loaded.net)
    assert stored["variant"] in (tmp_path / "run" / "card.md").read_text()


def test_the_unlabelled_stream_is_what_the_stage_may_not_see(
    phantom_manifest, tmp_path, monkeypatch
):
    seen = []
    original = train_module.Loader

    def spy(*args, **kwargs):
        loader = original(*args, **kwargs)
        seen.append((set(loader.labelled.tolist()), loader.unlabelled))
        return loader

    monkeypatch.setattr(train_module, "Loader", spy)
    names = tmp_path / "labelled.txt"
    train_rows = [row.image for row in phantom_manifest.rows_of("train")]
    names.write_text("\n".join(train_rows[:4]))
    recipe = semi("mean_teacher")
    train(recipe, phantom_manifest, tmp_path / "a", labelled_list=names, progress=False)
    (labelled, nothing), (again, unlabelled) = seen
    assert nothing is None  # the burn-in has no second stream
    assert labelled == again == set(range(4))
    assert set(unlabelled.tolist()) == set(range(4, 24))
    seen.clear()
    whole = get_method("mean_teacher").recipe().smoke()  # every label: the branch is off
    train(whole, phantom_manifest, tmp_path / "b", progress=False)
    assert [unlabelled for _, unlabelled in seen] == [None, None]
    assert all(row["loss/cons"] == 0 for row in log_of(tmp_path / "b") if row["stage"] == "semi")


def test_no_labelled_row_is_an_error_and_rows_without_masks_are_the_unlabelled_ones(
    phantom_manifest, tmp_path
):
    def without(keep):
        names = {row.image for row in phantom_manifest.rows_of("train")[keep:]}
        rows = tuple(
            replace(row, mask=None, labelled=False) if row.image in names else row
            for row in phantom_manifest.rows
        )
        return replace(phantom_manifest, rows=rows)

    recipe = get_method("mean_teacher").recipe().smoke()
    with pytest.raises(DataError, match="no labelled row"):
        train(recipe, without(0), tmp_path / "none", cache_dir=tmp_path / "c0", progress=False)
    train(recipe, without(8), tmp_path / "some", cache_dir=tmp_path / "c8", progress=False)
    assert any(row["loss/cons"] > 0 for row in log_of(tmp_path / "some") if row["stage"] == "semi")


def test_an_existing_run_is_never_overwritten(phantom_manifest, tmp_path):
    recipe = smoke()
    train(recipe, phantom_manifest, tmp_path / "run", cache_dir=tmp_path, progress=False)
    before = (tmp_path / "run" / layout.WEIGHTS).read_bytes()
    with pytest.raises(ConfigError, match="already holds a run"):
        train(recipe, phantom_manifest, tmp_path / "run", cache_dir=tmp_path, progress=False)
    other = recipe.model_copy(update={"seed": 9})
    with pytest.raises(ConfigError, match="another recipe"):
        train(
            other,
            phantom_manifest,
            tmp_path / "run",
            resume=True,
            cache_dir=tmp_path,
            progress=False,
        )
    train(
        recipe, phantom_manifest, tmp_path / "run", resume=True, cache_dir=tmp_path, progress=False
    )
    assert (tmp_path / "run" / layout.WEIGHTS).read_bytes() == before


def test_resuming_with_other_labelled_images_is_refused(phantom_manifest, tmp_path):
    names = tmp_path / "labelled.txt"
    names.write_text("\n".join(row.image for row in phantom_manifest.rows_of("train")[:5]))
    options = {"cache_dir": tmp_path, "progress": False}
    train(smoke(), phantom_manifest, tmp_path / "run", labelled_list=names, **options)
    with pytest.raises(
        DataError,
        match=r"other labelled images \(5 in stage 'segment', now 24\).*--labelled-list",
    ):
        train(smoke(), phantom_manifest, tmp_path / "run", resume=True, **options)
    train(smoke(), phantom_manifest, tmp_path / "run", labelled_list=names, resume=True, **options)


def test_training_needs_a_valid_split_and_never_reads_test(phantom_manifest, tmp_path):
    rows = tuple(row for row in phantom_manifest.rows if row.split != "valid")
    with pytest.raises(DataError, match="hold-out"):
        train(
            smoke(),
            replace(phantom_manifest, rows=rows),
            tmp_path / "run",
            cache_dir=tmp_path,
            progress=False,
        )
    rows = tuple(
        replace(row, image="gone.png") if row.split == "test" else row
        for row in phantom_manifest.rows
    )
    train(
        smoke(),
        replace(phantom_manifest, rows=rows),
        tmp_path / "run2",
        cache_dir=tmp_path,
        progress=False,
    )


def test_a_loss_that_is_not_finite_stops_the_run(phantom_manifest, tmp_path):
    recipe = smoke(clip_norm=None).override(
        "stages.segment.optim.lr=1e30", "stages.segment.steps_per_epoch=20"
    )
    with pytest.raises(TextMaskError, match="Lower the learning rate"):
        train(recipe, phantom_manifest, tmp_path / "run", cache_dir=tmp_path, progress=False)


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    checkpoint.write_tensors(path, {"a": torch.ones(3)}, {"method": "unet"})

    def full(tensors, part, metadata):
        part.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(CheckpointError, match="previous file is untouched"):
        checkpoint.write_tensors(path, {"a": torch.zeros(3)}, {"method": "unet"})
    assert [p.name for p in tmp_path.iterdir()] == ["weights.safetensors"]
    assert torch.equal(checkpoint.read_tensors(path)[0]["a"], torch.ones(3))


def test_a_write_that_really_fails_half_way_is_a_clear_error(tmp_path):
    """A child process may write 64 kB a file: the second checkpoint breaks off, the first one survives."""
    code = f"""
import resource, signal, sys
from pathlib import Path
import torch
from textmask.errors import CheckpointError
from textmask.runs.checkpoint import read_tensors, write_tensors
path = Path({str(tmp_path)!r}) / "weights.safetensors"
write_tensors(path, {{"a": torch.ones(3)}}, {{}})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
try:
    write_tensors(path, {{"a": torch.ones(100_000)}}, {{}})
except CheckpointError as error:
    print(error)
    sys.exit(0 if read_tensors(path)[0]["a"].numel() == 3 else 4)
sys.exit(3)
"""
    process = run_cli(["-c", code])
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert "cannot write" in output
    assert [p.name for p in tmp_path.iterdir()] == ["weights.safetensors"]


def test_a_safetensors_file_whose_length_begins_like_a_pickle_is_read(tmp_path):
    for padding in range(80):
        path = tmp_path / f"{padding}.safetensors"
        checkpoint.write_tensors(path, {"a" * (padding + 1): torch.ones(1)}, {})
        assert checkpoint.read_tensors(path)[0]["a" * (padding + 1)].item() == 1


class Payload:
    def __reduce__(self):
        return (os.system, ("touch pwned",))


def test_damaged_foreign_and_pickled_weights_are_refused(phantom_manifest, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    train(smoke(), phantom_manifest, run, cache_dir=tmp_path, progress=False)
    weights = run / layout.WEIGHTS
    good = weights.read_bytes()
    for damaged in (good[: len(good) // 2], b""):
        weights.write_bytes(damaged)
        with pytest.raises(
            CheckpointError, match=r"is not the file that the run has chosen.*damaged"
        ):
            checkpoint.load_run(run)
        with pytest.raises(CheckpointError, match="damaged or truncated"):
            checkpoint.read_tensors(weights)
    (run / layout.RESULT).unlink()  # a run that is not finished has no stored hash
    weights.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(CheckpointError, match="is a pickle"):
        checkpoint.load_run(run)
    torch.save({"a": torch.ones(1)}, weights)
    with pytest.raises(CheckpointError, match="is a pickle"):
        checkpoint.load_run(run)
    assert not (tmp_path / "pwned").exists()
    weights.unlink()
    with pytest.raises(CheckpointError, match="does not exist"):
        checkpoint.load_run(run)
    weights.write_bytes(good)
    recipe = get_method("statement_unet").recipe().smoke()
    (run / "recipe.json").write_text(recipe.to_json())
    with pytest.raises(CheckpointError, match="of method 'unet'"):
        checkpoint.load_run(run)


def test_tensorboard_tracker_writes_events(phantom_manifest, tmp_path):
    train(
        smoke(),
        phantom_manifest,
        tmp_path / "run",
        cache_dir=tmp_path,
        progress=False,
        options=TrainOptions(trackers=("tensorboard",)),
    )
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))
    with pytest.raises(ConfigError, match="unknown tracker"):
        train(
            smoke(),
            phantom_manifest,
            tmp_path / "r2",
            cache_dir=tmp_path,
            progress=False,
            options=TrainOptions(trackers=("wandb",)),
        )


def test_without_a_valid_split_the_last_epoch_is_kept_where_the_recipe_says_so(
    phantom_manifest, tmp_path
):
    merged = merge_split(phantom_manifest)
    with pytest.raises(DataError, match=r"no 'valid' split.*--hold-out.*select=last"):
        train(smoke(), merged, tmp_path / "none", cache_dir=tmp_path, progress=False)
    result = train(
        smoke(epochs=2, select="last"), merged, tmp_path / "run", cache_dir=tmp_path, progress=False
    )
    assert (result.best, result.best_epoch) == (-1.0, 2)
    assert {path.stem for path in (tmp_path / "run" / "splits").iterdir()} == {"train"}
    data = json.loads((tmp_path / "run" / "data.json").read_text())
    assert (data["train_rows"], data["sentences_cut"]) == (32, {"train": 0})


@pytest.mark.parametrize("name", ["unet", "mean_teacher", "dusss"])
def test_tiles_without_foreground_and_of_odd_size_train_with_finite_losses(
    name, phantom_manifest, tmp_path
):
    """17 x 21 pixels of a film of 64 x 64: most tiles hold nothing."""
    recipe = get_method(name).recipe().smoke()
    tiles = 'tiles={"size":[17,21],"overlap":3}'
    recipe = recipe.override("image_size=[64,64]", tiles, "stages.*.labelled_fraction=0.5")
    train(recipe, phantom_manifest, tmp_path / "run", cache_dir=tmp_path, progress=False)
    log = log_of(tmp_path / "run")
    losses = [value for row in log for key, value in row.items() if key.startswith("loss")]
    assert losses
    assert np.isfinite(losses).all()
    assert 0 <= log[-1]["valid/dice_per_image"] <= 1


def test_training_on_tiles_is_repeatable(phantom_manifest, tmp_path):
    recipe = smoke("statement_unet", epochs=2).override(
        "image_size=[48,48]", 'tiles={"size":[32,32],"overlap":8}'
    )
    for name in ("a", "b"):
        train(recipe, phantom_manifest, tmp_path / name, cache_dir=tmp_path, progress=False)
    assert same_numbers(log_of(tmp_path / "a"), log_of(tmp_path / "b"))
