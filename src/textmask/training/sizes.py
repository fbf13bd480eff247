"""Progressive resizing: the first steps of a stage see smaller images, see `Stage.sizes`."""

from __future__ import annotations

from dataclasses import dataclass

from textmask.config import Recipe, Stage, Tiles

MULTIPLE = 16  # of the sides: what the networks halve stays whole


@dataclass(frozen=True)
class SmallerPart:
    """One part of a stage whose images are smaller.

    Attributes:
        size: rows and columns of the images.
        share: of the steps of the stage.
        tiles: cut out of these images; None gives whole images.
    """

    size: tuple[int, int]
    share: float
    tiles: Tiles | None


def smaller_parts(recipe: Recipe, stage: Stage) -> list[SmallerPart]:
    """The parts of a stage before its full size; a stage without gradient always has the full size."""
    parts: list[SmallerPart] = []
    for scale, share in stage.sizes if stage.optim is not None else ():
        tiles = recipe.tiles
        if tiles is not None:
            tiles = tiles.model_copy(update={"size": _times(tiles.size, scale), "overlap": 0})
        parts.append(SmallerPart(_times(recipe.image_size, scale), share, tiles))
    return parts


def _times(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Both sides times `scale`, as multiples of 16 that are not larger than they were."""
    rows, columns = (min(max(round(side * scale / MULTIPLE), 1) * MULTIPLE, side) for side in size)
    return rows, columns
