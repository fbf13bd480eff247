"""Write a manifest with prompts made from its masks, and a note that says so."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from textmask.data.manifest import Manifest, write_manifest
from textmask.data.mask_scan import decide_rule, row_mask
from textmask.errors import ConfigError, DataError
from textmask.io.files import write_whole
from textmask.metrics.agreement import Shown, agreement, shown
from textmask.progress import Progress, with_progress
from textmask.statement import ZONES, Laterality, Statement
from textmask.text.grammar import parse
from textmask.text.mask_captions import caption, mask_statement, style_map

NOTE = """# {table}: prompts made from masks

`textmask data describe` wrote the column `text`. No reader looked at the images.

**These prompts leak position.** They contain the position of the true mask, also at test time, when in practice there
is no mask to make them from. A score with these prompts shows how well a model follows a correct prompt. It does not
show how well the model works with prompts written by people. Compare it with `statement_unet` (the same places without
a language model), `unet` (no prompt), shuffled prompts and empty prompts.

| | |
| --- | --- |
| data | {data} |
| hash of the original manifest | {hash} |
| style of the prompts | {style} |
| zone map | {zones} |
| laterality convention | {laterality} |
| rows | {rows} |
| rows with a prompt made from the mask | {described} |
| of these, an empty mask ("no finding") | {absent} |
| of these, a prompt without a place (only specks) | {placeless} |
| rows without a mask, left as they were | {unmasked} |
| distinct prompts | {distinct} |
| prompts that agree with their own mask in every aspect | {agreeing} |

Masks were read at their own size. After resizing, a piece at the edge of a zone may fall into another zone.
"""


@dataclass(frozen=True)
class Described:
    """The result of describing a manifest.

    Attributes:
        manifest: the rows with their new prompts.
        described, unmasked: number of rows with a prompt made from their mask, and of rows without a mask, left as they
            were.
        absent, placeless: of the described rows, empty masks, and masks of specks only.
        agreeing: of the described rows, prompts that agree with their own mask in every aspect.
        style, zones, laterality: how the prompts were made.
    """

    manifest: Manifest
    described: int
    unmasked: int
    absent: int
    placeless: int
    agreeing: int
    style: str
    zones: str
    laterality: Laterality


def describe_mask(
    mask: npt.ArrayLike,
    style: str = "lesion",
    laterality: Laterality = Laterality.IMAGE,
    zones: str | None = None,
) -> str:
    """The prompt that describes one mask.

    Args:
        mask: H W, integer or bool; pixels that are not 0 are foreground.
        style: one of `textmask.text.mask_captions.CAPTION_STYLES`.
        laterality: convention of the prompt, image or patient.
        zones: a key of `ZONE_MAPS`; None means the zone map of the style.

    Raises:
        ConfigError: no prompt can be made with this style, map or laterality.
    """
    return _caption_of(_look(np.asarray(mask), zones or style_map(style)), style, laterality)


def describe_masks(
    manifest: Manifest,
    out: Path,
    *,
    style: str = "lesion",
    laterality: Laterality = Laterality.IMAGE,
    zones: str | None = None,
    progress: Progress | None = None,
) -> Described:
    """Give every row with a mask the prompt that describes it; write the manifest `out` and a note next to it.

    Args:
        manifest: the rows; those without a mask stay as they are.
        out: the CSV file to write, in or above the folder of the images; NAME.README.md next to it says how it was
            made.
        style: see `describe_mask`.
        laterality: see `describe_mask`.
        zones: see `describe_mask`.
        progress: called with (task, done, total).

    Raises:
        ConfigError: `out` or its note exists, or as `describe_mask`.
        DataError: no row has a mask, one cannot be read, or `out` cannot be written.
    """
    note = out.with_suffix(".README.md")
    # nothing is overwritten
    for path in (out, note):
        if path.exists():
            raise ConfigError(
                f"{path} exists and is not replaced; give another --out, or delete it first."
            )

    if not any(row.mask for row in manifest.rows):
        raise DataError(
            f"{manifest.name or manifest.root}: no row has a mask to make a prompt from."
        )

    table = zones or style_map(style)
    manifest = decide_rule(manifest, progress=progress)
    rows, absent, placeless, agreeing = [], 0, 0, 0
    for row in with_progress(manifest.rows, "masks", progress):
        if row.mask is not None:
            found = _look(row_mask(manifest, row), table)
            row = replace(row, text=_caption_of(found, style, laterality), laterality=laterality)
            # count what the note reports
            absent += bool(found.empty[0])
            placeless += not found.empty[0] and not found.zones.any()
            agreeing += _agrees(found, parse(row.text, laterality=laterality))
        rows.append(row)

    # the note reports how many rows were changed, and how
    described = sum(row.mask is not None for row in rows)
    made = replace(manifest, rows=tuple(rows))
    result = Described(
        made,
        described,
        len(rows) - described,
        absent,
        placeless,
        agreeing,
        style,
        table,
        laterality,
    )
    write_manifest(made, out)
    write_whole(note, _note(result, manifest, out).encode())
    return result


def _look(mask: npt.NDArray[np.generic], table: str) -> Shown:
    return shown(mask[None], [Statement()], table)


def _caption_of(found: Shown, style: str, laterality: Laterality) -> str:
    zones = [zone for zone, holds in zip(ZONES, found.zones.reshape(9), strict=True) if holds]
    return caption(
        mask_statement(zones, int(found.pieces[0]), bool(found.empty[0]), laterality), style
    )


def _agrees(found: Shown, statement: Statement) -> bool:
    """Whether a prompt claims exactly what its mask shows."""
    aspects = agreement(found, [statement]).values()
    return all(int(c.intersection[0]) == int(c.predicted[0]) == int(c.true[0]) for c in aspects)


def _note(result: Described, source: Manifest, out: Path) -> str:
    return NOTE.format(
        table=out.name,
        data=source.name or source.root.name,
        hash=source.hash(),
        style=result.style,
        zones=result.zones,
        laterality=result.laterality.value,
        rows=len(source),
        described=result.described,
        absent=result.absent,
        placeless=result.placeless,
        unmasked=result.unmasked,
        distinct=len({row.text for row in result.manifest.rows if row.mask}),
        agreeing=f"{result.agreeing} of {result.described}",
    )
