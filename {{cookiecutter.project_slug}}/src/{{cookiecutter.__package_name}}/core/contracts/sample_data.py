"""Generated rows that satisfy a contract."""

import math
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import annotated_types as at
import numpy as np
import polars as pl

from {{cookiecutter.__package_name}}.core.contracts.schema import (
    AvailableAt,
    Category,
    Column,
    EventTime,
    Key,
    Nulls,
    Schema,
    Table,
    Target,
    schema_of,
)
from {{cookiecutter.__package_name}}.core.contracts.validation import VIOLATIONS, with_violations

EPOCH = datetime(2024, 1, 1, tzinfo=UTC)  # earliest time of sample rows
HOUR, SPREAD = timedelta(hours=1), timedelta(days=5)
GAP = 10  # every tenth optional value is missing


def sample(table: type[Table], n: int, *, seed: int = 0) -> pl.DataFrame:
    """Synthetic rows that satisfy the contract, for tests and examples, which must not contain real rows.

    Values cycle through a field's `examples`. All fields use the example of the same position, which can
    satisfy rules across columns. Other values are drawn within their limits. Rows that still violate a rule,
    or repeat a key, are dropped.
    """
    schema = schema_of(table)
    return _valid(_draw(schema, n, HOUR, np.random.default_rng(seed)), schema)


def sample_tables(
    entity: type[Table], tables: Sequence[type[Table]], n: int, *, seed: int = 0
) -> dict[str, pl.DataFrame]:
    """Synthetic rows of related tables, by table name: at most n of each, over five days.

    The other tables copy the entity's values in columns of the same name and type. A label becomes available
    at the event time of its row, a row of another table in the hours before the time of prediction. One in
    ten optional values is missing.

    Args:
        entity: The table whose rows are predicted.
        tables: All tables, the entity included.
        n: Number of rows to draw; rows that violate a rule are dropped.
        seed: Random seed.
    """
    schema, rng = schema_of(entity), np.random.default_rng(seed)
    rows = _valid(_with_gaps(_draw(schema, n, SPREAD / n, rng), schema), schema)
    others = [schema_of(table) for table in tables if table is not entity]
    related = {other.name: _related(rows, schema, other, rng) for other in others}
    return {schema.name: rows} | related


def _draw(schema: Schema, n: int, step: timedelta, rng: np.random.Generator) -> pl.DataFrame:
    return pl.DataFrame({column.name: _values(column, n, step, rng) for column in schema.columns}, schema=schema.dtypes)


def _valid(rows: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    """The rows that violate no rule and repeat no key, within the maximum time span of a batch."""
    rows = with_violations(rows, schema).filter(pl.col(VIOLATIONS).list.len() == 0).drop(VIOLATIONS)
    rows = rows.unique(schema.key, keep="first", maintain_order=True) if schema.key else rows
    span, time = schema.model.max_span, schema.time
    return rows.filter(pl.col(time) >= pl.col(time).max() - span) if span and time else rows


def _related(rows: pl.DataFrame, entity: Schema, schema: Schema, rng: np.random.Generator) -> pl.DataFrame:
    """Rows of another table that belong to the entity's rows."""
    drawn = _with_gaps(_draw(schema, len(rows), SPREAD / max(1, len(rows)), rng), schema)
    shared = [name for name, dtype in schema.dtypes.items() if entity.dtypes.get(name) == dtype]
    drawn = drawn.with_columns(rows.select(shared))
    if entity.event_time and schema.time:
        earlier = pl.int_range(pl.len()) % 6 * pl.lit(HOUR / 2) + entity.lead
        times = rows.select(pl.col(entity.event_time) - (timedelta(0) if schema.target else earlier)).to_series()
        drawn = drawn.with_columns(times.alias(schema.time))
    return _valid(drawn, schema)


def _with_gaps(rows: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    """The rows, with the optional values of every tenth row set to null."""
    optional = [column.name for column in schema.columns if column.optional and _may_have_gaps(column)]
    return rows.with_columns(pl.when(pl.int_range(pl.len()) % GAP > 0).then(name) for name in optional)


def _may_have_gaps(column: Column) -> bool:
    nulls, required = column.role(Nulls), any(column.role(role) for role in (Key, EventTime, AvailableAt, Target))
    return not required and (nulls is None or nulls.at_most * GAP >= 1)


def _values(column: Column, n: int, step: timedelta, rng: np.random.Generator) -> list[Any]:
    category = column.role(Category)
    if examples := column.field.examples or (category.values if category else None):
        return [examples[i % len(examples)] for i in range(n)]
    low, high = _range(column)
    generators: dict[type, Callable[[int], Any]] = {
        bool: lambda _: bool(rng.integers(0, 2)),
        int: lambda i: int(low) + 1 + i % max(1, int(high - low) - 1),
        float: lambda _: float(rng.uniform(low, high)),
        str: lambda i: f"{column.name} {i % 3 if column.role(Target) else i}",
        date: lambda i: EPOCH.date() + timedelta(days=i),
        datetime: lambda i: EPOCH + i * step,
    }
    return [generators[column.kind](i) for i in range(n)]


def _range(column: Column) -> tuple[float, float]:
    """The limits of a generated value, at most 1000 apart."""
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
