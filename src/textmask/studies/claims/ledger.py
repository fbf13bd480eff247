"""The ledger: claims that the five papers make in numbers, and the committed results that test them."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal, Self, TypeVar

from pydantic import Field, ValidationError, model_validator

from textmask.config import Config
from textmask.errors import ConfigError
from textmask.metrics.protocols import verify_table

Metric = Literal["dice_per_image", "dice_pooled", "hd95_pooled_px", "assd_px"]
Cells = tuple[float] | tuple[float, float]
T = TypeVar("T")
PrintedProtocol = Literal["pooled", "per image", "mixed", "impossible", "no IoU printed", "px"]


class ClaimSource(Config):
    """Where a result that tests a claim may be found.

    Attributes:
        file: pattern of names of result files.
        arm, minus: rows of the file; their paired difference is the result.
        study: ablation table of the file, "" is any.
        labels: percent of train that keeps its masks in that file, None is any.
        setting: override that the whole study was run with, "" is any.
        caveat: what makes the comparison less than fair.
        stand_in: what was compared in place of what the paper names ("an MSE mean teacher for the paper's").
        equal_budget: whether both were trained for as many steps, where the file does not say.
    """

    file: str = Field(min_length=1)
    arm: str = Field(min_length=1)
    minus: str = Field(min_length=1)
    study: str = ""
    labels: float | None = Field(None, gt=0, le=100)
    setting: str = ""
    caveat: str = ""
    stand_in: str = ""
    equal_budget: bool | None = None


class PaperClaim(Config):
    """One claim of a group, a minus b; a field that is None has the value of the group.

    Attributes:
        claim: what is compared, in words.
        a, b: the printed [Dice, IoU] of the cells, or [value].
        metric: None is the metric of the paper.
        also: further places to look for a result, after the first.
        note: what the paper's own text says about its cells.
    """

    claim: str = Field(min_length=1)
    a: Cells
    b: Cells
    metric: Metric | None = None
    file: str | None = None
    arm: str | None = None
    minus: str | None = None
    study: str | None = None
    labels: float | None = Field(None, gt=0, le=100)
    blocked: str | None = None
    caveat: str = ""
    stand_in: str = ""
    equal_budget: bool | None = None
    also: tuple[ClaimSource, ...] = ()
    note: str = ""

    @model_validator(mode="after")
    def _cells(self) -> Self:
        if len(self.a) != len(self.b):
            raise ValueError(
                f"{self.claim}: a has {len(self.a)} values and b {len(self.b)}, expected as many"
            )
        if self.metric is not None and len(self.a) != 1:
            raise ValueError(f"{self.claim}: {self.metric} needs single values, got {self.a}")
        return self


class ClaimGroup(Config):
    """The claims of one table on one data set, and what they share; see `ClaimSource` and `PaperClaim`.

    Attributes:
        blocked: key of `Ledger.reasons`, shown if no result is found.
        commands: that make the result files.
    """

    paper: str
    table: str
    data: str
    claims: tuple[PaperClaim, ...] = Field(min_length=1)
    file: str = ""
    arm: str = ""
    minus: str = ""
    study: str = ""
    labels: float | None = Field(None, gt=0, le=100)
    setting: str = ""
    blocked: str = ""
    commands: tuple[str, ...] = ()


class ClaimSize(Config):
    """A number of parameters that a paper prints; a frozen text encoder is not counted.

    Attributes:
        part: how the names of the parameters begin that are counted; "" is all.
    """

    paper: str
    table: str
    claim: str
    millions: float = Field(gt=0)
    method: str
    settings: tuple[str, ...] = ()
    part: str = ""
    caveat: str = ""


class Paper(Config):
    """A paper, and what its own rows measure.

    Attributes:
        title: short name and title.
        metric: of the paper's own rows.
        notes: what a reader must know of all claims of the paper: where the method here is not the printed one, and
            which results were made before a change of it.
    """

    title: str
    metric: Literal["dice_per_image", "dice_pooled"]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class LedgerEntry:
    """A claim with everything that its group says."""

    group: ClaimGroup
    claim: PaperClaim
    metric: Metric
    sources: tuple[ClaimSource, ...]
    blocked: str

    @property
    def difference(self) -> float:
        """What the paper claims, a minus b, as printed (points or pixels)."""
        return round(self.claim.a[0] - self.claim.b[0], 2)

    @property
    def protocol(self) -> PrintedProtocol:
        """What the two printed pairs can be, by D = 2I/(1+I)."""
        if self.metric in ("hd95_pooled_px", "assd_px"):
            return "px"
        if len(self.claim.a) < 2 or len(self.claim.b) < 2:
            return "no IoU printed"
        found = {verify_table(*self.claim.a), verify_table(*self.claim.b)}
        if "impossible" in found:
            return "impossible"
        if len(found) > 1:
            return "mixed"
        return "pooled" if found == {"pooled"} else "per image"


class Ledger(Config):
    """All claims.

    Attributes:
        papers: by short name, in the order of the page.
        data: a paper's name of a data set -> how the name of the manifest starts that is used here.
        reasons: why something cannot be tested, short name -> full sentence.
        groups: comparisons.
        sizes: numbers of parameters.
    """

    papers: dict[str, Paper]
    data: dict[str, str]
    reasons: dict[str, str]
    groups: tuple[ClaimGroup, ...]
    sizes: tuple[ClaimSize, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for paper in (
            *(group.paper for group in self.groups),
            *(size.paper for size in self.sizes),
        ):
            _require_known("paper", paper, self.papers)

        seen: set[tuple[str, ...]] = set()
        for entry in self.entries():
            group, name = entry.group, entry.claim.claim
            where = f"{group.paper}, {group.table}, {group.data}, {name}"
            _require_known("data set", group.data, self.data)

            # a claim needs a result file or a reason why there is none
            if entry.blocked:
                _require_known("reason", entry.blocked, self.reasons)
            elif not entry.sources:
                raise ValueError(
                    f"{where}: neither a file with arm and minus that tests it, nor a reason (blocked)"
                )
            if entry.sources and not group.commands:
                raise ValueError(
                    f"{where}: names a result file, but its group has no command that makes it"
                )
            if (key := (group.paper, group.table, group.data, name)) in seen:
                raise ValueError(f"{where}: is listed twice")
            seen.add(key)
        return self

    def entries(self) -> tuple[LedgerEntry, ...]:
        """The claims of all groups, in order."""
        found = []
        for group in self.groups:
            found += [_entry(self, group, claim) for claim in group.claims]
        return tuple(found)


def read_ledger(text: str) -> Ledger:
    """Read a ledger from TOML.

    Raises:
        ConfigError: not TOML, an unknown field, a wrong type, or claims that do not fit together.
    """
    try:
        return Ledger.model_validate_json(json.dumps(tomllib.loads(text)))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"the ledger of claims is not valid TOML: {error}.") from error
    except ValidationError as error:
        raise ConfigError(f"the ledger of claims is not valid: {error}") from error


@cache
def ledger() -> Ledger:
    """The ledger of this package."""
    return read_ledger(files("textmask.studies.claims").joinpath("claims.toml").read_text("utf-8"))


def _entry(whole: Ledger, group: ClaimGroup, claim: PaperClaim) -> LedgerEntry:
    file, arm = _either(claim.file, group.file), _either(claim.arm, group.arm)
    minus, study = _either(claim.minus, group.minus), _either(claim.study, group.study)
    sources = claim.also
    if file and arm and minus:
        first = ClaimSource(
            file=file,
            arm=arm,
            minus=minus,
            study=study,
            labels=_either(claim.labels, group.labels),
            setting=group.setting,
            caveat=claim.caveat,
            stand_in=claim.stand_in,
            equal_budget=claim.equal_budget,
        )
        sources = (first, *sources)

    paper = whole.papers.get(group.paper)
    metric: Metric = claim.metric or (paper.metric if paper else "dice_per_image")
    return LedgerEntry(group, claim, metric, sources, str(_either(claim.blocked, group.blocked)))


def _either(own: T | None, shared: T) -> T:
    return shared if own is None else own


def _require_known(what: str, name: str, valid: dict[str, Paper] | dict[str, str]) -> None:
    if name not in valid:
        raise ValueError(f"unknown {what} {name!r}; valid: {', '.join(valid)}")
