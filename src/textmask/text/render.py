"""Statements as sentences, in the styles of the released files and of reports."""

from __future__ import annotations

from textmask.errors import ConfigError, choose
from textmask.statement import Level, Side, Statement, Zone
from textmask.text.words import NUMBERS

STYLES = ("qata", "qata_original", "mosmed", "polyp", "nuclei", "lesion", "report")
WORDS = {value: word for word, value in NUMBERS.items()}
POLYP_LEVEL = {Level.UPPER: "top", Level.MIDDLE: "middle", Level.LOWER: "bottom"}


def render(statement: Statement, style: str = "qata") -> str:
    """A sentence of `style` that makes the claims of `statement`; parsing it gives the same zones.

    The cleaned captions (`qata`) count zones unless the statement has a count of its own.

    Raises:
        ConfigError: unknown style, or zones that the style has no words for.
    """
    choose("sentence style", style, STYLES)
    if style == "polyp":
        return _polyp(statement)
    if style == "lesion":
        return _lesion(statement)
    if style == "nuclei":
        return _nuclei(statement)
    if any(side is Side.CENTER for side, _ in statement.zones):
        raise ConfigError(
            f"style {style!r} speaks of lungs and has no words for the centre; use style 'polyp'."
        )
    if style == "report":
        return _report(statement)
    return _caption(statement, style)


def places(statement: Statement) -> list[str]:
    """The places of a statement in words, one a lung or a polyp: "the upper and lower left lung", "the top left".

    Empty where no place is named, and for nuclei, which are everywhere.
    """
    if statement.grammar == "polyp":
        return [f"the {_place(zone)}" for zone in sorted(statement.zones)]
    return [] if statement.grammar == "nuclei" else _lungs(statement)


def _lungs(statement: Statement) -> list[str]:
    return [
        f"the {' and '.join(levels)} {side.value} lung"
        if len(levels) < 3
        else f"the {side.value} lung"
        for side in (Side.LEFT, Side.RIGHT)
        if (levels := _levels(statement.zones, side))
    ]


def _levels(zones: frozenset[Zone], side: Side) -> list[str]:
    return [level.value for level in Level if (side, level) in zones]


def _number(count: int) -> str:
    return WORDS.get(count, str(count))


def _caption(statement: Statement, style: str) -> str:
    zones = statement.zones
    if statement.absent or not zones:
        text = "no pulmonary infection, zero infected areas."
        return text if style == "qata" else text.capitalize()
    count = statement.count or len(zones)
    lungs = []
    for side in (Side.LEFT, Side.RIGHT):
        levels = _levels(zones, side)
        if len(levels) == 3 and style != "qata":
            levels = ["all"]
        if style == "mosmed" and levels and levels != ["all"] and len(levels) > 1:
            raise ConfigError(f"style 'mosmed' names one level a lung or all, not {levels}.")
        bare = (
            style == "mosmed" and side is Side.LEFT and not levels
        )  # MosMed names the healthy left lung bare
        if levels or bare:
            lungs.append(" ".join([*levels, side.value, "lung"]))
    lateral = "bilateral" if len(statement.sides) == 2 else "unilateral"
    areas = "area" if count == 1 else "areas"
    text = (
        f"{lateral} pulmonary infection, {_number(count)} infected {areas}, {' and '.join(lungs)}."
    )
    return text if style == "qata" else text.capitalize()


def _report(statement: Statement) -> str:
    if statement.absent or not statement.zones:
        return "No focal opacity."
    return f"Patchy opacity in {', opacity in '.join(_lungs(statement))}."


def _polyp(statement: Statement) -> str:
    if not statement.zones:
        return "One colonic polyp." if not statement.absent else "No polyp."
    size = f"{statement.size} " if statement.size else ""
    count = statement.count or len(statement.zones)
    head = "One colonic polyp." if count == 1 else f"{_number(count).capitalize()} colonic polyps."
    places = [_place(zone) for zone in sorted(statement.zones)]
    return head + "".join(f"One {size}colonic polyp on the {place}." for place in places)


def _lesion(statement: Statement) -> str:
    """As MedVLSM words its prompts, for findings of any organ: "two lesions, located in top left of the image"."""
    if statement.absent:
        return "no lesion in the image."
    count = statement.count or len(statement.zones)
    head = "one lesion" if count == 1 else f"{_number(count) if count else 'many'} lesions"
    if not statement.zones:
        return f"{head} in the image."
    return f"{head}, located in {' and '.join(_place(zone) for zone in sorted(statement.zones))} of the image."


def _place(zone: Zone) -> str:
    side, level = zone
    if side is Side.CENTER:
        return "center" if level is Level.MIDDLE else f"{POLYP_LEVEL[level]} center"
    return f"{POLYP_LEVEL[level]} {side.value}"


def _nuclei(statement: Statement) -> str:
    zones = statement.zones
    if not zones:
        return "The nuclei are evenly distributed."
    sides, levels = statement.sides, statement.levels
    if zones != {(side, level) for side in sides for level in levels}:
        raise ConfigError(
            "style 'nuclei' names one half or quadrant; these zones are no such block."
        )
    words = [level.value for level in Level if level in levels] if len(levels) < 3 else []
    words += [side.value for side in Side if side in sides] if len(sides) < 3 else []
    return (
        f"The nuclei density in the {' '.join(words)} is high."
        if words
        else "The nuclei are evenly distributed."
    )
