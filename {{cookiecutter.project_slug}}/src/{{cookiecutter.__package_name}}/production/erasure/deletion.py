"""Deletion of rows from the tables of the lake, from their past too; other processes may write to them meanwhile."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import TypeVar

import deltalake
import polars as pl
from deltalake.exceptions import CommitFailedError, DeltaError

from {{cookiecutter.__package_name}}.core.contracts.schema import DTYPES
from {{cookiecutter.__package_name}}.core.store.erasures import ERASED_AT, ERASURES, drop_erased
from {{cookiecutter.__package_name}}.core.store.lake import HISTORY_PROPERTY, Conflict, Lake, days

T = TypeVar("T")


def record(lake: Lake, keys: pl.DataFrame) -> None:
    """Record keys, a frame of the key's columns, as erased, unless they are recorded already."""

    def attempt(version: int) -> None:
        new = drop_erased(lake, keys.unique(maintain_order=True))
        if len(new):
            stamped = new.with_columns(pl.lit(datetime.now(UTC), dtype=DTYPES[datetime]).alias(ERASED_AT))
            lake.append(ERASURES, stamped, batch=_id(new), expected=version)

    lake.retry(ERASURES, attempt)


def invalidate(lake: Lake, table: str, columns: Mapping[str, pl.DataType], keys: pl.DataFrame) -> None:
    """Commit no rows to a table, once: appends of writers that began before the keys were recorded conflict then.

    Args:
        lake: The lake.
        table: The table; it is created with the columns if it doesn't exist.
        columns: Columns of the table.
        keys: The recorded keys.
    """
    lake.append(table, pl.DataFrame(schema=columns), batch=f"erasure-{_id(keys)}")


def delete(lake: Lake, table: str, keys: pl.DataFrame) -> int:
    """Delete the rows with these keys, from old versions of the table too, which become unreadable.

    Args:
        lake: The lake.
        table: The table; it is unchanged if it doesn't exist or lacks these columns.
        keys: A frame of the key's columns.

    Returns:
        The number of deleted rows.

    Raises:
        InputError: The table can't be read or written.
    """
    opened = lake.open(table)
    if opened is None or not set(keys.columns) <= {column.name for column in opened.schema().fields}:
        return 0
    equal = " AND ".join(f'was."{name}" = gone."{name}"' for name in keys.columns)

    def merge(found: deltalake.DeltaTable) -> int:
        merged = found.merge(keys, equal, source_alias="gone", target_alias="was").when_matched_delete().execute()
        return int(merged["num_target_rows_deleted"])

    _change(lake, table, _keep_no_past)  # a commit, after which no writer appends what it read before
    deleted = _change(lake, table, merge)
    _change(lake, table, lambda found: _forget_past(lake, found))
    return deleted


def replace(lake: Lake, table: str, rows: Callable[[], pl.DataFrame | None]) -> None:
    """Replace all rows of a table and delete its old versions; the ids of its batches are kept.

    Args:
        lake: The lake.
        table: Its name.
        rows: Reads the table and gives its rows as they shall be; None changes nothing.

    Raises:
        InputError: The table can't be read or written.
    """
    once = deltalake.CommitProperties(max_commit_retries=0)

    def overwrite(found: deltalake.DeltaTable) -> bool:
        new = rows()
        if new is not None:
            lake.write(table, new, opened=found, commit=once, overwrite=True)
        return new is not None

    if lake.open(table) and _change(lake, table, overwrite):
        _change(lake, table, _keep_no_past)
        _change(lake, table, lambda found: _forget_past(lake, found))


def _change(lake: Lake, table: str, change: Callable[[deltalake.DeltaTable], T]) -> T:
    """Change a table in its newest version, again where another commit came between."""

    def attempt(version: int) -> T:
        try:
            changed = change(deltalake.DeltaTable(lake.address(table), version=version))
        except CommitFailedError as error:
            raise Conflict(str(error)) from error
        except (DeltaError, OSError) as error:
            if lake.version(table) != version:  # its commits from before may be gone
                raise Conflict(str(error)) from error
            raise lake.unreadable(table, error) from error
        lake.flush(table, range(version + 1, lake.version(table) + 1))
        return changed

    return lake.retry(table, attempt)


def _id(keys: pl.DataFrame) -> str:
    return sha256(keys.write_json().encode()).hexdigest()


def _keep_no_past(table: deltalake.DeltaTable) -> None:
    table.alter.set_table_properties({HISTORY_PROPERTY: days(timedelta(0))})


def _forget_past(lake: Lake, table: deltalake.DeltaTable) -> None:
    """Delete old files and commits; a commit contains the minimum and maximum of its rows' values."""
    table.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
    table.vacuum(
        retention_hours=1, dry_run=False, enforce_retention_duration=False, full=True
    )  # files of killed writers
    table.create_checkpoint()
    table.cleanup_metadata()
    table.alter.set_table_properties({HISTORY_PROPERTY: days(lake.history)})
