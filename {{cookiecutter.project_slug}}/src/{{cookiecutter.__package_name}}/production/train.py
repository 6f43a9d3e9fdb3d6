"""A challenger: fitted without the newest labelled window, tracked, registered, with its evidence."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO

import numpy as np
import polars as pl

from {{cookiecutter.__package_name}}.shared import Refused, dataset, evaluation, training
from {{cookiecutter.__package_name}}.shared.evaluation import metrics
from {{cookiecutter.__package_name}}.shared.registry import CHALLENGER, provenance
from {{cookiecutter.__package_name}}.shared.release import MODEL
from {{cookiecutter.__package_name}}.shared.schema import AT, KNOWN
from {{cookiecutter.__package_name}}.shared.workspace import Workspace

log = logging.getLogger(__name__)

CANDIDATE = "candidate.onnx"
PACKAGE = __name__.partition(".")[0]


@dataclass(frozen=True)
class Trained:
    """A challenger.

    Attributes:
        version: In the registry.
        run_id: Of the tracked run.
        as_of: Labels known by then were used.
        rows: On which it was fitted.
        window: Rows on which it was measured.
        metrics: Of the model and its baselines, on the window.
        parity: Largest difference between pipeline and exported model.
    """

    version: int
    run_id: str
    as_of: datetime
    rows: int
    window: int
    metrics: dict[str, dict[str, float]]
    parity: float

    def __str__(self) -> str:
        """A table for people."""
        names = list(self.metrics["model"])
        head = f"version {self.version}, trained on {self.rows} rows as of {self.as_of:%Y-%m-%d %H:%M}"
        lines = [f"{head}; on the {self.window} rows of the newest window:"]
        lines += ["  " + "".join(f"{word:>18}" for word in ("", *self.metrics))]
        for name in names:
            values = (self.metrics[model].get(name, float("nan")) for model in self.metrics)
            lines.append(f"  {name:>18}" + "".join(f"{value:>18.4f}" for value in values))
        return "\n".join(lines)


def train(workspace: Workspace, *, as_of: datetime | None = None) -> Trained:
    """Fit a challenger on what was known as of a time, measure it on the newest window, register it.

    Raises:
        Refused: There are too few labelled rows, a feature knows the future, or the model can't be exported.
    """
    problem, lake, parameters = workspace.problem, workspace.lake, workspace.parameters
    as_of = workspace.now(as_of)
    tables = dataset.versions(problem, lake)
    rows = dataset.training_set(problem, lake, as_of=as_of, versions=tables)
    before, held = dataset.split(problem, rows, workspace.acceptance.window, as_of=as_of)
    if min(len(before), len(held)) < (need := workspace.acceptance.window.rows):
        raise dataset.too_few(problem, before, held, need)
    _require_no_leak(workspace, rows, as_of, tables)
    days = _best_length(workspace, before)
    before = dataset.within(before, days)
    log.info("train     on %d rows; %d rows of the newest window are held back", len(before), len(held))
    fitted = training.fit(problem, parameters, before, check=held)
    predictions = {"model": fitted.predictor.predict(held)}
    log.info("train     baselines")
    predictions |= training.baselines(problem, before, held, seed=parameters.seed)
    figures = {
        name: metrics(evaluation.answers(problem, held, prediction, fitted.classes), workspace.acceptance.decision)
        for name, prediction in predictions.items()
    }
    command = ["-m", PACKAGE, "train"]
    tags = provenance(workspace.root, tables=tables, as_of=as_of, command=command) | {
        "features": json.dumps(list(problem.features)),
        "parameters": parameters.model_dump_json(),
        "classes": json.dumps(fitted.classes),
        "train_days": str(days),
    }
    with workspace.registry.run("train", parameters.model_dump(), tags) as run:
        for name, values in figures.items():
            run.log(values, prefix="" if name == "model" else f"{name}.")
        run.log({"parity": fitted.parity, "rows": len(before), "window_rows": len(held)})
        run.keep(training.EVIDENCE, _evidence(held, predictions))
        run.keep(CANDIDATE, fitted.onnx)
        run.keep(MODEL, fitted.onnx)  # what the registered version is; the refit takes its place at promotion
        version = workspace.registry.register(run, MODEL)
    workspace.registry.move(CHALLENGER, version.number)
    return Trained(version.number, run.id, as_of, len(before), len(held), figures, fitted.parity)


def _best_length(workspace: Workspace, rows: pl.DataFrame) -> int:
    """The length of training that does best on the newest window of the rows; 0 is all there is."""
    problem, lengths = workspace.problem, workspace.acceptance.retrain.train_days
    newest = rows[KNOWN].max()
    if len(lengths) == 1 or not isinstance(newest, datetime):
        return lengths[0]
    earlier, tried = dataset.split(problem, rows, workspace.acceptance.window, as_of=newest)
    found = {}
    for days in lengths:
        found[days] = training.loss(problem, workspace.parameters, dataset.within(earlier, days), tried)
        log.info("train     on %s: loss %.4f", f"{days} days" if days else "all rows", found[days])
    return min(found, key=lambda days: found[days])


def _require_no_leak(workspace: Workspace, rows: pl.DataFrame, as_of: datetime, tables: Mapping[str, int]) -> None:
    problem, early = workspace.problem, rows.filter(pl.col(KNOWN) < pl.col(AT))
    if problem.schema.event_time and len(early):
        one = "/".join(map(str, early.select(dataset.identity(problem, early)).row(0)))
        what = f"{len(early)} labels of {problem.labels.name} are known before their row is predicted, as that of {one}"
        raise Refused(f"{what}: correct the rows, or the column with Known() in shared/contract.py")
    dataset.require_no_leak(problem, rows, dataset.known(problem, workspace.lake, as_of=as_of, versions=tables))


def _evidence(held: pl.DataFrame, predictions: Mapping[str, np.ndarray]) -> bytes:
    """The window's rows and what each model predicts for them, in columns `_model`, `_linear` and `_dummy`."""
    content = BytesIO()
    held.with_columns(pl.Series(f"_{name}", values) for name, values in predictions.items()).write_parquet(content)
    return content.getvalue()
