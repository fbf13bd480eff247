"""Counters for Prometheus. No sentence, file name or id is ever a label."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
TEXT = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """What one service counts, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "textmask_requests",
            "Requests by route and status.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self._request_seconds = Histogram(
            "textmask_request_seconds",
            "Whole requests.",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._model_seconds = Histogram(
            "textmask_model_seconds", "The model alone.", buckets=SECONDS, registry=self.registry
        )
        self._warnings = Counter(
            "textmask_warnings", "Warnings of answers.", ["code"], registry=self.registry
        )
        self._abstained = Counter(
            "textmask_abstained", "Sentences that got no answer.", registry=self.registry
        )
        self._rows = Counter(
            "textmask_job_rows", "Pictures of jobs.", ["status"], registry=self.registry
        )

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Show a number that is read when asked for."""
        Gauge(f"textmask_{name}", text, registry=self.registry).set_function(read)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        self._requests.labels(method, route, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def answer(self, seconds: float, warnings: tuple[str, ...], abstained: bool) -> None:
        """Count one answered sentence."""
        self._model_seconds.observe(seconds)
        for code in warnings:
            self._warnings.labels(code).inc()
        if abstained:
            self._abstained.inc()

    def row(self, status: str) -> None:
        """Count one picture of a job: done or failed."""
        self._rows.labels(status).inc()

    def text(self) -> bytes:
        """All of it in the text format."""
        return generate_latest(self.registry)
