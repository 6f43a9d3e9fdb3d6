"""Measure what a user waits for, and write docs/reference/benchmarks.md: `uvx nox -s bench`.

Ratios compare two things in one run, in turn; times are of this machine and only say of which order they are.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from tools.browser import Opened, browser, opened

HERE = Path(__file__).parents[1]
PAGE = HERE / "docs" / "reference" / "benchmarks.md"
SLUG, PACKAGE = "my-ml-project", "my_ml_project"
ROUNDS = 5
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a user's second process reads what the first compiled


@dataclass(frozen=True)
class Row:
    """One line of the page."""

    what: str
    measured: str
    bar: str
    kept: bool


def timed(*command: str, cwd: Path = HERE) -> tuple[float, float]:
    """Wall and CPU seconds of a command that must succeed."""
    before, start = os.times(), time.perf_counter()
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    after, wall = os.times(), time.perf_counter() - start
    if done.returncode:
        message = f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}"
        raise SystemExit(message)
    return wall, after.children_user + after.children_system - before.children_user - before.children_system


def bake(folder: Path) -> tuple[Path, float, float]:
    """A project with the default answers, what it cost in CPU seconds, and what its hooks cost of that."""
    command = ("cookiecutter", str(HERE), "--no-input", "--default-config", "--output-dir")
    whole, bare = [], []
    for i in range(2 * ROUNDS):
        whole.append(timed(*command, str(folder / str(i)))[1])
        bare.append(timed(*command, str(folder / f"bare-{i}"), "--accept-hooks", "no")[1])
    return folder / "0" / SLUG, min(whole), min(whole) - min(bare)


def update(folder: Path) -> tuple[float, float]:
    """CPU seconds of `cruft update` of an untouched project, and of the two bare renders that it can't do without."""
    template, project = folder / "template", folder / "created" / SLUG
    timed("git", "clone", "--quiet", str(HERE), str(template))
    made = ("cookiecutter", str(template), "--no-input", "--default-config", "--output-dir")
    timed(*made, str(project.parent))
    page = template / "{{cookiecutter.project_slug}}" / "CONTRIBUTING.md"
    page.write_text(page.read_text(encoding="utf-8") + "\nNew.\n", encoding="utf-8")
    timed("git", "commit", "--quiet", "--all", "--message", "Change a line", cwd=template)
    updates, renders = [], []
    for i in range(ROUNDS):
        renders.append(timed(*made, str(folder / f"render-{i}"), "--accept-hooks", "no")[1])
        updates.append(timed("cruft", "update", "--skip-apply-ask", cwd=project)[1])
        timed("git", "reset", "--quiet", "--hard", cwd=project)
    return min(updates), 2 * min(renders)


def pace() -> float:
    """Seconds in which this machine adds ten million numbers one by one: more of them where others work on it too."""
    start, total = time.perf_counter(), 0
    for number in range(10_000_000):
        total += number
    return time.perf_counter() - start


def measure(folder: Path) -> Iterator[Row]:
    """All rows, from a fresh project."""
    project, cost, hooks = bake(folder)
    yield Row("`cookiecutter --no-input`, default answers", f"{cost:.2f} s CPU", "under 1 s CPU", cost < 1)
    yield Row("of that, the hooks: checks, editors, first commit", f"{hooks:.2f} s CPU", "under 0.3 s CPU", hooks < 0.3)
    timed("uv", "sync", cwd=project)  # fills the cache of packages
    timed("uv", "venv", "--clear", cwd=project)
    sync, run = timed("uv", "sync", cwd=project)[0], timed("uv", "run", SLUG, "run", cwd=project)[0]
    both = f"{sync:.0f} s + {run:.0f} s"
    yield Row("`uv sync` warm, then `run` to a promoted champion", both, "under 60 s", sync + run < 60)
    script = str(HERE / "tools" / "benchmark_project.py")
    printed = subprocess.run(
        ["uv", "run", "python", script, PACKAGE], cwd=project, capture_output=True, text=True, check=True
    ).stdout
    figures = json.loads(printed)
    features, days = figures["features"], figures["days"]
    what = f"{features['features']} features of {features['rows']:,} flights against hand-written Polars"
    times = f"{features['ratio']:.2f}x ({features['ours']:.2f} s against {features['by_hand']:.2f} s CPU)"
    yield Row(what, times, "at most 1.5x CPU", features["ratio"] <= 1.5)
    times = f"{days['ratio']:.2f}x ({days['late']:.2f} s against {days['first']:.2f} s CPU)"
    yield Row("a day's batches on tables of a year, against the first day", times, "at most 2x", days["ratio"] <= 2)
    yield from life(figures)
    command = str(project / ".venv" / ("Scripts" if os.name == "nt" else "bin") / SLUG)
    yield from research(project, command)
    ours, bare = update(folder)
    times = f"{ours / bare:.2f}x ({ours:.2f} s against {bare:.2f} s CPU)"
    yield Row("`cruft update` of an untouched project, against two bare renders", times, "under 3x", ours < 3 * bare)
    instant = min(timed(command, "--help", cwd=project)[0] for _ in range(ROUNDS))
    yield Row("`--help`", f"{instant:.2f} s", "under 0.5 s", instant < 0.5)
    own = timed("uv", "run", "pytest", "--numprocesses=auto", cwd=project)[0]
    yield Row("default tests of a generated project", f"{own:.0f} s", "under 120 s", own < 120)
    template = timed("pytest", "--numprocesses=auto")[0]
    yield Row("default tests of the template", f"{template:.0f} s", "under 600 s", template < 600)


def research(project: Path, command: str) -> list[Row]:
    """The rows on research, of a project with a champion."""
    scripts = sorted((project / "src" / PACKAGE / "research" / "experiments").glob("[!_]*.py"))
    slowest = max(timed("uv", "run", "python", str(script), "--fast", cwd=project)[0] for script in scripts)
    wall, cpu = timed(command, "tune", "--trials", "20", cwd=project)
    timed("git", "restore", "config", cwd=project)  # what was found is not to change what is measured next
    busy = cpu / wall / (os.cpu_count() or 1)
    with browser() as context:
        for _ in opened(context, [command], project):  # what Python compiles once is waited for here
            pass
        reports = list(opened(context, [command], project))
    return [
        Row(
            f"an experiment with `--fast`, the slowest of {len(scripts)}",
            f"{slowest:.1f} s",
            "under 15 s",
            slowest < 15,
        ),
        Row("share of all cores that `tune --trials 20` keeps busy", f"{busy:.0%}", "over 85 %", busy > 0.85),
        *openings(reports),
    ]


def openings(reports: list[Opened]) -> list[Row]:
    """The rows on how long the slowest report takes to open."""
    seconds = {
        "a report, from a click to its last figure, the slowest": [report.again for report in reports],
        "its first opening on a server that was just started": [report.first for report in reports],
        "the same from the command that starts the server": [report.started + report.first for report in reports],
    }
    return [Row(what, f"{max(each):.1f} s", "under 5 s", max(each) < 5) for what, each in seconds.items()]


def life(figures: dict[str, dict[str, float]]) -> list[Row]:
    """The rows on continuous life."""
    large, replay = figures["large"], figures["replay"]
    what = f"a day's batch into a table of {large['rows']:,} rows"
    ratio = replay["300th"] / replay["30th"]
    times = f"{ratio:.2f}x ({replay['300th']:.2f} s against {replay['30th']:.2f} s)"
    return [
        Row(what, f"{large['wall']:.2f} s", "under 2 s", large["wall"] < 2),
        Row(
            "a day's `run` without training, the slowest", f"{replay['plain']:.1f} s", "under 5 s", replay["plain"] < 5
        ),
        Row("a day's `run` that trains, the slowest", f"{replay['trains']:.1f} s", "under 20 s", replay["trains"] < 20),
        Row("the 300th day of a replay, against the 30th", times, "at most 2x", ratio <= 2),
        Row("`simulate` from March to December", f"{replay['wall']:.0f} s", "under 180 s", replay["wall"] < 180),
    ]


def told(rows: Iterator[Row]) -> Iterator[tuple[Row, float]]:
    """Each row with the machine's pace after it, said as it is measured: a failure loses none of those before it."""
    for row in rows:
        seconds = pace()
        print(f"{row.what}: {row.measured} ({row.bar}; pace {seconds:.1f} s)", file=sys.stderr, flush=True)
        yield row, seconds


def page(rows: list[tuple[Row, float]]) -> str:
    """The page, whole, of rows and the machine's pace after each."""
    machine = f"{platform.system()} on {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    tools = ", ".join(f"{name} {version(name)}" for name in ("cookiecutter", "pytest", "nox"))
    table = [
        f"| {row.what} | {row.measured} | {row.bar} | {'yes' if row.kept else '**no**'} | {seconds:.1f} s |"
        for row, seconds in rows
    ]
    return "\n".join(
        [
            "# Benchmarks",
            "",
            "Written by `uvx nox -s bench`; nothing here is typed by hand. Ratios compare two things in one run, in",
            "turn; times depend on the machine and on what else it does: its pace is how long ten million additions in",
            "Python took it right after, on the same machine the longer the more others had of it.",
            "",
            f"Measured on {machine}, with {tools}.",
            "",
            "| what | measured | bar | kept | pace |",
            "| -- | -- | -- | -- | -- |",
            *table,
            "",
        ]
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        text = page(list(told(measure(Path(temporary)))))
    PAGE.write_text(text, encoding="utf-8", newline="\n")
    print(text)
