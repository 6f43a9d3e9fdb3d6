"""Checks of logged requests: contract, training-serving skew, and quality of served predictions."""

import json
from collections.abc import Iterator
from datetime import datetime

import narwhals as nw
import numpy as np
import polars as pl

from {{cookiecutter.__package_name}}.core import datasets
from {{cookiecutter.__package_name}}.core.contracts.schema import PREDICTED_AT
from {{cookiecutter.__package_name}}.core.contracts.validation import MAX_INVALID, VIOLATIONS, with_violations
from {{cookiecutter.__package_name}}.core.errors import InputError
from {{cookiecutter.__package_name}}.core.parts import Alert, Severity
from {{cookiecutter.__package_name}}.core.store import predictions
from {{cookiecutter.__package_name}}.core.store.releases import Release
from {{cookiecutter.__package_name}}.core.store.request_log import (
    FEATURES,
    PREDICTION,
    ROW_NUMBER,
    SERVED_AT,
    TABLES,
    VERSION,
    logged_requests,
    logged_schema,
)
from {{cookiecutter.__package_name}}.core.workspace import Workspace
from {{cookiecutter.__package_name}}.production.monitor import MONITORING_PERIOD, compare_with_labels

GROUPS, ROWS = 5, 200  # table states that are checked, and rows of each
CLOSE = 1e-9  # relative tolerance of floats


def alerts(workspace: Workspace, champion: Release, *, now: datetime) -> Iterator[Alert]:
    """The alerts on the requests of the last four weeks."""
    if (rows := logged_requests(workspace.problem, workspace.lake, now=now, back=MONITORING_PERIOD)).is_empty():
        return
    yield _contract(workspace, rows)
    yield _skew(workspace, champion, rows.sort(SERVED_AT))
    if workspace.problem.schema.key and set(workspace.problem.schema.key) <= set(rows.columns):
        served = predictions.served_predictions(workspace.problem, champion, rows)
        yield from compare_with_labels(workspace, champion, served, "served quality", Severity.CRITICAL, now=now)


def _contract(workspace: Workspace, rows: pl.DataFrame) -> Alert:
    """The logged requests against the contract; columns that are not logged are not checked."""
    logged = logged_schema(workspace.problem)
    rules = with_violations(rows.select(logged.names), logged)[VIOLATIONS]
    bad = int((rules.list.len() > 0).sum())
    names = ", ".join(rules.explode().drop_nulls().unique().sort().to_list())
    detail = f"{bad} of {len(rows)} rows violate {names}" if bad else f"{len(rows)} rows are valid"
    return Alert("contract of requests", Severity.CRITICAL if bad > MAX_INVALID * len(rows) else Severity.OK, detail)


def _skew(workspace: Workspace, champion: Release, rows: pl.DataFrame) -> Alert:
    """Training-serving skew: the features of recent requests, recomputed from the recorded table versions."""
    differ: set[str] = set()
    compared, gone = 0, 0
    mine = rows.filter(pl.col(VERSION) == champion.version, pl.col(PREDICTION).is_not_null())
    for tables in mine[TABLES].unique(maintain_order=True).to_list()[-GROUPS:]:
        part = mine.filter(pl.col(TABLES) == tables).tail(ROWS)
        try:
            differ |= set(_differing(workspace, champion, part, json.loads(tables)))
            compared += len(part)
        except (InputError, OSError):  # that table version is gone
            gone += len(part)
    if differ:
        return Alert(
            "training-serving skew",
            Severity.CRITICAL,
            f"{', '.join(sorted(differ))} of requests differ from those of training",
        )
    more = f"; {gone} can't be recomputed: their table versions are gone" if gone else ""
    return Alert("training-serving skew", Severity.OK, f"features of {compared} requests equal those of training{more}")


def _differing(workspace: Workspace, champion: Release, rows: pl.DataFrame, tables: dict[str, int]) -> list[str]:
    problem, latest = workspace.problem, rows[SERVED_AT].max()
    assert isinstance(latest, datetime)  # noqa: S101 - for the type: a part has rows
    history = datasets.history_as_of(problem, workspace.lake, as_of=latest, versions=tables)
    since = rows[PREDICTED_AT].min()
    if isinstance(since, datetime):
        history = datasets.lookback(problem, history, since=since)
    names = [*logged_schema(workspace.problem).names, PREDICTED_AT]
    plain = rows.select(names).with_row_index(ROW_NUMBER)
    again = datasets.with_features(problem, nw.from_native(plain.lazy()), history).sort(ROW_NUMBER)
    then = rows[FEATURES].str.json_decode(pl.Struct({name: again.schema[name] for name in champion.features}))
    return [name for name in champion.features if not _equal(then.struct.field(name), again[name])]


def _equal(first: pl.Series, second: pl.Series) -> bool:
    if not first.dtype.is_float():
        return first.equals(second, null_equal=True)
    both = first.is_not_null() & second.is_not_null()
    close = np.allclose(first.filter(both).to_numpy(), second.filter(both).to_numpy(), rtol=CLOSE, atol=0)
    return close and first.is_null().equals(second.is_null())
