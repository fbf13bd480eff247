"""One writer per folder; the message names the holder, and a dead holder holds nothing."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from textmask.errors import BusyError
from textmask.io.files import this_host
from textmask.io.locks import one_writer, only_replacer, only_writer

HOLD = """
import sys, time
from pathlib import Path
from textmask.io.locks import only_writer
with only_writer(Path(sys.argv[1])):
    Path(sys.argv[1], "content").write_text("x")
    print("held", flush=True)
    time.sleep(60)
"""


def holding(folder):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    return process


def test_a_second_process_is_refused_until_the_first_one_dies(tmp_path):
    out = tmp_path / "run"
    process = holding(out)
    try:
        with pytest.raises(BusyError) as caught, only_writer(out):
            pass
        message = str(caught.value)
        assert f"process {process.pid} on {this_host()}, since 20" in message
        assert str(out) in message
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    with only_writer(out):
        assert (out / ".lock.json").exists()
    assert [path.name for path in out.iterdir()] == ["content"]


def test_a_block_inside_another_one_is_the_same_writer_but_a_thread_is_not(tmp_path):
    problems = []

    def write():
        try:
            with only_writer(tmp_path):
                pass
        except BusyError as error:
            problems.append(str(error))

    with only_writer(tmp_path), only_writer(tmp_path):
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
        assert str(os.getpid()) in problems[0]
    write()
    assert len(problems) == 1


def test_the_lock_of_a_replaced_folder_stands_next_to_it(tmp_path):
    out = tmp_path / "evaluation" / "test"
    with only_replacer(out):
        assert not out.exists()
        with pytest.raises(BusyError), _in_new_context(out):
            pass
    assert not out.parent.exists()


def _in_new_context(out):
    from textmask.io import locks

    locks._HELD.set(())
    return only_replacer(out)


def test_nothing_is_left_of_a_folder_in_which_nothing_was_written(tmp_path):
    @one_writer
    def write(out, text):
        raise ValueError(text)

    with pytest.raises(ValueError, match="wrong"):
        write(tmp_path / "run", text="wrong")
    assert list(tmp_path.iterdir()) == []


def test_only_the_first_process_of_a_training_takes_the_lock(tmp_path, monkeypatch):
    @one_writer
    def write(out):
        return sorted(path.name for path in out.iterdir())

    assert write(tmp_path) == [".lock", ".lock.json"]
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert write(tmp_path) == []
