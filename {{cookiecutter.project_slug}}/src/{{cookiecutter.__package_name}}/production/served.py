"""Answers that were given, by the service or ahead of the outcome, held against contract, training and labels."""

import json
from collections.abc import Iterator
from datetime import datetime, timedelta

import narwhals as nw
import numpy as np
import polars as pl

from {{cookiecutter.__package_name}}.production.findings import Finding, State, missed
from {{cookiecutter.__package_name}}.shared import BadInput, dataset, evaluation, live
from {{cookiecutter.__package_name}}.shared.checks import RULES, TOLERANCE, with_violations
from {{cookiecutter.__package_name}}.shared.evaluation import metrics
from {{cookiecutter.__package_name}}.shared.release import Release
from {{cookiecutter.__package_name}}.shared.requests import (
    ANSWER,
    FEATURES,
    NTH,
    SERVED,
    TABLES,
    VERSION,
    asked,
    logged,
)
from {{cookiecutter.__package_name}}.shared.schema import AT
from {{cookiecutter.__package_name}}.shared.workspace import Workspace

RECENT = timedelta(days=28)
GROUPS, ROWS = 5, 200  # so many states of the tables are gone back to, with so many rows each
CLOSE = 1e-9  # relative difference of floats that are equal


def findings(workspace: Workspace, champion: Release, *, now: datetime) -> Iterator[Finding]:
    """All that can be said of answers that were given."""
    yield from _came_true(
        workspace, champion, live.ahead(workspace, champion), "predicted ahead", State.WARNING, now=now
    )
    if (rows := logged(workspace, now=now, back=RECENT)).is_empty():
        return
    yield _contract(workspace, rows)
    yield _skew(workspace, champion, rows.sort(SERVED))
    if workspace.problem.schema.key and set(workspace.problem.schema.key) <= set(rows.columns):
        said = live.served(workspace, champion, rows)
        yield from _came_true(workspace, champion, said, "served quality", State.ALARM, now=now)


def _contract(workspace: Workspace, rows: pl.DataFrame) -> Finding:
    """The contract on requests; columns that are not kept are taken to keep it."""
    kept = asked(workspace)
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
    history = dataset.known(problem, workspace.lake, as_of=latest, versions=tables)
    since = rows[AT].min()
    if isinstance(since, datetime):
        history = dataset.recent(problem, history, since=since)
    names = [*asked(workspace).names, AT]
    plain = rows.select(names).with_row_index(NTH)
    again = dataset.with_features(problem, nw.from_native(plain.lazy()), history).sort(NTH)
    then = rows[FEATURES].str.json_decode(pl.Struct({name: again.schema[name] for name in champion.features}))
    return [name for name in champion.features if not _equal(then.struct.field(name), again[name])]


def _equal(first: pl.Series, second: pl.Series) -> bool:
    if not first.dtype.is_float():
        return first.equals(second, null_equal=True)
    both = first.is_not_null() & second.is_not_null()
    close = np.allclose(first.filter(both).to_numpy(), second.filter(both).to_numpy(), rtol=CLOSE, atol=0)
    return close and first.is_null().equals(second.is_null())


def _came_true(
    workspace: Workspace, release: Release, made: pl.LazyFrame, name: str, urgent: State, *, now: datetime
) -> Iterator[Finding]:
    """Answers against the labels that came lately; nothing where they are few."""
    problem, ask = workspace.problem, workspace.acceptance
    if not problem.schema.key:
        return
    rows = live.came_true(workspace, made, now=now, back=RECENT)
    if len(rows) < ask.window.rows:
        return
    answers = evaluation.answers(problem, rows, live.prediction(release, rows), release.classes)
    figures = metrics(answers, ask.decision)
    broken = missed(figures, ask)
    detail = "; ".join(broken) or ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
    yield Finding(name, urgent if broken else State.FINE, f"{detail} ({len(rows)} labels)")
