"""Shards: the same rows, files and results as the folder they were made of; resumed, checked, unpacked once."""

import gc
import io
import json
import shutil
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import webdataset
from typer.testing import CliRunner

from textmask.cli.app import app
from textmask.data import shard_files, shards
from textmask.data.cache import open_split
from textmask.data.cache_folder import remove_other_files, unpacked_folders
from textmask.data.manifest import read_manifest, write_manifest
from textmask.data.mask_scan import decide_rule
from textmask.data.shard_files import read_index, stored_index, unpack
from textmask.data.shards import write_shards
from textmask.errors import ConfigError, DataError
from textmask.evaluation.evaluate import EvaluationOptions, evaluate
from textmask.io import tar_samples
from textmask.layouts.read import detect, read_layout
from textmask.methods.registry import get_method
from textmask.training.loop import train

pytestmark = pytest.mark.filterwarnings("ignore:.*rows have no text")
SMALL = 25_000  # bytes: several shards of the phantoms


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TEXTMASK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def many(phantom_manifest, tmp_path):
    """Some phantoms with what a row can say: two rows of an image, a group, a label, odd texts."""
    root = tmp_path / "data"
    shutil.copytree(phantom_manifest.root, root)
    rows = list(phantom_manifest.rows[:10])
    rows[1] = replace(rows[0], text='=lower, "left" lung')
    rows[2] = replace(rows[2], group="patient 7", text="")
    rows[3] = replace(rows[3], mask=None, labelled=False)
    rows[4] = replace(rows[4], label=(255,), grammar="lesion")
    return replace(phantom_manifest, root=root, rows=tuple(rows), name="mine")


def test_shards_have_the_rows_files_and_pixels_of_the_folder(many, cache, tmp_path):
    index = write_shards(many, tmp_path / "shards", shard_bytes=SMALL)
    assert index.complete
    assert len(index.shards) > 2
    assert sum(shard.images for shard in index.shards) == 9

    assert detect(tmp_path / "shards") == "shards"
    for path in (tmp_path / "shards", tmp_path / "shards/shards.json"):
        found = read_layout(path)
        assert found.rows == many.rows
        assert found.hash() == many.hash()
        assert found.name == "mine"
        assert found.mask_rule == decide_rule(many).mask_rule
        assert [found.key(row) for row in found.rows] == [many.key(row) for row in many.rows]
    assert found.root.is_relative_to(cache)
    for row in many.rows:
        assert found.image_path(row).read_bytes() == many.image_path(row).read_bytes()
        if row.mask:
            assert found.mask_path(row).read_bytes() == many.mask_path(row).read_bytes()

    (split,) = many.splits
    ours, theirs = (open_split(m, split, (32, 32)) for m in (found, many))
    assert ours.content == theirs.content
    np.testing.assert_array_equal(np.asarray(ours.images), np.asarray(theirs.images))
    np.testing.assert_array_equal(ours.masks, theirs.masks)


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # it leaves files open
def test_any_reader_of_webdataset_reads_them(many, cache, tmp_path):
    index = write_shards(many, tmp_path / "shards", shard_bytes=SMALL)
    urls = [str(tmp_path / "shards" / shard.name) for shard in index.shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    gc.collect()
    assert len(samples) == 9
    first = json.loads(samples[0]["json"])
    assert samples[0]["image.png"] == many.image_path(many.rows[0]).read_bytes()
    assert [row["text"] for row in first["rows"]] == [many.rows[0].text, many.rows[1].text]
    assert [row["key"] for row in first["rows"]] == [many.key(row) for row in many.rows[:2]]
    assert {"split", "group", "laterality", "labelled", "label", "mask"} <= set(first["rows"][0])
    assert first["mask_rule"]["kind"] == "binary"


def test_a_stopped_writer_continues_and_makes_the_same_bytes(many, cache, tmp_path, monkeypatch):
    whole = write_shards(many, tmp_path / "whole", shard_bytes=SMALL)
    real, written = shards.write_samples, []

    def stops(path, samples):
        written.append(path.name)
        if path.name == "shard-00002.tar":
            raise KeyboardInterrupt
        real(path, samples)

    monkeypatch.setattr(shards, "write_samples", stops)
    with pytest.raises(KeyboardInterrupt):
        write_shards(many, tmp_path / "out", shard_bytes=SMALL)
    assert [one.name for one in stored_index(tmp_path / "out").shards] == [
        "shard-00000.tar",
        "shard-00001.tar",
    ]
    with pytest.raises(DataError, match="not complete, it has 2 shards"):
        read_layout(tmp_path / "out")

    written.clear()
    monkeypatch.setattr(
        shards, "write_samples", lambda path, rest: (written.append(path.name), real(path, rest))
    )
    index = write_shards(many, tmp_path / "out", shard_bytes=SMALL)
    assert "shard-00000.tar" not in written
    assert index.shards == whole.shards
    for shard in index.shards:
        ours, theirs = (tmp_path / name / shard.name for name in ("out", "whole"))
        assert ours.read_bytes() == theirs.read_bytes()
    assert not list((tmp_path / "out").glob(".*.part"))

    # a finished folder is left as it is; other data are refused
    written.clear()
    assert write_shards(many, tmp_path / "out", shard_bytes=SMALL) == index
    assert not written
    with pytest.raises(DataError, match="shards of other data, or of another size"):
        write_shards(many, tmp_path / "out", shard_bytes=2 * SMALL)


def test_another_reading_of_the_same_files_reaches_the_index(many, cache, tmp_path, monkeypatch):
    out = tmp_path / "out"
    index = write_shards(many, out, shard_bytes=SMALL)
    assert not read_layout(out).resize_masks
    written = []
    monkeypatch.setattr(shards, "write_samples", lambda path, rest: written.append(path.name))

    other = replace(many, resize_masks=True, classes={255: "lung"}, name="ours")
    again = write_shards(other, out, shard_bytes=SMALL)
    assert (again.shards, again.complete, written) == (index.shards, True, [])
    read = read_layout(out)
    assert (read.resize_masks, read.classes, read.name) == (True, {255: "lung"}, "ours")


def test_a_damaged_or_missing_shard_is_named(many, cache, tmp_path):
    out = tmp_path / "shards"
    index = write_shards(many, out, shard_bytes=SMALL)
    broken = out / index.shards[1].name
    data = bytearray(broken.read_bytes())
    data[700] ^= 1
    broken.write_bytes(data)
    with pytest.raises(DataError, match=r"shard-00001\.tar: is damaged: its checksum is .* Copy"):
        read_layout(out)
    broken.unlink()
    with pytest.raises(DataError, match=r"shard-00001\.tar: cannot be read"):
        read_layout(out)
    broken.write_bytes(data)
    assert write_shards(many, out, shard_bytes=SMALL) == index  # it is written again
    data[700] ^= 1
    assert broken.read_bytes() == data
    assert read_layout(out).rows == many.rows

    (out / "manifest.csv").write_text("image,text,split\n")
    with pytest.raises(DataError, match=r"manifest\.csv: is damaged"):
        read_layout(out)
    (out / "shards.json").write_text("{")
    with pytest.raises(DataError, match=r"shards\.json: cannot be read as the index"):
        read_layout(out)


def test_a_shard_from_elsewhere_cannot_write_outside_of_its_folder(many, cache, tmp_path):
    out = tmp_path / "shards"
    index = write_shards(many, out, shard_bytes=1 << 30)
    path = out / index.shards[0].name
    files = {"json": json.dumps({"files": {"image.png": "../../evil.png"}}).encode()}
    tar_samples.write_samples(path, [("0", {**files, "image.png": b"x"})])
    shard = replace(index.shards[0], checksum=shard_files.hash_file(path))
    replace(index, shards=(shard,)).write()
    with pytest.raises(DataError, match="climbs out"):
        read_layout(out)
    assert not list(tmp_path.rglob("evil.png"))
    replace(index, shards=(replace(shard, name="../shards/shard-00000.tar"),)).write()
    with pytest.raises(DataError, match="is not the name of a shard"):
        read_layout(out)


def test_a_shard_that_would_unpack_to_more_than_it_has_is_refused(tmp_path):
    path = tmp_path / "shard.tar"
    for mode in ("w:gz", "w"):
        with tarfile.open(path, mode) as tar:
            file = tarfile.TarInfo("0.image.png")
            file.size = 1 << 20
            tar.addfile(file, io.BytesIO(bytes(file.size)))
        if mode == "w:gz":
            with pytest.raises(DataError, match="cannot be read as a tar file"):
                list(tar_samples.read_samples(path))
    assert len(list(tar_samples.read_samples(path))) == 1
    path.write_bytes(path.read_bytes()[:2048])
    with pytest.raises(DataError, match=r"announces 1,048,576 bytes|cannot be read as a tar file"):
        list(tar_samples.read_samples(path))


def test_only_shards_that_are_not_unpacked_are_read(many, cache, tmp_path, monkeypatch):
    out = tmp_path / "shards"
    write_shards(many, out, shard_bytes=SMALL)
    index = read_index(out)
    root = unpack(index)
    monkeypatch.setattr(shard_files, "_unpack_shard", None)
    assert unpack(index) == root
    monkeypatch.undo()
    monkeypatch.setenv("TEXTMASK_CACHE", str(cache))

    # a kill between two shards
    (root / shard_files.DONE / index.shards[0].name).unlink()
    shutil.rmtree(root / "images")
    real, read = shard_files._unpack_shard, []
    monkeypatch.setattr(
        shard_files, "_unpack_shard", lambda *args: (read.append(args[1].name), real(*args))
    )
    unpack(index)
    assert read == [index.shards[0].name]

    # another machine, with a cache of its own: what it was handed is unpacked there
    found = read_layout(out)
    monkeypatch.setenv("TEXTMASK_CACHE", str(tmp_path / "other"))
    assert len(open_split(found, "train", (32, 32))) == len(many.rows)
    assert unpacked_folders()
    assert remove_other_files() > 0
    assert not unpacked_folders()


def test_a_removal_that_is_stopped_leaves_nothing_that_counts_as_unpacked(
    many, cache, tmp_path, monkeypatch
):
    write_shards(many, tmp_path / "shards", shard_bytes=SMALL)
    read = read_layout(tmp_path / "shards")

    def stops(folder, **_):
        next(path for path in folder.rglob("*.png")).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", stops)
        with pytest.raises(KeyboardInterrupt):
            remove_other_files()
    again = read_layout(tmp_path / "shards")
    assert again.root == read.root
    assert all(again.image_path(row).is_file() for row in again.rows)
    assert all(again.mask_path(row).is_file() for row in again.rows if row.mask)
    assert remove_other_files() > 0
    assert not unpacked_folders()


def test_a_file_that_changes_or_is_missing_is_an_error(many, cache, tmp_path, monkeypatch):
    decide_rule(many)
    path = many.image_path(many.rows[5])
    real = shards.file_hashes
    monkeypatch.setattr(
        shards, "file_hashes", lambda *args: {**real(*args), many.rows[5].image: "0" * 32}
    )
    with pytest.raises(DataError, match="has changed while the shards were written"):
        write_shards(many, tmp_path / "shards")
    monkeypatch.undo()
    path.unlink()
    with pytest.raises(DataError, match=r"1 files cannot be read, e\.g\. images"):
        write_shards(many, tmp_path / "more")
    padded = replace(many, rows=(replace(many.rows[0], group=" p "),))
    with pytest.raises(DataError, match="cannot hold all rows"):
        write_shards(padded, tmp_path / "padded")


def test_without_the_package_the_message_says_how_to_get_it(many, monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "webdataset", None)
    with pytest.raises(ConfigError, match=r"pip install 'textmask\[shards\]'"):
        write_shards(many, tmp_path / "shards")


def test_training_and_scores_are_those_of_the_folder(phantom_manifest, cache, tmp_path):
    """The same losses, weights and scores of each image."""
    write_shards(phantom_manifest, tmp_path / "shards", shard_bytes=SMALL)
    found = read_layout(tmp_path / "shards")
    recipe = get_method("statement_unet").recipe().smoke().override("image_size=[32,32]")
    logs, weights, scores = [], [], []
    for name, manifest in (("folder", phantom_manifest), ("shards", found)):
        run = tmp_path / "runs" / name
        train(recipe, manifest, run, progress=False)
        logs.append([json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()])
        weights.append((run / "weights.safetensors").read_bytes())
        out = tmp_path / "evaluated" / name
        summary = evaluate(run, manifest, "test", EvaluationOptions(out=out, n_bootstrap=20))
        scores.append((out / "scores.csv").read_text())
        assert summary.protocol.data_hash == phantom_manifest.hash()
    for row in (*logs[0], *logs[1]):
        for clock in ("seconds", "images_per_s"):
            del row[clock]
    assert logs[0] == logs[1]
    assert weights[0] == weights[1]
    assert scores[0] == scores[1]


def test_the_command_writes_what_the_others_read(many, cache, tmp_path):
    table = many.root / "mine.csv"
    write_manifest(many, table)
    out = str(tmp_path / "shards")
    call = ["data", "shard", str(table), "--out", out, "--size", "40K", "--laterality", "image"]
    result = CliRunner().invoke(app, call)
    assert result.exit_code == 0, result.output
    assert "9 images in" in result.output
    assert {str(row.laterality) for row in read_layout(out).rows} == {"image"}
    result = CliRunner().invoke(app, ["data", "inspect", out, "--no-pixels"])
    assert "layout shards, 10 rows" in result.output
    with pytest.raises(ConfigError, match="--size is 'many'"):
        CliRunner().invoke(app, [*call[:-3], "many"], catch_exceptions=False)
    with pytest.raises(ConfigError, match="give columns and sheets to `textmask data shard`"):
        read_layout(out, text_column="p6")
    with pytest.raises(DataError, match=r"has no shards\.json"):
        read_layout(many.root, "shards")
    assert read_manifest(tmp_path / "shards/manifest.csv").rows == read_layout(out).rows
