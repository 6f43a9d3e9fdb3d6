"""What is usual of a table: a batch that is unlike the same days of the weeks before is breached as a whole."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

import polars as pl

from {{cookiecutter.__package_name}}.shared.schema import Schema, Target

MORE_NULLS = 0.7  # missing values than in any week before are not usual,
VALUES = 5  # nor is one value where each week before had at least so many.
ENOUGH = 12  # rows: fewer tell nothing of shares,
WHOLE = timedelta(hours=12)  # and less than half a day nothing of volume
ASTRAY = 0.05  # of a batch's labels without their row: single ones may come before it, more are of other keys
CHANCE = 1e-6  # that all targets of a batch are the same, by their share in the weeks before: too small to be one


def unlike(rows: pl.DataFrame, schema: Schema, days: Sequence[pl.DataFrame]) -> Iterator[str]:
    """What sets a batch apart: fewer rows, more missing values, a value that sticks.

    Args:
        rows: The batch's.
        schema: The table's schema.
        days: The table's rows of the batch's days, then of the same days a week before, two weeks before, and so on.
    """
    weeks = [week for week in days[1:] if len(week) >= ENOUGH]
    if not weeks:
        return
    n, full = len(days[0]) + len(rows), max(map(len, weeks))
    if _hours(rows, schema) >= WHOLE and schema.model.volume and n < schema.model.volume * full:
        yield f"{n} rows, where the weeks before have up to {full} (at least {schema.model.volume:.0%} of them)"
    if len(rows) < ENOUGH:
        return
    for column in schema.columns:
        name = column.name
        share, most = _missing(rows, name), max(_missing(week, name) for week in weeks)
        if share > most + MORE_NULLS:
            yield f"{name} is missing in {share:.0%} of rows, in the weeks before in at most {most:.0%}"
        varied = not column.optional and all(week[name].n_unique() >= VALUES for week in weeks)
        if varied and rows[name].n_unique() == 1:
            yield f"{name} is {rows[name][0]!r} in every row: it does not vary, as it did in the weeks before"


def one_answer(rows: pl.DataFrame, schema: Schema, days: Sequence[pl.DataFrame]) -> Iterator[str]:
    """What to look at: a target that is the same in every row, which by the weeks before can't be chance.

    It does not breach the batch, since the world may be so for a day; arguments as above.
    """
    for name in schema.having(Target):
        given = rows[name].drop_nulls()
        shares = [(week[name] == given[0]).mean() for week in days[1:] if min(len(week), len(given)) >= ENOUGH]
        most = max((share for share in shares if isinstance(share, float)), default=1.0)
        if given.n_unique() == 1 and most ** len(given) < CHANCE:
            yield f"{name} is {given[0]!r} in all {len(given)} rows, in the weeks before in at most {most:.0%}"


def astray(labels: pl.DataFrame, subject: Schema, found: pl.DataFrame) -> Iterator[str]:
    """What to look at: more than one in 20 keys of labels are of no row, as where a key is shifted by a day.

    It does not breach the batch, since rows may come after their labels; found are the keys that are in the lake.
    """
    keys = labels.select(subject.key).unique()
    if (n := len(keys.join(found, on=subject.key, how="anti"))) > ASTRAY * len(keys):
        yield f"{n} of {len(keys)} keys are of no row in {subject.name}"


def _hours(rows: pl.DataFrame, schema: Schema) -> timedelta:
    first, last = (rows[schema.time].min(), rows[schema.time].max()) if schema.time else (None, None)
    return last - first if isinstance(first, datetime) and isinstance(last, datetime) else timedelta(0)


def _missing(rows: pl.DataFrame, name: str) -> float:
    return rows[name].null_count() / len(rows)
