"""Impossible values of settings, seeds, sizes, devices and files: one clear error before any work, no traceback."""

import sys
import warnings

import pytest

from textmask.cli import app as cli
from textmask.config import MAX_SEED
from textmask.data.manifest import write_manifest
from textmask.errors import ConfigError
from textmask.methods.registry import build_method, preset_recipe


@pytest.fixture
def table(phantom_manifest):
    path = phantom_manifest.root / "bounds.csv"
    write_manifest(phantom_manifest, path)
    return path


@pytest.fixture
def refused(monkeypatch, capfd, tmp_path, table):
    """Run the command line: it must exit with 2, without a traceback and without leaving a folder; returns stderr."""

    def run(*arguments):
        words = [
            str(word).replace("OUT", str(tmp_path / "out")).replace("TABLE", str(table))
            for word in arguments
        ]
        monkeypatch.setattr(sys, "argv", ["textmask", *words])
        monkeypatch.setattr(cli, "handle_signals", lambda: None)
        with warnings.catch_warnings(), pytest.raises(SystemExit) as stopped:
            cli.main()
        said = capfd.readouterr().err
        assert stopped.value.code == 2, said
        assert "Traceback" not in said
        assert "unexpected" not in said
        assert not (tmp_path / "out").exists()
        return " ".join(said.split())

    return run


SETTINGS = {  # setting -> part of the message
    "image_size=0": "image_size",
    "image_size=[0,0]": "greater than or equal to 8",
    "image_size=[1,1]": "greater than or equal to 8",
    "image_size=[-32,32]": "greater than or equal to 8",
    "image_size=[1000000,1000000]": "less than or equal to 8192",
    "seed=-1": "greater than or equal to 0",
    f"seed={MAX_SEED + 1}": "less than or equal to",
    f"seed=1{'0' * 5000}": "seed",
    "stages=[]": "at least one stage",
    "stages.*=3": "no field of it",
    "stages.²=3": "stage",
    f"stages.{'9' * 5000}.epochs=3": "stage",
    "stages.*.epochs=10000000000": "less than or equal to",
    "stages.*.batch_size=0": "greater than or equal to 1",
    "stages.*.batch_size=1000000000000": "less than or equal to",
    "stages.*.optim.lr=NaN": "lr",
    "stages.*.optim.lr=Infinity": "finite",
    "stages.*.optim.betas=[2,3]": "betas",
    "stages.*.augment.scale=[0,0]": "scale",
    "stages.*.augment.scale=[2,1]": "smaller number first",
    "=1": "field",
    "threshold": "has no '='",
    "threshold=" + "[" * 100_000: "threshold",
    "widths=[0,0,0,0,0]": "widths",
}
COMMANDS = {
    "train": ["train", "unet", "TABLE", "--out", "OUT"],
    "folds": ["study", "folds", "unet", "TABLE", "--out", "OUT"],
    "ablation": ["study", "ablation", "c2seg", "TABLE", "--table", "table3", "--out", "OUT"],
    "labels": ["study", "labels", "unet", "TABLE", "--out", "OUT"],
    "sensitivity": [
        "study",
        "sensitivity",
        "unet",
        "TABLE",
        "--field",
        "threshold=0.4,0.5",
        "--out",
        "OUT",
    ],
}


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda text: text[:40])
def test_an_impossible_setting_is_named(refused, setting):
    said = refused(*COMMANDS["train"], "--preset", "smoke", "--set", setting)
    assert SETTINGS[setting] in said


@pytest.mark.parametrize("command", list(COMMANDS)[1:])
@pytest.mark.parametrize("setting", ["image_size=[0,0]", "threshold=2", "stages.*=3"])
def test_every_command_with_settings_refuses_them(refused, command, setting):
    said = refused(*COMMANDS[command], "--preset", "smoke", "--set", setting)
    assert setting.split("=")[0].split(".")[0] in said


@pytest.mark.parametrize("seeds", ["-1", "x", "", "1.5", str(MAX_SEED + 1), "1" * 5000])
@pytest.mark.parametrize("command", ["train", "ablation", "labels"])
def test_impossible_seeds_are_named(refused, command, seeds):
    said = refused(*COMMANDS[command], "--preset", "smoke", f"--seeds={seeds}")
    assert "--seeds" in said
    assert "0,1,2" in said


@pytest.mark.parametrize("seed", ["-1", str(MAX_SEED + 1), "x"])
@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", "default", "TABLE", "--out", "OUT"],
        ["data", "phantom", "--out", "OUT"],
        ["study", "folds", "unet", "TABLE", "--out", "OUT"],
        ["study", "ambiguity", "default", "TABLE", "--out", "OUT"],
        ["study", "prompts", "default", "TABLE", "--out", "OUT"],
        ["study", "text-noise", "default", "TABLE", "--out", "OUT"],
        ["study", "corruption", "default", "TABLE", "--out", "OUT"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_an_impossible_seed_is_refused_before_the_work(refused, command, seed):
    assert "--seed" in refused(*command, f"--seed={seed}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "unet", "TABLE", "--out", "OUT", "--devices", "0"], "--devices"),
        (["train", "unet", "TABLE", "--out", "OUT", "--devices", "-1"], "--devices"),
        (["train", "unet", "TABLE", "--out", "OUT", "--devices", "1000000"], "--devices"),
        (["data", "phantom", "--out", "OUT", "--size", "0"], "--size"),
        (["data", "phantom", "--out", "OUT", "--size", "1000000"], "--size"),
        (["data", "phantom", "--out", "OUT", "--difficulty", "-1"], "--difficulty"),
        (["study", "ambiguity", "default", "TABLE", "--out", "OUT", "--count", "0"], "--count"),
    ],
)
def test_impossible_numbers_are_named(refused, words, said):
    assert said in refused(*words)


BAD = {"bytes": b"\xff\xfe\x00\xd8", "text": b"{not json", "list": b"[1, 2]", "empty": b""}


@pytest.mark.parametrize("content", BAD)
@pytest.mark.parametrize(
    "words",
    [
        ["train", "--recipe", "FILE.json", "TABLE", "--out", "OUT"],
        ["train", "unet", "FILE.csv", "--out", "OUT"],
        ["train", "unet", "FILE.jsonl", "--out", "OUT"],
        ["train", "unet", "TABLE", "--out", "OUT", "--preset", "smoke", "--labelled-list", "FILE.txt"],
        ["train", "unet", "TABLE", "--out", "OUT", "--preset", "smoke", "--classes", "FILE.csv"],
        ["data", "inspect", "FILE.csv"],
        ["data", "inspect", "FILE.json"],
        ["data", "convert", "FILE.xlsx", "--out", "OUT"],
        ["study", "reading", "FILE.csv"],
        ["verify-table", "FILE.csv"],
        ["verify-table", "FILE.md"],
        ["predict", "default", "FILE.csv", "--out", "OUT"],
        ["import-weights", "FILE.pth", "--recipe", "FILE.pth", "--out", "OUT"],
    ],
    ids=lambda words: " ".join(words[:4]),
)  # fmt: skip
def test_an_unreadable_file_is_named(refused, tmp_path, words, content):
    name = next(word for word in words if word.startswith("FILE"))
    path = tmp_path / name
    path.write_bytes(BAD[content])
    said = refused(*[str(path) if word == name else word for word in words])
    assert path.name in said


@pytest.mark.parametrize("method", ["unet", "ukan", "statement_unet", "biclip"])
@pytest.mark.parametrize("widths", ["[]", "[0,0,0,0,0]", "[-1,2,3,4,5]"])
def test_a_network_that_cannot_be_built_is_a_wrong_setting(method, widths):
    with pytest.raises(ConfigError, match="widths"):
        build_method(preset_recipe(method, "smoke").override(f"widths={widths}"))
