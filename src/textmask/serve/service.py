"""What the routes do, without HTTP: open pictures, answer sentences, run jobs, and put all of it on record."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal, TypeVar
from urllib.parse import urlencode

import numpy as np
import numpy.typing as npt

from textmask import __version__
from textmask.errors import TextMaskError
from textmask.io.orientation import VIEWS
from textmask.run.jobs import Job
from textmask.serve import engine as made
from textmask.serve.audit import Audit
from textmask.serve.engine import Answer, Engine, Question, Upload
from textmask.serve.jobs import FolderJob, Jobs, rows_below
from textmask.serve.limits import MAX_SENTENCE, Limits, below
from textmask.serve.metrics import Metrics
from textmask.serve.problems import Problem, problem_of
from textmask.serve.rle import run_lengths
from textmask.serve.schemas import (
    CapabilitiesBody,
    FailureBody,
    FindingBody,
    ImageBody,
    JobBody,
    JobRequest,
    MaskBody,
    MaskQuery,
    MaskRequest,
    OrientationBody,
    RunLengthsBody,
    StatementBody,
    WarningBody,
    Whose,
)
from textmask.serve.store import Store
from textmask.serve.workers import Workers
from textmask.text.statement import Side, Statement, Zone

T = TypeVar("T")
PARTS = ["png", "rle", "overlay", "probability", "seg", "sr"]
USE = "Research use only. Not a medical device."


@dataclass(frozen=True)
class Options:
    """How the service is run.

    Attributes:
        limits: what bounds a client.
        hosts: further names that a Host header may have, beside this machine's loopback names.
        token: for `Authorization: Bearer`; None asks for none.
        audit: file of the audit log; None keeps none.
        audit_sentences: whether it records sentences as they are.
        jobs_root: folder that jobs read from and write to; None has no jobs.
    """

    limits: Limits = field(default_factory=Limits)
    hosts: tuple[str, ...] = ()
    token: str | None = None
    audit: Path | None = None
    audit_sentences: bool = False
    jobs_root: Path | None = None


@dataclass(frozen=True)
class Answered:
    """One answered sentence: its picture, the answer, the mask at the wanted threshold, seconds of the model."""

    upload: Upload
    answer: Answer
    mask: npt.NDArray[np.uint8]
    threshold: float
    seconds: float


class Service:
    """A trained run with all that keeps many clients apart and in bounds.

    Raises:
        ConfigError: the audit log cannot be opened.
    """

    def __init__(self, engine: Engine, options: Options) -> None:
        limits = options.limits
        self.engine, self.options, self.limits = engine, options, limits
        self.audit = Audit(options.audit, options.audit_sentences)
        self.workers = Workers(limits.workers, limits.queue)
        self.images: Store[Upload] = Store(limits.images, limits.store_bytes, limits.keep_seconds)
        self.metrics = Metrics()
        self.jobs = Jobs(limits.jobs, self.metrics.row)
        self.ready = False
        self.metrics.gauge("queue", "Requests that wait or run.", lambda: self.workers.pending)
        self.metrics.gauge("refused", "Requests refused because the queue was full.", lambda: self.workers.refused)
        self.metrics.gauge("images", "Pictures kept.", lambda: len(self.images))
        self.metrics.gauge("images_bytes", "Bytes of the pictures kept.", lambda: self.images.size_bytes)
        self.metrics.gauge("jobs", "Jobs that wait or run.", lambda: self.jobs.active)

    async def start(self) -> None:
        """Warm up; ready afterwards."""
        await self.workers.run(self.engine.warm_up)
        self.ready = True

    def stop(self) -> None:
        """Finish what runs, drop what waits."""
        self.ready = False
        self.jobs.close()
        self.workers.close()
        self.audit.close()

    async def open_image(self, file: BinaryIO, index: int, who: str) -> ImageBody:
        """Decode an upload and keep it.

        Raises:
            Problem: as `Engine.read`; 429 the queue is full.
        """

        def read() -> Upload:  # the bytes are taken from the spooled file only when it is their turn
            return _said(lambda: self.engine.read(file.read(), index, self.limits.max_pixels))

        upload = await self.workers.run(read)
        self.audit.write("upload", who, image_sha256=upload.sha256, model_sha256=self.engine.sha256)
        name = self.images.put(upload, upload.size_bytes)
        return _image_body(name, upload, self.limits.keep_seconds)

    def image(self, name: str) -> Upload:
        """A kept picture.

        Raises:
            Problem: 404.
        """
        found = self.images.get(name)
        if found is None:
            raise Problem(404, "no_such_image", "no such image; it may have expired. Upload it again.")
        return found

    def forget(self, name: str, who: str) -> None:
        """Forget a picture.

        Raises:
            Problem: 404.
        """
        upload = self.image(name)
        self.images.remove(name)
        self.audit.write("forget", who, image_sha256=upload.sha256)

    def answer(self, upload: Upload, asked: MaskRequest | MaskQuery, who: str) -> Answered:
        """Answer a sentence in this thread, count it and put it on record.

        Raises:
            Problem: 422, it cannot be answered as it is asked.
        """
        question = Question(asked.sentence, asked.laterality, asked.view, asked.assume)
        begin = time.perf_counter()
        try:
            answer = _said(lambda: self.engine.segment(upload, question))
        except Problem as problem:
            self._record(upload, question, who, refused=problem.code)
            raise
        seconds = time.perf_counter() - begin
        self.metrics.answer(seconds, answer.warnings, answer.abstained)
        self._record(
            upload,
            question,
            who,
            laterality=answer.asked.get("said"),
            abstained=answer.abstained,
            warnings=list(answer.warnings),
            seconds=round(seconds, 4),
        )
        threshold = self.engine.threshold if asked.threshold is None else asked.threshold
        return Answered(upload, answer, made.mask_at(answer, asked.threshold), threshold, seconds)

    def mask_body(self, name: str, asked: MaskRequest, who: str) -> MaskBody:
        """The answer as JSON, with the parts that are asked for; runs in a worker."""
        found = self.answer(self.image(name), asked, who)
        answer, mask = found.answer, found.mask
        query = asked.model_dump(exclude={"parts"}, exclude_none=True)
        link = f"/v1/images/{name}/{{}}?{urlencode(query)}"
        return MaskBody(
            image=name,
            rows=mask.shape[0],
            columns=mask.shape[1],
            statement=statement_body(answer),
            asked=dict(answer.asked),
            abstained=answer.abstained,
            compatibility=answer.compatibility,
            warnings=[WarningBody(code=code, message=made.plain(code)) for code in answer.warnings],
            threshold=found.threshold,
            foreground_px=int(mask.sum()),
            model_sha256=self.engine.sha256,
            seconds=found.seconds,
            links={kind: link.format(kind) for kind in ("mask.png", "overlay.png", "mask.dcm")},
            **{part: _text(self.part(part, found)) for part in dict.fromkeys(asked.parts) if part != "rle"},
            **({"rle": RunLengthsBody(**run_lengths(mask))} if "rle" in asked.parts else {}),
        )

    def part(self, part: str, found: Answered) -> bytes:
        """One result as the bytes of a file: png, overlay, probability, seg or sr.

        Raises:
            Problem: 415, a DICOM result of an upload that is not DICOM.
        """
        makers: dict[str, Callable[[], bytes]] = {
            "png": lambda: made.mask_png(found.mask),
            "overlay": lambda: made.overlay_png(found.upload, found.mask),
            "probability": lambda: made.probability_png(found.answer),
        }
        make = makers.get(
            part, lambda: self.engine.dicom(part, found.upload, found.answer, found.mask, found.threshold)
        )
        return _said(make)

    def add_job(self, asked: JobRequest, who: str) -> FolderJob:
        """Put a folder or jobs file in line; runs in a thread, because a folder may be long.

        Raises:
            Problem: 403, 404, 413, 422 or 429, with the reason.
        """
        root = self._jobs_root()
        rows = rows_below(root, asked.source, asked.sentence, self.limits.job_rows)
        job = FolderJob(rows, root, "", lambda row: ())
        shown = asked.out or f"results/{job.id}"
        job.out, job.shown_out = below(root, shown), shown

        def work(row: Job) -> tuple[str, ...]:
            question = Question(row.text, asked.laterality, asked.view, asked.assume)
            self.audit.write("job_row", who, job=job.id, model_sha256=self.engine.sha256, sentence=row.text)
            return self.workers.in_line(lambda: self.engine.write_row(row, question, job.out, self.limits.max_pixels))

        job.work = work
        self.audit.write("job", who, job=job.id, rows=len(rows), model_sha256=self.engine.sha256)
        return self.jobs.add(job)

    def job(self, name: str) -> FolderJob:
        """A job that is remembered.

        Raises:
            Problem: 404.
        """
        found = self.jobs.get(name)
        if found is None:
            raise Problem(404, "no_such_job", "no such job, or it was cancelled or finished long ago.")
        return found

    def capabilities(self) -> CapabilitiesBody:
        """What this service is and accepts."""
        engine, limits = self.engine, self.limits
        return CapabilitiesBody(
            version=__version__,
            method=engine.method,
            model_sha256=engine.sha256,
            laterality=_whose(engine.laterality),
            threshold=engine.threshold,
            formats=list(made.FORMATS),
            views=list(VIEWS),
            returns=PARTS,
            max_bytes=limits.max_bytes,
            max_pixels=limits.max_pixels,
            max_sentence=MAX_SENTENCE,
            queue=limits.queue,
            keep_seconds=limits.keep_seconds,
            jobs=self.options.jobs_root is not None,
            use=USE,
        )

    def _jobs_root(self) -> Path:
        if self.options.jobs_root is None:
            raise Problem(404, "no_jobs_root", "this service runs no jobs; start it with --jobs-root FOLDER.")
        return self.options.jobs_root

    def _record(self, upload: Upload, question: Question, who: str, **fields: object) -> None:
        self.audit.write(
            "ask",
            who,
            sentence=question.sentence,
            image_sha256=upload.sha256,
            model_sha256=self.engine.sha256,
            **fields,
        )


def job_body(job: FolderJob) -> JobBody:
    """A job and how far it is."""
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


def statement_body(answer: Answer) -> StatementBody:
    """What was understood."""
    statement = answer.statement
    return StatementBody(
        zones=_pairs(statement.zones),
        free=_pairs(statement.negated),
        cells=None if answer.cells is None else _pairs(answer.cells),
        free_cells=_pairs(answer.free_cells),
        grid=_grid(statement),
        count=statement.count,
        lateral=statement.lateral,
        absent=statement.absent,
        size=statement.size,
        grammar=statement.grammar,
        language=statement.language,
        findings=[FindingBody.model_validate(finding.as_json()) for finding in statement.findings],
        laterality=_whose(str(statement.laterality)),
    )


def _grid(statement: Statement) -> Literal["2x3", "3x3"]:
    """Lungs have no centre; everything else lies on nine zones."""
    central = any(side is Side.CENTER for side, _ in statement.zones | statement.negated)
    return "2x3" if statement.grammar in ("qata", "mosmed", "report", "") and not central else "3x3"


def _image_body(name: str, upload: Upload, keep_seconds: float) -> ImageBody:
    picture, place = upload.picture, upload.picture.orientation
    shown = None
    if place is not None:
        shown = OrientationBody(
            columns=place.columns, rows=place.rows, source=place.source, patient_left=place.patient_left
        )
    return ImageBody(
        id=name,
        rows=picture.pixels.shape[0],
        columns=picture.pixels.shape[1],
        channels=1 if picture.pixels.ndim == 2 else 3,
        format=picture.format,
        index=picture.index,
        count=upload.count,
        orientation=shown,
        sides_known=place is not None and place.patient_left is not None,
        spacing_mm=picture.spacing_mm,
        sha256=upload.sha256,
        keep_seconds=keep_seconds,
    )


def _pairs(zones: frozenset[Zone]) -> list[tuple[str, str]]:
    return sorted((str(side), str(level)) for side, level in zones)


def _whose(name: str) -> Whose:
    return {"image": "image", "patient": "patient"}.get(name, "unknown")  # type: ignore[return-value]


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _said(work: Callable[[], T]) -> T:
    """Do `work`; a user's mistake becomes a Problem."""
    try:
        return work()
    except TextMaskError as error:
        raise problem_of(error) from error
