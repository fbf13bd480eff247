"""Read the findings of a structured report from its DICOM JSON; no DICOM parser is needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from textmask.io.dicom.facts import SOFTWARE, is_uid, one_line

MAX_ITEMS, MAX_DEPTH = 5_000, 32
CONTENT, KIND, TEXT, NAME, CODE = "0040A730", "0040A040", "0040A160", "0040A043", "00080100"
MAKER, REFERENCES, REFERRED = "00080070", "00081199", "00081155"
# codes (DCM) of findings, finding, impressions, impression, conclusions, conclusion, as sections and as items
FINDINGS = {"121070", "121071", "121072", "121073", "121076", "121077"}


@dataclass(frozen=True)
class Report:
    """The findings in words, and the images that they refer to (empty: all of the study)."""

    prompt: str
    images: frozenset[str]


def report_of(header: Mapping[str, Any]) -> Report | None:
    """Read a report; None if it has no text, or if textmask wrote it.

    The TEXT items named finding, impression or conclusion, or in sections with these names, are joined in their order;
    if there are none, all TEXT items are. Reports of textmask are left out, or each would become the next request.

    Args:
        header: the report as DICOM JSON.
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
            for reference in _sequence_items(item, REFERENCES):
                if is_uid(uid := _first(reference, REFERRED)):
                    images.add(uid)

    ended = [text if text.endswith((".", "!", "?")) else f"{text}." for text in found or other]
    return Report(" ".join(ended), frozenset(images)) if ended else None


def _content_items(header: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], bool]]:
    """Items of the tree in order, each with whether it belongs to the findings; deep or endless trees are cut."""
    stack = [(item, False, 0) for item in reversed(_sequence_items(header, CONTENT))]
    for _ in range(MAX_ITEMS):
        if not stack:
            return
        item, inside, depth = stack.pop()
        names = _sequence_items(item, NAME)
        named = inside or any(_first(name, CODE) in FINDINGS for name in names)
        yield item, named

        # reversed, because the last one is taken first
        if depth < MAX_DEPTH:
            for inner in reversed(_sequence_items(item, CONTENT)):
                stack.append((inner, named, depth + 1))


def _sequence_items(item: Mapping[str, Any], tag: str) -> list[Mapping[str, Any]]:
    return [value for value in _values(item, tag) if isinstance(value, Mapping)]


def _first(item: Mapping[str, Any], tag: str) -> Any:
    return next(iter(_values(item, tag)), None)


def _values(item: Mapping[str, Any], tag: str) -> list[Any]:
    element = item.get(tag)
    values = element.get("Value") if isinstance(element, Mapping) else None
    return values if isinstance(values, list) else []
