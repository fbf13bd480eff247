"""The work of the routes, without HTTP: open images, segment prompts, run jobs, and keep the audit log."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urlencode

import numpy as np
import numpy.typing as npt

from textmask import __version__
from textmask.errors import TextMaskError
from textmask.inference.jobs import BatchItem
from textmask.io.orientation import VIEWS
from textmask.serve import segmenter as made
from textmask.serve.access import below
from textmask.serve.audit import Audit
from textmask.serve.background import BackgroundJob, BackgroundJobs, rows_below
from textmask.serve.bodies import (
    finding_mask_body,
    image_body,
    statement_body,
    warning_bodies,
    whose,
)
from textmask.serve.limits import MAX_SENTENCE, Limits
from textmask.serve.problems import Problem, problem_of
from textmask.serve.rle import run_lengths
from textmask.serve.schemas import (
    CapabilitiesBody,
    ImageBody,
    JobRequest,
    MaskBody,
    MaskQuery,
    MaskRequest,
    RunLengthsBody,
    ScoresBody,
)
from textmask.serve.segmenter import PromptRequest, Segmenter, ServedSegmentation
from textmask.serve.store import Store
from textmask.serve.telemetry import Metrics
from textmask.serve.uploads import Upload
from textmask.serve.workers import Workers

T = TypeVar("T")
PARTS = ["png", "rle", "overlay", "probability", "seg", "sr"]
USE = "Research use only. Not a medical device."
READERS = 2  # threads that decode uploads: one slow file leaves the other for everybody else


@dataclass(frozen=True)
class ServiceOptions:
    """Options of the service.

    Attributes:
        limits: limits on clients.
        hosts: accepted names in the Host header, in addition to the loopback names.
        token: expected in `Authorization: Bearer`; None disables the check.
        audit: file of the audit log; None disables it.
        audit_sentences: record the text of prompts, not only their hash.
        jobs_root: folder that background jobs read from and write to; None disables jobs.
    """

    limits: Limits = field(default_factory=Limits)
    hosts: tuple[str, ...] = ()
    token: str | None = None
    audit: Path | None = None
    audit_sentences: bool = False
    jobs_root: Path | None = None


@dataclass(frozen=True)
class ServiceResult:
    """The result for one prompt: the image, the segmentation, the mask at the threshold, seconds of the model."""

    upload: Upload
    found: ServedSegmentation
    mask: npt.NDArray[np.uint8]
    threshold: float
    seconds: float


class Service:
    """A trained run, shared by many clients within limits.

    Raises:
        ConfigError: the audit log cannot be opened.
    """

    def __init__(self, segmenter: Segmenter, options: ServiceOptions) -> None:
        limits = options.limits
        self.segmenter, self.options, self.limits = segmenter, options, limits
        self.audit = Audit(options.audit, options.audit_sentences)
        self.workers = Workers(limits.workers, limits.queue)
        # a large file that is decoded keeps no prompt waiting
        self.readers = Workers(READERS, limits.queue)
        self.images: Store[Upload] = Store(
            limits.images, limits.store_bytes, limits.keep_seconds, shed=_shed
        )
        self.metrics = Metrics()
        self.jobs = BackgroundJobs(limits.jobs, self.metrics.row)
        self.ready = False

        gauge = self.metrics.gauge
        pools = (self.workers, self.readers)
        gauge("queue", "Requests that wait or run.", lambda: sum(p.pending for p in pools))
        gauge(
            "refused", "Requests refused with a full queue.", lambda: sum(p.refused for p in pools)
        )
        gauge("images", "Images in memory.", lambda: len(self.images))
        gauge("images_bytes", "Bytes of the images in memory.", lambda: self.images.size_bytes)
        gauge("jobs", "Jobs that wait or run.", lambda: self.jobs.active)

    async def start(self) -> None:
        """Warm up the model; the service is ready afterwards."""
        await self.workers.run(self.segmenter.warm_up)
        self.ready = True

    def stop(self) -> None:
        """Finish running requests and cancel waiting ones."""
        self.ready = False
        self.jobs.close()
        self.readers.close()
        self.workers.close()
        self.audit.close()

    async def open_image(self, file: BinaryIO, index: int, who: str) -> ImageBody:
        """Decode an upload and keep it.

        Raises:
            Problem: as `Segmenter.read`; 413 if the volume is larger than the store, 422 if decoding takes too long,
                429 if the queue is full.
        """

        def read() -> Upload:
            # in the worker, so that the bytes of waiting requests stay in their spooled files
            data = file.read()
            return _as_problem(lambda: self.segmenter.read(data, index, self.limits.max_pixels))

        upload = await self.readers.run(read, self.limits.decode_seconds)
        if upload.size_bytes > self.limits.store_bytes:
            raise Problem(
                413,
                "too_many_voxels",
                f"the volume has {upload.pixel_bytes:,} bytes without compression; the limit is "
                f"{self.limits.store_bytes:,}. Upload a part of it.",
            )
        model = self.segmenter.sha256
        self.audit.write("upload", who, image_sha256=upload.sha256, model_sha256=model)
        name = self.images.put(upload, upload.size_bytes)
        return image_body(name, upload, self.limits.keep_seconds)

    def image(self, name: str) -> Upload:
        """The uploaded image with this id.

        Raises:
            Problem: 404 if there is none.
        """
        found = self.images.get(name)
        if found is None:
            raise Problem(
                404, "no_such_image", "no such image; it may have expired. Upload it again."
            )
        return found

    async def decode(self, name: str, index: int | None) -> None:
        """Decode a slice of an upload in a reader, so that no prompt waits for it; nothing if that has been done.

        Raises:
            Problem: 404 if there is no such image or slice, 422 if it is damaged or decoding takes too long.
        """
        upload = self.image(name)  # an unknown id is refused before it waits
        if not upload.decoded(index):
            await self.readers.run(lambda: upload.slice(index), self.limits.decode_seconds)

    def forget(self, name: str, who: str) -> None:
        """Remove an image.

        Raises:
            Problem: 404 if there is none.
        """
        upload = self.image(name)
        self.images.remove(name)
        self.audit.write("forget", who, image_sha256=upload.sha256)

    def segment(self, upload: Upload, wanted: MaskRequest | MaskQuery, who: str) -> ServiceResult:
        """Segment a prompt in this thread, and record it in the metrics and the audit log.

        Raises:
            Problem: 422 if the request cannot be fulfilled.
        """
        request = PromptRequest(wanted.sentence, wanted.laterality, wanted.view, wanted.assume)
        begin = time.perf_counter()
        try:
            found = _as_problem(lambda: self.segmenter.segment(upload, request))
        except Problem as problem:
            self._record(upload, request, who, refused=problem.code)
            raise
        seconds = time.perf_counter() - begin

        self.metrics.prompt(seconds, found.warnings, found.abstained)
        self._record(
            upload,
            request,
            who,
            laterality=found.conversion.get("said"),
            abstained=found.abstained,
            warnings=list(found.warnings),
            seconds=round(seconds, 4),
        )
        threshold = self.segmenter.threshold if wanted.threshold is None else wanted.threshold
        mask = made.mask_at(found, wanted.threshold)
        return ServiceResult(upload, found, mask, threshold, seconds)

    def mask_body(self, name: str, wanted: MaskRequest, who: str) -> MaskBody:
        """The result as JSON, with the requested parts; runs in a worker."""
        with self._using(name) as upload:
            result = self.segment(upload.slice(wanted.index), wanted, who)
        found, mask = result.found, result.mask

        # parts that were not requested stay unset, and are left out of the response
        parts: dict[str, Any] = {}
        for part in dict.fromkeys(wanted.parts):
            if part == "rle":
                parts[part] = RunLengthsBody(**run_lengths(mask))
            else:
                parts[part] = base64.b64encode(self.part(part, result)).decode("ascii")

        query = wanted.model_dump(exclude={"parts"}, exclude_none=True)
        link = f"/v1/images/{name}/{{}}?{urlencode(query)}"
        return MaskBody(
            image=name,
            rows=mask.shape[0],
            columns=mask.shape[1],
            statement=statement_body(found),
            asked=dict(found.conversion),
            abstained=found.abstained,
            withheld=found.withheld,
            results=[finding_mask_body(one, wanted) for one in found.parts],
            scores=ScoresBody(**found.scores.as_json()),
            warnings=warning_bodies(found.warnings),
            threshold=result.threshold,
            foreground_px=int(mask.sum()),
            model_sha256=self.segmenter.sha256,
            seconds=result.seconds,
            links={kind: link.format(kind) for kind in ("mask.png", "overlay.png", "mask.dcm")},
            **parts,
        )

    def picture(self, name: str, index: int | None) -> bytes:
        """An image as PNG; runs in a reader, because large images take a while to compress.

        Raises:
            Problem: 404 if there is no such image or slice, 422 if it is damaged.
        """
        with self._using(name) as upload:
            return made.image_png(upload.slice(index))

    def mask_file(self, name: str, wanted: MaskQuery, part: str, who: str) -> bytes:
        """One part of the result for a prompt as the bytes of a file; runs in a worker. Errors as in `mask_body`."""
        with self._using(name) as upload:
            result = self.segment(upload.slice(wanted.index), wanted, who)
        return self.part(part, result)

    def part(self, part: str, result: ServiceResult) -> bytes:
        """One part of a result as the bytes of a file: png, overlay, probability, seg or sr.

        Raises:
            Problem: 415 for a DICOM part if the upload is not DICOM.
        """
        if part == "png":
            return made.mask_png(result.mask)
        if part == "overlay":
            return made.overlay_png(result.upload, result.mask)
        if part == "probability":
            return made.probability_png(result.found)
        return _as_problem(
            lambda: self.segmenter.dicom(
                part, result.upload, result.found, result.mask, result.threshold
            )
        )

    def add_job(self, wanted: JobRequest, who: str) -> BackgroundJob:
        """Queue a folder or a jobs file; runs in a thread, because a folder may be long.

        Raises:
            Problem: 403, 404, 413, 422 or 429, with the reason.
        """
        root, model = self._jobs_root(), self.segmenter.sha256
        rows = rows_below(root, wanted.source, wanted.sentence, self.limits.job_rows)
        job = BackgroundJob(rows, root, "", lambda row: ())
        shown = wanted.out or f"results/{job.id}"
        job.out, job.shown_out = below(root, shown), shown

        def work(row: BatchItem) -> tuple[str, ...]:
            request = PromptRequest(row.text, wanted.laterality, wanted.view, wanted.assume)
            self.audit.write("job_row", who, job=job.id, model_sha256=model, sentence=row.text)
            return self.workers.in_line(
                lambda: self.segmenter.write_row(row, request, job.out, self.limits.max_pixels)
            )

        job.work = work
        self.audit.write("job", who, job=job.id, rows=len(rows), model_sha256=model)
        return self.jobs.add(job)

    def job(self, name: str) -> BackgroundJob:
        """The job with this id.

        Raises:
            Problem: 404 if there is none.
        """
        found = self.jobs.get(name)
        if found is None:
            raise Problem(
                404, "no_such_job", "no such job, or it was cancelled or finished long ago."
            )
        return found

    def capabilities(self) -> CapabilitiesBody:
        """The model of this service and what it accepts."""
        segmenter, limits = self.segmenter, self.limits
        return CapabilitiesBody(
            version=__version__,
            method=segmenter.method,
            model_sha256=segmenter.sha256,
            laterality=whose(segmenter.laterality),
            threshold=segmenter.threshold,
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

    @contextmanager
    def _using(self, name: str) -> Iterator[Upload]:
        """An uploaded image; what was kept of it in the meantime is counted afterwards."""
        upload = self.image(name)
        try:
            yield upload
        finally:
            self.images.recount(name, upload.size_bytes)

    def _jobs_root(self) -> Path:
        if self.options.jobs_root is None:
            raise Problem(404, "no_jobs_root", "background jobs are not enabled on this service.")
        return self.options.jobs_root

    def _record(self, upload: Upload, request: PromptRequest, who: str, **fields: object) -> None:
        self.audit.write(
            "ask",
            who,
            sentence=request.prompt,
            image_sha256=upload.sha256,
            model_sha256=self.segmenter.sha256,
            **fields,
        )


def _shed(upload: Upload) -> int:
    upload.shed()
    return upload.size_bytes


def _as_problem(work: Callable[[], T]) -> T:
    """Call `work`; an error that the client can fix becomes a Problem."""
    try:
        return work()
    except TextMaskError as error:
        raise problem_of(error) from error
