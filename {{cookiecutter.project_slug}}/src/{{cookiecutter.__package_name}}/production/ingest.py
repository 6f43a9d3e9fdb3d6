"""Batches into the lake: read, held against the contract, appended once; what breaks it goes to quarantine."""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import reduce
from io import BytesIO
from operator import or_
from pathlib import Path

import polars as pl
from polars.exceptions import PolarsError

from {{cookiecutter.__package_name}}.shared import BadInput, erasures, first_line, whole
from {{cookiecutter.__package_name}}.shared.checks import (
    BatchReport,
    ContractBreach,
    accept,
    conform,
    marked,
    parse,
)
from {{cookiecutter.__package_name}}.shared.problem import Problem
from {{cookiecutter.__package_name}}.shared.schema import ARRIVED, AT, BATCH, CONTRACT, DTYPES, Column, Schema
from {{cookiecutter.__package_name}}.shared.usual import astray
from {{cookiecutter.__package_name}}.shared.workspace import Workspace

log = logging.getLogger(__name__)


WEEKS = 4  # before a batch, to which it is compared
OURS = ("rejected.parquet", "reasons.json")  # what stands beside a file in quarantine


class Unreadable(BadInput):
    """The file can't be read, or it isn't clear whose rows it has."""


@dataclass(frozen=True)
class Batch:
    """What became of a batch.

    Attributes:
        table: Whose rows they are.
        name: The file's name.
        id: A hash of its content: the same content is the same batch.
        seen: Whether it was in the lake before; then nothing else was looked at.
        accepted: Rows that keep the contract and were not in the lake.
        rejected: Rows that break it.
        repeats: Rows that are in the lake already, or in the file before.
        counts: How many rows break each rule.
        breaches: Why the batch as a whole can't be accepted: then none of its rows is.
        notes: What is new in it and let in.
        quarantine: Where rejected rows or the whole file are kept.
    """

    table: str
    name: str
    id: str
    seen: bool = False
    accepted: int = 0
    rejected: int = 0
    repeats: int = 0
    counts: dict[str, int] | None = None
    breaches: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    quarantine: str | None = None

    @property
    def ok(self) -> bool:
        """Whether every row keeps the contract."""
        return not self.breaches and not self.rejected

    def __str__(self) -> str:
        """One line for people."""
        if self.seen:
            return f"{self.table}/{self.name}: in the lake already, nothing to do"
        broken = ", ".join(f"{rule} ({n})" for rule, n in (self.counts or {}).items())
        reasons = "; ".join(filter(None, (*self.breaches, broken)))
        kept = f"; kept in {self.quarantine}" if self.quarantine else ""
        if self.breaches:
            return f"{self.table}/{self.name} breaks the contract: {reasons}{kept}"
        parts = [f"{self.accepted} rows"]
        parts += [f"{self.repeats} in the lake already or twice in the file"] if self.repeats else []
        parts += [f"{self.rejected} break the contract: {reasons}{kept}"] if self.rejected else []
        return f"{self.table}/{self.name}: " + "; ".join([*parts, *self.notes])


@dataclass(frozen=True)
class Ingested:
    """What became of some batches."""

    batches: tuple[Batch, ...]

    @property
    def ok(self) -> bool:
        """Whether none was refused as a whole; then a person must act."""
        return not any(batch.breaches for batch in self.batches)

    def __str__(self) -> str:
        """One line a batch, for people."""
        return "\n".join(map(str, self.batches)) or "the inbox is empty"


def check(workspace: Workspace, file: Path, *, table: str | None = None, now: datetime | None = None) -> Batch:
    """Hold a file against its table's contract, as if it arrived now; nothing is written.

    Raises:
        BadInput: The file can't be read, or it isn't clear whose rows it has.
    """
    content = content_of(file)
    rows = read_rows(file, content)
    schema = table_of(workspace.problem, file, rows, table)
    return _batch(schema, file, content, _judged(workspace, schema, file, rows, now=now or datetime.now(UTC)))


def ingest(
    workspace: Workspace, file: Path | None = None, *, table: str | None = None, now: datetime | None = None
) -> Ingested:
    """Append a file's rows to its table, once; or what is in the inbox.

    Raises:
        BadInput: The file can't be read, or it isn't clear whose rows it has.
    """
    moment = now or datetime.now(UTC)
    if file is None:
        return ingest_inbox(workspace, now=moment)
    return Ingested((ingest_file(workspace, file, now=moment, table=table),))


def ingest_file(workspace: Workspace, path: Path, *, now: datetime, table: str | None = None) -> Batch:
    """Append a file's rows to its table, once; the file stays where it is.

    Raises:
        BadInput: The file can't be read, or it isn't clear whose rows it has.
    """
    content = content_of(path)
    rows = read_rows(path, content)
    schema = table_of(workspace.problem, path, rows, table)
    if workspace.lake.has(schema.name, _id(content)):
        return Batch(schema.name, path.name, _id(content), seen=True)
    judged = _judged(workspace, schema, path, rows, now=now)
    batch = _batch(schema, path, content, judged)
    if not batch.ok:
        batch = _quarantined(workspace, batch, judged, now=now)
        if batch.breaches:
            _whole(workspace, batch).write_bytes(content)
    if isinstance(judged, BatchReport) and not batch.breaches and batch.accepted:
        stamped = judged.accepted.with_columns(
            pl.lit(now).cast(DTYPES[datetime]).alias(ARRIVED),
            pl.lit(batch.id).alias(BATCH),
            pl.lit(schema.model.version, dtype=pl.Int64).alias(CONTRACT),
        )
        workspace.lake.append(schema.name, stamped, batch=batch.id, gains=True)
    return batch


def ingest_inbox(workspace: Workspace, *, now: datetime) -> Ingested:
    """Ingest every file of the inbox, in the order of its name; it moves to the archive, or to quarantine.

    Only hidden files and drafts (`.part`) stay: they are still being written. Tables take their files side by side, but
    labels after the rows that they are of.
    """
    problem, labels = workspace.problem, workspace.problem.labels.name
    files = sorted(_waiting(workspace.path(workspace.settings.inbox)), key=lambda file: file.parent.name == labels)
    alike = {path: problem.schema.name if path.parent.name == labels else path.parent.name for path in files}
    if not set(alike.values()) <= set(problem.schemas):  # a loose file may be any table's
        alike = dict.fromkeys(files, "")
    groups = [[path for path in files if alike[path] == table] for table in dict.fromkeys(alike.values())]
    lake = workspace.lake  # opened once, by this thread
    with ThreadPoolExecutor(max(1, len(groups))) as pool:
        done = pool.map(lambda paths: [_taken(workspace, path, now=now) for path in paths], groups)
        batches = [batch for group in done for batch in group]
    log.debug("%d batches went into %s", len(batches), lake.url)
    return Ingested(tuple(batches))


def _taken(workspace: Workspace, path: Path, *, now: datetime) -> Batch:
    """Ingest a file of the inbox, and take it out of there."""
    try:
        batch = ingest_file(workspace, path, now=now)
    except Unreadable as error:
        unread = Batch(path.parent.name, path.name, _id_of(path), breaches=(str(error),))
        batch = _quarantined(workspace, unread, None, now=now)
    else:
        erasures.clean(workspace.lake, workspace.problem.schema, path)
    _clear(workspace, path, batch)
    log.debug("%s", batch)
    return batch


def _waiting(inbox: Path) -> list[Path]:
    files = (path for path in inbox.rglob("*") if path.is_file() and path.suffix != ".part")
    return sorted(path for path in files if not any(part.startswith(".") for part in path.relative_to(inbox).parts))


def read_rows(path: Path, content: bytes) -> pl.DataFrame:
    """The rows of a Parquet or CSV file, from its content; CSV gives text.

    Raises:
        BadInput: It is neither, or broken.
    """
    with _reading(path):
        return _scan(path, BytesIO(content)).collect()


def chunks(path: Path, size: int, *, start: int = 0) -> Iterator[pl.DataFrame]:
    """The rows of a Parquet or CSV file so many at a time, from a row on; CSV gives text, no rows one empty chunk.

    Memory is bounded, but a row group of a Parquet file is read as a whole.

    Raises:
        BadInput: It is neither, or broken.
    """
    with _reading(path):
        rows, empty = _scan(path, path.absolute()), not start
        for chunk in rows.slice(start).collect_batches(chunk_size=size, maintain_order=True, lazy=True):
            empty = False
            yield chunk
        if empty:
            yield rows.head(0).collect()


def _scan(path: Path, source: Path | BytesIO) -> pl.LazyFrame:
    match path.suffix.lower():
        case ".parquet":
            return pl.scan_parquet(source, glob=False, hive_partitioning=False)
        case ".csv":
            return pl.scan_csv(source, infer_schema=False, glob=False)
        case other:
            raise Unreadable(f"{path} ends in {other!r}: batches are .parquet or .csv")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unreadable(f"{path} can't be read: {error.strerror or error}") from error
    except PolarsError as error:
        raise Unreadable(f"{path} can't be read as {path.suffix[1:]}: {first_line(error)}; write it again") from error


def table_of(problem: Problem, path: Path, rows: pl.DataFrame, given: str | None) -> Schema:
    """Whose rows they are: as said, or by the folder's name, or by the columns.

    Raises:
        BadInput: There is no such table, or more than one would do.
    """
    schemas = problem.schemas
    names = ", ".join(schemas)
    if given is not None and given not in schemas:
        raise BadInput(f"there is no table {given!r}: tables are {names}")
    if name := given or (path.parent.name if path.parent.name in schemas else None):
        return schemas[name]
    fitting = [schema for schema in schemas.values() if set(rows.columns) & set(schema.names) == set(schema.names)]
    if len(schemas) == 1:
        fitting = list(schemas.values())
    if len(fitting) != 1:
        raise Unreadable(f"{path} has the columns of {len(fitting)} tables: say which with --table ({names})")
    return fitting[0]


def typed(rows: pl.DataFrame, schema: Schema, path: Path) -> pl.DataFrame:
    """A file's rows, in the contract's types where they were text."""
    return parse(rows, schema) if path.suffix.lower() == ".csv" else rows


def _judged(
    workspace: Workspace, schema: Schema, path: Path, rows: pl.DataFrame, *, now: datetime
) -> BatchReport | ContractBreach:
    try:
        rows = conform(typed(rows, schema, path), schema)
        rows = erasures.without(workspace.lake, workspace.problem.schema, rows)
        if rows.is_empty():
            return BatchReport(rows, marked(rows, schema), 0, (), ("all of its rows were erased",))
        stored, days = _earlier(workspace, schema, rows)
        subject = _subject(workspace, schema, rows)
        report = accept(rows, schema, stored=stored, days=days, subject=subject, now=now)
    except ContractBreach as breach:
        return breach
    found = () if subject is None else astray(report.accepted, workspace.problem.schema, subject)
    return replace(report, notes=(*report.notes, *found))


def _earlier(workspace: Workspace, schema: Schema, rows: pl.DataFrame) -> tuple[pl.DataFrame, list[pl.DataFrame]]:
    """The lake's rows that a batch is held against: cost follows the batch.

    Returns:
        Those that may share a key, within the batch's range of keys; and those of its days, and of the same days in
        the weeks before.
    """
    near, days = _near(schema, rows), _days(schema, rows)
    found = workspace.lake.scan(schema).select(schema.names).filter(reduce(or_, days, near)).collect()
    return found.filter(near), [found.filter(day) for day in days]


def _subject(workspace: Workspace, schema: Schema, rows: pl.DataFrame) -> pl.DataFrame | None:
    """The keys of a batch of labels whose row is in the lake, and when each is predicted; none of other tables."""
    subject = workspace.problem.schema
    if schema is subject or not schema.target or not subject.key:
        return None
    at = pl.col(subject.event_time) - subject.lead if subject.event_time else pl.lit(None, DTYPES[datetime])
    near = workspace.lake.scan(subject).filter(_near(subject, rows)).select(*subject.key, at.alias(AT))
    return near.join(rows.lazy(), on=subject.key, how="semi").collect()


def _near(schema: Schema, rows: pl.DataFrame) -> pl.Expr:
    """Whether a stored row's key lies within the range of a batch's; where there is none, no row's does."""
    parts = [_within(schema.column(name), rows[name]) for name in schema.key]
    return pl.all_horizontal(parts) if parts else pl.lit(value=False)


def _within(column: Column, values: pl.Series) -> pl.Expr:
    """Whether a stored value lies within the range of a batch's, or is missing, as one of them may be."""
    least, most = (pl.lit(edge, dtype=column.dtype) for edge in (values.min(), values.max()))
    near = pl.col(column.name).is_between(least, most)
    return near | pl.col(column.name).is_null() if column.optional else near


def _days(schema: Schema, rows: pl.DataFrame) -> list[pl.Expr]:
    """Whether a row is of a batch's days, or of the same days in each of the weeks before; none without a time."""
    first, last = (rows[schema.time].min(), rows[schema.time].max()) if schema.time else (None, None)
    if not isinstance(first, datetime) or not isinstance(last, datetime):
        return []
    weeks = (timedelta(weeks=n) for n in range(WEEKS + 1))
    return [pl.col(schema.time or "").is_between(pl.lit(first - back), pl.lit(last - back)) for back in weeks]


def _batch(schema: Schema, path: Path, content: bytes, judged: BatchReport | ContractBreach) -> Batch:
    batch = Batch(schema.name, path.name, _id(content))
    if isinstance(judged, ContractBreach):
        return replace(batch, breaches=judged.reasons)
    batch = replace(batch, accepted=len(judged.accepted), rejected=len(judged.rejected), repeats=judged.repeats)
    return replace(batch, counts=judged.counts, breaches=judged.breaches, notes=judged.notes)


def _quarantined(
    workspace: Workspace, batch: Batch, judged: BatchReport | ContractBreach | None, *, now: datetime
) -> Batch:
    """Keep the rejected rows with the rules that they break, and the reasons, in a folder of the batch's own."""
    folder = workspace.settings.quarantine / batch.table / f"{Path(batch.name).stem}-{batch.id[:8]}"
    target = workspace.path(folder)
    target.mkdir(parents=True, exist_ok=True)
    if isinstance(judged, BatchReport):
        judged.rejected.write_parquet(target / OURS[0])
    kept = replace(batch, quarantine=folder.as_posix())
    reasons = json.dumps(asdict(kept) | {"arrived": now.isoformat()}, indent=2)
    with whole(target / OURS[1]) as draft:
        draft.write_text(reasons, encoding="utf-8", newline="\n")
    return kept


def _whole(workspace: Workspace, batch: Batch) -> Path:
    """Where a file that is breached as a whole is kept, as it came."""
    name = f"batch-{batch.name}" if batch.name.lower() in OURS else batch.name
    return workspace.path(batch.quarantine or "") / name


def _clear(workspace: Workspace, path: Path, batch: Batch) -> None:
    """Take a file out of the inbox: into the archive, or as a whole into quarantine."""
    if batch.breaches:
        shutil.move(path, _whole(workspace, batch))
        return
    folder = workspace.path(workspace.settings.archive) / batch.table
    folder.mkdir(parents=True, exist_ok=True)
    shutil.move(path, folder / f"{path.stem}-{batch.id[:8]}{path.suffix}")


def content_of(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        BadInput: It is not there, or can't be read.
    """
    with _reading(path):
        return path.read_bytes()


def digest_of(path: Path) -> str:
    """A hash of a file's content, read block by block.

    Raises:
        BadInput: It is not there, or can't be read.
    """
    with _reading(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _id(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _id_of(path: Path) -> str:
    """The id of a file that may be one that can't be opened: then its name stands in."""
    try:
        return _id(path.read_bytes())
    except OSError:
        return _id(path.name.encode())
