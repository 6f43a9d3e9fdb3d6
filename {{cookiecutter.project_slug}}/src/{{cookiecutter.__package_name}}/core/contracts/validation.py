"""Validation of batches against their contract. Pure functions over frames.

A batch with wrong columns or types, with too many invalid rows, or with anomalies is rejected as a whole. Otherwise
only its invalid rows are quarantined, each with the rules that it violates.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import TypeVar

import narwhals as nw
import polars as pl
import polars.selectors as cs

from {{cookiecutter.__package_name}}.core.contracts.anomalies import (
    MIN_ROWS,
    batch_anomalies,
    constant_target,
    orphan_labels,
)
from {{cookiecutter.__package_name}}.core.contracts.schema import (
    PREDICTED_AT,
    AvailableAt,
    Category,
    Column,
    Nulls,
    Schema,
)
from {{cookiecutter.__package_name}}.core.errors import InputError

VIOLATIONS = "_violations"  # column of the rules that a row violates
UNIQUE = "key is unique"
SEPARATOR = re.compile(r"(?<!\\)/")  # separates the values of a key; an escaped slash is part of a value
LIMITS: Mapping[type[pl.DataType], tuple[date, date]] = {  # of Python
    pl.Date: (date.min, date.max),
    pl.Datetime: (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)),
}
MAX_INVALID = 0.01  # maximum share of invalid rows in a batch
MAX_NEW_CATEGORIES = 0.05  # maximum share of rows with a new category

PolarsFrame = TypeVar("PolarsFrame", pl.DataFrame, pl.LazyFrame)


class ContractViolation(Exception):
    """The batch as a whole is rejected, for these reasons."""

    def __init__(self, *reasons: str) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


@dataclass(frozen=True)
class Context:
    """The stored rows that a batch is compared with.

    Attributes:
        stored: The table's rows that may share a key with the batch.
        days: The table's rows of the batch's days, then of the same days a week before, two weeks before, and so on.
        entities: For a separate table of labels: the keys of the stored entity rows that the batch labels,
            and their time of prediction in `_predicted_at`. None for other tables.
        entity_table: The name of the entity table.
        erased: The keys of erased rows.
    """

    stored: pl.DataFrame
    days: Sequence[pl.DataFrame] = ()
    entities: pl.DataFrame | None = None
    entity_table: str = ""
    erased: pl.DataFrame = field(default_factory=pl.DataFrame)


@dataclass(frozen=True)
class BatchReport:
    """The result of validating a batch.

    Attributes:
        valid: New rows that violate no rule.
        invalid: Rows that violate a rule, with the names of these rules in the column `VIOLATIONS`.
        duplicates: The number of rows that are already stored or repeat another row of the batch.
        rejected: The reasons to reject the whole batch; if there are any, no row may be appended.
        warnings: Warnings about an accepted batch.
    """

    valid: pl.DataFrame = field(default_factory=pl.DataFrame)
    invalid: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema={VIOLATIONS: pl.List(pl.String)}))
    duplicates: int = 0
    rejected: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """The number of rows that violate each rule."""
        violated = self.invalid.get_column(VIOLATIONS).explode().drop_nulls()
        return {str(rule): int(n) for rule, n in sorted(violated.value_counts().iter_rows())}


def validate(batch: pl.DataFrame, schema: Schema, *, context: Context, now: datetime | None = None) -> BatchReport:
    """Split a batch into valid and invalid rows, or reject it as a whole.

    Args:
        batch: Rows that conform to the schema.
        schema: The table's schema.
        context: What the batch is compared with.
        now: When the batch arrived; None skips the check for times in the future.
    """
    rows = drop_rows(batch, context.erased)
    if rows.is_empty():
        return BatchReport(rows, warnings=("all of its rows were erased",))
    fresh = _without_duplicates(rows, schema, context.stored)
    checked = _check_keys(with_violations(fresh, schema), schema, context.stored)
    checked = _check_times(checked, schema, context.entities, now)
    is_valid = pl.col(VIOLATIONS).list.len() == 0
    valid, invalid = checked.filter(is_valid).drop(VIOLATIONS), checked.filter(~is_valid)
    orphans = () if context.entities is None else orphan_labels(valid, context.entities, context.entity_table)
    return BatchReport(
        valid=valid,
        invalid=invalid,
        duplicates=len(rows) - len(fresh),
        rejected=(*_excesses(rows, schema, len(invalid)), *batch_anomalies(fresh, schema, context.days)),
        warnings=(*_new_categories(rows, schema), *constant_target(fresh, schema, context.days), *orphans),
    )


def conform(batch: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    """The batch with the contract's columns in their order and types.

    Numbers may have another width, and times another resolution. Naive times are taken as UTC. Text in
    a column of any other type is a violation. Text that is empty or white space is a missing value.

    Raises:
        ContractViolation: A column is missing, unknown or of another type, or the batch is empty.
    """
    missing = [name for name in schema.names if name not in batch.columns]
    unknown = [name for name in batch.columns if name not in schema.names]
    reasons = [f"column {name} is missing" for name in missing] + [_unknown(name) for name in unknown]
    if batch.is_empty():
        reasons.append("it has no rows")
    wrong = [column for column in schema.columns if column.name in batch.columns and not _fits(batch, column)]
    reasons += [f"column {column.name} is {batch[column.name].dtype}, not {column.dtype}" for column in wrong]
    if reasons:
        raise ContractViolation(*reasons)
    batch = without_blanks(batch)
    rows = batch.select(_cast(batch, column) for column in schema.columns)
    lost = [name for name in schema.names if _is_lost(batch[name], rows[name])]
    if lost:
        raise ContractViolation(*(f"column {name} has values too large for {schema.dtypes[name]}" for name in lost))
    return rows


def _is_lost(values: pl.Series, cast: pl.Series) -> bool:
    limits = LIMITS.get(cast.dtype.base_type())
    return cast.null_count() > values.null_count() or (limits is not None and not cast.is_between(*limits).all())


def _unknown(name: str) -> str:
    """Why a column is not in the contract."""
    if name.startswith(("Unnamed: ", "__index_level_")):
        return f"column {name} is an index of pandas: write the file with index=False"
    twice = re.fullmatch(r"(.*)_duplicated_\d+", name)  # by Polars
    return f"column {twice[1]} occurs more than once" if twice else f"column {name} is unknown"


def without_blanks(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows with null in place of text that is empty or white space; categories are text."""
    text = cs.string() | cs.categorical() | cs.enum()
    return rows.with_columns(text.cast(pl.String)).with_columns(
        pl.when(pl.col(name).str.contains(r"\S")).then(pl.col(name)).alias(name) for name in rows.select(text).columns
    )


def _fits(batch: pl.DataFrame, column: Column) -> bool:
    stored = batch.schema[column.name]
    if stored == pl.Null:
        return column.optional
    if column.dtype.is_float():
        return stored.is_numeric()
    if column.dtype.is_integer():
        return stored.is_integer()
    if isinstance(stored, pl.Categorical | pl.Enum):
        return column.dtype == pl.String
    return stored.base_type() == column.dtype.base_type()


def _cast(batch: pl.DataFrame, column: Column) -> pl.Expr:
    stored = batch.schema[column.name]
    value = pl.col(column.name)
    if isinstance(stored, pl.Datetime) and stored.time_zone is None:
        value = value.dt.replace_time_zone("UTC")
    return value.cast(column.dtype, strict=False)


def parse(batch: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    """Convert text columns, as read from CSV, to the contract's types; a blank cell is a missing value.

    Raises:
        ContractViolation: A value can't be read as its column's type.
    """
    batch = without_blanks(batch)
    texts = batch.select(cs.string()).columns
    typed = batch.with_columns(from_text(column) for column in schema.columns if column.name in texts)
    reasons = []
    for name in set(typed.columns) & set(schema.names):
        unread = batch.filter(batch[name].is_not_null() & typed[name].is_null())[name]
        if len(unread):
            reasons.append(
                f"column {name} has {len(unread)} values that are no {schema.column(name).kind.__name__}, "
                f"as {unread[0]!r}"
            )
    if reasons:
        raise ContractViolation(*sorted(reasons))
    return typed


def from_text(column: Column) -> pl.Expr:
    """An expression that parses a text column into its contract type; null if the text can't be parsed."""
    value = pl.col(column.name)
    dated = pl.when(value.str.contains(r"^\d{4}-")).then(value)  # 04/03 is ambiguous
    if column.kind is bool:
        return value.str.to_lowercase().replace_strict(
            {"true": True, "1": True, "false": False, "0": False}, default=None, return_dtype=pl.Boolean
        )
    if isinstance(column.dtype, pl.Datetime):
        return dated.str.to_datetime(time_unit="us", time_zone="UTC", strict=False)
    if column.kind is date:
        return dated.str.to_date(strict=False)
    return value.cast(column.dtype, strict=False)


def parse_keys(schema: Schema, keys: Sequence[str]) -> pl.DataFrame:
    r"""Parse keys, whose values are joined by `/`, into a frame of the key's columns.

    In a key of several columns, a `/` within a value is written `\/`.

    Raises:
        InputError: The table has no key, the number of values differs, or a value has the wrong type.
    """
    if not schema.key:
        raise InputError(f"rows of {schema.name} have no key: mark a column of shared/contract.py as Key() to name one")
    one = len(schema.key) == 1
    values = [[key] if one else [part.replace(r"\/", "/") for part in SEPARATOR.split(key)] for key in keys]
    if wrong := [key for key, parts in zip(keys, values, strict=True) if len(parts) != len(schema.key)]:
        raise InputError(f"the key of {schema.name} is {'/'.join(schema.key)}, not {wrong[0]!r}")
    try:
        return parse(pl.DataFrame(values, schema=dict.fromkeys(schema.key, pl.String), orient="row"), schema)
    except ContractViolation as violation:
        raise InputError(f"{schema.name} has no row with such a key: {violation}") from violation


def with_violations(rows: PolarsFrame, schema: Schema) -> PolarsFrame:
    """The conforming rows, with the names of the rules that each violates in the column `VIOLATIONS`."""
    rules = {f"{VIOLATIONS} {name}": (name, condition) for name, condition in schema.conditions().items()}
    checked: PolarsFrame = (
        nw.from_native(rows)
        .with_columns(condition.fill_null(value=True).alias(column) for column, (_, condition) in rules.items())
        .to_native()
    )
    names = (pl.when(~pl.col(column)).then(pl.lit(name)) for column, (name, _) in rules.items())
    violated = pl.concat_list(pl.lit(None, pl.String), *names).list.drop_nulls()
    return checked.with_columns(violated.alias(VIOLATIONS)).drop(list(rules))


def drop_rows(rows: pl.DataFrame, keys: pl.DataFrame) -> pl.DataFrame:
    """The rows that have none of these keys; all rows if a key column is missing."""
    if keys.is_empty() or not set(keys.columns) <= set(rows.columns):
        return rows
    return rows.join(keys, on=keys.columns, how="anti", maintain_order="left")


def _without_duplicates(rows: pl.DataFrame, schema: Schema, stored: pl.DataFrame) -> pl.DataFrame:
    if not schema.key:
        return rows
    fresh = rows.unique(maintain_order=True)
    if schema.labelled_later:  # a row that has its label by now may come again without it
        unlabelled = (pl.lit(None, schema.dtypes[name]).alias(name) for name in schema.outcome_columns)
        stored = pl.concat([stored, stored.with_columns(unlabelled)], how="diagonal")
    return fresh.join(stored.select(schema.names), on=schema.names, how="anti", nulls_equal=True)


def _check_keys(rows: pl.DataFrame, schema: Schema, stored: pl.DataFrame) -> pl.DataFrame:
    """Add a violation to checked rows whose key occurs again in the batch, or in the lake."""
    if not schema.key:
        return rows
    if label := schema.labelled_later:  # an unlabelled row may come again with its label
        stored = pl.concat(
            [
                stored.filter(pl.col(label).is_not_null()),
                stored.join(rows.filter(pl.col(label).is_null()), on=schema.key, how="semi"),
            ]
        )
    taken = stored.select(schema.key).unique().with_columns(_taken=True)
    clash = pl.col("_taken").fill_null(value=False) | pl.struct(schema.key).is_duplicated()
    joined = rows.join(taken, on=schema.key, how="left", nulls_equal=True, maintain_order="left")
    return joined.with_columns(_add_violation(UNIQUE, clash)).drop("_taken")


def _check_times(
    rows: pl.DataFrame, schema: Schema, entities: pl.DataFrame | None, now: datetime | None
) -> pl.DataFrame:
    """Add the violations of the rules on time to checked rows.

    A time of availability is not in the future, a label is not available before its row's time of
    prediction, and no row is older than the newest by more than `max_span`.
    """
    if (time := schema.time) is None:
        return rows
    if now and schema.column_with_role(AvailableAt):
        rows = rows.with_columns(_add_violation(f"{time} is not in the future", pl.col(time) > now))
    if entities is not None:
        early = (pl.col(time) < pl.col(PREDICTED_AT)) & pl.col(schema.target or "").is_not_null()
        joined = rows.join(entities, on=entities.drop(PREDICTED_AT).columns, how="left", maintain_order="left")
        rows = joined.with_columns(_add_violation(f"{time} is not before its row is predicted", early)).drop(
            PREDICTED_AT
        )
    if max_span := schema.model.max_span:
        overdue = pl.col(time) < pl.col(time).max() - max_span
        rows = rows.with_columns(
            _add_violation(f"{time} is within {max_span.days} days of the batch's newest", overdue)
        )
    return rows


def _add_violation(rule: str, violated: pl.Expr) -> pl.Expr:
    """An expression that adds a rule to the violations of the rows that violate it."""
    return pl.when(violated).then(pl.col(VIOLATIONS).list.concat(pl.lit([rule]))).otherwise(pl.col(VIOLATIONS))


def _excesses(rows: pl.DataFrame, schema: Schema, invalid: int) -> Iterator[str]:
    """Reasons to reject a batch: shares of its rows that exceed their limits."""
    for column in schema.columns:
        nulls = column.role(Nulls)
        share = rows[column.name].null_count() / len(rows)
        if nulls and share > nulls.at_most:
            yield f"{column.name} is missing in {share:.1%} of rows (at most {nulls.at_most:.1%})"
    if invalid > MAX_INVALID * len(rows):
        yield f"{invalid} of {len(rows)} rows violate a rule (at most {MAX_INVALID:.0%})"
    for column in schema.columns:
        category = column.role(Category)
        if category and category.open and len(rows) >= MIN_ROWS:
            new = (~rows[column.name].is_in(category.values)).sum() / len(rows)
            if new > MAX_NEW_CATEGORIES:
                yield f"{column.name} is new in {new:.1%} of rows (at most {MAX_NEW_CATEGORIES:.0%})"


def _new_categories(rows: pl.DataFrame, schema: Schema) -> Iterator[str]:
    for column in schema.columns:
        category = column.role(Category)
        if category and category.open:
            new = rows[column.name].drop_nulls().unique().sort().to_list()
            yield from (f"{column.name} has a new value {value!r}" for value in new if value not in category.values)
