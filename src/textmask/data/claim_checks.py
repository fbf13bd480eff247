"""Checks of what prompts claim against what their masks show: sides, laterality convention, absence."""

from __future__ import annotations

from dataclasses import dataclass

from textmask.data.check_report import CheckReport, part_of
from textmask.data.facts import Facts
from textmask.data.manifest import Manifest
from textmask.statement import Laterality, Side, Statement

# a verdict needs this many one-sided sentences, and this share of them on one side
MIN_ONE_SIDED = 10
CLEAR = 0.8
# "bilateral" with less than this share of the mask on the smaller side, "unilateral" with more
ONLY_ONE_SIDE = 0.005
BOTH_SIDES = 0.2


@dataclass(frozen=True)
class LocatedClaim:
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


def check_laterality(
    manifest: Manifest, claims: list[LocatedClaim], report: CheckReport
) -> Laterality:
    """Measure whose left the sentences mean, and return the convention to read them by."""
    sided = [claim for claim in claims if claim.one_side]
    agree = sum(claim.on_named_side > 0.5 for claim in sided)
    share = agree / len(sided) if sided else None
    measured = Laterality.UNKNOWN
    if share is not None and len(sided) >= MIN_ONE_SIDED:
        measured = (
            Laterality.IMAGE
            if share >= CLEAR
            else Laterality.PATIENT
            if share <= 1 - CLEAR
            else Laterality.UNKNOWN
        )
    report.measured["laterality"] = {
        "one_sided": len(sided),
        "on_image_side": share,
        "verdict": measured,
    }
    _compare_laterality(manifest, measured, part_of(agree, len(sided)), report)
    return measured if measured is not Laterality.UNKNOWN else manifest.laterality


def _compare_laterality(
    manifest: Manifest, measured: Laterality, agree: str, report: CheckReport
) -> None:
    declared = manifest.laterality
    said = f"{agree} one-sided sentences have most of their mask on that side of the image"
    means = f"left means the {measured}'s left"
    if len({row.laterality for row in manifest.rows}) > 1:
        report.add(
            "laterality-mixed",
            "error",
            "rows declare different meanings of left; use one per data set.",
        )
    elif measured is Laterality.UNKNOWN:
        report.add(
            "laterality",
            "note",
            f"whose left is meant is not told by the masks (declared {declared}): {said}.",
        )
    elif measured is declared:
        report.add("laterality", "note", f"{means}, as declared: {said}.")
    elif declared is Laterality.UNKNOWN:
        report.add(
            "laterality-undeclared", "warning", f"{means}: {said}. Declare laterality={measured}."
        )
    else:
        report.add("laterality-contradicted", "error", f"declared {declared}, but {means}: {said}.")


def check_sides(claims: list[LocatedClaim], convention: Laterality, report: CheckReport) -> None:
    """One-sided sentences whose mask lies mostly on the other side."""
    if convention is Laterality.UNKNOWN:
        return
    sided = [claim for claim in claims if claim.one_side]
    mirrored = convention is Laterality.PATIENT
    wrong = [
        claim
        for claim in sided
        if (claim.on_named_side > 0.5 if mirrored else claim.on_named_side < 0.5)
    ]
    report.measured["side_contradictions"] = {"n": len(wrong), "of": len(sided)}
    if wrong:
        report.add(
            "side-contradiction",
            "warning",
            f"{part_of(len(wrong), len(sided))} one-sided sentences have most of their mask on the other side "
            f"(left read as the {convention}'s left).",
            [claim.fact.row for claim in wrong],
        )


def check_lateral(claims: list[LocatedClaim], report: CheckReport) -> None:
    """Sentences that say unilateral or bilateral against their mask."""

    def contradicts(claim: LocatedClaim) -> bool:
        left = claim.fact.left_share or 0.0
        smaller = min(left, 1.0 - left)
        return (
            smaller < ONLY_ONE_SIDE
            if claim.statement.lateral == "bilateral"
            else smaller > BOTH_SIDES
        )

    said = [claim for claim in claims if claim.statement.lateral]
    wrong = [claim for claim in said if contradicts(claim)]
    report.measured["lateral_contradictions"] = {"n": len(wrong), "of": len(said)}
    if wrong:
        report.add(
            "lateral-contradiction",
            "warning",
            f"{part_of(len(wrong), len(said))} sentences say unilateral or bilateral against their mask.",
            [claim.fact.row for claim in wrong],
        )


def check_absence(
    facts: list[Facts], statements: dict[str, Statement], report: CheckReport
) -> None:
    """Sentences that say there is nothing beside a mask, or name a place beside an empty mask."""

    def contradicts(fact: Facts) -> bool:
        statement = statements[fact.row.text]
        return (
            bool(fact.mask_share)
            if statement.absent
            else statement.has_location and not fact.mask_share
        )

    wrong = [fact.row for fact in facts if fact.mask_share is not None and contradicts(fact)]
    if wrong:
        report.add(
            "absence-contradiction",
            "warning",
            f"{len(wrong)} sentences say there is no finding beside a mask, or name a place beside an empty mask.",
            wrong,
        )
