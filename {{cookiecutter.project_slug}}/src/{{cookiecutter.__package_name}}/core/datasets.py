"""Rows with their features: as of T for training, as of now for predictions.

A row's features know what was known when it was predicted, a training set what was known as of its time.
"""

import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

import narwhals as nw
import polars as pl
from narwhals.exceptions import ColumnNotFoundError
from polars.exceptions import ColumnNotFoundError as PolarsColumnNotFound

from {{cookiecutter.__package_name}}.core.acceptance import Window
from {{cookiecutter.__package_name}}.core.contracts.schema import AT, KNOWN, TARGET, Frame
from {{cookiecutter.__package_name}}.core.errors import Refused, first_line
from {{cookiecutter.__package_name}}.core.problem import Problem
from {{cookiecutter.__package_name}}.core.store.lake import Lake
from {{cookiecutter.__package_name}}.core.store.releases import Release

History = Mapping[str, Frame]
Versions = Mapping[str, int]
LEAK_SAMPLES = 5  # times at which features are computed again


def known(problem: Problem, lake: Lake, *, as_of: datetime, versions: Versions | None = None) -> History:
    """The rows of all tables that were known as of a time, in the newest or the given versions of the tables.

    Personal and forbidden columns are left out: nothing downstream sees them.
    """
    return {
        name: nw.from_native(lake.scan(schema, version=(versions or {}).get(name)))
        .filter(schema.known <= as_of)
        .drop(schema.closed)
        for name, schema in problem.schemas.items()
    }


def versions(problem: Problem, lake: Lake) -> dict[str, int]:
    """The newest version of each table."""
    return {name: lake.version(name) for name in problem.schemas}


def newest(problem: Problem, lake: Lake) -> datetime | None:
    """When the newest label became known; none before the first."""
    labels = problem.labels
    latest = nw.from_native(lake.scan(labels)).select(labels.known.max().alias(KNOWN)).collect().item()
    return latest if isinstance(latest, datetime) else None


def with_features(problem: Problem, rows: Frame, history: History) -> pl.DataFrame:
    """Rows that have `_at`, with their features.

    Raises:
        Refused: The problem's own `build` asks for a column that is not there, or does not give a feature, or each row.
    """
    built = collected(problem, lambda: problem.build(rows, history).collect(backend="polars").to_native())
    asked = rows.select(nw.len()).collect().item()
    if len(built) != asked:
        raise Refused(f"features.build gives {len(built)} rows for {asked}: it must keep each, once")
    return built


def collected(problem: Problem, build: Callable[[], pl.DataFrame]) -> pl.DataFrame:
    """What the problem's own `build` gives.

    Raises:
        Refused: It asks for a column that is not there, or does not give a feature.
    """
    try:
        built = build()
    except (ColumnNotFoundError, PolarsColumnNotFound) as error:
        msg = "features.build asks for a column that it can't have (personal and forbidden ones it never can): "
        raise Refused(msg + first_line(error)) from error
    if missing := ", ".join(name for name in problem.features if name not in built.columns):
        raise Refused(f"features.build gives no {missing}, which features.FEATURES names: add it there or drop it")
    return built


def training_set(
    problem: Problem, lake: Lake, *, as_of: datetime, versions: Versions | None = None, since: datetime | None = None
) -> pl.DataFrame:
    """All rows whose label was known as of a time, with their features, `_at`, `_known` and `_target`.

    They are in the order of prediction and key, however they arrived; with `since`, only those whose label became known
    after it.

    Raises:
        Refused: No label was known by then.
    """
    history = known(problem, lake, as_of=as_of, versions=versions)
    labelled = _labelled(problem, history)
    if since:
        found: pl.DataFrame = labelled.filter(nw.col(KNOWN) > since).collect(backend="polars").to_native()
        first = found[AT].min()
        history = recent(problem, history, since=first if isinstance(first, datetime) else since)
        labelled = nw.from_native(found.lazy())
    rows = with_features(problem, labelled, history)
    if rows.is_empty():
        raise Refused(f"no labelled rows as of {as_of:%Y-%m-%d %H:%M}: ingest batches of {problem.labels.name} first")
    return rows.sort(AT, *identity(problem, rows))


def labelled_since(problem: Problem, lake: Lake, release: Release, *, now: datetime, back: timedelta) -> pl.DataFrame:
    """Rows with their features whose label became known in the last `back`, and after the release's training."""
    try:
        return training_set(problem, lake, as_of=now, since=max(now - back, release.trained_until))
    except Refused:  # no label
        return pl.DataFrame()


def identity(problem: Problem, rows: pl.DataFrame) -> list[str]:
    """The columns that tell rows apart: the key, or all that there are."""
    return list(problem.schema.key) or [name for name in problem.schema.names if name in rows.columns]


def _labelled(problem: Problem, history: History) -> Frame:
    """The subject's rows with a label; features can't take it for a column of theirs by its new name."""
    subject, labels = problem.schema, problem.labels
    target = nw.col(problem.target.name).alias(TARGET)
    if labels is subject:
        rows = history[subject.name].with_columns(target, labels.known.alias(KNOWN)).drop(problem.target.name)
    else:
        known_labels = history[labels.name].select(*subject.key, target, labels.known.alias(KNOWN))
        rows = history[subject.name].join(known_labels, on=subject.key)
    return rows.filter(~nw.col(TARGET).is_null()).with_columns(subject.predicted.alias(AT))


def requests(problem: Problem, rows: pl.DataFrame | pl.LazyFrame, *, now: datetime | nw.Expr) -> Frame:
    """Rows to be predicted: at their time of prediction, or now where that is still to come or there is none."""
    frame = nw.from_native(rows.lazy()).drop(problem.schema.closed, strict=False)
    moment = nw.lit(now, dtype=nw.Datetime("us", "UTC")) if isinstance(now, datetime) else now
    if not problem.schema.event_time:
        return frame.with_columns(moment.alias(AT))
    at = problem.schema.predicted
    return frame.with_columns(nw.when(at > moment).then(moment).otherwise(at).alias(AT))


def to_predict(problem: Problem, rows: pl.DataFrame, history: History, *, now: datetime) -> pl.DataFrame:
    """Rows of the subject with their features and `_at`: from what is known, as far as they look back.

    Raises:
        Refused: As `with_features`.
    """
    asked = requests(problem, rows, now=now)
    since = asked.select(nw.col(AT).min()).collect().item()
    return with_features(problem, asked, recent(problem, history, since=since or now))


def recent(problem: Problem, history: History, *, since: datetime) -> History:
    """The history that features of rows predicted since a time can look back to."""
    start = since - problem.lookback
    return {name: history[name].filter(schema.known > start) for name, schema in problem.schemas.items()}


def split(
    problem: Problem, rows: pl.DataFrame, window: Window, *, as_of: datetime
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows before the newest labelled window, and the window.

    Where rows have no time, the window is a share of them that stays the same whatever arrives later.
    """
    if problem.schema.event_time:
        held = rows[KNOWN] > as_of - timedelta(days=window.days)
    else:
        names = identity(problem, rows)
        held = pl.Series([share(row) < window.share for row in rows.select(names).iter_rows()], dtype=pl.Boolean)
    return rows.filter(~held), rows.filter(held)


def too_few(problem: Problem, before: pl.DataFrame, held: pl.DataFrame, need: int) -> Refused:
    """Why a split can't be used, and the way out: the data may have ended long before the clock."""
    few = f"{len(before)} labelled rows before the newest window and {len(held)} in it are too few"
    way, newest = "wait for more, or change [window] in config/acceptance.toml", before[KNOWN].max()
    if problem.schema.event_time and held.is_empty() and isinstance(newest, datetime):
        way = f'the newest label is of {newest:%Y-%m-%d %H:%M}: set clock = "data" in config/settings.toml, or --now'
    return Refused(f"{few} (at least {need} each): {way}")


def within(rows: pl.DataFrame, days: int) -> pl.DataFrame:
    """The rows whose label became known in the newest days of them; all of them for 0 days."""
    newest = rows[KNOWN].max()
    return rows.filter(pl.col(KNOWN) > newest - timedelta(days=days)) if days and isinstance(newest, datetime) else rows


def share(row: tuple[object, ...]) -> float:
    """A number in [0, 1) that is always the same for the same row."""
    digest = hashlib.blake2b(repr(row).encode(), digest_size=8).digest()
    return float(int.from_bytes(digest) / 2**64)


def require_no_leak(problem: Problem, rows: pl.DataFrame, history: History) -> None:
    """Compute features of rows at some times again, without the future and the rows themselves.

    Args:
        problem: The problem.
        rows: A training set.
        history: What it was computed from.

    Raises:
        Refused: Some change: they know more than was known.
    """
    if not problem.schema.event_time:
        return
    times = rows[AT].unique().sort()
    leaking: set[str] = set()
    for at in times.gather_every(max(1, len(times) // LEAK_SAMPLES)):
        past = {name: history[name].filter(schema.known <= at) for name, schema in problem.schemas.items()}
        full = rows.filter(pl.col(AT) == at)
        raw = full.select(name for name in (*problem.schema.names, AT) if name in full.columns)
        if own := problem.schema.key:  # a request is not in the lake yet
            asked = nw.from_native(full.select(own).lazy())
            past[problem.schema.name] = past[problem.schema.name].join(asked, on=own, how="anti")
        again = with_features(problem, nw.from_native(raw.lazy()), past)
        order = problem.schema.key or raw.columns
        again, full = again.sort(order), full.sort(order)
        leaking |= {name for name in problem.features if not again[name].equals(full[name], null_equal=True)}
    if leaking:
        what = f"{', '.join(sorted(leaking))} change without the future and the row itself"
        raise Refused(f"features know what was not known yet: {what}")
