"""What is counted and timed while serving, as Prometheus reads it."""

from collections.abc import Iterable
from datetime import timedelta

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import generate_latest

from {{cookiecutter.__package_name}}.production.service.online import Online
from {{cookiecutter.__package_name}}.production.service.requestlog import RequestLog

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Measures:
    """The figures of one service.

    Args:
        online: What serves.
        log: Where answers are kept, if they are.
    """

    def __init__(self, online: Online, log: RequestLog | None) -> None:
        self._online, self._log = online, log
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._seconds = Histogram(
            "http_request_duration_seconds", "From request to answer", ["path"], buckets=SECONDS, registry=registry
        )
        self._requests = Counter("http_requests", "Requests", ["path", "status"], registry=registry)
        self._rows = Counter("rows", "Rows asked for", registry=registry)
        self._breaches = Counter("breaches", "Requests refused, by reason", ["reason"], registry=registry)
        self._version = Gauge("model_version", "The version that serves; 0 is none", registry=registry)
        self._age = Gauge("model_age_seconds", "Since its newest label", registry=registry)
        self._history = Gauge("history_age_seconds", "Since the newest row known", ["table"], registry=registry)
        self._failing = Gauge("refresh_failing", "1 where what serves is not the newest", registry=registry)
        self._failures = Gauge("refresh_failures", "How often that came up", registry=registry)
        self._waiting = Gauge("log_waiting_rows", "Rows to be kept", registry=registry)
        self._lost = Gauge("log_lost_rows", "Rows that could not be kept", registry=registry)
        self.requests = 0

    def seen(self, path: str, status: int, seconds: float, rows: int) -> None:
        """Count a request."""
        self.requests += 1
        self._requests.labels(path, status).inc()
        self._seconds.labels(path).observe(seconds)
        self._rows.inc(rows)

    def breached(self, reasons: Iterable[str]) -> None:
        """Count what was wrong with a request."""
        for reason in set(reasons):
            self._breaches.labels(reason).inc()

    def text(self) -> bytes:
        """All figures."""
        now = self._online.now()
        self._failing.set(self._online.trouble is not None)
        self._failures.set(self._online.failures)
        if self._log:
            self._waiting.set(self._log.rows)
            self._lost.set(self._log.lost)
        if prepared := self._online.prepared:
            self._version.set(prepared.release.version)
            self._age.set((now - prepared.release.trained_until) / timedelta(seconds=1))
            for table, age in prepared.ages(now).items():
                self._history.labels(table).set(float("nan") if age is None else age)
        return generate_latest(self._registry)
