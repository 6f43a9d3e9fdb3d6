"""Deletion of rows from the tables of the lake, from their past too."""

from datetime import UTC, datetime, timedelta
from hashlib import sha256

import deltalake
import polars as pl
from deltalake.exceptions import DeltaError

from {{cookiecutter.__package_name}}.core.contracts.schema import DTYPES, Schema
from {{cookiecutter.__package_name}}.core.store.erasures import ERASED, TABLE, erased_keys
from {{cookiecutter.__package_name}}.core.store.lake import HISTORY, Lake, days


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


def _forget_past(lake: Lake, table: deltalake.DeltaTable) -> None:
    """Remove files and commits from before: a commit has the least and the most of its rows' values."""
    table.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
    table.vacuum(retention_hours=1, dry_run=False, enforce_retention_duration=False, full=True)  # what kills left
    table.alter.set_table_properties({HISTORY: days(timedelta(0))})
    table.create_checkpoint()
    table.cleanup_metadata()
    table.alter.set_table_properties({HISTORY: days(lake.keep)})
