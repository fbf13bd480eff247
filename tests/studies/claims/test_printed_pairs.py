"""Published pairs, typed or from tables."""

import pytest
from typer.testing import CliRunner

from textmask.cli.app import app
from textmask.errors import DataError
from textmask.studies.claims.printed_pairs import Pair, find_pairs, pair_cells, read_pairs

MARKDOWN = """# Results

Some words | not a table.

| Method | QaTa Dice (%) ↑ | QaTa mIoU (%) | Mos Dice | Mos mIoU | HD95 |
| --- | :---: | --- | --- | --- | --- |
| U-Net | 83.52 | 71.71 | 67.34 | 50.76 | 9.0 |
| **MLMoE** | 91.19 \\pm 0.14 | 83.81 ± 0.09 | - | — | |
| Ours | <b>91.65</b> | **84.60** | $80.37$ | 67.19 |

| Dice | IoU |
| --- | --- |
| 1.00 | 2.00 |
"""


def verdicts(pairs):
    return [line[-1] for line in pair_cells(pairs)[1]]


def test_numbers_two_by_two_keep_their_digits():
    pairs = find_pairs(
        ["91.65", "84.60", "0.8366", "0.7511", "84.39", "72.35", "89.8", "81.4", "84", "72.4"]
    )
    assert verdicts(pairs) == ["pooled", "per image", "neither", "pooled", "pooled"]
    assert pair_cells(pairs)[1][0] == ["", "91.65", "84.60", "-0.008", "0.008", "pooled"]
    assert verdicts(find_pairs(["89.80", "81.40"])) == ["neither"]  # as if more digits were known


def test_the_first_markdown_table_with_a_dice(tmp_path):
    path = tmp_path / "table.md"
    path.write_text(MARKDOWN, "utf-8")
    pairs = read_pairs(path)
    names = [pair.label for pair in pairs]
    assert names == [
        "U-Net (QaTa Dice (%) ↑)", "U-Net (Mos Dice)", "MLMoE (QaTa Dice (%) ↑)",
        "Ours (QaTa Dice (%) ↑)", "Ours (Mos Dice)",
    ]  # fmt: skip
    assert verdicts(pairs) == ["pooled"] * 5
    assert [pair_cells(pairs)[1][i][1:3] for i in (2, 3)] == [
        ["91.19", "83.81"],
        ["91.65", "84.60"],
    ]


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_csv_tables(tmp_path, mark):
    path = tmp_path / "table.csv"
    rows = [
        ("name", "Dice", "Jaccard"),
        ("LViT", "83.66", "75.11"),
        ("nnU-Net", "84.39", "72.35"),
        ("x", "", "1.0"),
    ]
    path.write_text("\n".join(mark.join(row) for row in rows), "utf-8-sig")
    pairs = find_pairs(["91.65", "84.60", str(path)])
    assert [pair.label for pair in pairs] == ["", "LViT", "nnU-Net"]
    assert verdicts(pairs) == ["pooled", "per image", "neither"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["91.65"], "pairs of numbers"),
        (["91.65", "84.60", "83.66"], "Dice 83.66 without its IoU"),
        (["91.65", "here.csv", "84.60"], "Dice 91.65 without its IoU"),
        (["nowhere.csv"], "no such file"),
        (["nowhere.md"], "cannot be read"),
    ],
)
def test_arguments_that_are_no_pairs(arguments, said):
    with pytest.raises(DataError, match=said):
        find_pairs(arguments)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name,DSC\na,1\n", "followed by one called IoU; found name, DSC"),
        ("name,IoU,Dice\na,1,1\n", "followed by one called IoU"),
        ("name,Dice,IoU\na,high,75\n", "a: got 'high', expected a number"),
        ("name,Dice,IoU\na,183.66,75.11\n", "a: .*183.66"),
    ],
)
def test_tables_that_are_no_pairs(tmp_path, text, said):
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=said):
        pair_cells(read_pairs(path))


def test_markdown_without_a_table(tmp_path):
    path = tmp_path / "page.md"
    path.write_text("Dice and IoU, in words.\n")
    with pytest.raises(DataError, match="no markdown table"):
        read_pairs(path)


def test_a_pair_says_its_row_in_an_error():
    with pytest.raises(DataError, match=r"^U-Net: "):
        Pair("U-Net", "101", "50").check()


def test_the_command(tmp_path):
    result = CliRunner().invoke(
        app, ["verify-table", "91.65", "84.60", "83.66", "75.11", "84.39", "72.35"]
    )
    assert result.exit_code == 0, result.output
    lines = [line for line in result.output.splitlines() if "│" in line]
    assert [next(w for w in ("pooled", "per image", "neither") if w in line) for line in lines] == [
        "pooled", "per image", "neither",
    ]  # fmt: skip
    assert all(part in result.output for part in ("91.65", "-2.126", "+0.433", "0.008"))
