"""Translation of a source's rows into those of a contract: names, missing values, numbers, words and dates."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime

import polars as pl

from {{cookiecutter.__package_name}}.core.contracts.schema import Column, Table, Target, schema_of

EPOCH = "epoch"  # a format: seconds since 1970
PARTIAL = {"%Y": "-01-01", "%Y-%m": "-01"}  # formats without a day, and what completes them


@dataclass(frozen=True, kw_only=True)
class Translation:
    """What a source writes differently from the contract of a table.

    Rows in the words of the contract are unchanged. A value that can't be translated stays as it is: the contract
    rejects it.

    Attributes:
        table: The table.
        names: The column of the contract for each column of the source that has another name.
        dropped: Columns of the source that the contract lacks.
        missing: Texts that stand for a missing value, besides the empty one.
        decimal: The decimal mark of numbers in text.
        thousands: The separator of thousands of numbers in text.
        dates: The formats of a column's dates and times that are not written as 2024-05-31 or 2024-05-31T23:59:
            those of strptime, `%Y` and `%Y-%m` for the beginning of a year or month, `epoch` for seconds since 1970.
        words: The words for true and false in a column; those of the target are in the contract.
    """

    table: type[Table]
    names: Mapping[str, str] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    decimal: str = "."
    thousands: str = ""
    dates: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    words: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The rows in the words of the contract; columns that are missing or unknown stay so."""
        schema = schema_of(self.table)
        if set(rows.columns) - set(schema.names):
            rows = rows.drop(self.dropped, strict=False).rename(dict(self.names), strict=False)
        return rows.with_columns(
            self._translated(rows[column.name], column) for column in schema.columns if column.name in rows.columns
        )

    def _translated(self, values: pl.Series, column: Column) -> pl.Series:
        """The values in the type of a column, or as they are if one has no such type."""
        if values.dtype.is_float():
            values = values.set(~values.is_finite(), None)
        if isinstance(values.dtype, pl.String | pl.Categorical | pl.Enum):
            values = values.cast(pl.String).str.strip_chars()
            values = values.set(values.is_in(["", *self.missing]), None)
        typed = self._typed(values, column)
        return values if typed.null_count() > values.null_count() else typed

    def _typed(self, values: pl.Series, column: Column) -> pl.Series:
        if column.kind is bool:
            target = column.role(Target)
            yes, no = self.words.get(column.name) or (target and target.words) or ("true", "false")
            return values.cast(pl.String).replace_strict({yes: True, no: False}, default=None, return_dtype=pl.Boolean)
        if column.kind in {date, datetime}:
            times = parse_times(values, self.dates.get(column.name, ()))
            return times.dt.date() if column.kind is date else times
        if column.kind is str:
            whole = values.cast(pl.Int64, strict=False) if values.dtype.is_float() else values
            return (whole if (whole == values).all() else values).cast(pl.String)
        if values.dtype == pl.String:
            values = plain_numbers(values, self.decimal, self.thousands)
        typed = values.cast(column.dtype, strict=False)
        return typed if values.dtype == pl.String or (typed == values).all() else values


def plain_numbers(values: pl.Series, decimal: str, thousands: str) -> pl.Series:
    """Numbers in text as Python writes them, without signs of currencies and percent."""
    values = values.str.strip_chars("$€£¥% ")
    values = values.str.replace_all(thousands, "", literal=True) if thousands else values
    return values.str.replace(decimal, ".", literal=True)


def parse_times(values: pl.Series, formats: tuple[str, ...]) -> pl.Series:
    """Dates and times as times in UTC, by the first format that fits; null where none does. A naive time is UTC."""
    in_utc = pl.Datetime("us", "UTC")
    if values.dtype.is_temporal():
        aware = isinstance(values.dtype, pl.Datetime) and values.dtype.time_zone
        return values.cast(in_utc) if aware else values.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    if values.dtype.is_numeric():
        values = values.cast(pl.Int64, strict=False)
    text, found = values.cast(pl.String), pl.Series(values.name, [None] * len(values), dtype=in_utc)
    for form in formats or ("",):
        found = found.zip_with(found.is_not_null(), _parsed(text, form))
    return found


def _parsed(text: pl.Series, form: str) -> pl.Series:
    if form == EPOCH:
        return (text.cast(pl.Int64, strict=False) * 1_000_000).cast(pl.Datetime("us", "UTC"))
    if form in PARTIAL:
        return _parsed(text + PARTIAL[form], "%Y-%m-%d")
    dated = text.set(~text.str.contains(r"^\d{4}-"), None) if not form else text  # 04/03 is ambiguous
    return dated.str.to_datetime(form or None, time_unit="us", time_zone="UTC", strict=False)
