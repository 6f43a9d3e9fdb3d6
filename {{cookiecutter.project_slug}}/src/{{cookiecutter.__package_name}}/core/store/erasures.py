"""The table `erasures`: the keys of erased rows of the entity.

Ingestion drops rows with these keys. `production/erasure` deletes the rows.
"""

import logging
from datetime import datetime
from pathlib import Path

import polars as pl
from polars.exceptions import PolarsError

from {{cookiecutter.__package_name}}.core.contracts.schema import DTYPES, Schema
from {{cookiecutter.__package_name}}.core.contracts.validation import drop_rows, from_text
from {{cookiecutter.__package_name}}.core.errors import atomic_write, summarize
from {{cookiecutter.__package_name}}.core.store.lake import Lake

log = logging.getLogger(__name__)

ERASURES = "erasures"
ERASED_AT = "_erased_at"


def erased_keys(lake: Lake) -> pl.DataFrame:
    """The keys of erased rows of the entity; without columns if there are none."""
    return lake.read(ERASURES, {}).drop(ERASED_AT, strict=False).collect()


def drop_erased(lake: Lake, rows: pl.DataFrame) -> pl.DataFrame:
    """The rows that were not erased; all rows if they lack the key of the entity."""
    return drop_rows(rows, erased_keys(lake))


def since(lake: Lake, moment: datetime) -> int:
    """The number of keys erased after a time."""
    erased = lake.read(ERASURES, {ERASED_AT: DTYPES[datetime]}).filter(pl.col(ERASED_AT) > moment)
    return int(erased.select(pl.len()).collect().item())


def remove_erased(lake: Lake, schema: Schema, path: Path) -> None:
    """Remove erased rows from a file."""
    if len(gone := erased_keys(lake)):
        purge(path, schema, gone)


def purge(path: Path, schema: Schema, gone: pl.DataFrame) -> bool:
    """Remove rows from a file atomically; return whether there were any. An unreadable file is logged."""
    text = path.suffix.lower() == ".csv"
    try:
        rows = pl.read_csv(path, infer_schema=False) if text else pl.read_parquet(path, hive_partitioning=False)
        if not set(schema.key) <= set(rows.columns):
            return False
        named = rows.with_row_index("_nth")
        keys = _typed(named.select("_nth", *schema.key), schema)
        left = named.join(keys.join(gone, on=schema.key, how="semi"), on="_nth", how="anti", maintain_order="left")
    except (PolarsError, OSError) as error:
        log.warning("erase     %s can't be read, check it manually: %s", path, summarize(error))
        return False
    if len(left) == len(rows):
        return False
    left = left.drop("_nth")
    with atomic_write(path) as draft:
        left.write_csv(draft) if text else left.write_parquet(draft)
    return True


def _typed(keys: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    """Keys with the types of the contract; null if a value can't be converted."""
    for name in schema.key:
        column, is_text = schema.column(name), keys.schema[name] == pl.String
        keys = keys.with_columns(from_text(column) if is_text else pl.col(name).cast(column.dtype, strict=False))
    return keys
