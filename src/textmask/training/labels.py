"""Which train rows a stage may see the masks of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path, PurePosixPath

import numpy as np

from textmask.config import Stage
from textmask.data.cache import SplitData
from textmask.data.manifest import image_of
from textmask.errors import ConfigError, DataError
from textmask.runs.folder import labelled_names


def labelled_indices(keys: Sequence[str], fraction: float, seed: int) -> np.ndarray:
    """Row numbers of a seeded fraction of the images; smaller fractions are subsets of larger ones, in any row order.

    All rows of an image are labelled, or none.
    The count is rounded half up: 57, 286, 572 and 1429 of QaTa's 5716 rows are the published 1, 5, 10 and 25 %.

    Args:
        keys: the N row keys of the train split.
        fraction: share of the rows, above 0 and at most 1.
        seed: of the choice.

    Raises:
        ConfigError: `fraction` is out of range.
    """
    if not 0 < fraction <= 1:
        raise ConfigError(
            f"labelled_fraction is {fraction}, expected a number above 0 and at most 1."
        )
    rows_of: dict[str, list[int]] = {}
    for i, key in enumerate(keys):
        rows_of.setdefault(image_of(key), []).append(i)

    # sorted first, so that the row order does not matter
    images = sorted(rows_of)
    shuffled = np.random.default_rng([seed, 0x1ABE1]).permutation(len(images))
    count = max(int(np.floor(len(images) * fraction + 0.5)), 1)
    chosen: list[int] = []
    for number in shuffled[:count]:
        chosen += rows_of[images[number]]
    return np.array(sorted(chosen))


def indices_from_list(path: Path, keys: Sequence[str]) -> np.ndarray:
    """Row numbers of the names in a text file with one name per line.

    A name is a row's own key, the path of an image (all its rows) or a file stem. Stems are compared without letter
    case and without a leading `mask_`.

    Args:
        path: the text file, UTF-8.
        keys: the N row keys of the train split.

    Raises:
        DataError: a name matches no row, or several; the first ones are listed.
    """

    def stem(name: str) -> str:
        return PurePosixPath(name.strip().replace("\\", "/")).stem.lower().removeprefix("mask_")

    # paths are unique, stems may not be
    exact: dict[str, list[int]] = {}
    stems: dict[str, list[int]] = {}
    for i, key in enumerate(keys):
        for name in dict.fromkeys((key, image_of(key))):
            exact.setdefault(name, []).append(i)
        stems.setdefault(stem(image_of(key)), []).append(i)

    found: dict[str, list[int]] = {}
    lines = 0
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: the list of labelled images cannot be read ({error}). Expected UTF-8 text, one name per line."
        ) from error
    for line in text.splitlines():
        if name := line.strip():
            lines += 1
            found[name] = exact.get(name) or stems.get(stem(name), [])

    missing = [name for name, rows in found.items() if not rows]
    if missing or not found:
        raise DataError(
            f"{path}: {len(missing)} of {lines} names match no training row, e.g. {missing[:3]}. "
            "Write one image or mask name per line."
        )

    # only its path identifies a row that shares its stem
    for name, rows in found.items():
        if len({image_of(keys[i]) for i in rows}) > 1:
            raise DataError(
                f"{path}: {name} matches {len(rows)} training rows: {', '.join(keys[i] for i in rows[:3])}. "
                "Write the path as it is in the table."
            )

    return np.array(sorted(set(chain.from_iterable(found.values()))))


def labelled_by_stage(
    keys: Sequence[str], stages: Sequence[Stage], seed: int, listed: Path | None
) -> dict[str, np.ndarray]:
    """Stage name -> the train rows whose masks it may see: those of a list, or else each stage's fraction."""
    if listed is not None:
        indices = indices_from_list(listed, keys)
        return {stage.name: indices for stage in stages}
    return {stage.name: labelled_indices(keys, stage.labelled_fraction, seed) for stage in stages}


def unlabelled_rows(data: SplitData, stage: Stage, labelled: np.ndarray) -> np.ndarray | None:
    """Train rows whose masks a stage does not see; None without an unlabelled stream or without such a row."""
    if not stage.unlabelled_batch_size:
        return None
    # all rows, except those that are labelled and have a mask
    seen = np.zeros(len(data), dtype=bool)
    seen[labelled] = True
    seen &= data.has_mask & np.array([row.labelled for row in data.rows], dtype=bool)
    return None if seen.all() else np.flatnonzero(~seen)


def refuse_other_labels(
    run: Path, keys: Sequence[str], labelled: Mapping[str, Sequence[int] | np.ndarray]
) -> None:
    """Check that the run in a folder was trained with the same labelled rows.

    Args:
        run: a run folder.
        keys: the N row keys of the train split.
        labelled: stage name -> row numbers that are labelled now.

    Raises:
        DataError: a stage had other ones.
    """
    for stage, indices in labelled.items():
        kept = labelled_names(run, stage, keys)
        if set(kept) != {keys[i] for i in indices}:
            raise DataError(
                f"{run} was trained with other labelled images ({len(kept)} in stage {stage!r}, now {len(indices)}). "
                "Use the same --labelled-list, or start a new run with another --out."
            )
