"""The command line: help with examples, clear errors without traceback, exit codes."""

import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from textmask.cli import app
from textmask.data.manifest import write_manifest

COMMANDS = [
    ["train"], ["evaluate"], ["predict"], ["report"], ["table"], ["demo"],
    ["data", "inspect"], ["data", "convert"], ["data", "phantom"], ["methods", "list"], ["methods", "show"],
]  # fmt: skip


def textmask(*arguments, **env):
    """Run the real command in a process: exit code and everything printed."""
    done = subprocess.run(
        [sys.executable, "-m", "textmask", *map(str, arguments)],
        env={**os.environ, "COLUMNS": "300", **env}, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(command):
    result = CliRunner().invoke(app, [*command, "--help"])
    assert result.exit_code == 0
    assert "Example: textmask " + " ".join(command) in " ".join(result.output.split())


@pytest.fixture(scope="module")
def table(phantom_manifest):
    path = phantom_manifest.root / "cli.csv"
    write_manifest(phantom_manifest, path)
    return path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "biklip", "TABLE", "--out", "OUT"], ["unknown method 'biklip'", "Did you mean 'biclip'", "unet"]),
        (["train", "unet", "TABLE", "--preset", "light", "--out", "OUT"], ["unknown preset 'light'", "lite"]),
        (["train", "unet", "TABLE", "--set", "sed=1", "--out", "OUT"], ["'sed'", "Did you mean 'seed'"]),
        (["train", "unet", "TABLE", "--set", "seed=x", "--preset", "smoke", "--out", "OUT"], ["seed", "valid integer"]),
        (["train", "unet", "nowhere", "--out", "OUT"], ["nowhere"]),
        (["train", "unet", "--out", "OUT"], ["METHOD and DATA"]),
        (["evaluate", "OUT/none", "TABLE"], ["does not exist", "run folder"]),
        (["predict", "OUT/none", "nofilm.png", "left lung"], ["nofilm.png", "does not exist"]),
        (["methods", "show", "unett"], ["unknown method 'unett'", "statement_unet"]),
        (["data", "inspect", "nowhere"], ["nowhere"]),
        (["data", "inspect", "TABLE", "--laterality", "mine"], ["unknown laterality", "image, patient, unknown"]),
    ],
)
def test_a_users_mistake_is_one_message_without_traceback(arguments, said, table, tmp_path):
    arguments = [a.replace("TABLE", str(table)).replace("OUT", str(tmp_path / "out")) for a in arguments]
    code, output = textmask(*arguments)
    assert code == 2, output
    assert "Traceback" not in output
    flat = " ".join(output.split())
    assert all(part in flat for part in said), flat
    assert not (tmp_path / "out" / "recipe.json").exists()


@pytest.mark.slow
def test_train_evaluate_predict_report(table, tmp_path):
    run, env = tmp_path / "runs" / "m", {"TEXTMASK_CACHE": str(tmp_path / "cache")}
    code, output = textmask("train", "statement_unet", table, "--preset", "smoke", "--out", run, "--quiet", **env)
    assert code == 0, output
    code, output = textmask("evaluate", run, table, "--split", "test", **env)
    assert code == 0, output
    assert all(part in output for part in ("shuffled text", "empty text", "not trained", "n = 8", "dice_pooled"))
    code, output = textmask("evaluate", run, table, "--split", "tset", **env)
    assert code == 2
    assert "train, valid" in output
    film = tmp_path / "film.png"
    cv2.imwrite(str(film), np.zeros((40, 50), np.uint8))
    code, output = textmask("predict", run, film, "lower left lung", "--out", tmp_path / "masks")
    assert code == 0, output
    assert "image side" in output
    (tmp_path / "bad.png").write_bytes(b"no picture")
    code, output = textmask("predict", run, tmp_path / "bad.png", "lower left lung", "--out", tmp_path / "masks")
    assert code == 1
    assert "bad.png" in output
    code, output = textmask("report", run)
    assert code == 0, output
    assert (run / "report.html").exists()


@pytest.mark.slow
def test_demo(tmp_path):
    code, output = textmask("demo", "--out", tmp_path / "demo", "--preset", "smoke")
    assert code == 0, output
    page = (tmp_path / "demo" / "report.html").read_text()
    assert "two opposite sentences" in page
    assert page.count("data:image/png;base64,") >= 4


def test_methods_list_and_show():
    code, output = textmask("methods", "list")
    assert code == 0
    assert all(name in output for name in ("biclip", "unet", "text_prior", "statement_unet"))
    code, output = textmask("methods", "show", "biclip", "--preset", "smoke")
    assert code == 0, output
    assert "t' = t + g_BMF([t; i])" in output
    assert "trained parameters (smoke)" in output


def test_inspect_and_convert(table, tmp_path):
    code, output = textmask("data", "inspect", table, "--json", tmp_path / "findings.json")
    assert code == 0, output
    assert "train" in output
    assert json.loads((tmp_path / "findings.json").read_text())
    out = table.parent / "converted.csv"
    code, output = textmask("data", "convert", table, "--out", out)
    assert code == 0, output
    assert out.read_text().startswith("image,mask,text,split")
    code, output = textmask("data", "convert", table, "--out", tmp_path / "elsewhere.csv")
    assert code == 2
    assert not (tmp_path / "elsewhere.csv").exists()


def test_version():
    from textmask import __version__

    assert textmask("--version") == (0, f"{__version__}\n")
