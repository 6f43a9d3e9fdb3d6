"""Labels that came after a release's training, and the answers that it had given by then."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import narwhals as nw
import numpy as np
import polars as pl
from numpy.typing import NDArray

from {{cookiecutter.__package_name}}.shared import Refused, dataset
from {{cookiecutter.__package_name}}.shared.predictor import Predictor
from {{cookiecutter.__package_name}}.shared.release import Release
from {{cookiecutter.__package_name}}.shared.requests import ANSWER, SERVED, VERSION
from {{cookiecutter.__package_name}}.shared.schema import AT, KNOWN, TARGET, Task
from {{cookiecutter.__package_name}}.shared.workspace import Workspace

PREDICTIONS = "predictions"  # the table of what was predicted ahead of its outcome


def labelled_since(workspace: Workspace, release: Release, *, now: datetime, back: timedelta) -> pl.DataFrame:
    """Rows with their features whose label became known lately, and after the release's training."""
    since = max(now - back, release.trained_until)
    try:
        return dataset.training_set(workspace.problem, workspace.lake, as_of=now, since=since)
    except Refused:  # no label
        return pl.DataFrame()


def ahead(workspace: Workspace, release: Release) -> pl.LazyFrame:
    """What a release answered before the outcome, as it stands in the table `predictions`."""
    schema = workspace.problem.schema
    key = {name: schema.dtypes[name] for name in schema.key}
    return workspace.lake.read(PREDICTIONS, key | {"version": pl.Int64()}).filter(pl.col("version") == release.version)


def served(workspace: Workspace, release: Release, rows: pl.DataFrame) -> pl.LazyFrame:
    """The newest answer of a release to each row that the service was asked for, by its key."""
    key = workspace.problem.schema.key
    own = rows.filter(pl.col(VERSION) == release.version, pl.col(ANSWER).is_not_null())
    newest = own.sort(SERVED).unique(key, keep="last")
    return newest.with_columns(pl.col(ANSWER).str.json_decode(_answer_type(release))).unnest(ANSWER).lazy()


def came_true(workspace: Workspace, made: pl.LazyFrame, *, now: datetime, back: timedelta) -> pl.DataFrame:
    """Answers beside the labels that came lately, in `_target`; the table has a key."""
    problem = workspace.problem
    key, labels = problem.schema.key, problem.labels
    target = nw.col(problem.target.name).alias(TARGET)
    known = nw.from_native(workspace.lake.scan(labels)).select(*key, target, labels.known.alias(KNOWN)).to_native()
    came = known.filter(pl.col(KNOWN) > now - back, pl.col(KNOWN) <= now).drop_nulls(TARGET)
    return made.join(came, on=key).collect()


def prediction(release: Release, rows: pl.DataFrame) -> NDArray[np.float64]:
    """What the model gave, from its answers."""
    if release.task is Task.MULTICLASS:
        return rows.select(f"probability_{name}" for name in release.classes).to_numpy()
    return rows["probability" if release.task is Task.BINARY else "prediction"].to_numpy()


Turn = tuple[datetime, Predictor]  # since when it serves


def in_turn(rows: pl.DataFrame, turns: Sequence[Turn]) -> NDArray[np.float64]:
    """Each row answered by the model that served when it was predicted; the first one also serves before."""
    began = np.searchsorted([since.timestamp() for since, _ in turns], rows[AT].dt.timestamp("us").to_numpy() / 1e6)
    parts: list[NDArray[np.float64]] = []
    order: list[int] = []
    for n, (_, predictor) in enumerate(turns):
        mine = np.flatnonzero(np.maximum(began - 1, 0) == n)
        if len(mine):
            parts.append(predictor.predict(rows[mine]))
            order.extend(mine)
    return np.concatenate(parts)[np.argsort(order)]


def _answer_type(release: Release) -> pl.Struct:
    shape = (1, len(release.classes)) if release.task is Task.MULTICLASS else (1,)
    return pl.Struct(release.answers(np.zeros(shape)).schema)
