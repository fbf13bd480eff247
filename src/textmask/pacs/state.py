"""State of the watcher in an SQLite file, which survives a crash at any point and is used by one watcher at a time."""

from __future__ import annotations

import fcntl
import hashlib
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import IO

from textmask.errors import DataError

VERSION = 2
STATUSES = ("started", "waiting", "stored", "failed", "skipped", "dropped")
MAX_KEPT_BYTES = 1 << 30  # of all results that wait for the server; beyond that they are made again
TABLES = f"""
CREATE TABLE IF NOT EXISTS job (
    subject TEXT NOT NULL,
    asked_sha256 TEXT NOT NULL,
    model_sha256 TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN {STATUSES}),
    attempts INTEGER NOT NULL,
    images INTEGER NOT NULL,
    faults INTEGER NOT NULL DEFAULT 0,
    since REAL NOT NULL DEFAULT 0,
    next_try REAL NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT '',
    trace TEXT NOT NULL DEFAULT '',
    prompt TEXT NOT NULL DEFAULT '',
    seg TEXT NOT NULL DEFAULT '',
    changed TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (subject, asked_sha256, model_sha256)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS answer (
    subject TEXT NOT NULL,
    asked_sha256 TEXT NOT NULL,
    model_sha256 TEXT NOT NULL,
    images INTEGER NOT NULL,
    file BLOB NOT NULL
);
"""
# version 1 failed tasks after five rounds in which the server did not take or give an image
FROM_VERSION_1 = f"""
BEGIN IMMEDIATE;
ALTER TABLE job RENAME TO job_1;
{TABLES}
INSERT INTO job (subject, asked_sha256, model_sha256, status, attempts, images, reason, seg, changed)
    SELECT subject, asked_sha256, model_sha256,
        CASE WHEN status = 'failed' AND reason LIKE 'Pacs%' THEN 'waiting' ELSE status END,
        CASE WHEN status = 'failed' THEN 0 ELSE attempts END, images, reason, seg, changed
    FROM job_1;
DROP TABLE job_1;
PRAGMA user_version = {VERSION};
COMMIT;
"""
THIS_TASK = "WHERE subject = ? AND asked_sha256 = ? AND model_sha256 = ?"
ENTRY = (
    "subject, asked_sha256, model_sha256, status, attempts, images, faults, since, next_try, reason, trace, prompt, "
    "changed"
)


def short_hash(text: str) -> str:
    """Name of an image, a prompt or a task in logs: the first twelve letters of its SHA-256."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:12]


@dataclass(frozen=True)
class TaskKey:
    """What identifies a task: the UID of the image or series, the hash of the request, and the model."""

    subject: str
    asked_sha256: str
    model_sha256: str

    @property
    def parts(self) -> tuple[str, str, str]:
        """The values in the order of the columns."""
        return astuple(self)

    @property
    def id(self) -> str:
        """The name of the task on the command line: twelve letters of a hash."""
        return short_hash("\0".join(self.parts))


@dataclass(frozen=True)
class TaskEntry:
    """The state of a task.

    Attributes:
        key: identifies it.
        status: `started`; `waiting` for another try; `stored`; `failed`; `skipped`, an image that the model does not
            know; `dropped` by the operator.
        attempts: starts that did not end, because the process ended.
        images: number of images.
        faults: passing faults so far.
        since: time of the first fault, in seconds since 1970; 0 without a fault.
        next_try: time of the next try; 0 is at once.
        reason: of the last fault or failure.
        trace: places in the code of an unexpected failure, without values.
        prompt: hash of the prompt as in the log.
        changed: time of the last change, UTC.
    """

    key: TaskKey
    status: str
    attempts: int
    images: int
    faults: int = 0
    since: float = 0.0
    next_try: float = 0.0
    reason: str = ""
    trace: str = ""
    prompt: str = ""
    changed: str = ""


class State:
    """The state file of a watcher. Only its owner may read it.

    It contains UIDs. Results that the server did not take contain the patient and the prompt; they are erased when the
    server has them.

    Args:
        path: the file.
        shared: open the existing file of a watcher, which may be running, to list or to change tasks.

    Raises:
        DataError: the file is missing or damaged, has another version, cannot be written, or has another watcher.
    """

    def __init__(self, path: Path, shared: bool = False) -> None:
        self.path = path
        if shared and not path.is_file():
            raise DataError(f"{path}: does not exist; expected the --state of a watcher.")
        self._lock = None if shared else self._only_one()
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute("PRAGMA secure_delete = ON")
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version not in (0, 1, VERSION):
                raise DataError(
                    f"{path}: is a state file of version {version}, expected {VERSION}. Give another --state."
                )
            self._db.executescript(FROM_VERSION_1 if version == 1 else TABLES)
            self._db.execute(f"PRAGMA user_version = {VERSION}")
        except sqlite3.Error as error:
            self._unlock()
            raise DataError(
                f"{path}: is not a state file of the watcher, or it is damaged ({error}). Move it away: results that "
                "are in the PACS are recognized there and not stored again."
            ) from error
        except DataError:
            self._unlock()
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

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()

    def close(self) -> None:
        """Close the file and release its lock."""
        self._db.close()
        self._unlock()

    def get(self, key: TaskKey) -> TaskEntry | None:
        """The state of a task; None if it is unknown."""
        row = self._run(f"SELECT {ENTRY} FROM job {THIS_TASK}", *key.parts).fetchone()
        return None if row is None else TaskEntry(TaskKey(*row[:3]), *row[3:])

    def entries(self, statuses: Sequence[str] = STATUSES) -> list[TaskEntry]:
        """All tasks with one of these statuses, the last changed first."""
        marks = ", ".join("?" * len(statuses))
        rows = self._run(
            f"SELECT {ENTRY} FROM job WHERE status IN ({marks}) ORDER BY changed DESC, subject",
            *statuses,
        ).fetchall()
        return [TaskEntry(TaskKey(*row[:3]), *row[3:]) for row in rows]

    def start(self, key: TaskKey, images: int, prompt: str = "") -> int:
        """Record that a task begins, before anything is done; returns the number of this attempt."""
        self._run(
            "INSERT INTO job (subject, asked_sha256, model_sha256, status, attempts, images, prompt) "
            "VALUES (?, ?, ?, 'started', 1, ?, ?) ON CONFLICT DO UPDATE SET status = 'started', "
            "attempts = attempts + 1, images = excluded.images, prompt = excluded.prompt, changed = CURRENT_TIMESTAMP",
            *key.parts,
            images,
            prompt,
        )
        entry = self.get(key)
        return 0 if entry is None else entry.attempts

    def release(self, key: TaskKey) -> None:
        """Do not count the last attempt, because it did not fail by its own fault."""
        self._run(f"UPDATE job SET attempts = max(attempts - 1, 0) {THIS_TASK}", *key.parts)

    def postpone(self, key: TaskKey, reason: str, since: float, next_try: float) -> None:
        """Record a passing fault; the attempt is not counted."""
        self.release(key)
        self._run(
            "UPDATE job SET status = 'waiting', faults = faults + 1, reason = ?, since = ?, next_try = ?, "
            f"changed = CURRENT_TIMESTAMP {THIS_TASK}",
            reason[:500],
            since,
            next_try,
            *key.parts,
        )

    def finish(
        self, key: TaskKey, status: str, reason: str = "", seg: str = "", trace: str = ""
    ) -> None:
        """Record how a task ended. The results of a failed task are kept for another try."""
        self._run(
            f"UPDATE job SET status = ?, reason = ?, seg = ?, trace = ?, changed = CURRENT_TIMESTAMP {THIS_TASK}",
            status,
            reason[:500],
            seg,
            trace,
            *key.parts,
        )
        if status != "failed":
            self.forget(key)

    def retry(self, key: TaskKey) -> None:
        """Let the watcher do a task in its next round, as if it had not been tried."""
        self._run(
            "UPDATE job SET status = 'waiting', attempts = 0, faults = 0, since = 0, next_try = 0, "
            f"changed = CURRENT_TIMESTAMP {THIS_TASK}",
            *key.parts,
        )

    def keep(self, key: TaskKey, images: int, files: Sequence[bytes]) -> bool:
        """Keep the results of a task that the server did not take; False if there is no more room."""
        self.forget(key)
        (used,) = self._run("SELECT coalesce(sum(length(file)), 0) FROM answer").fetchone()
        if used + sum(len(file) for file in files) > MAX_KEPT_BYTES:
            return False
        for file in files:
            self._run("INSERT INTO answer VALUES (?, ?, ?, ?, ?)", *key.parts, images, file)
        return True

    def kept(self, key: TaskKey, images: int) -> list[bytes]:
        """The results of a task about that number of images that the server did not take; often none."""
        rows = self._run(
            f"SELECT file FROM answer {THIS_TASK} AND images = ? ORDER BY rowid",
            *key.parts,
            images,
        ).fetchall()
        return [file for (file,) in rows]

    def forget(self, key: TaskKey) -> None:
        """Erase the kept results of a task."""
        self._run(f"DELETE FROM answer {THIS_TASK}", *key.parts)

    def counts(self) -> Counter[str]:
        """Number of tasks by status."""
        rows = self._run("SELECT status, count(*) FROM job GROUP BY status").fetchall()
        return Counter(dict(rows))

    def waiting_since(self) -> float | None:
        """Time of the first fault of the task that has waited longest; None if no task waits."""
        (oldest,) = self._run(
            "SELECT min(since) FROM job WHERE status = 'waiting' AND since > 0"
        ).fetchone()
        return None if oldest is None else float(oldest)

    def _run(self, statement: str, *values: object) -> sqlite3.Cursor:
        try:
            return self._db.execute(statement, values)
        except sqlite3.Error as error:
            raise DataError(
                f"{self.path}: cannot be used ({error}). Free some space, or give another --state."
            ) from error


@contextmanager
def open_state(path: Path, shared: bool = False) -> Iterator[State]:
    """Open a state file, and close it at the end of the block.

    Raises:
        DataError: as `State`.
    """
    state = State(path, shared)
    try:
        yield state
    finally:
        state.close()
