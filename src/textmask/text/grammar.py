"""Sentences to statements. First version: the cleaned chest captions."""

from __future__ import annotations

import re
from functools import lru_cache

from textmask.text.statement import Level, Side, Statement
from textmask.types import Laterality


@lru_cache(maxsize=65536)
def parse(sentence: str, grammar: str = "auto", laterality: Laterality = Laterality.UNKNOWN) -> Statement:
    """Zones of "[all|upper|middle|lower]+ (left|right) lung" phrases."""
    zones = set()
    for words, side in re.findall(r"((?:(?:all|upper|middle|lower)\s+)+)(left|right)\s+lung", sentence.lower()):
        levels = set(words.split())
        for level in Level:
            if "all" in levels or level.value in levels:
                zones.add((Side(side), level))
    return Statement(frozenset(zones), laterality=laterality, grammar="qata" if zones else "")
