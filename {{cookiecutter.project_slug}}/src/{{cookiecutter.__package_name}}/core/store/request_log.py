"""The table `requests`: the request log of the service, for the monitor and the smoke test.

It also has the columns of the contract that may be logged.
"""

from datetime import datetime, timedelta

import polars as pl

from {{cookiecutter.__package_name}}.core.contracts.schema import DTYPES, PREDICTED_AT, Schema
from {{cookiecutter.__package_name}}.core.problem import Problem
from {{cookiecutter.__package_name}}.core.store.lake import Lake

REQUESTS = "requests"
ID, ROW_NUMBER, SERVED_AT, VERSION, TABLES, FEATURES, PREDICTION = (
    f"_{name}" for name in ("id", "row_number", "served_at", "version", "tables", "features", "prediction")
)
COLUMNS: dict[str, pl.DataType] = {
    ID: pl.String(),
    ROW_NUMBER: pl.UInt32(),
    SERVED_AT: DTYPES[datetime],
    VERSION: pl.Int64(),
    TABLES: pl.String(),
    PREDICTED_AT: DTYPES[datetime],
    FEATURES: pl.String(),
    PREDICTION: pl.String(),
}


def logged_schema(problem: Problem) -> Schema:
    """The columns of a request that are logged: neither personal nor excluded ones."""
    return problem.schema.request.loggable


def columns(problem: Problem) -> dict[str, pl.DataType]:
    """The columns of the table."""
    return COLUMNS | logged_schema(problem).dtypes


def logged_requests(problem: Problem, lake: Lake, *, now: datetime, back: timedelta) -> pl.DataFrame:
    """The logged rows of raw requests within `back`, with their predictions."""
    recent = pl.col(SERVED_AT) > now - back, pl.col(SERVED_AT) <= now, pl.col(PREDICTED_AT).is_not_null()
    return lake.read(REQUESTS, columns(problem)).filter(recent).collect()
