"""A free report as sentences that each name a finding and its place: none, one or many."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from textmask.statement import Statement
from textmask.text.grammar import DOTTED, parse
from textmask.text.report_grammar import AFTER, BEFORE, FINDINGS
from textmask.text.words import MAX_LENGTH, split_words

MAX_REPORT = 20_000  # characters that are read
MAX_CUTS = 20  # places of a sentence where a cut is tried
NAMED = FINDINGS | frozenset(
    "bronchiectasis bronchogram bronchograms bulla bullae calcification calcifications cavitation cavity congestion "
    "consolidations consolidative contusion cyst cysts emphysema fibrosis granuloma granulomas groundglass haze "
    "haziness hemorrhage haemorrhage honeycombing infarct infarction markings metastases metastasis opacification "
    "polyp polyps reticulation scar scarring shadow stranding thickening tumor tumors tumour tumours".split()
)
# sections that tell what was asked or compared, not what is seen
NOT_SEEN = (
    "indication",
    "history",
    "clinical",
    "technique",
    "comparison",
    "reason",
    "exam",
    "procedure",
    "recommend",
)
_HEADING = re.compile(r"(?:^|(?<=[\s.]))(?P<name>[A-Z][A-Za-z]+(?: [A-Za-z]+){0,3})\s*:")
_LISTED = re.compile(r"^\s*(?:\(?\d{1,2}[.)]|[-*•])\s+")
_BREAK = re.compile(r"\n\s*\n|\n(?=\s*(?:\(?\d{1,2}[.)]|[-*•])\s)")
_END = re.compile(r"[.;?!]+(?=\s|$)")
_TURN = re.compile(
    r"\s*[,:]\s*(?:(?:but|and|while|with)\s+)?|\s+(?:but|however|while|whereas|although|and|with)\s+",
    re.I,
)


@dataclass(frozen=True)
class Findings:
    """What a report says, in its own words and order.

    Attributes:
        named: sentences or clauses that name a finding and its place.
        denied: those that say that something is free, clear or absent.
    """

    named: tuple[str, ...]
    denied: tuple[str, ...]


def findings(report: str) -> list[str]:
    """The sentences of a report that name a finding and its place, each ready to be segmented; often there is none.

    A sentence that names several places stays one. What the report denies is left out, see `read_findings`.
    """
    return list(read_findings(report).named)


def read_findings(report: str) -> Findings:
    """What a report names and what it denies. Sections on indication, history, technique and comparison are left out.

    Only the first 20 000 characters are read.
    """
    named: list[str] = []
    denied: list[str] = []
    for clause in (
        part for sentence in _sentences(_seen(report[:MAX_REPORT])) for part in _clauses(sentence)
    ):
        statement = parse(clause)
        if statement.zones and NAMED & set(split_words(clause)):
            named.append(clause)
        elif not statement.zones and (statement.negated or statement.absent):
            denied.append(clause)
    return Findings(tuple(dict.fromkeys(named)), tuple(dict.fromkeys(denied)))


def _seen(report: str) -> str:
    """The report without the sections that say what was asked; headings become breaks."""
    kept, end, skipped = [], 0, False
    for match in _HEADING.finditer(report):
        if not skipped:
            kept.append(report[end : match.start()])
        skipped, end = match["name"].lower().startswith(NOT_SEEN), match.end()
    if not skipped:
        kept.append(report[end:])
    return "\n\n".join(kept)


def _sentences(report: str) -> Iterator[str]:
    """Sentences without their full stop; that of "Rt. base" and that of "2.5 cm" end none."""
    for block in _BREAK.split(report):
        text, start = " ".join(_LISTED.sub("", block, count=1).split()), 0
        for match in _END.finditer(text):
            words = split_words(text[start : match.start()])
            if words and not (match.group() == "." and words[-1] in DOTTED):
                yield text[start : match.start()].strip()[:MAX_LENGTH]
                start = match.end()
        if rest := text[start:].strip():
            yield rest[:MAX_LENGTH]


def _clauses(sentence: str) -> list[str]:
    """A sentence cut where it turns from what there is to what there is not, or back; whole where no cut keeps it true.

    The clauses must claim together what the sentence claims: a cut that loses the side of a lobe is none.
    """
    whole = parse(sentence)
    if not (whole.zones and (BEFORE | AFTER) & set(split_words(sentence))):
        return [sentence]
    for match in islice(_TURN.finditer(sentence), MAX_CUTS):
        first, second = sentence[: match.start()].strip(), sentence[match.end() :].strip()
        a, b = parse(first), parse(second)
        if _denies(a) != _denies(b) and (a.zones | b.zones, a.negated | b.negated) == (
            whole.zones,
            whole.negated,
        ):
            return [*_clauses(first), *_clauses(second)]
    return [sentence]


def _denies(statement: Statement) -> bool:
    return not statement.zones and bool(statement.negated or statement.absent)
