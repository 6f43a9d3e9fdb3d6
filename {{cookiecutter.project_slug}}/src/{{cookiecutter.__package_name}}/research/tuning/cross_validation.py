"""Cross-validation folds in the order of time: each is fitted on the past and evaluated on what came after it."""

from collections.abc import Iterator

import polars as pl

from {{cookiecutter.__package_name}}.core.contracts.schema import AT, KNOWN
from {{cookiecutter.__package_name}}.core.datasets import identity, share
from {{cookiecutter.__package_name}}.core.problem import Problem

Fold = tuple[pl.DataFrame, pl.DataFrame]


def folds(problem: Problem, rows: pl.DataFrame, number: int) -> Iterator[Fold]:
    """Split rows into pairs of training and holdout rows.

    The rows are cut into blocks of equal size. Each block but the first is a holdout for the rows whose labels were
    known before its first prediction. Where rows have no time, a block is a share of them by hash, which stays the same
    whatever arrives later, and the holdout for all others.
    """
    if not problem.schema.event_time:
        shares = (share(("fold", *row)) for row in rows.select(identity(problem, rows)).iter_rows())
        block = pl.Series([int(number * share) for share in shares], dtype=pl.Int64)
        yield from ((rows.filter(block != n), rows.filter(block == n)) for n in range(number))
        return
    times = rows[AT].sort()
    starts = [times[len(times) * n // (number + 1)] for n in range(1, number + 1)]
    for start, end in zip(starts, [*starts[1:], None], strict=True):
        train = rows.filter(pl.max_horizontal(AT, KNOWN) < start)
        yield train, rows.filter(pl.col(AT) >= start, True if end is None else pl.col(AT) < end)
