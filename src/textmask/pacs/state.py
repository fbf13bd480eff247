"""What the watcher has done, in an SQLite file: it survives a crash at any point, and one watcher uses it at a time."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from textmask.errors import DataError

VERSION = 1
TABLE = """
CREATE TABLE IF NOT EXISTS job (
    subject TEXT NOT NULL,
    asked_sha256 TEXT NOT NULL,
    model_sha256 TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('started', 'stored', 'failed')),
    attempts INTEGER NOT NULL,
    images INTEGER NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    seg TEXT NOT NULL DEFAULT '',
    changed TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (subject, asked_sha256, model_sha256)
) WITHOUT ROWID
"""


@dataclass(frozen=True)
class TaskKey:
    """What makes a job that one: the UID of the film or series, what was asked, and the model."""

    subject: str
    asked_sha256: str
    model_sha256: str

    @property
    def parts(self) -> tuple[str, str, str]:
        """In the order of the table."""
        return self.subject, self.asked_sha256, self.model_sha256


@dataclass(frozen=True)
class TaskEntry:
    """What is known of a job: `started`, `stored` or `failed`."""

    status: str
    attempts: int
    images: int
    reason: str


class State:
    """The file of a watcher. Only its owner may read it: it holds UIDs, though no names and no sentences.

    Raises:
        DataError: it is damaged, of another version, cannot be written, or another watcher uses it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = self._only_one()
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version not in (0, VERSION):
                raise DataError(
                    f"{path}: is a state of version {version}, expected {VERSION}. Name another --state."
                )
            self._db.execute(TABLE)
            self._db.execute(f"PRAGMA user_version = {VERSION}")
        except sqlite3.Error as error:
            self._lock.close()
            raise DataError(
                f"{path}: is no state of the watcher, or damaged ({error}). Move it away: results that are in the PACS "
                "are recognised there and not stored again."
            ) from error
        except DataError:
            self._lock.close()
            raise

    def _only_one(self) -> IO[bytes]:
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            lock = self.path.with_name(f"{self.path.name}.lock").open("wb")
        except OSError as error:
            raise DataError(
                f"{self.path}: cannot be written ({error.strerror}). Name another --state."
            ) from error
        try:
            fcntl.flock(
                lock, fcntl.LOCK_EX | fcntl.LOCK_NB
            )  # gone with the process, however it ends
        except OSError as error:
            lock.close()
            raise DataError(
                f"{self.path}: another watcher uses it. Stop that one, or name another --state."
            ) from error
        return lock

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()
        self._lock.close()

    def get(self, key: TaskKey) -> TaskEntry | None:
        """What is known of a job."""
        row = self._run(
            "SELECT status, attempts, images, reason FROM job "
            "WHERE subject = ? AND asked_sha256 = ? AND model_sha256 = ?",
            *key.parts,
        ).fetchone()
        return None if row is None else TaskEntry(*row)

    def start(self, key: TaskKey, images: int) -> int:
        """Note that a job begins, before anything of it is done; the number of this attempt."""
        self._run(
            "INSERT INTO job (subject, asked_sha256, model_sha256, status, attempts, images) "
            "VALUES (?, ?, ?, 'started', 1, ?) ON CONFLICT DO UPDATE SET status = 'started', attempts = attempts + 1, "
            "images = excluded.images, changed = CURRENT_TIMESTAMP",
            *key.parts,
            images,
        )
        entry = self.get(key)
        return 0 if entry is None else entry.attempts

    def release(self, key: TaskKey) -> None:
        """Take the last attempt back: it was not the job's fault."""
        self._run(
            "UPDATE job SET attempts = max(attempts - 1, 0) "
            "WHERE subject = ? AND asked_sha256 = ? AND model_sha256 = ?",
            *key.parts,
        )

    def finish(self, key: TaskKey, status: str, reason: str = "", seg: str = "") -> None:
        """Note how a job ended."""
        self._run(
            "UPDATE job SET status = ?, reason = ?, seg = ?, changed = CURRENT_TIMESTAMP "
            "WHERE subject = ? AND asked_sha256 = ? AND model_sha256 = ?",
            status,
            reason[:500],
            seg,
            *key.parts,
        )

    def counts(self) -> Counter[str]:
        """Jobs by status."""
        return Counter(
            dict(self._run("SELECT status, count(*) FROM job GROUP BY status").fetchall())
        )

    def _run(self, statement: str, *values: object) -> sqlite3.Cursor:
        try:
            return self._db.execute(statement, values)
        except sqlite3.Error as error:
            raise DataError(
                f"{self.path}: cannot be used ({error}). Free some space, or name another --state."
            ) from error


@contextmanager
def open_state(path: Path) -> Iterator[State]:
    """The state, closed at the end.

    Raises:
        DataError: as `State`.
    """
    state = State(path)
    try:
        yield state
    finally:
        state.close()
