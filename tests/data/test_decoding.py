"""The cache is built on all cores with the content of one core; `textmask data cache` builds it ahead."""

import threading
import warnings

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from textmask import parallel
from textmask.cli.app import app
from textmask.data.cache import open_split
from textmask.data.manifest import Manifest, Row, write_manifest
from textmask.errors import DataError
from textmask.io.images import read_image, resize_image
from textmask.parallel import map_in_order, usable_cores


def test_results_come_in_order_a_few_ahead_and_from_several_threads():
    started, names, gate = [], set(), threading.Barrier(3, timeout=20)

    def work(task):
        started.append(task)
        names.add(threading.current_thread().name)
        if task < 3:
            gate.wait()  # only three threads at once pass it
        return task * task

    found = map_in_order(work, range(500), threads=3)
    assert [next(found) for _ in range(5)] == [0, 1, 4, 9, 16]
    assert len(started) <= 5 + 3 * parallel.AHEAD + 3
    assert list(found) == [i * i for i in range(5, 500)]
    assert len(names) == 3
    assert usable_cores() >= 1
    assert list(map_in_order(work, [], threads=2)) == []


def test_the_first_error_in_order_is_raised_and_the_rest_is_dropped():
    started = []

    def work(task):
        started.append(task)
        if task in (4, 2):
            raise ValueError(f"task {task}")
        return task

    found = map_in_order(work, range(1000), threads=2)
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(ValueError, match="task 2"):
        next(found)
    assert len(started) < 30


@pytest.fixture
def data(tmp_path):
    """Gray images, then one in color; one image has rows in two places, and some rows have no mask."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(23):
        shape = (40 + i, 50) + ((3,) if i == 9 else ())
        cv2.imwrite(str(tmp_path / f"i{i}.png"), rng.integers(0, 255, shape, np.uint8))
        mask = np.zeros(shape[:2], np.uint8)
        mask[5 + i : 20 + i, 3:30] = 255
        cv2.imwrite(str(tmp_path / f"m{i}.png"), mask)
        named = None if i % 5 == 4 else f"m{i}.png"
        rows.append(Row(f"i{i}.png", named, f"prompt {i}", "train", labelled=named is not None))
    rows.insert(1, Row("i0.png", "m0.png", "another prompt", "train"))
    rows.append(Row("i3.png", "m3.png", "a third one", "train"))
    return Manifest(tmp_path, tuple(rows), "own")


@pytest.mark.parametrize("cores", [1, 4])
def test_the_cache_holds_what_one_image_after_the_other_gives(data, tmp_path, monkeypatch, cores):
    monkeypatch.setattr(parallel, "usable_cores", lambda: cores)
    steps = []
    split = open_split(
        data, "train", (32, 32), tmp_path / f"cache{cores}", lambda *step: steps.append(step)
    )
    for i, row in enumerate(data.rows):
        image = read_image(data.image_path(row))
        planes = resize_image(image, (32, 32))
        planes = planes[None] if planes.ndim == 2 else planes.transpose(2, 0, 1)
        np.testing.assert_array_equal(split.images[i], np.broadcast_to(planes, (3, 32, 32)))
        assert tuple(split.native_sizes[i]) == image.shape[:2]
        mask = np.zeros(image.shape[:2], np.uint8)
        if row.mask:
            mask = (cv2.imread(str(data.mask_path(row)), cv2.IMREAD_GRAYSCALE) > 127).astype(
                np.uint8
            )
        expected = cv2.resize(mask, (32, 32), interpolation=cv2.INTER_NEAREST_EXACT)
        assert np.mean(np.asarray(split.masks[i]) == expected) > 0.97  # the rounding of the resize
        assert split.has_mask[i] == (row.mask is not None)
    assert len(split.images.stored) == 23  # each image once
    assert [step[1] for step in steps if step[0] == "decoding"] == list(range(26))


def test_several_cores_write_the_same_bytes_as_one(data, tmp_path, monkeypatch):
    contents = []
    for cores in (1, 4):
        monkeypatch.setattr(parallel, "usable_cores", lambda cores=cores: cores)
        folder = tmp_path / f"cache{cores}"
        open_split(data, "train", (32, 32), folder)
        contents.append({path.name: path.read_bytes() for path in folder.glob("*.memmap")})
    assert contents[0] == contents[1]
    assert len(contents[0]) == 2


def test_the_first_wrong_row_is_the_one_that_is_named(data, tmp_path):
    for name in ("i17.png", "i8.png"):
        (tmp_path / name).write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"i8\.png"):
        open_split(data, "train", (32, 32), tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.part"))


def test_the_command_decodes_ahead_and_a_second_call_has_nothing_to_do(data, tmp_path, monkeypatch):
    write_manifest(data, tmp_path / "manifest.csv")
    words = ["data", "cache", str(tmp_path), "--size", "24", "--size", "32"]
    words += ["--cache-dir", str(tmp_path / "cache")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "24 x 24" in done.output
    assert "32 x 32" in done.output

    monkeypatch.setattr("textmask.data.cache._decode_same", pytest.fail)
    assert CliRunner().invoke(app, words).exit_code == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_split(data, "train", (24, 24), tmp_path / "cache").images.shape == (
            25,
            3,
            24,
            24,
        )

    wrong = CliRunner().invoke(app, [*words, "--split", "nope"])
    assert wrong.exit_code != 0
    assert "nope" in str(wrong.exception) + wrong.output
