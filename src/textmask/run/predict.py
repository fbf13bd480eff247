"""Segment own pictures: one picture and many sentences, a folder, or a jobs file."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import torch

from textmask.config import write_json
from textmask.data.loaders import build_text, to_image
from textmask.data.tables import column_of, read_json, read_table
from textmask.errors import ConfigError, DataError, PromptWarning, TextMaskError, choose
from textmask.io.figures import heat, overlay, side_by_side
from textmask.io.images import read_image, resize_image, write_png
from textmask.run.backends import Answering, open_backend
from textmask.run.checkpoint import Run, file_sha256, load_run
from textmask.run.tiles import predict_tiles
from textmask.text.grammar import explain, parse
from textmask.text.statement import Statement
from textmask.types import Laterality

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
RESULTS = (".mask.png", ".overlay.png", ".probability.png", ".explain.png")  # never read as pictures
CUT = "longer_than_window"  # the text encoder does not read the sentence to its end
MAPS = ("attention", "prior", "guide")  # what a method may publish in `Output.aux`, B 1 h w in [0, 1]


@dataclass(frozen=True)
class Segmentation:
    """The answer to one sentence, in the size of the original picture.

    Attributes:
        mask: uint8 H W, 0 or 1.
        probability: float32 H W.
        statement: what was understood of the sentence.
        warnings: codes of what is wrong with it; "nothing_parsed" means that no place was understood,
            "longer_than_window" that the text encoder did not read its end.
        maps: what the method publishes of `MAPS`, float32 H W in [0, 1]: where it looks for what the sentence names,
            where the sentence says, and both together.
    """

    mask: np.ndarray
    probability: np.ndarray
    statement: Statement
    warnings: tuple[str, ...]
    maps: Mapping[str, np.ndarray] = field(default_factory=dict)


class Predictor:
    """A trained run that answers sentences about pictures.

    Args:
        run: run folder, or a run that was loaded.
        backend: `torch`, `onnxruntime` or `openvino`; the last two need an export, see `open_backend`, and publish no
            maps.
        export: where it lies; None means `onnx` within the run.

    Example:
        >>> predictor = Predictor("runs/biclip")  # doctest: +SKIP
        >>> predictor.set_image("film.png").segment("lower left lung").mask  # doctest: +SKIP

    Raises:
        CheckpointError: not a run folder.
    """

    def __init__(self, run: Run | Path | str, backend: str = "torch", export: Path | None = None) -> None:
        self.run = run if isinstance(run, Run) else load_run(run)
        self.backend = backend
        self.model: Answering = open_backend(self.run, backend, export)
        self._pixels: np.ndarray | None = None
        self._planes = np.empty((1, 0, 0), np.uint8)  # C h w, as the network or its tiles are cut from it

    @property
    def laterality(self) -> Laterality:
        """Whose left the model has learnt."""
        name = str(self.run.data.get("laterality", Laterality.UNKNOWN))
        return Laterality(choose("laterality in data.json", name, [str(side) for side in Laterality]))

    @cached_property
    def weights_sha256(self) -> str:
        """Which model answers, as a hash of its weights file."""
        return file_sha256(self.run.weights)

    @property
    def pixels(self) -> np.ndarray:
        """The picture that was set, uint8 H W or H W 3.

        Raises:
            DataError: none was set.
        """
        if self._pixels is None:
            raise DataError("no picture is set; call set_image first.")
        return self._pixels

    def set_image(self, image: Path | str | np.ndarray) -> Predictor:
        """Decode and resize a picture (path, or uint8 H W or H W 3) once, for any number of sentences.

        Raises:
            DataError: the picture cannot be read.
        """
        self._pixels = None  # a picture that fails must not leave the one before in its place
        pixels = image if isinstance(image, np.ndarray) else read_image(Path(image))
        if (
            pixels.dtype != np.uint8
            or pixels.ndim not in (2, 3)
            or pixels.shape[2:] not in ((), (3,))
            or not pixels.size
        ):
            raise DataError(f"got a picture of {pixels.dtype} with shape {pixels.shape}, expected uint8 H W or H W 3.")
        tiles = self.run.recipe.tiles
        sized = pixels if tiles is not None and tiles.native else resize_image(pixels, self.run.recipe.image_size)
        self._pixels, self._planes = pixels, sized[None] if sized.ndim == 2 else sized.transpose(2, 0, 1)
        return self

    def segment(self, sentence: str) -> Segmentation:
        """Segment what a sentence names in the picture that was set.

        Raises:
            DataError: no picture was set.
        """
        rows, columns = self.pixels.shape[:2]
        statement = parse(sentence, laterality=self.laterality)
        for message in explain(statement):
            warnings.warn(f"{sentence[:80]!r}: {message}", PromptWarning, stacklevel=2)
        maps = {name: _resized(value, (rows, columns)) for name, value in self._answer(sentence, statement).items()}
        probability = maps.pop("probability")
        mask = (probability > self.run.recipe.threshold).astype(np.uint8)
        cut = (CUT,) if self.run.method.too_long([sentence]) else ()
        return Segmentation(mask, probability, statement, statement.warnings + cut, maps)

    def _answer(self, sentence: str, statement: Statement) -> dict[str, np.ndarray]:
        """Probability and maps, float32 h w each, of the whole picture at once or of its tiles."""
        recipe, model = self.run.recipe, self.model
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
            if recipe.tiles is not None:
                return predict_tiles(model, self._planes, sentence, statement, recipe.tiles, maps=MAPS)
            output = model(to_image(self._planes[None]), build_text([sentence], [statement]))
        found = {"probability": output.probability} | {name: output.aux[name] for name in MAPS if name in output.aux}
        return {name: value[0, 0].float().numpy() for name, value in found.items()}


def _resized(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """H W to another size, bilinear."""
    if values.shape == size:
        return values
    return np.asarray(cv2.resize(values, size[::-1], interpolation=cv2.INTER_LINEAR), np.float32)


def explanation(pixels: np.ndarray, found: Segmentation) -> np.ndarray:
    """The picture, each published map over it, and the mask side by side (Fig. 4 of SSA): uint8 H W' 3.

    Raises:
        ConfigError: the method publishes no attention map.
    """
    if "attention" not in found.maps:
        raise ConfigError(
            "this method publishes no attention map, so there is nothing to explain. Leave --explain out, or take a "
            "run of a method that publishes one in Output.aux['attention'], such as one that aligns places with words."
        )
    panels = [pixels, *(heat(pixels, values) for values in found.maps.values()), overlay(pixels, found.mask)]
    return side_by_side(panels, ["image", *found.maps, "prediction"])


@dataclass(frozen=True)
class Job:
    """One picture and one sentence; `name` is the start of its output files, "" derives it."""

    image: Path
    text: str
    name: str = ""

    @property
    def stem(self) -> str:
        """File-name start that is short, safe and different for different pictures or sentences."""
        words = re.sub(r"[^a-z0-9]+", "-", (self.name or f"{self.image.stem} {self.text}").lower())
        # the hash alone tells "lung?" from "lung!", and two jobs of one name apart
        digest = hashlib.sha256(f"{self.image}\0{self.text}".encode(errors="surrogatepass")).hexdigest()[:10]
        return f"{words.strip('-')[:60].strip('-') or 'picture'}-{digest}"


@dataclass(frozen=True)
class JobResult:
    """What became of a job: `done`, `skipped` (existed) or `failed`; `message` says why it failed or what is odd."""

    job: Job
    status: str
    message: str = ""
    warnings: tuple[str, ...] = ()


def read_jobs(source: Path, sentence: str | None) -> list[Job]:
    """Jobs of a picture, a folder of pictures (one sentence for all), or a csv/json file of (image, text).

    Hidden files and results of an earlier prediction are left out of a folder. Paths in a jobs file start from its
    folder.

    Raises:
        DataError: nothing to do, no sentence, one too many, or a jobs file without the two columns.
    """
    if source.is_dir():
        found = (path for path in source.rglob("*") if path.suffix.lower() in PICTURES and path.is_file())
        images = sorted(path for path in found if not path.name.startswith(".") and not path.name.endswith(RESULTS))
        if not images:
            raise DataError(f"{source} holds no picture ({', '.join(PICTURES)}).")
        return [Job(path, _needed(sentence, source)) for path in images]
    if not source.exists():
        raise DataError(f"{source} does not exist. Give a picture, a folder, or a jobs file (csv or json).")
    if source.suffix.lower() not in (".csv", ".json"):
        return [Job(source, _needed(sentence, source))]
    if sentence is not None:
        raise DataError(f"{source} brings its own sentences; leave {sentence[:80]!r} out.")
    items = _json_items(source) if source.suffix.lower() == ".json" else _csv_items(source)
    jobs = [_job(source, where, item) for where, item in items]
    if not jobs:
        raise DataError(f"{source} holds no job.")
    return jobs


def _csv_items(source: Path) -> list[tuple[str, Mapping[str, object]]]:
    header, records = read_table(source)
    columns = {key: column for key in ("image", "text", "name") if (column := column_of(header, [key]))}
    if not {"image", "text"} <= columns.keys():
        raise DataError(f"{source}: expected columns image and text (and optionally name), got {', '.join(header)}.")
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


def _job(source: Path, where: str, item: Mapping[str, object]) -> Job:
    image, text, name = item.get("image"), item.get("text"), item.get("name") or ""
    if not isinstance(image, str) or not image.strip() or "\0" in image:
        raise DataError(f"{source} {where}: image is {image!r}, expected the path of a picture.")
    if not isinstance(text, str) or not isinstance(name, str):
        raise DataError(f"{source} {where}: text is {text!r} and name {name!r}, expected texts.")
    return Job(source.parent / image.strip(), text, name)


def predict(
    run: Run | Path,
    jobs: Sequence[Job],
    out: Path,
    *,
    overwrite: bool = False,
    probability: bool = False,
    explain: bool = False,
    backend: str = "torch",
    export: Path | None = None,
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
        explain: also write NAME.explain.png: picture, attention, prior and guide where there are, prediction.
        backend: see `Predictor`.
        export: see `Predictor`.
        progress: called with (done, total).

    Raises:
        ConfigError: `explain` with a method that publishes no attention map; nothing is written then.
    """
    if explain and backend != "torch":
        raise ConfigError(f"--explain needs --backend torch: an export for {backend} publishes no maps.")
    predictor = Predictor(run, backend, export)
    if explain:
        blank = np.zeros(predictor.run.recipe.image_size, np.uint8)
        explanation(blank, predictor.set_image(blank).segment("lower left lung"))
    extra = tuple(ending for ending, wanted in ((".probability.png", probability), (".explain.png", explain)) if wanted)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the folder {out} ({error.strerror}). Give another --out.") from error
    results: list[JobResult] = []
    current: Path | None = None
    for i, job in enumerate(jobs):
        try:
            if not overwrite and _exists(out, job, extra):
                results.append(JobResult(job, "skipped", _stale(out, job, predictor)))
                continue
            if job.image != current:
                current = None
                predictor.set_image(job.image)
                current = job.image
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", PromptWarning)  # the codes are in the result
                found = predictor.segment(job.text)
            _write(out, job, found, predictor, extra)
            results.append(JobResult(job, "done", warnings=found.warnings))
        except TextMaskError as error:
            results.append(JobResult(job, "failed", str(error)))
        finally:
            if progress:
                progress(i + 1, len(jobs))
    return results


def _exists(out: Path, job: Job, extra: Sequence[str]) -> bool:
    endings = (".json", ".mask.png", ".overlay.png", *extra)
    return all((out / f"{job.stem}{ending}").exists() for ending in endings)


def _stale(out: Path, job: Job, predictor: Predictor) -> str:
    """What to say of a result that another model made, "" when this one did."""
    made_by = read_json(out / f"{job.stem}.json")
    if isinstance(made_by, dict) and made_by.get("weights_sha256") == predictor.weights_sha256:
        return ""
    return f"{out / job.stem}.json is another model's result; --overwrite makes it again"


def _write(out: Path, job: Job, found: Segmentation, predictor: Predictor, extra: Sequence[str]) -> None:
    """The JSON comes last: a job counts as done when it exists."""
    (out / f"{job.stem}.json").unlink(missing_ok=True)  # it must not vouch for pictures that are being replaced
    write_png(out / f"{job.stem}.mask.png", found.mask * 255)
    write_png(out / f"{job.stem}.overlay.png", overlay(predictor.pixels, found.mask))
    if ".probability.png" in extra:
        write_png(out / f"{job.stem}.probability.png", (found.probability * 65535 + 0.5).astype(np.uint16))
    if ".explain.png" in extra:
        write_png(out / f"{job.stem}.explain.png", explanation(predictor.pixels, found))
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
        "weights_sha256": predictor.weights_sha256,
        "threshold": predictor.run.recipe.threshold,
        "backend": predictor.backend,
    }
    try:
        write_json(out / f"{job.stem}.json", result)
    except OSError as error:
        raise DataError(f"cannot write {out / job.stem}.json ({error.strerror}). Free some space.") from error


def _needed(sentence: str | None, source: Path) -> str:
    if sentence is None:
        raise DataError(f'{source} needs a sentence: textmask predict RUN {source} "lower left lung" --out DIR.')
    return sentence
