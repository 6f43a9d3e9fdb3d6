"""The service as time goes on: champions and batches come, the lake goes away, requests are kept and counted."""

import dataclasses
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import narwhals as nw
import polars as pl
import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_core import to_json
from starlette.testclient import TestClient

from my_ml_project.core import datasets
from my_ml_project.core.contracts.schema import Frame
from my_ml_project.core.errors import InputError
from my_ml_project.core.store.releases import Release
from my_ml_project.core.store.request_log import REQUESTS
from my_ml_project.core.workspace import Workspace
from my_ml_project.production.predict import champion, features_for
from my_ml_project.production.service import request_log_writer
from my_ml_project.production.service.app import Service, create_app
from my_ml_project.production.service.request_log_writer import LoggedBatch, RequestLogWriter
from my_ml_project.production.service.serving_model import ModelReloader
from problems import START

QUIET = {
    "serve_refresh_seconds": 3600,
    "serve_log_flush_seconds": 3600,
}  # seconds: what is looked at and kept, the tests say


def within(workspace: Workspace, **limits: object) -> Workspace:
    """The same, served within other limits."""
    changed = workspace.settings.model_copy(update=QUIET | limits)
    return Workspace(workspace.root, changed, workspace.problem)


def served(workspace: Workspace, *, now: datetime) -> FastAPI:
    app = create_app(workspace, now=now)
    app.state.service.reloader.refresh()
    return app


@pytest.fixture
def app(trained: Workspace) -> FastAPI:
    """A service, and who asks it."""
    return served(within(trained), now=START)


@pytest.fixture
def service(app: FastAPI) -> Service:
    service = app.state.service
    assert isinstance(service, Service)
    return service


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app) as asking:
        yield asking


def rows_of(workspace: Workspace, n: int) -> pl.DataFrame:
    """Parcels of the lake that are still to come."""
    schema = workspace.problem.schema
    coming = workspace.lake.scan(schema).filter(pl.col("due") > START + timedelta(hours=3))
    return coming.select(schema.names).sort("due", "parcel").head(n).collect()


def said(rows: pl.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON has them."""
    return [
        {name: value.isoformat() if hasattr(value, "isoformat") else value for name, value in row.items()}
        for row in rows.to_dicts()
    ]


def figure(client: TestClient, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} "))


def until(condition: Callable[[], object]) -> None:
    """Wait until something is so."""
    end, pause = time.monotonic() + 60, threading.Event()
    while not condition():
        assert time.monotonic() < end, "it did not come"
        pause.wait(0.02)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


# --- the champion


def released(workspace: Workspace, number: int, **changes: Any) -> Release:
    first = workspace.releases.newest(number)[-1]
    release = first.model_copy(update={"number": number, "version": number} | changes)
    assert workspace.releases.append(release)
    return release


def test_a_new_champion_is_followed_and_a_broken_one_is_not(
    service: Service, client: TestClient, trained: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    asked = {"rows": said(rows_of(trained, 1))}
    assert client.post("/predict", json=asked).json()["version"] == 1
    released(trained, 2, threshold=0.001)
    assert client.post("/predict", json=asked).json()["version"] == 1
    service.reloader.refresh()
    answer = client.post("/predict", json=asked).json()
    assert (answer["version"], answer["rows"][0]["decision"]) == (2, True)
    assert "serve     version 2 is serving" in caplog.messages
    for number, wrong in ((3, {"onnx": b"no model"}), (4, {"golden": other_answers(trained)}), (5, {"features": {}})):
        released(trained, number, **wrong)
        for _ in range(3):
            service.reloader.refresh()
        assert client.get("/readyz").json() == {"version": 2}
        assert client.post("/predict", json=asked).json()["rows"] == answer["rows"]
        assert figure(client, "refresh_failing") == 1
        assert figure(client, "refresh_failures") == number - 2
        assert len(warnings(caplog)) == number - 2, "it is said once"
        assert warnings(caplog)[-1].startswith(f"serve     keeps the current model: version {number} can't serve: ")
    released(trained, 6)
    service.reloader.refresh()
    assert client.get("/readyz").json() == {"version": 6}
    assert (figure(client, "model_version"), figure(client, "refresh_failing")) == (6, 0)


def other_answers(workspace: Workspace) -> Any:
    golden = champion(workspace).golden
    return golden.model_copy(update={"predictions": [1 - answer for answer in golden.predictions]})


def test_a_champion_of_other_code_is_not_taken(trained: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    problem = trained.problem
    fewer = dataclasses.replace(
        problem,
        features=tuple(name for name in problem.features if name != "distance"),
        build=lambda rows, history: problem.build(rows, history).drop("distance"),
    )
    reloader = ModelReloader(Workspace(trained.root, trained.settings, fewer), now=START)
    reloader.refresh()
    assert reloader.model is None
    reason = (
        "version 1 needs distance, which features.build does not return with these types: it was trained by other code"
    )
    assert warnings(caplog) == [f"serve     keeps the current model: version 1 can't serve: {reason}"]


def test_a_champion_whose_history_can_not_be_computed_is_not_taken(
    trained: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    problem = trained.problem

    def failing(rows: Frame, history: Mapping[str, Frame]) -> Frame:
        spoiled = history["traffic"].with_columns(delay=nw.lit("late").cast(nw.Int64))
        return problem.build(rows, {**history, "traffic": spoiled})

    reloader = ModelReloader(
        Workspace(trained.root, trained.settings, dataclasses.replace(problem, build=failing)), now=START
    )
    reloader.refresh()
    reloader.refresh()
    assert reloader.model is None
    (warning,) = warnings(caplog)
    assert warning.startswith(
        "serve     keeps the current model: version 1 can't serve: conversion from `str` to `i64`"
    )


def test_a_sound_champion_is_taken_once_the_lake_is_back(
    service: Service,
    client: TestClient,
    trained: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise InputError("table traffic in the lake s3://bucket can't be used: no route to host")

    released(trained, 2)
    with monkeypatch.context() as away:
        away.setattr(datasets, "history_as_of", unreachable)
        for _ in range(3):
            service.reloader.refresh()
    assert warnings(caplog) == [
        "serve     keeps the current model: table traffic in the lake s3://bucket can't be used: no route to host"
    ]
    assert (figure(client, "refresh_failing"), figure(client, "model_version")) == (1, 1)
    service.reloader.refresh()
    assert (figure(client, "refresh_failing"), figure(client, "model_version")) == (0, 2)


def test_where_the_lake_is_gone_answers_go_on(
    service: Service, client: TestClient, trained: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    lake = Path(trained.lake.url)
    asked = {"rows": said(rows_of(trained, 3))}
    answer = client.post("/predict", json=asked).json()["rows"]
    lake.rename(lake.with_name("away"))
    lake.write_text("no folder")
    service.reloader.refresh()
    assert client.post("/predict", json=asked).json()["rows"] == answer
    assert figure(client, "refresh_failing") == 1
    assert service.log
    assert service.log.flush() == 0
    assert (figure(client, "log_queued_rows"), figure(client, "log_lost_rows")) == (6, 0)
    assert len(warnings(caplog)) == 2
    lake.unlink()
    lake.with_name("away").rename(lake)
    service.reloader.refresh()
    assert (figure(client, "refresh_failing"), service.log.flush()) == (0, 6)


def test_without_a_champion_a_service_lives_and_is_not_ready(
    empty: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    with TestClient(create_app(within(empty))) as client:
        assert client.get("/healthz").status_code == 200
        assert client.get("/openapi.json").status_code == 200
        assert figure(client, "model_version") == 0
        for response in (client.get("/readyz"), client.post("/predict", json={}), client.post("/predict/features")):
            assert response.status_code == 503
            assert response.json() == {"detail": "no champion serves: none was promoted"}
    assert warnings(caplog) == []


def test_what_is_new_is_looked_for_and_what_is_asked_is_kept_again_and_again(
    trained: Workspace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Panic(BaseException):
        pass

    panics = iter([Panic("a panic of Polars\nand where")])
    refresh = ModelReloader.refresh

    def at_first_in_panic(reloader: ModelReloader) -> None:
        for panic in panics:
            raise panic
        refresh(reloader)

    app = served(within(trained, serve_refresh_seconds=0.01, serve_log_flush_seconds=0.01), now=START)
    monkeypatch.setattr(ModelReloader, "refresh", at_first_in_panic)
    with TestClient(app) as client:
        asked = client.post("/predict", json={"rows": said(rows_of(trained, 1))}).json()
        released(trained, 2)
        until(lambda: client.get("/readyz").json() == {"version": 2})
        until(lambda: trained.lake.read(REQUESTS, {"_id": pl.String()}).collect()["_id"].to_list() == [asked["id"]])
    assert warnings(caplog) == ["serve     error: a panic of Polars"]


# --- history


def test_history_is_refreshed_as_batches_arrive(trained: Workspace) -> None:
    rows, now = rows_of(trained, 5), START + timedelta(hours=1)
    app = served(within(trained), now=now)
    stored = trained.lake.scan(trained.problem.schemas["traffic"]).sort("observed").tail(1).collect()
    observed = pl.lit(now - timedelta(minutes=5)).cast(stored.schema["observed"])
    with TestClient(app) as client:
        before = client.post("/predict?features=true", json={"rows": said(rows)}).json()
        assert before["history_age"]["traffic"] > 300
        assert trained.lake.append("traffic", stored.with_columns(observed=observed, temperature=71.5), batch="newer")
        app.state.service.reloader.refresh()
        after = client.post("/predict?features=true", json={"rows": said(rows)}).json()
        assert [row["temperature"] for row in after["features"]] == [71.5] * 5
        assert 71.5 not in [row["temperature"] for row in before["features"]]
        assert after["features"] == features_for(trained, rows, now=now).select(list(after["features"][0])).to_dicts()
        assert after["history_age"]["traffic"] == figure(client, 'history_age_seconds{table="traffic"}') == 300


def test_history_is_read_again_before_what_it_knows_ahead_has_come(
    trained: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    reloader = ModelReloader(within(trained, clock="wall"))
    reloader.refresh()
    first = reloader.model
    assert first is not None
    reloader.refresh()
    assert reloader.model is first
    monkeypatch.setattr(first, "expires", datetime.now(UTC))
    reloader.refresh()
    assert reloader.model is not first


def test_data_are_the_clock_where_the_settings_say_so(trained: Workspace) -> None:
    reloader = ModelReloader(trained)
    reloader.refresh()
    assert reloader.now() == datasets.newest_label(trained.problem, trained.lake)
    later = pl.DataFrame({"parcel": [10**9], "known": [START + timedelta(days=9)], "late": [True]})
    labels = trained.problem.labels
    template = trained.lake.scan(labels).head(1).collect()
    rows = template.with_columns(later.cast({"known": template.schema["known"]}).get_columns())
    trained.lake.append(labels.name, rows, batch="later")
    reloader.refresh()
    assert reloader.now() == START + timedelta(days=9)


# --- the log


def test_what_was_asked_and_answered_is_read_back_exactly(
    service: Service, client: TestClient, trained: Workspace
) -> None:
    rows = rows_of(trained, 30)
    answers = [
        client.post("/predict?features=true", json={"rows": said(rows[i : i + 3])}).json() for i in range(0, 30, 3)
    ]
    refused = client.post("/predict", json={"rows": said(rows[:2].with_columns(distance=pl.col("distance") + 1))})
    ready = client.post("/predict/features", json={"rows": answers[0]["features"]}).json()
    assert refused.status_code == 422
    assert client.post("/predict", json={"rows": [{}]}).status_code == 422
    assert service.log
    assert service.log.flush() == 35
    kept = trained.lake.read(REQUESTS, {}).collect().sort("_served_at", "_row_number", maintain_order=True)
    for answer in [*answers, ready]:
        mine = kept.filter(pl.col("_id") == answer["id"]).sort("_row_number")
        assert mine["_row_number"].to_list() == [0, 1, 2]
        assert [json.loads(text) for text in mine["_prediction"]] == answer["rows"]
        assert [json.loads(text) for text in mine["_features"]] == answer.get("features", answers[0]["features"])
        assert mine["_version"].to_list() == [1, 1, 1]
    raw = kept.filter(pl.col("_id").is_in([answer["id"] for answer in answers]))
    assert (
        raw.select(rows.drop("sender", "refunded").columns)
        .sort("due", "parcel")
        .equals(rows.drop("sender", "refunded"))
    )
    assert kept.filter(pl.col("_prediction").is_null())["parcel"].to_list() == rows["parcel"][:2].to_list()
    assert kept.filter(pl.col("_id") == ready["id"])["parcel"].null_count() == 3
    assert figure(client, "log_queued_rows") == 0


NUMBERS = st.floats(allow_nan=True, allow_infinity=True) | st.none()
VALUES = st.lists(st.tuples(NUMBERS, st.floats(width=32) | st.none(), st.text() | st.none()), min_size=1, max_size=9)


@settings(deadline=None, max_examples=30, derandomize=True, database=None)
@given(VALUES)
def test_any_feature_is_kept_as_it_is_answered(values: list[tuple[float | None, float | None, str | None]]) -> None:
    types = {"wide": pl.Float64, "narrow": pl.Float32, "text": pl.String}
    rows = pl.DataFrame(values, schema=types, orient="row")
    encoded = request_log_writer._as_json(rows)
    answered = json.loads(to_json(rows.to_dicts(), inf_nan_mode="null"))
    assert [json.loads(text) for text in encoded] == answered


def test_a_log_is_appended_once_however_often_it_is_tried(
    service: Service, trained: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RequestLogWriter(trained, max_rows=5)
    append = trained.lake.append

    def lost_answer(*arguments: Any, **options: Any) -> bool:
        append(*arguments, **options)
        raise InputError("the storage's answer did not come")

    log.add(some(service, 2))
    with monkeypatch.context() as broken:
        broken.setattr(
            type(trained.lake), "append", lambda _, *arguments, **options: lost_answer(*arguments, **options)
        )
        assert (log.flush(), log.rows) == (0, 2)
    log.add(some(service, 3))
    assert (log.flush(), log.rows, log.lost) == (5, 0, 0)
    assert trained.lake.read(REQUESTS, {}).collect()["_row_number"].sort().to_list() == [0, 0, 1, 1, 2]


def test_a_flush_appends_once_however_fast_requests_come(
    service: Service, trained: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, append, one = RequestLogWriter(trained, max_rows=100), type(trained.lake).append, some(service, 1)

    def meanwhile(*arguments: Any, **options: Any) -> bool:
        log.add(one)
        return append(*arguments, **options)

    assert log.flush() == 0
    assert trained.lake.version(REQUESTS) == -1, "nothing is no commit"
    monkeypatch.setattr(type(trained.lake), "append", meanwhile)
    log.add(one)
    assert [(log.flush(), log.rows) for _ in range(3)] == [(1, 1)] * 3


def test_of_what_cannot_be_appended_the_newest_is_kept(
    service: Service, trained: Workspace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = RequestLogWriter(trained, max_rows=5)
    with monkeypatch.context() as broken:
        broken.setattr(type(trained.lake), "append", raising(InputError("no route to host")))
        for n in (2, 1, 4):
            log.add(some(service, n))
            assert log.flush() == 0
    assert (log.rows, log.lost) == (5, 2)
    assert warnings(caplog)[-1] == "serve     5 rows wait to be logged: no route to host"
    assert (log.flush(), log.rows) == (5, 0)


def test_no_request_fails_for_its_log(
    service: Service, client: TestClient, trained: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RequestLogWriter, "_frame", raising(ValueError("a fault")))
    assert client.post("/predict", json={"rows": said(rows_of(trained, 2))}).status_code == 200
    assert service.log
    assert (service.log.flush(), service.log.lost) == (0, 2)


def test_a_full_log_says_so_before_it_is_time(
    service: Service, trained: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_log_writer, "FULL", 50)
    log = RequestLogWriter(within(trained), max_rows=1000)
    for n in (1, 40):
        log.add(some(service, n))
    assert (log.rows, log.due) == (41, False)
    log.add(some(service, 10))
    assert log.due
    assert (log.flush(), log.due) == (51, False)


def test_of_what_comes_between_two_flushes_the_newest_is_kept(service: Service, trained: Workspace) -> None:
    log = RequestLogWriter(trained, max_rows=5)
    for n in (2, 3, 2, 9):
        log.add(some(service, n))
    assert (log.rows, log.lost, log.flush()) == (9, 7, 9)


def some(service: Service, n: int) -> LoggedBatch:
    model = service.reloader.model
    assert model
    rows = rows_of(service.workspace, n)
    predicted = model.predict(rows, now=START)
    return LoggedBatch([("me", i, True) for i in range(n)], rows, predicted, model, START)


def raising(error: Exception) -> Callable[..., Any]:
    def work(*_: object, **__: object) -> None:
        raise error

    return work


# --- figures


def test_the_figures_say_how_much_was_asked_how_quickly_and_what_was_wrong(
    client: TestClient, trained: Workspace
) -> None:
    rows = said(rows_of(trained, 7))
    for n in (1, 7):
        assert client.post("/predict", json={"rows": rows[:n]}).status_code == 200
    client.post("/predict", json={"rows": [rows[0] | {"distance": 1}]})
    client.post("/predict", json={"rows": [rows[0] | {"distance": "far"}]})
    client.post("/predict", content=b"", headers={"Content-Type": "text/plain"})
    assert figure(client, 'http_requests_total{path="/predict",status="200"}') == 2
    assert figure(client, 'http_requests_total{path="/predict",status="422"}') == 2
    assert figure(client, 'http_requests_total{path="/predict",status="415"}') == 1
    assert figure(client, 'http_request_duration_seconds_count{path="/predict"}') == 5
    assert 0 < figure(client, 'http_request_duration_seconds_sum{path="/predict"}') < 60
    assert figure(client, 'rejected_requests_total{reason="distance belongs to city"}') == 1
    assert figure(client, 'rejected_requests_total{reason="int_type"}') == 1
    assert figure(client, "rows_total") == 9
    age = START - champion(trained).trained_until
    assert figure(client, "model_age_seconds") == age / timedelta(seconds=1)
    assert figure(client, "log_queued_rows") == 9
