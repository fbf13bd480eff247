"""Files appear whole or not at all, with the permissions that the user wants, and leave nothing behind."""

import os
import stat
import subprocess
import sys

import pytest
import torch

from textmask.errors import DataError
from textmask.io.files import (
    remove_unfinished,
    replacing,
    temporary_name,
    this_host,
    what_to_do,
    write_whole,
)
from textmask.runs.checkpoint import write_tensors


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(("umask", "expected"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_files_have_the_permissions_of_the_umask(tmp_path, umask, expected):
    before = os.umask(umask)
    try:
        write_whole(tmp_path / "a.json", b"{}")
        write_tensors(tmp_path / "weights.safetensors", {"a": torch.zeros(2)}, {})
    finally:
        os.umask(before)
    assert mode(tmp_path / "a.json") == mode(tmp_path / "weights.safetensors") == expected


def test_content_is_on_the_disk_before_the_name_appears(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: calls.append("fsync") or fsync(handle))
    monkeypatch.setattr(os, "replace", lambda *paths: calls.append("rename") or replace(*paths))
    write_whole(tmp_path / "a.json", b"{}")
    assert calls == ["fsync", "rename", "fsync"]


def test_an_unfinished_name_says_who_writes_it(tmp_path):
    first, second = temporary_name(tmp_path / "a.json"), temporary_name(tmp_path / "a.json")
    assert first != second
    assert f"{this_host()}-{os.getpid()}-" in first.name
    assert first.parent == tmp_path


def test_leftovers_of_dead_writers_are_removed_and_no_others(tmp_path):
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    dead = tmp_path / f".a.json.{this_host()}-{done.pid}-0011aabb.part"
    dead.write_bytes(b"half")
    folder = tmp_path / f".test.{this_host()}-{done.pid}-0011aabc.part"
    (folder / "cases").mkdir(parents=True)
    alive = temporary_name(tmp_path / "b.json")
    alive.write_bytes(b"half")
    elsewhere = tmp_path / f".a.json.otherhost-{done.pid}-0011aabb.part"
    elsewhere.write_bytes(b"half")
    own = tmp_path / ".notes.part"
    own.write_text("of the user")

    assert sorted(remove_unfinished(tmp_path)) == sorted([dead, folder])
    assert sorted(tmp_path.iterdir()) == sorted([alive, elsewhere, own])


def test_a_failed_block_leaves_the_old_file_and_nothing_else(tmp_path):
    write_whole(tmp_path / "a.json", b"old")
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "a.json") as part:
        part.with_name("missing").replace(part)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_bytes() == b"old"


def test_a_deleted_folder_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone/a\.json.*deleted or moved"):
        write_whole(tmp_path / "gone" / "a.json", b"")


def test_causes_are_told_apart():
    import errno

    texts = {
        what_to_do(number) for number in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.ENOENT)
    }
    assert len(texts) == 4
