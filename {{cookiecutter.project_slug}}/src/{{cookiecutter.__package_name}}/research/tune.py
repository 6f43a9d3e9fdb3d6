"""Better parameters: searched on past folds, tracked as a run, and written where the parameters stand."""

import hashlib
import inspect
import json
import os
import re
import tomllib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import tomlkit
from pydantic import ValidationError

from {{cookiecutter.__package_name}}.research.study import Plan
from {{cookiecutter.__package_name}}.research.trials import Tried, search
from {{cookiecutter.__package_name}}.shared import BadInput, Refused, dataset, masked, require_port, whole
from {{cookiecutter.__package_name}}.shared.folds import folds
from {{cookiecutter.__package_name}}.shared.provenance import provenance
from {{cookiecutter.__package_name}}.shared.schema import AT, KNOWN, TARGET
from {{cookiecutter.__package_name}}.shared.search import Choice, Space, space_of
from {{cookiecutter.__package_name}}.shared.workspace import Workspace

FOLDS = 4
TRIALS = 50
SHORT = 12  # characters of a hash
IN_MEMORY = re.compile(r"sqlite[^/]*://(/(file:)?(:memory:.*)?)?($|\?)|sqlite.*[?&]mode=memory")  # of one process
PACKAGE = __name__.partition(".")[0]
MARK = "# Tuned by run {run}, values {digest}: drop this line when you edit them."
MARKED = re.compile(r"^# Tuned by run (?P<run>\w+), values (?P<digest>\w+).*\n", re.MULTILINE)


@dataclass(frozen=True)
class Tuned:
    """What a search found.

    Attributes:
        run_id: Of the tracked run.
        study: In the storage of its trials.
        trials: Finished ones.
        pruned: Of them, those that ended early.
        before: The mean loss of the parameters that were there, over the folds.
        best: The lowest.
        changed: Each parameter that is better otherwise: its value before and the better one.
        workers: How many worked here.
        busy: The share of the cores' time that they used.
        unmarked: Whether the file named a run that did not find its values, and no longer does.
    """

    run_id: str
    study: str
    trials: int
    pruned: int
    before: float
    best: float
    changed: dict[str, tuple[Any, Any]]
    workers: int
    busy: float
    unmarked: bool

    def __str__(self) -> str:
        """A table for people."""
        workers = f"{self.workers} worker{'s' * (self.workers > 1)} used {self.busy:.0%} of the cores"
        lines = [f"{self.trials} trials, {self.pruned} pruned; {workers}"]
        if not self.changed:
            lines += [f"nothing beats the parameters that are there, with a mean loss of {self.before:.4f}"]
            lines += ["config/params.toml names no run any more, as its values are not that run's"] * self.unmarked
            return "\n".join(lines)
        lines += [f"{'':>24}{'before':>12}{'best':>12}", f"{'mean loss':>24}{self.before:>12.4f}{self.best:>12.4f}"]
        lines += [f"{name:>24}{before!s:>12}{best!s:>12}" for name, (before, best) in self.changed.items()]
        lines += [
            f"config/params.toml has them, by run {self.run_id[:8]}: commit it; train and gate judge a challenger"
        ]
        return "\n".join(lines)


def tune(
    workspace: Workspace, *, trials: int = TRIALS, workers: int | None = None, storage: str | None = None
) -> Tuned:
    """Search parameters that do better on past folds than those that are there; write the best in their place.

    A search that was stopped goes on where it was, as long as rows, features, model and parameters are the same.

    Args:
        workspace: The workspace.
        trials: How many, those of before among them.
        workers: How many processes; without it, one a core.
        storage: The address of a database that workers on many machines share; without it, the variable
            `OPTUNA_STORAGE` in the environment or `.env`, and without that, a journal beside the runs.

    Raises:
        BadInput: No parameter says where to search, or the storage can't be used.
        Refused: There are too few rows, the model can't be fitted, or a worker was ended.
    """
    problem = workspace.problem
    as_of, tables = workspace.now(), dataset.versions(problem, workspace.lake)
    space = _space(workspace)
    rows = _rows(workspace, dataset.training_set(problem, workspace.lake, as_of=as_of, versions=tables))
    plan = _plan(workspace, rows, space, trials=trials, storage=storage)
    command = ["-m", PACKAGE, "tune", "--trials", str(trials)]  # the storage may be gone; how many workers is the same
    made_of = provenance(workspace.root, tables=tables, as_of=as_of, command=command)
    workers = min(workers or os.cpu_count() or 1, trials)
    tried, busy = search(problem, plan, rows, workers=workers)
    run_id, best = _track(workspace, plan, tried, made_of)
    changed = {name: (old, best[name]) for name, old in plan.current.items() if best[name] != old}
    if changed:
        write(workspace.root / "config" / "params.toml", {name: new for name, (_, new) in changed.items()}, run_id)
    unmarked = not changed and _unmark(workspace)
    losses = [trial.loss for trial in tried if trial.loss is not None]
    pruned = len(tried) - len(losses)
    return Tuned(run_id, plan.name, len(tried), pruned, losses[0], min(losses), changed, workers, busy, unmarked)


def _track(workspace: Workspace, plan: Plan, tried: list[Tried], made_of: dict[str, str]) -> tuple[str, dict[str, Any]]:
    """Keep the search as a run: its id, and the best parameters."""
    whole = {n: trial.loss for n, trial in enumerate(tried) if trial.loss is not None}
    best = min(whole, key=lambda n: whole[n])
    parameters = type(workspace.parameters).model_validate(tried[best].values)
    tags = made_of | {
        "features": json.dumps(list(workspace.problem.features)),
        "parameters": parameters.model_dump_json(),
        "study": plan.name,
    }
    with workspace.registry.run("tune", parameters.model_dump(), tags) as run:
        run.log({"loss": whole[best], "loss_before": whole[0], "trials": len(tried), "pruned": len(tried) - len(whole)})
    return run.id, tried[best].values


def _space(workspace: Workspace) -> Space:
    """Where to search.

    Raises:
        BadInput: Nowhere, or where a parameter can't be.
    """
    parameters = workspace.parameters
    if not (space := space_of(type(parameters))):
        way = "say it beside them in shared/model.py, as Annotated[float, Search(0.01, 0.3, log=True)]"
        raise BadInput(f"no parameter says where it is to be searched: {way}")
    for name, where in space.items():
        for value in where.values if isinstance(where, Choice) else (where.low, where.high):
            try:
                type(parameters).model_validate(parameters.model_dump() | {name: value})
            except ValidationError as error:
                reason = error.errors()[0]["msg"]
                raise BadInput(
                    f"{name} is searched at {value!r} in shared/model.py, where it can't be: {reason}"
                ) from error
    return space


def _rows(workspace: Workspace, rows: pl.DataFrame) -> pl.DataFrame:
    """What is searched on: all but the newest labelled window, which the gate judges on.

    Raises:
        Refused: There are too few for the folds.
    """
    problem, window = workspace.problem, workspace.acceptance.window
    newest = rows[KNOWN].max()  # not the time it is, with which a search that was stopped would be another
    before, _ = dataset.split(problem, rows, window, as_of=newest if isinstance(newest, datetime) else workspace.now())
    needed = dict.fromkeys((*problem.schema.names, *problem.features, AT, KNOWN, TARGET))
    kept = before.select(name for name in needed if name in rows.columns)
    for n, parts in enumerate(folds(problem, kept, FOLDS), start=1):
        if (fewest := min(map(len, parts))) < window.rows:
            msg = f"{fewest} rows in fold {n} of {FOLDS} before the newest window are too few (at least {window.rows})"
            raise Refused(f"{msg}: wait for more, or change [window] in config/acceptance.toml")
    return kept


def _plan(workspace: Workspace, rows: pl.DataFrame, space: Space, *, trials: int, storage: str | None) -> Plan:
    current = workspace.parameters.model_dump(mode="json")
    digest = hashlib.sha256(rows.hash_rows().to_numpy().tobytes())
    digest.update(Path(inspect.getfile(type(workspace.parameters))).read_bytes())
    digest.update(repr((sorted(space.items()), workspace.problem.features, current, FOLDS)).encode())
    name = f"{PACKAGE}-{digest.hexdigest()[:SHORT]}"
    tracking = workspace.settings.tracking
    folder = workspace.path("data" if "://" in tracking else tracking) / "tune"
    storage = storage or os.environ.get("OPTUNA_STORAGE")  # where Optuna's own tools look for it
    if storage is not None and ("://" not in storage or IN_MEMORY.match(storage)):
        where = masked(storage)
        raise BadInput(f"--storage {where} is no address of a database that many can share, as sqlite:///tune.db is")
    require_port(storage or "", "--storage")
    return Plan(name, storage or str(folder / f"{name}.journal"), trials, FOLDS, current)


def write(path: Path, values: dict[str, Any], run_id: str | None) -> None:
    """Put values into a TOML file, with a line that says by which run, if by one; all else in it stays."""
    document = tomlkit.parse(MARKED.sub("", path.read_text(encoding="utf-8")))
    document.update(values)
    text = tomlkit.dumps(document)
    start = re.match(r"(#.*\n)*", text)
    at = start.end() if start else 0
    mark = f"{MARK.format(run=run_id, digest=_digest(text))}\n" if run_id else ""
    with whole(path) as draft:
        draft.write_text(f"{text[:at]}{mark}{text[at:]}", encoding="utf-8", newline="\n")


def _unmark(workspace: Workspace) -> bool:
    """Drop the line of a run that the values are not, or no longer, of; whether it was there."""
    try:
        tuned_by(workspace)
    except BadInput:
        write(workspace.root / "config" / "params.toml", {}, None)
        return True
    return False


def _digest(text: str) -> str:
    values = json.dumps(tomllib.loads(text), sort_keys=True, default=str)
    return hashlib.sha256(values.encode()).hexdigest()[:SHORT]


def tuned_by(workspace: Workspace) -> str | None:
    """The run that `config/params.toml` says it was tuned by, if any.

    Raises:
        BadInput: The parameters are not, or no longer, those of the run.
    """
    path = workspace.root / "config" / "params.toml"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if (mark := MARKED.search(text)) is None:
        return None
    line = f"drop the line {mark[0].strip()!r} of {path}, or tune again"
    if mark["digest"] != _digest(text):
        raise BadInput(f"the parameters were edited since run {mark['run']} found them: {line}")
    tracked = {run.id: run.tags.get("parameters", "") for run in workspace.registry.runs()}
    if (kept := tracked.get(mark["run"])) and json.loads(kept) != workspace.parameters.model_dump(mode="json"):
        raise BadInput(f"run {mark['run']} found other parameters: {line}")
    return mark["run"]
