"""The FastAPI application."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from secrets import compare_digest
from threading import Event
from typing import Annotated, Any

import polars as pl
from fastapi import APIRouter, Body, Depends, FastAPI, HTTPException, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.params import Depends as Dependency
from fastapi.responses import RedirectResponse
from fastapi.security import APIKeyHeader
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST

from {{cookiecutter.__package_name}}.core.contracts.sample_data import sample
from {{cookiecutter.__package_name}}.core.errors import summarize
from {{cookiecutter.__package_name}}.core.settings import Settings
from {{cookiecutter.__package_name}}.core.store.releases import Release
from {{cookiecutter.__package_name}}.core.workspace import Workspace
from {{cookiecutter.__package_name}}.production.service.batching import Batcher, PredictionFailed, QueueFull
from {{cookiecutter.__package_name}}.production.service.json_route import JSON, JsonRoute, invalid_request
from {{cookiecutter.__package_name}}.production.service.metrics import Metrics, MetricsMiddleware
from {{cookiecutter.__package_name}}.production.service.request_log_writer import LoggedBatch, RequestLogWriter
from {{cookiecutter.__package_name}}.production.service.request_model import (
    features_model,
    request_model,
    row_model,
    to_frame,
)
from {{cookiecutter.__package_name}}.production.service.responses import (
    UNAVAILABLE,
    Detail,
    PredictionRequest,
    response_model,
    responses,
)
from {{cookiecutter.__package_name}}.production.service.serving_model import (
    ModelReloader,
    ServingModel,
    text_features,
)

log = logging.getLogger(__name__)

CHECK_SECONDS = 0.2  # between checks whether the request log is due to be flushed
NO_ANSWER = "the prediction failed"
KEY, UNAUTHORIZED = "X-API-Key", 401
ERRORS: dict[int | str, dict[str, Any]] = {
    UNAUTHORIZED: {"model": Detail, "description": "The API key is missing or wrong"},
    408: {"model": Detail, "description": "The body did not arrive in time"},
    413: {"model": Detail, "description": "Too many bytes"},
    415: {"model": Detail, "description": "Not JSON"},
    UNAVAILABLE: {"model": Detail, "description": "No champion, queue full, or a prediction that is not a number"},
}


def create_app(
    workspace: Workspace,
    *,
    release: Release | None = None,
    now: datetime | None = None,
    log_requests: bool = True,
    dependencies: Sequence[Dependency] = (),
) -> FastAPI:
    """Create the FastAPI application; `app.state.service` is the `Service`.

    Args:
        workspace: The workspace.
        release: Release to serve. Default: the champion.
        now: The current time. Default: by the setting `clock`.
        log_requests: Whether requests and predictions go to the table `requests`.
        dependencies: FastAPI dependencies of the prediction routes, such as `Depends(authenticate)`.

    Raises:
        Rejected: The user-defined `build` omits features.
    """
    service = Service(workspace, release=release, now=now, log_requests=log_requests)
    settings = workspace.settings
    app = FastAPIOffline(title=workspace.problem.schema.name, lifespan=service.lifespan)
    app.state.service = service
    app.add_middleware(MetricsMiddleware, metrics=service.metrics, access_log=settings.serve_access_log)
    if settings.serve_cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.serve_cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
        )
    app.add_exception_handler(RequestValidationError, invalid_request)
    app.include_router(_prediction_routes(service, [*_api_key(settings), *dependencies]))
    app.include_router(_status_routes(service))
    for part in workspace.parts:
        if part.configure_app:
            part.configure_app(app)
    return app


class Service:
    """The state shared by the routes.

    Args:
        workspace: The workspace.
        release: Release to serve. Default: the champion.
        now: The current time.
        log_requests: Whether requests and predictions are logged.
    """

    def __init__(
        self, workspace: Workspace, *, release: Release | None, now: datetime | None, log_requests: bool
    ) -> None:
        self.workspace, self.settings = workspace, workspace.settings
        self.reloader = ModelReloader(workspace, release=release, now=now)
        self.log = (
            RequestLogWriter(workspace, max_rows=2 * self.settings.serve_max_queued_rows) if log_requests else None
        )
        self.metrics = Metrics(self.reloader, self.log)
        self.text_features = text_features(workspace.problem)
        self._request_dtypes = workspace.problem.schema.request.dtypes
        self._feature_dtypes = {n: pl.String() if text else pl.Float64() for n, text in self.text_features.items()}
        self.raw, self.ready = (
            Batcher(partial(self._compute, raw=raw), max_queued_rows=self.settings.serve_max_queued_rows)
            for raw in (True, False)
        )

    async def model(self) -> ServingModel:
        """The serving model.

        Raises:
            HTTPException: There is no model.
        """
        if self.reloader.model is None:
            raise HTTPException(UNAVAILABLE, f"no champion serves: {self.reloader.error or 'none was promoted'}")
        return self.reloader.model

    async def predict(self, batcher: Batcher[PredictionRequest, bytes], request: PredictionRequest) -> Response:
        """The response to a request.

        Raises:
            HTTPException: The prediction failed, or the queue is full.
            RequestValidationError: A row violates the contract.
        """
        rows = request.parsed.height
        self.metrics.count_rows(rows)
        try:
            return Response(await batcher.submit(request, rows=rows), media_type=JSON)
        except QueueFull as error:
            msg = f"more than {self.settings.serve_max_queued_rows} rows are queued: try again later"
            raise HTTPException(UNAVAILABLE, msg, {"Retry-After": "1"}) from error
        except PredictionFailed as error:
            log.warning("serve     %s: %s", NO_ANSWER, error)
            self.metrics.count_rejected([NO_ANSWER])
            raise HTTPException(UNAVAILABLE, NO_ANSWER) from error
        except HTTPException as error:
            self.metrics.count_rejected([error.detail])
            raise

    def _compute(self, requests: Sequence[PredictionRequest], *, raw: bool) -> list[bytes | Exception]:
        """The responses to a batch of requests for predictions of raw rows, or of features."""
        model, now = self.reloader.model, self.reloader.now()
        if model is None:
            raise RuntimeError("requests are accepted only once a model serves")
        rows = to_frame((r.parsed for r in requests), self._request_dtypes if raw else self._feature_dtypes)
        batch = model.predict(rows, now=now) if raw else model.predict_features(rows)
        results: list[bytes | Exception] = list(responses(requests, batch, model=model, now=now))
        if self.log:
            ids = [
                (request.id, n, isinstance(result, bytes))
                for request, result in zip(requests, results, strict=True)
                for n in range(request.parsed.height)
            ]
            self.log.add(LoggedBatch(ids, rows if raw else pl.DataFrame(), batch, model, now))
        return results

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        """Refresh the model and flush the request log while the application runs."""
        if self.reloader.model is None:
            await asyncio.to_thread(self.reloader.refresh)
        stopping, flush_pause = Event(), min(CHECK_SECONDS, self.settings.serve_log_flush_seconds)
        works = ((self.reloader.refresh, self.settings.serve_refresh_seconds), (self._flush_if_due, flush_pause))
        tasks = [asyncio.create_task(asyncio.to_thread(_repeat, work, pause, stopping)) for work, pause in works]
        try:
            yield
        finally:
            stopping.set()
        await asyncio.gather(*tasks)
        self.raw.close()
        self.ready.close()
        if self.log:
            await asyncio.to_thread(self.log.flush)

    def _flush_if_due(self) -> None:
        if self.log and self.log.due:
            self.log.flush()


def _repeat(work: Callable[[], object], seconds: float, stopping: Event) -> None:
    """Repeat the work with a pause; errors are logged."""
    while not stopping.wait(seconds):
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - a panic in Polars is not an Exception
            log.warning("serve     error: %s", summarize(error))


def _api_key(settings: Settings) -> list[Dependency]:
    """The dependency that requires the API key of the settings, if they have one."""
    if settings.serve_api_key is None:
        return []
    expected, header = settings.serve_api_key.get_secret_value().encode(), APIKeyHeader(name=KEY, auto_error=False)

    async def require(given: Annotated[str | None, Security(header)]) -> None:
        if not compare_digest((given or "").encode(), expected):
            raise HTTPException(UNAUTHORIZED, f"send the API key in the header {KEY}")

    return [Depends(require)]


def _prediction_routes(service: Service, dependencies: Sequence[Dependency]) -> APIRouter:
    problem, most = service.workspace.problem, service.settings.serve_max_rows
    router = APIRouter(
        route_class=JsonRoute, dependencies=[*dependencies, Depends(service.model)], strict_content_type=False
    )
    raw = request_model(row_model(problem.entity), max_rows=most, translate=problem.translated_requests)
    ready = request_model(features_model(service.text_features), max_rows=most)
    predictions = response_model(problem.task)
    example = sample(problem.entity, 2).drop(
        problem.schema.target or [], *problem.schema.excluded_columns, strict=False
    )
    features = pl.DataFrame({name: "text" if text else 0.0 for name, text in service.text_features.items()})

    @router.post("/predict", response_model=predictions, responses=ERRORS)
    async def predict(
        request: Request,
        body: Annotated[raw, Body(openapi_examples=_examples(example))],  # type: ignore[valid-type]
        features: bool = False,  # noqa: FBT001, FBT002 - a query parameter
    ) -> Response:
        """Predict from raw rows; with `features=true` the response includes the computed features."""
        return await service.predict(service.raw, PredictionRequest(body, request.state.request_id, features))

    @router.post("/predict/features", response_model=predictions, responses=ERRORS)
    async def predict_features(
        request: Request,
        body: Annotated[ready, Body(openapi_examples=_examples(features))],  # type: ignore[valid-type]
    ) -> Response:
        """Predict from precomputed features."""
        return await service.predict(service.ready, PredictionRequest(body, request.state.request_id))

    return router


def _status_routes(service: Service) -> APIRouter:
    router = APIRouter()

    @router.get("/", include_in_schema=False)
    async def root(request: Request) -> Response:
        """The way to the documentation of the API."""
        return RedirectResponse(f"{request.scope.get('root_path', '')}/docs")

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Liveness: the process is running."""
        return {"status": "alive"}

    @router.get("/readyz", responses={UNAVAILABLE: ERRORS[UNAVAILABLE]})
    async def readyz(model: Annotated[ServingModel, Depends(service.model)]) -> dict[str, int]:
        """Readiness: the version of the serving model."""
        return {"version": model.release.version}

    @router.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Metrics in the Prometheus format."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return router


def _examples(rows: pl.DataFrame) -> dict[str, Any]:
    layouts = {"rows": rows.to_dicts(), "columns": rows.to_dict(as_series=False)}
    return {layout: {"value": {layout: value}} for layout, value in layouts.items()}
