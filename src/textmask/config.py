"""Recipes: everything that a training does, as frozen, strictly typed values that are stored as JSON.

An ablation is another value of a field, or a weight of 0, never another class.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import exp
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from textmask.errors import ConfigError, choose
from textmask.overrides import assign, sets_budget, without_budget

# budget of the CPU presets: 100 images reach a useful model within minutes, and full QaTa trains for more anyway
LITE_STEPS = 400

MAX_SEED = 2**32 - 1  # NumPy, PyTorch and Lightning all take it
MIN_SIDE, MAX_SIDE = 8, 8192  # of an image, in pixels; larger images need tiles
MAX_EPOCHS, MAX_BATCH, MAX_STEPS = 1_000_000, 65_536, 1_000_000_000
MAX_PROMPTS = 64  # per image and step

Side = Annotated[int, Field(ge=MIN_SIDE, le=MAX_SIDE)]
AtMostSide = Annotated[int, Field(le=MAX_SIDE)]
Positive = Annotated[float, Field(gt=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(gt=0, lt=1)]


class Config(BaseModel):
    """Frozen settings: an unknown field or a wrong type is an error, never ignored."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, validate_default=True, allow_inf_nan=False
    )


class Optim(Config):
    """Optimizer of a stage. The momentum of `sgd` and of `nesterov`, its variant by Nesterov, is the first beta."""

    name: Literal["adamw", "adam", "sgd", "nesterov"] = "adamw"
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    betas: tuple[Decay, Decay] = (0.9, 0.999)


class Schedule(Config):
    """Learning rate over the steps of a stage.

    `cosine` falls from lr to lr_min; `one_cycle` rises for `warmup` (a fraction of the stage) and falls to lr_min;
    `warm_restarts` is a cosine restarted every `period_epochs`; `poly` falls to lr_min with (1 - t)^0.9, t from 0 to 1
    over the stage.
    """

    name: Literal["constant", "cosine", "one_cycle", "warm_restarts", "poly"] = "cosine"
    warmup: float = Field(0.1, ge=0, lt=1)
    lr_min: float = Field(1e-6, ge=0)
    period_epochs: int = Field(10, ge=1, le=MAX_EPOCHS)


class Augment(Config):
    """Paired augmentation of image, mask and prompt.

    A horizontal flip mirrors the prompt too. An image whose prompt cannot be mirrored is not flipped.
    """

    p: float = Field(
        1.0, ge=0, le=1, description="probability that an image is rotated, moved and scaled"
    )
    rotate_deg: float = Field(10.0, ge=0, le=180)
    translate: float = Field(0.05, ge=0, lt=1, description="of the image size")
    scale: tuple[Positive, Positive] = (0.9, 1.1)
    flip: float = Field(
        0.0, ge=0, le=1, description="probability of a horizontal flip, prompt included"
    )
    gamma: tuple[Positive, Positive] = (1.0, 1.0)
    brightness: float = Field(0.0, ge=0)
    contrast: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name, (low, high) in (("scale", self.scale), ("gamma", self.gamma)):
            if low > high:
                raise ValueError(f"{name} is [{low}, {high}]: write the smaller number first")
        return self


class TextAugment(Config):
    """Other wordings of the prompts of a stage: the probability of each kind; a prompt gets at most one of them.

    A flip with its mirrored prompt is `Augment.flip`. Rows of a label map, whose prompt is the name of a structure, get
    typos only. See `textmask.data.wordings`.

    Attributes:
        typo: letters next to each other on the keyboard, swapped or missing.
        abbreviation: bilat., unilat., inf., RLL, LUL.
        paraphrase: another published style with the same claims.
        report: words of a free report, with sentences about something else.
        absent: the prompt denies the finding, and the mask is empty.
    """

    typo: float = Field(0.0, ge=0, le=1)
    abbreviation: float = Field(0.0, ge=0, le=1)
    paraphrase: float = Field(0.0, ge=0, le=1)
    report: float = Field(0.0, ge=0, le=1)
    absent: float = Field(0.0, ge=0, le=1)

    @property
    def shares(self) -> dict[str, float]:
        """Kind -> probability."""
        return self.model_dump()

    @model_validator(mode="after")
    def _at_most_one(self) -> Self:
        total = sum(self.shares.values())
        if total > 1:
            raise ValueError(f"the probabilities sum to {total:g}, expected at most 1 together")
        return self


class Ramp(Config):
    """A loss weight that grows from 0 to `to` between two epochs of its stage."""

    to: float = Field(ge=0)
    start_epoch: int = Field(0, ge=0, le=MAX_EPOCHS)
    end_epoch: int = Field(ge=0, le=MAX_EPOCHS)
    shape: Literal["linear", "sigmoid"] = "linear"

    def at(self, epoch: float) -> float:
        """Weight at a (fractional) epoch."""
        if self.end_epoch <= self.start_epoch:
            return self.to if epoch >= self.start_epoch else 0.0
        t = min(max((epoch - self.start_epoch) / (self.end_epoch - self.start_epoch), 0.0), 1.0)
        if self.shape == "linear":
            return self.to * t
        return 0.0 if t == 0 else self.to * exp(-5.0 * (1.0 - t) ** 2)


class EMA(Config):
    """How fast a teacher follows its student: teacher = decay x teacher + (1 - decay) x student, after every step.

    The decay of step t is at most 1 - 1 / (t + 1), so that the first steps are not averaged with random weights; after
    that it changes from `start` to `end` within `ramp_steps`.

    Attributes:
        buffers: how running statistics follow: `average` them like weights, or `copy` those of the student.
    """

    start: float = Field(0.99, ge=0, lt=1)
    end: float = Field(0.999, ge=0, lt=1)
    ramp_steps: int = Field(0, ge=0, le=MAX_STEPS)
    buffers: Literal["average", "copy"] = "average"

    def at(self, step: int) -> float:
        """Decay at a step, counted from 0."""
        t = min(step / self.ramp_steps, 1.0) if self.ramp_steps else 1.0
        return min(1 - 1 / (step + 1), self.start + t * (self.end - self.start))


class Tiles(Config):
    """How images that are too large for a network are cut into tiles.

    Training crops tiles at random places. Prediction covers the image with overlapping tiles, blended by raised
    cosines. In both cases, a tile that extends beyond a small image is black there.

    A prompt describes the whole image, and a tile does not contain its own position: "the density in the upper left
    is high" is true of the image, but not of its tiles.

    Attributes:
        size: rows and columns of a tile, which is what the network sees.
        overlap: rows and columns that neighboring tiles share in prediction, at least.
        batch: tiles predicted at a time; limits the memory.
        places: `kept` gives every tile the unchanged prompt of the image. `dropped` removes locations from it, for
            methods that look for a location by its words or zones: inside a tile they would look at the wrong one.
        native: `predict` cuts images at their own size instead of resizing them to `image_size`: for images of one
            magnification and any size. Training and evaluation always resize.
    """

    size: tuple[AtMostSide, AtMostSide] = (256, 256)
    overlap: int = Field(64, ge=0, le=MAX_SIDE)
    batch: int = Field(16, ge=1, le=MAX_BATCH)
    places: Literal["kept", "dropped"] = "kept"
    native: bool = False

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if min(self.size) < 1 or self.overlap >= min(self.size):
            raise ValueError(
                f"overlap is {self.overlap} and size is {self.size}: tiles must share less than a whole tile."
                " Choose an overlap below both numbers of size, for example a quarter of them."
            )
        return self


class Stage(Config):
    """One part of a training; stages run in order.

    Attributes:
        epochs: 0 skips the stage. The least number of epochs if the stage has a budget in `steps`.
        steps: budget of optimizer steps. A train split that is too small for it gets smaller batches and more epochs,
            see `textmask.training.budget`; a larger one is not changed. None trains for `epochs` as they are.
        optim: None trains nothing by gradient: `Method.observe` sees every batch once.
        lr_scale: name pattern (shell style, over parameter names) -> factor on lr; 0 freezes.
        weights: loss name -> weight; must name exactly what `Method.losses` returns.
        views: further versions of each image ("weak", "strong"), with the same geometry.
        labelled_fraction: fraction of the train split that keeps its masks, nested and seeded.
        unlabelled_batch_size: 0 means no unlabelled stream; otherwise the stream contains image and prompt of the train
            rows whose masks this stage may not see. If it may see all masks, there is no such stream.
        steps_per_epoch: None means one pass over the labelled rows, or over the longer of the two streams.
        sizes: smaller images for the first steps: pairs of a share of the sides and a share of the steps, in order; the
            rest is at full size. `[[0.5, 0.4], [0.7, 0.3]]` trains images of 224 at 112 for 40 % of the
            steps, at 160 for 30 %, and at 224 for the last 30 %. Sides are rounded to multiples of 16, tiles shrink
            with their images, validation is always at full size.
        prompts: prompts per image and step. The features of an image are computed once and decoded once per prompt, and
            the losses are averaged. The first prompt is that of the row, the others are those of further rows of the
            image, or other wordings of it (`text`) if the image has no more rows.
        text: other wordings of the prompts.
        accumulate: the batch is computed in so many equal parts whose gradients are added, which needs less memory.
            Batch norm and losses over a batch see one part at a time.
        start_from: name of an earlier stage with whose chosen weights this one starts; None continues the last one.
        select: keep the epoch with the best validation score (`metric`), or the last one without validation (`last`,
            for a stage that does not predict masks yet).
    """

    name: str
    epochs: int = Field(1, ge=0, le=MAX_EPOCHS)
    steps: int | None = Field(None, ge=1, le=MAX_STEPS)
    batch_size: int = Field(32, ge=1, le=MAX_BATCH)
    optim: Optim | None = Optim()
    schedule: Schedule = Schedule()
    lr_scale: dict[str, float] = {}
    weights: dict[str, float | Ramp] = {}
    views: tuple[str, ...] = ()
    augment: Augment | None = Augment()
    labelled_fraction: float = Field(1.0, gt=0, le=1)
    unlabelled_batch_size: int = Field(0, ge=0, le=MAX_BATCH)
    steps_per_epoch: int | None = Field(None, ge=1, le=MAX_STEPS)
    sizes: tuple[tuple[Share, Share], ...] = ()
    prompts: int = Field(1, ge=1, le=MAX_PROMPTS)
    text: TextAugment = TextAugment()
    accumulate: int = Field(1, ge=1, le=MAX_BATCH)
    start_from: str | None = None
    clip_norm: float | None = Field(1.0, gt=0)
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="evaluate and keep an average of the weights"
    )
    patience: int | None = Field(
        None,
        ge=1,
        le=MAX_EPOCHS,
        description="epochs without a better validation score before stopping",
    )
    select: Literal["metric", "last"] = "metric"
    validate_every: int = Field(
        1,
        ge=1,
        le=MAX_EPOCHS,
        description="epochs between validations; the last epoch is always validated",
    )

    @model_validator(mode="after")
    def _parts(self) -> Self:
        shares = sum(share for _, share in self.sizes)
        if shares >= 1:
            raise ValueError(
                f"sizes take {shares:g} of the steps: leave some of them for the full size, e.g."
                " [[0.5, 0.4], [0.7, 0.3]]"
            )
        for name in ("batch_size", "unlabelled_batch_size"):
            if getattr(self, name) % self.accumulate:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, which is not divisible by accumulate = {self.accumulate}"
                )
        if self.prompts > 1 and (self.unlabelled_batch_size or self.optim is None):
            other = "an unlabelled stream" if self.unlabelled_batch_size else "no optimizer"
            raise ValueError(
                f"prompts is {self.prompts} in a stage with {other}, which sees one prompt per image. Set prompts=1"
            )
        return self

    def lite(self, epochs: int, **changes: Any) -> Self:
        """The stage in the CPU presets: batch 32, AdamW 2e-3 in one cycle, small affine augmentation, no early stop.

        It has a budget of `LITE_STEPS` steps, unless `steps_per_epoch` already sets their number.
        """
        preset: dict[str, Any] = {
            "epochs": epochs,
            "steps": None if changes.get("steps_per_epoch") else LITE_STEPS,
            "batch_size": 32,
            "optim": Optim(lr=2e-3),
            "schedule": Schedule(name="one_cycle"),
            "augment": Augment(),
            "patience": None,
        }
        preset.update(changes)
        return self.model_copy(update=preset)


class Recipe(Config):
    """Everything about one training. A method adds fields in a subclass, and presets by overriding `lite`, `smoke`.

    Attributes:
        method: name of the method; fixed by the subclass.
        image_size: rows and columns to which images are resized, 8 to 8192 each; 224 in all five papers.
        tiles: how images of `image_size` are cut into tiles; None gives the network whole images.
        precision: `bf16` autocast (about twice as fast on CPUs with bf16), `fp16` autocast with scaled gradients (for
            GPUs without bf16; a CPU computes in fp32 instead) or `fp32`.
        compile: compile the networks with torch.compile, on a GPU only: on a CPU it is slower.
        select_on: validation metric that chooses the epoch; higher is better.
        threshold: probability in (0, 1) above which a pixel belongs to the mask.
        empty_policy: per-image score if both masks are empty.
        deterministic: train with one thread and deterministic kernels, so that the numbers do not depend on threads.
        before: what a field stood for before it existed, for recipes of earlier versions that do not have it.
    """

    needs_text: ClassVar[bool] = True
    before: ClassVar[dict[str, Any]] = {}

    method: str
    stages: tuple[Stage, ...]
    image_size: tuple[Side, Side] = (224, 224)
    tiles: Tiles | None = None
    seed: int = Field(0, ge=0, le=MAX_SEED)
    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    compile: bool = False
    select_on: Literal["dice_per_image", "dice_pooled", "iou_per_image", "iou_pooled"] = (
        "dice_per_image"
    )
    threshold: float = Field(0.5, gt=0, lt=1)
    empty_policy: Literal["one", "zero", "skip"] = "one"
    deterministic: bool = False

    @model_validator(mode="after")
    def _stage_names(self) -> Self:
        if not self.stages:
            raise ValueError("stages is empty: a training needs at least one stage")
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ValueError(f"stage names repeat: {names}")
        if self.stages[-1].epochs < 1:
            raise ValueError(
                "the last stage must train for at least one epoch: its epochs should be greater than or equal to 1"
            )
        for i, stage in enumerate(self.stages):
            if stage.start_from is not None and stage.start_from not in names[:i]:
                raise ValueError(
                    f"stage {stage.name!r} starts from {stage.start_from!r}, which is not an earlier stage"
                )
            if self.tiles is not None and stage.epochs and stage.optim is None:
                raise ValueError(
                    f"stage {stage.name!r} learns the position of masks in whole images, which a tile does not contain."
                    " Do not use tiles (tiles=null)"
                )
        return self

    def smoke(self) -> Self:
        """Preset for tests, which trains in a second; methods also reduce their widths."""
        stages = tuple(
            stage.model_copy(
                update={
                    "epochs": 1,
                    "steps": None,
                    "batch_size": 4,
                    "steps_per_epoch": 2 if stage.optim else None,
                }
            )
            for stage in self.stages
        )
        return self.model_copy(
            update={"image_size": (32, 32), "precision": "fp32", "stages": stages}
        )

    def lite(self) -> Self:
        """CPU preset; methods override it."""
        return self

    def stage(self, name: str) -> Stage:
        """The stage of that name."""
        choose("stage", name, [stage.name for stage in self.stages])
        return next(stage for stage in self.stages if stage.name == name)

    def override(self, *assignments: str) -> Self:
        """Copy the recipe with other values: `override("seed=1", "stages.segment.epochs=3", "augment.flip=0.5")`.

        A key is a dotted path; stages are addressed by name or number, and `stages.*` addresses all of them.
        Values are read as JSON, or as text if they are not JSON. Epochs, a batch size or steps per epoch that are set
        here are kept as they are: such a stage loses its budget in `steps`, unless that is set too.

        Raises:
            ConfigError: unknown field, wrong type, or an assignment without "=".
        """
        tree = self.model_dump(mode="json")
        # first the ones that take a budget away, then the ones that may give another
        for assignment in sorted(assignments, key=sets_budget):
            path, sep, value = assignment.partition("=")
            if not sep:
                raise ConfigError(
                    f"override {assignment!r} has no '='. Write field=value, e.g. seed=1."
                )
            try:
                parsed = json.loads(value)
            except (ValueError, RecursionError):  # text, or a number of thousands of digits
                parsed = value
            keys = path.strip().split(".")
            assign(tree, keys, parsed, path)
            without_budget(tree, keys, path)
        try:
            text = json.dumps(tree)
        except RecursionError:
            raise ConfigError("a --set value is nested too deeply. Give a plain value.") from None
        return self.from_json(text)

    def to_json(self) -> str:
        """Indented JSON, from which `from_json` reads an equal recipe."""
        return json.dumps(self.model_dump(mode="json"), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse and validate.

        Raises:
            ConfigError: naming each wrong field and what was expected.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            lines = []
            for found in error.errors():
                field = ".".join(map(str, found["loc"])) or "recipe"
                lines.append(f"  {field}: {found['msg']} (got {found['input']!r:.80})")
            raise ConfigError(
                f"recipe of {cls.__name__} is not valid:\n" + "\n".join(lines)
            ) from None


def frozen(recipe: Recipe, patterns: Sequence[str]) -> Recipe:
    """The recipe with a learning rate of 0 for the parameters that match a pattern, in every stage that trains."""
    first = dict.fromkeys(patterns, 0.0)
    stages = []
    for stage in recipe.stages:
        scales = {**first, **stage.lr_scale, **first}
        stages.append(
            stage.model_copy(update={"lr_scale": scales}) if stage.optim is not None else stage
        )
    return recipe.model_copy(update={"stages": tuple(stages)})
