"""The table `predictions`, and predictions of any source joined with the labels that came later."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import narwhals as nw
import numpy as np
import polars as pl
from numpy.typing import NDArray

from {{cookiecutter.__package_name}}.core.contracts.schema import AT, KNOWN, TARGET, Task
from {{cookiecutter.__package_name}}.core.models.predictor import Predictor
from {{cookiecutter.__package_name}}.core.problem import Problem
from {{cookiecutter.__package_name}}.core.store.lake import Lake
from {{cookiecutter.__package_name}}.core.store.releases import Release
from {{cookiecutter.__package_name}}.core.store.request_log import ANSWER, SERVED, VERSION

PREDICTIONS = "predictions"  # the table of what was predicted ahead of its outcome


def upcoming_predictions(problem: Problem, lake: Lake, release: Release) -> pl.LazyFrame:
    """What a release predicted before the outcome, from the table `predictions`."""
    schema = problem.schema
    key = {name: schema.dtypes[name] for name in schema.key}
    return lake.read(PREDICTIONS, key | {"version": pl.Int64()}).filter(pl.col("version") == release.version)


def served_predictions(problem: Problem, release: Release, requests: pl.DataFrame) -> pl.LazyFrame:
    """The newest prediction that the service made by a release for each key, from logged requests."""
    key = problem.schema.key
    own = requests.filter(pl.col(VERSION) == release.version, pl.col(ANSWER).is_not_null())
    newest = own.sort(SERVED).unique(key, keep="last")
    return newest.with_columns(pl.col(ANSWER).str.json_decode(_answer_type(release))).unnest(ANSWER).lazy()


def join_labels(
    problem: Problem, lake: Lake, predictions: pl.LazyFrame, *, now: datetime, back: timedelta
) -> pl.DataFrame:
    """Predictions with the labels that became known in the last `back`, in `_target`; the table has a key."""
    key, labels = problem.schema.key, problem.labels
    target = nw.col(problem.target.name).alias(TARGET)
    known = nw.from_native(lake.scan(labels)).select(*key, target, labels.known.alias(KNOWN)).to_native()
    recent = known.filter(pl.col(KNOWN) > now - back, pl.col(KNOWN) <= now).drop_nulls(TARGET)
    return predictions.join(recent, on=key).collect()


def model_output(release: Release, rows: pl.DataFrame) -> NDArray[np.float64]:
    """The output of the model, from the columns of its predictions."""
    if release.task is Task.MULTICLASS:
        return rows.select(f"probability_{name}" for name in release.classes).to_numpy()
    return rows["probability" if release.task is Task.BINARY else "prediction"].to_numpy()


Deployment = tuple[datetime, Predictor]  # since when it serves


def predict_as_deployed(rows: pl.DataFrame, deployments: Sequence[Deployment]) -> NDArray[np.float64]:
    """Predictions of each row by the model that served when it was predicted; the first one also serves before."""
    since = pl.Series([since for since, _ in deployments], dtype=rows.schema[AT])
    nth = (since.search_sorted(rows[AT], side="left").cast(pl.Int64) - 1).clip(0).to_numpy()
    served = {n: np.flatnonzero(nth == n) for n in np.unique(nth)}
    parts = [deployments[n][1].predict(rows[mine]) for n, mine in served.items()]
    return np.concatenate(parts)[np.argsort(np.concatenate([*served.values()]))]


def _answer_type(release: Release) -> pl.Struct:
    shape = (1, len(release.classes)) if release.task is Task.MULTICLASS else (1,)
    return pl.Struct(release.answers(np.zeros(shape)).schema)
