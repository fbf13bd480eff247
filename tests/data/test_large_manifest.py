"""A large manifest is read in one pass, and says the same as the slow, literal rules."""

import hashlib
import json
import os
import random
import sys
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from textmask.data.manifest import Manifest, Row, read_manifest, write_manifest
from textmask.data.manifest_checks import Problems, check_own_masks, check_unique
from textmask.errors import DataError, DataWarning
from textmask.io.paths import path_problem
from textmask.io.spreadsheets import read_csv
from textmask.layouts import pairing
from textmask.layouts.read import detect, read_layout
from textmask.statement import Laterality


def literal_path_problem(text):
    """The first words of the problem, by one rule after the other and character by character."""
    if not text.strip():
        return "is empty"
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in text):
        return "contains a NUL"
    if (len(text) > 1 and text[0].isalpha() and text[0].isascii() and text[1] == ":") or (
        text.startswith("\\\\") or "://" in text
    ):
        return "names a drive"
    if "\\" in text:
        return "uses backslashes"
    if text.startswith("/"):
        return "is absolute"
    return "climbs out" if ".." in text.split("/") else None


def test_paths_are_judged_as_by_the_literal_rules():
    rng = random.Random(0)
    pieces = [
        "a",
        "b.png",
        "..",
        ".",
        "/",
        "//",
        "\\",
        ":",
        "://",
        " ",
        "\t",
        "\0",
        "\x7f",
        "é",
        "C:",
        "\n",
        "...",
        "a..b",
    ]
    for _ in range(20_000):
        text = "".join(rng.choices(pieces, k=rng.randint(0, 5)))
        found, expected = path_problem(text), literal_path_problem(text)
        assert (found is None) == (expected is None), repr(text)
        assert expected is None or expected in found, repr(text)


def literal_unique(rows, numbers, problems):
    """What was noted before images with one row were left out: one table of all rows."""
    images, whole = {}, {}
    for number, row in zip(numbers, rows, strict=True):
        same = (row.image, row.mask, row.label, row.text)
        first, other = images.setdefault(row.image.casefold(), (number, row))
        if first == number or not row.image:
            whole.setdefault(same, number)
        elif other.image != row.image:
            problems.append((number, "image", "letter case"))
        elif other.split != row.split:
            problems.append((number, "split", "in split"))
        elif whole.setdefault(same, number) != number:
            problems.append((number, "image", f"in row {whole[same]} with the same"))


@pytest.mark.parametrize("seed", range(30))
def test_repeated_rows_are_noted_as_by_the_literal_rules(tmp_path, seed):
    rng = random.Random(seed)
    names = [f"{'ab'[i % 2]}{i % 7}.png" for i in range(14)] + [
        "A1.png",
        "STRASSE.png",
        "straße.png",
        "",
    ]
    rows = [
        Row(
            rng.choice(names),
            rng.choice(["m.png", "a1.png", None]),
            rng.choice("xy"),
            rng.choice(["train", "test"]),
        )
        for _ in range(25)
    ]
    numbers = sorted(rng.sample(range(2, 99), 25))
    problems, expected = Problems(tmp_path), []
    check_unique(rows, numbers, problems)
    literal_unique(rows, numbers, expected)
    assert len(problems.found) == len(expected)
    for text, (number, column, words) in zip(problems.found, expected, strict=True):
        assert text.startswith(f"row {number}, column {column}: ")
        assert words in text

    # masks that are images, in any letter case
    problems = Problems(tmp_path)
    check_own_masks(rows, numbers, problems)
    images = {row.image.casefold() for row in rows}
    named = [
        n
        for n, row in zip(numbers, rows, strict=True)
        if row.mask and row.mask.casefold() in images
    ]
    assert [int(text.split(",")[0][4:]) for text in problems.found] == named


def test_the_hash_is_that_of_the_sorted_json_lines_and_made_once(monkeypatch, tmp_path):
    rows = (
        Row("b.png", "m.png", 'says "left"\n\ttwice', "train", "p1", Laterality.IMAGE, True),
        Row(
            "a.png",
            None,
            "é\ud800 \U0001f600 \x7f",
            "test",
            "",
            Laterality.UNKNOWN,
            False,
            "report",
        ),
        Row("c.png", "m.png", "", "test", label=(1, 3)),
    )
    lines = []
    for row in rows:
        labelled = "true" if row.labelled else "false"
        cells = [
            row.image,
            row.mask or "",
            row.text,
            row.split,
            row.group,
            row.laterality.value,
            labelled,
        ]
        cells += ["1+3"] if row.label else []
        cells += [f"grammar {row.grammar}"] if row.grammar != "auto" else []
        lines.append(json.dumps(cells, ensure_ascii=True))
    manifest = Manifest(tmp_path, rows)
    assert manifest.hash() == hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
    assert Manifest(tmp_path, ()).hash() == hashlib.sha256(b"").hexdigest()

    # asked for again, no row is looked at
    monkeypatch.setattr("textmask.data.manifest._row_json", pytest.fail)
    assert manifest.hash() == manifest.hash()
    monkeypatch.undo()
    changed = replace(manifest, rows=rows[:2])
    assert changed.hash() != manifest.hash()


def big_table(folder: Path, n: int) -> Path:
    lines = [
        f'images/{i % 9}/image_{i:07d}.png,masks/{i % 9}/mask_{i:07d}.png,"one area, lower left lung",train,p{i // 9}'
        for i in range(n)
    ]
    path = folder / "manifest.csv"
    path.write_text("image,mask,text,split,group\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_row_costs_little_memory_and_equal_cells_are_stored_once(tmp_path):
    rows = read_manifest(big_table(tmp_path, 200)).rows
    assert len({id(row.text) for row in rows}) == len({id(row.split) for row in rows}) == 1
    assert len({id(row.group) for row in rows}) == len({row.group for row in rows})
    own = sys.getsizeof(rows[0]) + sys.getsizeof(rows[0].image) + sys.getsizeof(rows[0].mask)
    assert not hasattr(rows[0], "__dict__")
    assert own < 360


def test_each_folder_is_looked_at_once_not_each_file(tmp_path, monkeypatch):
    for i in range(9):
        (tmp_path / f"images/{i}").mkdir(parents=True)
        (tmp_path / f"masks/{i}").mkdir(parents=True)
    path = big_table(tmp_path, 500)
    calls: Counter[str] = Counter()
    for name in ("islink", "realpath"):
        real = getattr(os.path, name)
        monkeypatch.setattr(
            os.path,
            name,
            lambda *a, real=real, name=name, **k: (calls.update([name]), real(*a, **k))[1],
        )
    assert len(read_manifest(path)) == 500
    assert calls["islink"] == 0
    assert calls["realpath"] <= 20


def test_the_byte_that_is_not_utf8_is_counted_from_the_begin_of_the_file(tmp_path):
    body = b"image,text,split\n" + b"a.png,t,train\n" * 5000
    path = tmp_path / "manifest.csv"
    path.write_bytes(body + b"b\xff.png,t,train\n")
    for read in (read_manifest, read_csv):
        with pytest.raises(DataError, match=rf"not UTF-8 \(byte {len(body) + 1}\)"):
            read(path)


def test_line_ends_and_escaped_cells_are_read_as_before(tmp_path):
    path = tmp_path / "own.csv"
    path.write_bytes(
        b"\xef\xbb\xbf image ,text,split\r\na.png,\"two\r\nlines\",train\r\n,,\r\nb.png,'=1+1,test\rc.png,'quoted',test"
    )
    header, rows = read_csv(path)
    assert header == ["image", "text", "split"]
    assert rows == [
        (2, ["a.png", "two\nlines", "train"]),
        (4, ["b.png", "=1+1", "test"]),
        (5, ["c.png", "'quoted'", "test"]),
    ]


@pytest.mark.parametrize("name", ["manifest.csv", "rows.csv"])
def test_a_manifest_is_read_without_a_walk_through_its_folder(tmp_path, monkeypatch, name):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").touch()
    rows = (Row("images/a.png", None, "left lung", "train", labelled=False),)
    write_manifest(Manifest(tmp_path, rows), tmp_path / name)
    expected = [read_layout(path).rows for path in (tmp_path, tmp_path / name)]
    monkeypatch.setattr(pairing.os, "walk", pytest.fail)
    assert (
        [read_layout(path).rows for path in (tmp_path, tmp_path / name)] == expected == [rows, rows]
    )
    assert detect(tmp_path) == detect(tmp_path / name) == "manifest"


def test_tables_next_to_the_files_of_a_manifest_are_still_named(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").touch()
    (tmp_path / "images/notes.txt").write_text("a.png left lung\n")
    write_manifest(
        Manifest(tmp_path, (Row("images/a.png", None, "t", "train", labelled=False),)),
        tmp_path / "manifest.csv",
    )
    with pytest.warns(DataWarning, match=r"images/notes.txt was seen and not used"):
        read_layout(tmp_path)

    # without prompts they may be in any folder
    (tmp_path / "more").mkdir()
    (tmp_path / "images/notes.txt").rename(tmp_path / "more/prompts.tsv")
    (tmp_path / "more/prompts.tsv").write_text("image\ttext\na.png\tleft lung\n")
    write_manifest(
        Manifest(tmp_path, (Row("images/a.png", None, "", "train", labelled=False),)),
        tmp_path / "manifest.csv",
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_layout(tmp_path)
    assert any("more/prompts.tsv was seen" in str(warning.message) for warning in caught)
