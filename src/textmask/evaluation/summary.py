"""Results as types: what `evaluate` and `study` write, and the one reader that checks a file when it is opened.

Field names are the keys of the JSON files, see `textmask.evaluation.records`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import Field, ValidationError

from textmask.errors import CheckpointError
from textmask.evaluation.records import (
    Agreement,
    AgreementBounds,
    ArmResult,
    Equivariance,
    Figures,
    ListRecord,
    Missing,
    PerturbationRow,
    PromptVerdicts,
    Record,
    StructureRow,
    StudyDifference,
    Subset,
    Value,
)
from textmask.io.data_frames import data_frame
from textmask.io.files import read_json, write_json
from textmask.metrics.overlap import EmptyPolicy

if TYPE_CHECKING:
    import pandas

VERSION = 1  # files of version 0 name none; see `_migrated`
COMPARABLE = ("data_hash", "content", "split", "n", "size", "empty_policy", "hd95")

StudyKind = Literal["ablation", "labels", "sensitivity"]
RobustnessKind = Literal["prompts", "text-noise", "corruption"]


class SummaryRow(Figures):
    """One row of an evaluation: a run and the kind of prompts it was given, or masks of another tool; and its figures.

    Attributes:
        both_empty, prediction_empty, truth_empty: images with such empty masks.
        n_skipped: images that the empty policy leaves out of per-image figures.
        run: name of the run folder, or of the folder of masks.
        sentences: prompts that the model was given; "masks" if another tool wrote the masks.
        weights_sha256: of the weights, or of the masks of another tool.
        threshold, seed: of the run; None for masks of another tool.
        size: of the model's input, rows and columns in pixels; empty for masks of another tool.
        labelled_rows: labelled training images.
        sentences_cut: prompts longer than the text encoder reads; None in older files.
    """

    both_empty: int = 0
    prediction_empty: int = 0
    truth_empty: int = 0
    n_skipped: int = 0
    run: str
    sentences: Literal["own", "shuffled", "empty", "masks"]
    weights_sha256: str
    threshold: Missing[float] = None
    size: tuple[int, ...] = ()
    seed: Missing[int] = None
    labelled_rows: Missing[int] = None
    sentences_cut: Missing[int] = None
    agreement: Missing[Agreement] = None


class Difference(Record):
    """`arm` minus `minus` on the same images; p values are corrected after Holm within their family."""

    arm: str
    minus: str
    dice_per_image: Value
    dice_per_image_p: float
    dice_pooled: Value
    dice_pooled_p: float
    agreement: Missing[dict[Subset, dict[str, Value]]] = None


class Protocol(Record):
    """What a run was scored on, and how.

    Attributes:
        data, data_hash: name and sha256 of the manifest.
        content: sha256 of the rows of the split and of what their files contain; "" in older files.
        trained_on: sha256 of the manifest that the run was trained on.
        n, n_groups: images and independent groups (patients).
        size: of the masks, rows and columns in pixels, or one sentence if each mask has its own.
        hd95, interval, chosen_by: rules, in words.
        train_seconds: duration of the training.
    """

    data: str
    data_hash: str
    content: str = ""
    trained_on: str | None = None
    split: str
    n: int
    n_groups: int
    size: tuple[int | str, ...]
    threshold: float
    empty_policy: EmptyPolicy
    hd95: str
    interval: str
    chosen_by: str
    chosen_epoch: int | None = None
    weights_sha256: str = ""
    train_seconds: float | None = None
    seed: int
    git_commit: str = ""
    laterality: str | None = None

    @property
    def comparable(self) -> tuple[object, ...]:
        """The fields `COMPARABLE`: results stand in one table only if all of them agree."""
        return tuple(getattr(self, name) for name in COMPARABLE)


class EvaluationProtocol(Protocol):
    """Protocol of `evaluate`; `shuffled_same_claim` counts images whose shuffled prompt names the same zones."""

    shuffled_seed: int
    shuffled_same_claim: int


class RobustnessProtocol(Protocol):
    """Protocol of a robustness study; `limit` is the maximum number of images, None for all."""

    run: str
    method: str
    limit: int | None
    study_seed: int
    study_commit: str
    zones: str


class Summary(Record):
    """What all summaries share; `command` writes them."""

    command: ClassVar[str]
    version: int = VERSION


class EvaluationSummary(Summary):
    """What `evaluate` found; the first row is the model itself.

    Attributes:
        missing_rows: name of a row that could not be made -> why.
        differences: the model minus each other row.
        structures: the model on each named structure of label maps; empty for other data.
    """

    command = "textmask evaluate"
    protocol: EvaluationProtocol
    rows: dict[str, SummaryRow] = Field(min_length=1)
    structures: Annotated[tuple[StructureRow, ...], Field(exclude_if=lambda rows: not rows)] = ()
    missing_rows: dict[str, str]
    differences: tuple[Difference, ...]
    agreement_bounds: Missing[AgreementBounds] = None

    @property
    def model(self) -> str:
        """Name of the first row."""
        return next(iter(self.rows))

    def to_pandas(self) -> pandas.DataFrame:
        """A data frame with one row per row of the table; intervals are the columns NAME_low and NAME_high.

        Raises:
            ConfigError: pandas is not installed.
        """
        records = []
        for name, row in self.rows.items():
            record: dict[str, Any] = {
                "row": name,
                "split": self.protocol.split,
                "n": self.protocol.n,
            }
            record.update(_plain_columns(row))
            records.append(record)
        return data_frame(records)


def _plain_columns(row: Record) -> dict[str, Any]:
    """The plain values of a row, and its intervals as NAME, NAME_low and NAME_high."""
    columns: dict[str, Any] = {}
    for field, value in row:
        if isinstance(value, Value):
            columns[field] = value.estimate
            columns[f"{field}_low"], columns[f"{field}_high"] = value.low, value.high
        elif isinstance(value, str | int | float):
            columns[field] = value
    return columns


class StudyProtocol(Record):
    """What the trials of a study have in common.

    Attributes:
        study: name of the ablation table, or the fields that vary.
        settings: overrides of the preset for all arms.
        labelled_fraction: share of train that keeps its masks; None as the recipes say.
        n_bootstrap: resamples of an interval.
        commits: code versions of the trials.
    """

    kind: StudyKind
    title: str
    method: str
    study: str
    preset: str
    settings: tuple[str, ...]
    labelled_fraction: float | None
    labelled_list: ListRecord | None = None
    data: str
    data_hash: str
    split: str
    size: tuple[int, ...]
    empty_policy: EmptyPolicy
    hd95: str
    n_bootstrap: int
    n: int
    n_groups: int
    commits: tuple[str, ...] = ()


class StudySummary(Summary):
    """What a study of trainings found; `missing` names trials that are not finished."""

    command = "textmask study"
    protocol: StudyProtocol
    arms: tuple[ArmResult, ...]
    differences: tuple[StudyDifference, ...]
    missing: tuple[str, ...] = ()

    def to_pandas(self) -> pandas.DataFrame:
        """A data frame with one row per arm; the number of its seeds is the column n_seeds.

        Raises:
            ConfigError: pandas is not installed.
        """
        records = []
        for arm in self.arms:
            record = {"split": self.protocol.split, **_plain_columns(arm)}
            record["n_seeds"] = len(arm.seeds)
            records.append(record)
        return data_frame(records)


class RobustnessSummary(Summary):
    """What one run does under changed prompts or images; the first row is the unchanged input."""

    command = "textmask study prompts"
    study: RobustnessKind
    protocol: RobustnessProtocol
    equivariance: Missing[Equivariance] = None
    severities: Missing[dict[str, tuple[float, ...]]] = None
    rows: tuple[PerturbationRow, ...]
    verdicts: Missing[PromptVerdicts] = None

    def to_pandas(self) -> pandas.DataFrame:
        """A data frame with one row per perturbation, of the kind and severity that its columns name.

        Raises:
            ConfigError: pandas is not installed.
        """
        return data_frame(
            [{"split": self.protocol.split, **_plain_columns(row)} for row in self.rows]
        )


AnyResult = EvaluationSummary | StudySummary | RobustnessSummary
AnySummary = TypeVar("AnySummary", bound=Summary)
AnyRecord = TypeVar("AnyRecord", bound=Record)


def write_typed(path: Path, record: Record) -> None:
    """Write a summary, or another record, as JSON.

    Raises:
        OSError: the file cannot be written.
    """
    write_json(path, record.model_dump(mode="json"))


def read_summary(path: Path, kind: type[AnySummary]) -> AnySummary:
    """Read a summary of one kind; files of earlier versions are migrated.

    Raises:
        CheckpointError: missing, of another kind, of a newer version, or a field is wrong (names file and field).
    """
    if not path.exists():
        raise CheckpointError(
            f"{path} does not exist. Make it with `{kind.command}`, or check the path."
        )
    found = read_any_summary(path)
    if isinstance(found, kind):
        return found
    what = "not a summary" if found is None else f"a summary of `{found.command}`"
    raise CheckpointError(f"{path} is {what}, expected one of `{kind.command}`.")


def read_any_summary(path: Path) -> AnyResult | None:
    """Read a summary of any kind, told apart by its keys; None for a JSON object that is not one.

    Raises:
        CheckpointError: as `read_summary`.
    """
    content = read_json(path)
    if "arms" in content:
        return _parsed(path, content, StudySummary)
    if "study" in content:
        return _parsed(path, content, RobustnessSummary)
    if "rows" in content:
        return _parsed(path, content, EvaluationSummary)
    return None


def read_typed(path: Path, kind: type[AnyRecord]) -> AnyRecord:
    """Read one record.

    Raises:
        CheckpointError: the file is missing, or a field is wrong (names file and field).
    """
    return _validated(path, read_json(path), kind)


def _parsed(path: Path, content: dict[str, Any], kind: type[AnySummary]) -> AnySummary:
    version = content.get("version", 0)
    if isinstance(version, int) and version > VERSION:
        raise CheckpointError(
            f"{path} has version {version}, this textmask reads up to {VERSION}. Upgrade textmask."
        )
    return _validated(path, _migrated(content, kind) if version == 0 else content, kind)


def _migrated(content: dict[str, Any], kind: type[Summary]) -> dict[str, Any]:
    """A file of version 0 with what it left out; other parts are checked afterwards."""
    filled = dict(content)

    # differences did not name their first row
    rows, differences = content.get("rows"), content.get("differences")
    if kind is EvaluationSummary and isinstance(rows, dict) and isinstance(differences, list):
        model = next(iter(rows), "")
        filled["differences"] = [
            {"arm": model, **entry} if isinstance(entry, dict) else entry for entry in differences
        ]

    # the first studies were all ablations and had no title
    protocol = content.get("protocol")
    if kind is StudySummary and isinstance(protocol, dict):
        title = f"{protocol.get('study')} of {protocol.get('method')}"
        filled["protocol"] = {"kind": "ablation", "title": title, **protocol}
    return filled


def _validated(path: Path, content: dict[str, Any], kind: type[AnyRecord]) -> AnyRecord:
    # a prompt may hold what UTF-8 cannot say
    text = json.dumps(content, ensure_ascii=False).encode("utf-8", "replace")
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the file"
        found = "" if first["type"] == "missing" else f" (found {str(first['input'])[:60]!r})"
        more = f"; {error.error_count() - 1} more" if error.error_count() > 1 else ""
        raise CheckpointError(
            f"{path} is not a valid result file: {field}: {first['msg']}{found}{more}. "
            "Make it again with the command that wrote it."
        ) from None
