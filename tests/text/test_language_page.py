"""The programs that docs/language.md shows are those that the prompts give."""

import re
from pathlib import Path

from textmask.statement import Laterality
from textmask.text.program_grammar import parse_program

PAGE = Path(__file__).parents[2] / "docs" / "language.md"


def test_the_programs_of_the_page() -> None:
    rows = re.findall(r"^\| (.+?) \| `(.+?)` \|$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert len(rows) > 5
    for prompt, program in rows:
        assert str(parse_program(prompt)) == program


def test_the_example_of_the_page() -> None:
    said = re.search(r"print\(program\)  # (.+)", PAGE.read_text("utf-8"))
    program = parse_program("the collarbone above the right lung", Laterality.PATIENT)
    assert str(program) == said[1]
    assert "kidney stone" in PAGE.read_text("utf-8")
    assert parse_program("kidney stone").refused
