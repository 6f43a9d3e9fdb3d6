"""`run` killed at any point or on a full disk, and started again: the same tables, champion and runs, no duplicate.

A child process runs and kills itself at the n-th write: of a table, a file, or the registry; most of them inside the
write. Four points are tried by default, one after the other in one project; twenty with `-m slow`, each in its own.
"""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import problems
from my_ml_project.core.store.predictions import PREDICTIONS
from my_ml_project.core.store.releases import COLUMNS
from my_ml_project.core.workspace import Workspace, open_workspace
from my_ml_project.production import lifecycle
from problems import PROBLEM, START

FOLDER = Path(problems.__file__).parent
PACKAGE = lifecycle.__name__.partition(".")[0]
FEW, MANY = (20, 10, 5, 3), 20  # writes to be killed in, of what is left of a run; and how many by chance
FULL = (40_000, 500, 5_000, 200_000, 500_000)  # bytes that a file may have

# The n-th write is begun and not ended: a table's or the registry's in a thread of its own, a file by half. What it was
# killed in is kept, with whether the write was under way.
CHILD = """
import os, shutil, signal, sys, threading
from datetime import datetime
from pathlib import Path

import deltalake
import mlflow
import polars as pl

NTH, NOW = int(sys.argv[1]), datetime.fromisoformat(sys.argv[2])
count = 0


def die(what):
    Path("killed-in").write_text(what)
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


def counted(owner, name, begin):
    write = getattr(owner, name)

    def writing(*arguments, **options):
        global count
        if name == "write_parquet" and not isinstance(arguments[1], Path):  # to memory
            return write(*arguments, **options)
        count += 1
        if count == NTH:
            inside = begin(lambda: write(*arguments, **options), *arguments)
            die(f"inside {name}" if inside else f"at {name}")
        return write(*arguments, **options)

    setattr(owner, name, writing)


def raced(write, *_):
    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    thread.join(0.0005)
    return thread.is_alive()


def halved(write, path, content, *_):
    with open(path, "wb") as file:
        file.write(content[: len(content) // 2])
    return True


def drafted(write, _, target, *__):
    write()
    return halved(write, target, target.read_bytes())


def copied(write, *_):
    def half(source, target, **_):
        content = source.read()
        target.write(content[: len(content) // 2])
        target.flush()
        die("inside log_artifact")

    shutil.copyfileobj = half
    write()
    return False


def after(write, *_):
    write()
    return False


counted(deltalake, "write_deltalake", raced)
counted(Path, "write_bytes", halved)
counted(pl.DataFrame, "write_parquet", drafted)
counted(shutil, "move", after)
for name in ("create_run", "create_model_version", "set_registered_model_alias", "set_terminated"):
    counted(mlflow.MlflowClient, name, raced)
counted(mlflow.MlflowClient, "log_artifact", copied)

from PACKAGE.production import lifecycle
from problems import PROBLEM
from PACKAGE.core.workspace import open_workspace

workspace = open_workspace(PROBLEM)
with workspace.exclusive_lock():
    lifecycle.run(workspace, now=NOW)
print(count)
""".replace("PACKAGE", PACKAGE)


def child(folder: Path, nth: int) -> subprocess.CompletedProcess[str]:
    """`run` in a process of its own, which dies in its n-th write."""
    line, around = [sys.executable, "-c", CHILD, str(nth), START.isoformat()], os.environ | {"PYTHONPATH": str(FOLDER)}
    return subprocess.run(line, cwd=folder, env=around, capture_output=True, encoding="utf-8", check=False)


def state(workspace: Workspace) -> dict[str, Any]:
    """All that a run leaves: the rows of each table, the champion, runs and versions."""
    lake, problem = workspace.lake, workspace.problem
    rows = {
        name: lake.scan(schema).select(schema.names).collect().sort(schema.names).write_json()
        for name, schema in problem.schemas.items()
    }
    predictions = lake.read(PREDICTIONS, {}).drop("predicted_at").collect()
    champion = workspace.releases.champion()
    with workspace.registry._client() as client:
        experiment = client.get_experiment_by_name(workspace.registry.model)
        runs = client.search_runs([experiment.experiment_id]) if experiment else []
        versions = client.search_model_versions(f"name = '{workspace.registry.model}'")
    return {
        "rows": rows,
        "predictions": predictions.sort(predictions.columns).write_json(),
        "releases": lake.read("releases", COLUMNS).collect().height,
        "model": champion.onnx if champion else None,
        "unfinished": [run.info.run_id for run in runs if run.info.status == "RUNNING"],
        "versions": len(versions),
        "inbox": [path for path in workspace.path(workspace.settings.inbox).rglob("*.p*") if path.is_file()],
    }


def killed_in(workspace: Workspace, nth: int) -> str:
    """Kill a run in its n-th write; return what it was."""
    killed = child(workspace.root, nth)
    assert killed.returncode != 0, f"there are fewer writes than {nth}: {killed.stdout}"
    assert killed.returncode in {-getattr(signal, "SIGKILL", signal.SIGTERM), signal.SIGTERM}, killed.stderr
    return (workspace.root / "killed-in").read_text(encoding="utf-8")


def filled(workspace: Workspace, size: int) -> str:
    """Run where no file may grow beyond a size, as on a disk that gets full; return the last line."""
    import resource  # noqa: PLC0415 - Windows has none

    line, around = [sys.executable, "-m", "console", "run", "--now", f"{START:%Y-%m-%d}"], {"PYTHONPATH": str(FOLDER)}
    done = subprocess.run(
        line,
        cwd=workspace.root,
        env=os.environ | around,
        capture_output=True,
        encoding="utf-8",
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )
    assert (done.returncode, done.stdout) == (2, "")
    progress = ("collect ", "ingest ", "decide ", "train ", "promote ")
    (last,) = (line for line in done.stderr.splitlines() if not line.startswith(progress))
    return last


def mended(workspace: Workspace, expected: dict[str, Any]) -> None:
    """Run again: it ends as if none had been killed."""
    lifecycle.run(workspace, now=START)
    again = state(workspace)
    assert {name: again[name] == value for name, value in expected.items()} == dict.fromkeys(expected, True)
    lifecycle.run(workspace, now=START)
    assert state(workspace) == again, "a run more changes nothing"


def copied(workspace: Workspace, folder: Path) -> Workspace:
    """The same project in another folder, which becomes the current one."""
    shutil.copytree(workspace.root, folder)
    os.chdir(folder)
    return open_workspace(PROBLEM, root=folder)


def unkilled(empty: Workspace, folder: Path) -> dict[str, Any]:
    """What a run leaves that nobody kills."""
    whole = copied(empty, folder)
    lifecycle.run(whole, now=START)
    return state(whole)


def inside(killed: list[str]) -> int:
    """How many were killed while a write was under way."""
    return sum(what.startswith("inside ") for what in killed)


def test_four_killed_runs_are_mended_by_the_next(empty: Workspace, tmp_path: Path) -> None:
    expected = unkilled(empty, tmp_path / "whole")
    workspace = copied(empty, tmp_path / "killed")
    killed = [killed_in(workspace, nth) for nth in FEW]
    mended(workspace, expected)
    assert inside(killed) > len(FEW) / 2, killed


@pytest.mark.slow
def test_twenty_killed_runs_are_mended(empty: Workspace, tmp_path: Path) -> None:
    writes = int(child(copied(empty, tmp_path / "counted").root, 0).stdout)
    points = random.Random(0).sample(range(1, writes + 1), MANY)  # noqa: S311 - a sample, no secret
    expected, killed = unkilled(empty, tmp_path / "whole"), []
    for nth in points:
        workspace = copied(empty, tmp_path / str(nth))
        killed.append(killed_in(workspace, nth))
        mended(workspace, expected)
    assert inside(killed) > MANY / 2, killed


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of a file's size")
def test_runs_on_a_full_disk_are_mended_by_the_next(empty: Workspace, tmp_path: Path) -> None:
    expected = unkilled(empty, tmp_path / "whole")
    workspace = copied(empty, tmp_path / "filled")
    for size in FULL:
        assert re.search(r"File too large|disk I/O error|disk is full", filled(workspace, size))
        assert not [path for path in workspace.root.rglob("*.part") if path.parent.parent.name != "inbox"]
    mended(workspace, expected)
