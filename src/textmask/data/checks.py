"""What is suspicious about a data set: leakage between splits, text against its mask, files that do not fit."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from textmask.data.facts import Facts, Progress, measure, near_identical
from textmask.data.manifest import Manifest, Row
from textmask.data.published import compare_counts
from textmask.errors import PromptWarning
from textmask.text.grammar import parse
from textmask.text.statement import Side, Statement
from textmask.types import Laterality

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
# a verdict needs this many one-sided sentences, and this share of them on one side
MIN_ONE_SIDED = 10
CLEAR = 0.8
# "bilateral" with less than this share of the mask on the smaller side, "unilateral" with more
ONLY_ONE_SIDE = 0.005
BOTH_SIDES = 0.2


@dataclass(frozen=True)
class Finding:
    """One thing to know of a data set.

    Attributes:
        code: stable short name.
        severity: "error": do not use it like this; "warning": figures will be off; "note": good to know.
        message: what, how often, what to do.
        keys: the rows concerned.
    """

    code: str
    severity: Severity
    message: str
    keys: tuple[str, ...] = ()


@dataclass
class CheckReport:
    """Findings and measurements of one data set."""

    name: str
    findings: list[Finding] = field(default_factory=list)
    measured: dict[str, Any] = field(default_factory=dict)

    def add(self, code: str, severity: Severity, message: str, rows: Iterable[Row] = ()) -> None:
        """Note a finding."""
        self.findings.append(Finding(code, severity, message, tuple(dict.fromkeys(row.image for row in rows))))

    @property
    def has_errors(self) -> bool:
        """Whether something must be mended before use."""
        return any(finding.severity == "error" for finding in self.findings)

    def to_json(self) -> str:
        """Everything, as JSON text."""
        content = {"name": self.name, "measured": self.measured, "findings": [asdict(f) for f in self.findings]}
        return json.dumps(content, indent=2, ensure_ascii=False)


@dataclass(frozen=True)
class Claim:
    """A row with its parsed sentence and its measured pixels."""

    fact: Facts
    statement: Statement

    @property
    def one_side(self) -> Side | None:
        """The single half the sentence names; None when it names both, the middle, or none."""
        sides = self.statement.sides
        return next(iter(sides)) if len(sides) == 1 and Side.CENTER not in sides else None

    @property
    def on_named_side(self) -> float:
        """Share of the mask in the half of the image that the sentence names; call only where both are known."""
        left = self.fact.left_share or 0.0
        return left if self.one_side is Side.LEFT else 1.0 - left


def check(manifest: Manifest, *, pixels: bool = True, progress: Progress | None = None) -> CheckReport:
    """Check a data set.

    Args:
        manifest: the data set.
        pixels: also read every picture and mask (about 1 ms per 224 x 224 pair).
        progress: called with (rows done, rows in all) while pixels are read.
    """
    report = CheckReport(manifest.name or str(manifest.root))
    report.measured |= {"rows": len(manifest), "splits": manifest.splits, "declared_laterality": manifest.laterality}
    _check_counts(manifest, report)
    _check_groups(manifest, report)
    statements = _check_sentences(manifest, report)
    if pixels:
        facts = measure(manifest, progress)
        _check_files(facts, report)
        _check_copies(facts, report)
        _check_masks(facts, report)
        claims = [Claim(fact, statements[fact.row.text]) for fact in facts if fact.left_share is not None]
        convention = _check_laterality(manifest, claims, report)
        _check_sides(claims, convention, report)
        _check_lateral(claims, report)
        _check_absence(facts, statements, report)
    report.findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return report


def summary_rows(report: CheckReport, keys: int = 3) -> list[tuple[str, str, str, str]]:
    """(severity, code, message, first keys) of each finding, worst first, to print as a table."""

    def first(finding: Finding) -> str:
        more = len(finding.keys) - keys
        return ", ".join(finding.keys[:keys]) + (f" and {more} more" if more > 0 else "")

    return [(finding.severity, finding.code, finding.message, first(finding)) for finding in report.findings]


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({100 * part / max(whole, 1):.1f} %)"


def _check_counts(manifest: Manifest, report: CheckReport) -> None:
    counts = compare_counts(manifest)
    if counts is None:
        return
    table = ", ".join(f"{c.split} {c.found}/{c.published}" for c in counts.splits)
    report.measured["published"] = {c.split: c.published for c in counts.splits}
    if counts.equal:
        report.add("counts", "note", f"counts equal the published {counts.source} split of {counts.data_set}: {table}.")
    else:
        report.add(
            "counts",
            "warning",
            f"counts differ from the published {counts.source} split of {counts.data_set} (found/published): {table}; "
            "figures are not comparable with papers.",
        )


def _check_groups(manifest: Manifest, report: CheckReport) -> None:
    splits_of: dict[str, set[str]] = {}
    for row in manifest.rows:
        if row.group:
            splits_of.setdefault(row.group, set()).add(row.split)
    shared = {group for group, splits in splits_of.items() if len(splits) > 1}
    nameless = sum(not row.group for row in manifest.rows)
    report.measured |= {"groups": len(splits_of), "shared_groups": len(shared), "rows_without_group": nameless}
    if shared:
        rows = [row for row in manifest.rows if row.group in shared]
        report.add(
            "shared-group",
            "error",
            f"{len(shared)} groups (patient, study or video) have rows in several splits: {_per_split(rows, manifest)} "
            "rows. Figures on them are too good; split by group.",
            rows,
        )
    if nameless:
        report.add(
            "no-group",
            "note",
            f"{_share(nameless, len(manifest))} rows name no group, so patients shared between splits cannot be seen "
            "and intervals take every image as independent.",
        )


def _per_split(rows: Sequence[Row], manifest: Manifest) -> str:
    counts = Counter(row.split for row in rows)
    return ", ".join(f"{split} {counts[split]}/{n}" for split, n in manifest.splits.items() if counts[split])


def _check_sentences(manifest: Manifest, report: CheckReport) -> dict[str, Statement]:
    """Parse every distinct sentence once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptWarning)  # counted below instead
        statements = {text: parse(text, manifest.grammar) for text in dict.fromkeys(row.text for row in manifest.rows)}
    report.measured["distinct_texts"] = len(statements)
    if empty := [row for row in manifest.rows if not row.text.strip()]:
        report.add("no-text", "warning", f"{_share(len(empty), len(manifest))} rows have no sentence.", empty)
    unknown = [row for row in manifest.rows if row.text.strip() and not statements[row.text].grammar]
    if unknown:
        report.add(
            "not-understood",
            "note",
            f"{_share(len(unknown), len(manifest))} sentences fit no known grammar; side and level cannot be checked, "
            f"e.g. {unknown[0].text[:80]!r}.",
            unknown,
        )
    codes = Counter(code for row in manifest.rows if row.text.strip() for code in statements[row.text].warnings)
    for code, count in sorted(codes.items()):
        rows = [row for row in manifest.rows if row.text.strip() and code in statements[row.text].warnings]
        report.add(
            f"text-{code}", "note", f"{_share(count, len(manifest))} sentences, e.g. {rows[0].text[:80]!r}.", rows
        )
    return statements


def _check_files(facts: list[Facts], report: CheckReport) -> None:
    if broken := [fact for fact in facts if fact.errors]:
        report.add(
            "unreadable",
            "error",
            f"{_share(len(broken), len(facts))} rows cannot be read; the first: {broken[0].errors[0]}",
            [fact.row for fact in broken],
        )
    unequal = [fact for fact in facts if fact.size and fact.mask_size and fact.size != fact.mask_size]
    if unequal:
        first = unequal[0]
        report.add(
            "size-mismatch",
            "error",
            f"{_share(len(unequal), len(facts))} masks have another size than their picture, e.g. {first.row.image}: "
            f"picture {first.size}, mask {first.mask_size} (rows, columns).",
            [fact.row for fact in unequal],
        )
    sizes = Counter(f"{fact.size[0]}x{fact.size[1]}" for fact in facts if fact.size)
    grey = sum(fact.grey for fact in facts if fact.size)
    report.measured |= {"sizes": dict(sizes.most_common(10)), "distinct_sizes": len(sizes)}
    report.measured |= {"grey": grey, "colour": sum(sizes.values()) - grey}
    if 0 < grey < sum(sizes.values()):
        few = grey < sum(sizes.values()) / 2
        report.add(
            "mixed-colour",
            "note",
            f"{grey} pictures are grey and {sum(sizes.values()) - grey} in colour.",
            [fact.row for fact in facts if fact.size and fact.grey == few],
        )


def _check_copies(facts: list[Facts], report: CheckReport) -> None:
    files: dict[str, list[Row]] = {}
    for fact in facts:
        if fact.sha256:
            files.setdefault(fact.sha256, []).append(fact.row)
    copies = [rows for rows in files.values() if len(rows) > 1]
    across = [row for rows in copies if len({row.split for row in rows}) > 1 for row in rows]
    within = [row for rows in copies if len({row.split for row in rows}) == 1 for row in rows]
    if across:
        report.add("identical-image", "error", f"{len(across)} pictures are byte-identical across splits.", across)
    if within:
        report.add("repeated-image", "warning", f"{len(within)} pictures are byte-identical within a split.", within)
    identical = {row.image for row in across}
    pairs = [(a, b) for a, b in near_identical(facts) if not {a.image, b.image} <= identical]
    report.measured |= {"identical_across_splits": len(across), "near_identical_pairs": len(pairs)}
    if pairs:
        examples = "; ".join(f"{a.image} ~ {b.image}" for a, b in pairs[:3])
        report.add(
            "near-identical-image",
            "warning",
            f"{len(pairs)} pairs of pictures are nearly identical across splits: {examples}. Look at them.",
            [row for pair in pairs for row in pair],
        )


def _check_masks(facts: list[Facts], report: CheckReport) -> None:
    masked = [fact for fact in facts if fact.mask_share is not None]
    empty = [fact for fact in masked if not fact.mask_share]
    shares = [fact.mask_share or 0.0 for fact in masked]
    report.measured |= {"masks": len(masked), "empty_masks": len(empty)}
    report.measured["mean_mask_share"] = sum(shares) / len(shares) if shares else None
    per_split, empty_per_split = (Counter(fact.row.split for fact in some) for some in (masked, empty))
    whole = [split for split, n in per_split.items() if empty_per_split[split] == n]
    for split in whole:
        report.add(
            "empty-split",
            "error",
            f"all {per_split[split]} masks of {split!r} are empty: right folder? foreground 255 or 1?",
            [fact.row for fact in empty if fact.row.split == split],
        )
    partly = [fact.row for fact in empty if fact.row.split not in whole]
    if partly:
        report.add(
            "empty-mask",
            "warning",
            f"{_share(len(partly), len(masked))} masks are empty; say which empty-mask policy a figure uses.",
            partly,
        )


def _check_laterality(manifest: Manifest, claims: list[Claim], report: CheckReport) -> Laterality:
    """Measure whose left the sentences mean, and return the convention to read them by."""
    sided = [claim for claim in claims if claim.one_side]
    agree = sum(claim.on_named_side > 0.5 for claim in sided)
    share = agree / len(sided) if sided else None
    measured = Laterality.UNKNOWN
    if share is not None and len(sided) >= MIN_ONE_SIDED:
        measured = (
            Laterality.IMAGE if share >= CLEAR else Laterality.PATIENT if share <= 1 - CLEAR else Laterality.UNKNOWN
        )
    report.measured["laterality"] = {"one_sided": len(sided), "on_image_side": share, "verdict": measured}
    _compare_laterality(manifest, measured, _share(agree, len(sided)), report)
    return measured if measured is not Laterality.UNKNOWN else manifest.laterality


def _compare_laterality(manifest: Manifest, measured: Laterality, agree: str, report: CheckReport) -> None:
    declared = manifest.laterality
    said = f"{agree} one-sided sentences have most of their mask on that side of the image"
    means = f"left means the {measured}'s left"
    if len({row.laterality for row in manifest.rows}) > 1:
        report.add("laterality-mixed", "error", "rows declare different meanings of left; use one per data set.")
    elif measured is Laterality.UNKNOWN:
        report.add("laterality", "note", f"whose left is meant is not told by the masks (declared {declared}): {said}.")
    elif measured is declared:
        report.add("laterality", "note", f"{means}, as declared: {said}.")
    elif declared is Laterality.UNKNOWN:
        report.add("laterality-undeclared", "warning", f"{means}: {said}. Declare laterality={measured}.")
    else:
        report.add("laterality-contradicted", "error", f"declared {declared}, but {means}: {said}.")


def _check_sides(claims: list[Claim], convention: Laterality, report: CheckReport) -> None:
    """One-sided sentences whose mask lies mostly on the other side."""
    if convention is Laterality.UNKNOWN:
        return
    sided = [claim for claim in claims if claim.one_side]
    mirrored = convention is Laterality.PATIENT
    wrong = [claim for claim in sided if (claim.on_named_side > 0.5 if mirrored else claim.on_named_side < 0.5)]
    report.measured["side_contradictions"] = {"n": len(wrong), "of": len(sided)}
    if wrong:
        report.add(
            "side-contradiction",
            "warning",
            f"{_share(len(wrong), len(sided))} one-sided sentences have most of their mask on the other side "
            f"(left read as the {convention}'s left).",
            [claim.fact.row for claim in wrong],
        )


def _check_lateral(claims: list[Claim], report: CheckReport) -> None:
    """Sentences that say unilateral or bilateral against their mask."""

    def contradicts(claim: Claim) -> bool:
        left = claim.fact.left_share or 0.0
        smaller = min(left, 1.0 - left)
        return smaller < ONLY_ONE_SIDE if claim.statement.lateral == "bilateral" else smaller > BOTH_SIDES

    said = [claim for claim in claims if claim.statement.lateral]
    wrong = [claim for claim in said if contradicts(claim)]
    report.measured["lateral_contradictions"] = {"n": len(wrong), "of": len(said)}
    if wrong:
        report.add(
            "lateral-contradiction",
            "warning",
            f"{_share(len(wrong), len(said))} sentences say unilateral or bilateral against their mask.",
            [claim.fact.row for claim in wrong],
        )


def _check_absence(facts: list[Facts], statements: dict[str, Statement], report: CheckReport) -> None:
    """Sentences that say there is nothing beside a mask, or name a place beside an empty mask."""

    def contradicts(fact: Facts) -> bool:
        statement = statements[fact.row.text]
        return bool(fact.mask_share) if statement.absent else statement.has_location and not fact.mask_share

    wrong = [fact.row for fact in facts if fact.mask_share is not None and contradicts(fact)]
    if wrong:
        report.add(
            "absence-contradiction",
            "warning",
            f"{len(wrong)} sentences say there is no finding beside a mask, or name a place beside an empty mask.",
            wrong,
        )
