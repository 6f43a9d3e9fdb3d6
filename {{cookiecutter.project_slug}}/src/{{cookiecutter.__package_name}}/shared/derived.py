"""What is derived from a contract: data dictionary and sample rows."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import annotated_types as at
import numpy as np
import polars as pl

from {{cookiecutter.__package_name}}.shared.checks import RULES, with_violations
from {{cookiecutter.__package_name}}.shared.schema import (
    Category,
    Column,
    EventTime,
    Forbidden,
    Key,
    Known,
    Nulls,
    Personal,
    Schema,
    Table,
    Target,
    schema_of,
)

EPOCH = datetime(2024, 1, 1, tzinfo=UTC)  # of sample rows


@dataclass(frozen=True)
class DataDictionary:
    """A data dictionary that was written.

    Attributes:
        file: Its path.
        tables: The names of the tables in it.
    """

    file: str
    tables: tuple[str, ...]

    def __str__(self) -> str:
        return f"{', '.join(self.tables)} in {self.file}"


def write_data_dictionary(tables: tuple[type[Table], ...], path: Path) -> DataDictionary:
    """Write the tables' data dictionary as a page."""
    head = "# Data dictionary\n\nWritten from `shared/contract.py`; do not edit.\n\n"
    path.parent.mkdir(exist_ok=True)
    path.write_text(head + data_dictionary(tables), encoding="utf-8", newline="\n")
    return DataDictionary(str(path), tuple(table.table for table in tables))


def data_dictionary(tables: tuple[type[Table], ...]) -> str:
    """The tables in Markdown: a section a table, a row a column, its rules below."""
    return "\n".join(_section(schema_of(table)) for table in tables)


def _section(schema: Schema) -> str:
    rows = [
        f"| `{column.name}` | {column.kind.__name__} | {column.unit} | {_roles(column)} | {_limits(column)} |"
        f" {column.field.description or ''} |"
        for column in schema.columns
    ]
    rules = [f"- {rule}" for rule in schema.model.rules]
    head = ["| column | type | unit | role | limits | meaning |", "| -- | -- | -- | -- | -- | -- |"]
    doc = re.sub(r"\s+", " ", schema.model.__doc__ or "").strip()
    parts = [f"## {schema.name}", "", doc, "", *head, *rows, ""]
    return "\n".join([*parts, "Rules:", "", *rules, ""] if rules else parts)


def _roles(column: Column) -> str:
    kinds = (Key, EventTime, Known, Target, Personal, Forbidden)
    words = [re.sub(r"(?<!^)(?=[A-Z])", " ", kind.__name__).lower() for kind in kinds if column.role(kind)]
    return ", ".join(words)


def _limits(column: Column) -> str:
    limits = [
        name.removeprefix(f"{column.name} ").replace("<=", "≤").replace(">=", "≥") for name in column.conditions()
    ]
    nulls = column.role(Nulls)
    return "; ".join([*limits, f"at most {nulls.at_most:.0%} missing"] if nulls else limits)


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
