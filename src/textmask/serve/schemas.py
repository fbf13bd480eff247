"""Requests and responses of the service, as in its OpenAPI description."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from textmask.serve.limits import MAX_SENTENCE

Whose = Literal["image", "patient", "unknown"]
Assume = Literal["image", "patient"]
# the names of `io.orientation.VIEWS`
View = Literal["pa", "ap", "mirrored", "lateral", "axial"]
Part = Literal["png", "rle", "overlay", "probability", "seg", "sr"]
Sentence = Annotated[
    str, Field(min_length=1, max_length=MAX_SENTENCE, examples=["opacity in the lower left lung"])
]
Folder = Annotated[str, Field(min_length=1, max_length=1000)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class MaskRequest(_Request):
    """A prompt or a report for an uploaded image."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"sentence": "opacity in the lower left lung", "return": ["rle"]},
                {
                    "sentence": "The left lung is clear. Patchy opacity in the right lower lobe.",
                    "laterality": "patient",
                    "view": "pa",
                },
            ]
        }
    )

    sentence: Sentence
    laterality: Whose | None = Field(
        None, description="Laterality convention of the prompt; null: depends on the file format."
    )
    view: View | None = Field(None, description="View of the image, if the file does not say.")
    assume: Assume | None = Field(
        None, description="Convention to use if it is unknown; null: refuse the request."
    )
    threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Threshold on the probability; null: that of the recipe.",
    )
    index: int | None = Field(
        None,
        ge=0,
        le=100_000,
        description="Slice or frame of the uploaded file; null: the one chosen with the upload.",
    )
    parts: list[Part] = Field(
        ["png"], alias="return", max_length=12, description="Parts of the response."
    )


class MaskQuery(BaseModel):
    """The same as `MaskRequest` as query parameters, for links."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sentence: Sentence
    laterality: Whose | SkipJsonSchema[None] = None
    view: View | SkipJsonSchema[None] = None
    assume: Assume | SkipJsonSchema[None] = None
    threshold: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | SkipJsonSchema[None] = (
        None
    )
    index: Annotated[int, Field(ge=0, le=100_000)] | SkipJsonSchema[None] = None


class JobRequest(_Request):
    """Many images below the jobs folder: a folder and one prompt, or a jobs file with its own prompts."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "source": "images",
                    "sentence": "opacity in the lower left lung",
                    "out": "masks",
                }
            ]
        }
    )

    source: Folder = Field(
        description="Folder, image, or csv/json of image and text; relative to the jobs folder."
    )
    sentence: Sentence | None = Field(
        None, description="Prompt for all images; null with a jobs file."
    )
    out: Folder | None = Field(
        None, description="Folder of the results, relative to the jobs folder; null: results/ID."
    )
    laterality: Whose | None = None
    view: View | None = None
    assume: Assume | None = None


class ProblemBody(BaseModel):
    """Problem JSON (RFC 9457): `code` for programs, `detail` for people."""

    type: str
    title: str = Field(description="Phrase of the status.")
    status: int
    detail: str
    code: str


class OrientationBody(BaseModel):
    """Directions of the patient in the image."""

    columns: str
    rows: str
    source: str
    patient_left: Literal["left", "right", "top", "bottom"] | None


class ImageBody(BaseModel):
    """An uploaded image."""

    id: str
    rows: int
    columns: int
    channels: int
    format: Literal["picture", "dicom", "nifti"]
    index: int | None
    count: int
    orientation: OrientationBody | None
    sides_known: bool
    spacing_mm: tuple[float, float] | None
    sha256: str
    keep_seconds: float = Field(description="Seconds before the unused image is evicted.")


class WarningBody(BaseModel):
    """A warning about a questionable prompt or result."""

    code: str
    message: str


class FindingBody(BaseModel):
    """A finding that the prompt names."""

    kind: str
    zones: list[str] = Field(
        description='"side level" as in the prompt; empty if no place is named.'
    )
    polarity: Literal["present", "absent"]
    certainty: Literal["certain", "possible"]
    change: str
    size_mm: float | None
    span: tuple[int, int] = Field(description="Characters of its clause in the prompt.")
    attributes: list[str]


class StatementBody(BaseModel):
    """What the parser understood. Zones are (side, level) as in the prompt, cells by the sides of the image."""

    zones: list[tuple[str, str]]
    free: list[tuple[str, str]]
    cells: list[tuple[str, str]] | None = Field(
        description="null: the sides of the image are unknown."
    )
    free_cells: list[tuple[str, str]]
    grid: Literal["2x3", "3x3"]
    count: int | None
    lateral: str | None
    absent: bool
    size: str | None
    grammar: str
    language: str = Field(description="ISO 639 code; empty if the language is not supported.")
    findings: list[FindingBody]
    laterality: Whose


class RunLengthsBody(BaseModel):
    """Uncompressed COCO run lengths, column by column, background first."""

    size: list[int]
    counts: list[int]


class ScoresBody(BaseModel):
    """Numbers from 0 to 1; low ones are reasons to doubt the result. null: unknown, e.g. without a calibration."""

    likeness: float | None = Field(
        description="Share of the validation images that are at least as unlike the training images."
    )
    existence: float | None = Field(
        description="Share of the validation findings of which the model was at most as sure."
    )
    agreement: float | None = Field(
        description="Share of the mask that lies in the places that the prompt names."
    )


class FindingMaskBody(BaseModel):
    """The result for one finding of a report; the parts are those of the request, PNG in base64."""

    sentence: str = Field(description="The finding in the words of the report.")
    zones: list[tuple[str, str]] = Field(description="(side, level) as in the report.")
    foreground_px: int
    abstained: bool
    scores: ScoresBody
    warnings: list[WarningBody]
    png: str | None = None
    rle: RunLengthsBody | None = None
    probability: str | None = None


class MaskBody(BaseModel):
    """The result for a prompt, or for all findings of a report. PNG and DICOM parts are base64."""

    image: str
    rows: int
    columns: int
    statement: StatementBody
    asked: dict[str, Any] = Field(description="How the prompt was converted for the network.")
    abstained: bool
    withheld: bool = Field(
        description="The mask is empty at every threshold: abstained, or the prompt denies the finding."
    )
    results: list[FindingMaskBody] = Field(
        description="One result per finding of a report with several sentences; empty for a single prompt."
    )
    scores: ScoresBody
    warnings: list[WarningBody]
    threshold: float
    foreground_px: int
    model_sha256: str
    seconds: float = Field(description="Time of the model, without waiting.")
    links: dict[str, str]
    png: str | None = None
    rle: RunLengthsBody | None = None
    overlay: str | None = None
    probability: str | None = None
    seg: str | None = None
    sr: str | None = None


class FailureBody(BaseModel):
    """An image of a job that failed."""

    image: str
    message: str


class JobBody(BaseModel):
    """A job and its progress."""

    id: str
    status: Literal["waiting", "running", "done", "failed", "cancelled"]
    total: int
    done: int
    failed: int
    with_warnings: int
    failures: list[FailureBody] = Field(description="The first 100.")
    out: str


class CapabilitiesBody(BaseModel):
    """The model of this service and what it accepts."""

    version: str
    method: str
    model_sha256: str
    laterality: Whose = Field(description="Laterality convention of the model.")
    threshold: float
    formats: list[str]
    views: list[str]
    returns: list[str]
    max_bytes: int
    max_pixels: int
    max_sentence: int
    queue: int
    keep_seconds: float
    jobs: bool
    use: str


class HealthBody(BaseModel):
    """Status of the process."""

    status: str
