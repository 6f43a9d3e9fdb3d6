"""Point-in-time windows and as-of joins.

Polars has an as-of join; on other engines it is built from a union and a running count over keys in the order of time.
Sums are over integers, hence exact and equal on every engine.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta

import narwhals as nw
import polars as pl

from {{cookiecutter.__package_name}}.core.contracts.schema import PREDICTED_AT, Frame

_START, _SINCE, _TIME, _IS_ROW, _NTH = "_start", "_since", "_time", "_is_row", "_nth"


def trailing(
    rows: Frame, events: Frame, *, when: str, window: timedelta, sums: Mapping[str, nw.Expr], by: Sequence[str] = ()
) -> Frame:
    """Add sums over the events that became available in the window (t - window, t], with t the time of prediction.

    Args:
        rows: Rows with the time `PREDICTED_AT` and the columns `by`.
        events: Events with the column `when` and the columns `by`.
        when: The time at which an event became available.
        window: How far back an event counts.
        sums: The new columns, each an integer expression over events.
        by: Only events that share these columns with the row count; a missing value shares with none.

    Returns:
        The rows and their sums, 0 where there was no event.
    """
    integers = [value.cast(nw.Int64).alias(name) for name, value in sums.items()]
    running = _running(events.select(*by, nw.col(when).alias(_SINCE), *integers), list(sums), by)
    before = {name: f"_{name}_before" for name in sums}
    moments = rows.with_columns((nw.col(PREDICTED_AT) - window).alias(_START))
    until = as_of(moments, running, at=PREDICTED_AT, by=by)
    both = as_of(until, running.rename(before), at=_START, by=by)
    inside = [(_count(name) - _count(earlier)).alias(name) for name, earlier in before.items()]
    return both.with_columns(*inside).drop(_START, *before.values())


def latest(
    rows: Frame, events: Frame, *, when: str, within: timedelta, values: Sequence[str], by: Sequence[str] = ()
) -> Frame:
    """Add values of the latest event that was available at the time of prediction.

    Args:
        rows: Rows with the time `PREDICTED_AT` and the columns `by`.
        events: Events with the columns `when`, `by` and `values`; no two share `when` and `by`.
        when: The time at which an event became available.
        within: How old the event may be.
        values: The columns to add.
        by: Only events that share these columns with the row count; a missing value shares with none.

    Returns:
        The rows and the values; missing where no event was known, or only an older one.
    """
    known = events.select(*by, *values, nw.col(when).alias(_SINCE), nw.col(when).alias(_TIME))
    fresh = nw.col(_TIME) > nw.col(PREDICTED_AT) - within
    found = as_of(rows, known, at=PREDICTED_AT, by=by)
    return found.with_columns(nw.when(fresh).then(nw.col(name)).alias(name) for name in values).drop(_TIME)


def _running(events: Frame, sums: list[str], by: Sequence[str]) -> Frame:
    """Sums over all events until each; of several at one time the last counts, or they are one."""
    if events.implementation.is_polars():
        total = pl.col(sums).fill_null(0).cum_sum()
        summed: pl.LazyFrame = events.to_native().sort(_SINCE).with_columns(total.over(by) if by else total)
        return nw.from_native(summed)
    moments = events.group_by(*by, _SINCE).agg(nw.col(*sums).sum())
    return moments.with_columns(nw.col(name).cum_sum().over(*by, order_by=_SINCE) for name in sums)


def as_of(rows: Frame, events: Frame, *, at: str, by: Sequence[str]) -> Frame:
    """Add the columns of the last event with `_since` at or before the row's time `at`, of those that share `by`."""
    matching = events.drop_nulls(list(by)) if by else events
    join = _as_of_in_polars if rows.implementation.is_polars() else as_of_anywhere
    return join(rows, matching, at, by)


def _as_of_in_polars(rows: Frame, events: Frame, at: str, by: Sequence[str]) -> Frame:
    left = rows.to_native().sort(PREDICTED_AT)  # which sorts by `at` too: it is `PREDICTED_AT`, or a window before it
    right = events.rename({_SINCE: at}).to_native().sort(at)
    joined: pl.LazyFrame = left.join_asof(right, on=at, by=list(by) or None, check_sortedness=False)
    return nw.from_native(joined)


def as_of_anywhere(rows: Frame, events: Frame, at: str, by: Sequence[str]) -> Frame:
    """The as-of join from union and a running count: the n-th event is the last for rows that come after n of them.

    The plan has the rows once, so that joins in a row add up and don't multiply.
    """
    one, none = nw.lit(1, dtype=nw.Int64).alias(_NTH), nw.lit(0, dtype=nw.Int64).alias(_NTH)
    happened = events.select(*by, _SINCE, one, nw.lit(0).alias(_IS_ROW))
    row_events = rows.with_columns(nw.col(at).alias(_SINCE), none, nw.lit(1).alias(_IS_ROW))
    steps = nw.concat([row_events, happened], how="diagonal")
    counted = steps.with_columns(nw.col(_NTH).cum_sum().over(*by, order_by=[_SINCE, _IS_ROW]))
    requested = counted.filter(nw.col(_IS_ROW) == 1).drop(_SINCE, _IS_ROW)
    nth = events.with_columns(one).with_columns(nw.col(_NTH).cum_sum().over(*by, order_by=_SINCE)).drop(_SINCE)
    return requested.join(nth, on=[*by, _NTH], how="left").drop(_NTH)


def _count(name: str) -> nw.Expr:
    return nw.col(name).fill_null(0).cast(nw.Int64)
