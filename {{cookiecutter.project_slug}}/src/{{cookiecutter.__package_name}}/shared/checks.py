"""Batches against their contract: what is accepted, what is not, and why.

Pure functions over frames. A batch whose columns or types are wrong, with too many bad rows, or unlike the weeks before
is breached as a whole; else its bad rows are set apart, each with the rules that it breaks.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime

import narwhals as nw
import polars as pl

from {{cookiecutter.__package_name}}.shared import BadInput
from {{cookiecutter.__package_name}}.shared.schema import AT, Category, Column, Known, Nulls, Schema
from {{cookiecutter.__package_name}}.shared.usual import ENOUGH, one_answer, unlike

RULES = "_rules"  # beside a rejected row: the rules it breaks
UNIQUE = "key is unique"
PARTS = re.compile(r"(?<!\\)/")  # between the values of a key, not within one
TOLERANCE = 0.01  # a batch with a larger share of bad rows is breached as a whole
GROWTH = 0.05  # so is one with a larger share of new categories


class ContractBreach(Exception):
    """The batch as a whole can't be accepted; the reasons say why."""

    def __init__(self, *reasons: str) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


@dataclass(frozen=True)
class BatchReport:
    """What became of a batch's rows."""

    accepted: pl.DataFrame
    rejected: pl.DataFrame
    repeats: int
    breaches: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """How many rows break each rule."""
        broken = self.rejected.get_column(RULES).explode().drop_nulls()
        return {str(rule): int(n) for rule, n in sorted(broken.value_counts().iter_rows())}


def conform(batch: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    """The batch with the contract's columns in their order and types.

    Numbers and times may be stored narrower or wider; a naive time is taken as UTC; text in place of anything else
    is a breach.

    Raises:
        ContractBreach: A column is missing, unknown or of another type, or the batch is empty.
    """
    missing = [name for name in schema.names if name not in batch.columns]
    unknown = [name for name in batch.columns if name not in schema.names]
    reasons = [f"column {name} is missing" for name in missing] + [f"column {name} is unknown" for name in unknown]
    if batch.is_empty():
        reasons.append("it has no rows")
    wrong = [column for column in schema.columns if column.name in batch.columns and not _fits(batch, column)]
    reasons += [f"column {column.name} is {batch[column.name].dtype}, not {column.dtype}" for column in wrong]
    if reasons:
        raise ContractBreach(*reasons)
    rows = batch.select(_cast(batch, column) for column in schema.columns)
    lost = [name for name in schema.names if rows[name].null_count() > batch[name].null_count()]
    if lost:
        raise ContractBreach(*(f"column {name} has values too large for {schema.dtypes[name]}" for name in lost))
    return rows


def _fits(batch: pl.DataFrame, column: Column) -> bool:
    stored = batch.schema[column.name]
    if stored == pl.Null:
        return column.optional
    if column.dtype.is_float():
        return stored.is_numeric()
    if column.dtype.is_integer():
        return stored.is_integer()
    return stored.base_type() == column.dtype.base_type()


def _cast(batch: pl.DataFrame, column: Column) -> pl.Expr:
    stored = batch.schema[column.name]
    value = pl.col(column.name)
    if isinstance(stored, pl.Datetime) and stored.time_zone is None:
        value = value.dt.replace_time_zone("UTC")
    return value.cast(column.dtype, strict=False)


def parse(batch: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    """Text, as it is read from CSV, in the contract's types; an empty cell is a missing value.

    Raises:
        ContractBreach: A value can't be read as its column's type.
    """
    typed = batch.with_columns(from_text(column) for column in schema.columns if column.name in batch.columns)
    reasons = []
    for name in set(typed.columns) & set(schema.names):
        unread = batch.filter(batch[name].is_not_null() & typed[name].is_null())[name]
        if len(unread):
            reasons.append(
                f"column {name} has {len(unread)} values that are no {schema.column(name).kind.__name__}, "
                f"as {unread[0]!r}"
            )
    if reasons:
        raise ContractBreach(*sorted(reasons))
    return typed


def from_text(column: Column) -> pl.Expr:
    """A column of text in its own type; missing where it can't be."""
    value = pl.col(column.name)
    dated = pl.when(value.str.contains(r"^\d{4}-")).then(value)  # 04/03 is a day of April to some, of March to others
    if column.kind is bool:
        return value.str.to_lowercase().replace_strict(
            {"true": True, "1": True, "false": False, "0": False}, default=None, return_dtype=pl.Boolean
        )
    if isinstance(column.dtype, pl.Datetime):
        return dated.str.to_datetime(time_unit="us", time_zone="UTC", strict=False)
    if column.kind is date:
        return dated.str.to_date(strict=False)
    return value.cast(column.dtype, strict=False)


def keys_of(schema: Schema, keys: Sequence[str]) -> pl.DataFrame:
    r"""Keys as people write them, the values of each joined by `/`, as a frame of the key's columns.

    Where a key has several columns, a `/` within a value is written `\/`.

    Raises:
        BadInput: The table has no key, or another number of columns in it.
        ContractBreach: A value is none of its column's type.
    """
    if not schema.key:
        raise BadInput(f"rows of {schema.name} have no key: mark a column of shared/contract.py as Key() to name one")
    one = len(schema.key) == 1
    values = [[key] if one else [part.replace(r"\/", "/") for part in PARTS.split(key)] for key in keys]
    if wrong := [key for key, parts in zip(keys, values, strict=True) if len(parts) != len(schema.key)]:
        raise BadInput(f"the key of {schema.name} is {'/'.join(schema.key)}, not {wrong[0]!r}")
    return parse(pl.DataFrame(values, schema=dict.fromkeys(schema.key, pl.String), orient="row"), schema)


def accept(
    batch: pl.DataFrame,
    schema: Schema,
    *,
    stored: pl.DataFrame,
    days: Sequence[pl.DataFrame] = (),
    subject: pl.DataFrame | None = None,
    now: datetime | None = None,
) -> BatchReport:
    """Split a batch into rows that keep the contract and rows that break it.

    Args:
        batch: Rows as they arrived.
        schema: The table's schema.
        stored: The table's rows that may share a key with the batch; a row that equals its stored one is a repeat.
        days: The table's rows of the batch's days, then of the same days a week before, two weeks before, and so on.
        subject: Of labels in a table of their own: the keys of their rows that are in the lake, and in `_at` when each
            is predicted.
        now: When the batch arrived; without it, nothing is known of the future.

    Returns:
        The accepted and the rejected rows, and what breaches the batch as a whole: then it must not be appended.

    Raises:
        ContractBreach: The columns don't conform; nothing can be said of rows.
    """
    rows = conform(batch, schema)
    fresh = _without_repeats(rows, schema, stored)
    judged = _with_times(_with_clashes(marked(fresh, schema), schema, stored), schema, subject, now)
    kept = judged[RULES].list.len() == 0
    rejected = judged.filter(~kept)
    return BatchReport(
        accepted=judged.filter(kept).drop(RULES),
        rejected=rejected,
        repeats=len(rows) - len(fresh),
        breaches=(*_breaches(rows, schema, len(rejected)), *unlike(fresh, schema, days)),
        notes=(*_new_categories(rows, schema), *one_answer(fresh, schema, days)),
    )


def _without_repeats(rows: pl.DataFrame, schema: Schema, stored: pl.DataFrame) -> pl.DataFrame:
    if not schema.key:
        return rows
    fresh = rows.unique(maintain_order=True)
    return fresh.join(stored.select(schema.names), on=schema.names, how="anti", nulls_equal=True)


def marked(rows: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    """Rows that conform, with the names of the rules that each of them breaks in the column `RULES`."""
    return with_rules(rows.lazy(), schema).collect()


def with_rules(rows: pl.LazyFrame, schema: Schema) -> pl.LazyFrame:
    """The same for rows that are still to come."""
    conditions = {f"{RULES} {name}": (name, condition) for name, condition in schema.conditions().items()}
    kept: pl.LazyFrame = (
        nw.from_native(rows)
        .with_columns(condition.fill_null(value=True).alias(column) for column, (_, condition) in conditions.items())
        .to_native()
    )
    broken = [pl.when(~pl.col(column)).then(pl.lit(name)) for column, (name, _) in conditions.items()]
    return kept.with_columns(pl.concat_list(broken).list.drop_nulls().alias(RULES)).drop(list(conditions))


def _with_clashes(rows: pl.DataFrame, schema: Schema, stored: pl.DataFrame) -> pl.DataFrame:
    """Add the rule of the key to marked rows whose key another row has, in the batch or in the lake."""
    if not schema.key:
        return rows
    taken = stored.select(schema.key).unique().with_columns(_taken=True)
    clash = pl.col("_taken").fill_null(value=False) | pl.struct(schema.key).is_duplicated()
    joined = rows.join(taken, on=schema.key, how="left", nulls_equal=True, maintain_order="left")
    return joined.with_columns(_and(UNIQUE, clash)).drop("_taken")


def _with_times(rows: pl.DataFrame, schema: Schema, subject: pl.DataFrame | None, now: datetime | None) -> pl.DataFrame:
    """Add the rules of time to marked rows.

    Nothing is known before it happens, no label before its row is predicted, and nothing comes long after the others.
    """
    if (time := schema.time) is None:
        return rows
    if now and schema.only(Known):
        rows = rows.with_columns(_and(f"{time} is not in the future", pl.col(time) > now))
    if subject is not None:
        early = (pl.col(time) < pl.col(AT)) & pl.col(schema.target or "").is_not_null()
        joined = rows.join(subject, on=subject.drop(AT).columns, how="left", maintain_order="left")
        rows = joined.with_columns(_and(f"{time} is not before its row is predicted", early)).drop(AT)
    if span := schema.model.span:
        overdue = pl.col(time) < pl.col(time).max() - span
        rows = rows.with_columns(_and(f"{time} is within {span.days} days of the batch's newest", overdue))
    return rows


def _and(rule: str, broken: pl.Expr) -> pl.Expr:
    """The rules that a marked row breaks, and one more where it is broken."""
    return pl.when(broken).then(pl.col(RULES).list.concat(pl.lit([rule]))).otherwise(pl.col(RULES))


def _breaches(rows: pl.DataFrame, schema: Schema, rejected: int) -> Iterator[str]:
    for column in schema.columns:
        nulls = column.role(Nulls)
        share = rows[column.name].null_count() / len(rows)
        if nulls and share > nulls.at_most:
            yield f"{column.name} is missing in {share:.1%} of rows (at most {nulls.at_most:.1%})"
    if rejected > TOLERANCE * len(rows):
        yield f"{rejected} of {len(rows)} rows break a rule (at most {TOLERANCE:.0%})"
    for column in schema.columns:
        category = column.role(Category)
        if category and category.grows and len(rows) >= ENOUGH:
            new = (~rows[column.name].is_in(category.values)).sum() / len(rows)
            if new > GROWTH:
                yield f"{column.name} is new in {new:.1%} of rows (at most {GROWTH:.0%})"


def _new_categories(rows: pl.DataFrame, schema: Schema) -> Iterator[str]:
    for column in schema.columns:
        category = column.role(Category)
        if category and category.grows:
            new = rows[column.name].drop_nulls().unique().sort().to_list()
            yield from (f"{column.name} has a new value {value!r}" for value in new if value not in category.values)
