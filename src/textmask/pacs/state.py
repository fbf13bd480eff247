"""State of the watcher in an SQLite file, which survives a crash at any point and is used by one watcher at a time."""

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
    """What identifies a task: the UID of the image or series, the hash of the request, and the model."""

    subject: str
    asked_sha256: str
    model_sha256: str

    @property
    def parts(self) -> tuple[str, str, str]:
        """The values in the order of the columns."""
        return self.subject, self.asked_sha256, self.model_sha256


@dataclass(frozen=True)
class TaskEntry:
    """The state of a task; `status` is `started`, `stored` or `failed`."""

    status: str
    attempts: int
    images: int
    reason: str


class State:
    """The state file of a watcher. Only its owner may read it: it contains UIDs, but no names and no prompts.

    Raises:
        DataError: the file is damaged, has another version, cannot be written, or is used by another watcher.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = self._only_one()
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version not in (0, VERSION):
                raise DataError(
                    f"{path}: is a state file of version {version}, expected {VERSION}. Give another --state."
                )
            self._db.execute(TABLE)
            self._db.execute(f"PRAGMA user_version = {VERSION}")
        except sqlite3.Error as error:
            self._lock.close()
            raise DataError(
                f"{path}: is not a state file of the watcher, or it is damaged ({error}). Move it away: results that "
                "are in the PACS are recognized there and not stored again."
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
                f"{self.path}: cannot be written ({error.strerror}). Give another --state."
            ) from error

        # the system releases the lock when the process ends, however it ends
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise DataError(
                f"{self.path}: is used by another watcher. Stop it, or give another --state."
            ) from error
        return lock

    def close(self) -> None:
        """Close the file and release its lock."""
        self._db.close()
        self._lock.close()

    def get(self, key: TaskKey) -> TaskEntry | None:
        """The state of a task; None if it is unknown."""
        row = self._run(
            "SELECT status, attempts, images, reason FROM job "
            "WHERE subject = ? AND asked_sha256 = ? AND model_sha256 = ?",
            *key.parts,
        ).fetchone()
        return None if row is None else TaskEntry(*row)

    def start(self, key: TaskKey, images: int) -> int:
        """Record that a task begins, before anything is done; returns the number of this attempt."""
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
        """Do not count the last attempt, because it did not fail by its own fault."""
        self._run(
            "UPDATE job SET attempts = max(attempts - 1, 0) "
            "WHERE subject = ? AND asked_sha256 = ? AND model_sha256 = ?",
            *key.parts,
        )

    def finish(self, key: TaskKey, status: str, reason: str = "", seg: str = "") -> None:
        """Record how a task ended."""
        self._run(
            "UPDATE job SET status = ?, reason = ?, seg = ?, changed = CURRENT_TIMESTAMP "
            "WHERE subject = ? AND asked_sha256 = ? AND model_sha256 = ?",
            status,
            reason[:500],
            seg,
            *key.parts,
        )

    def counts(self) -> Counter[str]:
        """Number of tasks by status."""
        rows = self._run("SELECT status, count(*) FROM job GROUP BY status").fetchall()
        return Counter(dict(rows))

    def _run(self, statement: str, *values: object) -> sqlite3.Cursor:
        try:
            return self._db.execute(statement, values)
        except sqlite3.Error as error:
            raise DataError(
                f"{self.path}: cannot be used ({error}). Free some space, or give another --state."
            ) from error


@contextmanager
def open_state(path: Path) -> Iterator[State]:
    """Open a state file, and close it at the end of the block.

    Raises:
        DataError: as `State`.
    """
    state = State(path)
    try:
        yield state
    finally:
        state.close()
