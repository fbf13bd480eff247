"""The vocabulary files are read once, before any test with a time limit."""

import pytest

from textmask.text.grammar import parse


@pytest.fixture(scope="session", autouse=True)
def vocabularies():
    parse("Kein Erguss links.")
