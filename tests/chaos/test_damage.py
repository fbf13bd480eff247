"""Each file of a run is damaged in turn: a command gives its right result or a message that names the file."""

import shutil
import sys
import warnings

import pytest
from promises import SMALL, content, evaluation, study, training

import textmask.training.loop
from textmask.cli import app as cli
from textmask.data.manifest import read_manifest
from textmask.inference.calibration import calibrate_run
from textmask.methods.registry import preset_recipe

UNEXPECTED = 3  # exit status of a fault of the program
EVALUATION = "evaluation/test"
FILES = {
    "recipe.json": "predict evaluate report export resume",
    "data.json": "predict evaluate resume",
    "result.json": "predict report export",
    "environment.json": "report predict",
    "weights.safetensors": "predict evaluate export",
    "last.safetensors": "resume predict",
    "log.csv": "resume report",
    "log.jsonl": "resume report",
    "splits/train.txt": "evaluate resume",
    "splits/valid.txt": "evaluate resume",
    "calibration.json": "predict export",
    "report.html": "report",
    f"{EVALUATION}/summary.json": "report evaluate",
    f"{EVALUATION}/per_image.csv": "report",
    f"{EVALUATION}/scores.npz": "report evaluate",
    f"{EVALUATION}/scores.csv": "report",
    f"{EVALUATION}/cases/cases.json": "report",
    f"{EVALUATION}/cases/best-1.png": "report",
    "study/unet-1-seed0/recipe.json": "study",
    "study/unet-1-seed0/result.json": "study",
    "study/unet-1-seed0/study-test.json": "study",
    "study/unet-1-seed0/study-test.npz": "study",
    "study/study.json": "study",
}


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x80
    path.write_bytes(data)


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def remove(path):
    path.unlink()


def make_folder(path):
    path.unlink()
    path.mkdir()


def call(capsys, monkeypatch, *words):
    """Exit status and messages of a command in this process."""
    monkeypatch.setattr(sys, "argv", ["textmask", *map(str, words)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        status = exit_status()
    return status, capsys.readouterr().err


def exit_status():
    try:
        cli.main()
    except SystemExit as end:
        return end.code or 0
    return 0


def commands(work, data):
    """Name -> the arguments of a command."""
    run = work / "run"
    image = data.parent / read_manifest(data).rows[0].image
    prompt = "opacity in the left lung"
    fast = ("--no-surface", "--device", "cpu")
    return {
        "predict": ["predict", run, image, prompt, "--out", work / "masks", "--device", "cpu"],
        "evaluate": ["evaluate", run, data, *fast],
        "report": ["report", run],
        "export": ["export", run, "--target", "hf", "--out", work / "hub"],
        "resume": ["train", "--resume", run, "--device", "cpu", "--quiet"],
        "study": [
            *("study", "labels", "unet", data, *SMALL, "--fractions", "1"),
            *("--out", run / "study"),
        ],
    }


def result(name, work):
    """What a command has made, as far as it must be the same with a damaged file."""
    if name == "predict":
        return {k: v for k, v in content(work / "masks").items() if k.endswith("mask.png")}
    if name == "export":
        return (work / "hub" / "model.safetensors").read_bytes()
    if name == "resume":
        return training(work / "run")
    return {"evaluate": evaluation, "study": lambda run: study(run / "study")}.get(
        name, lambda run: len((run / "report.html").read_bytes()) > 1000
    )(work / "run")


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A finished run with an evaluation, a report, limits and a study."""
    work = tmp_path_factory.mktemp("whole")
    manifest = read_manifest(data)
    recipe = preset_recipe("unet", "smoke").override(
        "image_size=[32,32]", "threshold=0.05", "stages.*.epochs=2"
    )
    options = textmask.training.loop.TrainOptions(source=data, accelerator="cpu")
    textmask.training.loop.train(recipe, manifest, work / "run", progress=False, options=options)
    calibrate_run(work / "run", manifest, device="cpu")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("evaluate", "report", "study"):
            patch.setattr(sys, "argv", ["textmask", *map(str, commands(work, data)[name])])
            assert not exit_status()
    return work


@pytest.fixture(scope="module")
def expected():
    """Command -> its result with whole files, filled by the first test that needs it."""
    return {}


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_or_does_not_matter(
    name, whole, expected, data, tmp_path, monkeypatch, capsys
):
    for command in set(FILES[name].split()) - expected.keys():
        work = tmp_path / f"{command}-whole"
        shutil.copytree(whole, work)
        status, said = call(capsys, monkeypatch, *commands(work, data)[command])
        assert status == 0, said
        expected[command] = result(command, work)

    wrong, file = [], name.rpartition("/")[2]
    for damage in (flip, halve, remove, make_folder):
        for command in FILES[name].split():
            work = tmp_path / f"{command}-{damage.__name__}"
            shutil.copytree(whole, work)
            damage(work / "run" / name)
            status, said = call(capsys, monkeypatch, *commands(work, data)[command])
            if status == UNEXPECTED:
                wrong.append(f"{damage.__name__}, {command}: {said}")
            elif status and file not in said and "is not a run folder" not in said:
                wrong.append(f"{damage.__name__}, {command}: does not name the file: {said}")
            elif not status and result(command, work) != expected[command]:
                wrong.append(f"{damage.__name__}, {command}: another result, {said}")
    assert wrong == [], "\n".join(wrong)
