"""The parser against labelled sentences: what it reads right, kind by kind, and what it confuses."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from textmask.errors import DataError
from textmask.statement import Level, Side, Statement, Zone
from textmask.text.findings import read_findings
from textmask.text.grammar import parse

REQUIRED = ("sentence", "zones")
COLUMNS = ("kind", "grammar", *REQUIRED, "negated", "sides", "levels", "absent", "findings")
MAX_BYTES = 50_000_000
SHOWN = 200  # wrong sentences that are kept
_SIDES = {"L": Side.LEFT, "R": Side.RIGHT, "C": Side.CENTER}
_LEVELS = {"u": Level.UPPER, "m": Level.MIDDLE, "l": Level.LOWER}


@dataclass(frozen=True)
class Labelled:
    """A sentence with its right reading; None where the file does not say.

    Attributes:
        kind, grammar, sentence: as in the file; `grammar` is `auto` when empty.
        zones, negated: affected and free zones.
        absent: the sentence says that there is no finding.
        findings: number of located findings of the sentence read as a report.
    """

    kind: str
    grammar: str
    sentence: str
    zones: frozenset[Zone]
    negated: frozenset[Zone] | None = None
    absent: bool | None = None
    findings: int | None = None


@dataclass(frozen=True)
class KindScore:
    """How many sentences of a kind are read right, out of `n`, as a whole and by sides and zones alone."""

    n: int
    right: int
    sides: int
    zones: int


@dataclass(frozen=True)
class ReadingSummary:
    """Result of `measure_reading`.

    Attributes:
        n: sentences.
        right: read right in every respect that the file labels.
        sides, zones: with the right sides; with the right sides and levels.
        too_few, too_many, opposite: sentences whose sides lack one, have one too many, or are the other side.
        false_empty: with affected zones in the file and none read; false_full: the other way round.
        kinds: scores per kind.
        side_confusion, level_confusion: (labelled, read) -> sentences.
        wrong: the first sentences that are read wrong.
    """

    n: int
    right: int
    sides: int
    zones: int
    too_few: int
    too_many: int
    opposite: int
    false_empty: int
    false_full: int
    kinds: dict[str, KindScore]
    side_confusion: dict[str, int]
    level_confusion: dict[str, int]
    wrong: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        """For a results file."""
        return asdict(self)


def read_labelled(path: Path) -> list[Labelled]:
    """Labelled sentences of a csv with the columns `sentence` and `zones`, and as many of `COLUMNS` as there are.

    Zones are written side:levels, e.g. `L:ul R:m` for left upper and lower and right middle.

    Raises:
        DataError: the file cannot be read, lacks a column, or has a cell that cannot be understood.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path}: is larger than {MAX_BYTES:,} bytes. Split it.")
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path}: cannot be read ({error}); expected a csv of labelled sentences."
        ) from error
    if not rows:
        raise DataError(f"{path}: contains no rows.")
    if missing := [name for name in REQUIRED if name not in rows[0]]:
        raise DataError(
            f"{path}: missing column {', '.join(missing)}. Valid: {', '.join(COLUMNS)}."
        )
    return [_labelled(row, f"{path} row {number}") for number, row in enumerate(rows, start=2)]


def _labelled(row: dict[str, str | None], where: str) -> Labelled:
    def cell(name: str) -> str:
        return (row.get(name) or "").strip()

    absent, findings = cell("absent"), cell("findings")
    if absent not in ("", "0", "1") or (findings and not findings.isdecimal()):
        raise DataError(
            f"{where}: absent is {absent!r} and findings {findings!r}, expected 0 or 1 and a number."
        )
    return Labelled(
        kind=cell("kind") or "all",
        grammar=cell("grammar") or "auto",
        sentence=row.get("sentence") or "",
        zones=_zones(cell("zones"), where),
        negated=_zones(cell("negated"), where) if "negated" in row else None,
        absent=absent == "1" if absent else None,
        findings=int(findings) if findings else None,
    )


def _zones(text: str, where: str) -> frozenset[Zone]:
    found: set[Zone] = set()
    for part in text.split():
        side, _, levels = part.partition(":")
        if side not in _SIDES or not levels or set(levels) - set(_LEVELS):
            raise DataError(
                f"{where}: {part!r} is not a zone; expected e.g. L:ul for left upper and lower."
            )
        found |= {(_SIDES[side], _LEVELS[level]) for level in levels}
    return frozenset(found)


def measure_reading(rows: Sequence[Labelled]) -> ReadingSummary:
    """Read every sentence and compare it with its label."""
    counts: Counter[str] = Counter()
    kinds: dict[str, Counter[str]] = {}
    side_confusion: Counter[str] = Counter()
    level_confusion: Counter[str] = Counter()
    wrong: list[str] = []
    for row in rows:
        statement = parse(row.sentence, row.grammar)
        kind = kinds.setdefault(row.kind, Counter())
        kind["n"] += 1
        judged = _judge_sentence(row, statement)
        counts.update(judged)
        kind.update(judged & {"right", "sides", "zones"})
        side_confusion[f"{_names(_side_words(row.zones))} -> {_names(statement.sides)}"] += 1
        if _side_words(row.zones) == statement.sides:
            levels = frozenset(level for _, level in row.zones)
            level_confusion[f"{_names(levels)} -> {_names(statement.levels)}"] += 1
        if "right" not in judged and len(wrong) < SHOWN:
            wrong.append(row.sentence)
    scores = {
        name: KindScore(c["n"], c["right"], c["sides"], c["zones"])
        for name, c in sorted(kinds.items())
    }
    names = (
        "right",
        "sides",
        "zones",
        "too_few",
        "too_many",
        "opposite",
        "false_empty",
        "false_full",
    )
    return ReadingSummary(
        n=len(rows),
        **{name: counts[name] for name in names},
        kinds=scores,
        side_confusion=dict(sorted(side_confusion.items())),
        level_confusion=dict(sorted(level_confusion.items())),
        wrong=wrong,
    )


def _judge_sentence(row: Labelled, statement: Statement) -> set[str]:
    """Names of what is true of a reading."""
    found: set[str] = set()
    expected, sides = _side_words(row.zones), statement.sides
    if sides == expected:
        found.add("sides")
    elif sides and expected and not sides & expected:
        found.add("opposite")
    else:
        found.add("too_few" if sides < expected else "too_many")
    if statement.zones == row.zones:
        found.add("zones")
    if row.zones and not statement.zones:
        found.add("false_empty")
    if statement.zones and not row.zones:
        found.add("false_full")

    right = statement.zones == row.zones
    right &= row.negated is None or statement.negated == row.negated
    right &= row.absent is None or statement.absent == row.absent
    right &= row.findings is None or len(read_findings(row.sentence).named) == row.findings
    return found | ({"right"} if right else set())


def _side_words(zones: frozenset[Zone]) -> frozenset[Side]:
    return frozenset(side for side, _ in zones)


def _names(values: frozenset[Side] | frozenset[Level]) -> str:
    return "+".join(sorted(str(value) for value in values)) or "none"


def reading_lines(summary: ReadingSummary) -> list[str]:
    """The summary in words."""

    def share(count: int) -> str:
        return f"{count} of {summary.n} ({count / summary.n * 100:.1f} %)"

    return [
        f"read right in every labelled respect: {share(summary.right)}",
        f"sides right: {share(summary.sides)}; too few {summary.too_few}, too many {summary.too_many}, "
        f"opposite {summary.opposite}",
        f"sides and levels right: {share(summary.zones)}",
        f"false empty: {summary.false_empty}; false full: {summary.false_full}",
    ]
