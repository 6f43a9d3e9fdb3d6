"""Request models derived from the contract, in two layouts: rows or columns."""

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, ClassVar, Literal, Self

import annotated_types as at
import polars as pl
from polars.exceptions import PolarsError
from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    Strict,
    create_model,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from {{cookiecutter.__package_name}}.core.contracts.schema import Category, Column, Table, schema_of

EPOCH, MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
ROW = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def _iso_text(value: Any) -> Any:  # noqa: ANN401 - whatever JSON has
    """A date or time in ISO 8601; pydantic would accept seconds since 1970 too."""
    if isinstance(value, date) or (isinstance(value, str) and re.match(r"\d{4}-", value)):
        return value
    raise PydanticCustomError("iso", "Input should be text like 2024-12-31 or 2024-12-31T23:59:00Z")


def _blank_as_missing(value: Any) -> Any:  # noqa: ANN401 - whatever JSON has
    """Text that is empty or white space is a missing value, as in files."""
    return None if isinstance(value, str) and not value.strip() else value


BLANK_AS_MISSING = BeforeValidator(_blank_as_missing)
JSON_TYPES: dict[type, Any] = {  # strict mode accepts no text once a validator in Python has seen it
    kind: Annotated[json_type, BeforeValidator(_iso_text), Strict(strict=False)]
    for kind, json_type in ((date, date), (datetime, AwareDatetime))
}


def row_model(table: type[Table]) -> type[BaseModel]:
    """The model of one raw row: the table's columns without the target.

    Personal and excluded columns are optional.
    """
    fields: dict[str, Any] = {column.name: _field(column) for column in schema_of(table).request.columns}
    return create_model(f"{table.__name__}Request", __config__=ROW, __doc__=table.__doc__, **fields)


def features_model(text_features: Mapping[str, bool]) -> type[BaseModel]:
    """The model of one row of features: text or numbers, all optional."""
    kinds: dict[bool, Any] = {True: Annotated[str | None, BLANK_AS_MISSING], False: float | None}
    fields: dict[str, Any] = {name: (kinds[text], None) for name, text in text_features.items()}
    return create_model("Features", __config__=ROW, __doc__="A row of features.", **fields)


def _field(column: Column) -> tuple[Any, Any]:
    default: Any = None if column.optional else ...
    return _json_type(column), Field(default, description=column.field.description, examples=column.field.examples)


def _json_type(column: Column) -> Any:  # noqa: ANN401 - a type
    """The type of a column in JSON; integers have 64 bits, as in the lake."""
    category = column.role(Category)
    kind: Any = JSON_TYPES.get(column.kind, column.kind)
    if category and not category.open:
        kind = Literal[category.values]
    limits = [limit for limit in column.field.metadata if isinstance(limit, at.Gt | at.Ge | at.Lt | at.Le)]
    if column.kind is int:
        limits += [at.Ge(-(2**63)), at.Le(2**63 - 1)]
    if kind is str and not column.optional:
        limits.append(Field(pattern=r"\S"))
    limited = Annotated[kind, *limits] if limits else kind
    if not column.optional:
        return limited
    return Annotated[limited | None, BLANK_AS_MISSING] if column.kind is str else limited | None


class Columns(BaseModel):
    """The values of all rows, column by column."""

    model_config = ConfigDict(**ROW, json_schema_extra={"minProperties": 1})

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        lengths = {name: len(values) for name, values in self if values is not None}
        if len(set(lengths.values())) != 1:
            raise PydanticCustomError("length", "columns have one length, not {lengths}", {"lengths": str(lengths)})
        return self


def _describe_layouts(schema: dict[str, Any]) -> None:
    schema["oneOf"] = [{"required": [layout]} for layout in schema["properties"]]
    for layout in schema["properties"].values():
        layout.pop("default")


class ParsedRequest(BaseModel):
    """Rows in one of two layouts; `request_model` makes the class for rows of one kind."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_describe_layouts)

    translate: ClassVar[Callable[[pl.DataFrame], pl.DataFrame] | None] = None

    rows: Any = None
    columns: Any = None

    @model_validator(mode="before")
    @classmethod
    def _in_words_of_the_contract(cls, body: Any) -> Any:  # noqa: ANN401 - whatever JSON has
        if not cls.translate or not isinstance(body, dict):
            return body
        try:
            if body.get("rows"):
                found = cls.translate(pl.DataFrame(body["rows"], strict=False, infer_schema_length=None))
                return body | {"rows": found.to_dicts()}
            found = cls.translate(pl.DataFrame(body["columns"], strict=False))
            return body | {"columns": found.to_dict(as_series=False)}
        except (PolarsError, AttributeError, KeyError, TypeError, ValueError):  # validation names what is wrong
            return body

    @model_validator(mode="after")
    def _one_layout(self) -> Self:
        if (self.rows is None) == (self.columns is None):
            raise PydanticCustomError("layout", "give either rows or columns")
        return self

    @property
    def layout(self) -> Literal["rows", "columns"]:
        """The layout of the request and its response."""
        return "columns" if self.rows is None else "rows"

    @property
    def height(self) -> int:
        """The number of rows."""
        if self.rows is None:
            return next(len(values) for _, values in self.columns if values is not None)
        return len(self.rows)

    def values(self, name: str) -> list[Any]:
        """The values of one column."""
        if self.rows is None:
            values: list[Any] | None = getattr(self.columns, name)
            return [None] * self.height if values is None else values
        return [getattr(row, name) for row in self.rows]


def request_model(
    row: type[BaseModel], *, max_rows: int, translate: Callable[[pl.DataFrame], pl.DataFrame] | None = None
) -> type[ParsedRequest]:
    """The model of the request body; validation stops at the first invalid value of a list.

    Args:
        row: The model of a row.
        max_rows: The maximum number of rows.
        translate: Translates rows into those of the contract before they are validated.
    """

    def list_of(kind: Any) -> Any:  # noqa: ANN401 - types
        return Annotated[list[kind], FailFast(), Field(min_length=1, max_length=max_rows)]

    lists: dict[str, Any] = {
        name: (list_of(_type_of(field)), ... if field.is_required() else None)
        for name, field in row.model_fields.items()
    }
    columns = create_model(f"{row.__name__}Columns", __base__=Columns, __doc__=row.__doc__, **lists)
    layouts: dict[str, Any] = {"rows": (list_of(row), None), "columns": (columns, None)}
    body = create_model(f"{row.__name__}Body", __base__=ParsedRequest, **layouts)
    body.translate = staticmethod(translate) if translate else None
    return body


def _type_of(field: FieldInfo) -> Any:  # noqa: ANN401 - a type
    """The declared type of a field, including its limits."""
    kind: Any = field.annotation
    return Annotated[kind, *field.metadata] if field.metadata else kind


def to_frame(requests: Iterable[ParsedRequest], dtypes: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """The concatenated rows of several requests."""
    requests = list(requests)
    return pl.DataFrame(
        [
            _series(name, [value for request in requests for value in request.values(name)], dtype)
            for name, dtype in dtypes.items()
        ]
    )


def _series(name: str, values: list[Any], dtype: pl.DataType) -> pl.Series:
    """A column; times are converted to UTC, since each may have its own time zone."""
    if isinstance(dtype, pl.Datetime):
        since = [None if value is None else (value - EPOCH) // MICROSECOND for value in values]
        return pl.Series(name, since, dtype=pl.Int64).cast(dtype)
    return pl.Series(name, values, dtype=dtype)
