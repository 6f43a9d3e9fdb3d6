"""Training sets and prediction rows with point-in-time features.

Features of a row use only data available at its time of prediction. A training set as of a given time uses
only data available at that time.
"""

import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

import narwhals as nw
import polars as pl
from narwhals.exceptions import ColumnNotFoundError
from polars.exceptions import ColumnNotFoundError as PolarsColumnNotFound

from {{cookiecutter.__package_name}}.core.acceptance import Window
from {{cookiecutter.__package_name}}.core.contracts.schema import AVAILABLE_AT, PREDICTED_AT, TARGET, Frame
from {{cookiecutter.__package_name}}.core.errors import NothingYet, Rejected, summarize
from {{cookiecutter.__package_name}}.core.problem import Problem
from {{cookiecutter.__package_name}}.core.store.lake import Lake
from {{cookiecutter.__package_name}}.core.store.releases import Release

History = Mapping[str, Frame]
Versions = Mapping[str, int]
LEAK_SAMPLES = 5  # approximate number of prediction times at which features are recomputed
PAST_SAMPLES = 200  # newest rows of which features are recomputed without earlier labels


def history_as_of(problem: Problem, lake: Lake, *, as_of: datetime, versions: Versions | None = None) -> History:
    """The rows of all tables available as of a time, in the newest or the given table versions.

    Personal and excluded columns are dropped.
    """
    return {
        name: nw.from_native(lake.scan(schema, version=(versions or {}).get(name)))
        .filter(schema.available_at <= as_of)
        .drop(schema.excluded_columns)
        for name, schema in problem.schemas.items()
    }


def table_versions(problem: Problem, lake: Lake) -> dict[str, int]:
    """The newest version of each table."""
    return {name: lake.version(name) for name in problem.schemas}


def newest_label(problem: Problem, lake: Lake) -> datetime | None:
    """The time at which the newest label became available, or None without labels."""
    labels = problem.labels
    latest = nw.from_native(lake.scan(labels)).select(labels.available_at.max().alias(AVAILABLE_AT)).collect().item()
    return latest if isinstance(latest, datetime) else None


def with_features(problem: Problem, rows: Frame, history: History) -> pl.DataFrame:
    """The rows with their features; `rows` must have the column `_predicted_at`.

    Raises:
        Rejected: The user-defined `build` uses a missing column, omits a feature, or changes the number of rows.
    """
    built = collect_features(problem, lambda: problem.build(rows, history).collect(backend="polars").to_native())
    requested = rows.select(nw.len()).collect().item()
    if len(built) != requested:
        raise Rejected(
            f"features.build returned {len(built)} rows for {requested}: it must return each row exactly once"
        )
    return built


def collect_features(problem: Problem, build: Callable[[], pl.DataFrame]) -> pl.DataFrame:
    """The features that the user-defined `build` returns.

    Raises:
        Rejected: `build` uses a missing column or omits a feature.
    """
    try:
        built = build()
    except (ColumnNotFoundError, PolarsColumnNotFound) as error:
        msg = "features.build uses a column that is not available (personal and excluded columns never are): "
        raise Rejected(msg + summarize(error)) from error
    if missing := ", ".join(name for name in problem.features if name not in built.columns):
        raise Rejected(f"features.build does not return {missing}, which features.FEATURES lists: add it or drop it")
    return built


def training_set(
    problem: Problem, lake: Lake, *, as_of: datetime, versions: Versions | None = None, since: datetime | None = None
) -> pl.DataFrame:
    """All labelled rows as of a time, with their features, `_predicted_at`, `_available_at` and `_target`.

    The rows are sorted by time of prediction and key. With `since`, only rows whose label became available after it are
    returned.

    Raises:
        Rejected: No label was available at that time.
    """
    history = history_as_of(problem, lake, as_of=as_of, versions=versions)
    labelled = _labelled(problem, history)
    if since:
        found: pl.DataFrame = labelled.filter(nw.col(AVAILABLE_AT) > since).collect(backend="polars").to_native()
        first = found[PREDICTED_AT].min()
        history = lookback(problem, history, since=first if isinstance(first, datetime) else since)
        labelled = nw.from_native(found.lazy())
    rows = with_features(problem, labelled, history)
    if rows.is_empty():
        if newest_label(problem, lake) is None:
            raise NothingYet(f"label in table {problem.labels.name}")
        raise Rejected(f"no labelled rows as of {as_of:%Y-%m-%d %H:%M}: ingest batches of {problem.labels.name} first")
    return rows.sort(PREDICTED_AT, *row_key(problem, rows), TARGET)


def labelled_since(problem: Problem, lake: Lake, release: Release, *, now: datetime, back: timedelta) -> pl.DataFrame:
    """Rows with features and a label that became available within `back`, after the release's training."""
    try:
        return training_set(problem, lake, as_of=now, since=max(now - back, release.trained_until))
    except Rejected:  # no label
        return pl.DataFrame()


def row_key(problem: Problem, rows: pl.DataFrame) -> list[str]:
    """The columns that identify a row: the key, or all columns."""
    return list(problem.schema.key) or [name for name in problem.schema.names if name in rows.columns]


def _labelled(problem: Problem, history: History) -> Frame:
    """The labelled rows of the entity; the label column of these rows is renamed to `_target`."""
    entity, labels = problem.schema, problem.labels
    target = nw.col(problem.target.name).alias(TARGET)
    if labels is entity:
        rows = (
            history[entity.name].with_columns(target, labels.available_at.alias(AVAILABLE_AT)).drop(problem.target.name)
        )
    else:
        known_labels = history[labels.name].select(*entity.key, target, labels.available_at.alias(AVAILABLE_AT))
        rows = history[entity.name].join(known_labels, on=entity.key)
    return rows.filter(~nw.col(TARGET).is_null()).with_columns(entity.predicted_at.alias(PREDICTED_AT))


def as_requests(problem: Problem, rows: pl.DataFrame | pl.LazyFrame, *, now: datetime | nw.Expr) -> Frame:
    """Rows as requests: `_predicted_at` is their time of prediction, or now if that is later or unknown."""
    frame = nw.from_native(rows.lazy()).drop(problem.schema.excluded_columns, strict=False)
    moment = nw.lit(now, dtype=nw.Datetime("us", "UTC")) if isinstance(now, datetime) else now
    if not problem.schema.event_time:
        return frame.with_columns(moment.alias(PREDICTED_AT))
    at = problem.schema.predicted_at
    return frame.with_columns(nw.when(at > moment).then(moment).otherwise(at).alias(PREDICTED_AT))


def prediction_features(problem: Problem, rows: pl.DataFrame, history: History, *, now: datetime) -> pl.DataFrame:
    """Rows of the entity with their features and `_predicted_at`, computed from the history within the lookback.

    Raises:
        Rejected: As `with_features`.
    """
    requested = as_requests(problem, rows, now=now)
    since = requested.select(nw.col(PREDICTED_AT).min()).collect().item()
    return with_features(problem, requested, lookback(problem, history, since=since or now))


def lookback(problem: Problem, history: History, *, since: datetime) -> History:
    """The part of the history within the lookback of rows predicted since a time."""
    start = since - problem.lookback
    return {name: history[name].filter(schema.available_at > start) for name, schema in problem.schemas.items()}


def split(
    problem: Problem, rows: pl.DataFrame, window: Window, *, as_of: datetime
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The training rows and the holdout: the newest labelled window.

    If rows have no time, the holdout is a share of them by hash, which is stable when rows arrive later.
    """
    if problem.schema.event_time:
        holdout = rows[AVAILABLE_AT] > as_of - timedelta(days=window.days)
    else:
        holdout = hash_fractions(problem, rows) < window.share
    return rows.filter(~holdout), rows.filter(holdout)


def too_few_rows(problem: Problem, train: pl.DataFrame, holdout: pl.DataFrame, min_rows: int) -> Rejected:
    """The error for a split with too few rows; the newest label may be much older than the current time."""
    few = f"{len(train)} labelled rows before the newest window and {len(holdout)} in it are too few"
    way, newest = "wait for more rows, or change [window] in config/acceptance.toml", train[AVAILABLE_AT].max()
    if problem.schema.event_time and holdout.is_empty() and isinstance(newest, datetime):
        way = f'the newest label is of {newest:%Y-%m-%d %H:%M}: set clock = "data" in config/settings.toml, or --now'
    return Rejected(f"{few} (at least {min_rows} each): {way}")


def last_days(rows: pl.DataFrame, days: int) -> pl.DataFrame:
    """The rows whose label became available within `days` days of the newest label; all rows for 0."""
    newest = rows[AVAILABLE_AT].max()
    return (
        rows.filter(pl.col(AVAILABLE_AT) > newest - timedelta(days=days))
        if days and isinstance(newest, datetime)
        else rows
    )


def hash_fractions(problem: Problem, rows: pl.DataFrame, salt: str = "") -> pl.Series:
    """A hash of each row as a number in [0, 1); equal rows without a key are told apart by their order."""
    columns = problem.schema.key or [*problem.schema.names, TARGET]
    names = [name for name in columns if name in rows.columns]
    numbered = rows.select(*names, pl.int_range(pl.len()).over(names).alias("_occurrence"))
    return pl.Series([_hash_fraction((salt, *row)) for row in numbered.iter_rows()], dtype=pl.Float64)


def _hash_fraction(row: tuple[object, ...]) -> float:
    digest = hashlib.blake2b(repr(row).encode(), digest_size=8).digest()
    return float(int.from_bytes(digest) / 2**64)


def validate_no_leakage(problem: Problem, rows: pl.DataFrame, history: History) -> None:
    """Recompute the features of some rows from a history without future rows and the rows themselves.

    Args:
        problem: The problem.
        rows: A training set.
        history: The history that it was computed from.

    Raises:
        Rejected: A recomputed feature differs: it used data that was not available yet.
    """
    if not problem.schema.event_time:
        return
    times = rows[PREDICTED_AT].unique().sort()
    leaking = set[str]()
    for at in times.gather_every(max(1, len(times) // LEAK_SAMPLES)):
        past = {name: history[name].filter(schema.available_at <= at) for name, schema in problem.schemas.items()}
        full = rows.filter(pl.col(PREDICTED_AT) == at)
        if own := problem.schema.key:  # a request is not in the lake yet
            requested = nw.from_native(full.select(own).lazy())
            past[problem.schema.name] = past[problem.schema.name].join(requested, on=own, how="anti")
        leaking |= _changed(problem, full, past)
    if leaking:
        what = f"{', '.join(sorted(leaking))} change when future rows and the row itself are removed from the history"
        raise Rejected(f"feature leakage: {what}")


def from_earlier_labels(problem: Problem, rows: pl.DataFrame, history: History) -> set[str]:
    """The features that use the table of the labels, such as lags; times guard them, see `validate_no_leakage`."""
    if not problem.schema.event_time:
        return set()
    return _changed(
        problem, rows.tail(PAST_SAMPLES), {**history, problem.labels.name: history[problem.labels.name].head(0)}
    )


def _changed(problem: Problem, rows: pl.DataFrame, history: History) -> set[str]:
    """The features that differ when they are recomputed from another history."""
    raw = rows.select(name for name in (*problem.schema.names, PREDICTED_AT) if name in rows.columns)
    again = with_features(problem, nw.from_native(raw.lazy()), history)
    order = problem.schema.key or raw.columns
    again, rows = again.sort(order), rows.sort(order)
    return {name for name in problem.features if not again[name].equals(rows[name], null_equal=True)}
