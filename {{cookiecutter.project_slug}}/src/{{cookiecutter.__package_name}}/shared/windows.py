"""Point-in-time primitives: what had happened by the time a row is predicted.

Both are built from union and cumulative sum over keys in the order of time, the one construct that every engine has.
Sums are over integers, so that they are exact and equal on every engine.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta

import narwhals as nw

from {{cookiecutter.__package_name}}.shared.schema import AT, Frame

_TIME, _PROBE, _COUNT = "_time", "_probe", "_count"
_ORDER = [_TIME, _PROBE]  # at the same time, an event comes before the row that asks for it


def trailing(
    rows: Frame, events: Frame, *, when: str, window: timedelta, sums: Mapping[str, nw.Expr], by: Sequence[str] = ()
) -> Frame:
    """Add sums over the events that became known in the window (at - window, at] before each row is predicted.

    Args:
        rows: Rows with the time `AT` and the columns `by`.
        events: Events with the column `when` and the columns `by`.
        when: When an event became known.
        window: How far back an event counts.
        sums: The new columns, each an integer expression over events.
        by: Only events that share these columns with the row count; a missing value shares with none.

    Returns:
        The rows and their sums, 0 where there was no event.
    """
    integers = [value.cast(nw.Int64).alias(name) for name, value in sums.items()]
    entering = events.select(*by, nw.col(when).alias(_TIME), nw.lit(0).alias(_PROBE), *integers)
    leaving = entering.with_columns(nw.col(_TIME) + window, *(-nw.col(name) for name in sums))
    zeros = [nw.lit(0, dtype=nw.Int64).alias(name) for name in sums]
    asking = _asking(rows, by).with_columns(*zeros)
    running = nw.concat([entering, leaving, asking]).with_columns(_running(name, by) for name in sums)
    answers = running.filter(nw.col(_PROBE) == 1).select(*by, nw.col(_TIME).alias(AT), *sums)
    return rows.join(answers, on=[*by, AT], how="left").with_columns(nw.col(*sums).cast(nw.Int64).fill_null(0))


def latest(
    rows: Frame, events: Frame, *, when: str, within: timedelta, values: Sequence[str], by: Sequence[str] = ()
) -> Frame:
    """Add values of the latest event that was known when each row is predicted.

    Args:
        rows: Rows with the time `AT` and the columns `by`.
        events: Events with the columns `when`, `by` and `values`; no two share `when` and `by`.
        when: When an event became known.
        within: How old the event may be.
        values: The columns to add.
        by: Only events that share these columns with the row count; a missing value shares with none.

    Returns:
        The rows and the values; missing where no event was known, or only an older one.
    """
    one = nw.lit(1, dtype=nw.Int64).alias(_COUNT)
    known = events.select(*by, nw.col(when).alias(_TIME), nw.lit(0).alias(_PROBE), one, *values)
    asking = _asking(rows, by).with_columns(nw.lit(0, dtype=nw.Int64).alias(_COUNT))
    counted = nw.concat([known, asking], how="diagonal").with_columns(_running(_COUNT, by))
    nth = counted.filter(nw.col(_PROBE) == 0).select(*by, _COUNT, *values, _since=nw.col(_TIME))
    asked = counted.filter(nw.col(_PROBE) == 1).select(*by, _COUNT, nw.col(_TIME).alias(AT))
    answers = asked.join(nth, on=[*by, _COUNT]).filter(nw.col("_since") > nw.col(AT) - within)
    return rows.join(answers.select(*by, AT, *values), on=[*by, AT], how="left")


def _asking(rows: Frame, by: Sequence[str]) -> Frame:
    """Each time at which something is asked, once."""
    return rows.select(*by, nw.col(AT).alias(_TIME)).unique().with_columns(nw.lit(1).alias(_PROBE))


def _running(name: str, by: Sequence[str]) -> nw.Expr:
    return nw.col(name).cum_sum().over(*by, order_by=_ORDER)
