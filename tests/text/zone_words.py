"""Zones in short: `L:ul R:m` is left upper and lower, right middle; `LR:uml` is all of both lungs."""

from textmask.statement import Level, Side

SIDES = {"L": Side.LEFT, "R": Side.RIGHT, "C": Side.CENTER}
LEVELS = {"u": Level.UPPER, "m": Level.MIDDLE, "l": Level.LOWER}


def zones(text):
    """The zones that a short text means."""
    found = set()
    for part in text.split():
        sides, levels = part.split(":")
        found |= {(SIDES[side], LEVELS[level]) for side in sides for level in levels}
    return found
