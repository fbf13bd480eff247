"""Files of a segmentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from textmask.errors import DataError
from textmask.inference.jobs import NIFTI, BatchItem
from textmask.inference.predictor import Opened, Predictor, Segmentation, explanation
from textmask.io.files import write_json
from textmask.io.images import write_png
from textmask.io.nifti import write_nifti_mask
from textmask.io.spreadsheets import read_json_records
from textmask.plots.overlays import overlay


@dataclass(frozen=True)
class BatchResult:
    """What became of a job: `done`, `skipped` (existed) or `failed`; `message` says why it failed or what is odd."""

    job: BatchItem
    status: str
    message: str = ""
    warnings: tuple[str, ...] = ()
    unknown_words: tuple[str, ...] = ()
    conversion: str = ""


@dataclass(frozen=True)
class Wanted:
    """What is made of every job, see `predict`."""

    overwrite: bool
    probability: bool
    explain: bool
    assume: str | None
    abstain: bool

    @property
    def extra(self) -> tuple[str, ...]:
        """Endings of the files beside mask, overlay and result."""
        endings = ((".probability.png", self.probability), (".explain.png", self.explain))
        return tuple(ending for ending, wanted in endings if wanted)


def is_done(out: Path, job: BatchItem, extra: Sequence[str]) -> bool:
    """Whether all files of an item exist; `extra` are further file endings."""
    volume = job.image.name.lower().endswith(NIFTI)
    endings = (".json", ".overlay.png", ".mask.nii.gz" if volume else ".mask.png", *extra)
    return all((out / f"{job.stem}{ending}").exists() for ending in endings)


def is_stale(out: Path, job: BatchItem, predictor: Predictor) -> str:
    """What to say of a result that another model made, "" when this one did."""
    made_by = read_json_records(out / f"{job.stem}.json")
    if isinstance(made_by, dict) and made_by.get("weights_sha256") == predictor.weights_sha256:
        return ""
    return f"{out / job.stem}.json is another model's result; --overwrite makes it again"


def write_segmentation(
    out: Path, job: BatchItem, found: Segmentation, opened: Opened, extra: Sequence[str]
) -> None:
    """The JSON comes last: a job counts as done when it exists."""
    pixels = opened.picture.pixels
    (out / f"{job.stem}.json").unlink(
        missing_ok=True
    )  # it must not vouch for pictures that are being replaced
    if opened.picture.format == "nifti":
        write_nifti_mask(
            out / f"{job.stem}.mask.nii.gz",
            {opened.picture.index or 0: found.mask},
            opened.picture.header,
        )
    write_png(out / f"{job.stem}.mask.png", found.mask * 255)
    write_png(out / f"{job.stem}.overlay.png", overlay(pixels, found.mask))
    if ".probability.png" in extra:
        write_png(
            out / f"{job.stem}.probability.png", (found.probability * 65535 + 0.5).astype(np.uint16)
        )
    if ".explain.png" in extra:
        write_png(out / f"{job.stem}.explain.png", explanation(pixels, found))
    write_item(out, job, result_record(job, found, opened.predictor))


def write_item(out: Path, job: BatchItem, result: Mapping[str, object]) -> None:
    """Write NAME.json of an item.

    Raises:
        DataError: the folder cannot be written.
    """
    try:
        write_json(out / f"{job.stem}.json", result)
    except OSError as error:
        raise DataError(
            f"cannot write {out / job.stem}.json ({error.strerror}). Free some space."
        ) from error


def result_record(job: BatchItem, found: Segmentation, predictor: Predictor) -> dict[str, object]:
    """What is recorded of a request and its answer."""
    return {
        "image": str(job.image),
        "index": job.index,
        "text": job.text,
        "rows": int(found.mask.shape[0]),
        "columns": int(found.mask.shape[1]),
        "foreground_px": int(found.mask.sum()),
        "warnings": list(found.warnings),
        "unknown_words": list(found.unknown_words),
        "abstained": found.abstained,
        "compatibility": found.compatibility,
        "understood": {
            "zones": sorted(f"{side} {level}" for side, level in found.statement.zones),
            "count": found.statement.count,
            "absent": found.statement.absent,
            "grammar": found.statement.grammar,
        },
        "asked": found.asked.as_json(),
        "left_means": f"{found.asked.said} side",
        "method": predictor.run.recipe.method,
        "weights_sha256": predictor.weights_sha256,
        "threshold": predictor.run.recipe.threshold,
        "backend": predictor.backend,
    }
