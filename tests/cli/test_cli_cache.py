"""`textmask cache`: what is kept, and how it is removed."""

import os

from typer.testing import CliRunner

from textmask.cli.app import app
from textmask.data.cache import open_split

runner = CliRunner(env={"COLUMNS": "100"})


def call(*words):
    result = runner.invoke(app, ["cache", *words])
    assert result.exit_code == 0, result.output
    return result.output


def test_what_is_kept_is_listed_and_removed(phantom_manifest, tmp_path, monkeypatch):
    monkeypatch.setenv("TEXTMASK_CACHE", str(tmp_path / "cache"))
    assert "no limit" in call("ls")
    for split in ("train", "valid"):
        open_split(phantom_manifest, split, (32, 32))
    listed = call("ls")
    assert " train " in listed
    assert " valid " in listed
    assert " 24 " in listed
    old = next((tmp_path / "cache").glob("*.json"))
    os.utime(old, (1, 1))
    assert "removed 1 decoded splits" in call("clear", "--older-than", "2")
    assert len(list((tmp_path / "cache").glob("*.json"))) == 1
    assert "removed 1 decoded splits" in call("clear")
    assert not list((tmp_path / "cache").iterdir())


def test_a_limit_is_shown(monkeypatch, tmp_path):
    monkeypatch.setenv("TEXTMASK_CACHE", str(tmp_path))
    monkeypatch.setenv("TEXTMASK_CACHE_LIMIT", "2G")
    assert "limit: 2 GB" in call("ls")
