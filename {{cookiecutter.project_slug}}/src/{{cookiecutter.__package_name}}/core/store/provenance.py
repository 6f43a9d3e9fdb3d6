"""Which code, configuration, tables and time a run is made of, and whether the code of a model has changed since."""

import ast
import hashlib
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path

PACKAGE = __name__.partition(".")[0]
SOURCE = Path(__file__).parents[__name__.count(".") - 1]  # the package's folder
MODEL_CODE = ("shared", "core", "production/train.py", "production/promote.py")  # what a model is made by
NOT_MODEL_CODE = ("shared/collect.py", "shared/extensions.py")
PARAMETERS = "config/params.toml"
MODEL_FILES = (  # as Git names them
    *(f"src/{PACKAGE}/{name}" for name in MODEL_CODE),
    *(f":(exclude)src/{PACKAGE}/{name}" for name in NOT_MODEL_CODE),
    "config",
    "pyproject.toml",
    "uv.lock",
)
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
ALL_FILES = ("src", "config", "pyproject.toml", "uv.lock")


def provenance(
    root: Path,
    *,
    tables: Mapping[str, int],
    as_of: datetime,
    command: list[str] | None = None,
    files: Sequence[str] = ALL_FILES,
) -> dict[str, str]:
    """Which code, tables and time a run is made of, and the command that makes it again.

    Args:
        root: The project's folder.
        tables: The versions of the tables.
        as_of: What was known by then was used.
        command: What Python is given; without it, the script that runs.
        files: The files that must be in a commit for the run to be made again from it.
    """
    lock = root / "uv.lock"
    return {
        "as_of": as_of.isoformat(),
        "tables": json.dumps(tables),
        "command": json.dumps(command or _script(root)),
        "commit": _git(root, "rev-parse", "HEAD"),
        "dirty": json.dumps(bool(changed_files(root, files))),
        "code": code_hash(root),
        "lock": hashlib.sha256(lock.read_bytes()).hexdigest() if lock.is_file() else "",
    }


def changed_files(root: Path, files: Sequence[str] = MODEL_FILES) -> list[str]:
    """The files that differ from the last commit, by default of those that make a model; empty without Git."""
    lines = _git(root, "status", "--porcelain", "--", *files).splitlines()
    return [line.split(maxsplit=1)[-1] for line in lines]


def code_hash(root: Path) -> str:
    """A hash of the code and the parameters that make a model, without comments and docstrings.

    It does not depend on Git; another version of Python may write the same code in another way.
    """
    digest = hashlib.sha256()
    for path in _model_code():
        source = _significant(path.read_text(encoding="utf-8"))
        digest.update(f"{path.relative_to(SOURCE).as_posix()}\n{source}".encode())
    parameters = root / PARAMETERS
    if parameters.is_file():
        digest.update(json.dumps(tomllib.loads(parameters.read_text(encoding="utf-8")), default=str).encode())
    return digest.hexdigest()


@cache
def _significant(source: str) -> str:
    """Python source without comments, docstrings and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.unparse(tree)


def _model_code() -> Iterator[Path]:
    left_out = {SOURCE / name for name in NOT_MODEL_CODE}
    for name in MODEL_CODE:
        path = SOURCE / name
        yield from sorted(set(path.rglob("*.py")) - left_out) if path.is_dir() else [path] * path.is_file()


def _script(root: Path) -> list[str]:
    """The script of the project that runs; empty where cells run one by one."""
    script = Path(sys.argv[0]).resolve()
    kernel = script.is_relative_to(Path(sys.prefix).resolve())  # which runs cells, from the project's own .venv
    inside = script.is_file() and script.is_relative_to(root.resolve()) and not kernel
    return [script.relative_to(root.resolve()).as_posix(), *sys.argv[1:]] if inside else []


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)  # noqa: S603, S607
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
