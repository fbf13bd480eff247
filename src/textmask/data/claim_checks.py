"""Checks of what prompts claim against what their masks show: sides, laterality convention, absence."""

from __future__ import annotations

from dataclasses import dataclass

from textmask.data.check_report import CheckReport, part_of
from textmask.data.facts import Facts
from textmask.data.manifest import Manifest
from textmask.statement import Laterality, Side, Statement

# a convention is recognized with this many one-sided prompts, and this share of them on one side
MIN_ONE_SIDED = 10
CLEAR = 0.8
# contradictions: "bilateral" with less than this share of the mask on the smaller side, "unilateral" with more
ONLY_ONE_SIDE = 0.005
BOTH_SIDES = 0.2


@dataclass(frozen=True)
class LocatedClaim:
    """A row with its parsed prompt and its measured pixels."""

    fact: Facts
    statement: Statement

    @property
    def one_side(self) -> Side | None:
        """The only half that the prompt names; None if it names both, the middle, or none."""
        sides = self.statement.sides
        return next(iter(sides)) if len(sides) == 1 and Side.CENTER not in sides else None

    @property
    def on_named_side(self) -> float:
        """Share of the mask in the half of the image that the prompt names, if both are known."""
        left = self.fact.left_share or 0.0
        return left if self.one_side is Side.LEFT else 1.0 - left


def check_laterality(
    manifest: Manifest, claims: list[LocatedClaim], report: CheckReport
) -> Laterality:
    """Measure the laterality convention of the prompts, and return the one to read them with."""
    sided = [claim for claim in claims if claim.one_side]
    agree = sum(claim.on_named_side > 0.5 for claim in sided)
    share = agree / len(sided) if sided else None

    # few prompts, or prompts that point both ways, decide nothing
    measured = Laterality.UNKNOWN
    if share is not None and len(sided) >= MIN_ONE_SIDED:
        if share >= CLEAR:
            measured = Laterality.IMAGE
        elif share <= 1 - CLEAR:
            measured = Laterality.PATIENT

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
    said = f"{agree} one-sided prompts have most of their mask on that side of the image"
    means = f"left means the {measured}'s left"
    if len({row.laterality for row in manifest.rows}) > 1:
        report.add(
            "laterality-mixed",
            "error",
            "rows declare different laterality conventions; use one per data set.",
        )
    elif measured is Laterality.UNKNOWN:
        report.add(
            "laterality",
            "note",
            f"the masks do not show which laterality convention is meant (declared {declared}): {said}.",
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
    """Prompts that name one side while most of the mask is on the other."""
    if convention is Laterality.UNKNOWN:
        return

    # `on_named_side` reads left as the left of the image
    sided = [claim for claim in claims if claim.one_side]
    mirrored = convention is Laterality.PATIENT
    wrong = []
    for claim in sided:
        share = 1.0 - claim.on_named_side if mirrored else claim.on_named_side
        if share < 0.5:
            wrong.append(claim)

    report.measured["side_contradictions"] = {"n": len(wrong), "of": len(sided)}
    if wrong:
        report.add(
            "side-contradiction",
            "warning",
            f"{part_of(len(wrong), len(sided))} one-sided prompts have most of their mask on the other side "
            f"(left read as the {convention}'s left).",
            [claim.fact.row for claim in wrong],
        )


def check_lateral(claims: list[LocatedClaim], report: CheckReport) -> None:
    """Prompts that say unilateral or bilateral while their mask shows the opposite."""

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
            f"{part_of(len(wrong), len(said))} prompts say unilateral or bilateral, and their mask contradicts it.",
            [claim.fact.row for claim in wrong],
        )


def check_absence(
    facts: list[Facts], statements: dict[str, Statement], report: CheckReport
) -> None:
    """Prompts that deny the finding of a mask, or name a place while the mask is empty."""

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
            f"{len(wrong)} prompts say there is no finding although there is a mask, or name a place although the mask "
            "is empty.",
            wrong,
        )
