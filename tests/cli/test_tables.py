"""Tables in a narrow terminal: folded, never cut."""

import re

import pytest

from textmask.cli import options


@pytest.mark.parametrize("width", [40, 80])
def test_nothing_of_a_table_is_cut(width, monkeypatch, capsys):
    head = ["row", "dice_per_image", "dice_pooled", "difference", "p", "location F1"]
    cells = [
        "statement_unet, shuffled text",
        "83.66 (82.90 .. 84.41)",
        "88.12",
        "-12.34",
        "0.0004",
        "81.1",
    ]
    monkeypatch.setattr(options.out_console, "width", width, raising=False)
    monkeypatch.setattr(options.out_console, "_width", width)
    options.print_table(head, [cells])
    printed = capsys.readouterr().out
    assert "…" not in printed
    assert max(map(len, printed.splitlines())) <= width
    shown = re.sub(r"[^\w.,()-]", "", printed)
    for text in (*head, *cells):
        letters = set(re.sub(r"[^\w.,()-]", "", text))
        assert letters <= set(shown)
