"""Checks of images and masks: flat or tiny images, masks that cover nearly everything, are inverted or turned."""

from __future__ import annotations

from collections import defaultdict
from statistics import median

from textmask.data.check_report import CheckReport, part_of
from textmask.data.facts import Facts, distinct_images
from textmask.data.mask_sources import is_mask_source

FULL = 0.95
SMALL = 8  # pixels; less shows nothing
# a lesion or an organ rarely fills the edge of its image
EDGE_FILLED, EDGE_FREE = 0.9, 0.2


def check_images(facts: list[Facts], report: CheckReport) -> None:
    """Warn about images of one flat value, such as all-black ones, and about images of a few pixels."""
    images = distinct_images([fact for fact in facts if fact.size is not None])
    flat = [fact for fact in images if fact.thumbnail is not None and fact.thumbnail.std() == 0]
    if flat:
        value = int(flat[0].thumbnail.flat[0]) if flat[0].thumbnail is not None else 0
        shown = "black" if value == 0 else f"one flat value ({value})"
        report.add(
            "flat-image",
            "warning",
            f"{part_of(len(flat), len(images))} images show nothing, e.g. {flat[0].row.image}, which is all {shown}. "
            "Look at them: the file may be damaged, or its values may be read wrongly.",
            [fact.row for fact in flat],
        )

    tiny = [fact for fact in images if fact.size is not None and min(fact.size) < SMALL]
    if tiny and tiny[0].size is not None:
        rows, columns = tiny[0].size
        report.add(
            "tiny-image",
            "warning",
            f"{part_of(len(tiny), len(images))} images have fewer than {SMALL} rows or columns, e.g. "
            f"{tiny[0].row.image} ({rows} x {columns}). Remove them, or replace them with the real images.",
            [fact.row for fact in tiny],
        )


def check_shared_masks(facts: list[Facts], report: CheckReport) -> None:
    """Warn about mask files that several images name: a table that was filled downwards gives one mask to all."""
    images: dict[str, set[str]] = defaultdict(set)
    for fact in facts:
        # one empty mask for all images without a finding is fine
        if fact.row.mask and fact.mask_share != 0 and not is_mask_source(fact.row.mask):
            images[fact.row.mask].add(fact.row.image)
    shared = {mask for mask, users in images.items() if len(users) > 1}
    if shared:
        rows = [fact.row for fact in facts if fact.row.mask in shared]
        mask = rows[0].mask or ""
        report.add(
            "shared-mask",
            "warning",
            f"{part_of(len(rows), len(facts))} rows have a mask that other images have too, e.g. {mask} for "
            f"{len(images[mask])} images. Look at the mask column: each image needs a mask of its own.",
            rows,
        )


def check_coverage(facts: list[Facts], report: CheckReport) -> None:
    """Warn about masks that cover more than 95 % of their image, and about masks that may be inverted."""
    masked = [fact for fact in facts if fact.mask_share is not None]
    full = [fact for fact in masked if (fact.mask_share or 0.0) > FULL]
    if full:
        report.add(
            "full-mask",
            "warning",
            f"{part_of(len(full), len(masked))} masks cover more than {FULL:.0%} of their image, e.g. "
            f"{full[0].row.mask}. Look at them: the mask may be inverted, or its values may be read wrongly.",
            [fact.row for fact in full],
        )

    inverted = [fact for fact in masked if _looks_inverted(fact) and fact not in full]
    others = [fact for fact in masked if not _looks_inverted(fact)]
    if not inverted:
        return
    if len(others) < len(inverted):
        report.add(
            "inverted-mask",
            "warning",
            f"{part_of(len(inverted), len(masked))} masks are foreground along the edge of the image and background "
            f"inside, e.g. {inverted[0].row.mask}. Foreground and background may be swapped.",
            [fact.row for fact in inverted],
        )
    elif median(fact.edge_share or 0.0 for fact in others) < EDGE_FREE:
        report.add(
            "inverted-mask",
            "warning",
            f"{part_of(len(inverted), len(masked))} masks look like the inverse of the others, e.g. "
            f"{inverted[0].row.mask}: foreground along the edge of the image and background inside.",
            [fact.row for fact in inverted],
        )


def check_tags(facts: list[Facts], report: CheckReport) -> None:
    """Warn about masks that fit their image in size although only one of the two has an orientation tag."""
    doubtful = [
        fact
        for fact in facts
        if fact.tags[0] != fact.tags[1]
        and fact.size is not None
        and fact.size == fact.mask_size
        # rows and columns that were exchanged show in the size, unless the image is square
        and (fact.size[0] == fact.size[1] or (fact.tags[0] > 4) == (fact.tags[1] > 4))
    ]
    if doubtful:
        report.add(
            "orientation-tag",
            "warning",
            f"{part_of(len(doubtful), len(facts))} rows have another orientation tag (EXIF) in the image than in the "
            f"mask, e.g. {doubtful[0].row.image}. Both are turned by their own tag. Look at them: the mask may have "
            "been drawn before the image was turned.",
            [fact.row for fact in doubtful],
        )


def _looks_inverted(fact: Facts) -> bool:
    """Whether the mask is background only inside the image."""
    return (fact.edge_share or 0.0) > EDGE_FILLED and (fact.mask_share or 0.0) > 0.5
