"""Ingestion: valid rows are appended exactly once, invalid rows and rejected batches are quarantined."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from {{cookiecutter.__package_name}}.core.contracts.schema import BATCH, CONTRACT, DTYPES, INGESTED_AT, Schema
from {{cookiecutter.__package_name}}.core.contracts.validation import BatchReport, ContractViolation, validate
from {{cookiecutter.__package_name}}.core.errors import InputError, atomic_write, write_file
from {{cookiecutter.__package_name}}.core.problem import Problem
from {{cookiecutter.__package_name}}.core.store import erasures
from {{cookiecutter.__package_name}}.core.store.batch_context import read_context
from {{cookiecutter.__package_name}}.core.store.files import Unreadable, conform_rows, read_file
from {{cookiecutter.__package_name}}.core.store.lake import Conflict
from {{cookiecutter.__package_name}}.core.workspace import Workspace

log = logging.getLogger(__name__)

SKIPPED = (".", "_", "~", "Thumbs.db", "desktop.ini")  # beginnings of names that are no batches
# Ends of such names.
PARTIAL = (".part", ".partial", ".filepart", ".crdownload", ".download", ".tmp", ".temp", ".crc", "~")
INVALID, REASONS = "invalid.parquet", "reasons.json"  # in the quarantine folder of a batch


@dataclass(frozen=True)
class Batch:
    """The result of ingesting a batch.

    Attributes:
        table: The table of its rows.
        name: The file's name.
        id: A hash of its content: the same content is the same batch.
        seen: Whether it was ingested before; then nothing else was checked.
        accepted: The number of appended rows.
        invalid: The number of rows that violate the contract.
        duplicates: The number of rows that are already in the lake or repeat another row of the file.
        counts: The number of rows that violate each rule.
        rejected: Why the whole batch is rejected; then no row is appended.
        warnings: Warnings about an accepted batch.
        quarantine: The folder with the invalid rows or the rejected file.
    """

    table: str
    name: str
    id: str
    seen: bool = False
    accepted: int = 0
    invalid: int = 0
    duplicates: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    rejected: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    quarantine: str | None = None

    @property
    def ok(self) -> bool:
        """Whether every row is valid."""
        return not self.rejected and not self.invalid

    def __str__(self) -> str:
        """One line of text."""
        if self.seen:
            return f"{self.table}/{self.name}: ingested before, nothing to do"
        violated = ", ".join(f"{rule} ({n})" for rule, n in self.counts.items())
        reasons = [*self.rejected, violated, f"quarantined in {self.quarantine}" if self.quarantine else ""]
        breach = "contract: " + "; ".join(filter(None, reasons))
        if self.rejected:
            return f"{self.table}/{self.name} violates the {breach}"
        twice = f"{self.duplicates} duplicates" if self.duplicates else ""
        invalid = f"{self.invalid} violate the {breach}" if self.invalid else ""
        parts = (f"{self.accepted} rows", twice, invalid, *self.warnings)
        return f"{self.table}/{self.name}: " + "; ".join(filter(None, parts))


@dataclass(frozen=True)
class IngestReport:
    """The results of ingesting batches.

    Attributes:
        batches: The batches.
        lost: The archived batches that the lake lacks, in one line per table.
    """

    batches: tuple[Batch, ...]
    lost: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether no batch was rejected as a whole, and none is lost."""
        return not self.lost and not any(batch.rejected for batch in self.batches)

    def __str__(self) -> str:
        """One line per batch."""
        return "\n".join(map(str, (*self.batches, *self.lost))) or "the inbox is empty"


def check(workspace: Workspace, file: Path, *, table: str | None = None, now: datetime | None = None) -> Batch:
    """Validate a file against the contract of its table without writing anything.

    Raises:
        InputError: The file can't be read, or its table is unclear.
    """
    content, rows = read_file(file)
    schema = table_of(workspace.problem, file, rows, table)
    return _batch(schema, file, content, _validate(workspace, schema, file, rows, now=now or datetime.now(UTC)))


def ingest(
    workspace: Workspace, file: Path | None = None, *, table: str | None = None, now: datetime | None = None
) -> IngestReport:
    """Ingest a file. Default: all files in the inbox.

    Raises:
        InputError: The file can't be read, or its table is unclear.
    """
    moment = now or datetime.now(UTC)
    if file is None:
        return ingest_inbox(workspace, now=moment)
    return IngestReport((ingest_file(workspace, file, now=moment, table=table),))


def ingest_file(workspace: Workspace, path: Path, *, now: datetime, table: str | None = None) -> Batch:
    """Ingest a file without moving it.

    Raises:
        InputError: The file can't be read, or its table is unclear.
    """
    content, rows = read_file(path)
    schema = table_of(workspace.problem, path, rows, table)
    return workspace.lake.retry(
        schema.name, lambda version: _ingest(workspace, schema, path, content, rows, now=now, version=version)
    )


def _ingest(
    workspace: Workspace,
    schema: Schema,
    path: Path,
    content: bytes,
    rows: pl.DataFrame,
    *,
    now: datetime,
    version: int,
) -> Batch:
    """Validate rows against a version of their table and append them to it.

    Raises:
        Conflict: Other rows were appended in the meantime; the batch must be validated against them.
    """
    if workspace.lake.has(schema.name, _id(content)):
        return Batch(schema.name, path.name, _id(content), seen=True)
    report = _validate(workspace, schema, path, rows, now=now)
    batch = _batch(schema, path, content, report)
    if not batch.ok:
        batch = _quarantine(workspace, batch, report.invalid, now=now)
    if batch.rejected:
        copy = _quarantined_file(workspace, batch)
        write_file(copy, content)
        erasures.remove_erased(workspace.lake, workspace.problem, copy)
    elif batch.accepted:
        try:
            _append(workspace, schema, batch, report.valid, now=now, version=version)
        except Conflict:
            shutil.rmtree(workspace.path(batch.quarantine), ignore_errors=True) if batch.quarantine else None
            raise
    return batch


def ingest_inbox(workspace: Workspace, *, now: datetime) -> IngestReport:
    """Ingest all files of the inbox in the order of their names, and move them to the archive or to quarantine.

    Links are followed. Hidden files, marker files (`_SUCCESS`) and files that are still being copied are skipped.
    Labels are ingested after all other tables.
    """
    labels, inbox = workspace.problem.labels.name, workspace.path(workspace.settings.inbox)
    files = sorted(waiting_files(inbox), key=lambda file: (_folder(inbox, file) == labels, file))
    batches = tuple(_ingest_and_move(workspace, inbox, file, now=now) for file in files)
    return IngestReport(batches, tuple(lost_batches(workspace, now=now, ingested=batches)))


def lost_batches(workspace: Workspace, *, now: datetime, ingested: tuple[Batch, ...] = ()) -> Iterator[str]:
    """Archived batches with rows that a local lake lacks, as after a power loss; one line per table.

    Args:
        workspace: The workspace.
        now: The current time.
        ingested: Batches that need no check.
    """
    archive, inbox = (workspace.path(folder) for folder in (workspace.settings.archive, workspace.settings.inbox))
    for name, schema in workspace.problem.schemas.items() if workspace.lake.is_local else ():
        archived = sorted(path for path in (archive / name).glob("*") if path.is_file())
        stored = workspace.lake.scan(schema).select(pl.col(BATCH).unique()).collect()[BATCH] if archived else ()
        known = {batch_id[:8] for batch_id in (*stored, *(batch.id for batch in ingested))}
        absent = [path for path in archived if path.stem.rpartition("-")[2] not in known]
        if lost := [path for path in absent if _is_lost(workspace, path, name, now)]:
            what = f"{len(lost)} archived batches of {name} are not in the lake, such as {lost[0]}"
            yield f"{what}: move them to {inbox / name} and call run"


def _is_lost(workspace: Workspace, path: Path, table: str, now: datetime) -> bool:
    """Whether an archived batch has rows to append: one of duplicates has none."""
    try:
        batch = check(workspace, path, table=table, now=now)
    except Unreadable:
        return True
    return bool(batch.accepted or batch.rejected)


def _folder(inbox: Path, path: Path) -> str:
    """The folder of the inbox that a file is in, which names its table."""
    return path.relative_to(inbox).parts[0] if path.parent != inbox else inbox.name


def _ingest_and_move(workspace: Workspace, inbox: Path, path: Path, *, now: datetime) -> Batch:
    """Ingest a file of the inbox, and move it to the archive, or to quarantine if it is rejected."""
    folder = _folder(inbox, path)
    try:
        batch = ingest_file(workspace, path, now=now, table=folder if folder in workspace.problem.schemas else None)
    except Unreadable as error:
        unreadable = Batch(folder, path.name, _id_of(path), rejected=(str(error),))
        batch = _quarantine(workspace, unreadable, BatchReport().invalid, now=now)
    else:
        erasures.remove_erased(workspace.lake, workspace.problem, path)
        if not path.exists():  # it had erased rows alone
            return batch
    archived = workspace.path(workspace.settings.archive) / batch.table / f"{path.stem}-{batch.id[:8]}{path.suffix}"
    target = _quarantined_file(workspace, batch) if batch.rejected else archived
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():  # the file that it points to may change
        shutil.copyfile(path, target)
        path.unlink()
    else:
        shutil.move(path, target)
    return batch


def waiting_files(inbox: Path) -> Iterator[Path]:
    """The files that are batches, also behind links."""
    visited = set[Path]()
    for folder, folders, names in os.walk(inbox, followlinks=True):
        here = Path(folder)
        if here.resolve() in visited:  # by a circle of links
            folders.clear()
            continue
        visited.add(here.resolve())
        folders[:] = [name for name in folders if not name.startswith(SKIPPED)]
        for path in (here / name for name in names):
            if path.name.startswith(SKIPPED) or path.name.lower().endswith(PARTIAL):
                continue
            if path.is_file():
                yield path
            else:
                log.warning("ingest    %s is skipped: it is a broken link or no file", path)


def table_of(problem: Problem, path: Path, rows: pl.DataFrame, given: str | None) -> Schema:
    """The table of a file: the given one, or derived from its folder or its columns.

    Raises:
        InputError: The table doesn't exist, or is ambiguous.
    """
    schemas, names = problem.schemas, ", ".join(problem.schemas)
    if given is not None and given not in schemas:
        raise InputError(f"there is no table {given!r}: tables are {names}")
    if named := schemas.get(given or path.parent.name):
        return named
    fitting = [schema for schema in schemas.values() if len(schemas) == 1 or set(schema.names) <= set(rows.columns)]
    if len(fitting) != 1:
        raise Unreadable(f"{path} has the columns of {len(fitting)} tables: name one with --table ({names})")
    return fitting[0]


def _validate(workspace: Workspace, schema: Schema, path: Path, rows: pl.DataFrame, *, now: datetime) -> BatchReport:
    try:
        batch = conform_rows(workspace.problem.translated(schema.name, rows), schema, path)
    except ContractViolation as violation:
        return BatchReport(rejected=violation.reasons)
    context = read_context(workspace.lake, workspace.problem, schema, batch)
    return validate(batch, schema, context=context, now=now)


def _batch(schema: Schema, path: Path, content: bytes, report: BatchReport) -> Batch:
    return Batch(
        table=schema.name,
        name=path.name,
        id=_id(content),
        accepted=len(report.valid),
        invalid=len(report.invalid),
        duplicates=report.duplicates,
        counts=report.counts,
        rejected=report.rejected,
        warnings=report.warnings,
    )


def _append(
    workspace: Workspace, schema: Schema, batch: Batch, rows: pl.DataFrame, *, now: datetime, version: int
) -> None:
    """Append the valid rows of a batch with time of ingestion, batch id and version of the contract."""
    stamped = rows.with_columns(
        pl.lit(now).cast(DTYPES[datetime]).alias(INGESTED_AT),
        pl.lit(batch.id).alias(BATCH),
        pl.lit(schema.model.version, dtype=pl.Int64).alias(CONTRACT),
    )
    workspace.lake.append(schema.name, stamped, batch=batch.id, expected=version)


def _quarantine(workspace: Workspace, batch: Batch, invalid: pl.DataFrame, *, now: datetime) -> Batch:
    """Write the invalid rows with their violations, and the reasons, to the quarantine folder of the batch."""
    folder = workspace.settings.quarantine / batch.table / f"{Path(batch.name).stem}-{batch.id[:8]}"
    quarantined, target = replace(batch, quarantine=folder.as_posix()), workspace.path(folder)
    if len(invalid):
        with atomic_write(target / INVALID) as draft:
            invalid.write_parquet(draft)
    reasons = json.dumps(asdict(quarantined) | {"ingested_at": now.isoformat()}, indent=2)
    write_file(target / REASONS, reasons)
    return quarantined


def _quarantined_file(workspace: Workspace, batch: Batch) -> Path:
    """The path of the unchanged file of a rejected batch."""
    name = f"batch-{batch.name}" if batch.name.lower() in {INVALID, REASONS} else batch.name
    return workspace.path(batch.quarantine or "") / name


def _id(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _id_of(path: Path) -> str:
    """The id of a file; for an unreadable file, a hash of its name."""
    try:
        return _id(path.read_bytes())
    except OSError:
        return _id(path.name.encode())
