"""Segment own pictures: one picture and many sentences, a folder, or a jobs file."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from textmask.config import write_json
from textmask.data.loaders import build_text
from textmask.errors import DataError, PromptWarning, TextMaskError
from textmask.io.figures import overlay
from textmask.io.images import read_image, resize_image, write_png
from textmask.run.checkpoint import Run, load_run
from textmask.run.inference import to_image
from textmask.text.grammar import explain, parse
from textmask.text.statement import Statement
from textmask.types import Laterality

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")


@dataclass(frozen=True)
class Segmentation:
    """The answer to one sentence, in the size of the original picture.

    Attributes:
        mask: uint8 H W, 0 or 1.
        probability: float32 H W.
        statement: what was understood of the sentence.
        warnings: codes of what is wrong with it; "nothing_parsed" means that no place was understood.
    """

    mask: np.ndarray
    probability: np.ndarray
    statement: Statement
    warnings: tuple[str, ...]


class Predictor:
    """A trained run that answers sentences about pictures.

    Example:
        >>> predictor = Predictor("runs/biclip")  # doctest: +SKIP
        >>> predictor.set_image("film.png").segment("lower left lung").mask  # doctest: +SKIP

    Raises:
        CheckpointError: not a run folder.
    """

    def __init__(self, run: Run | Path | str) -> None:
        self.run = run if isinstance(run, Run) else load_run(run)
        self._image: torch.Tensor | None = None
        self._size = (0, 0)

    @property
    def laterality(self) -> Laterality:
        """Whose left the model has learnt."""
        return Laterality(self.run.data.get("laterality", "unknown"))

    def set_image(self, image: Path | str | np.ndarray) -> Predictor:
        """Decode and resize a picture (path, or uint8 H W or H W 3) once, for any number of sentences.

        Raises:
            DataError: the picture cannot be read.
        """
        pixels = image if isinstance(image, np.ndarray) else read_image(Path(image))
        if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
            raise DataError(f"got a picture of {pixels.dtype} with shape {pixels.shape}, expected uint8 H W or H W 3.")
        self._size = (pixels.shape[0], pixels.shape[1])
        small = resize_image(pixels, self.run.recipe.image_size)
        planes = small[None] if small.ndim == 2 else small.transpose(2, 0, 1)
        self._image = to_image(planes[None])
        return self

    def segment(self, sentence: str) -> Segmentation:
        """Segment what a sentence names in the picture that was set.

        Raises:
            DataError: no picture was set.
        """
        if self._image is None:
            raise DataError("no picture is set; call set_image first.")
        statement = parse(sentence, laterality=self.laterality)
        for message in explain(statement):
            warnings.warn(f"{sentence[:80]!r}: {message}", PromptWarning, stacklevel=2)
        text = build_text([sentence], [statement])
        bf16 = self.run.recipe.precision == "bf16"
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            small = self.run.method(self._image, text).probability[0, 0].numpy()
        rows, columns = self._size
        probability = np.asarray(cv2.resize(small, (columns, rows), interpolation=cv2.INTER_LINEAR), np.float32)
        mask = (probability > self.run.recipe.threshold).astype(np.uint8)
        return Segmentation(mask, probability, statement, statement.warnings)


@dataclass(frozen=True)
class Job:
    """One picture and one sentence; `name` is the start of its output files, "" derives it."""

    image: Path
    text: str
    name: str = ""

    @property
    def stem(self) -> str:
        """File-name start that is short, safe and different for different pictures or sentences."""
        words = re.sub(r"[^a-z0-9]+", "-", f"{self.image.stem} {self.text}".lower()).strip("-")[:60]
        digest = hashlib.sha256(f"{self.image}\0{self.text}".encode(errors="replace")).hexdigest()[:10]
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", self.name).strip(".-")[:80]
        return slug or f"{words}-{digest}"


@dataclass(frozen=True)
class JobResult:
    """What became of a job: `done`, `skipped` (existed) or `failed` with a message."""

    job: Job
    status: str
    message: str = ""
    warnings: tuple[str, ...] = ()


def read_jobs(source: Path, sentence: str | None) -> list[Job]:
    """Jobs of a picture, a folder of pictures (one sentence for all), or a csv/json file of (image, text).

    Raises:
        DataError: nothing to do, no sentence, or a jobs file without the two columns.
    """
    if source.is_dir():
        images = sorted(path for path in source.rglob("*") if path.suffix.lower() in PICTURES)
        if not images:
            raise DataError(f"{source} holds no picture ({', '.join(PICTURES)}).")
        return [Job(path, _needed(sentence, source)) for path in images]
    if not source.exists():
        raise DataError(f"{source} does not exist. Give a picture, a folder, or a jobs file (csv or json).")
    if source.suffix.lower() not in (".csv", ".json"):
        return [Job(source, _needed(sentence, source))]
    try:
        text = source.read_text(encoding="utf-8-sig")
        items = json.loads(text) if source.suffix.lower() == ".json" else list(csv.DictReader(text.splitlines()))
        jobs = [
            Job(source.parent / str(item["image"]), str(item["text"]), str(item.get("name") or "")) for item in items
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{source}: expected rows with 'image' and 'text' (and optionally 'name'), got a problem with {error}."
        ) from error
    if not jobs:
        raise DataError(f"{source} holds no job.")
    return jobs


def predict(
    run: Run | Path,
    jobs: Sequence[Job],
    out: Path,
    *,
    overwrite: bool = False,
    probability: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[JobResult]:
    """Write NAME.mask.png (0/255), NAME.overlay.png and NAME.json for each job, and skip what exists.

    A picture that cannot be read fails alone; the others go on.

    Args:
        run: the trained run.
        jobs: pictures and sentences; pictures that follow each other are decoded once.
        out: folder for the results.
        overwrite: make existing results again.
        probability: also write NAME.probability.png, 16 bit.
        progress: called with (done, total).
    """
    predictor = Predictor(run)
    out.mkdir(parents=True, exist_ok=True)
    results: list[JobResult] = []
    current: Path | None = None
    for i, job in enumerate(jobs):
        target = out / f"{job.stem}.json"
        try:
            if target.exists() and not overwrite:
                results.append(JobResult(job, "skipped"))
                continue
            if job.image != current:
                current = None
                predictor.set_image(job.image)
                current = job.image
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", PromptWarning)  # the codes are in the result
                found = predictor.segment(job.text)
            _write(out, job, found, predictor, probability)
            results.append(JobResult(job, "done", warnings=found.warnings))
        except TextMaskError as error:
            results.append(JobResult(job, "failed", str(error)))
        finally:
            if progress:
                progress(i + 1, len(jobs))
    return results


def _write(out: Path, job: Job, found: Segmentation, predictor: Predictor, probability: bool) -> None:
    """The JSON comes last: a job counts as done when it exists."""
    write_png(out / f"{job.stem}.mask.png", found.mask * 255)
    write_png(out / f"{job.stem}.overlay.png", overlay(read_image(job.image), found.mask))
    if probability:
        write_png(out / f"{job.stem}.probability.png", (found.probability * 65535 + 0.5).astype(np.uint16))
    statement = {
        "zones": sorted(f"{side} {level}" for side, level in found.statement.zones),
        "count": found.statement.count,
        "absent": found.statement.absent,
        "grammar": found.statement.grammar,
    }
    result = {
        "image": str(job.image),
        "text": job.text,
        "rows": int(found.mask.shape[0]),
        "columns": int(found.mask.shape[1]),
        "foreground_px": int(found.mask.sum()),
        "warnings": list(found.warnings),
        "understood": statement,
        "left_means": f"{predictor.laterality} side",
        "method": predictor.run.recipe.method,
        "weights_sha256": predictor.run.result.get("weights_sha256", ""),
        "threshold": predictor.run.recipe.threshold,
    }
    write_json(out / f"{job.stem}.json", result)


def _needed(sentence: str | None, source: Path) -> str:
    if sentence is None:
        raise DataError(f'{source} needs a sentence: textmask predict RUN {source} "lower left lung" --out DIR.')
    return sentence
