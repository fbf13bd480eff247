"""The values of all masks of a data set, read once, and the rule that follows from them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from textmask.data.cache_folder import cache_folder
from textmask.data.content import file_hashes
from textmask.data.manifest import Manifest, Row
from textmask.data.manifest_cells import label_text
from textmask.data.manifest_checks import SHOWN
from textmask.data.mask_sizes import fit_nearest, may_be_fitted
from textmask.data.mask_sources import is_mask_source, source_mask
from textmask.errors import DataError, DataWarning
from textmask.io.array_files import holds_both, is_nifti_name
from textmask.io.files import write_whole
from textmask.io.images import Bytes, stored_size
from textmask.io.mask_rule import MaskRule
from textmask.io.masks import (
    WAYS,
    MaskValues,
    read_mask,
    read_stored,
    rule_of,
    values_of,
    values_text,
)
from textmask.io.nifti import refuse_other_axes
from textmask.parallel import map_in_order
from textmask.progress import Progress, with_progress

FORMAT = 3  # 3: equal values are stored once


@dataclass(frozen=True)
class MaskScan:
    """What the mask files of a data set contain.

    Attributes:
        files: the values of each mask that can be read, by its path in the manifest.
        copies: masks that are byte for byte an image of the data set, and that image.
    """

    files: dict[str, MaskValues]
    copies: dict[str, str]

    def of(self, rows: Sequence[Row]) -> list[MaskValues]:
        """The values of the masks of some rows."""
        paths = dict.fromkeys(row.mask for row in rows if row.mask)
        return [self.files[path] for path in paths if path in self.files]


def scan_masks(
    manifest: Manifest,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
    hashes: Mapping[str, str] | None = None,
) -> MaskScan:
    """Read the values of every mask, or what an earlier call found if no file has changed since.

    Args:
        manifest: the data set.
        cache_dir: folder of the cache; None means the user's.
        progress: called with (task, done, total) while masks are read.
        hashes: of all files of the manifest (`file_hashes`), if they are known already.
    """
    masks = dict.fromkeys(row.mask for row in manifest.rows)
    paths = sorted(path for path in masks if path and not is_mask_source(path))
    images = sorted(dict.fromkeys(row.image for row in manifest.rows))
    if hashes is None:
        hashes = file_hashes(manifest, (*paths, *images), cache_dir, progress)
    # a path has no control character
    read = [f"{path}\t{hashes[path]}" for path in (*paths, *images)]
    identity = "\n".join([f"{FORMAT} {len(paths)}", *read])
    name = hashlib.sha256(identity.encode()).hexdigest()[:24]
    stored = cache_folder(cache_dir) / f"{name}.maskvalues"
    if (found := _load_scan(stored)) is not None:
        return found

    def values(path: str) -> MaskValues | None:
        # a file that cannot be read is reported with its row when it is decoded
        with contextlib.suppress(DataError):
            return values_of(*read_stored(manifest.root / path), path)
        return None

    files = {}
    found_values = map_in_order(values, paths)
    for path in with_progress(paths, "mask values", progress):
        if (value := next(found_values)) is not None:
            files[path] = value

    found = MaskScan(files, _copies(files, images, hashes))
    if len(files) == len(paths):
        with contextlib.suppress(OSError, DataError):
            stored.parent.mkdir(parents=True, exist_ok=True)
            write_whole(stored, _scan_json(found).encode())
    return found


def decide_rule(
    manifest: Manifest,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
    hashes: Mapping[str, str] | None = None,
) -> Manifest:
    """The manifest with its mask rule: the one that it has, or else the one that the values of all masks give.

    Args:
        manifest: the data set.
        cache_dir: see `scan_masks`.
        progress: see `scan_masks`.
        hashes: see `scan_masks`.

    Raises:
        DataError: a mask is a copy of an image or a photograph, or the values do not say what is foreground.
    """
    if not any(row.mask for row in manifest.rows):
        return manifest
    scan = scan_masks(manifest, cache_dir, progress, hashes)
    _refuse_pictures(manifest, scan)
    _refuse_unknown_labels(manifest, scan)
    if manifest.mask_rule is not None:
        return manifest

    # rows that name their values need no rule
    rows = [row for row in manifest.rows if row.mask and not row.label]
    files = scan.of(rows)
    rule = rule_of(files)
    if rule is None:
        raise DataError(_undecided(manifest, rows, scan))
    if rule.kind == "threshold":
        noisy = sum(file.count > 2 for file in files)
        warnings.warn(
            f"{manifest.name or manifest.root}: {noisy} of {len(files)} masks have compression noise around 0 and 255 "
            "(values such as a JPEG leaves); values above 127 are foreground.",
            DataWarning,
            stacklevel=2,
        )
    return with_rule(manifest, rule)


def with_rule(manifest: Manifest, rule: MaskRule | None) -> Manifest:
    """The same data set with a mask rule."""
    return replace(manifest, mask_rule=rule)


def row_mask(manifest: Manifest, row: Row) -> Bytes:
    """The mask of a row, 0 and 1: at its own size, or fitted to its image if the data set says so and the sizes allow.

    Args:
        manifest: the data set, with its rule (`decide_rule`).
        row: a row with a mask.

    Raises:
        DataError: as `stored_mask`.
    """
    mask = stored_mask(manifest, row)
    if manifest.resize_masks:
        size = stored_size(manifest.image_path(row))
        if size != mask.shape and may_be_fitted((mask.shape[0], mask.shape[1]), size):
            return fit_nearest(mask, size)
    return mask


def stored_mask(manifest: Manifest, row: Row) -> Bytes:
    """The mask of a row at its own size, 0 and 1.

    Args:
        manifest: the data set, with its rule (`decide_rule`).
        row: a row with a mask.

    Raises:
        DataError: the mask cannot be read, its values do not say what is foreground, or its affine has other axes than
            that of its image.
    """
    path = manifest.mask_path(row)
    if is_mask_source(row.mask):
        return source_mask(path, row.label, row.image, manifest.image_path(row))
    mask = read_mask(path, manifest.mask_rule, row.label)
    image = manifest.image_path(row)
    if is_nifti_name(path) and is_nifti_name(image) and image.is_file():
        refuse_other_axes(path, image)
    return mask


def refuse_same_pixels(row: Row, image: Bytes, mask: Bytes) -> None:
    """Check that a mask is not the picture of its own image.

    Raises:
        DataError: every pixel of the image that is not black is foreground, and they have one value.
    """
    if image.shape != mask.shape or not mask.any() or mask.all():
        return
    # a mask that was saved as an image has the same two values in the same places
    if np.array_equal(image != 0, mask != 0) and int(np.ptp(image[mask != 0])) == 0:
        raise DataError(
            f"{row.image}: its mask {row.mask} has the same pixels as the image. Name the file of the mask in this row."
        )


def _load_scan(path: Path) -> MaskScan | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = [
            MaskValues(**{**kind, "values": tuple(kind["values"])}) for kind in content["kinds"]
        ]
        files = {name: found[number] for name, number in content["files"].items()}
        return MaskScan(files, content["copies"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None  # not there, or damaged: read again


def _scan_json(scan: MaskScan) -> str:
    """A scan as JSON: the kinds of values, of which there are few, and which of them a file has."""
    kinds = {values: number for number, values in enumerate(dict.fromkeys(scan.files.values()))}
    files = {name: kinds[values] for name, values in scan.files.items()}
    content = {"kinds": [asdict(kind) for kind in kinds], "files": files, "copies": scan.copies}
    return json.dumps(content)


def _copies(
    files: dict[str, MaskValues], images: Sequence[str], hashes: Mapping[str, str]
) -> dict[str, str]:
    """Masks with the same bytes as an image."""
    known = {hashes[path]: path for path in images if hashes[path]}
    # two empty slices are equal and mean nothing
    suspects = [p for p, values in files.items() if values.count > 1 and not holds_both(p)]
    return {path: known[hashes[path]] for path in suspects if hashes[path] in known}


def _refuse_pictures(manifest: Manifest, scan: MaskScan) -> None:
    """Refuse masks that are images: copies, and files with more values than a mask has."""
    problems = []
    rule = manifest.mask_rule
    soft = rule is not None and rule.kind == "threshold"
    for row in manifest.rows:
        if row.mask is None:
            continue
        found = scan.files.get(row.mask)
        if row.mask in scan.copies:
            problems.append(
                f"{row.image}: its mask {row.mask} is a copy of the image {scan.copies[row.mask]}"
            )
        elif found and found.photograph and (found.colors or not soft):
            kind = "colors" if found.colors else "gray values"
            problems.append(
                f"{row.image}: its mask {row.mask} is a photograph with {found.count} {kind}, not a mask"
            )
    if problems:
        more = len(problems) - SHOWN
        shown = problems[:SHOWN] + ([f"... and {more} more"] if more > 0 else [])
        raise DataError(
            f"{manifest.name or manifest.root}: {len(problems)} rows have an image as their mask.\n  "
            + "\n  ".join(shown)
            + "\nName the mask files in these rows. If these files are soft masks (probabilities), give the value "
            "above which a pixel is foreground: --mask-threshold X."
        )


def _refuse_unknown_labels(manifest: Manifest, scan: MaskScan) -> None:
    """Refuse labels of which no mask contains a value: a column `label` may be something else."""
    labelled = [row for row in manifest.rows if row.mask and row.label]
    files = scan.of(labelled)
    found: set[float] = set()
    for file in files:
        found.update(file.values)
    if not files or any(not found.isdisjoint(row.label) for row in labelled):
        return
    raise DataError(
        f"{manifest.name or manifest.root}: no mask contains a value of the column label (or of --mask-values), e.g. "
        f"{label_text(labelled[0].label)} for {labelled[0].image}; the masks contain {values_text(files)}. "
        "Correct the values, or remove them if the masks are binary."
    )


def _undecided(manifest: Manifest, rows: Sequence[Row], scan: MaskScan) -> str:
    """What to say of masks whose values do not say what is foreground."""
    files = scan.of(rows)
    where = "; each file alone is binary, but not all in the same way"
    for row in rows:
        found = scan.files.get(row.mask or "")
        if found and rule_of([found]) is None:
            where = f", e.g. {row.mask} (of {row.image}) has {values_text([found])}"
            break

    listed = (manifest.root / "classes.csv").is_file()
    hint = f" There is a {manifest.root / 'classes.csv'}." if listed else ""
    return (
        f"{manifest.name or manifest.root}: the masks are not binary (0 and 1, or 0 and 255). "
        f"{len(files)} masks have the values {values_text(files)}{where}. {WAYS}{hint}"
    )
