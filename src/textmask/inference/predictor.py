"""Segment an image by text prompts: opened once, queried any number of times, from any number of threads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
from torch import Tensor

from textmask.data.loaders import build_text, to_image
from textmask.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    choose,
    collected_prompt_warnings,
)
from textmask.inference.backends.graphs import Backend, open_backend
from textmask.inference.domain import domain_of, screen_image
from textmask.inference.inputs import ImageInput, as_loaded_image, as_stored, image_prompt_pairs
from textmask.inference.laterality import CONVENTIONS, DEFAULTS, convention, translate
from textmask.inference.screening import NOT_MIRRORED, REFUSED_NAME, Calibration, screen, view_codes
from textmask.inference.segmentation import Segmentation as Segmentation
from textmask.inference.segmentation import Segmentations, warned_of
from textmask.inference.segmentation import explanation as explanation
from textmask.inference.tiles import predict_tiles
from textmask.io.files import file_sha256, read_json
from textmask.io.images import resize_image
from textmask.io.loaded import LoadedImage
from textmask.io.orientation import Orientation
from textmask.runs.checkpoint import Run, load_run
from textmask.runs.layout import CALIBRATION
from textmask.runs.session import refuse_not_finite
from textmask.statement import Laterality, Statement
from textmask.text.edit import mirror
from textmask.text.grammar import GRAMMARS, parse

# what a method may publish in `Output.aux`, B 1 h w in [0, 1]
MAPS = ("attention", "prior", "guide")
TTA = ("none", "flip")


@dataclass(frozen=True, eq=False)
class Opened:
    """One image that is ready for any number of prompts.

    It never changes: `segment` may be called from several threads at once, with the same results as one by one.

    Attributes:
        predictor: the model.
        loaded: the image as it is stored.
        orientation: of the stored image, or of the view that the user named; None if it is unknown.
        image: 1 3 h w in [0, 1] on the device, in the usual view and the model's size; None if the model cuts tiles.
        planes: C h w uint8, from which tiles are cut.
        shown_size: rows and columns in the usual view, before any resizing.
        features: of the image, if the method computes them without the prompt.
        mirrored: the image with left and right exchanged, for `Predictor.tta`; None without it.
    """

    predictor: Predictor
    loaded: LoadedImage
    orientation: Orientation | None
    image: Tensor | None
    planes: np.ndarray
    shown_size: tuple[int, int]
    features: tuple[Tensor, ...] | None
    mirrored: Opened | None = None

    @cached_property
    def likeness(self) -> float | None:
        """`KnownImages.rank` of the image; None without a calibration that knows the training images."""
        calibration = self.predictor.calibration
        known = None if calibration is None else calibration.known_images
        return None if known is None else known.rank(self.planes)

    def segment(
        self,
        sentence: str,
        laterality: str | None = None,
        assume: str | None = None,
        *,
        abstain: bool = True,
    ) -> Segmentation:
        """Segment what a prompt names.

        Args:
            sentence: the prompt; any text.
            laterality: convention of the prompt: `image` (left side of the stored image), `patient` or `unknown`;
                None means image for a plain image, and patient for DICOM and NIfTI.
            assume: `image` or `patient`, used for any convention that is unknown; recorded in `asked`.
            abstain: return an empty mask if the model abstains or the prompt denies the finding; False keeps what
                the network marked. The codes are the same.

        Raises:
            LateralityError: the prompt names a side, and it cannot be determined which side of the image that is.
            ConfigError: the convention is unknown.
            CheckpointError: the model returns values that are not finite.
        """
        return self.ask(sentence, laterality, assume, abstain)[0]

    def ask(
        self, sentence: str, laterality: str | None, assume: str | None, abstain: bool
    ) -> tuple[Segmentation, list[str]]:
        """Like `segment`; also returns the messages of the text encoder about the prompt."""
        # what the prompt means, and how it reads in the convention of the model
        predictor, recipe = self.predictor, self.predictor.run.recipe
        said = convention(laterality, DEFAULTS[self.loaded.format])
        asked = translate(
            sentence, said, predictor.laterality, self.orientation, assume, predictor.grammar
        )
        statement = parse(sentence, predictor.grammar, asked.said)

        # the only message there can be is that the prompt was cut
        with collected_prompt_warnings() as complaints:
            cut = bool(predictor.run.method.too_long([asked.sentence]))
            shown = parse(asked.sentence, predictor.grammar, asked.model)
            planes = self._predict(asked.sentence, shown)
            flipped = self._predict_mirrored(asked.sentence, asked.model)
        for name, plane in (flipped or {}).items():
            planes[name] = (planes[name] + plane) / 2
        refuse_not_finite(planes["probability"], f"prompt {asked.sentence!r}")

        # whether the prediction should be trusted
        screening = screen(
            sentence,
            statement,
            planes["probability"],
            recipe.threshold,
            predictor.calibration,
            read=shown,
            likeness=self.likeness,
            cut=cut or bool(complaints),
        )
        screening = screen_image(screening, predictor.domain, self.loaded, self.orientation)

        # back to the size and geometry of the stored image
        existence = planes.pop("existence", None)
        maps = {}
        for name, plane in planes.items():
            maps[name] = as_stored(plane, self.shown_size, self.orientation)
        probability = maps.pop("probability")
        mask = (probability > recipe.threshold).astype(np.uint8)
        if abstain and screening.empty:
            mask = np.zeros_like(mask)

        codes = screening.codes + view_codes(self.loaded.orientation, self.orientation)
        if self.mirrored is not None and flipped is None:
            codes += (NOT_MIRRORED,)
        readings = predictor.run.method.reading(build_text([asked.sentence], [shown]))
        if readings and readings[0].refused:
            codes += (REFUSED_NAME,)
        found = Segmentation(
            mask,
            probability,
            statement,
            codes,
            maps,
            asked,
            screening.abstained,
            screening.scores,
            screening.unknown_words,
            sentence,
            self.loaded.pixels,
            readings[0] if readings else None,
            None if existence is None else float(existence[0, 0]),
        )
        return found, complaints

    def _predict(self, sentence: str, statement: Statement) -> dict[str, np.ndarray]:
        """Probability and maps, float32 h w each, of the whole image at once or of its tiles."""
        predictor = self.predictor
        tiles, device = predictor.run.recipe.tiles, predictor.session.device
        with predictor.session.running():
            if tiles is not None:
                return predict_tiles(
                    predictor.model,
                    self.planes,
                    sentence,
                    statement,
                    tiles,
                    maps=MAPS,
                    device=device,
                )
            image = to_image(self.planes[None]) if self.image is None else self.image
            text = build_text([sentence], [statement]).to(device)
            output = predictor.model.decode(self.features, image.to(device), text)

        # maps may be bf16, which NumPy does not have
        planes = {"probability": output.probability}
        planes.update({name: x for name, x in output.aux.items() if name in (*MAPS, "existence")})
        return {name: plane[0, 0].float().cpu().numpy() for name, plane in planes.items()}

    def _predict_mirrored(self, sentence: str, side: Laterality) -> dict[str, np.ndarray] | None:
        """As `_predict`, of the mirrored image with the mirrored prompt; None if the prompt cannot be mirrored."""
        swapped = mirror(sentence) if self.mirrored is not None else None
        if self.mirrored is None or swapped is None:
            return None
        statement = parse(swapped, self.predictor.grammar, side)
        planes = self.mirrored._predict(swapped, statement)
        return {name: plane[:, ::-1] for name, plane in planes.items()}


class Predictor:
    """A trained run that segments images by prompts.

    `open` and the image it returns may be used from several threads at once. `set_image` and `segment` share one
    current image and are for one thread.

    Args:
        run: run folder, `default` for the bundled model, or a run that is already loaded, which is moved to `device`.
        backend: `torch`, `onnxruntime` or `openvino`; the last two need an export, see `open_backend`, and publish no
            maps.
        export: folder of the export; None means `onnx` inside the run.
        device: where torch runs: auto (CUDA, else MPS, else the CPU), cpu, cuda, cuda:N or mps. The other backends
            run on the CPU.
        calibration: a calibration.json to use instead of the one in the run.
        tta: `flip` averages the probabilities with those of the mirrored image and the mirrored prompt; a prompt that
            cannot be mirrored is predicted once, and has the code `not_mirrored`.

    Example:
        >>> predictor = Predictor("runs/biclip")  # doctest: +SKIP
        >>> predictor.set_image("image.png").segment("lower left lung").mask  # doctest: +SKIP

    Raises:
        ConfigError: this machine does not have the device, or the backend does not run on it.
        CheckpointError: not a run folder.
    """

    def __init__(
        self,
        run: Run | Path | str,
        backend: str = "torch",
        export: Path | None = None,
        *,
        device: str = "auto",
        calibration: Path | None = None,
        tta: str = "none",
    ) -> None:
        self.tta = choose("test-time augmentation", tta, TTA)
        # exported graphs are checked and run on the CPU only
        if backend != "torch":
            if device not in ("auto", "cpu"):
                raise ConfigError(
                    f"backend {backend} runs on the CPU, got device {device}. Use backend torch, or device cpu."
                )
            device = "cpu"
        self.run = run if isinstance(run, Run) else load_run(run, device)
        self.session = self.run.session(device)
        self.backend = backend
        self.model: Backend = open_backend(self.run, backend, export)
        self.domain = domain_of(self.run.data)
        self._calibration = calibration or self.run.path / CALIBRATION
        self._opened: Opened | None = None

    @cached_property
    def laterality(self) -> Laterality:
        """The laterality convention of the training prompts."""
        name = str(self.run.data.get("laterality", Laterality.UNKNOWN))
        return Laterality(choose("laterality in data.json", name, CONVENTIONS))

    @cached_property
    def grammar(self) -> str:
        """The grammar of the prompts: that of the training data, or `auto`."""
        name = str(self.run.data.get("grammar") or "auto")
        return choose("grammar in data.json", name, ["auto", *GRAMMARS])

    @cached_property
    def weights_sha256(self) -> str:
        """Hash of the weights file, which identifies the model."""
        return file_sha256(self.run.weights)

    @cached_property
    def calibration(self) -> Calibration | None:
        """What `textmask calibrate` found to be usual for the run; None if it has not been called.

        Raises:
            CheckpointError: the file is damaged, or was computed for other weights.
        """
        path = self._calibration
        if not path.exists():
            return None

        # limits of other weights would abstain at random
        found = Calibration.from_json(read_json(path))
        if found.weights_sha256 != self.weights_sha256:
            raise CheckpointError(
                f"{path} was computed for different weights. Run textmask calibrate again, or remove the file."
            )
        return found

    @property
    def opened(self) -> Opened:
        """The current image.

        Raises:
            DataError: no image has been set.
        """
        if self._opened is None:
            raise DataError("no image is set; call set_image first.")
        return self._opened

    @property
    def pixels(self) -> np.ndarray:
        """The pixels of the current image, uint8 H W or H W 3.

        Raises:
            DataError: no image has been set.
        """
        return self.opened.loaded.pixels

    def open(
        self,
        image: ImageInput,
        view: str | None = None,
        *,
        window: Sequence[float] | None = None,
        index: int | None = None,
    ) -> Opened:
        """Decode, turn and resize an image once, for any number of prompts and threads.

        Args:
            image: path, bytes, Pillow image, NumPy array, torch tensor, or an image that is already loaded; see
                `textmask.io.arrays.ACCEPTED`.
            view: pa, ap, mirrored, lateral or axial; it overrules the orientation in the file.
            window: of an array: the values that become black and white.
            index: of a file: slice of a volume or frame of a DICOM file.

        Raises:
            DataError: the image cannot be read.
            ConfigError: the view is unknown.
        """
        loaded = as_loaded_image(image, window, index)
        pixels = loaded.pixels
        grey_or_color = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
        if pixels.dtype != np.uint8 or not grey_or_color or not pixels.size:
            raise DataError(
                f"got an image of {pixels.dtype} with shape {pixels.shape}, expected uint8 H W or H W 3."
            )

        # the usual view, in the size of the model unless its tiles are cut at full resolution
        recipe = self.run.recipe
        orientation = loaded.orientation if view is None else Orientation.of_view(view)
        shown = pixels if orientation is None else orientation.to_usual(pixels)
        native = recipe.tiles is not None and recipe.tiles.native
        sized = shown if native else resize_image(shown, recipe.image_size)
        planes = sized[None] if sized.ndim == 2 else sized.transpose(2, 0, 1)
        size = (shown.shape[0], shown.shape[1])
        opened = self._prepared(loaded, orientation, planes, size)
        if self.tta == "none":
            return opened
        mirrored = self._prepared(loaded, orientation, planes[..., ::-1].copy(), size)
        return replace(opened, mirrored=mirrored)

    def _prepared(
        self,
        loaded: LoadedImage,
        orientation: Orientation | None,
        planes: np.ndarray,
        size: tuple[int, int],
    ) -> Opened:
        """The part of the work that does not depend on the prompt."""
        if self.run.recipe.tiles is not None:
            return Opened(self, loaded, orientation, None, planes, size, None)
        network_image = to_image(planes[None]).to(self.session.device)
        with self.session.running():
            features = self.model.image_features(network_image)
        return Opened(self, loaded, orientation, network_image, planes, size, features)

    def set_image(
        self, image: ImageInput, view: str | None = None, *, window: Sequence[float] | None = None
    ) -> Predictor:
        """Like `open`, and make the image the current one.

        Raises:
            DataError: the image cannot be read.
            ConfigError: the view is unknown.
        """
        # after an error there is no current image: prompts must not reach the previous one
        self._opened = None
        self._opened = self.open(image, view, window=window)
        return self

    @overload
    def segment(
        self, image: ImageInput, prompt: str | None = None, *args: Any, **options: Any
    ) -> Segmentation: ...

    @overload
    def segment(
        self, image: ImageInput, prompt: list[str] | tuple[str, ...], *args: Any, **options: Any
    ) -> Segmentations: ...

    def segment(
        self,
        image: ImageInput,
        prompt: str | Sequence[str] | None = None,
        assume: str | None = None,
        *,
        laterality: str | None = None,
        view: str | None = None,
        window: Sequence[float] | None = None,
        index: int | None = None,
        abstain: bool = True,
    ) -> Segmentation | Segmentations:
        """Segment images by prompts: `segment(image, prompt)`, or `segment(prompt)` in the image of `set_image`.

        Questionable requests raise Python warnings next to their codes.

        Args:
            image: see `open`, or a list of images; the prompt, if an image is set and `prompt` is left out.
            prompt: any text; a list gives one result per prompt, for one image or for as many images. One prompt is
                used for all images of a list. A laterality convention here is that of `segment(prompt, laterality)`.
            assume: see `Opened.segment`, as `laterality` and `abstain`.
            laterality: convention of the prompts.
            view: see `open`, as `window` and `index`.
            window: of arrays.
            index: of files.
            abstain: return an empty mask if the model abstains or the prompt denies the finding.

        Returns:
            One result; `Segmentations`, a list, if images or prompts are a list.

        Raises:
            DataError: an image cannot be read, an argument has another type, the two lists differ in length, or no
                image is set.
            LateralityError: the prompt names a side, and it cannot be determined which side of the image that is.
        """
        # in the current image; the second argument used to be the laterality
        if isinstance(image, str) and (prompt is None or prompt in CONVENTIONS):
            convention = laterality if prompt is None else str(prompt)
            return warned_of(self.opened.ask(image, convention, assume, abstain))

        def one(opened: Opened, text: str) -> Segmentation:
            return warned_of(opened.ask(text, laterality, assume, abstain))

        images, prompts = image_prompt_pairs(image, prompt)
        found = Segmentations()
        opened: Opened | None = None
        for i, text in enumerate(prompts):
            # one image with several prompts is opened once
            if opened is None or len(images) > 1:
                opened = self.open(images[i], view, window=window, index=index)
            found.append(one(opened, text))
        several = isinstance(image, list | tuple) or isinstance(prompt, list | tuple)
        return found if several else found[0]
