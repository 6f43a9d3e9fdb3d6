"""The service as a process: it keeps its own description, ends with what is under way answered, and may be killed."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import problems
from my_ml_project.core.errors import InputError
from my_ml_project.core.store.request_log import REQUESTS
from my_ml_project.core.workspace import Workspace, open_workspace
from my_ml_project.production.service.serve import ServerStopped, serve
from problems import PROBLEM, START

ON_PATH = {"PYTHONPATH": str(Path(problems.__file__).parent)}
PATIENCE = 60  # seconds for what must happen
ALONE = """
import sys
sys.modules |= dict.fromkeys("sklearn skl2onnx onnx mlflow matplotlib scipy sqlalchemy requests httpx2".split())
from console import main
main()
"""  # as where nothing but the dependencies of run time is installed

Json = dict[str, Any]


def until(condition: Callable[[], object]) -> None:
    """Wait until something is so."""
    end, pause = time.monotonic() + PATIENCE, threading.Event()
    while not condition():
        assert time.monotonic() < end, "it did not come"
        pause.wait(0.02)


@dataclass
class Running:
    """A service in a process of its own."""

    process: "subprocess.Popen[str]"
    started: str = " at http://127.0.0.1:"
    lines: list[str] = field(default_factory=list)
    port: int = 0

    def __post_init__(self) -> None:
        threading.Thread(target=self._read, daemon=True).start()
        until(lambda: self.process.poll() is not None or any(self.started in line for line in self.lines))
        address = next(line for line in self.lines if self.started in line)
        self.port = int(address.partition(self.started)[2].partition(" ")[0])

    def _read(self) -> None:
        assert self.process.stderr
        with self.process.stderr as lines:
            for line in lines:
                self.lines.append(line.strip())

    def ask(self, path: str, body: Json | None = None) -> tuple[int, Any]:
        """Status and answer."""
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)) as connection:
            content = None if body is None else json.dumps(body)
            connection.request("POST" if body else "GET", path, content, {"Content-Type": "application/json"})
            response = connection.getresponse()
            text = response.read()
        return response.status, text.decode() if path == "/metrics" else json.loads(text)

    def connect(self) -> socket.socket:
        """A plain connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)


@contextmanager
def running(folder: Path, **limits: float) -> Iterator[Running]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("ML_")}
    env |= {f"ML_{name.upper()}": str(value) for name, value in limits.items()} | ON_PATH
    line = [sys.executable, "-c", ALONE, "serve", "--port", "0", "--now", f"{START:%Y-%m-%d}"]
    process = subprocess.Popen(line, cwd=folder, env=env, stderr=subprocess.PIPE, encoding="utf-8")
    try:
        yield Running(process)
    finally:
        process.kill()
        process.wait()


def copied(trained: Path, folder: Path) -> Path:
    """The project's configuration and lake, to serve from."""
    shutil.copytree(trained / "config", folder / "config")
    shutil.copytree(trained / "data" / "lake", folder / "data" / "lake")
    return folder


@pytest.fixture(scope="module")
def server(trained_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service that the tests here share."""
    folder = copied(trained_folder, tmp_path_factory.mktemp("served") / "project")
    with running(folder, serve_refresh_seconds=0.05, serve_log_flush_seconds=0.1) as server:
        yield server


@pytest.fixture(scope="module")
def asked(trained_folder: Path) -> Json:
    """A request of parcels of the lake that are still to come."""
    workspace = open_workspace(PROBLEM, root=trained_folder)
    schema = workspace.problem.schema
    coming = workspace.lake.scan(schema).filter(pl.col("due") > START).select(schema.names)
    rows = coming.sort("due", "parcel").head(2).collect().to_dicts()
    return {
        "rows": [{name: v.isoformat() if hasattr(v, "isoformat") else v for name, v in row.items()} for row in rows]
    }


def head(body: bytes, *more: str) -> bytes:
    """What stands before a body."""
    lines = [
        "POST /predict HTTP/1.1",
        "Host: me",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *more,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def received(connection: socket.socket) -> bytes:
    """All that comes until the other side ends."""
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


# --- its own description

# JSON Schema can't say rules across columns: what fits it may violate the contract all the same, and is rejected.
ASKING = """--checks all --exclude-checks positive_data_acceptance --max-examples 10 --generation-deterministic
--no-color""".split()


@pytest.mark.slow
def test_the_service_keeps_its_own_description(server: Running, tmp_path: Path) -> None:
    program = "from schemathesis.cli import schemathesis; schemathesis()"
    line = [sys.executable, "-c", program, "run", f"http://127.0.0.1:{server.port}/openapi.json", *ASKING]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout
    assert "5 selected / 5 total" in done.stdout
    assert re.search(r"(\d{3,}) generated, \1 passed", done.stdout), done.stdout


# --- clients


def test_clients_that_hang_up_disturb_nobody(server: Running, asked: Json) -> None:
    body = json.dumps(asked).encode()
    for _ in range(20):
        with server.connect() as connection:
            connection.sendall(head(body) + body[:10])
        with server.connect() as connection:
            connection.sendall(head(body) + body)
    lost = 'http_requests_total{path="/predict",status="408"} 20.0'
    until(lambda: lost in server.ask("/metrics")[1])
    assert server.ask("/predict", asked)[0] == 200
    assert server.lines == server.lines[:1], "and say nothing"


def test_a_body_of_100_megabytes_gets_a_clear_answer(server: Running, asked: Json) -> None:
    with server.connect() as connection:
        connection.sendall(head(b" " * 100_000_000))
        answer = received(connection)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"more than 5000000 bytes" in answer
    assert server.ask("/predict", asked)[0] == 200


def test_a_request_that_is_no_http_gets_a_clear_answer(server: Running, asked: Json) -> None:
    for nonsense in (b"hello\r\n\r\n", b"\x16\x03\x01\x02\x00", b"POST /predict HTTP/1.1\r\nContent-Length: x\r\n\r\n"):
        with server.connect() as connection:
            connection.sendall(nonsense)
            assert received(connection).startswith(b"HTTP/1.1 400 ")
    assert server.ask("/predict", asked)[0] == 200


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM that a process could answer")
def test_uvicorn_serves_the_application_in_several_processes(trained_folder: Path, tmp_path: Path, asked: Json) -> None:
    folder = copied(trained_folder, tmp_path / "project")
    env = {name: value for name, value in os.environ.items() if not name.startswith("ML_")}
    line = [
        sys.executable,
        "-m",
        "uvicorn",
        "--factory",
        "console:make_app",
        "--workers",
        "2",
        "--port",
        "0",
        "--no-use-colors",
    ]
    moment = {"ML_NOW": START.isoformat()} | ON_PATH
    process = subprocess.Popen(line, cwd=folder, env=env | moment, stderr=subprocess.PIPE, encoding="utf-8")
    try:
        server = Running(process, started="Uvicorn running on http://127.0.0.1:")
        until(lambda: server.lines.count("INFO:     Application startup complete.") == 2)
        assert server.ask("/readyz") == (200, {"version": 1})
        assert len(server.ask("/predict", asked)[1]["rows"]) == 2
        process.terminate()
        assert process.wait(PATIENCE) in {0, -signal.SIGTERM}
    finally:
        process.kill()
        process.wait()


# --- its end


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM that a process could answer")
def test_a_service_that_is_told_to_end_answers_what_is_under_way_and_keeps_it(
    trained_folder: Path, tmp_path: Path, asked: Json
) -> None:
    folder, body = copied(trained_folder, tmp_path / "project"), json.dumps(asked).encode()
    with running(folder, serve_log_flush_seconds=3600) as server, server.connect() as connection:
        connection.sendall(head(body, "Expect: 100-continue"))
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 "), "it is under way"
        server.process.send_signal(signal.SIGTERM)
        until(lambda: refuses(server))
        connection.sendall(body)
        answer = received(connection)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert server.process.wait(PATIENCE) == 0
        until(lambda: server.lines[-1] == "1 requests served")
        kept = open_workspace(PROBLEM, root=folder).lake.read(REQUESTS, {}).collect()
        assert set(kept["_id"]) == {json.loads(answer.partition(b"\r\n\r\n")[2])["id"]}
        assert len(kept) == 2


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM that a process could answer")
def test_a_service_that_is_told_to_end_at_once_ends_well(trained_folder: Path, tmp_path: Path) -> None:
    with running(copied(trained_folder, tmp_path / "project")) as server:
        server.process.send_signal(signal.SIGTERM)  # as soon as it has said where it is
        assert server.process.wait(PATIENCE) == 0
        until(lambda: server.lines[-1] == "0 requests served")


def refuses(server: Running) -> bool:
    try:
        server.connect().close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_service_that_is_killed_has_kept_what_was_flushed_in_a_sound_table(
    trained_folder: Path, tmp_path: Path, asked: Json
) -> None:
    folder = copied(trained_folder, tmp_path / "project")
    lake = open_workspace(PROBLEM, root=folder).lake

    def kept() -> set[str]:
        return set(lake.read(REQUESTS, {"_id": pl.String()}).select("_id").collect().to_series())

    answered: list[str] = []
    with running(folder, serve_log_flush_seconds=0.05) as server:
        for _ in range(3):
            answered += [server.ask("/predict", asked)[1]["id"] for _ in range(10)]
            until(lambda: kept() == set(answered))  # noqa: B023 - it is called here only
        last = [server.ask("/predict", asked)[1]["id"] for _ in range(20)]
        server.process.kill()
        server.process.wait()
    before = kept()
    assert set(answered) <= before <= {*answered, *last}
    rows = lake.read(REQUESTS, {}).collect()
    assert len(rows.unique(["_id", "_row_number"])) == len(rows) == 2 * len(before)
    assert lake.append(REQUESTS, rows, batch="after it")
    assert len(lake.read(REQUESTS, {}).collect()) == 2 * len(rows)


def test_serving_gives_signals_back_and_an_address_that_is_taken_is_named(trained: Workspace) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"^127\.0\.0\.1:{port} is not available: .+; choose another --port$"):
            serve(trained, port=port)
    with pytest.raises(InputError, match=r"^nowhere\.invalid:8000 is not available: .+; choose another --host$"):
        serve(trained, host="nowhere.invalid")
    threading.Thread(target=ended, args=(port,), daemon=True).start()
    assert str(serve(trained, port=port)) == str(ServerStopped(0)) == "0 requests served"
    assert signal.getsignal(signal.SIGTERM) == before


def ended(port: int) -> None:
    """End a service in this process once it listens."""

    def listens() -> bool:
        try:
            with closing(HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as connection:
                connection.request("GET", "/healthz")
                return connection.getresponse().status == 200
        except ConnectionError:
            return False

    until(listens)
    signal.raise_signal(signal.SIGTERM)
