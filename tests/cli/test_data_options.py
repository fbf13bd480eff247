"""Every command that reads data takes the same options on how they are read, and passes all of them on."""

import shlex
from dataclasses import fields

import pytest
import typer
from typer.testing import CliRunner

from textmask.cli.app import app
from textmask.cli.data_options import OPTIONS
from textmask.errors import ConfigError
from textmask.methods.registry import get_method
from textmask.runs.data_options import DataOptions

# what has no meaning for a command, or another one
LEFT_OUT = {
    "data describe": {"laterality", "grammar"},  # of the prompts that it writes
    "data gap": {"laterality", "grammar"},  # of the prompts, which it does not parse
    "study folds": {"hold_out", "merge_valid"},  # it does not use the splits
}
TRAINING = (
    "train",
    "study ablation",
    "study labels",
    "study sensitivity",
    "study folds",
    "study tune",
)
TYPED = {
    "layout": "csv",
    "text_column": "words",
    "split_column": "part",
    "image_column": "scan",
    "mask_column": "outline",
    "sheet": "cases",
    "laterality": "patient",
    "hold_out": 0.25,
    "merge_valid": True,
    "grammar": "lesion",
    "mask_threshold": 3.5,
    "mask_values": "1,2",
    "classes": "names.csv",
    "absent": True,
    "resize_masks": "nearest",
    "allow_empty_text": True,
}  # fmt: skip


def data_commands(command=None, path=()):
    """(words, command) of every command that takes data."""
    command = command or typer.main.get_command(app)
    below = getattr(command, "commands", None)
    if below is not None:
        return [one for name, child in below.items() for one in data_commands(child, (*path, name))]
    words = {(one.metavar or "", one.name) for one in command.params}
    takes = ("DATA", "data") in words or ("DATA", "path") in words or ("", "data") in words
    # slices are written of volumes, which no other command reads
    return [(" ".join(path), command)] if takes and path != ("data", "slices") else []


FOUND = data_commands()


def test_the_commands_are_found():
    names = {name for name, _ in FOUND}
    assert len(FOUND) >= 17
    assert {"train", "evaluate", "calibrate", "export", "data describe", *TRAINING} <= names
    assert names >= LEFT_OUT.keys()


def test_each_option_of_data_can_be_typed():
    assert list(TYPED) == list(OPTIONS)
    assert OPTIONS.keys() == {one.name for one in fields(DataOptions)}


@pytest.mark.parametrize(("name", "command"), FOUND, ids=[name for name, _ in FOUND])
def test_every_option_reaches_the_reader(name, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    read_with = []

    def reader(path, options):
        read_with.append(options)
        raise ConfigError("far enough")

    monkeypatch.setattr("textmask.runs.read_data.read_data", reader)
    # Optuna is an extra
    monkeypatch.setattr("textmask.studies.grid.search_space.OptunaSampler", lambda seed: None)

    # the example of the command, on runs that exist
    (line,) = [line for line in command.help.splitlines() if "Example: " in line]
    words = shlex.split(line.partition("Example: ")[2])[1:]
    context = command.make_context(name, words[len(name.split()) :])
    given = context.params.get("run") or context.params.get("runs") or []
    for run in given if isinstance(given, list) else [given]:
        run.mkdir(parents=True)
        (run / "recipe.json").write_text(get_method("unet").recipe().smoke().to_json())
        (run / "data.json").write_text("{}")
    if name == "export":
        words += ["--data", "data/table.csv"]

    expected = {}
    for option, value in TYPED.items():
        if option in LEFT_OUT.get(name, ()) or (
            option == "allow_empty_text" and name not in TRAINING
        ):
            continue
        expected[option] = value
        flag = f"--{option.replace('_', '-')}"
        words += [flag] if value is True else [flag, str(value)]
    result = CliRunner().invoke(app, words)
    assert str(result.exception).startswith("far enough"), result.output
    assert read_with == [DataOptions(**expected)]
