"""The service, asked in this process: what it answers, what it refuses, what it follows, and what it keeps."""

import asyncio
import dataclasses
import json
import logging
import re
import shutil
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
import pytest
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from my_ml_project.core.contracts.schema import PREDICTED_AT, Frame
from my_ml_project.core.features import windows
from my_ml_project.core.store.request_log import REQUESTS
from my_ml_project.core.workspace import Workspace, open_workspace
from my_ml_project.production.predict import champion, features_for, predict_rows
from my_ml_project.production.service import json_route
from my_ml_project.production.service.app import Service, create_app
from my_ml_project.production.service.batching import (
    BATCH_ROWS,
    Batcher,
    PredictionFailed,
    QueueFull,
)
from my_ml_project.production.service.request_model import request_model, row_model
from my_ml_project.production.service.responses import PredictionRequest
from my_ml_project.production.service.serving_model import PredictionBatch, ServingModel
from problems import PROBLEM, START

AHEAD = timedelta(hours=24)
PROPERTY = settings(deadline=None, max_examples=60, derandomize=True, database=None)
QUIET = {
    "serve_refresh_seconds": 3600,
    "serve_log_flush_seconds": 3600,
}  # seconds: what is looked at and kept, the tests say

Row = dict[str, Any]


def opened(trained: Path, folder: Path, **limits: float) -> Workspace:
    """A copy of the trained project's lake, served within other limits."""
    shutil.copytree(trained / "config", folder / "config")
    shutil.copytree(trained / "data" / "lake", folder / "data" / "lake")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("os.environ", {})
        workspace = open_workspace(PROBLEM, root=folder)
    changed = workspace.settings.model_copy(update=QUIET | limits)
    return Workspace(workspace.root, changed, workspace.problem)


def asking(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app) as client:
        yield client


@pytest.fixture(scope="module")
def quiet(trained_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    """A service that nothing changes."""
    return create_app(
        opened(trained_folder, tmp_path_factory.mktemp("quiet") / "project", serve_max_rows=200), now=START
    )


@pytest.fixture(scope="module")
def client(quiet: FastAPI) -> Iterator[TestClient]:
    """Who asks it."""
    yield from asking(quiet)


@pytest.fixture
def app(trained_folder: Path, tmp_path: Path) -> FastAPI:
    """A service that a test may change."""
    return create_app(opened(trained_folder, tmp_path / "project"), now=START)


def service_of(app: FastAPI) -> Service:
    service = app.state.service
    assert isinstance(service, Service)
    return service


def workspace_of(app: FastAPI) -> Workspace:
    return service_of(app).workspace


def rows_of(workspace: Workspace, n: int) -> pl.DataFrame:
    """Parcels of the lake that are still to come."""
    schema = workspace.problem.schema
    coming = workspace.lake.scan(schema).filter(pl.col("due").is_between(START, START + AHEAD))
    return coming.select(schema.names).sort("due", "parcel").head(n).collect()


def said(rows: pl.DataFrame) -> list[Row]:
    """Rows as JSON has them."""
    return [
        {name: value.isoformat() if hasattr(value, "isoformat") else value for name, value in row.items()}
        for row in rows.to_dicts()
    ]


def columns(rows: list[Row]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


@pytest.fixture(scope="module")
def row(quiet: FastAPI) -> Row:
    """A request's row."""
    return said(rows_of(workspace_of(quiet), 1))[0]


@pytest.fixture(scope="module")
def many(quiet: FastAPI) -> list[Row]:
    """Rows of requests."""
    return said(rows_of(workspace_of(quiet), 48))


def figure(client: TestClient, name: str, default: float = -1) -> float:
    lines = client.get("/metrics").text.splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} ")), default)


# --- answers


def test_rows_are_answered_as_a_file_is_predicted_in_both_layouts(quiet: FastAPI, client: TestClient) -> None:
    workspace, rows = workspace_of(quiet), rows_of(workspace_of(quiet), 40)
    expected = predict_rows(workspace, champion(workspace), rows, now=START).select("probability", "decision")
    answer = client.post("/predict", json={"rows": said(rows)}).json()
    assert pl.DataFrame(answer["rows"]).equals(expected)
    assert answer["version"] == 1
    assert set(answer["history_age"]) == set(workspace.problem.schemas)
    assert 0 <= answer["history_age"]["traffic"] < 86400
    other = client.post("/predict", json={"columns": columns(said(rows))}).json()
    assert other["columns"] == expected.to_dict(as_series=False)
    assert other["id"] != answer["id"]
    for i in (0, 7):
        assert client.post("/predict", json={"rows": said(rows[i : i + 1])}).json()["rows"] == expected[i].to_dicts()


def test_features_are_shown_on_demand_and_give_the_same_answers_when_they_are_sent(
    quiet: FastAPI, client: TestClient
) -> None:
    workspace, rows = workspace_of(quiet), rows_of(workspace_of(quiet), 20)
    names = list(workspace.problem.features)
    expected = features_for(workspace, rows, now=START).select(names)
    answer = client.post("/predict?features=true", json={"rows": said(rows)}).json()
    assert answer["features"] == expected.to_dicts()
    assert expected.null_count().sum_horizontal().item() < 20
    by_column = client.post("/predict?features=true", json={"columns": columns(said(rows))}).json()
    assert by_column["features"] == expected.to_dict(as_series=False)
    ready = client.post("/predict/features", json={"rows": answer["features"]}).json()
    assert ready["rows"] == answer["rows"]
    assert client.post("/predict/features", json={"columns": by_column["features"]}).json()["columns"] == {
        name: [row[name] for row in answer["rows"]] for name in answer["rows"][0]
    }
    assert "features" not in client.post("/predict?features=false", json={"rows": said(rows)}).json()


def test_the_documentation_needs_no_other_host_and_the_root_leads_to_it(client: TestClient) -> None:
    for page in ("/", "/docs", "/redoc"):
        answer = client.get(page)
        assert answer.status_code == 200
        assert answer.url.path == (page if page != "/" else "/docs")
        found = re.findall(r"""(?:src|href)=["']([^"']+)["']""", answer.text)
        assert any(name.endswith(".js") for name in found)
        assert not [name for name in found if not name.startswith("/")]
        assert {client.get(name).status_code for name in found} == {200}


@pytest.mark.parametrize("blank", ["", "  ", "\t\n"])
def test_blank_text_is_a_missing_value(client: TestClient, row: Row, blank: str) -> None:
    answer = client.post("/predict", json={"rows": [row | {"courier": blank}]})
    (error,) = answer.json()["detail"]
    assert (answer.status_code, error["loc"][-1]) == (422, "courier")


@pytest.mark.parametrize("body", [{"rows": [{"courier": "  "}, {"courier": "x"}]}, {"columns": {"courier": ["", "x"]}}])
def test_blank_text_is_a_missing_value_in_features_too(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, body: dict[str, Any]
) -> None:
    predicted: list[pl.Series] = []
    predict_features = ServingModel.predict_features

    def watched(model: ServingModel, rows: pl.DataFrame) -> PredictionBatch:
        predicted.append(rows["courier"])
        return predict_features(model, rows)

    monkeypatch.setattr(ServingModel, "predict_features", watched)
    assert client.post("/predict/features", json=body).status_code == 200
    assert [values.to_list() for values in predicted] == [[None, "x"]]


def test_a_value_that_is_unknown_to_a_growing_category_is_answered(client: TestClient, row: Row) -> None:
    for unknown in ("??", "a\x00b", "\U0001f600", "x" * 10_000):
        answer = client.post("/predict", json={"rows": [row | {"courier": unknown}]})
        assert 0 < answer.json()["rows"][0]["probability"] < 1


def test_a_service_tells_that_it_lives_who_answers_and_how_to_ask(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"version": 1}
    described = client.get("/openapi.json").json()
    body = described["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    for layout in ("rows", "columns"):
        refused = client.post("/predict", json=body["examples"][layout]["value"]).json()["detail"]
        assert {error["msg"].split(":")[0] for error in refused} == {"due is within the maximum age"}
    body = described["paths"]["/predict/features"]["post"]["requestBody"]["content"]["application/json"]
    for layout in ("rows", "columns"):
        assert client.post("/predict/features", json=body["examples"][layout]["value"]).status_code == 200


# --- refusals

WRONG = [
    ({"parcel": None}, "parcel", "int_type"),
    ({"parcel": 1.5}, "parcel", "int_type"),
    ({"parcel": "1"}, "parcel", "int_type"),
    ({"parcel": True}, "parcel", "int_type"),
    ({"parcel": 2**63}, "parcel", "less_than_equal"),
    ({"parcel": 10**400}, "parcel", "less_than_equal"),
    ({"parcel": 0}, "parcel", "greater_than"),
    ({"courier": 7}, "courier", "string_type"),
    ({"courier": ["van"]}, "courier", "string_type"),
    ({"due": "2024-04-01T12:00:00"}, "due", "timezone_aware"),
    ({"due": 1711972800}, "due", "iso"),
    ({"due": "1711972800"}, "due", "iso"),
    ({"due": "2024-04-31T12:00:00Z"}, "due", "datetime_from_date_parsing"),
    ({"ordered": "0"}, "ordered", "iso"),
    ({"unknown": 1}, "unknown", "extra_forbidden"),
]


@pytest.mark.parametrize(("change", "field", "kind"), WRONG)
def test_a_value_that_its_column_cannot_have_is_refused_with_its_place_in_both_layouts(
    client: TestClient, row: Row, change: Row, field: str, kind: str
) -> None:
    response = client.post("/predict", content=json.dumps({"rows": [row, row | change]}))
    assert response.status_code == 422
    (error,) = response.json()["detail"]
    assert (error["loc"], error["type"]) == (["body", "rows", 1, field], kind)
    assert set(error) == {"loc", "msg", "type"}, "the value could be personal"
    response = client.post("/predict", content=json.dumps({"columns": columns([row | change])}))
    assert response.status_code == 422
    (error,) = response.json()["detail"]
    assert error["loc"][:3] == ["body", "columns", field]
    assert error["type"] == kind


@pytest.mark.parametrize("name", ["parcel", "due", "city"])
def test_a_column_that_is_missing_is_named(client: TestClient, row: Row, name: str) -> None:
    less = {other: value for other, value in row.items() if other != name}
    (error,) = client.post("/predict", json={"rows": [less]}).json()["detail"]
    assert error == {"loc": ["body", "rows", 0, name], "msg": "Field required", "type": "missing"}
    (error,) = client.post("/predict", json={"columns": columns([less])}).json()["detail"]
    assert error["loc"] == ["body", "columns", name]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"city": "Aston", "distance": 13}, "distance belongs to city"),
        (
            {"due": "0001-01-01T00:00:00+14:00"},
            "due is within the maximum age: use predict FILE for older rows, or set ML_SERVE_MAX_AGE_DAYS",
        ),
        (
            {"due": "0001-01-01T00:00:00Z"},
            "due is within the maximum age: use predict FILE for older rows, or set ML_SERVE_MAX_AGE_DAYS",
        ),
        ({"due": "9999-12-31T23:59:59-14:00", "ordered": "9999-12-31", "distance": 1}, "distance belongs to city"),
    ],
)
@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_a_row_that_breaks_a_rule_is_refused_with_its_place_and_the_rule(
    client: TestClient, row: Row, change: Row, reason: str, layout: str
) -> None:
    rows = [row, row | change, row]
    response = client.post("/predict", json={layout: rows if layout == "rows" else columns(rows)})
    assert response.status_code == 422
    assert {"loc": ["body", layout, 1], "msg": reason, "type": "rule"} in response.json()["detail"]
    assert {error["loc"][2] for error in response.json()["detail"]} == {1}


NONSENSE = {
    "nothing": b"",
    "null": b"null",
    "a list": b"[]",
    "text": b"hello",
    "half": b'{"rows": [',
    "more": b'{"rows": []} []',
    "no rows": b'{"rows": []}',
    "no columns": b'{"columns": {}}',
    "no layout": b"{}",
    "both layouts": b'{"rows": [{}], "columns": {}}',
    "null rows": b'{"rows": null}',
    "bytes that are no text": b'{"rows": [{"courier": "\xff\xfe"}]}',
    "a surrogate": b'{"rows": [{"courier": "\\ud800"}]}',
    "a surrogate as a key": b'{"rows": [{"\\udfff": 1}]}',
    "not a number": b'{"rows": [{"parcel": NaN}]}',
    "infinity": b'{"rows": [{"parcel": -Infinity}]}',
    "a number of 5000 digits": b'{"rows": [{"parcel": ' + b"9" * 5000 + b"}]}",
    "deep lists": b"[" * 100_000,
    "deep rows": b'{"rows": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"rows": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001,
    "201 rows": b'{"rows": [' + b",".join([b"{}"] * 201) + b"]}",
    "a million rows": b'{"rows": [' + b",".join([b"{}"] * 1_000_000) + b"]}",
    "a million values": b'{"columns": {"parcel": [' + b",".join([b"1"] * 1_000_000) + b"]}}",
    "100 thousand wrong values": b'{"columns": {"parcel": [' + b",".join([b"[]"] * 100_000) + b"]}}",
    "many columns": b'{"rows": [{' + b",".join(b'"%d": 1' % i for i in range(100_000)) + b"}]}",
    "a column of another length": b'{"columns": {"parcel": [1], "distance": [1, 2]}}',
}


@pytest.mark.parametrize("path", ["/predict", "/predict/features"])
@pytest.mark.parametrize("name", NONSENSE)
def test_a_body_that_makes_no_sense_is_refused_with_reasons(client: TestClient, path: str, name: str) -> None:
    response = client.post(path, content=NONSENSE[name])
    assert response.status_code == 422
    reasons = response.json()["detail"]
    assert 0 < len(reasons) <= 1000
    assert all(error["loc"][0] == "body" and error["msg"] for error in reasons)


def test_columns_of_several_lengths_are_told_apart(client: TestClient, row: Row) -> None:
    body = {"columns": columns([row]) | {"parcel": [1, 2]}}
    (error,) = client.post("/predict", json=body).json()["detail"]
    assert error["loc"] == ["body", "columns"]
    assert error["msg"].startswith("columns have one length, not {'parcel': 2, 'due': 1")


def test_what_is_no_plain_json_is_not_read(client: TestClient, row: Row) -> None:
    body = json.dumps({"rows": [row]})
    for header in ({"Content-Type": "text/csv"}, {"Content-Type": ""}, {"Content-Encoding": "gzip"}):
        response = client.post("/predict", content=body, headers=header)
        assert (response.status_code, response.json()) == (415, {"detail": "send application/json, not compressed"})
    for kind in ("application/json; charset=utf-8", "Application/JSON"):
        assert client.post("/predict", content=body, headers={"Content-Type": kind}).status_code == 200


def test_a_body_that_is_too_large_is_refused_before_it_has_come_or_when_it_does_not_end(client: TestClient) -> None:
    for body in (b" " * 5_000_001, (b" " * 1000 for _ in range(100_000))):  # the second in chunks
        response = client.post("/predict", content=body)
        assert (response.status_code, response.headers["connection"]) == (413, "close")
        assert response.json()["detail"].startswith("more than 5000000 bytes: ")


@pytest.mark.parametrize("then", ["silence", "hanging up"])
def test_a_body_that_does_not_come_is_not_waited_for(
    quiet: FastAPI, client: TestClient, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    sent: list[Any] = []

    async def receive() -> Row:
        if then == "silence":
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    monkeypatch.setattr(json_route, "BODY_SECONDS", 0.01)
    scope = {"type": "http", "method": "POST", "path": "/predict", "query_string": b"", "headers": []}
    before = figure(client, 'http_requests_total{path="/predict",status="408"}', 0)
    asyncio.run(quiet(scope, receive, send))
    assert sent[0]["status"] == 408
    assert json.loads(sent[1]["body"]) == {"detail": "the request body timed out"}
    assert figure(client, 'http_requests_total{path="/predict",status="408"}') == before + 1


def test_a_body_that_comes_in_chunks_is_read(client: TestClient, row: Row) -> None:
    body = json.dumps({"rows": [row]}).encode()
    parts = (body[i : i + 10] for i in range(0, len(body), 10))
    assert client.post("/predict", content=parts).status_code == 200


def test_a_parameter_that_makes_no_sense_is_refused_and_counted(client: TestClient, row: Row) -> None:
    before = figure(client, 'http_requests_total{path="/predict",status="422"}', 0)
    for value in ("maybe", "%ff", ""):
        response = client.post(f"/predict?features={value}", json={"rows": [row]})
        assert response.status_code == 422
        assert [set(error) for error in response.json()["detail"]] == [{"loc", "msg", "type"}]
        assert response.json()["detail"][0]["loc"] == ["query", "features"]
    assert figure(client, 'http_requests_total{path="/predict",status="422"}') == before + 3


LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text() | st.datetimes().map(str)
ANY = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)
NAMES = st.sampled_from("parcel due ordered courier city distance weight sender other".split())


@PROPERTY
@given(
    ANY | st.dictionaries(st.sampled_from(["rows", "columns", "other"]), ANY),
    st.dictionaries(NAMES, LEAVES | st.just("2024-04-01T15:00:00Z"), max_size=3),
    st.sampled_from(["/predict", "/predict?features=true", "/predict/features"]),
)
def test_any_json_is_answered_or_refused(client: TestClient, row: Row, body: Any, change: Row, path: str) -> None:
    for asked in (body, {"rows": [row | change]}, {"columns": columns([row | change])}):
        response = client.post(path, content=json.dumps(asked))
        assert response.status_code in {200, 422}, response.text
        assert json.loads(response.content, parse_constant=pytest.fail)


# --- together


def ask(app: FastAPI, rows: list[Row], layout: str = "rows") -> PredictionRequest:
    model = request_model(row_model(workspace_of(app).problem.entity), max_rows=200)
    parsed = model.model_validate({layout: rows if layout == "rows" else columns(rows)})
    return PredictionRequest(parsed, show_features=True, id="me")


def computed(app: FastAPI, requests: Sequence[PredictionRequest]) -> list[bytes | Exception]:
    return service_of(app)._compute(requests, raw=True)


@PROPERTY
@given(
    st.lists(
        st.tuples(st.integers(0, 44), st.integers(1, 4), st.sampled_from(["rows", "columns"])), min_size=1, max_size=6
    )
)
@pytest.mark.usefixtures("client")
def test_requests_that_are_computed_together_are_answered_as_each_alone(
    quiet: FastAPI, many: list[Row], asked: list[tuple[int, int, str]]
) -> None:
    requests = [ask(quiet, many[start : start + n], layout) for start, n, layout in asked]
    together = computed(quiet, requests)
    assert all(isinstance(response, bytes) for response in together)
    assert together == [computed(quiet, [request])[0] for request in requests]


def test_a_request_that_breaks_the_features_spoils_no_other(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rows, service = said(rows_of(workspace_of(app), 3)), service_of(app)
    service.reloader.refresh()
    model = service.reloader.model
    assert model
    predict = model.predict

    def failing(rows: pl.DataFrame, *, now: datetime) -> PredictionBatch:
        if "XX" in rows["courier"]:
            raise pl.exceptions.ComputeError("conversion failed\nin many lines")
        return predict(rows, now=now)

    monkeypatch.setattr(model, "predict", failing)
    requests = [ask(app, [rows[0]]), ask(app, [rows[1], rows[1] | {"courier": "XX"}]), ask(app, [rows[2]])]
    first, broken, last = service.raw._results(requests)
    assert [first, last] == [computed(app, [requests[i]])[0] for i in (0, 2)]
    assert isinstance(broken, PredictionFailed)
    for client in asking(app):
        response = client.post("/predict", json={"rows": [rows[1] | {"courier": "XX"}]})
        assert (response.status_code, response.json()) == (503, {"detail": "the prediction failed"})
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "serve     the prediction failed: conversion failed"
    ]


def test_features_that_lose_a_row_give_no_answer_to_another(app: FastAPI) -> None:
    workspace = workspace_of(app)
    build = workspace.problem.build

    def losing(rows: Frame, history: Mapping[str, Frame]) -> Frame:
        return build(rows, history).filter(nw.col("courier") != "XX")

    changed = dataclasses.replace(workspace.problem, build=losing)
    for client in asking(create_app(Workspace(workspace.root, workspace.settings, changed), now=START)):
        rows = said(rows_of(workspace, 2))
        assert client.post("/predict", json={"rows": rows}).status_code == 200
        refused = client.post("/predict", json={"rows": [rows[0] | {"courier": "XX"}, rows[1]]})
        assert (refused.status_code, refused.json()) == (503, {"detail": "the prediction failed"})


def test_features_that_look_at_the_rows_asked_for_are_computed_for_each_request(app: FastAPI) -> None:
    workspace = workspace_of(app)
    build = workspace.problem.build

    def counting(rows: Frame, history: Mapping[str, Frame]) -> Frame:
        built, hour = build(rows, history).drop("distance"), timedelta(hours=1)
        return windows.trailing(
            built, rows, when=PREDICTED_AT, window=hour, sums={"distance": nw.lit(1)}, by=["courier"]
        )

    changed = dataclasses.replace(workspace.problem, build=counting)
    for client in asking(create_app(Workspace(workspace.root, workspace.settings, changed), now=START)):
        row = said(rows_of(workspace, 1))[0]
        for many in (1, 3):
            answer = client.post("/predict?features=true", json={"rows": [row] * many}).json()
            assert [features["distance"] for features in answer["features"]] == [many] * many


def test_an_answer_that_is_no_number_is_not_given(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    for client in asking(app):
        rows = said(rows_of(workspace_of(app), 2))
        service = service_of(app)
        assert service.reloader.model
        predictor = service.reloader.model.release.predictor
        monkeypatch.setattr(predictor, "predict", lambda rows: np.where(rows["courier"] == "XX", np.nan, 0.5))
        response = client.post("/predict", json={"columns": columns([rows[0], rows[1] | {"courier": "XX"}])})
        assert (response.status_code, response.json()) == (503, {"detail": "the prediction is not a number"})
        assert client.post("/predict", json={"rows": rows}).json()["rows"][0]["probability"] == 0.5
        assert figure(client, 'rejected_requests_total{reason="the prediction is not a number"}') == 1
        assert service.log
        service.log.flush()
        kept = workspace_of(app).lake.read(REQUESTS, {}).collect()
        assert kept["_prediction"].is_null().to_list() == [True, True, False, False]


@asynccontextmanager
async def batching(
    compute: Callable[[Sequence[int]], Sequence[bytes | Exception]], queued: int
) -> AsyncIterator[Batcher[int, bytes]]:
    batcher = Batcher[int, bytes](compute, max_queued_rows=queued)
    yield batcher
    batcher.close()


async def batched(sizes: list[int], queued: int = 10_000) -> list[list[int]]:
    """Which requests of these sizes are computed together, when all but the first come while it is computed."""
    loop, first = asyncio.get_running_loop(), asyncio.Event()
    taken: list[list[int]] = []
    others = threading.Event()

    def compute(items: Sequence[int]) -> list[bytes]:
        taken.append(list(items))
        loop.call_soon_threadsafe(first.set)
        assert others.wait(60)
        return [b"%d" % item for item in items]

    async with batching(compute, queued) as batcher:
        asking = [asyncio.create_task(batcher.submit(sizes[0], rows=sizes[0]))]
        await first.wait()
        asking += [asyncio.create_task(batcher.submit(size, rows=size)) for size in sizes[1:]]
        await asyncio.sleep(0)
        others.set()
        results = await asyncio.gather(*asking)
    assert results == [b"%d" % size for size in sizes]
    return taken


async def answered(compute: Callable[[Sequence[int]], list[bytes]], sizes: list[int], done: Callable[[], None]) -> None:
    """Submit so many rows each, and say when the last of them is answered; then all must be."""
    async with batching(compute, 10_000) as batcher:
        asking = [asyncio.create_task(batcher.submit(size, rows=size)) for size in sizes]
        await asyncio.wait_for(asking[-1], 60)
        done()
        await asyncio.gather(*asking)


def test_large_requests_are_computed_side_by_side_and_small_ones_do_not_wait_for_one() -> None:
    both, small = threading.Barrier(2, timeout=60), threading.Event()

    def together(items: Sequence[int]) -> list[bytes]:
        both.wait()
        return [b"" for _ in items]

    def waits(items: Sequence[int]) -> list[bytes]:
        assert items[0] <= BATCH_ROWS or small.wait(60)
        return [b"" for _ in items]

    asyncio.run(answered(together, [BATCH_ROWS + 1, BATCH_ROWS + 1], lambda: None))
    asyncio.run(answered(waits, [BATCH_ROWS + 1, 1], small.set))


def test_requests_that_come_while_others_are_computed_are_computed_together_up_to_a_size() -> None:
    assert asyncio.run(batched([1, 1, 1, 1])) == [[1], [1, 1, 1]]
    assert asyncio.run(batched([1, BATCH_ROWS, 1, BATCH_ROWS - 1, 1])) == [[1], [BATCH_ROWS], [1, BATCH_ROWS - 1], [1]]
    assert asyncio.run(batched([5 * BATCH_ROWS, 2 * BATCH_ROWS])) == [[5 * BATCH_ROWS], [2 * BATCH_ROWS]]


def test_a_request_is_refused_where_too_many_rows_are_queued() -> None:
    assert asyncio.run(batched([1, 20], queued=10)) == [[1], [20]], "alone, a request of any size is let in"
    with pytest.raises(QueueFull):
        asyncio.run(batched([1, 6, 5], queued=10))


def test_a_busy_service_says_when_to_try_again(quiet: FastAPI, client: TestClient, row: Row) -> None:
    batcher = service_of(quiet).raw
    batcher.queued_rows += 50_000
    response = client.post("/predict", json={"rows": [row]})
    batcher.queued_rows -= 50_000
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert response.json() == {"detail": "more than 50000 rows are queued: try again later"}
    assert client.post("/predict", json={"rows": [row]}).status_code == 200


# --- as any other FastAPI application


def test_a_middleware_of_the_user_sees_predictions(app: FastAPI) -> None:
    @app.middleware("http")
    async def name_server(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        response.headers["X-Server"] = request.url.path
        return response

    for client in asking(app):
        rows = said(rows_of(workspace_of(app), 1))
        response = client.post("/predict", json={"rows": rows})
        assert (response.status_code, response.headers["x-server"]) == (200, "/predict")
        assert client.post("/predict", json={"rows": []}).headers["x-server"] == "/predict"


def test_a_dependency_of_the_user_guards_predictions_and_no_probe(app: FastAPI) -> None:
    async def authenticate(request: Request) -> None:
        if request.headers.get("authorization") != "Bearer secret":
            raise HTTPException(401, "who are you?", {"WWW-Authenticate": "Bearer"})

    guarded = create_app(workspace_of(app), now=START, dependencies=[Depends(authenticate)])
    for client in asking(guarded):
        rows = said(rows_of(workspace_of(app), 1))
        for body in ({"rows": rows}, {"rows": [{"parcel": "secret"}]}):
            for path in ("/predict", "/predict/features"):
                response = client.post(path, json=body)
                assert (response.status_code, response.json()) == (401, {"detail": "who are you?"})
                assert response.headers["www-authenticate"] == "Bearer"
        allowed = client.post("/predict", json={"rows": rows}, headers={"Authorization": "Bearer secret"})
        assert allowed.status_code == 200
        assert client.get("/readyz").status_code == 200
        assert figure(client, 'http_requests_total{path="/predict",status="401"}') == 2


def test_an_exception_handler_of_the_user_answers_in_place_of_the_service(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return JSONResponse({"wrong": [found["type"] for found in error.errors()]}, 400)

    @app.exception_handler(HTTPException)
    async def failed(_: Request, error: HTTPException) -> Response:
        return JSONResponse({"failed": error.detail}, 599)

    for client in asking(app):
        rows = said(rows_of(workspace_of(app), 1))
        invalid_value = client.post("/predict", json={"rows": [rows[0] | {"parcel": "1"}]})
        assert (invalid_value.status_code, invalid_value.json()) == (400, {"wrong": ["int_type"]})
        rule = client.post("/predict", json={"rows": [rows[0] | {"distance": 1}]})
        assert (rule.status_code, rule.json()) == (400, {"wrong": ["rule"]})
        no_json = client.post("/predict", content=b"", headers={"Content-Type": "text/csv"})
        assert (no_json.status_code, no_json.json()) == (599, {"failed": "send application/json, not compressed"})
