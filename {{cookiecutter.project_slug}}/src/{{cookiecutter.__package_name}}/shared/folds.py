"""The past cut into parts, so that what is fitted on one is tried on what came after it."""

from collections.abc import Iterator

import polars as pl

from {{cookiecutter.__package_name}}.shared.dataset import identity, share
from {{cookiecutter.__package_name}}.shared.problem import Problem
from {{cookiecutter.__package_name}}.shared.schema import AT, KNOWN

Fold = tuple[pl.DataFrame, pl.DataFrame]


def folds(problem: Problem, rows: pl.DataFrame, number: int) -> Iterator[Fold]:
    """Rows to fit on and the rows after them to try that on, so many times, in the order of time.

    The rows are cut into blocks of equal size; each but the first is tried on what was known before its first
    prediction. Where rows have no time, each block is a share of them that stays the same whatever arrives later, and
    is tried on all others.
    """
    if not problem.schema.event_time:
        shares = (share(("fold", *row)) for row in rows.select(identity(problem, rows)).iter_rows())
        block = pl.Series([int(number * share) for share in shares], dtype=pl.Int64)
        yield from ((rows.filter(block != n), rows.filter(block == n)) for n in range(number))
        return
    times = rows[AT].sort()
    starts = [times[len(times) * n // (number + 1)] for n in range(1, number + 1)]
    for start, end in zip(starts, [*starts[1:], None], strict=True):
        before = rows.filter(pl.max_horizontal(AT, KNOWN) < start)
        yield before, rows.filter(pl.col(AT) >= start, True if end is None else pl.col(AT) < end)
