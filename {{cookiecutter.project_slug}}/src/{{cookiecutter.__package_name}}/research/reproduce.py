"""`runs` and `reproduce`: the tracked runs, and one of them again, from its commit, lock, tables and time."""

import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from {{cookiecutter.__package_name}}.core.errors import BadInput, Refused
from {{cookiecutter.__package_name}}.core.store.erasures import since
from {{cookiecutter.__package_name}}.core.store.registry import Registry, RunInfo
from {{cookiecutter.__package_name}}.core.workspace import Workspace

FIGURES = ("auc", "accuracy", "rmse", "log_loss", "loss", "cost", "gain")  # of a run, for people
ONNX = "onnx"  # the tag of the hash of a challenger's model
SHORT = 8  # characters of an id, for people
TRACKING = "mlruns"
OTHERS = ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "OPTUNA_STORAGE")  # an environment and trials that are not the run's
PYTHON = ("uv", "run", "--locked", "python")  # of the worktree, in the environment of its lock


@dataclass(frozen=True)
class Runs:
    """The tracked runs, the newest first."""

    runs: tuple[RunInfo, ...]

    def __str__(self) -> str:
        """A line a run."""
        return "\n".join(map(_line, self.runs)) or "no runs yet: run, or an experiment, makes the first"


@dataclass(frozen=True)
class ReproductionResult:
    """A run beside itself, made again.

    Attributes:
        run: Its id.
        differs: What is not equal, with both values; empty where all is.
        metrics: How many metrics were compared.
        models: How many models, byte for byte.
    """

    run: str
    differs: tuple[str, ...]
    metrics: int
    models: int

    @property
    def ok(self) -> bool:
        """Whether all is equal."""
        return not self.differs

    def __str__(self) -> str:
        """One line, or one for each difference."""
        if self.ok:
            return f"run {self.run[:SHORT]} again: {self.metrics} metrics and {self.models} models are equal"
        return "\n".join([f"run {self.run[:SHORT]} again differs:", *(f"  {line}" for line in self.differs)])


def runs(workspace: Workspace) -> Runs:
    """All tracked runs."""
    return Runs(tuple(workspace.registry.runs()))


def _line(run: RunInfo) -> str:
    figures = ", ".join(f"{name} {run.metrics[name]:.4g}" for name in FIGURES if name in run.metrics)
    kind = run.tags.get("kind", "") + (" fast" if run.tags.get("fast") == "true" else "")
    state = "" if run.status == "FINISHED" else f" {run.status.lower()}"
    commit = run.tags.get("commit", "")[:SHORT] + ("+" if run.tags.get("dirty") == "true" else "")
    return f"{run.id[:SHORT]}  {run.started:%Y-%m-%d %H:%M}  {kind}{state}  {commit}  {figures}"


def reproduce(workspace: Workspace, run: str | None = None) -> ReproductionResult:
    """Do a run again, as it was: in a worktree of its commit with its lock, on its tables, as of its time.

    Args:
        workspace: The workspace.
        run: The run's id, or how it begins; without it, the newest.

    Raises:
        BadInput: There is no such run, or its commit, lock or tables are not to be had here.
        Refused: It can't be equal: it was made from files that are in no commit.
    """
    found = _found(workspace, run)
    command = _command(found)
    if erased := since(workspace.lake, found.started):
        raise Refused(f"{erased} rows were erased since run {found.id[:SHORT]} was made: it can't be equal any more")
    _require_tables(workspace, found)
    with _worktree(workspace.root, found.tags["commit"]) as folder:
        lock = folder / "uv.lock"
        if not lock.is_file() or hashlib.sha256(lock.read_bytes()).hexdigest() != found.tags["lock"]:
            raise BadInput(f"run {found.id[:SHORT]} had another lock than its commit has: it can't be made again here")
        done = _run(*PYTHON, *command, folder=folder, environment=_environment(workspace, found, folder))
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or ["it says nothing"]
            raise Refused(f"{' '.join(command)} fails now, where it did not then: {last[0]}")
        return _compare(found, Registry(str(folder / TRACKING), workspace.registry.model))


def _found(workspace: Workspace, run: str | None) -> RunInfo:
    tracked = workspace.registry.runs()
    matching = tracked[:1] if run is None else [found for found in tracked if found.id.startswith(run)]
    if len(matching) != 1:
        raise BadInput(f"{len(matching) or 'no'} runs of this project begin with {run or ''!r}: see runs")
    return matching[0]


def _command(run: RunInfo) -> list[str]:
    """What Python was given.

    Raises:
        BadInput: It is not known.
        Refused: The run was made from files that are in no commit.
    """
    if not run.tags.get("commit"):
        raise BadInput(f"run {run.id[:SHORT]} was made without Git: its code is not known")
    if run.tags["dirty"] == "true":
        msg = f"run {run.id[:SHORT]} was made from files that differed from commit {run.tags['commit'][:SHORT]}"
        raise Refused(f"{msg}, and are not kept: commit before a run that is to be made again")
    if run.tags.get("parallel") == "true":
        msg = f"run {run.id[:SHORT]} searched with several workers, and what they try depends on their timing"
        raise Refused(f"{msg}: only a search by tune --workers 1 can be reproduced")
    command: list[str] = json.loads(run.tags.get("command", "[]"))
    if not command:
        raise BadInput(f"run {run.id[:SHORT]} was made cell by cell: run its script as a whole")
    return command


def _require_tables(workspace: Workspace, run: RunInfo) -> None:
    """Refuse tables whose files from then are gone."""
    tables: dict[str, int] = json.loads(run.tags["tables"])
    then = replace(workspace.lake, versions=tables)
    for name, schema in workspace.problem.schemas.items():
        try:
            if tables.get(name, -1) >= 0:
                then.read(name, schema.dtypes).select(schema.names[0]).collect()
        except (BadInput, OSError) as error:
            msg = f"table {name} of run {run.id[:SHORT]} can't be read in version {tables[name]} any more"
            raise BadInput(f"{msg} (ML_KEEP_DAYS is how long it can): {error}") from error


@contextmanager
def _worktree(root: Path, commit: str) -> Iterator[Path]:
    """A folder with the files of a commit."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary, root.name)
        made = _run("git", "worktree", "add", "--detach", "--quiet", str(folder), commit, folder=root)
        if made.returncode:
            reason = made.stderr.strip().splitlines()[-1]
            raise BadInput(f"commit {commit[:SHORT]} can't be checked out: {reason}; fetch it first")
        try:
            yield folder
        finally:
            _run("git", "worktree", "remove", "--force", str(folder), folder=root)


def _environment(workspace: Workspace, run: RunInfo, folder: Path) -> dict[str, str]:
    """The environment of the process: the run's tables and time, a registry of its own, nobody's trials."""
    tables = {name: version for name, version in json.loads(run.tags["tables"]).items() if version >= 0}
    kept = {name: value for name, value in os.environ.items() if name not in OTHERS}
    lake = workspace.lake.url if "://" in workspace.lake.url else str(Path(workspace.lake.url).resolve())
    own = {"ML_LAKE": lake, "ML_TRACKING": str(folder / TRACKING), "ML_TABLES": json.dumps(tables)}
    return kept | own | {"ML_NOW": run.tags["as_of"], "ML_REPORTS": str(folder / "reports")}


def _compare(run: RunInfo, registry: Registry) -> ReproductionResult:
    again = next((made for made in registry.runs() if made.tags.get("kind") == run.tags.get("kind")), None)
    if again is None:
        raise Refused(f"the command of run {run.id[:SHORT]} leaves no run of kind {run.tags.get('kind')} now")
    differs = [
        f"{name}: {run.metrics.get(name)} then, {again.metrics.get(name)} now"
        for name in sorted(run.metrics.keys() | again.metrics.keys())
        if run.metrics.get(name) != again.metrics.get(name)
    ]
    if run.tags.get(ONNX) != again.tags.get(ONNX):
        differs.append("model: other bytes")
    return ReproductionResult(run.id, tuple(differs), len(run.metrics), int(ONNX in run.tags))


def _run(
    *command: str, folder: Path, environment: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(  # noqa: S603 - git, or the project's own command
            command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", check=False
        )
    except OSError as error:
        raise BadInput(f"{command[0]} can't be started: {error.strerror}") from error
