"""Versioned tables: each batch is appended exactly once, and tables can be read as of a version.

The format is Delta Lake. All tables are under one URL, in a local folder or in object storage.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from threading import Lock, get_ident
from typing import TypeVar
from urllib.parse import unquote

import deltalake
import polars as pl
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from {{cookiecutter.__package_name}}.core.contracts.schema import BATCH, CONTRACT, DTYPES, INGESTED_AT, Schema
from {{cookiecutter.__package_name}}.core.errors import InputError, summarize
from {{cookiecutter.__package_name}}.core.store.durability import flush_commits, incomplete_file, torn_commit
from {{cookiecutter.__package_name}}.core.store.files import binary_damage

MAX_FILES = 14  # per table; a table with more files is compacted
HISTORY_PROPERTY = "delta.logRetentionDuration"  # Delta's default is 30 days
SHORT_HISTORY = timedelta(days=7)  # for tables with a commit every few seconds
RESTORE = "delete it and any newer one, move the table's newest files from the archive to the inbox, and call run"
ATTEMPTS = 20  # to commit despite concurrent writers

UNREADABLE = re.compile(r"[\\\x00-\x1f\x7f]|%[0-9A-Fa-f]{2}")  # in names of folders
PANICS = re.compile(r"[\[\]|^]")  # in names of folders, where `write_deltalake` panics

T = TypeVar("T")


class Conflict(Exception):
    """The table is not at the expected version, since another writer has committed."""


@dataclass(frozen=True)
class Lake:
    """The tables under one URL; it is thread-safe.

    Attributes:
        url: A folder or an object storage URL; credentials come from the environment.
        versions: Pinned versions of tables, which are read-only.
        history: How long every version stays readable.
        _opened: Handles by thread and table: a handle must not change during the commit of another thread.
        _appending: Locks by table: a conflicting commit would have to be written again.
    """

    url: str
    versions: Mapping[str, int] = field(default_factory=dict)
    history: timedelta = timedelta(days=365)
    _opened: dict[tuple[int, str], deltalake.DeltaTable] = field(default_factory=dict, init=False, compare=False)
    _appending: dict[str, Lock] = field(default_factory=dict, init=False, compare=False)

    def __post_init__(self) -> None:
        """Check the name of the folder.

        Raises:
            InputError: It has characters that Delta Lake takes for those of a URL.
        """
        if self.is_local and (wrong := UNREADABLE.search(self._place)):
            what = f"the folder {self.url} of the lake has {wrong[0]!r} in its name, where Delta Lake can't read tables"
            raise InputError(f"{what}: move the project, or set ML_LAKE to another folder")

    def append(self, table: str, rows: pl.DataFrame, *, batch: str, expected: int | None = None) -> bool:
        """Append rows exactly once: a batch whose id is in the table is ignored.

        Args:
            table: The name of the table.
            rows: Rows with the table's columns; the table gains those that it does not have yet.
            batch: The id of the batch.
            expected: The version of the table that the rows were made from, -1 before the first append; None: any.

        Returns:
            Whether the rows were appended.

        Raises:
            InputError: The table can't be read or written.
            Conflict: The table is no longer at the expected version.
        """
        if table in self.versions:
            pinned = f"table {table} is pinned to version {self.versions[table]}"
            raise InputError(f"{pinned} and read-only: unset ML_TABLES")
        with self._appending.setdefault(table, Lock()):
            return self._append(table, rows, batch=batch, expected=expected)

    def _append(self, table: str, rows: pl.DataFrame, *, batch: str, expected: int | None) -> bool:
        opened = self.open(table)
        for _ in range(ATTEMPTS):
            seen = opened.version() if opened else -1
            if opened is not None and opened.transaction_version(batch) is not None:
                return False
            if expected not in {None, seen}:
                raise Conflict(f"table {table} is in version {seen}, not {expected}")
            once = deltalake.CommitProperties(app_transactions=[deltalake.Transaction(batch, 1)], max_commit_retries=0)
            try:
                self.write(table, rows, opened=opened, commit=once)
            except Exception as error:  # deltalake raises a bare Exception if a cast fails
                opened = self.open(table)  # another writer may have committed
                moved = seen != (opened.version() if opened else -1)
                if not moved and not isinstance(error, CommitFailedError):
                    raise self.unreadable(table, error) from error
                continue
            self.flush(table, range(seen + 1, seen + 3))  # two, if `write` merged into a new table
            return True
        raise self._busy(table)

    def write(
        self,
        table: str,
        rows: pl.DataFrame,
        *,
        opened: deltalake.DeltaTable | None,
        commit: deltalake.CommitProperties,
        overwrite: bool = False,
    ) -> None:
        """Append rows to an opened table, which gains their columns, or replace its rows; without one, create it.

        In a folder where `write_deltalake` panics, a merge does the same. If two writers create a table, one fails.
        """
        address, properties = self.address(table), {HISTORY_PROPERTY: days(self.history)}
        if not PANICS.search(self._place):
            deltalake.write_deltalake(
                opened or address,
                rows,
                mode="overwrite" if overwrite else "append" if opened else "error",
                schema_mode="merge" if opened and not overwrite else None,
                configuration=None if opened else properties,
                commit_properties=commit,
            )
            return
        into = opened or deltalake.DeltaTable.create(address, rows.schema, configuration=properties)
        if rows.is_empty() and not overwrite:  # a merge would not commit
            into.create_write_transaction([], "append", into.schema(), commit_properties=commit)
            return
        merge = into.merge(
            rows, "false", source_alias="new", target_alias="old", merge_schema=not overwrite, commit_properties=commit
        ).when_not_matched_insert_all()
        (merge.when_not_matched_by_source_delete() if overwrite else merge).execute()

    def flush(self, table: str, versions: range) -> None:
        """Flush commits of a table to the disk, else a power loss could empty them. Object storage is durable."""
        try:
            if self.is_local:
                flush_commits(Path(self.address(table)), versions)
        except OSError as error:
            raise self.unreadable(table, error) from error

    def _require_whole(self, table: str) -> None:
        """Refuse a local table with files that a power loss has damaged, since rows of a torn commit just vanish."""
        if self.is_local and torn_commit(Path(self.address(table))):
            raise self.unreadable(table, DeltaError())
        if self.is_local and (file := incomplete_file(Path(self.address(table)))):
            raise InputError(_damaged(table, file))

    def _require_scheme(self, table: str) -> None:
        """Refuse a URL of an unknown scheme, where each table seems to be missing."""
        try:
            deltalake.DeltaTable(self.address(table))
        except TableNotFoundError as error:
            reason = str(error).partition(". ")[0]
            if reason.startswith("Unknown scheme"):
                raise self.unreadable(table, DeltaError(reason)) from error

    def damaged_files(self, *, read: bool) -> Iterator[str]:
        """The data files of opened local tables that are gone, have lost bytes or, if they are read, can't be.

        Args:
            read: Whether to read the files too.
        """
        for table, opened in {table: opened for (_, table), opened in self._opened.items() if self.is_local}.items():
            sizes = dict(pl.DataFrame(opened.get_add_actions()).select("path", "size_bytes").iter_rows())
            files = {Path(self.address(table), unquote(path)): size for path, size in sizes.items()}
            for file, size in files.items():
                if not file.is_file() or file.stat().st_size != size or (read and binary_damage(file)):
                    yield _damaged(table, file)

    def retry(self, table: str, attempt: Callable[[int], T]) -> T:
        """Call a function with the current version of a table, again after each `Conflict`.

        Args:
            table: The table that the function reads and appends to.
            attempt: The function; it passes its argument to `append` as `expected`.

        Raises:
            InputError: All attempts met a conflict with concurrent writers.
        """
        for _ in range(ATTEMPTS):
            try:
                return attempt(self.version(table))
            except Conflict:
                continue
        raise self._busy(table)

    def _busy(self, table: str) -> InputError:
        return InputError(
            f"could not commit to table {table} in {self.url} after {ATTEMPTS} attempts because of concurrent writers; "
            "try again later"
        )

    def scan(self, schema: Schema, *, version: int | None = None) -> pl.LazyFrame:
        """A contract's table as of a version, with each row's ingestion time, batch and contract version.

        An unlabelled row that came again with its label is left out.
        """
        stored = schema.dtypes | {INGESTED_AT: DTYPES[datetime], BATCH: pl.String(), CONTRACT: pl.Int64()}
        rows = self.read(schema.name, stored, version=version)
        if (label := schema.labelled_later) is None:
            return rows
        labelled, unlabelled = rows.filter(pl.col(label).is_not_null()), rows.filter(pl.col(label).is_null())
        return pl.concat([labelled, unlabelled.join(labelled.select(schema.key), on=schema.key, how="anti")])

    def read(self, table: str, dtypes: Mapping[str, pl.DataType], *, version: int | None = None) -> pl.LazyFrame:
        """Any table of the lake; columns that it does not have yet are null, and it is empty if it doesn't exist.

        Raises:
            InputError: The table can't be read, or has no such version.
        """
        try:
            opened = self.open(table)
            if opened is None or version == -1:  # before the first append
                return pl.LazyFrame(schema=dtypes)
            rows = _rows(opened if version is None else deltalake.DeltaTable(self.address(table), version=version))
            gained = dtypes.keys() - set(rows.collect_schema().names())
            return rows.with_columns(pl.lit(None, dtype=dtypes[name]).alias(name) for name in sorted(gained))
        except (DeltaError, OSError) as error:
            raise self.unreadable(table, error) from error

    def version(self, table: str) -> int:
        """The table's newest version; -1 before the first append."""
        opened = self.open(table)
        return -1 if opened is None else opened.version()

    def has(self, table: str, batch: str) -> bool:
        """Whether the table contains this batch."""
        opened = self.open(table)
        return opened is not None and opened.transaction_version(batch) is not None

    def maintain(self, *, others: Sequence[str] = ()) -> None:
        """Compact the tables that were opened, and delete files that no readable version needs.

        Args:
            others: Tables with frequent appends by another process; their history is `SHORT_HISTORY`.

        Raises:
            InputError: A table can't be read or written.
        """
        for table in sorted({*others, *(table for _, table in list(self._opened))}):
            opened = self.open(table)
            if opened is None:
                continue
            history = SHORT_HISTORY if table in others else self.history
            try:
                if opened.metadata().configuration.get(HISTORY_PROPERTY) != days(history):  # the setting has changed
                    opened.alter.set_table_properties({HISTORY_PROPERTY: days(history)})
                if len(opened.file_uris()) > MAX_FILES:
                    before = opened.version()
                    opened.optimize.compact()
                    self.flush(table, range(before + 1, opened.version() + 1))
                    opened.vacuum(retention_hours=int(history / timedelta(hours=1)), dry_run=False, full=True)
            except CommitFailedError:
                continue  # another process is writing; the next call maintains the table
            except (DeltaError, OSError) as error:
                raise self.unreadable(table, error) from error

    def open(self, table: str) -> deltalake.DeltaTable | None:
        """The table at its newest version; a thread that has opened it reads only new commits."""
        handles, mine = self._opened, (get_ident(), table)
        try:
            if table in self.versions:
                if mine not in handles:
                    handles[mine] = deltalake.DeltaTable(self.address(table), version=self.versions[table])
            elif mine in handles:
                handles[mine].update_incremental()
            elif Path(self.url).is_file():
                raise NotADirectoryError(self.url)
            elif deltalake.DeltaTable.is_deltatable(self.address(table)):
                self._require_whole(table)
                handles[mine] = deltalake.DeltaTable(self.address(table))
            elif not self.is_local:
                self._require_scheme(table)
        except (DeltaError, OSError) as error:
            raise self.unreadable(table, error) from error
        return handles.get(mine)

    @property
    def is_local(self) -> bool:
        """Whether the tables are in a folder."""
        return "://" not in self.url

    @property
    def _place(self) -> str:
        """The URL without links and `..`, as Delta Lake sees it."""
        return Path(self.url).resolve().as_posix() if self.is_local else self.url

    def address(self, table: str) -> str:
        """The URL of a table."""
        return f"{self.url.rstrip('/')}/{table}"

    def unreadable(self, table: str, error: Exception) -> InputError:
        """The error for an unreadable table, in one line."""
        torn = torn_commit(Path(self.address(table))) if self.is_local else None
        reason = f"a power loss has torn its commit {torn}: {RESTORE}" if torn else summarize(error)
        if not self.is_local:
            reason += "; see the setting ML_LAKE and the credentials in the environment or .env"
        return InputError(f"table {table} in the lake {self.url} can't be used: {reason}")


def _damaged(table: str, file: Path) -> str:
    return f"table {table}: its file {file} is gone or damaged: restore it from a backup"


def days(time: timedelta) -> str:
    """A duration in the format of Delta."""
    return f"interval {time.days} days"


def _rows(table: deltalake.DeltaTable) -> pl.LazyFrame:
    if not {*"%["} & {*table.table_uri}:
        return pl.scan_delta(table)
    # Polars does not unquote the paths of Delta tables in folders with special characters.
    schema = pl.Schema(table.schema().to_arrow())
    files = list(map(unquote, table.file_uris()))
    return pl.scan_parquet(files, schema=schema, missing_columns="insert", glob=False)
