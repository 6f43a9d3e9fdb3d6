"""What is derived from a contract: request model, data dictionary and sample rows."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import annotated_types as at
import numpy as np
import polars as pl
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, Strict, create_model
from pydantic_core import PydanticCustomError

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


def _as_text(value: Any) -> Any:  # noqa: ANN401 - whatever JSON has
    """A date or time that is written as one: pydantic would take seconds since 1970 as well."""
    if isinstance(value, date) or (isinstance(value, str) and re.match(r"\d{4}-", value)):
        return value
    raise PydanticCustomError("iso", "Input should be text like 2024-12-31 or 2024-12-31T23:59:00Z")


IN_JSON: dict[type, Any] = {  # text is read in lax mode only, once a validator of Python has seen it
    kind: Annotated[said, BeforeValidator(_as_text), Strict(strict=False)]
    for kind, said in ((date, date), (datetime, AwareDatetime))
}


def request_model(table: type[Table]) -> type[BaseModel]:
    """The table's class without its target, what one asks a prediction for: JSON is taken as it stands.

    What features never see, personal and forbidden columns, may be left out.
    """
    fields: dict[str, Any] = {column.name: _field(column) for column in schema_of(table).request.columns}
    config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    return create_model(f"{table.__name__}Request", __config__=config, __doc__=table.__doc__, **fields)


def _field(column: Column) -> tuple[Any, Any]:
    default: Any = None if column.optional else ...
    return _asked(column), Field(default, description=column.field.description, examples=column.field.examples)


def _asked(column: Column) -> Any:  # noqa: ANN401 - a type
    """The type of a column in JSON: what the lake can't store, or can't tell the time of, is no value."""
    category = column.role(Category)
    kind: Any = IN_JSON.get(column.kind, column.kind)
    if category and not category.grows:
        kind = Literal[category.values]
    limits = [limit for limit in column.field.metadata if isinstance(limit, at.Gt | at.Ge | at.Lt | at.Le)]
    if column.kind is int:
        limits += [at.Ge(-(2**63)), at.Le(2**63 - 1)]
    asked = Annotated[kind, *limits] if limits else kind
    return asked | None if column.optional else asked


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
