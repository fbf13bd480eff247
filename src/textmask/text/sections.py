"""The sections of a report: which say what is seen, and which say what was asked or compared.

A section ends at the next heading or at a blank line. Headings are read in any case, with a colon, between asterisks or
on a line of their own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# sections that say what was asked, done or compared, not what is seen
NOT_SEEN = frozenset(
    "indication indications history clinical technique comparison comparisons reason exam examination procedure "
    "recommendation recommendations protocol contrast symptoms study exposure referral order accession ordering".split()
)
SEEN = frozenset(
    "findings finding impression impressions conclusion conclusions report result results opinion".split()
)
SEEN |= frozenset("interpretation summary assessment diagnosis befund beurteilung".split())
# "REASON FOR EXAM", "Clinical history", "Indication for the examination"
_TAIL = frozenset(
    "for exam examination study of the history information data indication findings and type signs symptoms "
    "details question date time performed chest".split()
)
_NAME = re.compile(r"[A-Za-z][A-Za-z/&]*(?:[ \t][A-Za-z/&]+){0,4}[*_ \t]*$")
_GENERIC = re.compile(r"(?:^|[.;\n])\s*[*#_]*([A-Z][A-Za-z]+(?: [A-Za-z]+){0,3})[*_ \t]*$")
_BLANK = re.compile(r"\n[ \t]*\n")
_SENTENCE_END = re.compile(r"[.!?](?=\s)")
_ASKS = re.compile(
    r"\s*(?:please\s+)?(?:evaluate|assess|rule out|r/o|exclude|eval|\?)[^.!?]*[.!?]?", re.IGNORECASE
)
_LOOK_BACK = 60  # characters before a colon that may belong to a heading


@dataclass(frozen=True)
class Sections:
    """Which characters of a report say what is seen.

    Attributes:
        seen: start and end of each stretch.
        skipped: headings of the sections that were left out although they hold text.
    """

    seen: tuple[tuple[int, int], ...]
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Heading:
    start: int
    end: int
    name: str
    seen: bool


def sections(report: str) -> Sections:
    """Divide a report into what is seen and what was asked."""
    headings = _headings(report)
    if not headings:
        return Sections(((0, len(report)),))
    seen = [(0, headings[0].start)]
    skipped: list[str] = []
    for i, heading in enumerate(headings):
        end = headings[i + 1].start if i + 1 < len(headings) else len(report)
        start = heading.end
        if not heading.seen:
            stop = _end_of_skipped(report, start, end, last=i + 1 == len(headings))
            if report[start:stop].strip(" \t\n.*_"):
                skipped.append(heading.name)
            start = stop
        seen.append((start, end))
    return Sections(
        tuple(part for part in seen if report[part[0] : part[1]].strip()), tuple(skipped)
    )


def _headings(report: str) -> list[_Heading]:
    """The headings in order: those with a colon, and those that fill a line."""
    found: dict[int, _Heading] = {}
    colon = report.find(":")
    while colon >= 0:
        if (heading := _before_colon(report, colon)) is not None:
            found[heading.start] = heading
        colon = report.find(":", colon + 1)

    start = 0
    for line in report.split("\n"):
        name = line.strip(" \t*#_-=.:\r")
        if (
            0 < len(name) < 40
            and ("\n" in report)
            and ":" not in line
            and (kind := _section_kind(name)) is not None
        ):
            found[start] = _Heading(start, start + len(line), name.lower(), kind)
        start += len(line) + 1
    return [found[at] for at in sorted(found)]


def _before_colon(report: str, colon: int) -> _Heading | None:
    """The heading that ends at a colon; None where the words before it are none."""
    begin = max(0, colon - _LOOK_BACK)
    window = report[begin:colon]
    end = colon + 1
    while end < len(report) and report[end] in "*_":
        end += 1
    if (match := _NAME.search(window)) is not None:
        # the longest known name that ends here: "... pneumonia findings:"
        words = list(re.finditer(r"[A-Za-z/&]+", match.group()))
        for word in words:
            name = match.group()[word.start() :].strip(" \t*_")
            if (kind := _section_kind(name)) is not None:
                start = begin + match.start() + word.start()
                return _Heading(start, end, name.lower(), kind)
    if (match := _GENERIC.search(window)) is not None:
        start = begin + match.start(1)
        return _Heading(start, start, match.group(1).lower(), True)  # its words may name a place
    return None


def _section_kind(name: str) -> bool | None:
    """Whether a section of this name says what is seen; None where it is not the name of a section."""
    words = name.lower().replace("/", " ").replace("&", " ").split()
    if (
        not words
        or len(words) > 6
        or not all(word in _TAIL or word in SEEN or word in NOT_SEEN for word in words)
    ):
        return None
    known = [word for word in words if word in SEEN or word in NOT_SEEN]
    if not known or words[0] not in known:
        return None
    return words[0] in SEEN


def _end_of_skipped(report: str, start: int, end: int, last: bool) -> int:
    """Where a section that is left out ends: at a blank line, else at the next heading.

    The last section of a report without any blank line is left out up to its first full stop, since a report that was
    written on one line would be lost otherwise; requests such as "rule out pneumonia" after it are left out too.
    """
    body = start
    while body < end and report[body].isspace():
        body += 1
    if (blank := _BLANK.search(report, body, end)) is not None:
        return blank.start()
    if not last or "\n" in report[body:end].strip():
        return end
    if (stop := _SENTENCE_END.search(report, body, end)) is None:
        return end
    at = stop.end()
    while (asks := _ASKS.match(report, at, end)) is not None and asks.end() > at:
        at = asks.end()
    return at
