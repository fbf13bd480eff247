"""Segment a picture by sentences: opened once, asked as often as wanted, from any number of threads."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from textmask.data.loaders import build_text, to_image
from textmask.errors import CheckpointError, ConfigError, DataError, PromptWarning, choose, collected_prompt_warnings
from textmask.io.figures import heat, overlay, side_by_side
from textmask.io.images import resize_image
from textmask.io.orientation import Orientation
from textmask.io.pictures import Picture
from textmask.io.read import read_picture
from textmask.run.backends import Answering, open_backend
from textmask.run.checkpoint import Run, file_sha256, load_run, read_json
from textmask.run.laterality import CONVENTIONS, DEFAULTS, NOTHING_ASKED, Asked, convention, translate
from textmask.run.prompt_check import CALIBRATION, CODES, CUT, Calibration, judge
from textmask.run.tiles import predict_tiles
from textmask.text.grammar import GRAMMARS, parse
from textmask.text.statement import Statement
from textmask.types import Laterality

MAPS = ("attention", "prior", "guide")  # what a method may publish in `Output.aux`, B 1 h w in [0, 1]


@dataclass(frozen=True)
class Segmentation:
    """The answer to one sentence, in the size and the geometry of the picture as it is stored.

    Attributes:
        mask: uint8 H W, 0 or 1; all 0 where the model abstained, and where the sentence denies the finding.
        probability: float32 H W, as the network said it, also where it abstained.
        statement: what was understood of the sentence, before any conversion.
        warnings: codes of what is wrong with the request (`textmask.run.prompt_check.CODES` has each in words).
        maps: what the method publishes of `MAPS`, float32 H W in [0, 1]: where it looks for what the sentence names,
            where the sentence says, and both together.
        asked: whose left was meant, and what the network was told.
        abstained: the mask is withheld, for what the codes say.
        compatibility: in [0, 1], how usual sentence and mask are among those of the validation split; None without a
            calibration.
        unknown_words: words that the sentences of the training never had; () without a calibration.
    """

    mask: np.ndarray
    probability: np.ndarray
    statement: Statement
    warnings: tuple[str, ...]
    maps: Mapping[str, np.ndarray] = field(default_factory=dict)
    asked: Asked = NOTHING_ASKED
    abstained: bool = False
    compatibility: float | None = None
    unknown_words: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Opened:
    """One picture that a model has been shown, to be asked any number of sentences.

    Nothing in it changes: `segment` may be called from several threads at once, and answers as if called alone.

    Attributes:
        predictor: the model.
        picture: as it is stored.
        orientation: that of the picture, or the view somebody named; None where nobody knows.
        image: 1 3 h w in [0, 1], in the usual view and the model's size; None where the model cuts tiles.
        planes: C h w uint8, what tiles are cut from.
        shown_size: rows and columns in the usual view, before any resizing.
        features: of the image, where the method computes them apart from the sentence.
    """

    predictor: Predictor
    picture: Picture
    orientation: Orientation | None
    image: Tensor | None
    planes: np.ndarray
    shown_size: tuple[int, int]
    features: tuple[Tensor, ...] | None

    def segment(
        self, sentence: str, laterality: str | None = None, assume: str | None = None, *, abstain: bool = True
    ) -> Segmentation:
        """Segment what a sentence names.

        Args:
            sentence: any text.
            laterality: whose left it means: image (the left of the picture as it is stored), patient or unknown; None
                is image for a plain picture, and patient for DICOM and NIfTI.
            assume: image or patient, in the place of whatever convention is unknown; recorded in `asked`.
            abstain: give an empty mask where the model abstains or the sentence denies the finding; False keeps what
                the network marked. The codes are the same.

        Raises:
            LateralityError: a side is named, and which side of the picture that is cannot be known.
            ConfigError: another convention.
        """
        return self.ask(sentence, laterality, assume, abstain)[0]

    def ask(
        self, sentence: str, laterality: str | None, assume: str | None, abstain: bool
    ) -> tuple[Segmentation, list[str]]:
        """As `segment`, and what the text encoder has to say of the sentence in words."""
        predictor, recipe = self.predictor, self.predictor.run.recipe
        said = convention(laterality, DEFAULTS[self.picture.format])
        asked = translate(sentence, said, predictor.laterality, self.orientation, assume, predictor.grammar)
        statement = parse(sentence, predictor.grammar, asked.said)
        with collected_prompt_warnings() as complaints:  # that the sentence was cut is all that can be one here
            cut = bool(predictor.run.method.too_long([asked.sentence]))
            planes = self._answer(asked.sentence, parse(asked.sentence, predictor.grammar, asked.model))
        cut = cut or bool(complaints)
        verdict = judge(sentence, statement, planes["probability"], recipe.threshold, predictor.calibration, cut=cut)
        maps = {name: self._as_stored(value) for name, value in planes.items()}
        probability = maps.pop("probability")
        mask = (probability > recipe.threshold).astype(np.uint8)
        if abstain and verdict.empty:
            mask = np.zeros_like(mask)
        found = Segmentation(
            mask,
            probability,
            statement,
            verdict.codes + self._about_the_view(),
            maps,
            asked,
            verdict.abstained,
            verdict.compatibility,
            verdict.unknown_words,
        )
        return found, complaints

    def _answer(self, sentence: str, statement: Statement) -> dict[str, np.ndarray]:
        """Probability and maps, float32 h w each, of the whole picture at once or of its tiles."""
        recipe, model = self.predictor.run.recipe, self.predictor.model
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
            if recipe.tiles is not None:
                return predict_tiles(model, self.planes, sentence, statement, recipe.tiles, maps=MAPS)
            image = to_image(self.planes[None]) if self.image is None else self.image
            output = model.decode(self.features, image, build_text([sentence], [statement]))
        found = {"probability": output.probability} | {name: output.aux[name] for name in MAPS if name in output.aux}
        return {name: value[0, 0].float().numpy() for name, value in found.items()}

    def _as_stored(self, values: np.ndarray) -> np.ndarray:
        """Values h w of the picture as the model was shown it, in the size and the geometry of the file."""
        values = _resized(values, self.shown_size)
        return values if self.orientation is None else self.orientation.from_usual(values)

    def _about_the_view(self) -> tuple[str, ...]:
        """A code where somebody named another view than the file has."""
        file, view = self.picture.orientation, self.orientation
        overruled = file is not None and view is not None and (file.columns, file.rows) != (view.columns, view.rows)
        return ("view_overruled",) if overruled else ()


class Predictor:
    """A trained run that answers sentences about pictures.

    `open` and the picture it returns may be used from several threads at once. `set_image` and `segment` remember one
    picture between them, and are for one thread.

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
        self._opened: Opened | None = None

    @cached_property
    def laterality(self) -> Laterality:
        """Whose left the model has learnt."""
        name = str(self.run.data.get("laterality", Laterality.UNKNOWN))
        return Laterality(choose("laterality in data.json", name, CONVENTIONS))

    @cached_property
    def grammar(self) -> str:
        """Grammar by which sentences are read: the one its data set names, else `auto`."""
        return str(choose("grammar in data.json", str(self.run.data.get("grammar") or "auto"), ["auto", *GRAMMARS]))

    @cached_property
    def weights_sha256(self) -> str:
        """Which model answers, as a hash of its weights file."""
        return file_sha256(self.run.weights)

    @cached_property
    def calibration(self) -> Calibration | None:
        """What `textmask calibrate` found to be usual for the run; None where it was not called.

        Raises:
            CheckpointError: it is damaged, or of other weights.
        """
        path = self.run.path / CALIBRATION
        if not path.exists():
            return None
        found = Calibration.from_json(read_json(path))
        if found.weights_sha256 != self.weights_sha256:
            raise CheckpointError(f"{path} is of other weights. Run textmask calibrate again, or remove the file.")
        return found

    @property
    def opened(self) -> Opened:
        """The picture that was set.

        Raises:
            DataError: none was set.
        """
        if self._opened is None:
            raise DataError("no picture is set; call set_image first.")
        return self._opened

    @property
    def pixels(self) -> np.ndarray:
        """The pixels of the picture that was set, uint8 H W or H W 3.

        Raises:
            DataError: none was set.
        """
        return self.opened.picture.pixels

    def open(self, image: Path | str | np.ndarray | Picture, view: str | None = None) -> Opened:
        """Decode, turn and resize a picture once, for any number of sentences and threads.

        Args:
            image: path, pixels (uint8 H W or H W 3), or a picture that was read already.
            view: what it shows: pa, ap, mirrored, lateral or axial; it overrules what the file says.

        Raises:
            DataError: the picture cannot be read.
            ConfigError: another view.
        """
        picture = as_picture(image)
        pixels = picture.pixels
        if (
            pixels.dtype != np.uint8
            or pixels.ndim not in (2, 3)
            or pixels.shape[2:] not in ((), (3,))
            or not pixels.size
        ):
            raise DataError(f"got a picture of {pixels.dtype} with shape {pixels.shape}, expected uint8 H W or H W 3.")
        recipe = self.run.recipe
        orientation = picture.orientation if view is None else Orientation.of_view(view)
        shown = pixels if orientation is None else orientation.to_usual(pixels)
        sized = shown if recipe.tiles is not None and recipe.tiles.native else resize_image(shown, recipe.image_size)
        planes = sized[None] if sized.ndim == 2 else sized.transpose(2, 0, 1)
        size = (shown.shape[0], shown.shape[1])
        if recipe.tiles is not None:
            return Opened(self, picture, orientation, None, planes, size, None)
        network_image = to_image(planes[None])
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
            features = self.model.image_features(network_image)
        return Opened(self, picture, orientation, network_image, planes, size, features)

    def set_image(self, image: Path | str | np.ndarray | Picture, view: str | None = None) -> Predictor:
        """As `open`, and remember the picture for `segment`.

        Raises:
            DataError: the picture cannot be read.
            ConfigError: another view.
        """
        self._opened = None  # a picture that fails must not leave the one before in its place
        self._opened = self.open(image, view)
        return self

    def segment(
        self, sentence: str, laterality: str | None = None, assume: str | None = None, *, abstain: bool = True
    ) -> Segmentation:
        """As `Opened.segment`, in the picture that was set; what is wrong with the request is also a Python warning.

        Raises:
            DataError: no picture was set.
            LateralityError: a side is named, and which side of the picture that is cannot be known.
        """
        found, complaints = self.opened.ask(sentence, laterality, assume, abstain)
        said = [f"{sentence[:80]!r}: {CODES[code]}" for code in found.warnings if code != CUT or not complaints]
        for message in [*complaints, *said]:
            warnings.warn(message, PromptWarning, stacklevel=2)
        return found


def as_picture(image: Path | str | np.ndarray | Picture) -> Picture:
    """A picture of whatever names it; pixels know nothing of a patient.

    Raises:
        DataError: the file cannot be read.
    """
    if isinstance(image, Picture):
        return image
    if isinstance(image, np.ndarray):
        return Picture(image)
    return read_picture(image)


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
