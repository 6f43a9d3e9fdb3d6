"""The table `requests`: what the service was asked and what it answered, for the monitor and the smoke test.

It has the contract's columns beside those that are named here; the service appends to it.
"""

from datetime import datetime, timedelta

import polars as pl

from {{cookiecutter.__package_name}}.core.contracts.schema import AT, DTYPES, Schema
from {{cookiecutter.__package_name}}.core.problem import Problem
from {{cookiecutter.__package_name}}.core.store.lake import Lake

TABLE = "requests"
ID, NTH, SERVED, VERSION, TABLES, FEATURES, ANSWER = (
    f"_{name}" for name in ("id", "nth", "served", "version", "tables", "features", "answer")
)
COLUMNS: dict[str, pl.DataType] = {
    ID: pl.String(),
    NTH: pl.UInt32(),
    SERVED: DTYPES[datetime],
    VERSION: pl.Int64(),
    TABLES: pl.String(),
    AT: DTYPES[datetime],
    FEATURES: pl.String(),
    ANSWER: pl.String(),
}


def logged_schema(problem: Problem) -> Schema:
    """The columns of a request that are logged: neither personal nor forbidden ones."""
    return problem.schema.request.public


def logged_requests(problem: Problem, lake: Lake, *, now: datetime, back: timedelta) -> pl.DataFrame:
    """Requests of raw rows and their predictions in the last `back`."""
    columns = COLUMNS | logged_schema(problem).dtypes
    rows = lake.read(TABLE, columns)
    gained = columns.keys() - set(rows.collect_schema().names())
    rows = rows.with_columns(pl.lit(None, dtype=columns[name]).alias(name) for name in sorted(gained))
    return rows.filter(pl.col(SERVED) > now - back, pl.col(SERVED) <= now, pl.col(AT).is_not_null()).collect()
