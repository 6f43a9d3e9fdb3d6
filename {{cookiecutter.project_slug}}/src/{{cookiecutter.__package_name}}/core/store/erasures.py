"""Which rows of the subject were erased: the table `erasures`, by key, so that none of them comes back.

`production/erasure` deletes them; rows that arrive later are compared with the table before they are stored.
"""

import logging
from datetime import datetime
from pathlib import Path

import polars as pl
from polars.exceptions import PolarsError

from {{cookiecutter.__package_name}}.core.contracts.schema import DTYPES, Schema
from {{cookiecutter.__package_name}}.core.contracts.validation import drop_rows, from_text
from {{cookiecutter.__package_name}}.core.errors import first_line, whole
from {{cookiecutter.__package_name}}.core.store.lake import Lake

log = logging.getLogger(__name__)

TABLE = "erasures"
ERASED = "_erased"


def erased_keys(lake: Lake, schema: Schema) -> pl.LazyFrame:
    """The keys of erased rows of the subject; none if it has no key."""
    key = {name: schema.dtypes[name] for name in schema.key}
    return lake.read(TABLE, key).select(schema.key)


def without(lake: Lake, schema: Schema, rows: pl.DataFrame) -> pl.DataFrame:
    """The rows that were not erased; all of them, where they have not the subject's key."""
    return drop_rows(rows, erased_keys(lake, schema).collect())


def since(lake: Lake, moment: datetime) -> int:
    """How many keys were erased after a time."""
    erased = lake.read(TABLE, {ERASED: DTYPES[datetime]}).filter(pl.col(ERASED) > moment)
    return int(erased.select(pl.len()).collect().item())


def clean(lake: Lake, schema: Schema, path: Path) -> None:
    """Write a file anew without rows that were erased, where it has some."""
    gone = erased_keys(lake, schema).collect()
    if len(gone):
        purge(path, schema, gone)


def purge(path: Path, schema: Schema, gone: pl.DataFrame) -> bool:
    """Write a file anew without the rows, in one step; return whether it had some. One that can't be read is named."""
    text = path.suffix.lower() == ".csv"
    try:
        rows = pl.read_csv(path, infer_schema=False) if text else pl.read_parquet(path, hive_partitioning=False)
        if not set(schema.key) <= set(rows.columns):
            return False
        named = rows.with_row_index("_nth")
        keys = _typed(named.select("_nth", *schema.key), schema)
        left = named.join(keys.join(gone, on=schema.key, how="semi"), on="_nth", how="anti", maintain_order="left")
    except (PolarsError, OSError) as error:
        log.warning("erase     %s can't be read, look yourself: %s", path, first_line(error))
        return False
    if len(left) == len(rows):
        return False
    left = left.drop("_nth")
    with whole(path) as draft:
        left.write_csv(draft) if text else left.write_parquet(draft)
    return True


def _typed(keys: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    """Keys in the contract's types, whatever a file has them in; missing where they can't be."""
    for name in schema.key:
        column, is_text = schema.column(name), keys.schema[name] == pl.String
        keys = keys.with_columns(from_text(column) if is_text else pl.col(name).cast(column.dtype, strict=False))
    return keys
