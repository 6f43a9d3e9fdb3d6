"""Batches into the lake: valid rows are appended exactly once, invalid rows and rejected files go to quarantine."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from {{cookiecutter.__package_name}}.core.contracts.schema import ARRIVED, BATCH, CONTRACT, DTYPES, Schema
from {{cookiecutter.__package_name}}.core.contracts.validation import BatchReport, ContractViolation, validate
from {{cookiecutter.__package_name}}.core.errors import BadInput, whole
from {{cookiecutter.__package_name}}.core.problem import Problem
from {{cookiecutter.__package_name}}.core.store import erasures
from {{cookiecutter.__package_name}}.core.store.batch_context import read_context
from {{cookiecutter.__package_name}}.core.store.files import Unreadable, conform_rows, read_file
from {{cookiecutter.__package_name}}.core.store.lake import Conflict
from {{cookiecutter.__package_name}}.core.workspace import Workspace

INVALID, REASONS = "rejected.parquet", "reasons.json"  # beside a file in quarantine


@dataclass(frozen=True)
class Batch:
    """What became of a batch.

    Attributes:
        table: The table of its rows.
        name: The file's name.
        id: A hash of its content: the same content is the same batch.
        seen: Whether it was in the lake before; then nothing else was checked.
        accepted: The number of valid rows that were not in the lake.
        invalid: The number of rows that violate the contract.
        duplicates: The number of rows that are in the lake already, or repeat another of the file.
        counts: The number of rows that violate each rule.
        rejected: Why the batch as a whole is rejected: then none of its rows is appended.
        warnings: What to look at in an accepted batch.
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
        """One line for people."""
        if self.seen:
            return f"{self.table}/{self.name}: in the lake already, nothing to do"
        violated = ", ".join(f"{rule} ({n})" for rule, n in self.counts.items())
        reasons = [*self.rejected, violated, f"kept in {self.quarantine}" if self.quarantine else ""]
        breach = "contract: " + "; ".join(filter(None, reasons))
        if self.rejected:
            return f"{self.table}/{self.name} breaks the {breach}"
        twice = f"{self.duplicates} in the lake already or twice in the file" if self.duplicates else ""
        invalid = f"{self.invalid} break the {breach}" if self.invalid else ""
        parts = (f"{self.accepted} rows", twice, invalid, *self.warnings)
        return f"{self.table}/{self.name}: " + "; ".join(filter(None, parts))


@dataclass(frozen=True)
class IngestReport:
    """What became of some batches."""

    batches: tuple[Batch, ...]

    @property
    def ok(self) -> bool:
        """Whether no batch was rejected as a whole; otherwise a person must act."""
        return not any(batch.rejected for batch in self.batches)

    def __str__(self) -> str:
        """One line a batch, for people."""
        return "\n".join(map(str, self.batches)) or "the inbox is empty"


def check(workspace: Workspace, file: Path, *, table: str | None = None, now: datetime | None = None) -> Batch:
    """Validate a file against its table's contract, as if it arrived now, without writing anything.

    Raises:
        BadInput: The file can't be read, or its table is unclear.
    """
    content, rows = read_file(file)
    schema = table_of(workspace.problem, file, rows, table)
    return _batch(schema, file, content, _validate(workspace, schema, file, rows, now=now or datetime.now(UTC)))


def ingest(
    workspace: Workspace, file: Path | None = None, *, table: str | None = None, now: datetime | None = None
) -> IngestReport:
    """Append a file's rows to its table, once; without a file, those of all files in the inbox.

    Raises:
        BadInput: The file can't be read, or its table is unclear.
    """
    moment = now or datetime.now(UTC)
    if file is None:
        return ingest_inbox(workspace, now=moment)
    return IngestReport((ingest_file(workspace, file, now=moment, table=table),))


def ingest_file(workspace: Workspace, path: Path, *, now: datetime, table: str | None = None) -> Batch:
    """Append a file's rows to its table, once; the file stays where it is.

    Raises:
        BadInput: The file can't be read, or its table is unclear.
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
        Conflict: Rows were appended meanwhile, with which these must be compared too.
    """
    if workspace.lake.has(schema.name, _id(content)):
        return Batch(schema.name, path.name, _id(content), seen=True)
    report = _validate(workspace, schema, path, rows, now=now)
    batch = _batch(schema, path, content, report)
    if not batch.ok:
        batch = _quarantine(workspace, batch, report.invalid, now=now)
    if batch.rejected:
        copy = _quarantined_file(workspace, batch)
        copy.write_bytes(content)
        erasures.clean(workspace.lake, workspace.problem.schema, copy)
    elif batch.accepted:
        try:
            _append(workspace, schema, batch, report.valid, now=now, version=version)
        except Conflict:
            shutil.rmtree(workspace.path(batch.quarantine), ignore_errors=True) if batch.quarantine else None
            raise
    return batch


def ingest_inbox(workspace: Workspace, *, now: datetime) -> IngestReport:
    """Ingest every file of the inbox, in the order of its name; it moves to the archive, or to quarantine.

    Only hidden files and drafts (`.part`) stay: they are still being written. Labels come after the rows of all tables.
    """
    labels, inbox = workspace.problem.labels.name, workspace.path(workspace.settings.inbox)
    files = sorted(_arrived(inbox), key=lambda file: (file.parent.name == labels, file))
    return IngestReport(tuple(_ingest_and_move(workspace, file, now=now) for file in files))


def _ingest_and_move(workspace: Workspace, path: Path, *, now: datetime) -> Batch:
    """Ingest a file of the inbox, and move it out of there: to the archive, or if it is rejected to quarantine."""
    try:
        batch = ingest_file(workspace, path, now=now)
    except Unreadable as error:
        unreadable = Batch(path.parent.name, path.name, _id_of(path), rejected=(str(error),))
        batch = _quarantine(workspace, unreadable, BatchReport().invalid, now=now)
    else:
        erasures.clean(workspace.lake, workspace.problem.schema, path)
    archived = workspace.path(workspace.settings.archive) / batch.table / f"{path.stem}-{batch.id[:8]}{path.suffix}"
    target = _quarantined_file(workspace, batch) if batch.rejected else archived
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(path, target)
    return batch


def _arrived(inbox: Path) -> Iterator[Path]:
    for path in inbox.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(inbox).parts)
        if path.is_file() and path.suffix != ".part" and not hidden:
            yield path


def table_of(problem: Problem, path: Path, rows: pl.DataFrame, given: str | None) -> Schema:
    """The table of a file's rows: the given one, or by the name of its folder, or by its columns.

    Raises:
        BadInput: There is no such table, or more than one would do.
    """
    schemas, names = problem.schemas, ", ".join(problem.schemas)
    if given is not None and given not in schemas:
        raise BadInput(f"there is no table {given!r}: tables are {names}")
    if named := schemas.get(given or path.parent.name):
        return named
    fitting = [schema for schema in schemas.values() if len(schemas) == 1 or set(schema.names) <= set(rows.columns)]
    if len(fitting) != 1:
        raise Unreadable(f"{path} has the columns of {len(fitting)} tables: say which with --table ({names})")
    return fitting[0]


def _validate(workspace: Workspace, schema: Schema, path: Path, rows: pl.DataFrame, *, now: datetime) -> BatchReport:
    try:
        batch = conform_rows(rows, schema, path)
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
    """Append a batch's valid rows, each with its arrival, batch and version of the contract."""
    stamped = rows.with_columns(
        pl.lit(now).cast(DTYPES[datetime]).alias(ARRIVED),
        pl.lit(batch.id).alias(BATCH),
        pl.lit(schema.model.version, dtype=pl.Int64).alias(CONTRACT),
    )
    workspace.lake.append(schema.name, stamped, batch=batch.id, expected=version)


def _quarantine(workspace: Workspace, batch: Batch, invalid: pl.DataFrame, *, now: datetime) -> Batch:
    """Write the invalid rows, each with the rules that it violates, and the reasons into the batch's own folder."""
    folder = workspace.settings.quarantine / batch.table / f"{Path(batch.name).stem}-{batch.id[:8]}"
    quarantined, target = replace(batch, quarantine=folder.as_posix()), workspace.path(folder)
    if len(invalid):
        invalid.write_parquet(target / INVALID, mkdir=True)
    reasons = json.dumps(asdict(quarantined) | {"arrived": now.isoformat()}, indent=2)
    with whole(target / REASONS) as draft:
        draft.write_text(reasons, encoding="utf-8", newline="\n")
    return quarantined


def _quarantined_file(workspace: Workspace, batch: Batch) -> Path:
    """Where the file of a rejected batch is kept as it came."""
    name = f"batch-{batch.name}" if batch.name.lower() in {INVALID, REASONS} else batch.name
    return workspace.path(batch.quarantine or "") / name


def _id(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _id_of(path: Path) -> str:
    """The id of a file that may be unreadable: then it is the hash of its name."""
    try:
        return _id(path.read_bytes())
    except OSError:
        return _id(path.name.encode())
