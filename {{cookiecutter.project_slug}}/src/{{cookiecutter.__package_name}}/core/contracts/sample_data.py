"""Sample rows: made-up rows that meet a contract."""

import math
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import annotated_types as at
import numpy as np
import polars as pl

from {{cookiecutter.__package_name}}.core.contracts.schema import (
    Category,
    Column,
    Table,
    schema_of,
)
from {{cookiecutter.__package_name}}.core.contracts.validation import RULES, with_violations

EPOCH = datetime(2024, 1, 1, tzinfo=UTC)  # of sample rows


def sample(table: type[Table], n: int, *, seed: int = 0) -> pl.DataFrame:
    """Made-up rows that keep the contract: for tests and examples, where real rows must not go.

    A field's `examples` are taken in turn, those of several fields together, so that they can keep rules across
    columns; other values are drawn within their limits. Rows that break a rule all the same are left out.
    """
    schema, rng = schema_of(table), np.random.default_rng(seed)
    rows = pl.DataFrame({column.name: _values(column, n, rng) for column in schema.columns}, schema=schema.dtypes)
    return with_violations(rows, schema).filter(pl.col(RULES).list.len() == 0).drop(RULES)


def _values(column: Column, n: int, rng: np.random.Generator) -> list[Any]:
    category = column.role(Category)
    if given := column.field.examples or (category.values if category else None):
        return [given[i % len(given)] for i in range(n)]
    low, high = _range(column)
    made: dict[type, Callable[[int], Any]] = {
        bool: lambda _: bool(rng.integers(0, 2)),
        int: lambda i: int(low) + 1 + i % max(1, int(high - low) - 1),
        float: lambda _: float(rng.uniform(low, high)),
        str: lambda i: f"{column.name} {i}",
        date: lambda i: EPOCH.date() + timedelta(days=i),
        datetime: lambda i: EPOCH + timedelta(hours=i),
    }
    return [made[column.kind](i) for i in range(n)]


def _range(column: Column) -> tuple[float, float]:
    """The limits between which to draw; where one is open, at most 1000 apart."""
    low, high = -math.inf, math.inf
    for limit in column.field.metadata:
        match limit:
            case at.Gt(gt=int(bound) | float(bound)) | at.Ge(ge=int(bound) | float(bound)):
                low = bound
            case at.Lt(lt=int(bound) | float(bound)) | at.Le(le=int(bound) | float(bound)):
                high = bound
    if math.isinf(low):
        low = min(0.0, high - 1000)
    return low, min(high, low + 1000)
