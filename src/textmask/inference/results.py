"""The files of a segmentation: NAME.mask.png, NAME.overlay.png and, last, NAME.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from textmask.inference.folder_images import NIFTI
from textmask.inference.jobs import BatchItem
from textmask.inference.predictor import Opened, Predictor, Segmentation, explanation
from textmask.io.files import file_sha256, write_json
from textmask.io.images import write_png
from textmask.io.nifti import write_nifti_mask
from textmask.io.spreadsheets import read_json_records
from textmask.plots.overlays import overlay


@dataclass(frozen=True)
class BatchResult:
    """Outcome of an item.

    Attributes:
        job: the item.
        status: `done`, `skipped` (its files existed) or `failed`.
        message: why it failed, or what to know about a skipped result.
        warnings: codes, see `screening.CODES`.
        unknown_words: words that do not occur in the training prompts.
        conversion: what was done with the sides in the prompt.
    """

    job: BatchItem
    status: str
    message: str = ""
    warnings: tuple[str, ...] = ()
    unknown_words: tuple[str, ...] = ()
    conversion: str = ""


def is_done(out: Path, job: BatchItem, extra: Sequence[str]) -> bool:
    """Whether all files of an item exist; `extra` are further file endings."""
    # a volume has no mask.png, a single slice has both
    volume = job.image.name.lower().endswith(NIFTI)
    endings = (".json", ".overlay.png", ".mask.nii.gz" if volume else ".mask.png", *extra)
    return all((out / f"{job.stem}{ending}").exists() for ending in endings)


def image_digest(job: BatchItem) -> str:
    """The sha256 of the image file of an item; "" if it cannot be read, which the decoder then explains."""
    try:
        return file_sha256(job.image)
    except OSError:
        return ""


def shows_another_image(out: Path, job: BatchItem, digest: str) -> bool:
    """Whether a result of this name exists that was made of another image: its mask would be that of another patient.

    Args:
        out: folder of the results.
        job: the item.
        digest: of the image as it is now; "" compares nothing.
    """
    record = out / f"{job.stem}.json"
    if not digest or not record.exists():
        return False
    made_of = read_json_records(record)
    stored = made_of.get("image_sha256") if isinstance(made_of, dict) else None
    return stored is not None and stored != digest


def is_stale(out: Path, job: BatchItem, predictor: Predictor) -> str:
    """A message if the existing result was made by another model, "" if by this one."""
    made_by = read_json_records(out / f"{job.stem}.json")
    if isinstance(made_by, dict) and made_by.get("weights_sha256") == predictor.weights_sha256:
        # results of earlier versions do not say which image they were made of
        if "image_sha256" not in made_by:
            return (
                f"{out / job.stem}.json does not say which content its image had; if the image may have been "
                "replaced since, --overwrite makes it again"
            )
        if made_by.get("tta", "none") == predictor.tta:
            return ""
        return f"{out / job.stem}.json was made with another --tta; --overwrite replaces it"
    return f"{out / job.stem}.json was made by another model; --overwrite replaces it"


def write_segmentation(
    out: Path,
    job: BatchItem,
    found: Segmentation,
    opened: Opened,
    extra: Sequence[str] = (),
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write the files of one image and prompt; the JSON file comes last, so an item is done when it exists.

    Args:
        out: an existing folder.
        job: names the files.
        found: what was segmented.
        opened: the image.
        extra: further files: `.probability.png`, `.explain.png`.
        facts: entries of the JSON file to add or replace.

    Raises:
        DataError: a file cannot be written.
    """
    pixels = opened.loaded.pixels
    # an old JSON file must not describe files that are being replaced
    (out / f"{job.stem}.json").unlink(missing_ok=True)

    # masks, in the geometry of the file where it has one
    if opened.loaded.format == "nifti":
        masks = {opened.loaded.index or 0: found.mask}
        write_nifti_mask(out / f"{job.stem}.mask.nii.gz", masks, opened.loaded.header)
    write_png(out / f"{job.stem}.mask.png", found.mask * np.uint8(255))
    write_png(out / f"{job.stem}.overlay.png", overlay(pixels, found.mask))

    # what was asked for in addition
    if ".probability.png" in extra:
        sixteen_bit = (found.probability * 65535 + 0.5).astype(np.uint16)
        write_png(out / f"{job.stem}.probability.png", sixteen_bit)
    if ".explain.png" in extra:
        write_png(out / f"{job.stem}.explain.png", explanation(pixels, found))

    # last: it vouches for the files above
    record = result_record(job, found, opened.predictor)
    record.update(facts or {})
    write_json(out / f"{job.stem}.json", record)


def write_volume(
    out: Path,
    job: BatchItem,
    masks: Mapping[int, np.ndarray],
    largest: Segmentation,
    opened: Opened,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write one volume of masks in the geometry of its NIfTI file, and an overlay of the slice with the largest mask.

    Args:
        out: an existing folder.
        job: names the files.
        masks: per slice, uint8 H W, in order.
        largest: the segmentation of the slice with the largest mask, which the JSON file describes.
        opened: that slice.
        facts: entries of the JSON file to add or replace.

    Raises:
        DataError: a file cannot be written.
    """
    (out / f"{job.stem}.json").unlink(missing_ok=True)
    write_nifti_mask(out / f"{job.stem}.mask.nii.gz", masks, opened.loaded.header)
    write_png(out / f"{job.stem}.overlay.png", overlay(opened.loaded.pixels, largest.mask))

    # the record is that of one slice, the areas are those of all
    areas = [int(mask.sum()) for mask in masks.values()]
    record = result_record(job, largest, opened.predictor)
    record["foreground_px"] = sum(areas)
    record["foreground_px_of_slices"] = areas
    record.update(facts or {})
    write_json(out / f"{job.stem}.json", record)


def result_record(job: BatchItem, found: Segmentation, predictor: Predictor) -> dict[str, Any]:
    """The content of NAME.json: the request, what was understood, the answer and the model."""
    recipe, statement = predictor.run.recipe, found.statement
    inside = found.probability[found.mask > 0]
    return {
        "image": str(job.image),
        "index": job.index,
        "text": job.text,
        "rows": int(found.mask.shape[0]),
        "columns": int(found.mask.shape[1]),
        "foreground_px": int(found.mask.sum()),
        "mean_probability": round(float(inside.mean()), 6) if inside.size else None,
        "warnings": list(found.warnings),
        "unknown_words": list(found.unknown_words),
        "abstained": found.abstained,
        "scores": found.scores.as_json(),
        "understood": {
            "zones": sorted(f"{zone[0]} {zone[1]}" for zone in statement.zones),
            "count": statement.count,
            "free": sorted(f"{zone[0]} {zone[1]}" for zone in statement.negated),
            "absent": statement.absent,
            "grammar": statement.grammar,
            "language": statement.language,
            "findings": [finding.as_json() for finding in statement.findings],
        },
        "asked": found.asked.as_json(),
        "left_means": f"{found.asked.said} side",
        "method": recipe.method,
        "weights_sha256": predictor.weights_sha256,
        "threshold": recipe.threshold,
        "backend": predictor.backend,
        "tta": predictor.tta,
    }
