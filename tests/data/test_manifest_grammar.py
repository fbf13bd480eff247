"""The grammar of a data set: a column that is read, checked, written again, and used for its sentences."""

from dataclasses import replace

import pytest

from textmask.data.manifest import read_manifest, write_manifest
from textmask.data.phantom import PhantomConfig, write_phantoms
from textmask.errors import DataError


@pytest.fixture
def manifest(tmp_path):
    return read_manifest(
        write_phantoms(tmp_path, {"train": 2, "test": 1}, PhantomConfig(size=(32, 32)), 0)
    )


def test_a_table_without_the_column_reads_and_writes_as_before(manifest, tmp_path):
    assert manifest.grammar == "auto"
    write_manifest(manifest, tmp_path / "again.csv")
    again = read_manifest(tmp_path / "again.csv")
    assert again.hash() == manifest.hash()
    assert "grammar" not in (tmp_path / "again.csv").read_text(encoding="utf-8").splitlines()[0]


def test_the_column_is_kept_and_counts_as_part_of_the_data(manifest, tmp_path):
    named = replace(manifest, rows=tuple(replace(row, grammar="mosmed") for row in manifest.rows))
    assert named.grammar == "mosmed"
    assert named.hash() != manifest.hash()
    write_manifest(named, tmp_path / "named.csv")
    assert read_manifest(tmp_path / "named.csv").grammar == "mosmed"


def test_rows_that_differ_have_no_common_grammar(manifest, tmp_path):
    first, *others = manifest.rows
    mixed = replace(manifest, rows=(replace(first, grammar="report"), *others))
    assert mixed.grammar == "auto"
    write_manifest(mixed, tmp_path / "mixed.csv")
    assert {row.grammar for row in read_manifest(tmp_path / "mixed.csv").rows} == {"report", "auto"}


def test_an_unknown_grammar_is_refused(manifest, tmp_path):
    wrong = replace(manifest, rows=tuple(replace(row, grammar="klingon") for row in manifest.rows))
    write_manifest(wrong, tmp_path / "wrong.csv")
    with pytest.raises(DataError, match="column grammar: 'klingon'; expected auto, qata"):
        read_manifest(tmp_path / "wrong.csv")
