"""Who asked what of which model, and when: one JSON object a line, appended."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from textmask.errors import ConfigError
from textmask.serve.problems import Problem


class Audit:
    """Appends lines to a file that only its owner may read; does nothing without one.

    A sentence is recorded as its SHA-256 unless `sentences` is set. Everything outside printable ASCII is escaped, so
    no client can begin a line of its own.

    Raises:
        ConfigError: the file cannot be opened.
    """

    def __init__(self, path: Path | None, sentences: bool = False) -> None:
        self._sentences, self._lock, self._path = sentences, threading.Lock(), path
        self._file: int | None = None
        if path is not None:
            try:
                self._file = os.open(
                    path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600
                )
            except OSError as error:
                raise ConfigError(
                    f"the audit log {path} cannot be opened ({error.strerror})."
                ) from error

    def write(self, action: str, who: str, *, sentence: str | None = None, **fields: Any) -> None:
        """Append one record.

        Raises:
            Problem: 503, it cannot be written; what is not on record is not done.
        """
        if self._file is None:
            return
        record: dict[str, Any] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "who": who[:100],
        }
        record |= {"action": action, **fields}
        if sentence is not None:
            record["sentence_sha256"] = hashlib.sha256(
                sentence.encode("utf-8", "surrogatepass")
            ).hexdigest()
            record |= {"sentence": sentence} if self._sentences else {}
        line = json.dumps(record, ensure_ascii=True, allow_nan=False, default=str) + "\n"
        try:
            with self._lock:
                os.write(self._file, line.encode("ascii"))
        except OSError as error:
            raise Problem(
                503, "audit", "the audit log cannot be written, so nothing is answered."
            ) from error

    def close(self) -> None:
        """Close the file; later records raise."""
        if self._file is not None:
            os.close(self._file)
            self._file = -1
