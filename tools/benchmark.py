"""Measure a generated project, and write docs/reference/benchmarks.md: `uvx nox -s bench`.

Ratios compare two things in one run, in turn; times depend on the machine and tell only the order of magnitude.
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

from tools.size import measure as measure_size

HERE = Path(__file__).parents[1]
PAGE = HERE / "docs" / "reference" / "benchmarks.md"
SLUG, PACKAGE = "my-ml-project", "my_ml_project"
ROUNDS = 5
# Files and lines of code of each profile: the bars of the page.
SIZES = {"minimal": (110, 3_700), "standard": (140, 4_700), "full": (160, 5_900)}
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a user's second process reads what the first compiled


@dataclass(frozen=True)
class Row:
    """One line of the page."""

    what: str
    measured: str
    bar: str
    met: bool


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


def render(folder: Path, profile: str) -> Path:
    """A project of a profile."""
    command = ("cookiecutter", str(HERE), "--no-input", "--default-config", "--output-dir", str(folder))
    timed(*command, f"profile={profile}")
    return folder / SLUG


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


def printed(script: str, *options: str, project: Path) -> dict[str, dict[str, float]]:
    """What a script of these tools prints that runs in a project and its environment."""
    command = ["uv", "run", *options, "python", str(HERE / "tools" / script), PACKAGE]
    done = subprocess.run(command, cwd=project, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(folder: Path) -> Iterator[Row]:
    """All rows, from a fresh project."""
    project, cost, hooks = bake(folder)
    yield Row("`cookiecutter --no-input`, default answers", f"{cost:.2f} s CPU", "under 1 s CPU", cost < 1)
    yield Row("of that, the hooks: checks, editors, first commit", f"{hooks:.2f} s CPU", "under 0.3 s CPU", hooks < 0.3)
    for profile, (files, lines) in SIZES.items():
        size = measure_size(render(folder / profile, profile))
        figure, limit = f"{size.files:,}, {size.total:,}", f"at most {files}, {lines:,}"
        yield Row(f"files and lines of code, `{profile}`", figure, limit, size.files <= files and size.total <= lines)
    timed("uv", "sync", cwd=project)  # fills the cache of packages
    timed("uv", "venv", "--clear", cwd=project)
    sync, run = timed("uv", "sync", cwd=project)[0], timed("uv", "run", SLUG, "run", cwd=project)[0]
    both = f"{sync:.0f} s + {run:.0f} s"
    yield Row("`uv sync` warm, then `run` to a promoted champion", both, "under 60 s", sync + run < 60)
    own = timed("uv", "run", "nox", "-s", "tests", cwd=project)[0]
    yield Row("`nox -s tests` of a fresh project", f"{own:.0f} s", "under 60 s", own < 60)
    full = folder / "full" / SLUG
    timed("uv", "sync", cwd=full)
    timed("uv", "run", SLUG, "run", cwd=full)
    yield from service(full)
    yield from data(full)
    ours, bare = update(folder)
    ratio, bar = ours / bare, 1.1 * 1.20
    times = f"{ratio:.2f}x ({ours:.2f} s against {bare:.2f} s CPU)"
    what = "`cruft update` of an untouched project, against two bare renders"
    yield Row(what, times, f"at most {bar:.2f}x", ratio <= bar)
    yield from commands(full)
    tests = timed("nox", "-s", "framework", "tests")[0]
    yield Row("default tests of the template and its framework", f"{tests:.0f} s", "under 600 s", tests < 600)


def service(project: Path) -> Iterator[Row]:
    """The rows that compare the service with `mlflow models serve` of the same pipeline."""
    extra = ("--isolated", *(word for name in ("mlflow", "pandas", "psutil") for word in ("--with", name)))
    found = printed("benchmark_service.py", *extra, project=project)
    rates = {
        "raw": ("requests a second: one raw row; MLflow receives its features", 20),
        "ready": ("requests a second: one row of ready features", 35),
    }
    for name, (what, bar) in rates.items():
        pair = found[name]
        figure = f"{pair['ratio']:.1f}x ({pair['ours']:,.0f} against {pair['theirs']:,.0f})"
        yield Row(what, figure, f"at least {bar}x", pair["ratio"] >= bar)
    memory, start = found["memory"], found["start"]
    figure = f"{memory['ratio']:.2f}x ({memory['ours']:.0f} MB against {memory['theirs']:.0f} MB)"
    yield Row("memory of the server's processes, against MLflow's", figure, "at most 0.5x", memory["ratio"] <= 0.5)
    figure = f"{start['ratio']:.2f}x ({start['ours']:.1f} s against {start['theirs']:.1f} s)"
    yield Row("from the command to the first answer, against MLflow's", figure, "at most 0.2x", start["ratio"] <= 0.2)


def data(project: Path) -> Iterator[Row]:
    """The rows on features and ingestion; ratios may be 10 % worse than those of 0.2.0."""
    found = printed("benchmark_project.py", project=project)
    features, days, large = found["features"], found["days"], found["large"]
    what = f"{features['features']} features of {features['rows']:,} flights, against hand-written Polars"
    times, bar = f"({features['ours']:.2f} s against {features['by_hand']:.2f} s CPU)", 1.1 * 1.13
    yield Row(what, f"{features['ratio']:.2f}x {times}", f"at most {bar:.2f}x", features["ratio"] <= bar)
    times, bar = f"({days['late']:.2f} s against {days['first']:.2f} s CPU)", 1.1 * 1.61
    what = "a day's batches on tables of a year, against the first day"
    yield Row(what, f"{days['ratio']:.2f}x {times}", f"at most {bar:.2f}x", days["ratio"] <= bar)
    what = f"a day's batch into a table of {large['rows']:,} rows"
    yield Row(what, f"{large['wall']:.2f} s", "under 2 s", large["wall"] < 2)


def commands(project: Path) -> Iterator[Row]:
    """The rows on commands of a project with a champion."""
    command = str(project / ".venv" / ("Scripts" if os.name == "nt" else "bin") / SLUG)
    instant = min(timed(command, "--help", cwd=project)[0] for _ in range(ROUNDS))
    yield Row("`--help`", f"{instant:.2f} s", "under 0.5 s", instant < 0.5)
    replay = timed(command, "simulate", "--from", "2013-03-01", "--to", "2013-12-31", cwd=project)[0]
    yield Row("`simulate` from March to December", f"{replay:.0f} s", "under 180 s", replay < 180)
    scripts = sorted((project / "src" / PACKAGE / "research" / "experiments").glob("[!_]*.py"))
    slowest = max(timed("uv", "run", "python", str(script), "--fast", cwd=project)[0] for script in scripts)
    what = f"an experiment with `--fast`, the slowest of {len(scripts)}"
    yield Row(what, f"{slowest:.1f} s", "under 15 s", slowest < 15)
    wall, cpu = timed(command, "tune", "--trials", "20", cwd=project)
    timed("git", "restore", "config", cwd=project)  # the found parameters would change what is measured next
    busy = cpu / wall / (os.cpu_count() or 1)
    yield Row("share of all cores that `tune --trials 20` keeps busy", f"{busy:.0%}", "over 85 %", busy > 0.85)


def shown(rows: Iterator[Row]) -> Iterator[Row]:
    """Each row, printed as soon as it is measured: a failure loses none of those before it."""
    for row in rows:
        print(f"{row.what}: {row.measured} ({row.bar}){'' if row.met else ' NO'}", file=sys.stderr, flush=True)
        yield row


def page(rows: list[Row]) -> str:
    """The whole page."""
    machine = f"{platform.system()} on {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    tools = ", ".join(f"{name} {version(name)}" for name in ("cookiecutter", "pytest", "nox"))
    table = [f"| {row.what} | {row.measured} | {row.bar} | {'yes' if row.met else '**no**'} |" for row in rows]
    return "\n".join(
        [
            "# Benchmarks",
            "",
            "Written by `uvx nox -s bench`; nothing here is typed by hand. Ratios compare two things in one run, in",
            "turn. They hold roughly on any machine; times vary by a factor of two with what else the machine does.",
            "",
            "The service is compared with `mlflow models serve` of the same scikit-learn pipeline. Each has one worker",
            "and 64 connections, and their answers are equal. The service validates raw rows, computes their features",
            "and logs its answers; MLflow receives ready features.",
            "",
            f"Measured on {machine}, with {tools}.",
            "",
            "| what | measured | bar | met |",
            "| -- | -- | -- | -- |",
            *table,
            "",
        ]
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        text = page(list(shown(measure(Path(temporary)))))
    PAGE.write_text(text, encoding="utf-8", newline="\n")
    print(text)
