"""Read prompts and the studies they belong to, from a worklist or from the reports in the PACS."""

from __future__ import annotations

import os
import time
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from textmask.errors import DataError, PacsDownError, PacsError
from textmask.io.dicom.facts import is_uid, one_line
from textmask.io.spreadsheets import column_of, read_csv
from textmask.pacs.client import Pacs, Series
from textmask.pacs.reports import Report, report_of
from textmask.text.findings import read_findings

MAX_WORKLIST_BYTES = 10_000_000
MAX_ROWS = 10_000
MAX_PROMPT = 2000  # characters
MAX_ACCESSION = 16  # characters of a DICOM short string
MAX_REPORTS = 50_000  # kept in memory
SETTLE_S = 2.0  # without a change, until a worklist is read
LOOKS_FIRST = (
    15  # at a worklist that is being written when the watcher starts: half a minute to a minute
)
SHRUNK_S = 600.0  # without a change, until fewer rows than before are believed
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
        self._known: dict[str, tuple[WorklistItem, ...]] = {}

    def items(self, since: str | None = None) -> Iterator[WorklistItem]:
        """The findings of all reports, one prompt each. A report that cannot be read is tried again next time.

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
        except PacsError as error:
            self._check_down(error)
            return

        for instance in instances:
            if instance.uid not in self._known:
                try:
                    report = report_of(self.pacs.metadata(instance))
                except PacsError as error:
                    self._check_down(error)
                    continue
                if len(self._known) >= MAX_REPORTS:
                    self._known.clear()
                self._known[instance.uid] = () if report is None else _asked(series, report)
            yield from self._known[instance.uid]

    def _check_down(self, error: PacsError) -> None:
        """Raise if the server does not answer at all; a report that cannot be read does not stop the others."""
        if isinstance(error, PacsDownError) and not self.pacs.responds():
            raise error


def _asked(series: Series, report: Report) -> tuple[WorklistItem, ...]:
    """One prompt for each finding that a report names with its place, as `textmask predict --report` reads it."""
    named = read_findings(report.prompt).named
    return tuple(WorklistItem("study", series.study, text, report.images) for text in named)


@dataclass(frozen=True)
class FileStamp:
    """Size in bytes and time of the last change in ns; a file that differs in one of them has been written."""

    size: int
    changed_ns: int

    @classmethod
    def of(cls, path: Path) -> FileStamp | None:
        """The stamp of a file; None if it cannot be read."""
        try:
            found = path.stat()
        except OSError:
            return None
        return cls(found.st_size, found.st_mtime_ns)


class WorklistRows:
    """The rows of a worklist, read again each round once the file has settled; until then those of the last round.

    A file that is being written is not believed, because half a prompt may say the opposite of the whole one. It has
    settled if its size and time do not change for `SETTLE_S`, its last line has a line end, and its rows are not fewer
    than before. Fewer rows are used after `SHRUNK_S` without a change.

    Args:
        path: the worklist (CSV).
        complain: called once with each distinct warning.
        wait: sleeps this number of seconds.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        path: Path,
        complain: Callable[[str], None],
        wait: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path, self.complain, self.wait, self.clock = path, complain, wait, clock
        self.rows: tuple[WorklistItem, ...] | None = None
        self.read: FileStamp | None = None  # of the file with these rows
        self.lines = 0
        self.reported: set[str] = set()

    def __call__(self) -> tuple[WorklistItem, ...]:
        """The usable rows.

        Raises:
            DataError: the first time, the file cannot be read, or it is still being written after a minute.
        """
        try:
            self._read()
        except DataError as error:
            if self.rows is None:
                raise
            self._complain(f"warning: {error} The rows of the last round are used.")
        return self.rows or ()

    def _read(self) -> None:
        stamp = self._settled()
        if stamp is not None and stamp == self.read:
            return
        found = read_worklist(self.path)
        if stamp != FileStamp.of(self.path):
            raise DataError(f"{self.path}: was written while it was read.")

        # a file that is written anew grows from nothing
        lines = len(found.items) + len(found.problems)
        age_s = self.clock() - (0 if stamp is None else stamp.changed_ns / 1e9)
        if lines < self.lines and age_s < SHRUNK_S:
            raise DataError(
                f"{self.path}: has {lines} rows, and had {self.lines}. If that is meant, they are used when the file "
                f"has not changed for {SHRUNK_S / 60:.0f} minutes."
            )
        for number, problem in found.problems:
            self._complain(f"warning: {self.path} row {number}: {problem}")
        self.rows, self.read, self.lines = found.items, stamp, lines

    def _settled(self) -> FileStamp | None:
        """The stamp of the file when it is no longer written; None if it does not exist.

        Raises:
            DataError: it is still being written after some looks, or after one if there are rows of a last round.
        """
        for look in range(1 if self.rows is not None else LOOKS_FIRST):
            if look:
                self.wait(SETTLE_S)
            stamp = FileStamp.of(self.path)
            if stamp is None or stamp == self.read:
                return stamp

            age_s = self.clock() - stamp.changed_ns / 1e9
            if age_s < SETTLE_S:
                self.wait(SETTLE_S)
            if FileStamp.of(self.path) == stamp and _last_line_ends(self.path):
                return stamp
            if age_s > SETTLE_S * LOOKS_FIRST:  # nobody writes it
                break
        raise DataError(
            f"{self.path}: is being written, or its last line has no line end; half a prompt may say the opposite. "
            "Write another file and rename it, or end the last line."
        )

    def _complain(self, text: str) -> None:
        if text not in self.reported:
            self.reported.add(text)
            self.complain(text)


def _last_line_ends(path: Path) -> bool:
    """Whether the last byte of a file is a line end; an empty file has none."""
    try:
        with path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) in (b"\n", b"\r")
    except OSError:
        return False
