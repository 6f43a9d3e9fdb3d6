"""What the tests share: projects with a champion, made once and copied, of the tiny problem and of the example.

`empty` and `trained` are of the tiny problem, in `problems`; `flights_empty` and `flights` are of the example, for what
is about real data or the project's own files.
"""

import contextlib
import os
import re
import runpy
import shutil
import subprocess
import sys
from base64 import b64decode
from collections.abc import Callable
from datetime import UTC, datetime
from html import unescape
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ |= {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}  # two cores and two workers: one thread each

import marimo
import polars as pl
import pytest
from filelock import FileLock
from matplotlib.figure import Figure
from matplotlib.text import Text

import my_ml_project
from my_ml_project.core import plots
from my_ml_project.core.problem import Problem
from my_ml_project.core.settings import load_settings
from my_ml_project.core.store.registry import Registry, Version
from my_ml_project.core.workspace import Workspace, open_workspace
from my_ml_project.production import lifecycle
from my_ml_project.production.service import smoke_test
from my_ml_project.research.views import report
from my_ml_project.shared import PROBLEM as FLIGHTS
from problems import PROBLEM, START, write_project

os.environ |= dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")
for name in [name for name in os.environ if name.startswith("GIT_")]:
    del os.environ[name]  # by which a Git hook names its own repository

PROJECT = Path(my_ml_project.__file__).parents[2]
FOLDER = Path(__file__).parent  # of the modules that processes of tests import
TAKEN_OFF = datetime(2013, 4, 1, tzinfo=UTC)  # when the champion of `flights` was promoted
LANDED = datetime(2013, 6, 1, tzinfo=UTC)  # the end of the flights that can be collected
TIME = {"flights": "scheduled", "departures": "departed", "outcomes": "known", "weather": "observed"}

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's own settings out."""
    for name in list(os.environ):
        if name.startswith(("ML_", "MLFLOW_", "OPTUNA_")):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Callable[..., Path]:
    """A folder that is made once for all workers: `once(name, make)`, where `make` is given its path."""
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent

    def folder(name: str, make: Callable[[Path], object]) -> Path:
        made, done = shared / name, shared / f"{name}.done"
        with FileLock(f"{made}.lock"):
            if not done.exists():
                make(made)
                done.touch()
        return made

    return folder


@pytest.fixture(scope="session")
def no_runs(once: Callable[..., Path]) -> Path:
    """A registry's folder with MLflow's tables and nothing in them: making them anew takes seconds."""
    return once("mlruns", lambda folder: Registry(str(folder), "none").versions())


class Tracked:
    """What MLflow has of runs and versions."""

    @staticmethod
    def tags(registry: Registry, run_id: str) -> dict[str, str]:
        with registry.reopen(run_id) as run:
            return dict(run.client.get_run(run_id).data.tags)

    @staticmethod
    def metrics(registry: Registry, run_id: str) -> dict[str, float]:
        with registry.reopen(run_id) as run:
            return dict(run.client.get_run(run_id).data.metrics)

    @staticmethod
    def version_tags(registry: Registry, version: Version) -> dict[str, str]:
        with registry.reopen(version.run_id) as run:
            return dict(run.client.get_model_version(registry.model, str(version.number)).tags)

    @staticmethod
    def list_artifacts(registry: Registry, run_id: str) -> list[str]:
        with registry.reopen(run_id) as run:
            return sorted(found.path for found in run.client.list_artifacts(run_id))

    @staticmethod
    def read(registry: Registry, run_id: str, name: str) -> bytes:
        with registry.reopen(run_id) as run, TemporaryDirectory() as folder:
            return Path(run.client.download_artifacts(run_id, name, folder)).read_bytes()


@pytest.fixture
def tracked() -> type[Tracked]:
    return Tracked


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., Workspace]:
    """Another problem, in a project of its own: `opened(problem, acceptance="", params="seed = 0")`."""
    (tmp_path / "config").mkdir()

    def make(problem: Problem, acceptance: str = "", params: str = "seed = 0") -> Workspace:
        (tmp_path / "config" / "acceptance.toml").write_text(acceptance, encoding="utf-8")
        (tmp_path / "config" / "params.toml").write_text(params, encoding="utf-8")
        return Workspace(root=tmp_path, settings=load_settings(tmp_path), problem=problem)

    return make


@pytest.fixture(autouse=True)
def _no_smoke_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep promotions of tests from starting a server each; its own tests, and the project that is copied, do."""
    monkeypatch.setattr(smoke_test, "checks", lambda *_, **__: ())


@pytest.fixture
def empty(tmp_path: Path, no_runs: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A project in which nothing has run."""
    folder = write_project(tmp_path / "project")
    shutil.copytree(no_runs, folder / "mlruns")
    return _entered(PROBLEM, folder, monkeypatch)


@pytest.fixture(scope="session")
def trained_folder(once: Callable[..., Path], no_runs: Path) -> Path:
    """A project in which `run` promoted a champion."""
    return once("trained", lambda folder: _train(PROBLEM, write_project(folder), no_runs, START))


@pytest.fixture
def trained(trained_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A project with a champion, version 1, promoted at `START`; a copy that a test may change."""
    return _entered(PROBLEM, shutil.copytree(trained_folder, tmp_path / "project"), monkeypatch)


@pytest.fixture
def flights_empty(tmp_path: Path, no_runs: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A project with the example's first months to collect, in which nothing has run."""
    folder = _write_flights(tmp_path / "project")
    shutil.copytree(no_runs, folder / "mlruns")
    return _entered(FLIGHTS, folder, monkeypatch)


@pytest.fixture(scope="session")
def flights_folder(once: Callable[..., Path], no_runs: Path) -> Path:
    """A project with the example's first months, in which `run` promoted a champion."""
    return once("flights", lambda folder: _train(FLIGHTS, _write_flights(folder), no_runs, TAKEN_OFF))


@pytest.fixture
def flights(flights_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The example with a champion, version 1, promoted in April 2013; a copy that a test may change."""
    return _entered(FLIGHTS, shutil.copytree(flights_folder, tmp_path / "project"), monkeypatch)


@pytest.fixture
def command() -> Command:
    """The console script on the tiny problem, in a process of its own: `command("run", "--json", env={...})`."""

    def run(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        line, around = [sys.executable, "-m", "console", *arguments], os.environ | {"PYTHONPATH": str(FOLDER)}
        return subprocess.run(line, capture_output=True, encoding="utf-8", env=around | (env or {}), check=False)

    return run


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Workspace], str]:
    """What a report shows of a workspace, as text: its HTML with the tables in it, and the labels of its figures."""
    draw = plots.png
    labels: list[str] = []

    def png(drawn: Figure) -> bytes:
        content = draw(drawn)
        labels.extend(text.get_text() for text in drawn.findobj(Text))
        return content

    def show(name: str, workspace: Workspace) -> str:
        labels.clear()
        app = runpy.run_path(str(report.PROGRAMS / f"{name}.py"))["app"]
        outputs, _ = app.run(defs={"workspace": workspace})
        html = unescape("\n".join(marimo.as_html(output).text for output in outputs if output is not None))
        tables = re.findall(r"data:text/[^,]*;base64,([A-Za-z0-9+/=]+)", html)
        return "\n".join([html, *(b64decode(table).decode() for table in tables), *labels])

    monkeypatch.setattr(plots, "png", png)
    return show


def _write_flights(folder: Path) -> Path:
    for name in ("config", "docs"):
        shutil.copytree(PROJECT / name, folder / name)
    (folder / "data" / "example").mkdir(parents=True)
    for table, time in TIME.items():
        rows = pl.scan_parquet(PROJECT / "data" / "example" / f"{table}.parquet").filter(pl.col(time) < LANDED)
        rows.sink_parquet(folder / "data" / "example" / f"{table}.parquet")
    return folder


def _train(problem: Problem, folder: Path, no_runs: Path, now: datetime) -> None:
    shutil.copytree(no_runs, folder / "mlruns")
    with contextlib.chdir(folder):
        done = lifecycle.run(open_workspace(problem, root=folder), now=now)
    assert done.champion == 1, str(done)


def _entered(problem: Problem, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.chdir(folder)
    if mlflow := sys.modules.get("mlflow.tracking._tracking_service.utils"):
        mlflow._artifact_repos_cache.clear()  # it remembers where a run's files are, and copies have them elsewhere
    return open_workspace(problem, root=folder)
