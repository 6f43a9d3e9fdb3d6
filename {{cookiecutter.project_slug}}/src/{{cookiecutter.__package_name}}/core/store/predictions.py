"""The table `predictions`, and predictions joined with labels."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import narwhals as nw
import numpy as np
import polars as pl
from numpy.typing import NDArray

from {{cookiecutter.__package_name}}.core.contracts.schema import AVAILABLE_AT, PREDICTED_AT, TARGET, Task
from {{cookiecutter.__package_name}}.core.models.predictor import Predictor
from {{cookiecutter.__package_name}}.core.problem import Problem
from {{cookiecutter.__package_name}}.core.store.lake import Lake
from {{cookiecutter.__package_name}}.core.store.releases import Release
from {{cookiecutter.__package_name}}.core.store.request_log import PREDICTION, SERVED_AT, VERSION

PREDICTIONS = "predictions"  # the table of predictions of upcoming rows


def upcoming_predictions(problem: Problem, lake: Lake, release: Release) -> pl.LazyFrame:
    """The predictions of a release for upcoming rows, from the table `predictions`."""
    schema = problem.schema
    key = {name: schema.dtypes[name] for name in schema.key}
    return lake.read(PREDICTIONS, key | {"version": pl.Int64()}).filter(pl.col("version") == release.version)


def served_predictions(problem: Problem, release: Release, requests: pl.DataFrame) -> pl.LazyFrame:
    """The newest served prediction of a release for each key, from logged requests."""
    key = problem.schema.key
    own = requests.filter(pl.col(VERSION) == release.version, pl.col(PREDICTION).is_not_null())
    newest = own.sort(SERVED_AT).unique(key, keep="last")
    return newest.with_columns(pl.col(PREDICTION).str.json_decode(_answer_type(release))).unnest(PREDICTION).lazy()


def join_labels(
    problem: Problem, lake: Lake, predictions: pl.LazyFrame, *, now: datetime, back: timedelta
) -> pl.DataFrame:
    """Predictions joined with the labels that became available within `back`, in `_target`; requires a key."""
    key, labels = problem.schema.key, problem.labels
    target = nw.col(problem.target.name).alias(TARGET)
    known = nw.from_native(lake.scan(labels)).select(*key, target, labels.available_at.alias(AVAILABLE_AT)).to_native()
    recent = known.filter(pl.col(AVAILABLE_AT) > now - back, pl.col(AVAILABLE_AT) <= now).drop_nulls(TARGET)
    return predictions.join(recent, on=key).collect()


def model_output(release: Release, rows: pl.DataFrame) -> NDArray[np.float64]:
    """The raw model output, from the columns of predictions."""
    if release.task is Task.MULTICLASS:
        return rows.select(f"probability_{name}" for name in release.classes).to_numpy()
    return rows["probability" if release.task is Task.BINARY else "prediction"].to_numpy()


Deployment = tuple[datetime, Predictor]  # start of serving, and the model


def predict_as_deployed(rows: pl.DataFrame, deployments: Sequence[Deployment]) -> NDArray[np.float64]:
    """The prediction of each row by the model deployed at that time; the first one also for earlier rows."""
    since = pl.Series([since for since, _ in deployments], dtype=rows.schema[PREDICTED_AT])
    nth = (since.search_sorted(rows[PREDICTED_AT], side="left").cast(pl.Int64) - 1).clip(0).to_numpy()
    served = {n: np.flatnonzero(nth == n) for n in np.unique(nth)}
    parts = [deployments[n][1].predict(rows[mine]) for n, mine in served.items()]
    return np.concatenate(parts)[np.argsort(np.concatenate([*served.values()]))]


def _answer_type(release: Release) -> pl.Struct:
    shape = (1, len(release.classes)) if release.task is Task.MULTICLASS else (1,)
    return pl.Struct(release.prediction_frame(np.zeros(shape)).schema)
