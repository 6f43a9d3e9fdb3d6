"""The service, asked in this process: what it answers, what it refuses, what it follows, and what it keeps."""

import asyncio
import dataclasses
import json
import logging
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from {{cookiecutter.__package_name}}.production.predict import champion, features_for, predict_rows
from {{cookiecutter.__package_name}}.production.service import serve
from {{cookiecutter.__package_name}}.production.service.answering import TOGETHER, Ask, Batcher, Busy, Reply
from {{cookiecutter.__package_name}}.production.service.online import Answered
from {{cookiecutter.__package_name}}.production.service.request import Asked, Layout
from {{cookiecutter.__package_name}}.production.service.serve import Service
from {{cookiecutter.__package_name}}.shared import windows
from {{cookiecutter.__package_name}}.shared.requests import TABLE
from {{cookiecutter.__package_name}}.shared.schema import AT, Frame
from {{cookiecutter.__package_name}}.shared.user_problem import PROBLEM
from {{cookiecutter.__package_name}}.shared.workspace import Workspace, open_workspace

START = datetime(2013, 4, 1, tzinfo=UTC)  # when the trained project's champion was promoted
AHEAD = timedelta(hours=24)
PROPERTY = settings(deadline=None, max_examples=60, derandomize=True, database=None)
QUIET = {"serve_looks": 3600, "serve_keeps": 3600}  # seconds: what is looked at and kept, the tests say

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


def asking(service: Service) -> Iterator[TestClient]:
    service.online.refresh()
    with TestClient(service.app()) as client:
        yield client


@pytest.fixture(scope="module")
def quiet(trained_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Service:
    """A service that nothing changes."""
    return Service(opened(trained_folder, tmp_path_factory.mktemp("quiet") / "project", serve_rows=200), now=START)


@pytest.fixture(scope="module")
def client(quiet: Service) -> Iterator[TestClient]:
    """Who asks it."""
    yield from asking(quiet)


@pytest.fixture
def service(trained_folder: Path, tmp_path: Path) -> Service:
    """A service that a test may change."""
    return Service(opened(trained_folder, tmp_path / "project"), now=START)


def workspace_of(service: Service) -> Workspace:
    return service.online._workspace


def rows_of(workspace: Workspace, n: int) -> pl.DataFrame:
    """Flights of the lake that are still to come."""
    schema = workspace.problem.schema
    coming = workspace.lake.scan(schema).filter(pl.col("scheduled").is_between(START, START + AHEAD))
    return coming.select(schema.names).sort("scheduled", "leg").head(n).collect()


def said(rows: pl.DataFrame) -> list[Row]:
    """Rows as JSON has them."""
    return [
        {name: value.isoformat() if hasattr(value, "isoformat") else value for name, value in row.items()}
        for row in rows.to_dicts()
    ]


def columns(rows: list[Row]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


@pytest.fixture(scope="module")
def row(quiet: Service) -> Row:
    """A request's row."""
    return said(rows_of(workspace_of(quiet), 1))[0]


@pytest.fixture(scope="module")
def many(quiet: Service) -> list[Row]:
    """Rows of requests."""
    return said(rows_of(workspace_of(quiet), 100))


def figure(client: TestClient, name: str, default: float = -1) -> float:
    lines = client.get("/metrics").text.splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} ")), default)


# --- answers


def test_rows_are_answered_as_a_file_is_predicted_in_both_layouts(quiet: Service, client: TestClient) -> None:
    workspace, rows = workspace_of(quiet), rows_of(workspace_of(quiet), 50)
    expected = predict_rows(workspace, champion(workspace), rows, now=START).select("probability", "decision")
    answer = client.post("/predict", json={"rows": said(rows)}).json()
    assert pl.DataFrame(answer["rows"]).equals(expected)
    assert answer["version"] == 1
    assert set(answer["history_age"]) == set(workspace.problem.schemas)
    assert 0 <= answer["history_age"]["weather"] < 86400
    other = client.post("/predict", json={"columns": columns(said(rows))}).json()
    assert other["columns"] == expected.to_dict(as_series=False)
    assert other["id"] != answer["id"]
    for i in (0, 7):
        assert client.post("/predict", json={"rows": said(rows[i : i + 1])}).json()["rows"] == expected[i].to_dicts()


def test_features_are_shown_on_demand_and_give_the_same_answers_when_they_are_sent(
    quiet: Service, client: TestClient
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


def test_a_value_that_is_unknown_to_a_growing_category_is_answered(client: TestClient, row: Row) -> None:
    for unknown in ("??", "", "a\x00b", "\U0001f600", "x" * 10_000):
        answer = client.post("/predict", json={"rows": [row | {"carrier": unknown}]})
        assert 0 < answer.json()["rows"][0]["probability"] < 1


def test_a_service_tells_that_it_lives_who_answers_and_how_to_ask(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"version": 1}
    described = client.get("/openapi.json").json()
    assert described["info"]["version"] == "1"
    body = described["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    for layout in ("rows", "columns"):
        refused = client.post("/predict", json=body["examples"][layout]["value"]).json()["detail"]
        assert {error["msg"].split(":")[0] for error in refused} == {"scheduled is not long past"}
    body = described["paths"]["/predict/features"]["post"]["requestBody"]["content"]["application/json"]
    for layout in ("rows", "columns"):
        assert client.post("/predict/features", json=body["examples"][layout]["value"]).status_code == 200


# --- refusals

WRONG = [
    ({"leg": None}, "leg", "int_type"),
    ({"leg": 1.5}, "leg", "int_type"),
    ({"leg": "1"}, "leg", "int_type"),
    ({"leg": True}, "leg", "int_type"),
    ({"leg": 2**63}, "leg", "less_than_equal"),
    ({"leg": 10**400}, "leg", "less_than_equal"),
    ({"leg": 0}, "leg", "greater_than"),
    ({"carrier": 7}, "carrier", "string_type"),
    ({"carrier": ["DL"]}, "carrier", "string_type"),
    ({"scheduled": "2013-04-01T12:00:00"}, "scheduled", "timezone_aware"),
    ({"scheduled": 1364817600}, "scheduled", "iso"),
    ({"scheduled": "1364817600"}, "scheduled", "iso"),
    ({"scheduled": "2013-04-31T12:00:00Z"}, "scheduled", "datetime_from_date_parsing"),
    ({"local_date": "0"}, "local_date", "iso"),
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


@pytest.mark.parametrize("name", ["leg", "scheduled", "destination"])
def test_a_column_that_is_missing_is_named(client: TestClient, row: Row, name: str) -> None:
    less = {other: value for other, value in row.items() if other != name}
    (error,) = client.post("/predict", json={"rows": [less]}).json()["detail"]
    assert error == {"loc": ["body", "rows", 0, name], "msg": "Field required", "type": "missing"}
    (error,) = client.post("/predict", json={"columns": columns([less])}).json()["detail"]
    assert error["loc"] == ["body", "columns", name]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"destination": "ATL", "distance": 763}, "distance belongs to destination"),
        ({"scheduled": "0001-01-01T00:00:00+14:00"}, "scheduled is not long past: predict FILE answers for older rows"),
        ({"scheduled": "0001-01-01T00:00:00Z"}, "scheduled is not long past: predict FILE answers for older rows"),
        ({"scheduled": "9999-12-31T23:59:59-14:00", "local_minute": 1}, "local_minute is New York's"),
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
    "bytes that are no text": b'{"rows": [{"carrier": "\xff\xfe"}]}',
    "a surrogate": b'{"rows": [{"carrier": "\\ud800"}]}',
    "a surrogate as a key": b'{"rows": [{"\\udfff": 1}]}',
    "not a number": b'{"rows": [{"leg": NaN}]}',
    "infinity": b'{"rows": [{"leg": -Infinity}]}',
    "a number of 5000 digits": b'{"rows": [{"leg": ' + b"9" * 5000 + b"}]}",
    "deep lists": b"[" * 100_000,
    "deep rows": b'{"rows": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"rows": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001,
    "201 rows": b'{"rows": [' + b",".join([b"{}"] * 201) + b"]}",
    "a million rows": b'{"rows": [' + b",".join([b"{}"] * 1_000_000) + b"]}",
    "a million values": b'{"columns": {"leg": [' + b",".join([b"1"] * 1_000_000) + b"]}}",
    "100 thousand wrong values": b'{"columns": {"leg": [' + b",".join([b"[]"] * 100_000) + b"]}}",
    "many columns": b'{"rows": [{' + b",".join(b'"%d": 1' % i for i in range(100_000)) + b"}]}",
    "a column of another length": b'{"columns": {"leg": [1], "number": [1, 2]}}',
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
    body = {"columns": columns([row]) | {"leg": [1, 2]}}
    (error,) = client.post("/predict", json=body).json()["detail"]
    assert error["loc"] == ["body", "columns"]
    assert error["msg"].startswith("columns have one length, not {'leg': 2, 'scheduled': 1")


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
    quiet: Service, client: TestClient, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    sent: list[Any] = []

    async def receive() -> Row:
        if then == "silence":
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    monkeypatch.setattr(serve, "PATIENCE", 0.01)
    scope = {"type": "http", "method": "POST", "path": "/predict", "query_string": b"", "headers": []}
    before = figure(client, 'http_requests_total{path="/predict",status="408"}', 0)
    asyncio.run(quiet.app()(scope, receive, send))
    assert sent[0]["status"] == 408
    assert json.loads(sent[1]["body"]) == {"detail": "the body did not come"}
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
NAMES = st.sampled_from("leg scheduled local_date local_minute carrier number destination distance other".split())


@PROPERTY
@given(
    ANY | st.dictionaries(st.sampled_from(["rows", "columns", "other"]), ANY),
    st.dictionaries(NAMES, LEAVES | st.just("2013-04-01T15:00:00Z"), max_size=3),
    st.sampled_from(["/predict", "/predict?features=true", "/predict/features"]),
)
def test_any_json_is_answered_or_refused(client: TestClient, row: Row, body: Any, change: Row, path: str) -> None:
    for asked in (body, {"rows": [row | change]}, {"columns": columns([row | change])}):
        response = client.post(path, content=json.dumps(asked))
        assert response.status_code in {200, 422}, response.text
        assert json.loads(response.content, parse_constant=pytest.fail)


# --- together


def ask(service: Service, rows: list[Row], layout: Layout = Layout.ROWS, *, shows: bool = True) -> Ask:
    assert service.online.prepared
    reader = service.answering.raw
    asked = reader.read(json.dumps({layout: rows if layout is Layout.ROWS else columns(rows)}).encode())
    return Ask("me", asked, reader, service.online.prepared, ready=False, shows=shows)


@PROPERTY
@given(st.lists(st.tuples(st.integers(0, 90), st.integers(1, 4), st.sampled_from(Layout)), min_size=1, max_size=6))
@pytest.mark.usefixtures("client")
def test_requests_that_are_answered_together_are_answered_as_each_alone(
    quiet: Service, many: list[Row], asked: list[tuple[int, int, Layout]]
) -> None:
    asks = [ask(quiet, many[start : start + n], layout) for start, n, layout in asked]
    together = quiet.answering.answer(asks)
    assert [reply.status for reply in together] == [200] * len(asks)
    assert together == [quiet.answering.answer([one])[0] for one in asks]


def test_a_request_that_breaks_the_features_spoils_no_other(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service.online.refresh()
    rows = said(rows_of(workspace_of(service), 3))
    prepared = service.online.prepared
    assert prepared
    whole = prepared.answer

    def answer(rows: pl.DataFrame, *, now: datetime) -> Answered:
        if "XX" in rows["carrier"]:
            raise pl.exceptions.ComputeError("conversion failed\nin many lines")
        return whole(rows, now=now)

    monkeypatch.setattr(prepared, "answer", answer)
    asks = [ask(service, [rows[0]]), ask(service, [rows[1], rows[1] | {"carrier": "XX"}]), ask(service, [rows[2]])]
    replies = service.answering.answer(asks)
    assert [reply.status for reply in replies] == [200, 503, 200]
    assert json.loads(replies[1].content) == {"detail": "no answer can be computed"}
    assert [json.loads(replies[i].content)["rows"] for i in (0, 2)] == [
        json.loads(service.answering.answer([asks[i]])[0].content)["rows"] for i in (0, 2)
    ]
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "serve     no answer can be computed: conversion failed"
    ]


def test_features_that_lose_a_row_give_no_answer_to_another(service: Service) -> None:
    workspace = workspace_of(service)
    build = workspace.problem.build

    def losing(rows: Frame, history: Mapping[str, Frame]) -> Frame:
        return build(rows, history).filter(nw.col("carrier") != "XX")

    changed = dataclasses.replace(workspace.problem, build=losing)
    for client in asking(Service(Workspace(workspace.root, workspace.settings, changed), now=START)):
        rows = said(rows_of(workspace, 2))
        assert client.post("/predict", json={"rows": rows}).status_code == 200
        refused = client.post("/predict", json={"rows": [rows[0] | {"carrier": "XX"}, rows[1]]})
        assert (refused.status_code, refused.json()) == (503, {"detail": "no answer can be computed"})


def test_features_that_look_at_the_rows_asked_for_are_computed_for_each_request(service: Service) -> None:
    workspace = workspace_of(service)
    build = workspace.problem.build

    def counting(rows: Frame, history: Mapping[str, Frame]) -> Frame:
        built, hour = build(rows, history).drop("distance"), timedelta(hours=1)
        return windows.trailing(built, rows, when=AT, window=hour, sums={"distance": nw.lit(1)}, by=["carrier"])

    changed = dataclasses.replace(workspace.problem, build=counting)
    for client in asking(Service(Workspace(workspace.root, workspace.settings, changed), now=START)):
        row = said(rows_of(workspace, 1))[0]
        for many in (1, 3):
            answer = client.post("/predict?features=true", json={"rows": [row] * many}).json()
            assert [features["distance"] for features in answer["features"]] == [many] * many


def test_an_answer_that_is_no_number_is_not_given(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    for client in asking(service):
        rows = said(rows_of(workspace_of(service), 2))
        assert service.online.prepared
        predictor = service.online.prepared.release.predictor
        monkeypatch.setattr(predictor, "predict", lambda rows: np.where(rows["carrier"] == "XX", np.nan, 0.5))
        response = client.post("/predict", json={"columns": columns([rows[0], rows[1] | {"carrier": "XX"}])})
        assert (response.status_code, response.json()) == (503, {"detail": "the model gives no number"})
        assert client.post("/predict", json={"rows": rows}).json()["rows"][0]["probability"] == 0.5
        assert figure(client, 'breaches_total{reason="the model gives no number"}') == 1
        assert service.log
        service.log.append()
        kept = workspace_of(service).lake.read(TABLE, {}).collect()
        assert kept["_answer"].is_null().to_list() == [True, True, False, False]


def asked_for(rows: int) -> Ask:
    return Ask("me", Asked(Layout.ROWS, {}, rows), None, None, ready=False, shows=False)  # type: ignore[arg-type]


@asynccontextmanager
async def batching(work: Callable[[list[Ask]], list[Reply]], waiting: int = 10_000) -> AsyncIterator[Batcher]:
    """A batcher that runs."""
    batcher = Batcher(work, waiting=waiting)
    running = asyncio.create_task(batcher.run())
    try:
        yield batcher
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        batcher.close()


async def batched(sizes: list[int], waiting: int = 10_000) -> list[list[int]]:
    """Which requests of these sizes are worked on together, when all but the first come while it is worked on."""
    loop, first = asyncio.get_running_loop(), asyncio.Event()
    taken: list[list[int]] = []
    others = threading.Event()

    def work(asks: list[Ask]) -> list[Reply]:
        taken.append([one.asked.height for one in asks])
        loop.call_soon_threadsafe(first.set)
        assert others.wait(60)
        return [Reply(200, b"%d" % one.asked.height) for one in asks]

    async with batching(work, waiting) as batcher:
        asking = [asyncio.create_task(batcher.ask(asked_for(sizes[0])))]
        await first.wait()
        asking += [asyncio.create_task(batcher.ask(asked_for(size))) for size in sizes[1:]]
        await asyncio.sleep(0)
        others.set()
        replies = await asyncio.gather(*asking)
    assert [reply.content for reply in replies] == [b"%d" % size for size in sizes]
    return taken


async def answered(work: Callable[[list[Ask]], list[Reply]], sizes: list[int], done: Callable[[], None]) -> None:
    """Ask for so many rows each, and say when the last of them is answered; then all must be."""
    async with batching(work) as batcher:
        asking = [asyncio.create_task(batcher.ask(asked_for(size))) for size in sizes]
        await asyncio.wait_for(asking[-1], 60)
        done()
        await asyncio.gather(*asking)


def test_large_requests_are_computed_side_by_side_and_small_ones_do_not_wait_for_one() -> None:
    both, small = threading.Barrier(2, timeout=60), threading.Event()

    def together(asks: list[Ask]) -> list[Reply]:
        both.wait()
        return [Reply(200, b"") for _ in asks]

    def waits(asks: list[Ask]) -> list[Reply]:
        assert asks[0].asked.height <= TOGETHER or small.wait(60)
        return [Reply(200, b"") for _ in asks]

    asyncio.run(answered(together, [TOGETHER + 1, TOGETHER + 1], lambda: None))
    asyncio.run(answered(waits, [TOGETHER + 1, 1], small.set))


def test_requests_that_come_while_others_are_computed_are_computed_together_up_to_a_size() -> None:
    assert asyncio.run(batched([1, 1, 1, 1])) == [[1], [1, 1, 1]]
    assert asyncio.run(batched([1, TOGETHER, 1, TOGETHER - 1, 1])) == [[1], [TOGETHER], [1, TOGETHER - 1], [1]]
    assert asyncio.run(batched([5 * TOGETHER, 2 * TOGETHER])) == [[5 * TOGETHER], [2 * TOGETHER]]


def test_a_request_is_refused_where_too_many_rows_wait() -> None:
    assert asyncio.run(batched([1, 20], waiting=10)) == [[1], [20]], "alone, a request of any size is let in"
    with pytest.raises(Busy):
        asyncio.run(batched([1, 6, 5], waiting=10))


def test_a_busy_service_says_when_to_try_again(quiet: Service, client: TestClient, row: Row) -> None:
    quiet._batcher.rows += 50_000
    response = client.post("/predict", json={"rows": [row]})
    quiet._batcher.rows -= 50_000
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert response.json() == {"detail": "more than 50000 rows wait for an answer: try again"}
    assert client.post("/predict", json={"rows": [row]}).status_code == 200
