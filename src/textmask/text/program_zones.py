"""Captions and findings whose places are zones of the image, such as opacities and polyps, as programs."""

from __future__ import annotations

from collections.abc import Sequence

from textmask.statement import Laterality, Level, Side, Statement
from textmask.text.grammar import parse
from textmask.text.program import AtLevel, Find, Nothing, OnSide, Step, Union
from textmask.text.program_words import ProgramToken
from textmask.text.structures import StructureList
from textmask.text.zones import MAP_OF_GRAMMAR

# kinds of token that a caption may have; with any other a prompt is read by the grammar of programs
_CAPTION = frozenset("name unknown stop not normal all and comma image patient side level".split())


def zone_program(
    prompt: str,
    tokens: Sequence[ProgramToken],
    laterality: Laterality,
    structures: StructureList,
) -> Step | None:
    """What a caption asks for, by the statement that it makes; None if it is not a caption.

    Args:
        prompt: the text.
        tokens: of the prompt.
        laterality: convention of sides without a declared one.
        structures: the vocabulary, whose zone maps say which structures have captions.
    """
    if not {token.kind for token in tokens} <= _CAPTION:
        return None
    names = {token.name: token for token in tokens if token.kind == "name"}
    zoned = [name for name in names if structures.structures[name].zone_map]
    # the lung says where an opacity is
    if len(zoned) != 1 or names.keys() - {*zoned, "lung"}:
        return None

    statement = parse(prompt, laterality=laterality)
    zone_map = MAP_OF_GRAMMAR[statement.grammar] if statement.grammar else ""
    if zone_map != structures.structures[zoned[0]].zone_map:
        return None
    if statement.absent:
        return Nothing()
    if not statement.zones:
        return None
    declared = {token.laterality for token in tokens if token.laterality is not None}
    whose = declared.pop() if len(declared) == 1 else laterality
    return _zone_steps(statement, Find(zoned[0], names[zoned[0]].span), whose)


def _zone_steps(statement: Statement, find: Find, laterality: Laterality) -> Step:
    """The zones of a statement as steps: sides with all their levels are sides alone."""
    every = (
        set(Side) if statement.grammar in ("polyp", "lesion", "nuclei") else {Side.LEFT, Side.RIGHT}
    )
    if statement.zones >= {(side, level) for side in every for level in Level}:
        return find
    found: list[Step] = []
    for side in Side:
        levels = [level for level in Level if (side, level) in statement.zones]
        if len(levels) == 3:
            found.append(OnSide(side, find, laterality))
        else:
            found += [AtLevel(level, OnSide(side, find, laterality)) for level in levels]
    return found[0] if len(found) == 1 else Union(tuple(found))
