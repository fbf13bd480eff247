"""Write a table whose sentences are made from its masks, and say beside it that they are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from textmask.data.captions import caption, mask_statement, style_map
from textmask.data.manifest import Manifest, write_manifest
from textmask.errors import ConfigError, DataError
from textmask.io.files import write_whole
from textmask.io.images import read_mask
from textmask.metrics.agreement import Shown, agreement, shown
from textmask.progress import Progress, with_progress
from textmask.statement import ZONES, Laterality, Statement
from textmask.text.grammar import parse

NOTE = """# {table}: the sentences are made from the masks

`textmask data describe` wrote the column `text`; no reader looked at the pictures.

**These sentences leak position.** They tell where the true mask lies, at test time as well, where nobody has a mask to
make them from. A score that is reached with them says how well a model follows a true sentence, and nothing of how well
it would do with the sentences that people write. Set it beside the rows that any table carries: `statement_unet` (the
same places without a language model), `unet` (no sentence), shuffled and empty sentences.

| | |
| --- | --- |
| data | {data} |
| hash of the table they were made for | {hash} |
| style of the sentences | {style} |
| zone map | {zones} |
| left means | the {laterality} side |
| rows | {rows} |
| rows with a sentence made from the mask | {described} |
| of these, an empty mask ("no finding") | {absent} |
| of these, a sentence without a place (nothing but specks) | {placeless} |
| rows without a mask, left as they were | {unmasked} |
| distinct sentences | {distinct} |
| sentences that agree with their own mask in every aspect | {agreeing} |

Masks were read at their own size; after resizing a piece at the edge of a zone may fall into another one.
"""


@dataclass(frozen=True)
class Described:
    """What became of a table.

    Attributes:
        manifest: the rows with their new sentences.
        described, unmasked: rows with a sentence made from their mask, and rows without one, left as they were.
        absent, placeless: of the former, empty masks, and masks of nothing but specks.
        agreeing: of the former, sentences that agree with their own mask in every aspect.
        style, zones, laterality: how they were made.
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
    """The sentence that is true of one mask, H W, 0 or not.

    Args:
        mask: H W, integer or bool.
        style: one of `textmask.data.captions.CAPTION_STYLES`.
        laterality: whose left "left" is to mean, image or patient.
        zones: a key of `ZONE_MAPS` instead of the one that sentences of the style are judged by.

    Raises:
        ConfigError: a style, map or laterality that no sentence can be made by.
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
    """Give every row with a mask the sentence that is true of it; write the native table `out` and a note beside it.

    Args:
        manifest: the rows; those without a mask stay as they are.
        out: the table to write, in or above the folder of the pictures; NAME.README.md beside it says how it was made.
        style: as `describe_mask` takes it.
        laterality: likewise.
        zones: likewise.
        progress: called with (task, done, total).

    Raises:
        ConfigError: `out` or its note exists, or as `describe_mask`.
        DataError: no row has a mask, one cannot be read, or `out` cannot be written.
    """
    note = out.with_suffix(".README.md")
    for path in (out, note):
        if path.exists():
            raise ConfigError(
                f"{path} exists and is not replaced; give another --out, or delete it first."
            )
    if not any(row.mask for row in manifest.rows):
        raise DataError(
            f"{manifest.name or manifest.root}: no row has a mask to make a sentence from."
        )
    table = zones or style_map(style)
    rows, absent, placeless, agreeing = [], 0, 0, 0
    for row in with_progress(manifest.rows, "masks", progress):
        if row.mask is not None:
            found = _look(read_mask(manifest.mask_path(row)), table)
            row = replace(row, text=_caption_of(found, style, laterality), laterality=laterality)
            absent += bool(found.empty[0])
            placeless += not found.empty[0] and not found.zones.any()
            agreeing += _agrees(found, parse(row.text, laterality=laterality))
        rows.append(row)
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
    """Whether a sentence claims what its mask shows and nothing else."""
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
