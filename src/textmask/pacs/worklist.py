"""Which sentence belongs to which study: from a table, or from the reports in the PACS."""

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
MAX_SENTENCE = 2000  # characters
MAX_ACCESSION = 16  # of a DICOM short string
MAX_REPORTS = 50_000  # remembered
KEYS = {"studyinstanceuid": "study", "accessionnumber": "accession", "sopinstanceuid": "instance"}


@dataclass(frozen=True)
class WorklistItem:
    """A sentence about a study, an accession number or an instance.

    Attributes:
        kind: `study`, `accession` or `instance`.
        value: its UID or number.
        sentence: what to segment.
        images: only these instances; all where empty.
    """

    kind: str
    value: str
    sentence: str
    images: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Worklist:
    """The rows that can be asked, and what is wrong with the others (row number, reason)."""

    asks: tuple[WorklistItem, ...]
    problems: tuple[tuple[int, str], ...]


def read_worklist(path: Path) -> Worklist:
    """Rows of a CSV with a column `text` and one of StudyInstanceUID, AccessionNumber and SOPInstanceUID.

    A row that cannot be used does not stop the others; one that is there twice is asked once.

    Raises:
        DataError: no such table, other columns, or more than it may hold.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); expected a worklist (CSV)."
        ) from error
    if size > MAX_WORKLIST_BYTES:
        raise DataError(f"{path}: has {size:,} bytes, a worklist at most {MAX_WORKLIST_BYTES:,}.")
    header, records = read_csv(path)
    keys = {
        kind: column
        for name, kind in KEYS.items()
        if (column := column_of(header, [name])) is not None
    }
    text = column_of(header, ["text"])
    if text is None or len(keys) != 1:
        raise DataError(
            f"{path}: expected the column text and exactly one of StudyInstanceUID, AccessionNumber and SOPInstanceUID."
        )
    if len(records) > MAX_ROWS:
        raise DataError(
            f"{path}: has {len(records):,} rows, a worklist at most {MAX_ROWS:,}. Split it."
        )
    ((kind, column),) = keys.items()
    asks: dict[WorklistItem, None] = {}
    problems = []
    for number, cells in records:
        row = dict(zip(header, cells, strict=False))
        ask = WorklistItem(kind, row.get(column, "").strip(), one_line(row.get(text, "")))
        if len(cells) > len(header):
            problems.append((number, "has more cells than the header; quote commas"))
        elif reason := _problem(ask):
            problems.append((number, reason))
        else:
            asks[ask] = None
    return Worklist(tuple(asks), tuple(problems))


def _problem(ask: WorklistItem) -> str:
    """What is wrong with it, without quoting it; "" where nothing is."""
    if ask.kind == "accession":
        value = ask.value
        if not value or len(value) > MAX_ACCESSION:
            return f"the AccessionNumber has {len(value)} characters, expected 1 to {MAX_ACCESSION}"
        if set(value) & set("*?\\") or any(unicodedata.category(c).startswith("C") for c in value):
            return "the AccessionNumber holds a wildcard, a backslash or a control character"
    elif not is_uid(ask.value):
        return "the UID is not well-formed"
    return sentence_problem(ask.sentence)


def sentence_problem(sentence: str) -> str:
    """Why a sentence is not asked, "" where it is."""
    if not sentence:
        return "the text is empty"
    if len(sentence) > MAX_SENTENCE:
        return f"the text has {len(sentence):,} characters, at most {MAX_SENTENCE:,} are asked"
    return ""


class ReportReader:
    """The findings of the structured reports in a PACS; each is read once."""

    def __init__(self, pacs: Pacs) -> None:
        self.pacs = pacs
        self._known: dict[str, WorklistItem | None] = {}

    def asks(self, since: str | None = None) -> Iterator[WorklistItem]:
        """The sentences of all reports of studies since a date (YYYYMMDD).

        A report that cannot be read is left for the next time.

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
                ask = (
                    None
                    if report is None
                    else WorklistItem("study", series.study, report.sentence, report.images)
                )
                self._known[instance.uid] = ask
            if (found := self._known[instance.uid]) is not None:
                yield found


class WorklistRows:
    """The rows of a worklist, read again each round. While the file cannot be read, the rows of the last round stay.

    Args:
        path: the worklist (CSV).
        complain: called once with each distinct warning.
    """

    def __init__(self, path: Path, complain: Callable[[str], None]) -> None:
        self.path, self.complain = path, complain
        self.rows: tuple[WorklistItem, ...] | None = None
        self.reported: set[str] = set()

    def __call__(self) -> tuple[WorklistItem, ...]:
        """The rows that can be asked."""
        try:
            found = read_worklist(self.path)
        except DataError as error:
            if self.rows is None:
                raise
            self._complain(f"warning: {error}")
            return self.rows
        for number, problem in found.problems:
            self._complain(f"warning: {self.path} row {number}: {problem}")
        self.rows = found.asks
        return found.asks

    def _complain(self, text: str) -> None:
        if text not in self.reported:
            self.reported.add(text)
            self.complain(text)
