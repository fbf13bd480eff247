"""Scores of single images: with this file any two runs can be compared in pairs later, without their weights."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from textmask.data.manifest import Row
from textmask.errors import CheckpointError, DataError
from textmask.io.files import replacing, what_to_do
from textmask.io.spreadsheets import read_csv, safe_cell
from textmask.metrics.overlap import Counts, EmptyPolicy, Floats, dice_per_image, iou_per_image

SCORES = "scores.csv"  # next to every summary
COLUMNS = ("dice_per_image", "iou_per_image", "intersection", "predicted", "true")


@dataclass(frozen=True)
class ImageScores:
    """One row of a result, image by image.

    Attributes:
        images, groups, prompts: N names of images, patients, and prompts that the model was given ("" if unknown).
        dice, iou: N, 0 to 1; NaN if the empty policy leaves the image out.
        counts: pixels of each image.
        distances: column name -> N distances in pixels; empty if they were not computed.
    """

    images: tuple[str, ...]
    groups: tuple[str, ...]
    prompts: tuple[str, ...]
    dice: Floats
    iou: Floats
    counts: Counts
    distances: dict[str, Floats]

    @classmethod
    def of(
        cls,
        keys: Sequence[str],
        rows: Sequence[Row],
        prompts: Sequence[str],
        counts: Counts,
        policy: EmptyPolicy,
        distances: dict[str, Floats],
    ) -> ImageScores:
        """Scores of the N rows of a manifest, named by their keys, from their counted pixels."""
        return cls(
            images=tuple(keys),
            groups=tuple(row.group for row in rows),
            prompts=tuple(prompts),
            dice=dice_per_image(counts, policy),
            iou=iou_per_image(counts, policy),
            counts=counts,
            distances=distances,
        )


def write_scores(path: Path, rows: Mapping[str, ImageScores], *, prompts: bool = False) -> None:
    """Write a CSV with one line per row and image.

    Args:
        path: file to write.
        rows: name of a row -> its scores; all with the same distances.
        prompts: add the column `text`, which makes the file several times as large.

    Raises:
        DataError: the file cannot be written.
    """
    distances = list(next(iter(rows.values())).distances) if rows else []
    text = ["text"] if prompts else []

    # line by line into the file; a prompt may hold what UTF-8 cannot say
    try:
        with (
            replacing(path) as temporary,
            temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
        ):
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["row", "image", "group", *text, *COLUMNS, *distances])
            for name, scores in rows.items():
                writer.writerows(_lines_of(name, scores, distances, prompts))
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error.strerror}). {what_to_do(error.errno)}"
        ) from error


def _lines_of(
    name: str, scores: ImageScores, distances: Sequence[str], prompts: bool
) -> Iterator[list[str]]:
    """The lines of one row, with its prompts if they are asked for."""
    counts = scores.counts
    columns = [scores.dice, scores.iou, counts.intersection, counts.predicted, counts.true]
    columns += [scores.distances[distance] for distance in distances]
    for i, (image, group) in enumerate(zip(scores.images, scores.groups, strict=True)):
        words = [name, image, group]
        if prompts:
            words.append(scores.prompts[i])
        values = [column[i] for column in columns]
        figures = [f"{v:.6f}" if isinstance(v, float) else str(v) for v in values]
        yield [safe_cell(word) for word in words] + figures


def read_scores(path: Path) -> dict[str, ImageScores]:
    """Read a file of `write_scores`, with or without prompts: name of a row -> its scores.

    Raises:
        CheckpointError: the file cannot be read, lacks a column, or holds something that is not a number.
    """
    try:
        head, records = read_csv(path)
        place = {name: i for i, name in enumerate(head)}
        lacking = [name for name in ("row", "image", "group", *COLUMNS) if name not in place]
        if lacking:
            raise DataError(f"column {lacking[0]!r} is missing, found {', '.join(head)}")
        lines: dict[str, list[list[str]]] = {}
        for _, cells in records:
            lines.setdefault(cells[place["row"]], []).append(cells)
        return {name: _scores_of_lines(found, place) for name, found in lines.items()}
    except (DataError, ValueError, IndexError) as error:
        raise CheckpointError(
            f"{path} cannot be read: {error}. Run the command that wrote it again."
        ) from error


def _scores_of_lines(lines: list[list[str]], place: dict[str, int]) -> ImageScores:
    def words(name: str) -> tuple[str, ...]:
        return tuple(cells[place[name]] for cells in lines)

    def pixels(name: str) -> np.ndarray:
        return np.array([int(word) for word in words(name)], np.int64)

    return ImageScores(
        images=words("image"),
        groups=words("group"),
        prompts=words("text") if "text" in place else ("",) * len(lines),
        dice=np.array(words("dice_per_image"), np.float64),
        iou=np.array(words("iou_per_image"), np.float64),
        counts=Counts(pixels("intersection"), pixels("predicted"), pixels("true")),
        distances={
            name: np.array(words(name), np.float64) for name in place if name.endswith("_px")
        },
    )
