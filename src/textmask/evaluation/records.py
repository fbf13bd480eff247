"""Parts of result files: figures with intervals, agreement, arms of a study, perturbations.

Field names are the keys of the JSON files. A field marked `Missing` is left out of the file when it is None.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

T = TypeVar("T")
Missing = Annotated[T | None, Field(exclude_if=lambda value: value is None)]
Subset = Literal["all", "one_sided"]


class Record(BaseModel):
    """Part of a result file: a wrong type or a number that is not finite is an error, further keys are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)


class Value(Record):
    """A figure with its 95 % interval; both ends are None if there is a single group."""

    estimate: float
    low: float | None = None
    high: float | None = None


class Figures(Record):
    """The figures of one model on one split: overlap from 0 to 1, distances in pixels."""

    dice_per_image: Value
    dice_pooled: Value
    iou_per_image: Value
    iou_pooled: Value
    hd95_pooled_px: Missing[Value] = None
    hd95_max_directed_px: Missing[Value] = None
    assd_px: Missing[Value] = None

    @property
    def overlaps(self) -> tuple[Value, Value, Value, Value]:
        """In the order of `tables.METRICS`."""
        return self.dice_per_image, self.dice_pooled, self.iou_per_image, self.iou_pooled

    @property
    def distances(self) -> tuple[Value | None, Value | None]:
        """In the order of `tables.DISTANCES`."""
        return self.hd95_pooled_px, self.assd_px


class AspectScore(Record):
    """How well masks agree with one aspect of their prompts; precision is None if no mask shows the aspect."""

    f1: Value
    precision: float | None
    recall: float


class SubsetAgreement(Record):
    """Agreement over n images; an aspect that no prompt names is None."""

    n: int
    side: Missing[AspectScore] = None
    level: Missing[AspectScore] = None
    zone: Missing[AspectScore] = None
    lateral: Missing[AspectScore] = None
    count: Missing[AspectScore] = None
    absence: Missing[AspectScore] = None
    location: Missing[AspectScore] = None

    @property
    def places(self) -> dict[str, AspectScore | None]:
        """The aspects that tables show, in their order."""
        return {"side": self.side, "level": self.level, "location": self.location}


class Agreement(Record):
    """Agreement of masks and prompts over all prompts, and over those that name one side."""

    all: SubsetAgreement
    one_sided: SubsetAgreement

    @property
    def subsets(self) -> dict[Subset, SubsetAgreement]:
        """Both, by name."""
        return {"all": self.all, "one_sided": self.one_sided}


class AgreementBounds(Record):
    """Agreement of the true masks (ceiling) and of other images' true masks (floor); `zones` names the zone map."""

    ceiling: Agreement
    floor: Agreement
    zones: str


class ListRecord(Record):
    """A published list of labelled images: file name, sha256, images in it and in the train split."""

    file: str
    sha256: str
    rows: int
    train_rows: int


class SeedFigures(Record):
    """Figures of each seed, in the order of the seeds."""

    dice_per_image: tuple[float, ...]
    dice_pooled: tuple[float, ...]
    iou_per_image: tuple[float, ...]
    iou_pooled: tuple[float, ...]
    hd95_pooled_px: tuple[float, ...]
    assd_px: tuple[float, ...]


class ArmResult(Figures):
    """One arm of a study: mean over seeds, interval over images; `method` is None if it is that of the study.

    `steps` and `seconds` are those of the training of each seed.
    """

    arm: str
    title: str
    method: str | None
    settings: tuple[str, ...]
    fraction: Missing[float] = None
    seeds: tuple[int, ...]
    n: int
    steps: Missing[tuple[int | None, ...]] = None
    seconds: tuple[float | None, ...]
    by_seed: SeedFigures


class StudyDifference(Record):
    """`arm` minus `minus` on the images and seeds that both have; over seeds is None for a single seed."""

    arm: str
    minus: str
    seeds: tuple[int, ...]
    n: int
    dice_per_image: Value
    dice_per_image_by_seed: tuple[float, ...]
    dice_per_image_over_seeds: Value | None
    dice_pooled: Value
    dice_pooled_by_seed: tuple[float, ...]
    dice_pooled_over_seeds: Value | None


class Case(Record):
    """An image that `evaluate` drew: its overlay in the same folder, its prompt and its score."""

    file: str
    kind: Literal["best", "median", "worst"]
    image: str
    text: str
    dice_per_image: float


class Cases(Record):
    """The drawn images of an evaluation."""

    cases: tuple[Case, ...]


class MaskMove(Record):
    """Where masks went under a perturbation, as shares of the image; None if no image has both masks."""

    n: int
    area_before: float
    area_after: float
    left_before: float | None
    left_after: float | None
    right_by: float | None
    down_by: float | None
    distance: float | None


class Overlapped(Record):
    """IoU of masks to the clean ones, over n images with at least one of both masks."""

    n: int
    mean: Value | None
    median: float | None


CLEAN_KIND = "clean"  # the unchanged image and prompt, which perturbations are compared with


class StructureRow(Record):
    """Scores of one named structure: n scored images, of which `truth_empty` do not show it."""

    name: str
    n: int
    truth_empty: int
    dice_per_image: Missing[Value] = None
    iou_per_image: Missing[Value] = None


class PerturbationRow(Record):
    """One perturbation, over the n images that it changed; differences are to the clean masks of the same images.

    Attributes:
        note: why there are no figures.
        n_scored: images that count in per-image figures.
        location_own, location_given: F1 of the places against the original prompt and against the one given; None if
            no prompt names a place.
        read_the_same: prompts that the grammar still reads as the same places.
        empty_masks: masks without a pixel.
        still_painted: share of the images with a clean mask that still have one; None if none has.
    """

    kind: str
    severity: float = 0.0
    n: int
    note: Missing[str] = None
    n_scored: Missing[int] = None
    dice_per_image: Missing[Value] = None
    dice_per_image_minus_clean: Missing[Value] = None
    dice_pooled: Missing[Value] = None
    dice_pooled_minus_clean: Missing[Value] = None
    iou_per_image: Missing[Value] = None
    iou_per_image_minus_clean: Missing[Value] = None
    iou_pooled: Missing[Value] = None
    iou_pooled_minus_clean: Missing[Value] = None
    location_own: Value | None = None
    location_given: Value | None = None
    location_own_minus_clean: Missing[Value] = None
    read_the_same: Missing[int] = None
    empty_masks: Missing[int] = None
    iou_to_clean: Missing[Overlapped] = None
    where: Missing[MaskMove] = None
    still_painted: Missing[float] = None

    @property
    def name(self) -> str:
        """Kind and severity, as claims and files name it."""
        return f"{self.kind}-{self.severity:g}" if self.severity else self.kind


class PromptVerdict(Record):
    """A rule applied to a prompt study; `holds` is None if nothing can be said."""

    holds: bool | None
    rule: str
    medians: Missing[dict[str, float]] = None
    share: Missing[float] = None


class PromptVerdicts(Record):
    """The four verdicts on a model, see `textmask.studies.robustness.prompts`."""

    ignores_text: PromptVerdict
    ignores_place: PromptVerdict
    paints_absent: PromptVerdict
    paints_unrelated: PromptVerdict

    @property
    def named(self) -> dict[str, PromptVerdict]:
        """All four by name."""
        return {
            "ignores_text": self.ignores_text,
            "ignores_place": self.ignores_place,
            "paints_absent": self.paints_absent,
            "paints_unrelated": self.paints_unrelated,
        }


class Equivariance(Record):
    """1 - Dice of the mask of the mirrored image and prompt to the mirrored mask; 0 is perfect."""

    n: int
    error: Value | None
    median: Missing[float] = None
    note: Missing[str] = None
