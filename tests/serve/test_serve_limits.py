"""Caps, hosts, places of jobs, workers, audit lines and run lengths, without HTTP."""

import asyncio
import hashlib
import json
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from textmask.errors import ConfigError
from textmask.io.orientation import VIEWS
from textmask.io.read import kind_of
from textmask.serve import workers
from textmask.serve.access import below, host_name, is_loopback, same_token
from textmask.serve.audit import Audit
from textmask.serve.limits import Limits
from textmask.serve.problems import Problem
from textmask.serve.rle import run_lengths
from textmask.serve.schemas import View
from textmask.serve.workers import Workers


def test_the_views_of_the_interface_are_those_of_orientation():
    assert set(get_args(View)) == set(VIEWS)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback(host):
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "10.0.0.1", "example.org", "localhost.example.org", ""]
)
def test_what_others_can_reach_is_not_loopback(host):
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("LocalHost:8000", "localhost"),
        ("[::1]:8000", "::1"),
        ("a.example", "a.example"),
        ("", ""),
        ("[::1", ""),
        ("127.0.0.1@evil.example", "evil.example"),
    ],
)
def test_names_of_hosts(header, name):
    assert host_name(header) == name


def test_tokens_are_compared_whatever_they_are():
    assert same_token("a" * 20, "a" * 20)
    assert not same_token("a" * 19, "a" * 20)
    assert not same_token("\u00e9\ud800", "a" * 20)


def test_kinds_of_files():
    assert kind_of(b"\x89PNG\r\n\x1a\n...") == "png"
    assert kind_of(b"\0" * 128 + b"DICM") == "dicom"
    assert kind_of(b"<svg onload=alert(1)>") is None
    assert kind_of(b"") is None


@pytest.mark.parametrize(
    "text", ["../x", "a/../../x", "/etc", "link", "link/x", "a\0b", "..\\x", "C:\\x"]
)
def test_no_path_leads_out_of_the_jobs_folder(tmp_path, text):
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / "link").symlink_to(tmp_path)
    with pytest.raises(Problem) as caught:
        below(root, text)
    assert caught.value.status_code == 403
    assert str(tmp_path) not in caught.value.message


def test_paths_inside_are_found(tmp_path):
    assert below(tmp_path, "a/../b") == tmp_path.resolve() / "b"
    assert below(tmp_path, ".") == tmp_path.resolve()


def test_limits_say_what_is_wrong():
    with pytest.raises(ConfigError, match="workers is 0"):
        Limits(workers=0)
    with pytest.raises(ConfigError, match="store"):
        Limits(max_pixels=10**9)


def test_a_full_queue_is_refused_and_gets_room_again():
    gate, started = threading.Event(), threading.Event()
    pool = Workers(threads=1, queue=1)

    def wait():
        started.set()
        gate.wait(10)
        return "done"

    async def go():
        first = asyncio.create_task(pool.run(wait))
        while not started.is_set():
            await asyncio.sleep(0.001)
        second = asyncio.create_task(pool.run(lambda: "second"))
        await asyncio.sleep(0)
        assert pool.full
        with pytest.raises(Problem) as caught:
            await pool.run(lambda: "third")
        assert (caught.value.status_code, pool.refused) == (429, 1)
        assert int(caught.value.headers["Retry-After"]) >= 1
        gate.set()
        assert [await first, await second] == ["done", "second"]
        while pool.pending:
            await asyncio.sleep(0.001)
        assert await pool.run(lambda: "fourth") == "fourth"

    asyncio.run(go())
    pool.close()
    with pytest.raises(Problem) as caught:
        asyncio.run(pool.run(lambda: None))
    assert caught.value.status_code == 503
    assert pool.pending == 0


def test_work_that_is_cancelled_while_it_waits_is_not_done():
    gate, done = threading.Event(), []
    workers = Workers(threads=1, queue=2)

    async def go():
        first = asyncio.create_task(workers.run(lambda: gate.wait(10)))
        left = asyncio.create_task(workers.run(lambda: done.append(1)))
        await asyncio.sleep(0.01)
        left.cancel()
        await asyncio.sleep(0)
        gate.set()
        await first
        await workers.run(lambda: None)

    asyncio.run(go())
    workers.close()
    assert (done, workers.pending) == ([], 0)


EVIL = 'left lung\n{"action": "forged"}\r\x1b[31m\u2028\u202e\ud800"'


def test_the_audit_log_holds_a_hash_and_one_line_each(tmp_path):
    path = tmp_path / "audit.jsonl"
    audit = Audit(path)
    audit.write("ask", "127.0.0.1\nx", sentence=EVIL, model_sha256="abc")
    audit.write("forget", "127.0.0.1")
    audit.close()
    text = path.read_text("ascii")
    assert text.count("\n") == 2
    assert "left lung" not in text
    assert not any(ord(c) < 32 for c in text.replace("\n", ""))
    first = json.loads(text.splitlines()[0])
    assert (
        first["sentence_sha256"]
        == hashlib.sha256(EVIL.encode("utf-8", "surrogatepass")).hexdigest()
    )
    assert first["action"] == "ask"
    assert first["time"].endswith("+00:00")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(Problem) as caught:  # what is not on record is not done
        audit.write("ask", "127.0.0.1")
    assert caught.value.status_code == 503


def test_sentences_are_recorded_where_asked_for_and_still_escaped(tmp_path):
    audit = Audit(tmp_path / "audit.jsonl", sentences=True)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: audit.write("ask", str(i), sentence=EVIL), range(40)))
    audit.close()
    lines = (tmp_path / "audit.jsonl").read_text("ascii").splitlines()
    assert {json.loads(line)["who"] for line in lines} == {str(i) for i in range(40)}
    assert json.loads(lines[0])["sentence"] == EVIL


def test_an_audit_log_that_cannot_be_opened_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="cannot be opened"):
        Audit(tmp_path / "no" / "audit.jsonl")
    Audit(None).write("ask", "x", sentence="y")


def decoded(runs):
    """COCO's rule, literally: column by column, background first."""
    rows, columns = runs["size"]
    flat, value = [], 0
    for count in runs["counts"]:
        flat += [value] * count
        value = 1 - value
    return np.array(flat, np.uint8).reshape((rows, columns), order="F")


@given(
    arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 1))
)
def test_run_lengths_come_back(mask):
    runs = run_lengths(mask)
    assert np.array_equal(decoded(runs), mask)
    assert sum(runs["counts"]) == mask.size
    assert all(runs["counts"][1:])


def test_run_lengths_are_cocos():
    mask = np.array([[0, 1], [1, 1]], np.uint8)
    assert run_lengths(mask) == {"size": [2, 2], "counts": [1, 3]}
    assert run_lengths(np.ones((2, 1), np.uint8))["counts"] == [0, 2]


@pytest.mark.parametrize(
    ("wanted", "threads", "kind", "expected"),
    [
        ("auto", 1, "cpu", (1, 1)),
        ("auto", 2, "cpu", (2, 1)),
        ("auto", 64, "cpu", (4, 16)),
        ("auto", 64, "cuda", (1, 64)),
        ("3", 64, "cuda", (3, 21)),
        ("8", 2, "cpu", (8, 1)),
    ],
)
def test_requests_at_the_same_time_share_the_threads(monkeypatch, wanted, threads, kind, expected):
    monkeypatch.setattr(workers.torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(workers, "find_device", lambda name: torch.device(kind))
    assert workers.worker_threads(wanted) == expected


@pytest.mark.parametrize("wanted", ["0", "-1", "1.5", "many", ""])
def test_a_number_of_workers_that_is_none(wanted):
    with pytest.raises(ConfigError, match="expected auto or a number of at least 1"):
        workers.worker_threads(wanted)


def test_calls_that_take_too_long_keep_nobody_waiting():
    gate, pool = threading.Event(), Workers(threads=2, queue=8)

    async def go():
        slow = [asyncio.create_task(pool.run(lambda: gate.wait(20), 0.05)) for _ in range(4)]
        quick = [asyncio.create_task(pool.run(lambda: "done", 5)) for _ in range(4)]
        assert await asyncio.wait_for(asyncio.gather(*quick), 10) == ["done"] * 4
        for one in slow:
            with pytest.raises(Problem) as caught:
                await one
            assert caught.value.code == "too_slow"
        assert pool.pending == 0
        # no more than a few threads are lost to such calls
        more = [asyncio.create_task(pool.run(lambda: gate.wait(20), 0.05)) for _ in range(3)]
        for one in more[:2]:
            with pytest.raises(Problem):
                await one
        assert len([t for t in threading.enumerate() if t.name == "textmask-worker"]) <= 6
        gate.set()
        await asyncio.wait(more)
        assert await asyncio.wait_for(pool.run(lambda: "after"), 10) == "after"

    asyncio.run(go())
    pool.close()
    assert pool.pending == 0


def test_closing_cancels_what_waits_and_leaves_what_takes_too_long():
    gate, begun = threading.Event(), threading.Event()
    pool = Workers(threads=1, queue=8)

    async def go():
        with pytest.raises(Problem):
            await pool.run(lambda: gate.wait(20), 0.05)
        running = asyncio.create_task(pool.run(lambda: (begun.set(), "ran")[1]))
        assert await running == "ran"

    asyncio.run(go())
    pool.close()  # does not wait for the first call
    gate.set()
    with pytest.raises(Problem) as caught:
        pool.in_line(lambda: None)
    assert caught.value.code == "stopping"
