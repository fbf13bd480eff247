"""`textmask cache`: what is kept, and how it is removed."""

import os
import shutil

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


def test_verify_finds_a_change_that_keeps_size_and_time(phantom_manifest, tmp_path, monkeypatch):
    monkeypatch.setenv("TEXTMASK_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "data"
    shutil.copytree(phantom_manifest.root, folder)
    path = folder / phantom_manifest.rows[0].image
    words = ["data", "inspect", str(folder / "manifest.csv"), "--verify"]
    assert "has the content that is known" in " ".join(runner.invoke(app, words).output.split())
    stat, changed = path.stat(), bytearray(path.read_bytes())
    changed[-20] ^= 1  # in the checksum of the last chunk, so that the image still opens
    path.write_bytes(changed)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    found = runner.invoke(app, words)
    assert (
        f"1 files changed although their size and time did not, e.g. {phantom_manifest.rows[0].image}"
        in (" ".join((found.output + (found.stderr or "")).split()))
    )
