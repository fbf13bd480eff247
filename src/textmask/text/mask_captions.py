"""Prompts for masks that have none: what a mask shows as a statement, and the statement in words.

Nothing is random: a mask has one prompt per style. The prompt claims what the mask shows, by the same rules that masks
are scored with (`textmask.metrics.agreement`), so that it agrees with its own mask in every aspect:

* a place for every zone of the style's map that contains lesion, and the word uni- or bilateral if the style has one;
* the number of pieces of at least 2 % of the mask's area, unless no piece is that large, or one extends over both
  lungs ("bilateral, one infected area" would contradict itself);
* that there is no finding, for an empty mask.

Such prompts leak the position of the true mask. See `textmask.data.describe` for what that means for scores.
"""

from __future__ import annotations

from collections.abc import Collection

from textmask.errors import ConfigError, choose
from textmask.statement import Laterality, Statement, Zone
from textmask.text.edit import drop_count
from textmask.text.render import render
from textmask.text.zones import MAP_OF_GRAMMAR

# Not "mosmed", which names one level per lung and is parsed only if its grammar is named. Not "nuclei", whose
# halves contain half of any mask, so that every prompt would name one.
CAPTION_STYLES = ("lesion", "polyp", "qata", "qata_original", "report")
# for a mask of specks only: a finding without place or number
VAGUE = {
    "lesion": "many lesions in the image.",
    "polyp": "Many colonic polyps.",
    "qata": "pulmonary infection.",
    "qata_original": "Pulmonary infection.",
    "report": "Patchy opacity.",
}


def style_map(style: str) -> str:
    """Name of the zone map with which prompts of a style are scored.

    Raises:
        ConfigError: the style is unknown, or no prompt can be made in it.
    """
    choose("style of prompts made from masks", style, CAPTION_STYLES)
    return MAP_OF_GRAMMAR["qata" if style == "qata_original" else style]


def mask_statement(
    zones: Collection[Zone], pieces: int, empty: bool, laterality: Laterality
) -> Statement:
    """The statement that is true of a mask.

    Args:
        zones: those that contain lesion, by sides of the image.
        pieces: connected pieces that are not specks; 0 makes no claim about their number.
        empty: whether the mask has no pixel at all.
        laterality: convention of the prompt; `PATIENT` assumes that the patient's right is on the left of the image.

    Raises:
        ConfigError: `laterality` is unknown; a prompt that is made here needs a convention.
    """
    if laterality is Laterality.UNKNOWN:
        raise ConfigError(
            "the laterality convention of a prompt made from a mask cannot be unknown: choose laterality image, "
            "or patient for images that show the patient's right on their left."
        )
    # the zones are those of the image
    seen = Statement(frozenset(zones), pieces or None, absent=empty, laterality=laterality)
    return seen if laterality is Laterality.IMAGE else seen.mirrored()


def caption(statement: Statement, style: str = "lesion") -> str:
    """The prompt that says what a `mask_statement` claims.

    Raises:
        ConfigError: `style` is not one of `CAPTION_STYLES`, or has no words for one of the zones.
    """
    style_map(style)
    if not (statement.zones or statement.absent):
        return VAGUE[style]
    text = render(statement, style)
    # these styles always state a number of areas, unless there is none to state
    countless = statement.count is None or statement.count < len(statement.sides)
    if countless and style in ("qata", "qata_original") and not statement.absent:
        return drop_count(text)
    return text
