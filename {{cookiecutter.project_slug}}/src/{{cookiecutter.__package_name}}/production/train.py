"""Training: fit a challenger without the newest labelled window, evaluate it there, and register it."""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Annotated

import polars as pl
from pydantic import ConfigDict, Field

from {{cookiecutter.__package_name}}.core import PACKAGE, datasets
from {{cookiecutter.__package_name}}.core.contracts.schema import AVAILABLE_AT, PREDICTED_AT, TARGET, Role
from {{cookiecutter.__package_name}}.core.errors import Rejected
from {{cookiecutter.__package_name}}.core.models import evaluation, training
from {{cookiecutter.__package_name}}.core.models.evaluation import metrics
from {{cookiecutter.__package_name}}.core.models.leaks import find_leaks
from {{cookiecutter.__package_name}}.core.store.candidates import Candidate
from {{cookiecutter.__package_name}}.core.store.provenance import MODEL_FILES, provenance
from {{cookiecutter.__package_name}}.core.store.registry import CHALLENGER, Version
from {{cookiecutter.__package_name}}.core.store.releases import MODEL_FILE
from {{cookiecutter.__package_name}}.core.workspace import Workspace

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingResult:
    """The result of training.

    Attributes:
        version: Its version in the registry.
        run_id: Id of the tracked run.
        as_of: Time as of which labels were available.
        metrics: Metrics of model and baselines on the holdout, numbers of rows and parity.
        candidate: The record of the challenger.
        training_set: All labelled rows with their features, for the refit.
    """

    __pydantic_config__ = ConfigDict(arbitrary_types_allowed=True)

    version: int
    run_id: str
    as_of: datetime
    metrics: dict[str, float]
    candidate: Annotated[Candidate, Field(exclude=True)]
    training_set: Annotated[pl.DataFrame, Field(exclude=True)]

    def __str__(self) -> str:
        """The result as a table."""
        head = f"version {self.version}, trained on {self.metrics['rows']:.0f} rows as of {self.as_of:%Y-%m-%d %H:%M}"
        lines = [f"{head}; on the {self.metrics['window_rows']:.0f} rows of the newest window:"]
        lines.append("  " + "".join(f"{word:>18}" for word in ("", "model", "dummy", "linear")))
        for name in self.metrics:
            if f"dummy.{name}" in self.metrics:
                values = (self.metrics[f"{prefix}{name}"] for prefix in ("", "dummy.", "linear."))
                lines.append(f"  {name:>18}" + "".join(f"{value:>18.4f}" for value in values))
        return "\n".join(lines)


def train(workspace: Workspace, *, as_of: datetime | None = None) -> TrainingResult:
    """Fit a challenger on the data available as of a time, evaluate it on the holdout, and register it.

    Raises:
        Rejected: There are too few labelled rows, a feature leaks, or the model can't be exported.
    """
    problem, parameters, decision = workspace.problem, workspace.parameters, workspace.acceptance.decision
    as_of = workspace.now(as_of)
    tables = datasets.table_versions(problem, workspace.lake)
    rows = datasets.training_set(problem, workspace.lake, as_of=as_of, versions=tables)
    training_rows, holdout = datasets.split(problem, rows, workspace.acceptance.window, as_of=as_of)
    if min(len(training_rows), len(holdout)) < (need := workspace.acceptance.window.min_rows):
        raise datasets.too_few_rows(problem, training_rows, holdout, need)
    workspace.registry.versions()  # raises now, not after the work, if MLflow can't be reached
    _validate_no_leakage(workspace, rows, as_of, tables)
    days = _best_training_window(workspace, training_rows)
    training_rows = datasets.last_days(training_rows, days)
    log.info("train     a challenger")
    fitted = training.fit(problem, parameters, training_rows, parity_rows=holdout)
    predictions = {"model": fitted.predictor.predict(holdout)}
    log.info("train     baselines")
    predictions |= training.baselines(problem, training_rows, holdout, seed=parameters.seed)
    figures = {"parity": fitted.parity, "rows": len(training_rows), "window_rows": len(holdout)}
    for name, prediction in predictions.items():
        measured = metrics(evaluation.labelled_predictions(problem, holdout, prediction, fitted.classes), decision)
        prefix = "" if name == "model" else f"{name}."
        figures |= {f"{prefix}{metric}": value for metric, value in measured.items()}
    command = ["-m", PACKAGE, "train"]
    origin = provenance(workspace.root, tables=tables, as_of=as_of, command=command, files=MODEL_FILES)
    candidate = Candidate.model_validate(
        origin
        | {
            "run_id": "",
            "trained": datetime.now(UTC),
            "tables": tables,
            "parameters": parameters.model_dump(mode="json"),
            "features": fitted.predictor.features,
            "classes": fitted.classes,
            "training_window_days": days,
            "metrics": figures,
            "onnx": fitted.onnx,
            "holdout": holdout.with_columns(pl.Series(f"_{name}", values) for name, values in predictions.items()),
        }
    )
    version, candidate = _track(workspace, candidate, origin)
    return TrainingResult(version.number, candidate.run_id, as_of, figures, candidate, rows)


def _track(workspace: Workspace, candidate: Candidate, origin: Mapping[str, str]) -> tuple[Version, Candidate]:
    """Track a challenger as a run, append it to the lake, then register it."""
    parameters = json.dumps(candidate.parameters, separators=(",", ":"))
    tags = {**origin, "parameters": parameters, "onnx": hashlib.sha256(candidate.onnx).hexdigest()}
    with workspace.registry.run("train", candidate.parameters, tags) as run:
        run.log(candidate.metrics)
        run.log_artifact(MODEL_FILE, candidate.onnx)  # replaced by the refitted model on promotion
        candidate = candidate.model_copy(update={"run_id": run.id})
        if not workspace.settings.tables:  # reproduced runs are never released
            workspace.candidates.append(candidate)
    return register(workspace, candidate.run_id), candidate


def register(workspace: Workspace, run_id: str) -> Version:
    """Register the challenger of a run, unless it is registered, and set the alias."""
    version = workspace.registry.register(run_id, MODEL_FILE)
    workspace.registry.set_alias(CHALLENGER, version.number)
    return version


def _best_training_window(workspace: Workspace, rows: pl.DataFrame) -> int:
    """The length of the training window with the lowest loss; 0 is all rows."""
    problem, lengths = workspace.problem, workspace.acceptance.retrain.training_window_days
    newest = rows[AVAILABLE_AT].max()
    if len(lengths) == 1 or not isinstance(newest, datetime):
        return lengths[0]
    earlier, validation = datasets.split(problem, rows, workspace.acceptance.window, as_of=newest)
    found = {}
    for days in lengths:
        found[days] = training.loss(problem, workspace.parameters, datasets.last_days(earlier, days), validation)
        log.info("train     on %s: loss %.4f", f"{days} days" if days else "all rows", found[days])
    return min(found, key=lambda days: found[days])


def _validate_no_leakage(workspace: Workspace, rows: pl.DataFrame, as_of: datetime, tables: Mapping[str, int]) -> None:
    problem, early = workspace.problem, rows.filter(pl.col(AVAILABLE_AT) < pl.col(PREDICTED_AT))
    if problem.schema.event_time and len(early):
        one = "/".join(map(str, early.select(datasets.row_key(problem, early)).row(0)))
        what = (
            f"{len(early)} labels of {problem.labels.name} are available before their prediction, such as that of {one}"
        )
        raise Rejected(f"{what}: correct the rows, or the column with AvailableAt() in shared/contract.py")
    history = datasets.history_as_of(problem, workspace.lake, as_of=as_of, versions=tables)
    datasets.validate_no_leakage(problem, rows, history)
    _validate_no_leaks(workspace, rows, history)


def _validate_no_leaks(workspace: Workspace, rows: pl.DataFrame, history: datasets.History) -> None:
    problem, allowed = workspace.problem, workspace.acceptance.leaks.allow
    times = [
        column.name
        for column in problem.schema.columns
        if column.kind in {date, datetime} and not column.role(Role) and column.name in rows.columns
    ]
    columns = rows.select(sorted({*problem.features, *times}))
    time = problem.schema.event_time
    found = find_leaks(
        columns,
        rows[TARGET].alias(problem.target.name),
        rows.get_column(time, default=rows[PREDICTED_AT]).alias(time) if time else None,
    )
    if found.keys() - allowed:
        allowed = (*allowed, *datasets.from_earlier_labels(problem, rows, history))
    if found := {name: reason for name, reason in found.items() if name not in allowed}:
        what = "; ".join(f"{name} {reason}" for name, reason in sorted(found.items()))
        allow = ", ".join(f'"{name}"' for name in (*workspace.acceptance.leaks.allow, *sorted(found)))
        way = "mark such columns with Excluded() in shared/contract.py and drop their features"
        way += f", or if they are known before the prediction, set [leaks] allow = [{allow}] in config/acceptance.toml"
        raise Rejected(f"likely leaks: {what}: {way}")
