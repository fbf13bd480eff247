"""Identity by content: changed pixels are noticed, damage is found, a cache is never trusted blindly."""

import hashlib
import json
import os
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest

from textmask.data import cache, content
from textmask.data.cache import open_split
from textmask.data.cache_folder import cache_entries, keep_to_limit, remove_entries, size_limit
from textmask.data.content import content_hash, file_hashes
from textmask.data.manifest import Manifest, Row, read_manifest
from textmask.errors import ConfigError, DataWarning

SIZE = (32, 32)


@pytest.fixture
def data(phantom_manifest, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(phantom_manifest.root, folder)
    return read_manifest(folder / "manifest.csv")


def invert(path):
    cv2.imwrite(str(path), 255 - cv2.imread(str(path), cv2.IMREAD_UNCHANGED))


def test_images_that_change_in_place_are_read_again(data, tmp_path):
    before = open_split(data, "valid", SIZE, tmp_path / "cache")
    for row in data.rows_of("valid"):
        invert(data.root / row.image)
    after = open_split(data, "valid", SIZE, tmp_path / "cache")
    np.testing.assert_allclose(
        np.asarray(after.images, float), 255.0 - np.asarray(before.images), atol=1
    )
    assert before.content != after.content


def test_a_corrected_mask_changes_the_identity_of_the_split_and_of_no_other(data, tmp_path):
    names = ("train", "valid")
    before = {name: open_split(data, name, SIZE, tmp_path / "cache").content for name in names}
    path = data.root / data.rows_of("valid")[0].mask
    mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    mask[:5] = 255
    cv2.imwrite(str(path), mask)
    after = {name: open_split(data, name, SIZE, tmp_path / "cache").content for name in names}
    assert after["valid"] != before["valid"]
    assert after["train"] == before["train"]


@pytest.mark.parametrize("change", ["text", "row"])
def test_the_identity_follows_sentences_and_rows(data, tmp_path, change):
    before = open_split(data, "valid", SIZE, tmp_path / "cache").content
    rows = list(data.rows)
    at = next(i for i, row in enumerate(rows) if row.split == "valid")
    if change == "text":
        rows[at] = replace(rows[at], text="opacity in the right upper lung")
    else:
        del rows[at]
    changed = replace(data, rows=tuple(rows))
    assert open_split(changed, "valid", SIZE, tmp_path / "cache").content != before


def test_a_data_set_that_moved_is_the_same_and_needs_no_decoding(data, tmp_path, monkeypatch):
    before = open_split(data, "valid", SIZE, tmp_path / "cache")
    shutil.copytree(data.root, tmp_path / "moved")
    monkeypatch.setattr(cache, "read_image", lambda path: pytest.fail("decoded twice"))
    moved = open_split(
        read_manifest(tmp_path / "moved" / "manifest.csv"), "valid", SIZE, tmp_path / "cache"
    )
    assert moved.content == before.content
    np.testing.assert_array_equal(moved.images, before.images)


def test_files_are_read_once_and_again_when_told(data, tmp_path, monkeypatch):
    paths = [row.image for row in data.rows]
    first = file_hashes(data, paths, tmp_path)
    read = []
    real = content.hash_file
    monkeypatch.setattr(content, "hash_file", lambda path: (read.append(path), real(path))[1])
    assert file_hashes(data, paths, tmp_path) == first
    assert not read

    # a change that keeps size and time is found by reading everything
    path = data.root / paths[0]
    stat, changed = path.stat(), bytearray(path.read_bytes())
    changed[-20] ^= 1
    path.write_bytes(changed)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert file_hashes(data, paths, tmp_path) == first
    again = file_hashes(data, paths, tmp_path, verify=True)
    assert len(read) == len(set(paths))
    assert again[paths[0]] != first[paths[0]]
    assert [again[path] for path in paths[1:]] == [first[path] for path in paths[1:]]
    assert file_hashes(data, paths, tmp_path) == again


@pytest.mark.parametrize("damage", ["zeros", "noise", "short", "swapped", "torn", "not json"])
def test_a_damaged_cache_is_built_again_and_never_used(data, tmp_path, damage):
    folder = tmp_path / "cache"
    good = open_split(data, "valid", SIZE, folder).take(np.arange(8))
    images, masks = (next(folder.glob(f"*.{name}.memmap")) for name in ("images", "masks"))
    info = masks.with_name(masks.name.replace(".masks.memmap", ".json"))
    stat = masks.stat()
    if damage == "zeros":
        masks.write_bytes(bytes(stat.st_size))
        os.utime(masks, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    elif damage == "noise":
        images.write_bytes(np.random.default_rng(0).bytes(images.stat().st_size))
    elif damage == "short":
        masks.write_bytes(masks.read_bytes()[:-7])
    elif damage == "swapped":
        shutil.copy(images, masks)
    elif damage == "torn":
        info.write_text(info.read_text()[:50])
    else:
        info.write_text("[1, 2]")
    with pytest.warns(DataWarning, match="damaged; it is built again"):
        again = open_split(data, "valid", SIZE, folder)
    np.testing.assert_array_equal(again.images, good.images)
    np.testing.assert_array_equal(again.masks, good.masks)
    open_split(data, "valid", SIZE, folder)  # and is good from then on


def test_a_damaged_index_of_contents_is_made_again(data, tmp_path):
    paths = [row.image for row in data.rows]
    first = file_hashes(data, paths, tmp_path)
    for text in ("", "{}", json.dumps([99, {}]), json.dumps([1, {paths[0]: "x"}])):
        next(tmp_path.glob("*.contents")).write_text(text)
        assert file_hashes(data, paths, tmp_path) == first


def test_a_read_only_warm_cache_serves(data, tmp_path):
    folder = tmp_path / "cache"
    first = open_split(data, "valid", SIZE, folder)
    for path in (*folder.iterdir(), folder):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        again = open_split(data, "valid", SIZE, folder)
        np.testing.assert_array_equal(first.images, again.images)
    finally:
        folder.chmod(0o755)


def test_the_longest_unused_splits_leave_when_the_owner_sets_a_limit(data, tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    for name in ("train", "valid"):
        open_split(data, name, SIZE, folder)
    old = next(entry for entry in cache_entries(folder) if entry.split == "train")
    os.utime(old.stem.with_suffix(".json"), (1, 1))
    keep = next(entry for entry in cache_entries(folder) if entry.split == "valid")
    assert [entry.rows for entry in cache_entries(folder)] == [old.rows, 8]
    monkeypatch.setenv("TEXTMASK_CACHE_LIMIT", "0.00001G")
    keep_to_limit(keep.stem, folder)
    assert [entry.split for entry in cache_entries(folder)] == ["valid"]
    assert remove_entries(cache_entries(folder)) == keep.size
    assert not list(folder.glob("*.memmap"))


@pytest.mark.parametrize(
    ("text", "size"),
    [("500M", 500 << 20), ("2g", 2 << 30), ("1.5GB", 3 << 29), ("7", 7), ("", None)],
)
def test_sizes(monkeypatch, text, size):
    monkeypatch.setenv("TEXTMASK_CACHE_LIMIT", text)
    assert size_limit() == size


def test_a_limit_that_is_no_size_is_named(monkeypatch):
    monkeypatch.setenv("TEXTMASK_CACHE_LIMIT", "lots")
    with pytest.raises(ConfigError, match="TEXTMASK_CACHE_LIMIT"):
        size_limit()


def test_the_hash_of_rows_covers_them_as_json_lines(tmp_path):
    rows = (
        Row("a.png", "a_mask.png", 'opacité "left"\t', "train", label=(1, 3)),
        Row("b.png", None, "", "train"),
        Row("b.png", "a_mask.png", "\U0001f600", "train"),
    )
    manifest = Manifest(tmp_path, rows)
    hashes = {"a.png": "01", "b.png": "02", "a_mask.png": "03"}
    lines = []
    for row in rows:
        cells = [manifest.key(row), row.text, row.label, hashes[row.image], hashes.get(row.mask)]
        lines.append(json.dumps(cells))
    expected = hashlib.sha256("\n".join(["None", *sorted(lines)]).encode()).hexdigest()
    assert content_hash(manifest, rows, hashes) == expected
    assert content_hash(manifest, rows[::-1], hashes) == expected
