"""MLflow's own interface shows the runs of a project."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest

import my_ml_project
from my_ml_project.core.workspace import Workspace

PROJECT = Path(my_ml_project.__file__).parents[2]


def nox(tracking: str, *arguments: str) -> "subprocess.Popen[str]":
    """The session of a project that tracks its runs elsewhere, in a process group of its own."""
    line = [sys.executable, "-m", "nox", "-f", str(PROJECT / "noxfile.py"), "-s", "mlflow", *arguments]
    env = os.environ | {"ML_TRACKING": tracking, "UV_NO_SYNC": "1"}
    return subprocess.Popen(
        line, env=env, encoding="utf-8", start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


@contextmanager
def interface(tracking: Path) -> Iterator[int]:
    """The port of the interface, once it answers."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    with nox(str(tracking), "--", "--port", str(port)) as process:
        assert process.stdout
        said = []
        for line in process.stdout:
            said.append(line)
            if "running on" in line:
                break
        else:
            pytest.fail("".join(said))
        try:
            yield port
        finally:
            os.killpg(process.pid, signal.SIGINT)
            process.stdout.read()


def ask(port: int, method: str, path: str, body: object = None) -> str:
    with closing(HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
        return connection.getresponse().read().decode()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no process groups to interrupt")
def test_mlflows_interface_shows_the_runs(trained: Workspace) -> None:
    model = trained.registry.model
    with interface(trained.path("mlruns")) as port:
        assert "<title>MLflow</title>" in ask(port, "GET", "/")
        found = json.loads(ask(port, "POST", "/api/2.0/mlflow/experiments/search", {"max_results": 10}))["experiments"]
        (experiment,) = [each["experiment_id"] for each in found if each["name"] == model]
        runs = json.loads(ask(port, "POST", "/api/2.0/mlflow/runs/search", {"experiment_ids": [experiment]}))["runs"]
        assert [run["info"]["run_id"] for run in runs] == [run.id for run in trained.registry.runs()]
    assert trained.registry.runs(), "the project still reads its database"


@pytest.mark.parametrize(
    ("tracking", "reason"),
    [("nowhere", "there is no run in nowhere yet"), ("http://127.0.0.1:9", "server: open http://127.0.0.1:9")],
)
def test_there_is_nothing_to_show_in_one_line(tracking: str, reason: str) -> None:
    with nox(tracking) as process:
        told, _ = process.communicate()
    assert (process.returncode, reason in told) == (1, True), told
