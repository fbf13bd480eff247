"""Sentences for masks that came without any: what a mask shows as a statement, and the statement in words.

Nothing is drawn at random: a mask has one sentence a style. It claims what the mask shows by the rules that masks are
judged by (`textmask.metrics.agreement`), so that it agrees with its own mask in every aspect:

* a place for every zone of the style's map that holds lesion, and the word uni- or bilateral where the style has one;
* the number of pieces of at least 2 % of the mask's area, unless no piece is that large, or one reaches over both
  lungs ("bilateral, one infected area" would contradict itself);
* that there is no finding, for an empty mask.

Such sentences tell where the true mask lies. See `textmask.data.describe` for what that means for scores.
"""

from __future__ import annotations

from collections.abc import Collection

from textmask.errors import ConfigError, choose
from textmask.statement import Laterality, Statement, Zone
from textmask.text.edit import drop_count
from textmask.text.render import render
from textmask.text.zones import MAP_OF_GRAMMAR

# Not "mosmed", which names one level a lung and is read as such only when its grammar is named, and not "nuclei",
# whose halves hold half of any mask, so that every sentence would name one.
CAPTION_STYLES = ("lesion", "polyp", "qata", "qata_original", "report")
# of a mask that is all specks where a place is told by the centres of pieces: a finding, and no place or number of it
VAGUE = {
    "lesion": "many lesions in the image.",
    "polyp": "Many colonic polyps.",
    "qata": "pulmonary infection.",
    "qata_original": "Pulmonary infection.",
    "report": "Patchy opacity.",
}


def style_map(style: str) -> str:
    """Name of the zone map by which sentences of a style are judged.

    Raises:
        ConfigError: unknown style, or one that no sentence is made in.
    """
    choose("style of sentences made from masks", style, CAPTION_STYLES)
    return MAP_OF_GRAMMAR["qata" if style == "qata_original" else style]


def mask_statement(
    zones: Collection[Zone], pieces: int, empty: bool, laterality: Laterality
) -> Statement:
    """The statement that is true of a mask.

    Args:
        zones: those that hold lesion, by sides of the picture.
        pieces: connected pieces that are no specks; 0 makes no claim of their number.
        empty: whether the mask has no pixel at all.
        laterality: whose left "left" is to mean; `PATIENT` supposes that the patient's right is on the picture's left.

    Raises:
        ConfigError: laterality unknown, though whoever makes a sentence decides what its words mean.
    """
    if laterality is Laterality.UNKNOWN:
        raise ConfigError(
            "the sides of a sentence made from a mask are those of the picture, never unknown: take laterality image, "
            "or patient for pictures that show the patient's right on their left."
        )
    seen = Statement(frozenset(zones), pieces or None, absent=empty, laterality=laterality)
    return seen if laterality is Laterality.IMAGE else seen.mirrored()


def caption(statement: Statement, style: str = "lesion") -> str:
    """The sentence of a `mask_statement`.

    Raises:
        ConfigError: a style of `CAPTION_STYLES` is expected, with words for all of the zones.
    """
    style_map(style)
    if not (statement.zones or statement.absent):
        return VAGUE[style]
    text = render(statement, style)
    countless = statement.count is None or statement.count < len(statement.sides)
    return (
        drop_count(text)
        if countless and style in ("qata", "qata_original") and not statement.absent
        else text
    )
