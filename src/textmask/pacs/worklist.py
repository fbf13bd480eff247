"""Read prompts and the studies they belong to, from a worklist or from the reports in the PACS."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from textmask.errors import DataError, PacsDownError, PacsError
from textmask.io.dicom.facts import is_uid, one_line
from textmask.io.spreadsheets import column_of, read_csv
from textmask.pacs.client import Pacs, Series
from textmask.pacs.reports import report_of

MAX_WORKLIST_BYTES = 10_000_000
MAX_ROWS = 10_000
MAX_PROMPT = 2000  # characters
MAX_ACCESSION = 16  # characters of a DICOM short string
MAX_REPORTS = 50_000  # kept in memory
KEYS = {"studyinstanceuid": "study", "accessionnumber": "accession", "sopinstanceuid": "instance"}


@dataclass(frozen=True)
class WorklistItem:
    """A prompt for a study, an accession number or an instance.

    Attributes:
        kind: `study`, `accession` or `instance`.
        value: the UID or the number.
        prompt: what to segment.
        images: only these instances; empty means all.
    """

    kind: str
    value: str
    prompt: str
    images: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Worklist:
    """The usable rows, and what is wrong with the others (row number, reason)."""

    items: tuple[WorklistItem, ...]
    problems: tuple[tuple[int, str], ...]


def read_worklist(path: Path) -> Worklist:
    """Read a CSV with a column `text` and one of StudyInstanceUID, AccessionNumber and SOPInstanceUID.

    Unusable rows do not stop the others, and duplicate rows become one item.

    Raises:
        DataError: the file is missing, has other columns, or is too large.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); expected a worklist (CSV)."
        ) from error
    if size > MAX_WORKLIST_BYTES:
        raise DataError(
            f"{path}: has {size:,} bytes; the limit for a worklist is {MAX_WORKLIST_BYTES:,}. Split it."
        )

    header, records = read_csv(path)
    keys: dict[str, str] = {}
    for name, kind in KEYS.items():
        if (key := column_of(header, [name])) is not None:
            keys[kind] = key
    text = column_of(header, ["text"])
    if text is None or len(keys) != 1:
        raise DataError(
            f"{path}: expected the column text and exactly one of StudyInstanceUID, AccessionNumber and SOPInstanceUID."
        )
    if len(records) > MAX_ROWS:
        raise DataError(
            f"{path}: has {len(records):,} rows; the limit for a worklist is {MAX_ROWS:,}. Split it."
        )

    ((kind, column),) = keys.items()
    items: dict[WorklistItem, None] = {}  # each once, in order
    problems = []
    for number, cells in records:
        row = dict(zip(header, cells, strict=False))
        item = WorklistItem(kind, row.get(column, "").strip(), one_line(row.get(text, "")))
        if len(cells) > len(header):
            problems.append((number, "has more cells than the header; quote commas"))
        elif reason := _problem(item):
            problems.append((number, reason))
        else:
            items[item] = None
    return Worklist(tuple(items), tuple(problems))


def _problem(item: WorklistItem) -> str:
    """What is wrong with an item, without quoting it; "" if it is usable."""
    if item.kind == "accession":
        value = item.value
        if not value or len(value) > MAX_ACCESSION:
            return f"the AccessionNumber has {len(value)} characters, expected 1 to {MAX_ACCESSION}"
        if set(value) & set("*?\\") or any(unicodedata.category(c).startswith("C") for c in value):
            return "the AccessionNumber contains a wildcard, a backslash or a control character"
    elif not is_uid(item.value):
        return "the UID is not well-formed"
    return prompt_problem(item.prompt)


def prompt_problem(prompt: str) -> str:
    """Why a prompt cannot be used; "" if it can."""
    if not prompt:
        return "the text is empty"
    if len(prompt) > MAX_PROMPT:
        return f"the text has {len(prompt):,} characters; the limit is {MAX_PROMPT:,}"
    return ""


class ReportReader:
    """Reads the findings of the structured reports in a PACS, each report once."""

    def __init__(self, pacs: Pacs) -> None:
        self.pacs = pacs
        self._known: dict[str, WorklistItem | None] = {}

    def items(self, since: str | None = None) -> Iterator[WorklistItem]:
        """The findings of all reports, as prompts. A report that cannot be read is tried again next time.

        Args:
            since: search only studies since this date (YYYYMMDD).

        Raises:
            PacsDownError: the server does not answer.
            PacsError: the reports cannot be searched for.
        """
        for series in self.pacs.series("SR", since=since):
            yield from self._of(series)

    def _of(self, series: Series) -> Iterator[WorklistItem]:
        try:
            instances = self.pacs.instances(series)
        except PacsDownError:
            raise
        except PacsError:
            return

        for instance in instances:
            if instance.uid not in self._known:
                try:
                    report = report_of(self.pacs.metadata(instance))
                except PacsDownError:
                    raise
                except PacsError:
                    continue
                if len(self._known) >= MAX_REPORTS:
                    self._known.clear()
                item = None
                if report is not None:
                    item = WorklistItem("study", series.study, report.prompt, report.images)
                self._known[instance.uid] = item

            if (found := self._known[instance.uid]) is not None:
                yield found


class WorklistRows:
    """The rows of a worklist, read again each round; if that fails, the rows of the last round are used.

    Args:
        path: the worklist (CSV).
        complain: called once with each distinct warning.
    """

    def __init__(self, path: Path, complain: Callable[[str], None]) -> None:
        self.path, self.complain = path, complain
        self.rows: tuple[WorklistItem, ...] | None = None
        self.reported: set[str] = set()

    def __call__(self) -> tuple[WorklistItem, ...]:
        """Read the usable rows."""
        try:
            found = read_worklist(self.path)
        except DataError as error:
            if self.rows is None:
                raise
            self._complain(f"warning: {error}")
            return self.rows
        for number, problem in found.problems:
            self._complain(f"warning: {self.path} row {number}: {problem}")
        self.rows = found.items
        return found.items

    def _complain(self, text: str) -> None:
        if text not in self.reported:
            self.reported.add(text)
            self.complain(text)
