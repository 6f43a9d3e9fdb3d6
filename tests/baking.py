"""Generated projects as the tests see them, and the answers that they are made from."""

import json
import os
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, product
from pathlib import Path
from typing import Any

from cookiecutter.main import cookiecutter

TEMPLATE = Path(__file__).parents[1]
QUESTIONS: dict[str, Any] = {
    name: default
    for name, default in json.loads((TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8")).items()
    if not name.startswith("_")
}
CHOICES: dict[str, list[str]] = {name: default for name, default in QUESTIONS.items() if isinstance(default, list)}
SHORTEST, LONGEST = "x", "a-project-name-of-just-forty-characters1"


@dataclass(frozen=True)
class Project:
    """A generated project."""

    root: Path

    @property
    def slug(self) -> str:
        """The folder's, the distribution's and the command's name."""
        return self.root.name

    @property
    def package(self) -> str:
        """The import name."""
        return self.slug.replace("-", "_")

    @cached_property
    def files(self) -> list[str]:
        """Every rendered file, as a path with slashes."""
        paths = (path for path in self.root.rglob("*") if path.is_file())
        relative = (path.relative_to(self.root) for path in paths)
        kept = (path for path in relative if path.parts[0] != ".git" and "__pycache__" not in path.parts)
        return sorted(path.as_posix() for path in kept)

    @property
    def texts(self) -> dict[str, str]:
        """Every rendered text file but the lock."""
        names = (name for name in self.files if not name.endswith((".parquet", ".onnx", ".png", "uv.lock")))
        return {name: self.read(name) for name in names}

    @property
    def pyproject(self) -> dict[str, Any]:
        """The parsed pyproject.toml."""
        return tomllib.loads(self.read("pyproject.toml"))

    def read(self, name: str) -> str:
        """The text of a file."""
        return (self.root / name).read_bytes().decode("utf-8")

    def git(self, *arguments: str) -> str:
        """What Git prints in the project."""
        return run("git", *arguments, cwd=self.root).stdout


Bake = Callable[..., Project]


def run(
    *command: str | Path, cwd: Path, env: Mapping[str, str] | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a command; if it fails, show what it printed."""
    result = subprocess.run(
        command, cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, encoding="utf-8", check=False
    )
    assert not check or result.returncode == 0, f"{command} failed:\n{result.stdout}\n{result.stderr}"
    return result


def pairwise(options: Mapping[str, list[str]]) -> list[dict[str, str]]:
    """Pick rows in which every two answers to two questions meet at least once."""
    rows = [dict(zip(options, values, strict=True)) for values in product(*options.values())]

    def pairs(row: Mapping[str, str]) -> set[tuple[tuple[str, str], ...]]:
        return set(combinations(row.items(), 2))

    missing = {pair for row in rows for pair in pairs(row)}
    chosen = []
    while missing:
        best = max(rows, key=lambda row: len(pairs(row) & missing))
        missing -= pairs(best)
        chosen.append(best)
    return chosen


ROWS = pairwise({**CHOICES, "owner": ["", "some-team"], "project_slug": [SHORTEST, "my-ml-project", LONGEST]})


def copy_template(folder: Path) -> Path:
    """Copy this checkout, without its history and caches, into a folder."""
    caches = shutil.ignore_patterns(".git", ".*_cache", "__pycache__", ".cache", ".venv", ".nox", "demo", "site")
    return Path(shutil.copytree(TEMPLATE, folder, ignore=caches, dirs_exist_ok=True))


def publish(repository: Path, message: str, tag: str | None = None) -> str:
    """Commit everything in a folder, which becomes a repository if it is none; returns the commit."""
    run("git", "init", "--quiet", "--initial-branch=main", cwd=repository)
    run("git", "add", "--all", cwd=repository)
    run("git", "commit", "--quiet", "--message", message, cwd=repository)
    if tag:
        run("git", "tag", tag, cwd=repository)
    return run("git", "rev-parse", "HEAD", cwd=repository).stdout.strip()


def make(
    template: Path | str, folder: Path, answers: Mapping[str, str], *, checkout: str | None = None, over: bool = False
) -> Project:
    """Make a project in a folder through Cookiecutter itself, over what is there if so wished."""
    own = {"cookiecutters_dir": str(folder / "clones"), "replay_dir": str(folder / "replay")}
    root = cookiecutter(
        str(template),
        checkout=checkout,
        no_input=True,
        default_config=own,
        extra_context=dict(answers),
        output_dir=str(folder),
        overwrite_if_exists=over,
    )
    return Project(Path(root))


KEEP_A_QUARTER = """
from datetime import UTC, datetime
from pathlib import Path
import polars as pl
for file in Path("data/example").glob("*.parquet"):
    rows = pl.read_parquet(file)
    time = rows.select(pl.col(pl.Datetime)).columns[0]
    rows.filter(pl.col(time) < datetime(2013, 4, 1, tzinfo=UTC)).write_parquet(file)
"""


def keep_a_quarter(project: Project, python: Path) -> None:
    """Leave only the first quarter of the example's rows, by an interpreter that has the project's packages."""
    run(python, "-c", KEEP_A_QUARTER, cwd=project.root)


def copied(project: Project, folder: Path) -> Project:
    """A copy of a project, to work in."""
    caches = shutil.ignore_patterns(".*_cache", "__pycache__")
    shutil.copytree(project.root, folder / project.slug, ignore=caches)
    return Project(folder / project.slug)
