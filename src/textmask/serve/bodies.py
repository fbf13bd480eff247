"""Convert images, results and jobs to the response bodies of the service."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Literal

from textmask.inference.segmentation import Segmentation
from textmask.serve.background import BackgroundJob
from textmask.serve.rle import run_lengths
from textmask.serve.schemas import (
    FailureBody,
    FindingBody,
    FindingMaskBody,
    ImageBody,
    JobBody,
    MaskRequest,
    OrientationBody,
    RunLengthsBody,
    ScoresBody,
    StatementBody,
    WarningBody,
    Whose,
)
from textmask.serve.segmenter import (
    ServedSegmentation,
    mask_at,
    mask_png,
    message_of,
    probability_png,
)
from textmask.serve.uploads import Upload
from textmask.statement import Side, Statement, Zone


def job_body(job: BackgroundJob) -> JobBody:
    """A job and its progress."""
    return JobBody(
        id=job.id,
        status=job.status,
        total=len(job.rows),
        done=job.done,
        failed=job.failed,
        with_warnings=job.with_warnings,
        failures=[FailureBody(image=image, message=message) for image, message in job.failures],
        out=job.shown_out,
    )


def image_body(name: str, upload: Upload, keep_seconds: float) -> ImageBody:
    """An uploaded image; `name` is its id."""
    image, orientation = upload.image, upload.image.orientation
    shown = None
    if orientation is not None:
        shown = OrientationBody(
            columns=orientation.columns,
            rows=orientation.rows,
            source=orientation.source,
            patient_left=orientation.patient_left,
        )

    return ImageBody(
        id=name,
        rows=image.pixels.shape[0],
        columns=image.pixels.shape[1],
        channels=1 if image.pixels.ndim == 2 else 3,
        format=image.format,
        index=image.index,
        count=upload.count,
        orientation=shown,
        sides_known=orientation is not None and orientation.patient_left is not None,
        spacing_mm=image.spacing_mm,
        sha256=upload.sha256,
        keep_seconds=keep_seconds,
    )


def statement_body(found: ServedSegmentation) -> StatementBody:
    """What the parser understood."""
    statement = found.statement
    return StatementBody(
        zones=_pairs(statement.zones),
        free=_pairs(statement.negated),
        cells=None if found.cells is None else _pairs(found.cells),
        free_cells=_pairs(found.free_cells),
        grid=_grid(statement),
        count=statement.count,
        lateral=statement.lateral,
        absent=statement.absent,
        size=statement.size,
        grammar=statement.grammar,
        language=statement.language,
        findings=[FindingBody.model_validate(finding.as_json()) for finding in statement.findings],
        laterality=whose(str(statement.laterality)),
    )


def finding_mask_body(found: Segmentation, wanted: MaskRequest) -> FindingMaskBody:
    """The result for one finding of a report, with those of the requested parts that a finding has."""
    mask = mask_at(found, wanted.threshold)
    body = FindingMaskBody(
        sentence=found.prompt,
        zones=_pairs(found.statement.zones),
        foreground_px=int(mask.sum()),
        abstained=found.abstained,
        scores=ScoresBody(**found.scores.as_json()),
        warnings=warning_bodies(found.warnings),
    )
    if "png" in wanted.parts:
        body.png = base64.b64encode(mask_png(mask)).decode("ascii")
    if "rle" in wanted.parts:
        body.rle = RunLengthsBody(**run_lengths(mask))
    if "probability" in wanted.parts:
        body.probability = base64.b64encode(probability_png(found)).decode("ascii")
    return body


def warning_bodies(codes: Iterable[str]) -> list[WarningBody]:
    """Warning codes with their texts."""
    return [WarningBody(code=code, message=message_of(code)) for code in codes]


def whose(name: str) -> Whose:
    """A laterality convention as the schemas name it."""
    return {"image": "image", "patient": "patient"}.get(name, "unknown")  # type: ignore[return-value]


def _grid(statement: Statement) -> Literal["2x3", "3x3"]:
    """Lungs have no center; everything else has nine zones."""
    central = any(side is Side.CENTER for side, _ in statement.zones | statement.negated)
    return "2x3" if statement.grammar in ("qata", "mosmed", "report", "") and not central else "3x3"


def _pairs(zones: frozenset[Zone]) -> list[tuple[str, str]]:
    return sorted((str(side), str(level)) for side, level in zones)
