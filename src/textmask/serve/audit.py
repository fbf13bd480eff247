"""Audit log (JSON Lines): client, model, request, timestamp."""

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
    """Appends records to a file that only its owner may read. Without a file it does nothing.

    A prompt is recorded as its SHA-256 unless `sentences` is set. Everything outside printable ASCII is escaped, so
    clients cannot forge a record.

    Args:
        path: the log; None disables it.
        sentences: also record the text of prompts.

    Raises:
        ConfigError: the file cannot be opened.
    """

    def __init__(self, path: Path | None, sentences: bool = False) -> None:
        self._sentences, self._lock, self._path = sentences, threading.Lock(), path
        self._file: int | None = None
        if path is not None:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            try:
                self._file = os.open(path, flags, 0o600)
            except OSError as error:
                raise ConfigError(
                    f"the audit log {path} cannot be opened ({error.strerror})."
                ) from error

    def write(self, action: str, who: str, *, sentence: str | None = None, **fields: Any) -> None:
        """Append one record.

        Args:
            action: what was requested.
            who: address of the client.
            sentence: the prompt, if the action has one.
            fields: further values of the record.

        Raises:
            Problem: 503 if the record cannot be written; an action without a record is not done.
        """
        if self._file is None:
            return

        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        record: dict[str, Any] = {"time": time, "who": who[:100], "action": action, **fields}
        if sentence is not None:
            text = sentence.encode("utf-8", "surrogatepass")
            record["sentence_sha256"] = hashlib.sha256(text).hexdigest()
            if self._sentences:
                record["sentence"] = sentence

        line = json.dumps(record, ensure_ascii=True, allow_nan=False, default=str) + "\n"
        try:
            with self._lock:
                os.write(self._file, line.encode("ascii"))
        except OSError as error:
            raise Problem(
                503, "audit", "the audit log cannot be written, so requests are refused."
            ) from error

    def close(self) -> None:
        """Close the file. Later records are refused."""
        if self._file is not None:
            os.close(self._file)
            self._file = -1
