"""Each part can be left out, and what a user adds in `shared/extensions.py` takes effect."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

import my_ml_project
from my_ml_project.core.models.evaluation import Predictions
from my_ml_project.core.parts import Alert, Check, Event, Part, Severity, installed
from my_ml_project.core.store.candidates import Candidate
from my_ml_project.core.store.releases import Release
from my_ml_project.core.workspace import Workspace
from my_ml_project.production import lifecycle
from my_ml_project.production.gate import gate
from my_ml_project.production.monitor import monitor
from my_ml_project.production.notifications import notify
from my_ml_project.production.promote import _release_checks
from my_ml_project.production.service.app import create_app
from my_ml_project.production.train import train

PROJECT = Path(my_ml_project.__file__).parents[2]
PACKAGE = my_ml_project.__name__
PARTS = {
    "production/service": ("app.py",),
    "production/erasure": (),
    "production/simulation": (),
    "research/init": (),
    "research/views": ("research/reports",),
    "research/tuning": (),
    "research/labels": (),
}
DAY = timedelta(days=1)


# --- leaving out


def test_every_part_is_known_here() -> None:
    assert len(installed()) == len(PARTS)
    assert all((PROJECT / "src" / PACKAGE / name / "__init__.py").is_file() for name in PARTS)


@pytest.fixture(scope="session")
def types(once: Callable[..., Path]) -> Path:
    """A cache of mypy, filled by the whole project."""
    return once("types", lambda folder: checked(PROJECT, folder))


def checked(project: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "mypy", "--cache-dir", str(cache), "src"]
    return subprocess.run(line, cwd=project, capture_output=True, encoding="utf-8", check=False)


@pytest.mark.parametrize("part", PARTS)
def test_a_project_without_a_part_keeps_its_imports_types_and_commands(part: str, types: Path, tmp_path: Path) -> None:
    shutil.copytree(PROJECT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "pyproject.toml", tmp_path)
    for name in (part, *PARTS[part]):
        path = tmp_path / "src" / PACKAGE / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    env = os.environ | {"PYTHONPATH": str(tmp_path / "src")}
    lint = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    for line in (["-c", lint, "--no-cache"], ["-m", PACKAGE, "--help"]):
        done = subprocess.run(
            [sys.executable, *line], cwd=tmp_path, env=env, capture_output=True, encoding="utf-8", check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    found = checked(tmp_path, Path(shutil.copytree(types, tmp_path / "types")))
    assert found.returncode == 0, found.stdout


# --- extensions


def extended(workspace: Workspace, part: Part) -> Workspace:
    """The workspace of the same project, with a user's extensions."""
    return replace(workspace, problem=replace(workspace.problem, extensions=part))


def share_above_half(predictions: Predictions) -> float:
    return float((predictions.prediction > 0.5).mean())


def test_a_metric_of_ones_own_is_tracked_and_can_be_limited(trained: Workspace) -> None:
    own = extended(trained, Part(metrics={"share_above_half": share_above_half}))
    candidate = train(own, as_of=own.now() + DAY).candidate
    assert 0 < candidate.metrics["share_above_half"] < 1
    (own.root / "config" / "acceptance.toml").write_text("[at_most]\nshare_above_half = 0.0\n", encoding="utf-8")
    verdict = gate(extended(trained, own.problem.extensions))
    (check,) = (check for check in verdict.checks if check.name.startswith("share_above_half"))
    assert (check.passed, verdict.ok) == (False, False)


def test_a_check_of_ones_own_can_refuse_a_challenger(trained: Workspace) -> None:
    def enough_rows(_: Workspace, candidate: Candidate) -> Iterator[Check]:
        yield Check("a million rows", passed=len(candidate.holdout) > 1_000_000, detail=str(len(candidate.holdout)))

    own = extended(trained, Part(gate_checks=(enough_rows,)))
    train(own, as_of=own.now() + DAY)
    assert "a million rows" in [check.name for check in gate(own).checks if not check.passed]


def test_a_check_of_ones_own_is_part_of_monitoring(trained: Workspace) -> None:
    def battery(_workspace: Workspace, champion: Release, now: datetime) -> Iterator[Alert]:
        yield Alert("battery", Severity.CRITICAL, f"empty, version {champion.version}, {now:%Y}")

    health = monitor(extended(trained, Part(monitor_checks=(battery,))))
    assert (health.ok, health.critical[-1].detail) == (False, f"empty, version 1, {trained.now():%Y}")


def test_a_release_check_of_ones_own_can_refuse_a_release(trained: Workspace) -> None:
    def never(_workspace: Workspace, _release: Release) -> Iterator[Check]:
        yield Check("never", passed=False, detail="on no day")

    own = extended(trained, Part(release_checks=(never,)))
    (release,) = trained.releases.newest(1)
    assert _release_checks(own, release)[-1] == Check("never", passed=False, detail="on no day")


def failing(*_: object, **__: object) -> None:
    raise ValueError("the disk is full")


def test_whoever_is_registered_hears_of_what_a_person_must_act_on(
    trained: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Event] = []
    own = extended(trained, Part(notify=heard.append))
    assert lifecycle.run(own, now=trained.now()).ok
    assert heard == []
    (trained.path(trained.settings.inbox) / "flights").mkdir(parents=True, exist_ok=True)
    (trained.path(trained.settings.inbox) / "flights" / "broken.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    assert not lifecycle.run(own, now=trained.now()).ok
    assert "broken.csv" in heard[-1].detail
    assert (heard[-1].project, heard[-1].subject) == (PACKAGE.replace("_", "-"), "a person must act")
    monkeypatch.setattr(lifecycle, "run_due", failing)
    with pytest.raises(ValueError, match="the disk is full"):
        lifecycle.run(own)
    assert (heard[-1].subject, heard[-1].detail) == ("run failed", "the disk is full")


def test_an_event_is_posted_to_the_webhook(trained: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    posted: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setattr(lifecycle, "run_due", failing)
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        settings = type(trained.settings)(webhook=f"http://127.0.0.1:{server.server_port}/hook?token=secret")
        with pytest.raises(ValueError, match="the disk is full"):
            lifecycle.run(replace(trained, settings=settings))
    event = json.loads(posted[0])
    assert (event["subject"], event["detail"]) == ("run failed", "the disk is full")
    assert event["text"] == f"{event['project']}: run failed\nthe disk is full"
    assert datetime.fromisoformat(event["at"]) <= datetime.now(UTC)


def test_a_notification_that_fails_stops_nothing(trained: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    settings = type(trained.settings)(webhook="http://127.0.0.1:1/secret")
    own = replace(extended(trained, Part(notify=failing)), settings=settings)
    (trained.path(trained.settings.inbox) / "flights").mkdir(parents=True, exist_ok=True)
    (trained.path(trained.settings.inbox) / "flights" / "broken.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    assert not lifecycle.run(own, now=trained.now()).ok
    lines = [line for line in caplog.messages if line.startswith("notify")]
    assert lines[0] == "notify    a notification could not be sent: the disk is full"
    assert len(lines) == 2
    assert "secret" not in lines[1]


def test_the_application_can_be_changed(trained: Workspace) -> None:
    def add_route(app: FastAPI) -> None:
        @app.get("/mine")
        def mine() -> str:
            return "here"

    own = extended(trained, Part(configure_app=add_route))
    with TestClient(create_app(own, log_requests=False)) as client:
        assert client.get("/mine").json() == "here"


PAGE = PROJECT / "docs" / "guide" / "extensions.md"
(EXAMPLE,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_example_on_the_page_of_extensions_works(
    trained: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "extensions.py").write_text(EXAMPLE, encoding="utf-8")
    own = extended(trained, runpy.run_path(str(tmp_path / "extensions.py"))["EXTENSIONS"])
    assert all(getattr(own.problem.extensions, field.name) for field in fields(Part)), "a field has no example"
    candidate = train(own, as_of=own.now() + DAY).candidate
    assert 0 < candidate.metrics["share_of_alerts"] < 1
    assert "window of at least 50 rows" in [check.name for check in gate(own).checks if check.passed]
    (release,) = own.releases.newest(1)
    assert [check.name for check in _release_checks(own, release)][-1] == "model below 100 MB"
    assert "disk" in [finding.name for finding in monitor(own).alerts]
    notify(own, "run failed", "for a test")
    assert caplog.messages[-1] == "run failed: for a test"
    with TestClient(create_app(own, log_requests=False)) as client:
        assert client.get("/about").json() == {"team": "ours"}


def test_a_command_of_ones_own_is_listed_and_runs(trained: Workspace, tmp_path: Path) -> None:
    shutil.copytree(PROJECT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    extensions = tmp_path / "src" / PACKAGE / "shared" / "extensions.py"
    extensions.write_text(EXAMPLE, encoding="utf-8")
    env = os.environ | {"PYTHONPATH": str(tmp_path / "src")}

    def said(*arguments: str) -> str:
        line = [sys.executable, "-m", PACKAGE, *arguments]
        done = subprocess.run(line, cwd=trained.root, env=env, capture_output=True, encoding="utf-8", check=False)
        return done.stdout + done.stderr

    assert re.search(r"^  releases +List the newest releases\.$", said("--help"), re.MULTILINE)
    assert re.fullmatch(r"1  version 1  \d{4}-\d\d-\d\d\n", said("releases", "--n", "1"))
    extensions.write_text("commands=(", encoding="utf-8")
    assert "could not import shared and its commands: SyntaxError" in said("--help")
    assert "Daily:" in said("--help")
