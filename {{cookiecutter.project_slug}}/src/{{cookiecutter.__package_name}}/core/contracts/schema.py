"""What contracts are made of: tables, the roles of their columns, and the expressions that follow from them.

The problem's own tables are in `contract`; what happens to rows that break them is in `checks`.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from types import NoneType, UnionType
from typing import Any, ClassVar, TypeVar, Union, get_args, get_origin

import annotated_types as at
import narwhals as nw
import polars as pl
from narwhals.exceptions import ColumnNotFoundError
from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo

from {{cookiecutter.__package_name}}.core.errors import BadInput

Frame = nw.LazyFrame[Any]

AT = "_at"  # when a row is predicted: features know nothing that became known later
KNOWN = "_known"  # when a row's label became known
TARGET = "_target"  # the label, under a name that no feature uses
ARRIVED = "_arrived"  # when a row reached the lake
BATCH = "_batch"  # the batch it came in
CONTRACT = "_contract"  # and the version of the contract that it kept


class Role:
    """What a column is for."""


@dataclass(frozen=True)
class Key(Role):
    """Part of what identifies a row; no two rows of a table share it."""


@dataclass(frozen=True)
class EventTime(Role):
    """When the row's event happens; a prediction is made `lead` before it."""

    lead: timedelta = timedelta(0)


@dataclass(frozen=True)
class Known(Role):
    """When the row became known; without it, its event time less the lead stands in, or else its arrival."""


@dataclass(frozen=True)
class Target(Role):
    """What is predicted."""


@dataclass(frozen=True)
class Personal(Role):
    """Says something about a person: never in features, logs or reports."""


@dataclass(frozen=True)
class Forbidden(Role):
    """Must not be used by features; the reason is for people."""

    reason: str


@dataclass(frozen=True)
class Category:
    """One of the named values; where it `grows`, a new value is let in, though not a batch full of them."""

    values: tuple[str, ...]
    grows: bool = False


@dataclass(frozen=True)
class Nulls:
    """The share of a batch's rows in which the value may be missing."""

    at_most: float


R = TypeVar("R")
MEANT = (at.Gt, at.Ge, at.Lt, at.Le, Role, Category, Nulls)


class Table(BaseModel):
    """A table of the contract: subclass it, one annotated field a column.

    Attributes:
        table: Its name.
        version: Of the contract, recorded with each row: raise it when columns change.
        rules: Conditions across columns, by name.
        span: How far the times of a batch's rows may lie apart. None: any.
        volume: The least share of the rows that the same days had in the fullest of the weeks before. None: any.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    table: ClassVar[str]
    version: ClassVar[int] = 1
    rules: ClassVar[Mapping[str, nw.Expr]] = {}
    span: ClassVar[timedelta | None] = None
    volume: ClassVar[float | None] = None


class Task(StrEnum):
    """What kind of answer the target asks for."""

    BINARY = "binary"
    MULTICLASS = "multiclass"
    REGRESSION = "regression"


DTYPES: Mapping[type, pl.DataType] = {
    bool: pl.Boolean(),
    int: pl.Int64(),
    float: pl.Float64(),
    str: pl.String(),
    date: pl.Date(),
    datetime: pl.Datetime("us", "UTC"),
}


@dataclass(frozen=True)
class Column:
    """A column of a table, as its annotated field declares it."""

    name: str
    kind: type
    optional: bool
    field: FieldInfo

    def role(self, role: type[R]) -> R | None:
        """The column's role of this class, if it has one."""
        return next((found for found in self.field.metadata if isinstance(found, role)), None)

    @property
    def dtype(self) -> pl.DataType:
        """The type the lake stores; datetimes are UTC in microseconds."""
        return DTYPES[self.kind]

    def conditions(self) -> dict[str, nw.Expr]:
        """What each value must meet, by name; a condition is null where the value is."""
        value = nw.col(self.name)
        found: dict[str, nw.Expr] = {}
        if not self.optional:
            found[f"{self.name} is given"] = ~value.is_null()
        for limit in self.field.metadata:
            match limit:
                case at.Gt(gt=bound):
                    found[f"{self.name} > {bound}"] = value > bound
                case at.Ge(ge=bound):
                    found[f"{self.name} >= {bound}"] = value >= bound
                case at.Lt(lt=bound):
                    found[f"{self.name} < {bound}"] = value < bound
                case at.Le(le=bound):
                    found[f"{self.name} <= {bound}"] = value <= bound
                case Category(values=values, grows=False):
                    found[f"{self.name} is a known category"] = value.is_in(values)
        if self.kind is float:
            found[f"{self.name} is finite"] = value.is_finite()
        return found


@dataclass(frozen=True)
class Schema:
    """A table's columns, roles and rules, read once from its class."""

    model: type[Table]
    columns: tuple[Column, ...]

    @property
    def name(self) -> str:
        """The table's name in the lake, in the inbox and in messages."""
        return self.model.table

    @property
    def names(self) -> list[str]:
        """The names of its columns, in order."""
        return [column.name for column in self.columns]

    @property
    def dtypes(self) -> dict[str, pl.DataType]:
        """What the lake stores, by column."""
        return {column.name: column.dtype for column in self.columns}

    def having(self, role: type[object]) -> list[str]:
        """The names of the columns that have a role of this class."""
        return [column.name for column in self.columns if column.role(role) is not None]

    @property
    def closed(self) -> list[str]:
        """The columns that features never see: personal or forbidden, unless they identify the row."""
        return [name for name in {*self.having(Personal), *self.having(Forbidden)} if name not in self.key]

    def only(self, role: type[object]) -> str | None:
        """The name of the one column with a role of this class, if there is one."""
        return next(iter(self.having(role)), None)

    def column(self, name: str) -> Column:
        """The column of this name."""
        return next(column for column in self.columns if column.name == name)

    @property
    def key(self) -> list[str]:
        """The columns that identify a row; empty where rows have no identity."""
        return self.having(Key)

    @property
    def event_time(self) -> str | None:
        """The column of the event time."""
        return self.only(EventTime)

    @property
    def lead(self) -> timedelta:
        """How long before its event a row is predicted."""
        role = self.column(self.event_time).role(EventTime) if self.event_time else None
        return role.lead if role else timedelta(0)

    @property
    def time(self) -> str | None:
        """The column that a batch's rows are ordered by: when they became known, or their event time."""
        return self.only(Known) or self.event_time

    @property
    def known(self) -> nw.Expr:
        """When a row became known: as declared, or with its event, or when it arrived."""
        declared = self.only(Known)
        return nw.col(declared) if declared else self.predicted

    @property
    def predicted(self) -> nw.Expr:
        """When a row is predicted: `lead` before its event; when it arrived, where the table has no event time."""
        return nw.col(self.event_time) - self.lead if self.event_time else nw.col(ARRIVED)

    @property
    def public(self) -> "Schema":
        """The same without personal and forbidden columns: what may be logged and reported."""
        return self.without({*self.closed, *self.having(Personal)})

    @property
    def request(self) -> "Schema":
        """What one asks a prediction for: there is no target, and what features never see may be missing."""
        asked, closed = self.without(self.having(Target)).columns, self.closed
        return Schema(self.model, tuple(replace(c, optional=c.optional or c.name in closed) for c in asked))

    def without(self, names: Container[str]) -> "Schema":
        """The same without some of the columns; rules that need one of them are not asked."""
        return Schema(self.model, tuple(column for column in self.columns if column.name not in names))

    @property
    def target(self) -> str | None:
        """The column of the label."""
        return self.only(Target)

    def conditions(self) -> dict[str, nw.Expr]:
        """Every condition on a row, by name: of its columns, then across them."""
        found: dict[str, nw.Expr] = {}
        for column in self.columns:
            found |= column.conditions()
        return found | {name: rule for name, rule in self.model.rules.items() if self._has_columns_of(rule)}

    def _has_columns_of(self, rule: nw.Expr) -> bool:
        """Whether a rule can be asked; of a table with all its columns it must be."""
        if len(self.columns) == len(self.model.model_fields):
            return True
        try:
            nw.from_native(pl.LazyFrame(schema=self.dtypes)).select(rule).collect_schema()
        except ColumnNotFoundError:
            return False
        return True


@lru_cache
def schema_of(table: type[Table]) -> Schema:
    """The schema that a table's class declares.

    Raises:
        BadInput: A column has a type that the lake does not store, or a limit that rows are not held to.
    """
    return Schema(table, tuple(_column(name, field) for name, field in table.model_fields.items()))


def _column(name: str, field: FieldInfo) -> Column:
    union = get_origin(field.annotation) in {Union, UnionType}
    kinds = set(get_args(field.annotation)) if union else {field.annotation}
    kind = next((kind for kind in DTYPES if kinds - {NoneType} == {kind}), None)
    if kind is None:
        known = ", ".join(kind.__name__ for kind in DTYPES)
        raise BadInput(f"column {name} of shared/contract.py is of {field.annotation}: it must be of one of {known}")
    if other := [limit for limit in field.metadata if not isinstance(limit, MEANT)]:
        held = "rows are held to gt, ge, lt, le, Category and the rules of their table"
        raise BadInput(f"column {name} of shared/contract.py has {other[0]}, which no row is held to: {held}")
    return Column(name, kind, NoneType in kinds, field)


def task_of(column: Column) -> Task:
    """The task that a target's type asks for: bool is binary, str multiclass, a number regression."""
    if column.kind is bool:
        return Task.BINARY
    return Task.MULTICLASS if column.kind is str else Task.REGRESSION
