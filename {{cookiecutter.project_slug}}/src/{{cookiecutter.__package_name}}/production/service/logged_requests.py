"""Checks of logged requests: the contract, training-serving skew, and served predictions against labels."""

import json
from collections.abc import Iterator
from datetime import datetime, timedelta

import narwhals as nw
import numpy as np
import polars as pl

from {{cookiecutter.__package_name}}.core import datasets
from {{cookiecutter.__package_name}}.core.contracts.schema import AT
from {{cookiecutter.__package_name}}.core.contracts.validation import RULES, TOLERANCE, with_violations
from {{cookiecutter.__package_name}}.core.errors import BadInput
from {{cookiecutter.__package_name}}.core.parts import Finding, State
from {{cookiecutter.__package_name}}.core.store import predictions
from {{cookiecutter.__package_name}}.core.store.releases import Release
from {{cookiecutter.__package_name}}.core.store.request_log import (
    ANSWER,
    FEATURES,
    NTH,
    SERVED,
    TABLES,
    VERSION,
    logged_requests,
    logged_schema,
)
from {{cookiecutter.__package_name}}.core.workspace import Workspace
from {{cookiecutter.__package_name}}.production.monitor import compare_with_labels

RECENT = timedelta(days=28)
GROUPS, ROWS = 5, 200  # so many states of the tables are gone back to, with so many rows each
CLOSE = 1e-9  # relative difference of floats that are equal


def findings(workspace: Workspace, champion: Release, *, now: datetime) -> Iterator[Finding]:
    """The findings on the requests of the last four weeks; none where there are no requests."""
    if (rows := logged_requests(workspace.problem, workspace.lake, now=now, back=RECENT)).is_empty():
        return
    yield _contract(workspace, rows)
    yield _skew(workspace, champion, rows.sort(SERVED))
    if workspace.problem.schema.key and set(workspace.problem.schema.key) <= set(rows.columns):
        said = predictions.served_predictions(workspace.problem, champion, rows)
        yield from compare_with_labels(workspace, champion, said, "served quality", State.ALARM, now=now)


def _contract(workspace: Workspace, rows: pl.DataFrame) -> Finding:
    """The contract on requests; columns that are not kept are taken to keep it."""
    kept = logged_schema(workspace.problem)
    rules = with_violations(rows.select(kept.names), kept)[RULES]
    bad = int((rules.list.len() > 0).sum())
    names = ", ".join(rules.explode().drop_nulls().unique().sort().to_list())
    detail = f"{bad} of {len(rows)} rows break {names}" if bad else f"{len(rows)} rows keep it"
    return Finding("contract of requests", State.ALARM if bad > TOLERANCE * len(rows) else State.FINE, detail)


def _skew(workspace: Workspace, champion: Release, rows: pl.DataFrame) -> Finding:
    """The features of the newest requests, computed again by the training path from what the tables held then."""
    differ: set[str] = set()
    compared, gone = 0, 0
    mine = rows.filter(pl.col(VERSION) == champion.version, pl.col(ANSWER).is_not_null())
    for tables in mine[TABLES].unique(maintain_order=True).to_list()[-GROUPS:]:
        part = mine.filter(pl.col(TABLES) == tables).tail(ROWS)
        try:
            differ |= set(_differing(workspace, champion, part, json.loads(tables)))
            compared += len(part)
        except (BadInput, OSError):  # that version of a table is no longer kept
            gone += len(part)
    if differ:
        return Finding("training-serving skew", State.ALARM, f"{', '.join(sorted(differ))} of requests differ")
    more = f"; {gone} can't be computed again: their tables' versions are gone" if gone else ""
    return Finding("training-serving skew", State.FINE, f"features of {compared} requests are those of training{more}")


def _differing(workspace: Workspace, champion: Release, rows: pl.DataFrame, tables: dict[str, int]) -> list[str]:
    problem, latest = workspace.problem, rows[SERVED].max()
    assert isinstance(latest, datetime)  # noqa: S101 - for the type: a part has rows
    history = datasets.known(problem, workspace.lake, as_of=latest, versions=tables)
    since = rows[AT].min()
    if isinstance(since, datetime):
        history = datasets.recent(problem, history, since=since)
    names = [*logged_schema(workspace.problem).names, AT]
    plain = rows.select(names).with_row_index(NTH)
    again = datasets.with_features(problem, nw.from_native(plain.lazy()), history).sort(NTH)
    then = rows[FEATURES].str.json_decode(pl.Struct({name: again.schema[name] for name in champion.features}))
    return [name for name in champion.features if not _equal(then.struct.field(name), again[name])]


def _equal(first: pl.Series, second: pl.Series) -> bool:
    if not first.dtype.is_float():
        return first.equals(second, null_equal=True)
    both = first.is_not_null() & second.is_not_null()
    close = np.allclose(first.filter(both).to_numpy(), second.filter(both).to_numpy(), rtol=CLOSE, atol=0)
    return close and first.is_null().equals(second.is_null())
