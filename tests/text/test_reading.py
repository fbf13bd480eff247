"""The measurement of the parser: labels are read, counted and refused where they make no sense."""

import pytest

from textmask.errors import DataError
from textmask.text.reading import measure_reading, read_labelled, reading_lines

HEADER = "kind,grammar,sentence,zones,negated,sides,levels,absent,findings\n"


def table(tmp_path, rows):
    path = tmp_path / "labelled.csv"
    path.write_text(HEADER + rows, encoding="utf-8")
    return path


def test_what_is_right_and_what_is_confused_is_counted(tmp_path):
    rows = (
        "plain,report,Left base opacity.,L:l,,left,lower,0,1\n"
        "plain,report,Right apical nodule.,L:u,,left,upper,0,1\n"
        "denied,report,The right lung is clear.,,R:uml,,,0,0\n"
        "denied,report,No effusion.,L:uml,,left,,0,1\n"
        "denied,report,Left effusion.,,,,,1,0\n"
        "both,,Bibasilar opacities.,R:l,,right,lower,0,1\n"
    )
    summary = measure_reading(read_labelled(table(tmp_path, rows)))
    assert (summary.n, summary.right, summary.sides) == (6, 2, 2)
    assert (summary.opposite, summary.too_few, summary.too_many) == (1, 1, 2)
    assert (summary.false_empty, summary.false_full) == (1, 1)
    assert summary.kinds["plain"].right == 1
    assert summary.side_confusion["left -> right"] == 1
    assert "2 of 6 (33.3 %)" in reading_lines(summary)[0]
    assert summary.as_json()["wrong"][0] == "Right apical nodule."


def test_labels_that_are_missing_are_not_judged(tmp_path):
    path = tmp_path / "few.csv"
    path.write_text("sentence,zones\nRight apical nodule.,R:u\n", encoding="utf-8")
    assert measure_reading(read_labelled(path)).right == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sentence\nx\n", "missing column zones"),
        ("sentence,zones\nx,Q:l\n", "is not a zone"),
        ("sentence,zones,absent\nx,,maybe\n", "expected 0 or 1"),
        ("sentence,zones\n", "contains no rows"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path, text, message):
    path = tmp_path / "bad.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_labelled(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_labelled(tmp_path / "none.csv")
