"""Change which split the rows of a manifest belong to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from textmask.data.manifest import Manifest
from textmask.errors import ConfigError

READ_SPLITS = ("train", "valid", "test")


def unread_splits(manifest: Manifest) -> str:
    """Name the splits that no command reads unless they are asked for, such as `tr`; "" if there are none.

    Names that begin with `test` (testA, test-external) are meant to be asked for, with `evaluate --split`.
    """
    unread = []
    for split, rows in manifest.splits.items():
        if split not in READ_SPLITS and not split.lower().startswith("test"):
            unread.append(f"{split!r} ({rows} {'row' if rows == 1 else 'rows'})")
    if not unread:
        return ""
    return (
        f"not used: the split{'s' if len(unread) > 1 else ''} {', '.join(unread)}. Only the names train, valid and "
        "test are read, unless `--split` names another one; check the spelling."
    )


def hold_out(
    manifest: Manifest,
    fraction: float = 0.1,
    seed: int = 0,
    source: str = "train",
    name: str = "valid",
) -> Manifest:
    """Move a seeded part of one split into a new one; rows with a group are moved as whole groups.

    Args:
        manifest: the data set.
        fraction: share of the rows of `source` to move, in (0, 1); groups are added as long as they fit.
        seed: of the choice.
        source: split to take rows from.
        name: split to create.

    Raises:
        ConfigError: the fraction is not in (0, 1), the split exists already, or all rows are one group.
    """
    rows = manifest.rows_of(source)
    if not 0 < fraction < 1:
        raise ConfigError(f"hold_out: fraction is {fraction}, expected a number between 0 and 1.")
    if name in manifest.splits:
        raise ConfigError(f"hold_out: there is a split {name!r} already; choose another name.")

    # a row without a group is a group of its own
    groups: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        groups.setdefault((row.group, "" if row.group else row.image), []).append(row.image)
    if len(groups) < 2:
        raise ConfigError(
            f"hold_out: all {len(rows)} rows of {source!r} are one group; none can be moved."
        )

    wanted = max(1, round(fraction * len(rows)))
    names = sorted(groups)
    # random groups, as many as fit
    taken: set[str] = set()
    count = 0
    for index in np.random.default_rng(seed).permutation(len(names)):
        if count + len(groups[names[index]]) <= wanted:
            count += len(groups[names[index]])
            taken.update(groups[names[index]])

    if not taken:  # every group is larger than the requested share
        taken.update(groups[min(names, key=lambda group: len(groups[group]))])

    moved = (
        replace(row, split=name) if row.split == source and row.image in taken else row
        for row in manifest.rows
    )
    return replace(manifest, rows=tuple(moved))


def merge_split(manifest: Manifest, source: str = "valid", into: str = "train") -> Manifest:
    """Move all rows of one split into another: LViT's 24 + 6 images of MoNuSeg are the 30 that DuSSS trains on.

    The checkpoint is then chosen on a part of train (`hold_out`) or is the last epoch (`Stage.select`), never on test.

    Raises:
        ConfigError: one of the splits does not exist, or one of them is test.
    """
    # raises if one of them does not exist
    for split in (source, into):
        manifest.rows_of(split)
    if "test" in (source, into):
        raise ConfigError(
            f"merge_split: {source!r} into {into!r} mixes test with other rows; test is only for scoring."
        )
    moved = (replace(row, split=into) if row.split == source else row for row in manifest.rows)
    return replace(manifest, rows=tuple(moved))


def fold_manifests(manifest: Manifest, folds: int, seed: int = 0) -> list[Manifest]:
    """The K manifests of a cross-validation: each image is tested once, and no group is in two splits.

    Fold k tests on part k, chooses on part k + 1 and trains on the rest. The splits of the manifest are not used.

    Args:
        manifest: the data set.
        folds: number of parts K, at least 3.
        seed: of the order in which groups of equal size are dealt out.

    Raises:
        ConfigError: fewer than three folds, or fewer groups than folds.
    """
    # rows of one patient, video or image stay together
    groups: dict[tuple[str, str], list[int]] = {}
    for number, row in enumerate(manifest.rows):
        name = (row.group, "" if row.group else row.image)
        groups.setdefault(name, []).append(number)
    if folds < 3 or len(groups) < folds:
        raise ConfigError(
            f"folds is {folds} and there are {len(groups)} groups (patients, or images without a group); expected at "
            "least 3 folds and as many groups. Fold k is tested, fold k + 1 chooses the epoch, the others train."
        )

    # the largest group first, always to the smallest part
    names = sorted(groups)
    order = np.random.default_rng([seed, 0xF01D]).permutation(len(names))
    shuffled = sorted((names[i] for i in order), key=lambda name: -len(groups[name]))
    part_of = np.zeros(len(manifest.rows), dtype=int)
    sizes = [0] * folds
    for name in shuffled:
        smallest = sizes.index(min(sizes))
        part_of[groups[name]] = smallest
        sizes[smallest] += len(groups[name])

    found = []
    for fold in range(folds):
        split_of = {fold: "test", (fold + 1) % folds: "valid"}
        rows = []
        for row, part in zip(manifest.rows, part_of.tolist(), strict=True):
            rows.append(replace(row, split=split_of.get(part, "train")))
        found.append(replace(manifest, rows=tuple(rows)))
    return found
