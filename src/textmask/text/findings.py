"""A report as findings: objects with place, polarity and certainty, and the sentences that can be segmented."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from textmask.statement import Finding, Statement
from textmask.text.grammar import parse
from textmask.text.places import LUNG_ORGANS
from textmask.text.recognition import about_chest
from textmask.text.report_grammar import Reading, read_report
from textmask.text.sections import sections
from textmask.text.tokens import Token, split, tag
from textmask.text.translation import NOT_READ, detect_language, to_english
from textmask.text.words import MAX_LENGTH

MAX_REPORT = 20_000  # characters that are read
MAX_CUTS = 20  # places of a sentence where a cut is tried
_LISTED = re.compile(r"^\s*(?:\(?\d{1,2}[.)]|[-*•])\s+")
_TURN = re.compile(
    r"\s*[,:]\s*(?:(?:but|and|while|with)\s+)?|\s+(?:but|however|while|whereas|although|and|with)\s+",
    re.I,
)


@dataclass(frozen=True)
class Findings:
    """What a report says, in its own words and order.

    Attributes:
        named: sentences or clauses that name a finding and its place, each place and kind once.
        denied: those that say that something is free, clear or absent.
        items: every finding, located or not, present or denied; spans are characters of the report.
        skipped: headings of the sections that were not read, since they say what was asked or compared.
        sentences: number of sentences that were read.
    """

    named: tuple[str, ...]
    denied: tuple[str, ...]
    items: tuple[Finding, ...] = ()
    skipped: tuple[str, ...] = ()
    sentences: int = 0


def findings(report: str) -> list[str]:
    """The sentences of a report that name a finding and its place, each ready to be segmented; often there is none.

    A sentence that names several places stays one. What the report denies is left out, see `read_findings`.
    """
    return list(read_findings(report).named)


def read_findings(report: str) -> Findings:
    """What a report names and what it denies. Sections on indication, history, technique and comparison are left out.

    Only the first 20 000 characters are read.
    """
    report = report[:MAX_REPORT]
    divided = sections(report)
    tokens: list[Token] = []
    for start, end in divided.seen:
        tokens += [*split(report[start:end], start), Token(".", end, end, mark=True)]
    language = detect_language(tokens, report)
    if language == NOT_READ:
        return Findings((), (), (), divided.skipped)

    reading = Reading()
    words = tag(to_english(tokens, language) if language != "en" else list(tokens))
    grammar = "report" if about_chest(words) else "auto"
    read_report(words, reading)
    named: dict[object, str] = {}
    denied: list[str] = []
    sentences = list(_sentences(report, tokens))
    for sentence in sentences:
        for clause in _clauses(sentence, grammar):
            statement = parse(clause, grammar)
            if found := _located(statement):
                key = frozenset((finding.kind, finding.zones) for finding in found)
                named.setdefault(key, clause)
            elif not statement.zones and (statement.negated or statement.absent):
                denied.append(clause)
    return Findings(
        tuple(named.values()),
        tuple(dict.fromkeys(denied)),
        tuple(reading.findings),
        divided.skipped,
        len(sentences),
    )


def _located(statement: Statement) -> list[Finding]:
    """The present findings of lung and pleura that have a place."""
    found = [f for f in statement.findings if f.present and f.zones and f.organ in LUNG_ORGANS]
    return found if statement.zones else []


def _sentences(report: str, tokens: Sequence[Token]) -> Iterator[str]:
    """Sentences without their full stop; that of "Rt. base" and that of "2.5 cm" end none."""
    start: int | None = None
    end = 0
    for token in tokens:
        if token.mark and token.word in (".", ";", "?"):
            if start is not None and (
                text := _LISTED.sub("", " ".join(report[start:end].split()), count=1)
            ):
                yield text[:MAX_LENGTH]
            start = None
        else:
            start = token.start if start is None else start
            end = token.end


def _clauses(sentence: str, grammar: str) -> list[str]:
    """A sentence cut where it turns from what there is to what there is not, or back; whole where no cut keeps it true.

    The clauses must claim together what the sentence claims: a cut that loses the side of a lobe is none.
    """
    whole = parse(sentence, grammar)
    denies = bool(whole.negated) or any(not finding.present for finding in whole.findings)
    if not (whole.zones and denies):
        return [sentence]
    for match in islice(_TURN.finditer(sentence), MAX_CUTS):
        first, second = sentence[: match.start()].strip(), sentence[match.end() :].strip()
        a, b = parse(first, grammar), parse(second, grammar)
        kept = (a.zones | b.zones, a.negated | b.negated) == (whole.zones, whole.negated)
        if _denies(a) != _denies(b) and kept:
            return [*_clauses(first, grammar), *_clauses(second, grammar)]
    return [sentence]


def _denies(statement: Statement) -> bool:
    return not statement.zones and bool(statement.negated or statement.absent)
