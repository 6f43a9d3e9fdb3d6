"""The metrics of the service in the Prometheus format."""

import logging
from collections.abc import Iterable
from datetime import timedelta
from time import perf_counter
from uuid import uuid4

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from {{cookiecutter.__package_name}}.production.service.request_log_writer import RequestLogWriter
from {{cookiecutter.__package_name}}.production.service.serving_model import ModelReloader

log = logging.getLogger(__name__)

PATHS = ("/predict", "/predict/features")
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """The metrics of one service.

    Args:
        reloader: The model reloader.
        log: The request log writer, if any.

    Attributes:
        requests: The number of requests for predictions.
    """

    def __init__(self, reloader: ModelReloader, log: RequestLogWriter | None) -> None:
        self._reloader, self._log, self.requests = reloader, log, 0
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._seconds = Histogram(
            "http_request_duration_seconds", "Seconds per request", ["path"], buckets=SECONDS, registry=registry
        )
        self._requests = Counter("http_requests", "Requests", ["path", "status"], registry=registry)
        self._rows = Counter("rows", "Rows in requests", registry=registry)
        self._rejected = Counter("rejected_requests", "Requests rejected, by reason", ["reason"], registry=registry)
        self._version = Gauge("model_version", "Version of the serving model; 0 is none", registry=registry)
        self._age = Gauge("model_age_seconds", "Seconds since its newest label", registry=registry)
        self._history = Gauge("history_age_seconds", "Seconds since the newest row", ["table"], registry=registry)
        self._failing = Gauge(
            "refresh_failing", "1 if the newest release or data could not be loaded", registry=registry
        )
        self._failures = Gauge("refresh_failures", "Failed refreshes", registry=registry)
        self._waiting = Gauge("log_queued_rows", "Rows waiting to be logged", registry=registry)
        self._lost = Gauge("log_lost_rows", "Rows that could not be logged", registry=registry)

    def count_request(self, path: str, status: int, seconds: float) -> None:
        """Count a request and its time."""
        self.requests += 1
        self._requests.labels(path, status).inc()
        self._seconds.labels(path).observe(seconds)

    def count_rows(self, rows: int) -> None:
        """Count the rows of a request."""
        self._rows.inc(rows)

    def count_rejected(self, reasons: Iterable[str]) -> None:
        """Count a rejected request, once for each reason."""
        for reason in set(reasons):
            self._rejected.labels(reason).inc()

    def text(self) -> bytes:
        """All metrics."""
        now = self._reloader.now()
        self._failing.set(self._reloader.error is not None)
        self._failures.set(self._reloader.failures)
        if self._log:
            self._waiting.set(self._log.rows)
            self._lost.set(self._log.lost)
        if model := self._reloader.model:
            self._version.set(model.release.version)
            self._age.set((now - model.release.trained_until) / timedelta(seconds=1))
            for table, age in model.history_age(now).items():
                self._history.labels(table).set(float("nan") if age is None else age)
        return generate_latest(self._registry)


class MetricsMiddleware:
    """Counts, times and logs prediction requests, and gives each an id, which is a header of the response.

    It is plain ASGI, since Starlette's `BaseHTTPMiddleware` costs a fifth of the throughput.

    Args:
        app: The application.
        metrics: The metrics of the service.
        access_log: Whether each request is logged.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, *, access_log: bool) -> None:
        self._app, self._metrics, self._access_log = app, metrics, access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application, as ASGI has it."""
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        if scope["type"] != "http" or path not in PATHS:
            await self._app(scope, receive, send)
            return
        started, status, request_id = perf_counter(), 500, uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, send_with_status)
        finally:
            seconds = perf_counter() - started
            self._metrics.count_request(path, status, seconds)
            if self._access_log:
                fields = {"request_id": request_id, "path": path, "status": status, "seconds": round(seconds, 6)}
                log.info("serve     %s", " ".join(map(str, fields.values())), extra={"fields": fields})
