"""What a structured report says in words, read from its DICOM JSON: no pixels, no parser of DICOM."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from textmask.io.dicom.facts import SOFTWARE, is_uid, one_line

MAX_ITEMS, MAX_DEPTH = 5_000, 32
CONTENT, KIND, TEXT, NAME, CODE = "0040A730", "0040A040", "0040A160", "0040A043", "00080100"
MAKER, REFERENCES, REFERRED = "00080070", "00081199", "00081155"
# findings, finding, impressions, impression, conclusions, conclusion, as sections and as items (DCM)
FINDINGS = {"121070", "121071", "121072", "121073", "121076", "121077"}


@dataclass(frozen=True)
class Report:
    """The findings in words, and the images they are about (none named: all of the study)."""

    sentence: str
    images: frozenset[str]


def report_of(header: Mapping[str, Any]) -> Report | None:
    """The words of a report; None where it has none, or where we wrote it.

    Taken are the TEXT items named finding, impression or conclusion, or in sections of these names, in their order; in
    a report without any, all TEXT items. Our own reports are left out, or each would become the next request.
    """
    if str(_first(header, MAKER)).strip().lower() == SOFTWARE:
        return None
    found: list[str] = []
    other: list[str] = []
    images: set[str] = set()
    for item, in_findings in _content_items(header):
        kind = _first(item, KIND)
        if kind == "TEXT" and isinstance(text := _first(item, TEXT), str) and one_line(text):
            (found if in_findings else other).append(one_line(text))
        elif kind == "IMAGE":
            images |= {
                uid
                for one in _sequence_items(item, REFERENCES)
                if is_uid(uid := _first(one, REFERRED))
            }
    sentence = " ".join(
        text if text.endswith((".", "!", "?")) else f"{text}." for text in found or other
    )
    return Report(sentence, frozenset(images)) if sentence else None


def _content_items(header: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], bool]]:
    """Items of the tree in order, each with whether it speaks of findings; deep or endless trees are cut."""
    stack = [(item, False, 0) for item in reversed(_sequence_items(header, CONTENT))]
    for _ in range(MAX_ITEMS):
        if not stack:
            return
        item, inside, depth = stack.pop()
        named = inside or any(
            _first(name, CODE) in FINDINGS for name in _sequence_items(item, NAME)
        )
        yield item, named
        if depth < MAX_DEPTH:
            stack += [
                (inner, named, depth + 1) for inner in reversed(_sequence_items(item, CONTENT))
            ]


def _sequence_items(item: Mapping[str, Any], tag: str) -> list[Mapping[str, Any]]:
    element = item.get(tag)
    values = element.get("Value") if isinstance(element, Mapping) else None
    return (
        [value for value in values if isinstance(value, Mapping)]
        if isinstance(values, list)
        else []
    )


def _first(item: Mapping[str, Any], tag: str) -> Any:
    element = item.get(tag)
    values = element.get("Value") if isinstance(element, Mapping) else None
    return values[0] if isinstance(values, list) and values else None
