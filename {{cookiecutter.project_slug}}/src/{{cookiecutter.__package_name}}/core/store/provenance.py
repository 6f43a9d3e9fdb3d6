"""Provenance of runs: code, configuration, table versions and time, and a hash of the code of the model."""

import ast
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import tokenize
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path

from {{cookiecutter.__package_name}}.core import PACKAGE
from {{cookiecutter.__package_name}}.core.settings import UTF_8

SOURCE = Path(__file__).parents[__name__.count(".") - 1]  # folder of the package
MODEL_CODE = ("shared", "core", "production/train.py", "production/promote.py")  # code that affects the model
NOT_MODEL_CODE = ("shared/collect.py", "shared/extensions.py")
PARAMETERS = "config/params.toml"
HASHED_FILES = (  # Git pathspecs of what `code_hash` covers
    *(f"src/{PACKAGE}/{name}" for name in MODEL_CODE),
    *(f":(exclude)src/{PACKAGE}/{name}" for name in NOT_MODEL_CODE),
    PARAMETERS,
)
MODEL_FILES = (*HASHED_FILES, "config", "pyproject.toml", "uv.lock")
GENERATED = re.compile(r"(^|/)([.~][^/]*|__pycache__/.*|[^/]*\.egg-info/.*)$|\.pyc$|~$")  # no source
HOOK_VARIABLES = (  # by which Git tells a hook its repository
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY"),
    *("GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_CONFIG_PARAMETERS", "GIT_CONFIG_COUNT", "GIT_NAMESPACE"),
)
ALL_FILES = ("src", "config", "pyproject.toml", "uv.lock")


def provenance(
    root: Path,
    *,
    tables: Mapping[str, int],
    as_of: datetime,
    command: list[str] | None = None,
    files: Sequence[str] = ALL_FILES,
) -> dict[str, str]:
    """The provenance of a run, including the command that reproduces it.

    Args:
        root: The project's folder.
        tables: The table versions.
        as_of: Time as of which data were available.
        command: The arguments to Python that reproduce the run. Default: the current script's.
        files: The files that must be committed for the run to be reproducible.
    """
    lock = root / "uv.lock"
    return {
        "as_of": as_of.isoformat(),
        "tables": json.dumps(tables),
        "command": json.dumps(command or _script(root)),
        "commit": git(root, "rev-parse", "--verify", "--quiet", "HEAD").stdout.strip(),
        "dirty": json.dumps(bool(changed_files(root, files))),
        "code": code_hash(root),
        "lock": hashlib.sha256(lock.read_bytes()).hexdigest() if lock.is_file() else "",
    }


def changed_files(root: Path, files: Sequence[str] = MODEL_FILES, *, since: str = "HEAD") -> list[str]:
    """The files that differ from a commit, by default the last one, among those that affect the model.

    Settings and marks of Git that hide files are not followed: an index of its own has none. Where Git can't tell, its
    reason takes the place of the files; a link out of the code is told, since Git looks no further. Without a
    repository there are none.
    """
    root = root.resolve()
    if not any((folder / ".git").exists() for folder in (root, *root.parents)):
        return []
    found = set(_links(root))
    diff = ("diff", "--name-only", "--relative", "--ignore-submodules=none", since)
    with tempfile.TemporaryDirectory() as folder:
        for question in (("read-tree", "HEAD"), ("ls-files", "--others", "--", *files), (*diff, "--", *files)):
            answer = git(root, "-c", "core.quotePath=false", *question, GIT_INDEX_FILE=str(Path(folder, "index")))
            if answer.returncode:
                reason = re.search(r"^fatal: .*", answer.stderr, re.MULTILINE)
                return [f"src and config (Git says: {reason[0] if reason else answer.stderr})"]
            found |= set(answer.stdout.splitlines())
    return sorted(name for name in found if not GENERATED.search(name))


def _links(root: Path) -> Iterator[str]:
    """The links in code and configuration that lead out of them."""
    places = [root / name for name in ALL_FILES]
    for path in (path for place in places for path in (place, *place.rglob("*")) if path.is_symlink()):
        if not any(path.resolve().is_relative_to(place) for place in places):
            yield path.relative_to(root).as_posix()


def code_hash(root: Path) -> str:
    """A hash of the code and parameters that affect the model, without comments and docstrings.

    It does not depend on the version of Python or on Git.
    """
    digest = hashlib.sha256()
    for path in _model_code():
        source = significant(path.read_text(encoding=UTF_8))
        digest.update(f"{path.relative_to(SOURCE).as_posix()}\n{source}".encode())
    parameters = root / PARAMETERS
    if parameters.is_file():
        digest.update(json.dumps(tomllib.loads(parameters.read_text(encoding=UTF_8)), default=str).encode())
    return digest.hexdigest()


@cache
def significant(source: str) -> str:
    """Python source without comments, docstrings and blank lines between statements.

    Lines are removed from the text itself, since tokens and syntax trees differ between versions of Python.
    """
    lines, blank = source.split("\n"), set[int]()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        row, column = token.start
        if token.type == tokenize.COMMENT:
            lines[row - 1] = lines[row - 1][:column].rstrip()
        elif token.type == tokenize.NL and not lines[row - 1].strip():
            blank.add(row)
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
            and not lines[node.lineno - 1][: node.col_offset].strip()
        ):
            blank |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return "\n".join(line for row, line in enumerate(lines, start=1) if row not in blank)


def _model_code() -> Iterator[Path]:
    left_out = {SOURCE / name for name in NOT_MODEL_CODE}
    for name in MODEL_CODE:
        path = SOURCE / name
        yield from sorted(set(path.rglob("*.py")) - left_out) if path.is_dir() else [path] * path.is_file()


def _script(root: Path) -> list[str]:
    """The current script of the project with its arguments; empty in an interactive notebook."""
    script = Path(sys.argv[0]).resolve()
    kernel = script.is_relative_to(Path(sys.prefix).resolve())  # Jupyter's script is in the project's .venv
    inside = script.is_file() and script.is_relative_to(root.resolve()) and not kernel
    return [script.relative_to(root.resolve()).as_posix(), *sys.argv[1:]] if inside else []


def git(root: Path, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run Git in a project, with more variables; a Git hook that called this process has no say in where."""
    environment = {name: value for name, value in os.environ.items() if name not in HOOK_VARIABLES} | variables
    command = ["git", *arguments]
    try:
        return subprocess.run(  # noqa: S603
            command, cwd=root, env=environment, capture_output=True, encoding="utf-8", errors="replace", check=False
        )
    except OSError as error:
        return subprocess.CompletedProcess(command, 1, "", f"git can't be started: {error.strerror}")
