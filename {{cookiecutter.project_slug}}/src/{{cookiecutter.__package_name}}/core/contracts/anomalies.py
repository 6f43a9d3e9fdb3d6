"""Anomalies of a batch, compared with the same days in previous weeks."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

import polars as pl

from {{cookiecutter.__package_name}}.core.contracts.schema import PREDICTED_AT, Schema, Target

MIN_ROWS = 12  # minimum number of rows to compute a share
MIN_DURATION = timedelta(hours=12)  # minimum time span of a batch to check its volume
MAX_NULL_INCREASE = 0.7  # of the share of missing values, over its maximum in previous weeks
MIN_DISTINCT = 5  # distinct values in each previous week, for a constant column to be an anomaly
MAX_CHANCE = 1e-6  # a constant target less probable than this, by previous weeks, is implausible
MAX_ORPHANS = 0.05  # maximum share of a batch's keys; a few labels may arrive before their row


def batch_anomalies(rows: pl.DataFrame, schema: Schema, days: Sequence[pl.DataFrame]) -> Iterator[str]:
    """Reasons to reject a batch: fewer rows, more missing values, or a constant column.

    Args:
        rows: The rows of the batch.
        schema: The table's schema.
        days: The table's rows of the batch's days, then of the same days a week before, two weeks before, and so on.
    """
    weeks = [week for week in days[1:] if len(week) >= MIN_ROWS]
    if not weeks:
        return
    n, most_rows = len(days[0]) + len(rows), max(map(len, weeks))
    volume = schema.model.min_volume
    times = time_range(rows, schema)
    if volume and n < volume * most_rows and times and times[1] - times[0] >= MIN_DURATION:
        yield f"{n} rows, where the weeks before have up to {most_rows} (at least {volume:.0%} of them)"
    if len(rows) < MIN_ROWS:
        return
    for column in schema.columns:
        name = column.name
        share, highest = _null_share(rows, name), max(_null_share(week, name) for week in weeks)
        if share > highest + MAX_NULL_INCREASE:
            yield f"{name} is missing in {share:.0%} of rows, in the weeks before in at most {highest:.0%}"
        varied = not column.optional and all(week[name].n_unique() >= MIN_DISTINCT for week in weeks)
        if varied and rows[name].n_unique() == 1:
            yield f"{name} is {rows[name][0]!r} in every row: it does not vary, as it did in the weeks before"


def constant_target(rows: pl.DataFrame, schema: Schema, days: Sequence[pl.DataFrame]) -> Iterator[str]:
    """Warn of a constant target that previous weeks make implausible; arguments as in `batch_anomalies`."""
    for name in schema.columns_with_role(Target):
        values = rows[name].drop_nulls()
        shares = [(week[name] == values[0]).mean() for week in days[1:] if min(len(week), len(values)) >= MIN_ROWS]
        most = max((share for share in shares if isinstance(share, float)), default=1.0)
        if values.n_unique() == 1 and most ** len(values) < MAX_CHANCE:
            yield f"{name} is {values[0]!r} in all {len(values)} rows, in the weeks before in at most {most:.0%}"


def orphan_labels(labels: pl.DataFrame, entities: pl.DataFrame, table: str) -> Iterator[str]:
    """Warn of labels without a row, if there are too many.

    Args:
        labels: The labels of the batch.
        entities: The keys and times of prediction of the labelled rows that are in the lake.
        table: The name of the entity table.
    """
    key = entities.drop(PREDICTED_AT).columns
    keys = labels.select(key).unique()
    if (n := len(keys.join(entities, on=key, how="anti"))) > MAX_ORPHANS * len(keys):
        yield f"{n} of {len(keys)} keys are of no row in {table}"


def time_range(rows: pl.DataFrame, schema: Schema) -> tuple[datetime, datetime] | None:
    """The first and the last time of a batch, or None if its rows have no time."""
    first, last = (rows[schema.time].min(), rows[schema.time].max()) if schema.time else (None, None)
    return (first, last) if isinstance(first, datetime) and isinstance(last, datetime) else None


def _null_share(rows: pl.DataFrame, name: str) -> float:
    return rows[name].null_count() / len(rows)
