"""A folder is replaced as a whole, and nothing of the user's is lost."""

import pytest

from textmask.io import staging
from textmask.io.staging import staged


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("exchange", [True, False])
def test_the_new_folder_takes_the_place_of_the_old_one(tmp_path, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(staging, "_exchange", lambda one, other: False)
    out = tmp_path / "test"
    (out / "mine").mkdir(parents=True)
    (out / "mine" / "notes.txt").write_text("of the user")
    (out / "table.md").write_text("old")
    with staged(out) as folder:
        (folder / "table.md").write_text("new")
        assert (out / "table.md").read_text() == "old"

    assert names(tmp_path) == ["test"]
    assert names(out) == ["mine", "table.md"]
    assert (out / "table.md").read_text() == "new"
    assert (out / "mine" / "notes.txt").read_text() == "of the user"


def test_after_an_error_the_old_folder_is_unchanged(tmp_path):
    out = tmp_path / "deep" / "test"
    with staged(out) as folder:
        (folder / "table.md").write_text("old")
    with pytest.raises(FileNotFoundError), staged(out) as folder:
        (folder / "missing").replace(folder / "table.md")
    assert names(out.parent) == ["test"]
    assert (out / "table.md").read_text() == "old"


def test_two_steps_go_back_if_the_second_fails(tmp_path, monkeypatch):
    import os

    out = tmp_path / "test"
    out.mkdir()
    (out / "table.md").write_text("old")
    monkeypatch.setattr(staging, "_exchange", lambda one, other: False)
    rename, calls = os.rename, []

    def failing(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OSError, match="No space"), staged(out) as folder:
        (folder / "table.md").write_text("new")
    assert (out / "table.md").read_text() == "old"
    assert names(tmp_path) == ["test"]
