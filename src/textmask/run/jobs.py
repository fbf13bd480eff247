"""Segment own pictures in bulk: one picture, a folder, or a jobs file, each result written once."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from textmask.config import write_json
from textmask.data.tables import column_of, read_json, read_table
from textmask.errors import ConfigError, DataError, TextMaskError, choose
from textmask.io.figures import overlay
from textmask.io.images import write_png
from textmask.io.nifti import write_nifti_mask
from textmask.io.orientation import VIEWS
from textmask.io.pictures import Picture
from textmask.io.read import read_pictures
from textmask.run.checkpoint import Run
from textmask.run.laterality import CONVENTIONS
from textmask.run.predict import Opened, Predictor, Segmentation, explanation
from textmask.text.findings import read_findings

if TYPE_CHECKING:
    from textmask.run.engines import Engine

NIFTI = (".nii", ".nii.gz")
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dcm", *NIFTI)
RESULTS = (".mask.png", ".mask.nii.gz", ".overlay.png", ".probability.png", ".explain.png")  # never read as pictures
COLUMNS = ("image", "text", "name", "laterality", "view", "index")  # of a jobs file; the first two are needed
PART = 32  # jobs that a task of a cluster does, one after another


@dataclass(frozen=True)
class Job:
    """One picture and one sentence; `name` is the start of its output files, "" derives it.

    `laterality`, `view` and `index` are as `Opened.segment`, `Predictor.open` and `read_picture` take them.
    """

    image: Path
    text: str
    name: str = ""
    laterality: str | None = None
    view: str | None = None
    index: int | None = None

    @property
    def stem(self) -> str:
        """File-name start that is short, safe and different for different pictures, sentences or ways to ask."""
        words = re.sub(r"[^a-z0-9]+", "-", (self.name or f"{self.image.stem} {self.text}").lower())
        # the hash alone tells "lung?" from "lung!", and two jobs of one name apart
        how = [self.laterality, self.view, self.index]
        parts = [str(self.image), self.text, *([] if how == [None] * 3 else [str(part) for part in how])]
        digest = hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()[:10]
        return f"{words.strip('-')[:60].strip('-') or 'picture'}-{digest}"

    @property
    def shown(self) -> tuple[Path, int | None, str | None]:
        """What has to be opened for it."""
        return self.image, self.index, self.view


@dataclass(frozen=True)
class JobResult:
    """What became of a job: `done`, `skipped` (existed) or `failed`; `message` says why it failed or what is odd."""

    job: Job
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


def read_jobs(
    source: Path,
    sentence: str | None,
    *,
    laterality: str | None = None,
    view: str | None = None,
    index: int | None = None,
) -> list[Job]:
    """Jobs of a picture, a folder of pictures (one sentence for all), or a csv/json file of (image, text).

    Hidden files and results of an earlier prediction are left out of a folder. Paths in a jobs file start from its
    folder; its columns `laterality`, `view` and `index` say for a picture what the arguments say for all others.

    Raises:
        DataError: nothing to do, no sentence, one too many, or a jobs file without the two columns.
        ConfigError: an unknown convention or view.
    """
    common = Job(source, "", "", laterality, view, index)
    if source.is_dir():
        found = (path for path in source.rglob("*") if path.name.lower().endswith(PICTURES) and path.is_file())
        images = sorted(path for path in found if not path.name.startswith(".") and not path.name.endswith(RESULTS))
        if not images:
            raise DataError(f"{source} holds no picture ({', '.join(PICTURES)}).")
        jobs = [replace(common, image=path, text=_needed(sentence, source)) for path in images]
    elif not source.exists():
        raise DataError(f"{source} does not exist. Give a picture, a folder, or a jobs file (csv or json).")
    elif source.suffix.lower() not in (".csv", ".json"):
        jobs = [replace(common, text=_needed(sentence, source))]
    elif sentence is not None:
        raise DataError(f"{source} brings its own sentences; leave {sentence[:80]!r} out.")
    else:
        items = _json_items(source) if source.suffix.lower() == ".json" else _csv_items(source)
        jobs = [_job(source, where, item, common) for where, item in items]
    if not jobs:
        raise DataError(f"{source} holds no job.")
    for job in jobs:
        if job.laterality is not None:
            choose("laterality", job.laterality, CONVENTIONS)
        if job.view is not None:
            choose("view", job.view, list(VIEWS))
    return jobs


def split_reports(jobs: Sequence[Job]) -> tuple[list[Job], list[str]]:
    """A job for each finding that the texts of `jobs` (reports) name, and what is to be said of each report."""
    made: list[Job] = []
    notes: list[str] = []
    for job in jobs:
        found = read_findings(job.text)
        made += [replace(job, text=sentence) for sentence in found.named]
        denied = f"; denied: {'; '.join(found.denied)}" if found.denied else ""
        skipped = f"; not read: {', '.join(found.skipped)}" if found.skipped else ""
        notes.append(f"{job.image.name}: {len(found.named)} findings with a place{denied}{skipped}")
    return made, notes


def _csv_items(source: Path) -> list[tuple[str, Mapping[str, object]]]:
    header, records = read_table(source)
    columns = {key: column for key in COLUMNS if (column := column_of(header, [key]))}
    if not {"image", "text"} <= columns.keys():
        further = ", ".join(COLUMNS[2:])
        raise DataError(f"{source}: expected columns image and text (and {further} or not), got {', '.join(header)}.")
    items: list[tuple[str, Mapping[str, object]]] = []
    for number, cells in records:
        if len(cells) != len(header):
            raise DataError(f"{source} row {number}: {len(cells)} cells, the header has {len(header)}; quote commas.")
        row = dict(zip(header, cells, strict=True))
        items.append((f"row {number}", {key: row[column] for key, column in columns.items()}))
    return items


def _json_items(source: Path) -> list[tuple[str, Mapping[str, object]]]:
    content = read_json(source)
    if not isinstance(content, list) or not all(isinstance(item, dict) for item in content):
        raise DataError(f'{source}: expected a list like [{{"image": "film.png", "text": "lower left lung"}}].')
    return [(f"item {number}", item) for number, item in enumerate(content, start=1)]


def _job(source: Path, where: str, item: Mapping[str, object], common: Job) -> Job:
    image, text, name = item.get("image"), item.get("text"), item.get("name") or ""
    if not isinstance(image, str) or not image.strip() or "\0" in image:
        raise DataError(f"{source} {where}: image is {image!r}, expected the path of a picture.")
    if not isinstance(text, str) or not isinstance(name, str):
        raise DataError(f"{source} {where}: text is {text!r} and name {name!r}, expected texts.")
    laterality, view, index = (item.get(key) or None for key in COLUMNS[3:])
    index = item.get("index") if item.get("index") == 0 else index
    if not isinstance(laterality, str | None) or not isinstance(view, str | None):
        raise DataError(f"{source} {where}: laterality is {laterality!r} and view {view!r}, expected words.")
    if index is not None and not str(index).strip().isdecimal():
        raise DataError(f"{source} {where}: index is {index!r}, expected the number of a slice or frame.")
    return Job(
        source.parent / image.strip(),
        text,
        name,
        laterality.strip() if laterality else common.laterality,
        view.strip() if view else common.view,
        common.index if index is None else int(str(index)),
    )


def predict(
    run: Run | Path,
    jobs: Sequence[Job],
    out: Path,
    *,
    overwrite: bool = False,
    probability: bool = False,
    explain: bool = False,
    assume: str | None = None,
    abstain: bool = True,
    engine: Engine | None = None,
    backend: str = "torch",
    export: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[JobResult]:
    """Write NAME.mask.png (0/255), NAME.overlay.png and NAME.json for each job, and skip what exists.

    NIfTI also gets NAME.mask.nii.gz in its own geometry; without an index all slices of a volume are segmented, one by
    one, and there is no NAME.mask.png. A picture that cannot be read, or a sentence whose side cannot be known, fails
    alone; the others go on.

    Args:
        run: the trained run.
        jobs: pictures and sentences; pictures that follow each other are decoded once.
        out: folder for the results.
        overwrite: make existing results again.
        probability: also write NAME.probability.png, 16 bit.
        explain: also write NAME.explain.png: picture, attention, prior and guide where there are, prediction.
        assume: image or patient, in the place of an unknown convention.
        abstain: write an empty mask where the model abstains or the sentence denies the finding.
        engine: where; None is here, one after another.
        backend: see `Predictor`.
        export: see `Predictor`.
        progress: called with (done, total).

    Raises:
        ConfigError: `explain` with a method that publishes no attention map; nothing is written then. An engine that
            is not installed, or has no folder to share.
    """
    wanted = Wanted(overwrite, probability, explain, assume, abstain)
    if explain and backend != "torch":
        raise ConfigError(f"--explain needs --backend torch: an export for {backend} publishes no maps.")
    predictor = Predictor(run, backend, export)
    if explain:
        blank = np.zeros(predictor.run.recipe.image_size, np.uint8)
        explanation(blank, predictor.open(blank).segment("opacity in both lungs"))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the folder {out} ({error.strerror}). Give another --out.") from error

    def report(done: int) -> None:
        if progress:
            progress(done, len(jobs))

    if engine is None or engine.name == "local":
        return _segment_all(predictor, jobs, out, wanted, report)
    from textmask.run.engines import run_tasks  # brings what a training needs

    parts = [tuple(jobs[start : start + PART]) for start in range(0, len(jobs), PART)]
    how = (backend, None if export is None else export.resolve())
    tasks = [(predictor.run.path.resolve(), part, out.resolve(), wanted, how) for part in parts]
    found: dict[int, list[JobResult]] = {}
    for i, results, problem in run_tasks(engine, work_part, tasks):
        found[i] = results or [JobResult(job, "failed", problem) for job in parts[i]]
        report(sum(map(len, found.values())))
    return [result for i in range(len(parts)) for result in found[i]]


def work_part(
    run: Path, jobs: Sequence[Job], out: Path, wanted: Wanted, how: tuple[str, Path | None]
) -> list[JobResult]:
    """Some jobs in a process that nobody sees; `how` is backend and export."""
    return _segment_all(_loaded(run, *how), jobs, out, wanted, lambda done: None)


@lru_cache(maxsize=1)
def _loaded(run: Path, backend: str, export: Path | None) -> Predictor:
    """Remembered: a process that is given several parts loads the model once."""
    return Predictor(run, backend, export)


def _segment_all(
    predictor: Predictor, jobs: Sequence[Job], out: Path, wanted: Wanted, report: Callable[[int], None]
) -> list[JobResult]:
    results: list[JobResult] = []
    pictures: list[Picture] = []
    opened: Opened | None = None
    shown: object = None
    for i, job in enumerate(jobs):
        try:
            if not wanted.overwrite and _exists(out, job, wanted.extra):
                results.append(JobResult(job, "skipped", _stale(out, job, predictor)))
                continue
            if job.shown != shown:
                pictures, opened, shown = [], None, None
                pictures = read_pictures(job.image, job.index)
                shown = job.shown
            if len(pictures) > 1:
                results.append(_segment_volume(predictor, job, pictures, out, wanted))
                continue
            opened = opened or predictor.open(pictures[0], job.view)
            found = opened.segment(job.text, job.laterality, wanted.assume, abstain=wanted.abstain)
            _write(out, job, found, opened, wanted.extra)
            asked = found.asked.conversion
            results.append(JobResult(job, "done", "", found.warnings, found.unknown_words, asked))
        except TextMaskError as error:
            results.append(JobResult(job, "failed", str(error)))
        finally:
            report(i + 1)
    return results


def _segment_volume(
    predictor: Predictor, job: Job, pictures: Sequence[Picture], out: Path, wanted: Wanted
) -> JobResult:
    """Slice by slice: one volume of masks in the geometry of the file, and an overlay of the slice that has most."""
    if pictures[0].format != "nifti":
        raise DataError(
            f"{job.image.name}: holds {len(pictures)} frames, expected one. Give --index, or take "
            "`textmask dicom segment`, which writes one DICOM SEG of all."
        )
    if wanted.extra:
        raise DataError(f"{job.image.name}: --probability and --explain are of one slice. Give its --index.")
    masks: dict[int, np.ndarray] = {}
    most, first = None, None
    for i, picture in enumerate(pictures):
        opened = predictor.open(picture, job.view)
        found = opened.segment(job.text, job.laterality, wanted.assume, abstain=wanted.abstain)
        masks[i] = found.mask
        first = first or found
        if most is None or found.mask.sum() > most[1].mask.sum():
            most = (picture, found)
    if first is None or most is None:
        raise DataError(f"{job.image.name}: holds no slice.")
    (out / f"{job.stem}.json").unlink(missing_ok=True)
    write_nifti_mask(out / f"{job.stem}.mask.nii.gz", masks, pictures[0].header)
    write_png(out / f"{job.stem}.overlay.png", overlay(most[0].pixels, most[1].mask))
    per_slice = [int(mask.sum()) for mask in masks.values()]
    result = _result(job, most[1], predictor) | {"foreground_px": sum(per_slice), "foreground_px_of_slices": per_slice}
    _write_result(out, job, result)
    return JobResult(job, "done", "", most[1].warnings, most[1].unknown_words, most[1].asked.conversion)


def _exists(out: Path, job: Job, extra: Sequence[str]) -> bool:
    volume = job.image.name.lower().endswith(NIFTI)
    endings = (".json", ".overlay.png", ".mask.nii.gz" if volume else ".mask.png", *extra)
    return all((out / f"{job.stem}{ending}").exists() for ending in endings)


def _stale(out: Path, job: Job, predictor: Predictor) -> str:
    """What to say of a result that another model made, "" when this one did."""
    made_by = read_json(out / f"{job.stem}.json")
    if isinstance(made_by, dict) and made_by.get("weights_sha256") == predictor.weights_sha256:
        return ""
    return f"{out / job.stem}.json is another model's result; --overwrite makes it again"


def _write(out: Path, job: Job, found: Segmentation, opened: Opened, extra: Sequence[str]) -> None:
    """The JSON comes last: a job counts as done when it exists."""
    pixels = opened.picture.pixels
    (out / f"{job.stem}.json").unlink(missing_ok=True)  # it must not vouch for pictures that are being replaced
    if opened.picture.format == "nifti":
        write_nifti_mask(
            out / f"{job.stem}.mask.nii.gz", {opened.picture.index or 0: found.mask}, opened.picture.header
        )
    write_png(out / f"{job.stem}.mask.png", found.mask * 255)
    write_png(out / f"{job.stem}.overlay.png", overlay(pixels, found.mask))
    if ".probability.png" in extra:
        write_png(out / f"{job.stem}.probability.png", (found.probability * 65535 + 0.5).astype(np.uint16))
    if ".explain.png" in extra:
        write_png(out / f"{job.stem}.explain.png", explanation(pixels, found))
    _write_result(out, job, _result(job, found, opened.predictor))


def _write_result(out: Path, job: Job, result: Mapping[str, object]) -> None:
    try:
        write_json(out / f"{job.stem}.json", result)
    except OSError as error:
        raise DataError(f"cannot write {out / job.stem}.json ({error.strerror}). Free some space.") from error


def _result(job: Job, found: Segmentation, predictor: Predictor) -> dict[str, object]:
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
            "free": sorted(f"{side} {level}" for side, level in found.statement.negated),
            "absent": found.statement.absent,
            "grammar": found.statement.grammar,
            "language": found.statement.language,
            "findings": [finding.as_json() for finding in found.statement.findings],
        },
        "asked": found.asked.as_json(),
        "left_means": f"{found.asked.said} side",
        "method": predictor.run.recipe.method,
        "weights_sha256": predictor.weights_sha256,
        "threshold": predictor.run.recipe.threshold,
        "backend": predictor.backend,
    }


def _needed(sentence: str | None, source: Path) -> str:
    if sentence is None:
        raise DataError(f'{source} needs a sentence: textmask predict RUN {source} "lower left lung" --out DIR.')
    return sentence
