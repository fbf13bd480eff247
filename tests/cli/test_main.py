"""How the command ends: one line for a fault, SIGTERM as Ctrl-C, a second Ctrl-C at once."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

RUN = """
import sys, time
from textmask.cli import app as module
def command():
    {body}
module.app = command
module.main()
"""


def started(body, **environment):
    code = RUN.format(body=body)
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "400", **environment},
        # a test that runs in the background of a script inherits that Ctrl-C is ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_an_unexpected_error_is_one_line_and_a_report_file(tmp_path):
    process = started("raise ZeroDivisionError('by nothing')", TMPDIR=str(tmp_path))
    _, text = process.communicate()
    assert process.returncode == 3
    assert "Traceback" not in text
    assert "unexpected ZeroDivisionError: by nothing" in text
    report = Path(re.search(r"\S+textmask-error-\w+\.txt", text)[0])
    assert "ZeroDivisionError: by nothing" in report.read_text()
    assert "Traceback" in report.read_text()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("open('/nowhere/a.csv')", "/nowhere/a.csv: No such file or directory. Check"),
        ("raise OSError(28, 'No space left on device', 'a.npz')", "a.npz: No space left"),
        ("raise PermissionError(13, 'Permission denied', 'a.npz')", "Change the permissions"),
    ],
)
def test_causes_are_told_apart_with_the_name_of_the_file(body, words):
    process = started(body)
    _, text = process.communicate()
    assert process.returncode == 2
    assert words in text


def test_a_narrow_terminal_shows_a_code_instead_of_failing():
    process = started("print('Größe \\u2265 3')", PYTHONIOENCODING="ascii")
    out, text = process.communicate()
    assert process.returncode == 0, text
    assert out == "Gr\\xf6\\xdfe \\u2265 3\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_sigterm_ends_like_ctrl_c(number):
    process = started("print('ready', flush=True); time.sleep(60)")
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, text = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "stopped" in text
    assert "Traceback" not in text


def test_a_second_ctrl_c_ends_at_once():
    body = """
    try:
        print('ready', flush=True); time.sleep(60)
    except KeyboardInterrupt:
        print('slow', flush=True); time.sleep(60)
    """
    process = started(body.strip())
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "slow\n"
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, text = process.communicate(timeout=30)
    assert process.returncode == 130
    assert time.monotonic() - began < 10
    assert "Traceback" not in text


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.0, 5.0])
def test_ctrl_c_at_any_moment_is_one_line(delay, phantom_manifest, tmp_path):
    """While modules are imported, data are read, and a model trains."""
    words = ["train", "unet", phantom_manifest.root / "manifest.csv", "--out", tmp_path / "run"]
    words += ["--preset", "smoke", "--set", "stages.*.epochs=5000", "--device", "cpu"]
    code = "import textmask.__main__ as m; print('ready', flush=True); m.start()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TEXTMASK_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.02 + delay)
    process.send_signal(signal.SIGINT)
    _, text = process.communicate(timeout=60)
    assert process.returncode == 130, text
    assert "Traceback" not in text
    assert text.strip().splitlines()[-1].startswith("stopped")
