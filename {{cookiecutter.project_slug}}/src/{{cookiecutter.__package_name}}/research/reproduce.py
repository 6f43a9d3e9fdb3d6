"""The commands `runs` and `reproduce`."""

import hashlib
import json
import math
import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from {{cookiecutter.__package_name}}.core.errors import InputError, NothingYet, Rejected
from {{cookiecutter.__package_name}}.core.store.erasures import since
from {{cookiecutter.__package_name}}.core.store.provenance import HOOK_VARIABLES, git
from {{cookiecutter.__package_name}}.core.store.registry import Registry, RunInfo
from {{cookiecutter.__package_name}}.core.workspace import Workspace

METRICS = ("auc", "accuracy", "rmse", "log_loss", "loss", "cost", "loss_reduction")  # shown for a run
HIGHER_IS_BETTER = {"auc", "accuracy", "r2", "loss_reduction"}
ONNX = "onnx"  # tag with the hash of the ONNX model
SHORT = 8  # displayed characters of an id
TRACKING = "mlruns"
EXCLUDED_VARIABLES = ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "OPTUNA_STORAGE", *HOOK_VARIABLES)  # not inherited
PYTHON = ("uv", "run", "--locked", "python")  # in the locked environment of the worktree


@dataclass(frozen=True)
class Runs:
    """The tracked runs, newest first or best first.

    Attributes:
        runs: The runs.
        sorted_by: The metric that they are sorted by, if any.
    """

    runs: tuple[RunInfo, ...]
    sorted_by: str | None = None

    def __str__(self) -> str:
        """A table of the metrics and the parameters that differ, and a line of those that are equal."""
        if not self.runs:
            return "no runs yet: call run or an experiment"
        parameters: dict[str, set[str | None]] = {name: set() for run in self.runs for name in run.parameters}
        for name, values in parameters.items():
            values.update(run.parameters.get(name) for run in self.runs)
        differing = [name for name, values in parameters.items() if len(values) > 1]
        equal = [f"{name} {self.runs[0].parameters[name]}" for name in parameters if name not in differing]
        shown = [*dict.fromkeys([self.sorted_by or METRICS[0], *METRICS])]
        lines = _aligned([_cells(run, shown, differing) for run in self.runs])
        return "\n".join([*lines, *([f"parameters of all: {', '.join(equal)}"] if equal else [])])


@dataclass(frozen=True)
class ReproductionResult:
    """The result of reproducing a run.

    Attributes:
        run: The id of the run.
        differs: The differences, with both values.
        metrics: The number of compared metrics.
        models: The number of models compared byte by byte.
    """

    run: str
    differs: tuple[str, ...]
    metrics: int
    models: int

    @property
    def ok(self) -> bool:
        """Whether there are no differences."""
        return not self.differs

    def __str__(self) -> str:
        """One line, or one per difference."""
        if self.ok:
            return f"run {self.run[:SHORT]} is reproduced: {self.metrics} metrics and {self.models} models are equal"
        return "\n".join([f"run {self.run[:SHORT]} is not reproduced:", *(f"  {line}" for line in self.differs)])


def runs(workspace: Workspace, *, sort: str | None = None) -> Runs:
    """All tracked runs.

    Args:
        workspace: The workspace.
        sort: The metric by which the best runs are first, and those without it last. Default: newest first.

    Raises:
        InputError: No run has this metric.
    """
    found = workspace.registry.runs()
    if sort is None:
        return Runs(tuple(found))
    if not any(sort in run.metrics for run in found):
        known = sorted({name for run in found for name in run.metrics})
        raise InputError(f"no run has the metric {sort}: choose one of {', '.join(known) or 'none yet'}")
    sign = -1 if sort in HIGHER_IS_BETTER | workspace.acceptance.at_least.keys() else 1
    return Runs(tuple(sorted(found, key=lambda run: sign * run.metrics.get(sort, sign * math.inf))), sort)


def _cells(run: RunInfo, metrics: Iterable[str], parameters: Iterable[str]) -> dict[str, str]:
    """What the table shows of a run, by column."""
    kind = run.tags.get("kind", "") + (" fast" if run.tags.get("fast") == "true" else "")
    state = "" if run.status == "FINISHED" else f" {run.status.lower()}"
    commit = run.tags.get("commit", "")[:SHORT] + ("+" if run.tags.get("dirty") == "true" else "")
    cells = {"run": run.id[:SHORT], "started": f"{run.started:%Y-%m-%d %H:%M}", "kind": kind + state, "commit": commit}
    cells |= {name: f"{run.metrics[name]:.4g}" if name in run.metrics else "" for name in metrics}
    return cells | {name: run.parameters.get(name, "") for name in parameters}


def _aligned(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """A header and a line per row, without empty columns."""
    names = [name for name in rows[0] if any(row[name] for row in rows)]
    lines = [names, *([row[name] for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]


def reproduce(workspace: Workspace, run: str | None = None) -> ReproductionResult:
    """Re-run a run in a worktree of its commit with its lock file, table versions and time, and compare the results.

    Args:
        workspace: The workspace.
        run: The id of the run or its beginning. Default: the latest.

    Raises:
        InputError: The run doesn't exist, or its commit, lock file or table versions are not available.
        Rejected: The run is not reproducible, since it used uncommitted files.
    """
    found = _found(workspace, run)
    command = _command(found)
    if erased := since(workspace.lake, found.started):
        raise Rejected(f"{erased} rows were erased since run {found.id[:SHORT]}: it is no longer reproducible")
    _require_tables(workspace, found)
    with _worktree(workspace.root, found.tags["commit"]) as folder:
        lock = folder / "uv.lock"
        if not lock.is_file() or hashlib.sha256(lock.read_bytes()).hexdigest() != found.tags["lock"]:
            raise InputError(
                f"run {found.id[:SHORT]} used another lock file than that of its commit: it is not reproducible"
            )
        done = _run(*PYTHON, *command, folder=folder, environment=_environment(workspace, found, folder))
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or ["no message"]
            raise Rejected(f"{' '.join(command)} fails now: {last[0]}")
        return _compare(found, Registry(str(folder / TRACKING), workspace.registry.model))


def _found(workspace: Workspace, run: str | None) -> RunInfo:
    if not (tracked := workspace.registry.runs()):
        raise NothingYet("run")
    matching = tracked[:1] if run is None else [found for found in tracked if found.id.startswith(run)]
    if len(matching) != 1:
        raise InputError(f"{len(matching) or 'no'} runs of this project begin with {run or ''!r}: see runs")
    return matching[0]


def _command(run: RunInfo) -> list[str]:
    """The command of the run.

    Raises:
        InputError: It is unknown. Rejected: The run used uncommitted files.
    """
    if not run.tags.get("commit"):
        raise InputError(f"run {run.id[:SHORT]} was made without Git: its code is unknown")
    if run.tags["dirty"] == "true":
        msg = f"run {run.id[:SHORT]} used files that differed from commit {run.tags['commit'][:SHORT]}"
        raise Rejected(f"{msg}: commit before a run that must be reproducible")
    if run.tags.get("parallel") == "true":
        msg = f"run {run.id[:SHORT]} used several workers, whose trials depend on timing"
        raise Rejected(f"{msg}: only a search by tune --workers 1 can be reproduced")
    command: list[str] = json.loads(run.tags.get("command", "[]"))
    if not command:
        raise InputError(f"run {run.id[:SHORT]} was made cell by cell: run the whole script")
    return command


def _require_tables(workspace: Workspace, run: RunInfo) -> None:
    """Check that the recorded table versions are readable."""
    tables: dict[str, int] = json.loads(run.tags["tables"])
    then = replace(workspace.lake, versions=tables)
    for name, schema in workspace.problem.schemas.items():
        try:
            if tables.get(name, -1) >= 0:
                then.read(name, schema.dtypes).select(schema.names[0]).collect()
        except (InputError, OSError) as error:
            msg = f"table {name} of run {run.id[:SHORT]} is no longer readable in version {tables[name]}"
            raise InputError(f"{msg} (see the setting ML_TABLE_HISTORY_DAYS): {error}") from error


@contextmanager
def _worktree(root: Path, commit: str) -> Iterator[Path]:
    """A temporary worktree of a commit."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary, root.name)
        made = git(root, "worktree", "add", "--detach", "--quiet", str(folder), commit)
        if made.returncode:
            reason = made.stderr.strip().splitlines()[-1]
            raise InputError(f"commit {commit[:SHORT]} can't be checked out: {reason}; fetch it first")
        try:
            yield folder / git(root, "rev-parse", "--show-prefix").stdout.strip()  # a project may be a subfolder
        finally:
            git(root, "worktree", "remove", "--force", str(folder))


def _environment(workspace: Workspace, run: RunInfo, folder: Path) -> dict[str, str]:
    """The environment of the process: table versions and time of the run, its own registry, no shared trials."""
    tables = {name: version for name, version in json.loads(run.tags["tables"]).items() if version >= 0}
    inherited = {name: value for name, value in os.environ.items() if name not in EXCLUDED_VARIABLES}
    lake = workspace.lake.url if "://" in workspace.lake.url else str(Path(workspace.lake.url).resolve())
    own = {"ML_LAKE": lake, "ML_TRACKING": str(folder / TRACKING), "ML_TABLES": json.dumps(tables)}
    return inherited | own | {"ML_NOW": run.tags["as_of"], "ML_REPORTS": str(folder / "reports")}


def _compare(run: RunInfo, registry: Registry) -> ReproductionResult:
    again = next((made for made in registry.runs() if made.tags.get("kind") == run.tags.get("kind")), None)
    if again is None:
        raise Rejected(f"the command of run {run.id[:SHORT]} tracked no run of kind {run.tags.get('kind')}")
    differs = [
        f"{name}: {run.metrics.get(name)} then, {again.metrics.get(name)} now"
        for name in sorted(run.metrics.keys() | again.metrics.keys())
        if run.metrics.get(name) != again.metrics.get(name)
    ]
    if run.tags.get(ONNX) != again.tags.get(ONNX):
        differs.append("model: different bytes")
    return ReproductionResult(run.id, tuple(differs), len(run.metrics), int(ONNX in run.tags))


def _run(*command: str, folder: Path, environment: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(  # noqa: S603 - the project's own command
            command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", check=False
        )
    except OSError as error:
        raise InputError(f"{command[0]} can't be started: {error.strerror}") from error
