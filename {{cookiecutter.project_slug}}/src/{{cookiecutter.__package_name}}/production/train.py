"""A challenger: fitted without the newest labelled window, tracked, registered, with its evidence."""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

import polars as pl
from pydantic import ConfigDict, Field

from {{cookiecutter.__package_name}}.core import datasets
from {{cookiecutter.__package_name}}.core.contracts.schema import AT, KNOWN
from {{cookiecutter.__package_name}}.core.errors import Refused
from {{cookiecutter.__package_name}}.core.models import evaluation, training
from {{cookiecutter.__package_name}}.core.models.evaluation import metrics
from {{cookiecutter.__package_name}}.core.store.candidates import Candidate
from {{cookiecutter.__package_name}}.core.store.provenance import MODEL_FILES, provenance
from {{cookiecutter.__package_name}}.core.store.registry import CHALLENGER, Version
from {{cookiecutter.__package_name}}.core.store.releases import MODEL
from {{cookiecutter.__package_name}}.core.workspace import Workspace

log = logging.getLogger(__name__)

PACKAGE = __name__.partition(".")[0]


@dataclass(frozen=True)
class TrainingResult:
    """A challenger.

    Attributes:
        version: In the registry.
        run_id: Of the tracked run.
        as_of: Labels known by then were used.
        metrics: Of the model and its baselines on the newest window, numbers of rows, parity; as the run's are named.
        candidate: What the gate needs.
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
        """A table for people."""
        head = f"version {self.version}, trained on {self.metrics['rows']:.0f} rows as of {self.as_of:%Y-%m-%d %H:%M}"
        lines = [f"{head}; on the {self.metrics['window_rows']:.0f} rows of the newest window:"]
        lines.append("  " + "".join(f"{word:>18}" for word in ("", "model", "dummy", "linear")))
        for name in self.metrics:
            if f"dummy.{name}" in self.metrics:
                values = (self.metrics[f"{prefix}{name}"] for prefix in ("", "dummy.", "linear."))
                lines.append(f"  {name:>18}" + "".join(f"{value:>18.4f}" for value in values))
        return "\n".join(lines)


def train(workspace: Workspace, *, as_of: datetime | None = None) -> TrainingResult:
    """Fit a challenger on what was known as of a time, measure it on the newest window, register it.

    Raises:
        Refused: There are too few labelled rows, a feature knows the future, or the model can't be exported.
    """
    problem, parameters, decision = workspace.problem, workspace.parameters, workspace.acceptance.decision
    as_of = workspace.now(as_of)
    tables = datasets.versions(problem, workspace.lake)
    rows = datasets.training_set(problem, workspace.lake, as_of=as_of, versions=tables)
    before, holdout = datasets.split(problem, rows, workspace.acceptance.window, as_of=as_of)
    if min(len(before), len(holdout)) < (need := workspace.acceptance.window.rows):
        raise datasets.too_few(problem, before, holdout, need)
    _require_no_leak(workspace, rows, as_of, tables)
    days = _best_length(workspace, before)
    before = datasets.within(before, days)
    log.info("train     on %d rows; %d rows of the newest window are held back", len(before), len(holdout))
    fitted = training.fit(problem, parameters, before, check=holdout)
    predictions = {"model": fitted.predictor.predict(holdout)}
    log.info("train     baselines")
    predictions |= training.baselines(problem, before, holdout, seed=parameters.seed)
    figures = {"parity": fitted.parity, "rows": len(before), "window_rows": len(holdout)}
    for name, prediction in predictions.items():
        measured = metrics(evaluation.answers(problem, holdout, prediction, fitted.classes), decision)
        prefix = "" if name == "model" else f"{name}."
        figures |= {f"{prefix}{metric}": value for metric, value in measured.items()}
    command = ["-m", PACKAGE, "train"]
    made_of = provenance(workspace.root, tables=tables, as_of=as_of, command=command, files=MODEL_FILES)
    candidate = Candidate.model_validate(
        made_of
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
    version, candidate = _track(workspace, candidate, made_of)
    return TrainingResult(version.number, candidate.run_id, as_of, figures, candidate, rows)


def _track(workspace: Workspace, candidate: Candidate, made_of: Mapping[str, str]) -> tuple[Version, Candidate]:
    """Log a challenger as a run, record it in the lake, then register it; a `run` goes on from the lake's record."""
    parameters = json.dumps(candidate.parameters, separators=(",", ":"))
    tags = {**made_of, "parameters": parameters, "onnx": hashlib.sha256(candidate.onnx).hexdigest()}
    with workspace.registry.run("train", candidate.parameters, tags) as run:
        run.log(candidate.metrics)
        run.log_artifact(MODEL, candidate.onnx)  # what the registered version is, until the refit takes its place
        candidate = candidate.model_copy(update={"run_id": run.id})
        if not workspace.settings.tables:  # what is trained on the tables of an earlier time is never released
            workspace.candidates.append(candidate)
    return register(workspace, candidate.run_id), candidate


def register(workspace: Workspace, run_id: str) -> Version:
    """Register the challenger of a run, where that is not done yet, and let the alias name it."""
    version = workspace.registry.register(run_id, MODEL)
    workspace.registry.set_alias(CHALLENGER, version.number)
    return version


def _best_length(workspace: Workspace, rows: pl.DataFrame) -> int:
    """The length of training that does best on the newest window of the rows; 0 is all there is."""
    problem, lengths = workspace.problem, workspace.acceptance.retrain.train_days
    newest = rows[KNOWN].max()
    if len(lengths) == 1 or not isinstance(newest, datetime):
        return lengths[0]
    earlier, tried = datasets.split(problem, rows, workspace.acceptance.window, as_of=newest)
    found = {}
    for days in lengths:
        found[days] = training.loss(problem, workspace.parameters, datasets.within(earlier, days), tried)
        log.info("train     on %s: loss %.4f", f"{days} days" if days else "all rows", found[days])
    return min(found, key=lambda days: found[days])


def _require_no_leak(workspace: Workspace, rows: pl.DataFrame, as_of: datetime, tables: Mapping[str, int]) -> None:
    problem, early = workspace.problem, rows.filter(pl.col(KNOWN) < pl.col(AT))
    if problem.schema.event_time and len(early):
        one = "/".join(map(str, early.select(datasets.identity(problem, early)).row(0)))
        what = f"{len(early)} labels of {problem.labels.name} are known before their row is predicted, as that of {one}"
        raise Refused(f"{what}: correct the rows, or the column with Known() in shared/contract.py")
    datasets.require_no_leak(problem, rows, datasets.known(problem, workspace.lake, as_of=as_of, versions=tables))
