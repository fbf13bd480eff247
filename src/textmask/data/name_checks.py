"""Checks of the names of label maps against geometry: exchanged names, images stored mirrored or upside down."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import cv2
import numpy as np

from textmask.data.check_report import CheckReport
from textmask.data.manifest import Manifest, Row
from textmask.data.mask_scan import stored_mask
from textmask.errors import DataError
from textmask.io.images import Bytes, read_image
from textmask.statement import Laterality, Side
from textmask.text.execution import Mask, center_of, share_inside
from textmask.text.structures import StructureList, structure_list

# images that are looked at, evenly spaced
MOST_IMAGES = 100
# rules that so many images tell about, and so large a share contradicts, are reported
FEWEST, CONTRADICTED = 3, 0.2
_AXES = {"top": (0, 1), "bottom": (0, -1), "left": (1, 1), "right": (1, -1)}


@dataclass
class _Votes:
    """How many images agree with a rule, and the rows of those that do not."""

    agree: int = 0
    against: list[Row] = field(default_factory=list)


def check_names(
    manifest: Manifest, report: CheckReport, structures: StructureList | None = None
) -> None:
    """Check the names of structures against where they lie.

    Args:
        manifest: one row per image and structure, with the name as the prompt (`with_classes`).
        report: takes the findings.
        structures: the vocabulary, whose order, containment, side and brightness are the rules.
    """
    known = structures or structure_list()
    rows_of: dict[str, list[Row]] = defaultdict(list)
    for row in manifest.rows:
        if row.mask and row.label and known.find(row.text):
            rows_of[row.image].append(row)
    if not rows_of:
        return

    images = list(rows_of)
    votes: dict[str, _Votes] = defaultdict(_Votes)
    for number in np.unique(
        np.linspace(0, len(images) - 1, min(MOST_IMAGES, len(images))).astype(int)
    ):
        rows = rows_of[images[number]]
        masks = _masks_of(manifest, rows, known)
        for rule, agrees in _judged(masks, manifest, rows[0], known):
            if agrees:
                votes[rule].agree += 1
            else:
                votes[rule].against.append(rows[0])

    for rule, found in votes.items():
        total = found.agree + len(found.against)
        if total >= FEWEST and len(found.against) >= CONTRADICTED * total:
            report.add(
                "names-geometry",
                "warning",
                f"{rule} is contradicted by {len(found.against)} of {total} images. The names may be exchanged, or the "
                "images stored mirrored or upside down: look at them, and correct the table of classes.",
                found.against,
            )
    report.measured["names_geometry"] = {
        rule: [found.agree, len(found.against)] for rule, found in votes.items()
    }
    _check_disguised(rows_of, report)


def _masks_of(manifest: Manifest, rows: list[Row], known: StructureList) -> dict[str, Mask]:
    """Label -> mask of one image; unreadable files are reported elsewhere."""
    masks: dict[str, Mask] = {}
    for row in rows:
        named = known.find(row.text)
        try:
            mask = stored_mask(manifest, row).astype(bool)
        except DataError:
            continue
        if named is not None and mask.any():
            masks[named.label] = mask
    return masks


def _judged(
    masks: Mapping[str, Mask], manifest: Manifest, row: Row, known: StructureList
) -> Iterator[tuple[str, bool]]:
    """Each rule that applies to an image, in words, and whether the image agrees."""
    centers = {label: center_of(mask) for label, mask in masks.items()}
    for name, structure in known.structures.items():
        if structure.start:
            axis, sign = _AXES[structure.start]
            places = [centers[one][axis] * sign for one in structure.members if one in centers]
            if len(places) > 1:
                rule = f"the order of {' and '.join(structure.members)} from the {structure.start}"
                yield rule, places == sorted(places)
        if structure.paired and manifest.laterality is not Laterality.UNKNOWN:
            yield from _pair(name, centers, manifest.laterality)
        if name not in masks:
            continue
        if structure.image_side:
            right = centers[name][1] > (masks[name].shape[1] - 1) / 2
            agrees = right == (structure.image_side == Side.RIGHT)
            yield f"{name} on the {structure.image_side} half of the image", agrees
        if structure.left_of in masks:
            agrees = centers[name][1] < centers[structure.left_of][1]
            yield f"{name} to the left of {structure.left_of} in the image", agrees
        if structure.inside in masks:
            inner, outer = _without_rims(masks[name]), _without_rims(masks[structure.inside])
            within, around = share_inside(inner, outer), share_inside(outer, inner)
            if max(within, around) > 0.05:
                yield f"{name} inside of {structure.inside}", within > around
        if structure.brighter_than in masks:
            gray = _gray(manifest, row)
            if gray is not None and gray.shape == masks[name].shape:
                other = masks[structure.brighter_than]
                agrees = bool(gray[masks[name]].mean() > gray[other].mean())
                yield f"{name} brighter than {structure.brighter_than}", agrees


def _without_rims(mask: Mask) -> Mask:
    """A mask without lines of one or two pixels, such as smoothed colors leave around another structure."""
    opened = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) > 0
    return np.asarray(opened) if opened.any() else mask


def _pair(
    name: str, centers: Mapping[str, tuple[float, float]], laterality: Laterality
) -> Iterator[tuple[str, bool]]:
    """The sides of a pair, by the declared convention."""
    left, right = (centers.get(f"{side} {name}") for side in ("left", "right"))
    if left is not None and right is not None:
        patient = laterality is Laterality.PATIENT
        where = "right" if patient else "left"
        rule = f"left {name} on the {where} of the image ({laterality} convention)"
        yield rule, (left[1] > right[1]) == patient


def _gray(manifest: Manifest, row: Row) -> Bytes | None:
    """The green channel of a color image, in which vessels differ most, or the gray image."""
    try:
        image = read_image(manifest.image_path(row))
    except DataError:
        return None
    return image if image.ndim == 2 else np.asarray(image[..., 1], np.uint8)


def _check_disguised(rows_of: Mapping[str, list[Row]], report: CheckReport) -> None:
    """Say when several classes are one class per image: then no prompt has to be read."""
    names = {row.text for rows in rows_of.values() for row in rows}
    most = max(len({row.text for row in rows}) for rows in rows_of.values())
    if len(names) > 1 and most == 1:
        report.add(
            "one-structure-per-image",
            "note",
            f"there are {len(names)} structures, but every image shows only one of them: a model does not need to read "
            "the prompt. See textmask data gap.",
        )
