"""Which rows of the subject were erased: the table `erasures`, by key, so that none of them comes back.

Deleting them is `production/erase.py`; what arrives later is held against the table wherever rows are let in.
"""

from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256

import polars as pl

from {{cookiecutter.__package_name}}.shared.lake import Lake
from {{cookiecutter.__package_name}}.shared.schema import DTYPES, Schema

TABLE = "erasures"
ERASED = "_erased"


def record(lake: Lake, schema: Schema, keys: pl.DataFrame) -> int:
    """Record keys as erased now; return how many were not yet.

    Args:
        lake: The lake.
        schema: Of the subject.
        keys: The key's columns.
    """
    new = keys.unique(maintain_order=True).join(_recorded(lake, schema), on=schema.key, how="anti")
    if len(new):
        stamped = new.with_columns(pl.lit(datetime.now(UTC), dtype=DTYPES[datetime]).alias(ERASED))
        lake.append(TABLE, stamped, batch=sha256(new.write_json().encode()).hexdigest())
    return len(new)


def without(lake: Lake, schema: Schema, rows: pl.DataFrame) -> pl.DataFrame:
    """The rows that were not erased; all of them, where they have not the subject's key."""
    lake = replace(lake, _opened={})  # opened anew: batches are let in by several threads
    if not schema.key or not set(schema.key) <= set(rows.columns) or lake.version(TABLE) < 0:
        return rows
    return rows.join(_recorded(lake, schema), on=schema.key, how="anti", maintain_order="left")


def since(lake: Lake, moment: datetime) -> int:
    """How many keys were erased after a time."""
    erased = lake.read(TABLE, {ERASED: DTYPES[datetime]}).filter(pl.col(ERASED) > moment)
    return int(erased.select(pl.len()).collect().item())


def _recorded(lake: Lake, schema: Schema) -> pl.DataFrame:
    key = {name: schema.dtypes[name] for name in schema.key}
    return lake.read(TABLE, key).select(schema.key).collect()
