"""Smoke test: a release serves requests in its own server process before it is promoted."""

import json
import multiprocessing
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from http.client import HTTPConnection, HTTPException
from statistics import median
from textwrap import shorten
from timeit import timeit
from typing import Any

import numpy as np
import polars as pl
from polars import selectors as cs

from {{cookiecutter.__package_name}}.core.models.predictor import PARITY_TOLERANCE
from {{cookiecutter.__package_name}}.core.parts import Check
from {{cookiecutter.__package_name}}.core.settings import Settings
from {{cookiecutter.__package_name}}.core.store.releases import Release
from {{cookiecutter.__package_name}}.core.store.request_log import PREDICTION, logged_requests, logged_schema
from {{cookiecutter.__package_name}}.core.workspace import Workspace

ANSWER_SECONDS = 60  # timeout of a response, including the start of the server
REPLAY_PERIOD = timedelta(days=7)
UNLIMITED = dict.fromkeys(("serve_max_rows", "serve_max_body_bytes", "serve_max_queued_rows"), 10**9)
HOST, OK = "127.0.0.1", 200

Row = dict[str, Any]


class NoAnswer(Exception):
    """The server did not respond as expected."""


def checks(workspace: Workspace, release: Release, *, now: datetime) -> tuple[Check, ...]:
    """The checks of the smoke test: golden requests, latency, and a replay of logged requests.

    Args:
        workspace: The workspace.
        release: The release.
        now: The time as of which the release was trained.
    """
    limits = workspace.acceptance.smoke_test
    if not limits.enabled:
        return ()
    replayed = [*_replay_requests(workspace, now)]
    past_days = _past_days(workspace, [*release.golden.requests, *(row for row, _ in replayed)], now)
    try:
        with _running(workspace, release, now=now, past_days=past_days) as port:
            return (
                _golden_requests(port, release),
                _latency(port, release, limits.max_latency_ms),
                _replay(port, replayed),
            )
    except NoAnswer as error:
        return (Check("smoke test", passed=False, detail=str(error)),)


def _golden_requests(port: int, release: Release) -> Check:
    """Golden requests: features and predictions equal the recorded ones."""
    name, golden, response = "golden requests", release.golden, _post(port, release.golden.requests)
    dtypes = {feature: pl.String if text else pl.Float64 for feature, text in release.features.items()}
    found, recorded = (pl.DataFrame(rows, dtypes, strict=False) for rows in (response["features"], golden.features))
    if skewed := [feature for feature in dtypes if not _same(found[feature], recorded[feature])]:
        return Check(name, passed=False, detail=f"features {', '.join(skewed)} differ")
    predictions = release.prediction_frame(np.asarray(golden.predictions, dtype=np.float64)).select(cs.float())
    expected, answers = predictions.to_numpy(), pl.DataFrame(response["rows"]).select(predictions.columns).to_numpy()
    worst = float(np.abs(answers - expected).max()) / max(1.0, float(np.abs(expected).max()))
    return Check(name, worst <= PARITY_TOLERANCE, f"{len(answers)} predictions, largest difference {worst:.1e}")


def _same(found: pl.Series, recorded: pl.Series) -> bool:
    if found.dtype == pl.String:
        return found.equals(recorded)
    return np.allclose(
        found.to_numpy(), recorded.to_numpy(), rtol=PARITY_TOLERANCE, atol=PARITY_TOLERANCE, equal_nan=True
    )


def _latency(port: int, release: Release, budget: float) -> Check:
    """Latency: the median of sequential requests is within the budget."""
    seconds = [timeit(partial(_post, port, [row]), number=1) for row in release.golden.requests]
    milliseconds = median(seconds) * 1000
    return Check("latency", milliseconds <= budget, f"{milliseconds:.1f} ms per request (at most {budget:g})")


def _replay(port: int, replayed: list[tuple[Row, Row]]) -> Check:
    """Replay: this release predicts recently logged requests; the change in predictions is reported."""
    if not replayed:
        return Check("replay", passed=True, detail="no recent requests")
    rows = pl.DataFrame(_post(port, [row for row, _ in replayed])["rows"])
    before = pl.DataFrame([before for _, before in replayed])
    numbers = [name for name in rows.select(cs.float()).columns if before.schema.get(name) == pl.Float64]
    moved = np.abs(rows.select(numbers).to_numpy() - before.select(numbers).to_numpy())
    change = f"mean change {moved.mean():.2g}" if numbers else "predictions have another type"
    return Check("replay", passed=True, detail=f"{len(rows)} recent requests predicted; {change}")


def _replay_requests(workspace: Workspace, now: datetime) -> Iterator[tuple[Row, Row]]:
    """The newest logged requests with their predictions; none if the key is personal and hence not logged."""
    schema, entity = logged_schema(workspace.problem), workspace.problem.schema
    if not set(entity.key) <= set(schema.names):
        return
    rows = logged_requests(workspace.problem, workspace.lake, now=now, back=REPLAY_PERIOD).filter(
        pl.col(PREDICTION).is_not_null()
    )
    for row in (
        rows.tail(workspace.acceptance.smoke_test.replay_rows).select(*schema.names, PREDICTION).iter_rows(named=True)
    ):
        before = json.loads(row.pop(PREDICTION))
        yield {name: value.isoformat() if hasattr(value, "isoformat") else value for name, value in row.items()}, before


def _past_days(workspace: Workspace, rows: list[Row], now: datetime) -> float:
    """An age limit in days that admits all of these requests, with a day of margin."""
    event = workspace.problem.schema.event_time
    times = [datetime.fromisoformat(row[event]) for row in rows] if event else []
    return max(now - min(times, default=now) + workspace.problem.schema.lead, timedelta(0)) / timedelta(days=1) + 1


def _post(port: int, rows: list[Row]) -> dict[str, Any]:
    """Post raw rows; return the response with their features.

    Raises:
        NoAnswer: The status is not 200, or there is no response.
    """
    connection = HTTPConnection(HOST, port, timeout=ANSWER_SECONDS)
    try:
        body = json.dumps({"rows": rows})
        connection.request("POST", "/predict?features=true", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        content = response.read()
    except (OSError, HTTPException) as error:
        raise NoAnswer(f"no response: {error}") from error
    finally:
        connection.close()
    if response.status != OK:
        raise NoAnswer(
            f"status {response.status}: {shorten(content.decode(errors='replace'), 200, placeholder=' ...')}"
        )
    parsed: dict[str, Any] = json.loads(content)
    return parsed


@contextmanager
def _running(workspace: Workspace, release: Release, *, now: datetime, past_days: float) -> Iterator[int]:
    """Run the application in its own process; yield its port. Requests wait until it has started."""
    update = UNLIMITED | {"serve_max_age_days": past_days, "serve_api_key": None}
    settings = Settings.model_construct(**workspace.settings.model_copy(update=update).model_dump())
    with socket.create_server((HOST, 0)) as listening:
        arguments = (listening, replace(workspace, settings=settings), release.model_dump_json(), release.onnx, now)
        process = multiprocessing.get_context("spawn").Process(target=_serve, args=arguments, daemon=True)
        process.start()
        port: int = listening.getsockname()[1]
    try:
        yield port
    finally:
        process.kill()
        process.join()


def _serve(listening: socket.socket, workspace: Workspace, record: str, onnx: bytes, now: datetime) -> None:
    # Imported here, since other commands import this module without FastAPI.
    import uvicorn  # noqa: PLC0415

    from {{cookiecutter.__package_name}}.production.service.app import create_app  # noqa: PLC0415

    app = create_app(workspace, release=Release.read(record, onnx), now=now, log_requests=False)
    uvicorn.Server(uvicorn.Config(app, lifespan="on", log_config=None, access_log=False)).run(sockets=[listening])
