"""Measure the service beside `mlflow models serve`, and write docs/benchmarks.md: `uv run nox -s bench`.

Both answer by the champion's pipeline, each with one worker, and are asked in turn.
"""

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psutil

from {{cookiecutter.__package_name}}.shared import BadInput, Refused

from .servers import CONNECTIONS, Server, Service, answered, serving, stop
from .subjects import MANY, RAW, READY, ROWS, prepare, require_same

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
LIBRARIES = "fastapi mlflow numpy onnxruntime pandas polars scikit-learn uvicorn".split()
ROUNDS, SECONDS = 5, 5.0
FEW = 8  # connections, where requests are large


@dataclass(frozen=True)
class Row:
    """One line of the page."""

    what: str
    measured: str
    bar: str
    kept: bool


def measure(ours: Service, theirs: Service, minutes: float) -> Iterator[Row]:
    """All lines, in the order in which they are measured."""
    with serving(ours) as mine, serving(theirs) as other:
        require_same(mine, other)
        for server in (mine, other):  # warm up
            for kind in server.service.asked:
                server.load(kind, SECONDS, connections=FEW)
        most, row = throughput("one raw row; MLflow is given its features", (mine, RAW), (other, READY), least=12)
        yield row
        yield throughput("one row of ready features", (mine, READY), (other, READY), least=25)[1]
        yield latency(mine, most / 10)
        yield throughput(f"{ROWS} rows of ready features", (mine, MANY), (other, MANY), least=4)[1]
        yield memory(mine, other)
        stop(other.process)
        yield steady(mine, most / 2, minutes)
    yield cold_start(ours, theirs)


def throughput(what: str, mine: tuple[Server, str], other: tuple[Server, str], *, least: int) -> tuple[float, Row]:
    """Requests a second that the service answers, and the line that holds them against those of the other."""
    connections = FEW if mine[1] == MANY else CONNECTIONS
    pairs = [
        tuple(server.rate(kind, SECONDS, connections=connections) for server, kind in (mine, other))
        for _ in range(ROUNDS)
    ]
    ratio = statistics.median(ours / theirs for ours, theirs in pairs)
    ours, theirs = (statistics.median(rates) for rates in zip(*pairs, strict=True))
    figure = f"{ratio:.1f}x ({ours:,.0f} against {theirs:,.0f})"
    return ours, Row(f"requests a second: {what}", figure, f"at least {least}x", ratio >= least)


def latency(mine: Server, rate: float) -> Row:
    """From when a request is due until its answer is there, at a constant rate, whether or not answers have come."""
    samples = [mine.load(RAW, 2 * SECONDS, rate=rate).latencies for _ in range(ROUNDS)]
    slow = 1000 * statistics.median(statistics.quantiles(sample, n=100)[-1] for sample in samples)
    what = f"99th percentile of the time to an answer: one raw row, at a tenth of that, {rate:,.0f} a second"
    return Row(what, f"{slow:.1f} ms", "under 25 ms", slow < 25)


def memory(mine: Server, other: Server) -> Row:
    """Resident memory of all processes of each."""
    ours, theirs = mine.memory(), other.memory()
    kept = ours < 220 and ours < theirs / 2
    figure = f"{ours:.0f} MB against {theirs:.0f} MB"
    return Row("memory of all processes, after all that", figure, "under 220 MB and half", kept)


def steady(mine: Server, rate: float, minutes: float) -> Row:
    """Errors, and the memory of the last tenth of the time against that of the first."""
    process = mine.plan(RAW, 60 * minutes, rate=rate)
    found = []
    with ThreadPoolExecutor(1) as waiting:
        sample = waiting.submit(answered, process)
        while not sample.done():
            found.append(mine.memory())
            time.sleep(1)
    some = max(1, len(found) // 10)
    grown = statistics.median(found[-some:]) / statistics.median(found[:some]) - 1
    asked, errors = len(sample.result().latencies), sample.result().errors
    what = f"{minutes:g} minutes at half of the most raw rows, {rate:,.0f} a second: growth of memory, and errors"
    figure = f"{grown:+.1%}, {errors} errors in {asked:,} answers"
    return Row(what, figure, "under 5 %, none", grown < 0.05 and not errors)


def cold_start(ours: Service, theirs: Service) -> Row:
    """From the start of the process to the first answer, in turn."""
    taken = []
    for _ in range(ROUNDS):
        with serving(ours) as mine:
            first = mine.seconds
        with serving(theirs) as other:
            taken.append((first, other.seconds))
    start, others = (statistics.median(seconds) for seconds in zip(*taken, strict=True))
    kept = start < 3 and start < others / 5
    figure = f"{start:.1f} s against {others:.1f} s"
    return Row("from the command to the first answer", figure, "under 3 s and a fifth", kept)


def page(lines: list[Row]) -> str:
    """The page, whole."""
    machine = f"{platform.system()} on {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    table = [f"| {row.what} | {row.measured} | {row.bar} | {'yes' if row.kept else '**no**'} |" for row in lines]
    return "\n".join(
        [
            "# Benchmarks",
            "",
            "The service against `mlflow models serve` of the same scikit-learn pipeline; written by",
            "`uv run nox -s bench`, nothing here is typed by hand. Each serves with one worker, and their answers are",
            "equal. The service runs where nothing but its own dependencies is installed; it reads a raw row, holds",
            "it against the contract, computes its features and keeps the answer. MLflow is given ready features. A",
            "process of its own asks them in turn,",
            f"{ROUNDS} times for {SECONDS:g} s each, over {CONNECTIONS} connections ({FEW} where requests are large);",
            "figures are medians. Ratios hold roughly anywhere, times depend on the machine and on what else it does.",
            "",
            f"Measured on {machine}, with {libraries}.",
            "",
            "| what | measured | bar | kept |",
            "| -- | -- | -- | -- |",
            *table,
            "",
        ]
    )


def main() -> None:
    """Read the command line, measure, and write the page."""
    parser = argparse.ArgumentParser(prog="bench", description="Measure the service beside MLflow's.")
    parser.add_argument("--minutes", type=float, default=10, help="of steady load; 10 by default")
    asked = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for row in measure(*prepare(Path(folder)), asked.minutes):
            print(f"{row.what}: {row.measured} ({row.bar}){'' if row.kept else ' NO'}", flush=True)
            lines.append(row)
    PAGE.write_text(page(lines), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    try:
        main()
    except (BadInput, Refused, psutil.Error) as error:
        sys.exit(f"not measured: {error}")
