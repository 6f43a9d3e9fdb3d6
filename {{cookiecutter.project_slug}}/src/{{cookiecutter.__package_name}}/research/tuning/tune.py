"""Hyperparameter tuning on past folds, tracked as a run; the best parameters go to config/params.toml."""

import hashlib
import inspect
import json
import os
import re
from dataclasses import dataclass
from datetime import datetime
from math import inf
from pathlib import Path
from typing import Any

import polars as pl
import tomlkit
from pydantic import ValidationError

from {{cookiecutter.__package_name}}.core import PACKAGE, datasets
from {{cookiecutter.__package_name}}.core.contracts.schema import AVAILABLE_AT, PREDICTED_AT, TARGET
from {{cookiecutter.__package_name}}.core.errors import (
    InputError,
    Rejected,
    redact_passwords,
    validate_port,
    write_file,
)
from {{cookiecutter.__package_name}}.core.models.search_space import Choice, Space, space_of
from {{cookiecutter.__package_name}}.core.settings import UTF_8
from {{cookiecutter.__package_name}}.core.store.provenance import provenance
from {{cookiecutter.__package_name}}.core.workspace import Workspace
from {{cookiecutter.__package_name}}.research.tuning.study import (
    FOLDS,
    PARALLEL,
    PARAMETERS,
    Plan,
    folds,
    loss_of,
    search,
)

TRIALS = 50
SHORT = 12  # characters of a hash
IN_MEMORY = ("sqlite://", "sqlite:///", "sqlite:///:memory:")  # databases of one process
MARK = "# Tuned by run {run}: delete this line when you edit the values."
MARKED = re.compile(r"^# Tuned by run .*\n", re.MULTILINE)


@dataclass(frozen=True)
class TuningResult:
    """What a search found.

    Attributes:
        run_id: ID of the tracked run.
        trials: Number of finished trials.
        pruned: Number of trials among them that ended early.
        loss_before: Mean loss of the current parameters over the folds.
        loss: The lowest.
        changed: Parameters that the best trial changes: their current and their best value.
    """

    run_id: str
    trials: int
    pruned: int
    loss_before: float
    loss: float
    changed: dict[str, tuple[Any, Any]]

    def __str__(self) -> str:
        """The result as a table."""
        lines = [f"{self.trials} trials, {self.pruned} pruned"]
        if not self.changed:
            return f"{lines[0]}\nno trial beats the current parameters, with a mean loss of {self.loss_before:.4f}"
        losses = f"{self.loss_before:.4f}", f"{self.loss:.4f}"
        table = {"": ("before", "best"), "mean loss": losses, **self.changed}
        lines += [f"{name:>24}{before!s:>12}{best!s:>12}" for name, (before, best) in table.items()]
        run = self.run_id[:8]
        lines += [f"config/params.toml has them, by run {run}: commit it, then train and promote a challenger"]
        return "\n".join(lines)


def tune(
    workspace: Workspace, *, trials: int = TRIALS, workers: int | None = None, storage: str | None = None
) -> TuningResult:
    """Search for parameters with a lower loss on past folds than the current ones, and write the best.

    A search that was stopped is resumed, as long as rows, features, model and parameters are the same.

    Args:
        workspace: The workspace.
        trials: Number of trials to finish, that of the current parameters among them.
        workers: Number of processes. Default: one per CPU core.
        storage: URL of a database that commands on many machines share. Default: the variable `OPTUNA_STORAGE` in the
            environment or `.env`, and without that, a journal file beside the runs.

    Raises:
        InputError: No parameter has a search space, or the storage can't be used.
        Rejected: There are too few rows, the model can't be fitted, or a worker process was killed.
    """
    problem = workspace.problem
    as_of, tables = workspace.now(), datasets.table_versions(problem, workspace.lake)
    space = _space(workspace)
    rows = _rows(workspace, datasets.training_set(problem, workspace.lake, as_of=as_of, versions=tables))
    plan = _plan(workspace, rows, space, trials=trials, storage=storage)
    tags = provenance(workspace.root, tables=tables, as_of=as_of)  # before params.toml changes
    workers = min(workers or os.cpu_count() or 1, trials)
    finished = search(problem, plan, rows, workers=workers)
    loss_before = next(loss_of(trial) for trial in finished if trial.user_attrs[PARAMETERS] == plan.current)
    if loss_before == inf:
        raise Rejected("the current parameters have no loss, as their trial ended early: change shared/model.py")
    best = min(finished, key=loss_of)
    values = best.user_attrs[PARAMETERS]
    parameters = type(workspace.parameters).model_validate(values)
    parallel = any(trial.user_attrs[PARALLEL] for trial in finished)
    command = ["-m", PACKAGE, "tune", "--trials", str(len(finished)), "--workers", str(workers if parallel else 1)]
    tags |= {
        "command": json.dumps(command),
        "parallel": json.dumps(parallel),
        "features": json.dumps(list(problem.features)),
        "parameters": parameters.model_dump_json(),
        "study": plan.study,
    }
    loss, pruned = loss_of(best), sum(loss_of(trial) == inf for trial in finished)
    with workspace.registry.run("tune", parameters.model_dump(), tags) as run:
        run.log({"loss": loss, "loss_before": loss_before, "trials": len(finished), "pruned": pruned})
    changed = {name: (value, values[name]) for name, value in plan.current.items() if values[name] != value}
    if changed:
        write_parameters(
            workspace.root / "config" / "params.toml", {name: new for name, (_, new) in changed.items()}, run.id
        )
    return TuningResult(run.id, len(finished), pruned, loss_before, loss, changed)


def _space(workspace: Workspace) -> Space:
    """The search space.

    Raises:
        InputError: There is none, or a parameter can't have a value of it.
    """
    parameters = workspace.parameters
    if not (space := space_of(type(parameters))):
        hint = "annotate one in shared/model.py, as Annotated[float, Search(0.01, 0.3, log=True)]"
        raise InputError(f"no parameter has a search space: {hint}")
    for name, where in space.items():
        for value in where.values if isinstance(where, Choice) else (where.low, where.high):
            try:
                type(parameters).model_validate(parameters.model_dump() | {name: value})
            except ValidationError as error:
                reason = error.errors()[0]["msg"]
                msg = f"{name} is searched at {value!r} in shared/model.py, which is not valid: {reason}"
                raise InputError(msg) from error
    return space


def _rows(workspace: Workspace, rows: pl.DataFrame) -> pl.DataFrame:
    """The rows of the folds: all but the newest labelled window, which the gate judges on.

    Raises:
        Rejected: There are too few for the folds.
    """
    problem, window = workspace.problem, workspace.acceptance.window
    newest = rows[AVAILABLE_AT].max()  # not the time of the call, with which a resumed search would have other rows
    train, _ = datasets.split(problem, rows, window, as_of=newest if isinstance(newest, datetime) else workspace.now())
    needed = dict.fromkeys((*problem.schema.names, *problem.features, PREDICTED_AT, AVAILABLE_AT, TARGET))
    selected = train.select(name for name in needed if name in rows.columns)
    fewest = min(len(part) for fold in folds(problem, selected) for part in fold)
    if fewest < window.min_rows:
        msg = f"{fewest} rows in a fold are too few (at least {window.min_rows})"
        raise Rejected(f"{msg}: wait for more rows, or change [window] in config/acceptance.toml")
    return selected


def _plan(workspace: Workspace, rows: pl.DataFrame, space: Space, *, trials: int, storage: str | None) -> Plan:
    current = workspace.parameters.model_dump(mode="json")
    digest = hashlib.sha256(rows.hash_rows().to_numpy().tobytes())
    digest.update(Path(inspect.getfile(type(workspace.parameters))).read_bytes())
    digest.update(repr((FOLDS, current, workspace.problem.features, sorted(space.items()))).encode())
    study = f"{PACKAGE}-{digest.hexdigest()[:SHORT]}"
    tracking = workspace.settings.tracking
    folder = workspace.path("data" if "://" in tracking else tracking) / "tune"
    storage = storage or os.environ.get("OPTUNA_STORAGE")  # where Optuna's own tools look for it
    if storage and ("://" not in storage or storage.partition("?")[0] in IN_MEMORY):
        url = redact_passwords(storage)
        raise InputError(f"--storage {url} is no URL of a database that processes can share, as sqlite:///tune.db is")
    validate_port(storage or "", "--storage")
    return Plan(study, storage or str(folder / f"{study}.journal"), trials, current)


def write_parameters(path: Path, values: dict[str, Any], run_id: str) -> None:
    """Write values into a TOML file, with a line that names their run; the rest of the file stays."""
    document = tomlkit.parse(MARKED.sub("", path.read_text(encoding=UTF_8)))
    document.update(values)
    mark = MARK.format(run=run_id)  # below the comment at the top
    text = re.sub(r"\A(#.*\n)*", lambda comment: f"{comment[0]}{mark}\n", tomlkit.dumps(document), count=1)
    write_file(path, text)
