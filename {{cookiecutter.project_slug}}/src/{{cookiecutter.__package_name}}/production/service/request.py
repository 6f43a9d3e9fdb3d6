"""What a request may say: rows or columns as JSON, held against their types before anything is computed."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import chain
from typing import Annotated, Any
from urllib.parse import parse_qsl

import polars as pl
from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic_core import from_json

EPOCH, MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
SHOWN = 1000  # errors of one request: to list a million takes longer than to find them

Error = dict[str, Any]  # where, what and of which kind, as pydantic says it


class Layout(StrEnum):
    """How a request has its values, and its answer too."""

    ROWS = "rows"
    COLUMNS = "columns"


class Unfit(Exception):
    """A request that is not understood, with its errors."""

    def __init__(self, errors: list[Error]) -> None:
        super().__init__("; ".join(error["msg"] for error in errors))
        self.errors = errors


@dataclass(frozen=True)
class Asked:
    """A request that is understood: its values by column, all of one length."""

    layout: Layout
    columns: dict[str, list[Any]]
    height: int


class Reader:
    """Reads requests for rows of one kind.

    Args:
        row: The model of one row.
        dtypes: The types of its columns in a frame.
        most: So many rows at most.
    """

    def __init__(self, row: type[BaseModel], dtypes: Mapping[str, pl.DataType], *, most: int) -> None:
        self.row, self.dtypes, self.most = row, dict(dtypes), most
        lists: dict[str, Any] = {
            name: (_list_of(_kind(field), most), ... if field.is_required() else None)
            for name, field in row.model_fields.items()
        }
        self.columns = create_model(f"{row.__name__}Columns", __config__=row.model_config, **lists)
        layouts: dict[str, Any] = {Layout.ROWS: (_list_of(row, most), None), Layout.COLUMNS: (self.columns, None)}
        self._body = create_model(f"{row.__name__}Body", __config__=ConfigDict(extra="forbid"), **layouts)

    def read(self, body: bytes) -> Asked:
        """A request's values.

        Raises:
            Unfit: It is no JSON, has other fields, or a value that its column can't have.
        """
        try:
            # Not by `model_validate_json`: there each error makes its input anew, and many of a large one take minutes.
            said = self._body.model_validate(from_json(body))
        except ValidationError as error:
            raise Unfit(list(_errors(error))) from error
        except ValueError as error:
            raise Unfit([_error(f"no JSON: {error}", "json_invalid")]) from error
        rows, columns = getattr(said, Layout.ROWS), getattr(said, Layout.COLUMNS)
        if (rows is None) == (columns is None):
            raise Unfit([_error("give either rows or columns", "layout")])
        if rows is not None:
            return Asked(Layout.ROWS, {name: [getattr(row, name) for row in rows] for name in self.dtypes}, len(rows))
        given = {name: values for name in self.dtypes if (values := getattr(columns, name)) is not None}
        heights = {name: len(values) for name, values in given.items()}
        height = max(heights.values(), default=0)
        if set(heights.values()) != {height}:
            raise Unfit([_error(f"columns have one length, not {heights}", "length", Layout.COLUMNS)])
        missing = {name: [None] * height for name in self.dtypes.keys() - given.keys()}
        return Asked(Layout.COLUMNS, given | missing, height)

    def frame(self, asked: Iterable[Asked]) -> pl.DataFrame:
        """The rows of several requests, one after the other."""
        asked = list(asked)
        return pl.DataFrame(
            [
                _series(name, list(chain.from_iterable(one.columns[name] for one in asked)), dtype)
                for name, dtype in self.dtypes.items()
            ]
        )

    def schema(self) -> dict[str, Any]:
        """Both layouts as JSON Schema."""
        rows = {"type": "array", "items": self.row.model_json_schema(), "minItems": 1, "maxItems": self.most}
        return {
            "oneOf": [
                _only(Layout.ROWS, rows),
                _only(Layout.COLUMNS, self.columns.model_json_schema() | {"minProperties": 1}),
            ]
        }


def read_flag(query: bytes) -> bool:
    """Whether a query asks for the features.

    Raises:
        Unfit: It asks for something else.
    """
    if not query:
        return False
    try:
        return _Query.model_validate(dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))).features
    except ValidationError as error:
        raise Unfit([{**found, "loc": ["query", *found["loc"][1:]]} for found in _errors(error)]) from error


class _Query(BaseModel):
    """What may stand behind the path; the rest is ignored."""

    features: bool = False


def features_model(features: Mapping[str, bool]) -> type[BaseModel]:
    """The model of a row of ready features: text where true, else a number; any may be missing."""
    fields: dict[str, Any] = {name: (str | None if text else float | None, None) for name, text in features.items()}
    config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    return create_model("Features", __config__=config, **fields)


def _kind(field: FieldInfo) -> Any:  # noqa: ANN401 - a type
    kind: Any = field.annotation
    return Annotated[kind, *field.metadata] if field.metadata else kind


def _list_of(kind: Any, most: int) -> Any:  # noqa: ANN401 - types
    """So many at most; the first that is wrong is reason enough."""
    return Annotated[list[kind], FailFast(), Field(min_length=1, max_length=most)]


def _only(layout: Layout, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "title": layout.value,
        "type": "object",
        "properties": {layout.value: schema},
        "required": [layout.value],
        "additionalProperties": False,
    }


def _series(name: str, values: list[Any], dtype: pl.DataType) -> pl.Series:
    """Values of JSON as a column; times by their microseconds, since each may have a zone of its own."""
    if isinstance(dtype, pl.Datetime):
        since = [None if value is None else (value - EPOCH) // MICROSECOND for value in values]
        return pl.Series(name, since, dtype=pl.Int64).cast(dtype)
    return pl.Series(name, values, dtype=dtype)


def _errors(error: ValidationError) -> Iterator[Error]:
    """The errors without the values, which could be personal."""
    if (count := error.error_count()) > SHOWN:
        yield _error(f"{count} errors, too many to list", "too_many")
        return
    for found in error.errors(include_url=False, include_context=False, include_input=False):
        yield _error(found["msg"], found["type"], *found["loc"])


def _error(message: str, kind: str, *where: str | int) -> Error:
    return {"loc": ["body", *where], "msg": message, "type": kind}
