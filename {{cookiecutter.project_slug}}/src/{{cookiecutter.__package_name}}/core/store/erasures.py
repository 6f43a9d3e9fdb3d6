"""Which rows of the subject were erased: the table `erasures`, by key, so that none of them comes back.

Deleting them is `production/erase.py`; what arrives later is held against the table wherever rows are let in.
"""

import logging
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import deltalake
import polars as pl
from deltalake.exceptions import DeltaError
from polars.exceptions import PolarsError

from {{cookiecutter.__package_name}}.core.contracts.schema import DTYPES, Schema
from {{cookiecutter.__package_name}}.core.contracts.validation import drop_rows, from_text
from {{cookiecutter.__package_name}}.core.errors import first_line, whole
from {{cookiecutter.__package_name}}.core.store.lake import HISTORY, Lake, days

log = logging.getLogger(__name__)

TABLE = "erasures"
ERASED = "_erased"


def record(lake: Lake, schema: Schema, keys: pl.DataFrame) -> None:
    """Record keys as erased now, where they were not yet.

    Args:
        lake: The lake.
        schema: Of the subject.
        keys: The key's columns.
    """
    new = keys.unique(maintain_order=True).join(erased_keys(lake, schema).collect(), on=schema.key, how="anti")
    if len(new):
        stamped = new.with_columns(pl.lit(datetime.now(UTC), dtype=DTYPES[datetime]).alias(ERASED))
        lake.append(TABLE, stamped, batch=sha256(new.write_json().encode()).hexdigest())


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


def delete(lake: Lake, table: str, keys: pl.DataFrame) -> int:
    """Delete the rows with these keys, from the table's past too: most versions before can't be read any more.

    Args:
        lake: The lake.
        table: One that is not there or has not these columns is left alone.
        keys: The columns of a key.

    Returns:
        How many rows were deleted.

    Raises:
        BadInput: The table can't be read or written.
    """
    opened = lake.open(table)
    if opened is None or not set(keys.columns) <= {column.name for column in opened.schema().fields}:
        return 0
    equal = " AND ".join(f'was."{name}" = gone."{name}"' for name in keys.columns)
    try:
        merged = opened.merge(keys, equal, source_alias="gone", target_alias="was").when_matched_delete().execute()
        _forget_past(lake, opened)
    except (DeltaError, OSError) as error:
        raise lake.unreadable(table, error) from error
    return int(merged["num_target_rows_deleted"])


def replace(lake: Lake, table: str, rows: pl.DataFrame) -> None:
    """Write all rows of a table anew, and forget what it was; which batches it has seen, it still knows.

    Raises:
        BadInput: The table can't be read or written.
    """
    try:
        deltalake.write_deltalake(lake.address(table), rows, mode="overwrite")
        _forget_past(lake, deltalake.DeltaTable(lake.address(table)))
    except (DeltaError, OSError) as error:
        raise lake.unreadable(table, error) from error


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


def _forget_past(lake: Lake, table: deltalake.DeltaTable) -> None:
    """Remove files and commits from before: a commit has the least and the most of its rows' values."""
    table.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
    table.vacuum(retention_hours=1, dry_run=False, enforce_retention_duration=False, full=True)  # what kills left
    table.alter.set_table_properties({HISTORY: days(timedelta(0))})
    table.create_checkpoint()
    table.cleanup_metadata()
    table.alter.set_table_properties({HISTORY: days(lake.keep)})
