"""Read mask files: the values as they are stored, what kind of file they say it is, and the foreground by a rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from textmask.errors import DataError
from textmask.io.images import Bytes, read_mask_pixels, without_equal_channels
from textmask.io.mask_rule import MaskRule

LOSSY = {".jpg", ".jpeg", ".webp", ".jp2"}
# the values of a two-valued mask: of a number, a byte or a 16-bit number
BINARY = (frozenset({0, 1}), frozenset({0, 255}), frozenset({0, 65535}))
# values this near to 0 or 255 may be compression noise; so few pixels may lie between
NEAR, BETWEEN = 64, 0.02
# a label map with more values than this in one file is a photograph
MANY = 64
KEPT = 256
WAYS = (
    "Say which values are foreground: --mask-threshold X (values above X), --mask-values 1,2 (these values), or "
    "--classes classes.csv (columns value,name: a label map with one structure per value)."
)


@dataclass(frozen=True)
class MaskValues:
    """The values of one mask file.

    Attributes:
        values: the distinct values in increasing order, at most 256 of them; colors are 0xRRGGBB.
        count: number of distinct values.
        colors: whether the values are colors, because the channels differ.
        noisy: nearly all pixels are near 0 or 255, but not all exactly there.
        ringing: noisy at both ends, as only compression or smoothing makes it.
        photograph: more values than any label map has.
    """

    values: tuple[float, ...]
    count: int
    colors: bool = False
    noisy: bool = False
    ringing: bool = False
    photograph: bool = False


def read_stored(path: str | Path) -> tuple[npt.NDArray[Any], bool]:
    """The values of a mask H W as they are stored, and whether they are colors (0xRRGGBB).

    Equal channels count once. A transparent pixel is background; if the color is the same everywhere, the transparency
    itself is the mask. A palette of gray values is looked up; of any other palette the numbers are the values.

    Raises:
        DataError: the file is missing, empty, truncated, not an image, a stack of pages, or has more than 100 Mpx.
    """
    pixels = without_equal_channels(read_mask_pixels(path))
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8)
    if pixels.ndim == 2:
        return pixels, False
    red, green, blue = (pixels[..., i].astype(np.int64) for i in range(3))
    depth = 16 if pixels.dtype == np.uint16 else 8
    return (red << (2 * depth)) | (green << depth) | blue, True


def values_of(stored: npt.NDArray[Any], colors: bool, path: str | Path) -> MaskValues:
    """What the values of one mask say about the file it was read from."""
    if stored.dtype == np.uint8:
        counts = np.bincount(stored.ravel(), minlength=256)
        values = np.flatnonzero(counts)
        numbers = counts[values]
    else:
        values, numbers = np.unique(stored, return_counts=True)

    kept = tuple(int(v) if float(v).is_integer() else float(v) for v in values[:KEPT].tolist())
    if colors:
        return MaskValues(kept, len(values), colors=True, photograph=len(values) > MANY)

    # noise of a JPEG lies around 0 and 255, a photograph anywhere
    low = (values >= 0) & (values < NEAR)
    high = (values > 255 - NEAR) & (values <= 255)
    between = numbers[~(low | high)].sum() / max(stored.size, 1)
    noisy = bool(between < BETWEEN) and len(values) > 1
    inner = (int((low & (values > 0)).sum()), int((high & (values < 255)).sum()))
    lossy = Path(path).suffix.lower() in LOSSY
    ringing = noisy and ((lossy and bool(high.any())) or min(inner) >= 2)
    return MaskValues(
        kept,
        len(values),
        noisy=noisy,
        ringing=ringing and len(values) > 2,
        photograph=len(values) > MANY and not noisy,
    )


def rule_of(files: Sequence[MaskValues]) -> MaskRule | None:
    """The rule that follows from the values of all masks of a data set; None if they do not say what is foreground."""
    union: set[float] = set()
    for file in files:
        union.update(file.values)
    if any(file.colors for file in files):
        # one color on black is a binary mask; two colors are two structures
        plain = all(file.count <= KEPT for file in files)
        white = {0xFFFFFF if v == 255 else v for v in union}
        return MaskRule() if plain and len(white - {0}) <= 1 else None
    if any(known.issuperset(union) for known in BINARY):
        return MaskRule()

    # noise is recognized by files that have it at both ends; the empty masks among them have it at one
    if any(file.ringing for file in files) and all(
        file.noisy or file.values in ((0,), (255,)) for file in files
    ):
        return MaskRule("threshold", 127)
    return None


def values_text(files: Sequence[MaskValues], most: int = 12) -> str:
    """The values of some masks, as a message lists them."""
    union: set[float] = set()
    for file in files:
        union.update(file.values)
    colors = any(file.colors for file in files)
    shown = [f"#{int(v):06x}" if colors else f"{v:g}" for v in sorted(union)]
    more = len(shown) - most
    return ", ".join(shown[:most]) + (f" ... {shown[-1]} ({len(shown)} values)" if more > 0 else "")


def read_mask(path: str | Path, rule: MaskRule | None = None, label: tuple[int, ...] = ()) -> Bytes:
    """Read a mask as uint8 H W of 0 and 1.

    Args:
        path: the file.
        rule: which values are foreground; None decides by this file alone, which must then be binary.
        label: the values of one structure of a label map, in place of a rule.

    Raises:
        DataError: as `read_stored`; or there is no rule and the values are not those of a binary mask.
    """
    stored, colors = read_stored(path)
    if rule is None and not label:
        found = values_of(stored, colors, path)
        rule = rule_of([found])
        if rule is None:
            raise DataError(
                f"{path}: is not a binary mask, its values are {values_text([found])}. {WAYS}"
            )
    return (rule or MaskRule()).foreground(stored, label)
