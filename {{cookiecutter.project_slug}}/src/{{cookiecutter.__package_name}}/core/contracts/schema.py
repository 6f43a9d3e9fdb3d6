"""Tables, the roles of their columns, and the expressions derived from them.

The tables of the problem are in `shared/contract.py`, the validation of batches in `validation`.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from inspect import get_annotations
from types import NoneType, UnionType
from typing import Any, ClassVar, TypeVar, Union, get_args, get_origin

import annotated_types as at
import narwhals as nw
import polars as pl
from narwhals.exceptions import ColumnNotFoundError
from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo

from {{cookiecutter.__package_name}}.core.errors import InputError

Frame = nw.LazyFrame[Any]

PREDICTED_AT = "_predicted_at"  # time of prediction: features use no data that became available later
AVAILABLE_AT = "_available_at"  # time at which the label became available
TARGET = "_target"  # the label
INGESTED_AT = "_ingested_at"  # time of ingestion
BATCH = "_batch"  # id of the batch
CONTRACT = "_contract"  # version of the contract


class Role:
    """What a column is for."""


@dataclass(frozen=True)
class Key(Role):
    """Part of the unique key of a row."""


@dataclass(frozen=True)
class EventTime(Role):
    """The time of the row's event; predictions are made `lead` before it."""

    lead: timedelta = timedelta(0)


@dataclass(frozen=True)
class AvailableAt(Role):
    """The time at which the row became available.

    Default: the event time minus the lead, or else the time of ingestion.
    """


@dataclass(frozen=True)
class Target(Role):
    """The column that is predicted.

    Attributes:
        positive: The word for true of a binary target, in answers and reports.
        negative: The word for false.
    """

    positive: str = ""
    negative: str = ""

    @property
    def words(self) -> tuple[str, ...]:
        """The words for true and false; empty if they are none of its own."""
        return (self.positive, self.negative) if self.positive and self.negative else ()


@dataclass(frozen=True)
class Personal(Role):
    """Personal data: never used in features, logs or reports."""


@dataclass(frozen=True)
class Excluded(Role):
    """Excluded from features, with the reason."""

    reason: str


@dataclass(frozen=True)
class Category:
    """One of these values. If it is `open`, some rows of a batch may have new values."""

    values: tuple[str, ...]
    open: bool = False


@dataclass(frozen=True)
class Nulls:
    """The maximum share of missing values in a batch."""

    at_most: float


R = TypeVar("R")
SUPPORTED_METADATA = (at.Gt, at.Ge, at.Lt, at.Le, Role, Category, Nulls)


class Table(BaseModel):
    """A table of the contract: a subclass has one annotated field per column.

    Attributes:
        table: Its name.
        version: Version of the contract, recorded with each row; increase it when columns change.
        rules: Conditions across columns, by name.
        max_span: Maximum time span of a batch. None: no limit.
        min_volume: Minimum number of rows as a share of the fullest of the weeks before. None: no limit.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    table: ClassVar[str]
    version: ClassVar[int] = 1
    rules: ClassVar[Mapping[str, nw.Expr]] = {}
    max_span: ClassVar[timedelta | None] = None
    min_volume: ClassVar[float | None] = None

    def __init_subclass__(cls, **options: Any) -> None:  # noqa: ANN401 - of pydantic
        """Refuse names of columns that would shadow the attributes of a table.

        Raises:
            InputError: A column has such a name.
        """
        super().__init_subclass__(**options)
        columns = [name for name, kind in get_annotations(cls).items() if "ClassVar" not in str(kind)]
        if wrong := [name for name in columns if name.startswith("_") or hasattr(Table, name)]:
            what = f"a column of {cls.__name__} can't be called {wrong[0]}, a name that pydantic or Table uses"
            raise InputError(f"{what}: choose another, and rename the column where its files are read")


class Task(StrEnum):
    """The task that follows from the type of the target."""

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
        """The role of this class, or None."""
        return next((found for found in self.field.metadata if isinstance(found, role)), None)

    @property
    def dtype(self) -> pl.DataType:
        """The type in the lake; datetimes are in UTC with microseconds."""
        return DTYPES[self.kind]

    def conditions(self) -> dict[str, nw.Expr]:
        """The conditions on each value, by name; a condition is null for a null value."""
        value = nw.col(self.name)
        found: dict[str, nw.Expr] = {}
        if not self.optional:
            found[f"{self.name} is not null"] = ~value.is_null()
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
                case Category(values=values, open=False):
                    found[f"{self.name} is a known category"] = value.is_in(values)
        if self.kind is float:
            found[f"{self.name} is finite"] = value.is_finite()
        return found


@dataclass(frozen=True)
class Schema:
    """The columns, roles and rules of a table."""

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

    def columns_with_role(self, role: type[object]) -> list[str]:
        """The names of the columns with a role of this class."""
        return [column.name for column in self.columns if column.role(role) is not None]

    @property
    def excluded_columns(self) -> list[str]:
        """The columns that features can't use: personal or excluded, unless they are part of the key."""
        return [
            name
            for name in {*self.columns_with_role(Personal), *self.columns_with_role(Excluded)}
            if name not in self.key
        ]

    def column_with_role(self, role: type[object]) -> str | None:
        """The name of the column with a role of this class, or None."""
        return next(iter(self.columns_with_role(role)), None)

    def column(self, name: str) -> Column:
        """The column of this name."""
        return next(column for column in self.columns if column.name == name)

    @property
    def key(self) -> list[str]:
        """The columns of the key; empty if rows have no key."""
        return self.columns_with_role(Key)

    @property
    def event_time(self) -> str | None:
        """The column of the event time, or None."""
        return self.column_with_role(EventTime)

    @property
    def lead(self) -> timedelta:
        """How long before its event a row is predicted."""
        role = self.column(self.event_time).role(EventTime) if self.event_time else None
        return role.lead if role else timedelta(0)

    @property
    def time(self) -> str | None:
        """The time column of a batch: the available-at time, or the event time."""
        return self.column_with_role(AvailableAt) or self.event_time

    @property
    def available_at(self) -> nw.Expr:
        """The time at which a row became available: as declared, or its time of prediction."""
        declared = self.column_with_role(AvailableAt)
        return nw.col(declared) if declared else self.predicted_at

    @property
    def predicted_at(self) -> nw.Expr:
        """The time of prediction: `lead` before the event, or the time of ingestion without an event time."""
        return nw.col(self.event_time) - self.lead if self.event_time else nw.col(INGESTED_AT)

    @property
    def loggable(self) -> "Schema":
        """The schema without personal and excluded columns: the columns that may be logged and reported."""
        return self.without({*self.excluded_columns, *self.columns_with_role(Personal)})

    @property
    def outcome_columns(self) -> list[str]:
        """The target, and the time at which it becomes available; empty if the target is in another table."""
        return [*self.columns_with_role(Target), *self.columns_with_role(AvailableAt)] if self.target else []

    @property
    def request(self) -> "Schema":
        """The schema of a prediction request: without the target, and without the time at which it becomes available.

        Columns that features can't use are optional.
        """
        columns, excluded = self.without(self.outcome_columns).columns, self.excluded_columns
        return Schema(self.model, tuple(replace(c, optional=c.optional or c.name in excluded) for c in columns))

    def without(self, names: Container[str]) -> "Schema":
        """The schema without some columns, and without the rules that need them."""
        return Schema(self.model, tuple(column for column in self.columns if column.name not in names))

    @property
    def target(self) -> str | None:
        """The column of the label, or None."""
        return self.column_with_role(Target)

    @property
    def labelled_later(self) -> str | None:
        """The target if a row may come again with its label, or None."""
        return self.target if self.key and self.target and self.column(self.target).optional else None

    def conditions(self) -> dict[str, nw.Expr]:
        """All conditions on a row, by name: those of its columns, then the rules across columns."""
        found: dict[str, nw.Expr] = {}
        for column in self.columns:
            found |= column.conditions()
        return found | {name: rule for name, rule in self.model.rules.items() if self._has_columns_of(rule)}

    def _has_columns_of(self, rule: nw.Expr) -> bool:
        """Whether the columns of a rule are present."""
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
        InputError: A column has an unsupported type or limit.
    """
    return Schema(table, tuple(_column(name, field) for name, field in table.model_fields.items()))


def _column(name: str, field: FieldInfo) -> Column:
    union = get_origin(field.annotation) in {Union, UnionType}
    kinds = set(get_args(field.annotation)) if union else {field.annotation}
    kind = next((kind for kind in DTYPES if kinds - {NoneType} == {kind}), None)
    if kind is None:
        known = ", ".join(kind.__name__ for kind in DTYPES)
        raise InputError(f"column {name} of shared/contract.py is of {field.annotation}: use one of {known}")
    if other := [limit for limit in field.metadata if not isinstance(limit, SUPPORTED_METADATA)]:
        supported = "use gt, ge, lt, le, Category and the rules of the table"
        raise InputError(f"column {name} of shared/contract.py has {other[0]}, which is not supported: {supported}")
    return Column(name, kind, NoneType in kinds, field)


def task_of(column: Column) -> Task:
    """The task of a target: binary for bool, multiclass for str, regression for numbers."""
    if column.kind is bool:
        return Task.BINARY
    return Task.MULTICLASS if column.kind is str else Task.REGRESSION
