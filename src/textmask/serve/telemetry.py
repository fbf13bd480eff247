"""Metrics for Prometheus. Prompts, file names and ids are never labels."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
TEXT = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Metrics of one service, in a separate registry."""

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
            "Seconds per request.",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._model_seconds = Histogram(
            "textmask_model_seconds",
            "Seconds of the model per prompt.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self._warnings = Counter(
            "textmask_warnings", "Warnings by code.", ["code"], registry=self.registry
        )
        self._abstained = Counter(
            "textmask_abstained", "Prompts for which the model abstained.", registry=self.registry
        )
        self._rows = Counter(
            "textmask_job_rows", "Images of jobs by status.", ["status"], registry=self.registry
        )

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Add a gauge whose value is read when metrics are requested."""
        Gauge(f"textmask_{name}", text, registry=self.registry).set_function(read)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        self._requests.labels(method, route, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def prompt(self, seconds: float, warnings: tuple[str, ...], abstained: bool) -> None:
        """Count one segmented prompt."""
        self._model_seconds.observe(seconds)
        for code in warnings:
            self._warnings.labels(code).inc()
        if abstained:
            self._abstained.inc()

    def row(self, status: str) -> None:
        """Count one image of a job: `done` or `failed`."""
        self._rows.labels(status).inc()

    def text(self) -> bytes:
        """All metrics in the text format."""
        return generate_latest(self.registry)
