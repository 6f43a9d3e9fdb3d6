"""The stored rows that a batch is compared with, in one read of the lake."""

from datetime import datetime, timedelta
from functools import reduce
from operator import or_

import polars as pl

from {{cookiecutter.__package_name}}.core.contracts.anomalies import time_range
from {{cookiecutter.__package_name}}.core.contracts.schema import DTYPES, PREDICTED_AT, Column, Schema
from {{cookiecutter.__package_name}}.core.contracts.validation import Context
from {{cookiecutter.__package_name}}.core.problem import Problem
from {{cookiecutter.__package_name}}.core.store.erasures import erased_keys
from {{cookiecutter.__package_name}}.core.store.lake import Lake

WEEKS = 4  # compared with each batch


def read_context(lake: Lake, problem: Problem, schema: Schema, rows: pl.DataFrame) -> Context:
    """Read what a batch is compared with.

    Args:
        lake: The lake.
        problem: The problem.
        schema: The schema of the batch's table.
        rows: The rows of the batch; they conform to the schema.
    """
    entity = problem.schema
    near, days = _in_key_range(schema, rows), _in_days(schema, rows)
    of_table = lake.scan(schema).select(schema.names).filter(reduce(or_, days, near))
    of_entities = pl.LazyFrame()
    if is_labels := bool(schema is not entity and schema.target and entity.key):
        at = pl.col(entity.event_time) - entity.lead if entity.event_time else pl.lit(None, DTYPES[datetime])
        in_range = lake.scan(entity).filter(_in_key_range(entity, rows)).select(*entity.key, at.alias(PREDICTED_AT))
        of_entities = in_range.join(rows.lazy(), on=entity.key, how="semi")
    found, entities = pl.collect_all([of_table, of_entities])
    return Context(
        stored=found.filter(near),
        days=[found.filter(day) for day in days],
        entities=entities if is_labels else None,
        entity_table=entity.name,
        erased=erased_keys(lake),
    )


def _in_key_range(schema: Schema, rows: pl.DataFrame) -> pl.Expr:
    """Whether a stored row's key lies within the range of a batch's keys; false for a table without a key."""
    parts = [_in_range(schema.column(name), rows[name]) for name in schema.key]
    return pl.all_horizontal(parts) if parts else pl.lit(value=False)


def _in_range(column: Column, values: pl.Series) -> pl.Expr:
    """Whether a stored value lies within the range of a batch's values, or is missing, as one of them may be."""
    least, most = (pl.lit(edge, dtype=column.dtype) for edge in (values.min(), values.max()))
    within = pl.col(column.name).is_between(least, most)
    return within | pl.col(column.name).is_null() if column.optional else within


def _in_days(schema: Schema, rows: pl.DataFrame) -> list[pl.Expr]:
    """Whether a row is of a batch's days, or of the same days in each of the weeks before; empty without a time."""
    if (times := time_range(rows, schema)) is None:
        return []
    first, last = times
    weeks = (timedelta(weeks=n) for n in range(WEEKS + 1))
    return [pl.col(schema.time or "").is_between(pl.lit(first - back), pl.lit(last - back)) for back in weeks]
