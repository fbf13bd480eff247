"""Every command shows within two seconds that it works: a line of text, a bar or a spinner."""

import io
import shlex
import time
from collections import defaultdict
from contextlib import nullcontext

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from textmask.cli import app as cli
from textmask.cli.app import app
from textmask.cli.bars import LINE_AFTER_S, LINE_EVERY_S, SILENCE_S, Bars
from textmask.cli.options import say
from textmask.data.manifest import write_manifest
from textmask.progress import displayed_by, report, silenced, with_progress


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def terminal():
    return Console(file=io.StringIO(), force_terminal=True, width=80)


@pytest.fixture
def bars():
    """Bars on a terminal whose clock is moved by hand; nothing watches it but the test."""
    drawn = Bars(terminal(), Clock())
    yield drawn
    drawn.__exit__(None, None, None)


def text(bars):
    return bars.console.file.getvalue()


def test_a_quick_command_draws_nothing_and_a_slow_one_within_two_seconds(bars):
    assert SILENCE_S * 1.2 < 2  # it is looked at five times per silence
    bars.clock.now += SILENCE_S - 0.01
    bars.look()
    assert text(bars) == ""
    bars.clock.now += 0.02
    bars.look()
    assert "working" in text(bars)


def test_running_tasks_have_bars(bars):
    bars.step("decoding [x]", 0, 9)
    bars.step("hashing", 1, 4)
    bars.step("hashing", 4, 4)
    bars.clock.now += 2
    bars.look()
    shown = text(bars)
    assert "decoding [x]" in shown
    assert "0/9" in shown
    assert "hashing" not in shown
    assert "working" not in shown
    bars.step("decoding [x]", 9, 9)
    bars.step("scoring", 3, 5)
    bars.hide()
    assert "3/5" in text(bars)[len(shown) :]


def test_lines_and_other_displays_are_not_drawn_over(bars, capsys):
    with displayed_by(bars):
        bars.clock.now += 2
        say("a line")
        bars.look()
        assert text(bars) == ""
        with silenced():
            bars.clock.now += 2
            report("decoding", 1, 9)
            bars.look()
            assert text(bars) == ""
        bars.look()
        assert text(bars) == ""
        bars.clock.now += 2
        bars.look()
        assert "working" in text(bars)
    report("to nobody", 1, 2)
    assert capsys.readouterr().out == "a line\n"


def test_the_log_of_a_job_gets_lines():
    bars = Bars(Console(file=io.StringIO()), Clock())
    with bars:
        for seconds in (0, LINE_AFTER_S - 1, 2, 2, LINE_EVERY_S):
            bars.clock.now += seconds
            bars.step("decoding", int(bars.clock.now - 100), 1000)
            bars.look()
    assert text(bars).splitlines() == ["decoding: 11 of 1000", "decoding: 73 of 1000"]


def test_a_loop_reports_before_its_first_item():
    seen = []
    items = with_progress("ab", "letters", lambda *step: seen.append(step))
    next(items)
    assert seen == [("letters", 0, 2)]
    assert list(items) == ["b"]
    assert seen[1:] == [("letters", 1, 2), ("letters", 2, 2)]


def leaves(command=None, path=()):
    command = command or typer.main.get_command(app)
    below = getattr(command, "commands", None)
    if below is None:
        return [(path, command)]
    return [leaf for name, child in below.items() for leaf in leaves(child, (*path, name))]


@pytest.mark.parametrize("path", [path for path, _ in leaves()], ids=" ".join)
def test_every_command_shows_that_it_works(path, monkeypatch):
    console = terminal()
    monkeypatch.setattr(cli, "err_console", console)
    monkeypatch.setattr(cli, "Bars", lambda console: Bars(console, silence_s=0.02))
    group = typer.main.get_command(app)
    command = group
    for name in path:
        command = command.commands[name]
    (line,) = [line for line in command.help.splitlines() if "Example: " in line]

    def slow(**options):
        end = time.monotonic() + 20
        while "working" not in console.file.getvalue():
            assert time.monotonic() < end

    monkeypatch.setattr(command, "callback", slow)
    group.main(shlex.split(line.partition("Example: ")[2])[1:], standalone_mode=False)
    assert "working" in console.file.getvalue()


class Recorder:
    """A display that keeps what it is told."""

    def __init__(self, console):
        self.steps = defaultdict(list)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def step(self, task, done, total):
        self.steps[task].append((done, total))

    def hide(self):
        pass

    def paused(self):
        return nullcontext()


@pytest.fixture
def reported(monkeypatch, tmp_path):
    """Run a command; returns what each of its tasks reported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TEXTMASK_CACHE", str(tmp_path / "cache"))
    recorders = []

    def recorder(console):
        recorders.append(Recorder(console))
        return recorders[-1]

    monkeypatch.setattr(cli, "Bars", recorder)

    def run(*words):
        result = CliRunner().invoke(app, list(map(str, words)))
        assert result.exit_code == 0, (words, result.output, result.exception)
        return recorders[-1].steps

    return run


@pytest.fixture
def table(phantom_manifest, tmp_path):
    path = phantom_manifest.root / f"{tmp_path.name}.csv"
    write_manifest(phantom_manifest, path)
    yield path
    path.unlink()


def check_bars(steps, *tasks):
    for task in tasks:
        done, total = steps[task][-1]
        assert done == total > 1, task


def test_loops_over_files_have_bars(reported, table):
    check_bars(reported("data", "inspect", table), "file contents", "mask values", "images")
    check_bars(reported("data", "inspect", table, "--verify"), "file contents")
    out = table.with_name("described.csv")
    check_bars(reported("data", "describe", table, "--out", out), "masks")
    for path in (out, out.with_suffix(".README.md")):
        path.unlink()


@pytest.mark.slow
def test_loops_of_models_have_bars(reported, table):
    train = ("train", "text_prior", table, "--preset", "smoke", "--out", "run", "--quiet")
    check_bars(reported(*train), "mask values", "decoding")
    check_bars(reported("evaluate", "run", table), "decoding", "text_prior", "distances")
    check_bars(reported("calibrate", "run", table, "--split", "train"), "images")
    check_bars(reported("study", "prompts", "run", table, "--split", "valid"), "perturbations")
    check_bars(reported("predict", "run", table.parent / "images", "left lung"), "images")
