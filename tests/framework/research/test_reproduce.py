"""Runs made again: in the same commit, on the same tables; equal, or a clear word why not."""

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

import my_ml_project
from my_ml_project.core import datasets
from my_ml_project.core.errors import InputError, Rejected
from my_ml_project.core.store.provenance import provenance
from my_ml_project.core.workspace import Workspace
from my_ml_project.production import lifecycle
from my_ml_project.research import reproduce as module
from my_ml_project.research.reproduce import reproduce, runs
from problems import START

DAY = datetime(2013, 4, 1, tzinfo=UTC)  # when the champion of the example was promoted
PROJECT = Path(my_ml_project.__file__).parents[2]
PACKAGE = module.__name__.partition(".")[0]
EXPERIMENTS = [
    path.relative_to(PROJECT)
    for path in sorted((PROJECT / "src" / PACKAGE / "research" / "experiments").glob("*.py"))
    if path.name != "__init__.py"
]


def git(folder: Path, *arguments: str) -> None:
    me = ["-c", "user.name=me", "-c", "user.email=me@example.org", "-c", "core.autocrlf=false"]
    subprocess.run(["git", *me, *arguments], cwd=folder, check=True, capture_output=True)


def done_anew(folder: Path, *arguments: str) -> None:
    """Do something tracked in a process that takes its code from the folder."""
    line = [sys.executable, *arguments]
    done = subprocess.run(line, cwd=folder, env=os.environ | {"PYTHONPATH": "src"}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def repository(trained: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The trained project as a repository with its code."""
    return committed(trained, monkeypatch)


@pytest.fixture
def flights_repository(flights: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The example as a repository with its code, in which runs are made again."""
    return committed(flights, monkeypatch)


def committed(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A project as a repository with its code; runs are made again by this environment's Python."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("PYTHONPATH", "src")
    monkeypatch.setattr(module, "PYTHON", (sys.executable,))
    shutil.copytree(PROJECT / "src", workspace.root / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "uv.lock"):
        shutil.copy(PROJECT / name, workspace.root / name)
    (workspace.root / "config" / "params.toml").write_text("seed = 3\n", encoding="utf-8")
    (workspace.root / ".gitignore").write_text("/data\n/mlruns\n/reports\n__pycache__\n", encoding="utf-8")
    git(workspace.root, "init", "--quiet")
    git(workspace.root, "add", ".")
    git(workspace.root, "commit", "--quiet", "--message", "first")
    return workspace


@pytest.mark.slow
def test_a_run_is_made_again_though_data_came_and_files_were_renamed(flights_repository: Workspace) -> None:
    done_anew(flights_repository.root, "-m", PACKAGE, "train", "--as-of", f"{DAY:%Y-%m-%d}")
    newest = runs(flights_repository).runs[0]
    lifecycle.collect_and_ingest(flights_repository, DAY + timedelta(days=2))
    git(flights_repository.root, "mv", f"src/{PACKAGE}/shared/model.py", f"src/{PACKAGE}/shared/models.py")
    git(flights_repository.root, "commit", "--quiet", "--message", "rename")
    found = reproduce(flights_repository, newest.id[:8])
    assert found.ok, str(found)
    assert found.metrics == len(newest.metrics) > 20
    assert found.models == 1
    assert str(found) == f"run {newest.id[:8]} is reproduced: {found.metrics} metrics and 1 models are equal"
    assert len(runs(flights_repository).runs) == 2, "what was made again is tracked elsewhere"
    assert list((flights_repository.root / ".git" / "worktrees").glob("*")) == []


@pytest.mark.slow
@pytest.mark.parametrize("script", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_is_made_again_though_data_came(flights_repository: Workspace, script: Path) -> None:
    done_anew(flights_repository.root, script.as_posix(), "--fast")
    newest = runs(flights_repository).runs[0]
    assert f"{newest.tags['kind']} fast  " in str(runs(flights_repository)).splitlines()[1]
    lifecycle.collect_and_ingest(flights_repository, DAY + timedelta(days=2))
    found = reproduce(flights_repository, newest.id)
    assert found.ok, str(found)
    assert found.metrics == len(newest.metrics) > 0


def test_runs_are_compared_by_metrics_and_by_the_parameters_that_differ(
    trained: Workspace, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    for depth, auc, cost in ((3, 0.6, 20.0), (5, 0.9999, 40.0)):
        with trained.registry.run("try", {"depth": depth, "seed": 0}, {}) as run:
            run.log({"auc": auc, "cost": cost})
    with trained.registry.run("look", {"depth": 3, "seed": 0}, {}):
        pass

    def listed(*arguments: str) -> list[list[str]]:
        return [line.split() for line in command("runs", *arguments).stderr.splitlines()]

    header, *lines, equal = listed("--sort", "auc")
    assert [name for name in header if name in {"auc", "cost", "depth", "seed"}] == ["auc", "cost", "depth"]
    assert equal == ["parameters", "of", "all:", "seed", "0"]
    assert lines[0][-3:] == ["0.9999", "40", "5"]
    assert ["look" in line for line in lines] == [False, False, False, True], "without the metric, last"
    assert [line[-1] for line in listed("--sort", "cost")[1:-1] if "try" in line] == ["3", "5"], "lower is better"
    assert "look" in listed()[1], "newest first"
    unknown = command("runs", "--sort", "acu")
    assert (unknown.returncode, "no run has the metric acu: choose one of auc, " in unknown.stderr) == (2, True)


def test_a_kernel_that_runs_cells_is_no_script_of_the_project(
    trained: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = trained.root / ".venv" / "ipykernel_launcher.py"
    kernel.parent.mkdir()
    kernel.touch()
    mine = trained.root / "mine.py"
    mine.touch()
    monkeypatch.setattr(sys, "prefix", str(kernel.parent))
    for path, command in ((kernel, "[]"), (mine, '["mine.py", "--fast"]')):
        monkeypatch.setattr(sys, "argv", [str(path), "--fast"])
        assert provenance(trained.root, tables={}, as_of=START)["command"] == command


def tracked(workspace: Workspace, **changes: str) -> str:
    """A run that says of what it was made, and kept a model."""
    root = workspace.root
    tables = datasets.table_versions(workspace.problem, workspace.lake)
    tags = provenance(root, tables=tables, as_of=START, command=["-m", PACKAGE, "train"]) | changes
    with workspace.registry.run("train", {}, tags | {"onnx": "a hash"}) as run:
        run.log({"auc": 0.7, "cost": 60.0})
    return run.id


def test_a_run_is_made_again_in_no_other_environment_and_with_nobodys_trials(
    trained: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    others = {"VIRTUAL_ENV": "other", "UV_PROJECT_ENVIRONMENT": "other", "OPTUNA_STORAGE": "sqlite:///other.db"}
    for name, value in others.items():
        monkeypatch.setenv(name, value)
    around = module._environment(trained, runs(trained).runs[0], tmp_path)
    assert not others.keys() & around.keys()
    assert around["ML_TRACKING"] == str(tmp_path / "mlruns")


def test_what_differs_is_named(trained: Workspace) -> None:
    first, second = tracked(trained), tracked(trained)
    with trained.registry.reopen(second) as run:
        run.log({"auc": 0.8})
        run.client.set_tag(run.id, "onnx", "another")
    then = next(run for run in runs(trained).runs if run.id == first)
    found = module._compare(then, trained.registry)
    assert not found.ok
    assert found.differs == ("auc: 0.7 then, 0.8 now", "model: different bytes")
    assert str(found).splitlines() == [f"run {first[:8]} is not reproduced:", *(f"  {line}" for line in found.differs)]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"commit": ""}, "was made without Git: its code is unknown"),
        ({"lock": "another"}, "used another lock file than that of its commit"),
        ({"commit": "0" * 40}, "commit 00000000 can't be checked out"),
        ({"tables": '{"parcels": 999}'}, r"table parcels of run .* is no longer readable in version 999"),
        ({"command": "[]"}, "was made cell by cell"),
    ],
    ids=["no Git", "another lock", "no such commit", "tables that are gone", "cells"],
)
def test_a_run_that_cannot_be_made_again_says_why(repository: Workspace, changes: dict[str, str], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        reproduce(repository, tracked(repository, **changes))


def test_a_run_of_files_that_are_in_no_commit_is_refused(repository: Workspace) -> None:
    (repository.root / "pyproject.toml").write_text("", encoding="utf-8")
    with pytest.raises(Rejected, match="used files that differed from commit"):
        reproduce(repository, tracked(repository))


def test_a_search_by_several_workers_is_refused(repository: Workspace) -> None:
    with pytest.raises(Rejected, match=r"used several workers.*: only a search by tune --workers 1 can be"):
        reproduce(repository, tracked(repository, parallel="true"))


def test_a_run_is_named_by_how_its_id_begins(trained: Workspace) -> None:
    with pytest.raises(InputError, match="no runs of this project begin with 'x'"):
        reproduce(trained, "x")
    tracked(trained)
    with pytest.raises(InputError, match="2 runs of this project begin with ''"):
        reproduce(trained, "")


def test_a_command_that_fails_now_is_told(repository: Workspace) -> None:
    with pytest.raises(Rejected, match=r"train fails now: .+"):
        reproduce(repository, tracked(repository, command='["-m", "no_such_module", "train"]'))


def test_pinned_tables_are_read_as_they_were_and_take_no_rows(trained: Workspace) -> None:
    before = trained.lake.version("parcels")
    rows = trained.lake.scan(trained.problem.schema).select(pl.len()).collect().item()
    lifecycle.collect_and_ingest(trained, START + timedelta(days=2))
    then = dataclasses.replace(trained.lake, versions={"parcels": before})
    assert then.version("parcels") == before < trained.lake.version("parcels")
    assert then.scan(trained.problem.schema).select(pl.len()).collect().item() == rows
    with pytest.raises(InputError, match=r"is pinned to version .* and read-only: unset ML_TABLES"):
        then.append("parcels", pl.DataFrame(), batch="x")


def test_runs_are_listed_the_newest_first_and_none_is_said(trained: Workspace, no_runs: Path, tmp_path: Path) -> None:
    (run,) = runs(trained).runs
    head, line, *_ = str(runs(trained)).splitlines()
    assert line.startswith(f"{run.id[:8]}  {run.started:%Y-%m-%d %H:%M}  train")
    assert head.split()[3] == "auc"
    assert line.split()[4].startswith("0.")
    none = shutil.copytree(no_runs, tmp_path / "none")
    empty = dataclasses.replace(trained, settings=trained.settings.model_copy(update={"tracking": str(none)}))
    assert str(runs(empty)) == "no runs yet: call run or an experiment"
