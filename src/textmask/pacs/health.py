"""Health of the watcher for a monitoring system: an HTTP endpoint on the loopback interface."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from textmask.errors import ConfigError
from textmask.pacs.faults import OVERDUE_S

DOWN_S = 300.0  # without an answer of the server
SILENT_S = 1800.0  # without a sign of the watcher itself
HOST, PATH = "127.0.0.1", "/health"


@dataclass
class Health:
    """How a watcher is doing; it is written by the watcher and read by the endpoint.

    Attributes:
        clock: seconds since 1970.
        alive_at: time of the last task or round that ended.
        down_since: time of the first of the last requests that the server did not answer; None if it answers.
        waiting_since: time of the first fault of the task that has waited longest; None if none waits.
        tasks: number of tasks by status.
    """

    clock: Callable[[], float] = time.time
    alive_at: float = 0.0
    down_since: float | None = None
    waiting_since: float | None = None
    tasks: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.alive_at = self.clock()

    def answered(self) -> None:
        """The server answered, and the watcher went on."""
        self.alive_at, self.down_since = self.clock(), None

    def unanswered(self) -> float:
        """The server did not answer; returns for how many seconds it has not."""
        now = self.clock()
        self.alive_at = now
        if self.down_since is None:
            self.down_since = now
        return now - self.down_since

    def as_json(self) -> dict[str, Any]:
        """The state in words and numbers, without UIDs, names or prompts.

        Returns:
            `status` is `down` if the server or the watcher has not answered for some time, `degraded` if tasks failed
            or wait for more than an hour, otherwise `ok`.
        """
        now = self.clock()
        down = 0.0 if self.down_since is None else now - self.down_since
        silent = now - self.alive_at
        waiting = 0.0 if self.waiting_since is None else now - self.waiting_since
        status = "ok"
        if self.tasks.get("failed") or waiting > OVERDUE_S:
            status = "degraded"
        if down > DOWN_S or silent > SILENT_S:
            status = "down"
        return {
            "status": status,
            "pacs_down_s": round(down),
            "silent_s": round(silent),
            "longest_wait_s": round(waiting),
            "tasks": dict(self.tasks),
        }


@contextmanager
def serve_health(health: Health, port: int | None) -> Iterator[int | None]:
    """Serve `GET /health` on the loopback interface during the block: 200, or 503 if the status is `down`.

    Args:
        health: what is served.
        port: 0 picks a free one; None serves nothing.

    Returns:
        The port.

    Raises:
        ConfigError: the port cannot be used.
    """
    if port is None:
        yield None
        return

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = health.as_json()
            known = self.path == PATH
            body = json.dumps(found if known else {"error": f"expected {PATH}"}).encode() + b"\n"
            status = 404 if not known else 503 if found["status"] == "down" else 200
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Requests of a monitor are not events of the watcher."""

    try:
        server = ThreadingHTTPServer((HOST, port), Handler)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"--health-port {port} cannot be used ({error}). Give another port, or 0 for a free one."
        ) from error
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="health", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
