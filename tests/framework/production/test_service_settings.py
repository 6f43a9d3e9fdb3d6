"""The settings of the service: its key, web pages that may call it, the path of a proxy, and its log."""

import json
import logging
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import uvicorn
from starlette.testclient import TestClient

from my_ml_project.core.errors import InputError
from my_ml_project.core.logs import JsonFormatter, set_log_format
from my_ml_project.core.settings import load_settings
from my_ml_project.core.workspace import Workspace
from my_ml_project.production.predict import champion
from my_ml_project.production.service.app import create_app
from my_ml_project.production.service.serve import serve
from my_ml_project.production.service.smoke_test import checks
from problems import PROBLEM, START

KEY = {"X-API-Key": "a secret of the team"}
PAGE = "https://app.example.org"


@pytest.fixture
def project(trained_folder: Path, tmp_path: Path) -> Path:
    for name in ("config", "data/lake"):
        shutil.copytree(trained_folder / name, tmp_path / name)
    return tmp_path


def configured(project: Path, monkeypatch: pytest.MonkeyPatch, **values: str) -> Workspace:
    """The project with settings in its environment."""
    for name, value in values.items():
        monkeypatch.setenv(f"ML_{name.upper()}", value)
    return Workspace(project, load_settings(project), PROBLEM)


@contextmanager
def client(workspace: Workspace) -> Iterator[TestClient]:
    with TestClient(create_app(workspace, now=START)) as asking:
        yield asking


def body(workspace: Workspace) -> dict[str, Any]:
    """A request with one row."""
    schema = workspace.problem.schema
    rows = workspace.lake.scan(schema).filter(pl.col("due") >= START).select(schema.names).head(1).collect()
    return {"rows": json.loads(rows.with_columns(pl.col("due").dt.to_string("iso:strict")).write_json())}


def test_predictions_need_the_key_and_probes_do_not(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = configured(project, monkeypatch, serve_api_key=KEY["X-API-Key"])
    assert KEY["X-API-Key"] not in repr(workspace)
    with client(workspace) as asking:
        for given in ([], [(b"X-API-Key", b"another")], [(b"X-API-Key", b"\xe4")]):
            answer = asking.post("/predict", json=body(workspace), headers=given)
            assert (answer.status_code, answer.json()) == (401, {"detail": "send the API key in the header X-API-Key"})
        assert asking.post("/predict/features", json={"rows": []}).status_code == 401
        assert asking.post("/predict", json=body(workspace), headers=KEY).status_code == 200
        assert {asking.get(path).status_code for path in ("/healthz", "/readyz", "/metrics", "/docs")} == {200}
        (scheme,) = asking.get("/openapi.json").json()["components"]["securitySchemes"].values()
        assert (scheme["type"], scheme["name"]) == ("apiKey", "X-API-Key")


def test_a_short_key_is_an_error_that_does_not_show_it(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="serve_api_key") as raised:
        configured(project, monkeypatch, serve_api_key="hunter2")
    assert "hunter2" not in str(raised.value)


def test_a_release_passes_its_smoke_test_whatever_clients_need(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = configured(project, monkeypatch, serve_api_key=KEY["X-API-Key"])
    found = {check.name: check for check in checks(workspace, champion(workspace), now=START)}
    assert found["golden requests"].passed, found


def test_named_web_pages_may_call_the_service(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key,content-type"}
    workspace = configured(project, monkeypatch, serve_cors_origins=json.dumps([PAGE]))
    with client(workspace) as asking:
        allowed = asking.options("/predict", headers={"Origin": PAGE, **preflight})
        assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, PAGE)
        assert asking.post("/predict", json=body(workspace), headers={"Origin": PAGE}).status_code == 200
        other = asking.options("/predict", headers={"Origin": "https://other.example.org", **preflight})
        assert (other.status_code, "access-control-allow-origin" in other.headers) == (400, False)


def test_behind_a_proxy_the_documentation_names_its_path(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = configured(project, monkeypatch)
    with TestClient(create_app(workspace, now=START), root_path="/late") as asking:
        assert asking.post("/late/predict", json=body(workspace)).status_code == 200  # as uvicorn hands it on
        assert 'http_requests_total{path="/predict",status="200"} 1.0' in asking.get("/late/metrics").text
        assert asking.get("/late/", follow_redirects=False).headers["location"] == "/late/docs"
        assert "/late/openapi.json" in asking.get("/late/docs").text


def test_serve_hands_the_path_of_a_proxy_on(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda server, **_: found.append(server.config.root_path))
    serve(configured(project, monkeypatch, serve_root_path="/late"), port=0, now=START)
    assert found == ["/late"]


@pytest.mark.parametrize("path", ["late", "/late/", "/"])
def test_the_path_of_a_proxy_begins_with_a_slash_and_ends_with_none(
    project: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    with pytest.raises(InputError, match="serve_root_path"):
        configured(project, monkeypatch, serve_root_path=path)


def test_each_request_has_an_id_and_a_line_in_the_access_log(
    project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    workspace = configured(project, monkeypatch, serve_access_log="true")
    with client(workspace) as asking:
        answers = [asking.post("/predict", json=rows) for rows in (body(workspace), {"rows": "none"})]
        asking.get("/healthz")
    assert answers[0].headers["x-request-id"] == answers[0].json()["id"]
    records = [record for record in caplog.records if hasattr(record, "fields")]
    ids = [answer.headers["x-request-id"] for answer in answers]
    lines = [json.loads(JsonFormatter().format(record)) for record in records]
    assert [(line["request_id"], line["path"], line["status"]) for line in lines] == [
        (ids[0], "/predict", 200),
        (ids[1], "/predict", 422),
    ]
    assert all(line["level"] == "INFO" and line["time"] and 0 < line["seconds"] < 60 for line in lines)
    assert f"serve     {ids[0]} /predict 200 " in "\n".join(caplog.messages)


def test_no_request_is_logged_by_default(
    project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    workspace = configured(project, monkeypatch)
    with client(workspace) as asking:
        asking.post("/predict", json=body(workspace))
    assert [record for record in caplog.records if hasattr(record, "fields")] == []


def test_an_error_is_one_line_of_json() -> None:
    try:
        json.loads("no\njson")
    except ValueError:
        record = logging.getLogger("a").makeRecord("a", logging.ERROR, "f", 1, "it %s", ("failed",), sys.exc_info())
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert json.loads(line)["message"] == "it failed"
    assert "JSONDecodeError" in json.loads(line)["error"]


def test_every_handler_of_the_process_writes_json(monkeypatch: pytest.MonkeyPatch) -> None:
    handler = logging.StreamHandler()
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    set_log_format("text")
    assert handler.formatter is None
    set_log_format("json")
    assert isinstance(handler.formatter, JsonFormatter)
