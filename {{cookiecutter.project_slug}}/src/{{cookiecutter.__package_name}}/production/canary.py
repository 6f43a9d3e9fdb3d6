"""A candidate in a real server process, before it is released: its golden requests, and what was asked lately."""

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import polars as pl

from {{cookiecutter.__package_name}}.production.gate import Check
from {{cookiecutter.__package_name}}.shared.predictor import TOLERANCE
from {{cookiecutter.__package_name}}.shared.release import CARD, MODEL, Release
from {{cookiecutter.__package_name}}.shared.requests import ANSWER, asked, logged
from {{cookiecutter.__package_name}}.shared.workspace import Workspace

PACKAGE = __name__.partition(".")[0]
START = 60  # seconds in which the process must listen
ANSWERS = 30  # and in which a request must be answered
RECENT = timedelta(days=7)
LIMITS = dict.fromkeys(("ML_SERVE_ROWS", "ML_SERVE_BYTES", "ML_SERVE_WAITING"), "1000000000")  # none is asked for

Row = dict[str, Any]


class Mute(Exception):
    """The process does not answer as it should; the reason is for people."""


@dataclass(frozen=True)
class Server:
    """A service that runs."""

    port: int

    def ask(self, rows: list[Row]) -> dict[str, Any]:
        """What it answers to raw rows, with their features.

        Raises:
            Mute: It answers with no 200, or not at all.
        """
        connection = HTTPConnection("127.0.0.1", self.port, timeout=ANSWERS)
        try:
            connection.request("POST", "/predict?features=true", json.dumps({"rows": rows}), JSON)
            response = connection.getresponse()
            body = response.read()
        except (OSError, HTTPException) as error:
            raise Mute(f"no answer: {error}") from error
        finally:
            connection.close()
        if response.status != OK:
            raise Mute(f"status {response.status}: {body[:200].decode(errors='replace')}")
        answer: dict[str, Any] = json.loads(body)
        return answer


JSON, OK = {"Content-Type": "application/json"}, 200


def checks(workspace: Workspace, release: Release, *, now: datetime) -> tuple[Check, ...]:
    """Questions to a candidate that answers requests; each answer has its reason.

    Args:
        workspace: The workspace.
        release: The candidate.
        now: The time as of which it was trained.
    """
    if not workspace.acceptance.canary.on:
        return ()
    asking = [*_shadowed(workspace, now)]
    back = _past_days(workspace, [*release.golden.requests, *(row for row, _ in asking)], now)
    try:
        with _running(workspace, release, now=now, back=back) as server:
            return (
                _golden(server, release),
                _latency(server, release, workspace.acceptance.canary.latency_ms),
                _shadow(server, asking),
            )
    except Mute as mute:
        return (Check("canary answers", passed=False, detail=str(mute)),)


def _golden(server: Server, release: Release) -> Check:
    """Whether requests have the features and the answers of the candidate's record."""
    golden = release.golden
    said = server.ask(golden.requests)
    skewed = [
        name
        for name in release.features
        if not all(_same(row[name], then[name]) for row, then in zip(said["features"], golden.features, strict=True))
    ]
    if skewed:
        return Check("canary: golden requests", passed=False, detail=f"features {', '.join(skewed)} differ")
    then = release.answers(np.asarray(golden.answers, dtype=np.float64))
    numbers = [name for name, dtype in then.schema.items() if dtype.is_float()]
    found = pl.DataFrame(said["rows"]).select(numbers)
    scale = max(1.0, float(np.abs(then.select(numbers).to_numpy()).max()))
    worst = float(np.abs(found.to_numpy() - then.select(numbers).to_numpy()).max()) / scale
    return Check("canary: golden requests", worst <= TOLERANCE, f"{len(found)} answers, largest difference {worst:.1e}")


def _latency(server: Server, release: Release, budget: float) -> Check:
    """Whether one request at a time is answered within the budget, in the middle of some."""
    seconds = []
    for row in release.golden.requests:
        start = perf_counter()
        server.ask([row])
        seconds.append(perf_counter() - start)
    middle = median(seconds) * 1000
    return Check("canary: latency", middle <= budget, f"{middle:.1f} ms a request (at most {budget:g})")


def _shadow(server: Server, asking: list[tuple[Row, Row]]) -> Check:
    """Whether what the champion answered lately gets numbers of the candidate too: a service gives nothing else."""
    if not asking:
        return Check("canary: shadow", passed=True, detail="nothing was asked lately")
    said = server.ask([row for row, _ in asking])["rows"]
    moved = [
        abs(value - then[name])
        for row, (_, then) in zip(said, asking, strict=True)
        for name, value in row.items()
        if isinstance(value, float) and isinstance(then.get(name), float)
    ]
    differs = f"answers moved by {np.mean(moved):.2g} in the mean" if moved else "answers are of another kind"
    return Check("canary: shadow", passed=True, detail=f"{len(said)} recent requests answered; {differs}")


def _shadowed(workspace: Workspace, now: datetime) -> Iterator[tuple[Row, Row]]:
    """The newest requests that were answered, with the answers; none where a key is not kept, being personal."""
    kept, schema = asked(workspace), workspace.problem.schema
    if not set(schema.key) <= set(kept.names):
        return
    rows = logged(workspace, now=now, back=RECENT).filter(pl.col(ANSWER).is_not_null())
    for row in rows.tail(workspace.acceptance.canary.shadow_rows).select(*kept.names, ANSWER).iter_rows(named=True):
        answer = json.loads(row.pop(ANSWER))
        yield {name: value.isoformat() if hasattr(value, "isoformat") else value for name, value in row.items()}, answer


def _same(first: object, second: object) -> bool:
    if isinstance(first, float) and isinstance(second, int | float):
        return abs(first - second) <= TOLERANCE * max(1.0, abs(second))
    return first == second


@contextmanager
def _running(workspace: Workspace, release: Release, *, now: datetime, back: float) -> Iterator[Server]:
    """The candidate in a process of its own, on a free port."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / CARD).write_bytes(release.model_dump_json().encode())
        (folder / MODEL).write_bytes(release.onnx)
        line = [sys.executable, "-m", PACKAGE, "serve", "--port", "0", "--candidate", name, "--now", f"{now:{TIME}}"]
        env = os.environ | {"ML_LAKE": workspace.lake.url, "ML_SERVE_PAST_DAYS": str(back), **LIMITS}
        process = subprocess.Popen(  # noqa: S603 - this project's own command
            line,
            cwd=workspace.root,
            env=env,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        try:
            yield Server(_port(process))
        finally:
            process.kill()
            process.communicate()


TIME = "%Y-%m-%dT%H:%M:%S.%f"


def _past_days(workspace: Workspace, rows: list[Row], now: datetime) -> float:
    """How far back history is needed for these requests."""
    event = workspace.problem.schema.event_time
    times = [datetime.fromisoformat(row[event]) for row in rows] if event else []
    return max(now - min(times, default=now) + workspace.problem.schema.lead, timedelta(0)) / timedelta(days=1) + 1


def _port(process: "subprocess.Popen[str]") -> int:
    """Where the process listens, which it says in a line.

    Raises:
        Mute: It ends, or says nothing in time.
    """
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for line in process.stderr or ():
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    said = ""
    try:
        while (line := lines.get(timeout=START)) is not None:
            said = line.strip() or said
            if " at http://" in line:
                return int(line.rpartition(":")[2])
    except queue.Empty as error:
        raise Mute(f"the process does not listen within {START} s") from error
    raise Mute(f"the process ended: {said}")
