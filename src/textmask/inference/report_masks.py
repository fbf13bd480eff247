"""The masks of a text: one per finding that a report names, and all of them as one result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np

from textmask.inference.predictor import Opened
from textmask.inference.screening import Scores
from textmask.inference.segmentation import Segmentation
from textmask.statement import Statement
from textmask.text.findings import Findings, read_findings
from textmask.text.grammar import parse

SKIPPED = "section_skipped"


@dataclass(frozen=True)
class TextSegmentation:
    """The result for a text.

    Attributes:
        whole: one result for all that the text names; the mask is the union, the probability the maximum.
        parts: one result per finding of a report, in the order of the text; () for a single prompt.
    """

    whole: Segmentation
    parts: tuple[Segmentation, ...] = ()


def is_report(found: Findings) -> bool:
    """Whether a text is read finding by finding: it has several sentences, and one names a finding and its place.

    Read as one sentence, a report would contradict itself ("The left lung is clear. Opacity in the right lung.").
    """
    return bool(found.named) and (found.sentences > 1 or bool(found.skipped))


def prompts_of(text: str) -> tuple[str, ...]:
    """The prompts that a text stands for: the findings of a report, as `predict --report` reads it, or the text."""
    found = read_findings(text)
    return found.named if is_report(found) else (text,)


def segment_text(
    opened: Opened,
    text: str,
    laterality: str | None = None,
    assume: str | None = None,
    *,
    abstain: bool = True,
) -> TextSegmentation:
    """Segment what a text names: a report finding by finding, any other text as one prompt.

    Args:
        opened: the image.
        text: a prompt or a report.
        laterality: see `Opened.segment`, as `assume` and `abstain`.
        assume: convention to use if it is unknown.
        abstain: return an empty mask where the model abstains.

    Raises:
        LateralityError: a finding names a side, and it cannot be determined which side of the image that is.
        ConfigError: the convention is unknown.
    """
    found = read_findings(text)
    if not is_report(found):
        return TextSegmentation(opened.segment(text, laterality, assume, abstain=abstain))
    parts = [opened.segment(prompt, laterality, assume, abstain=abstain) for prompt in found.named]
    return TextSegmentation(_whole(text, found, parts), tuple(parts))


def _whole(text: str, found: Findings, parts: Sequence[Segmentation]) -> Segmentation:
    """The results of the findings of a report as one."""
    # each code once; what one finding lacks does not make the others doubtful, so that the codes stay per finding too
    codes: dict[str, None] = {SKIPPED: None} if found.skipped else {}
    unknown: dict[str, None] = {}
    for part in parts:
        codes.update(dict.fromkeys(part.warnings))
        unknown.update(dict.fromkeys(part.unknown_words))

    # a finding that the model gives no result for must not show again at another threshold
    shown = [part for part in parts if not part.abstained or part.mask.any()] or list(parts)
    first = parts[0]
    conversions = dict.fromkeys(part.asked.conversion for part in parts)
    asked = replace(
        first.asked,
        sentence=". ".join(part.asked.sentence for part in parts),
        conversion="; ".join(conversions),
        assumed=any(part.asked.assumed for part in parts),
    )
    return Segmentation(
        np.maximum.reduce([part.mask for part in shown]),
        np.maximum.reduce([part.probability for part in shown]),
        _statement(found, parts),
        tuple(codes),
        {},
        asked,
        all(part.abstained for part in parts),
        reduce(Scores.lowest, [part.scores for part in parts]),
        tuple(unknown),
        text,
        first.pixels,
    )


def _statement(found: Findings, parts: Sequence[Segmentation]) -> Statement:
    """What the report claims as a whole: places that a finding names are not free, whatever else is clear."""
    zones = frozenset().union(*(part.statement.zones for part in parts))
    free = frozenset().union(*(part.statement.negated for part in parts))
    for clause in found.denied:
        statement = parse(clause, "report")
        # "no effusion in the left base" does not say that the base is free of everything
        if not any(not finding.present for finding in statement.findings):
            free |= statement.negated
    first = parts[0].statement
    return Statement(
        zones=zones,
        negated=free - zones,
        laterality=first.laterality,
        grammar="report",
        findings=found.items,
        language=first.language,
    )
