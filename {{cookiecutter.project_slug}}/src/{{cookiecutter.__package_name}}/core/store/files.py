"""Files of rows, read at once or in chunks, and written as a stream.

Of a CSV file, the delimiter and the encoding are found: comma, semicolon, tab or bar; UTF-8, UTF-16 or Windows-1252.
"""

import atexit
import codecs
import csv
import glob
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import IO, BinaryIO

import polars as pl
from polars.exceptions import PanicException, PolarsError
from polars.io.plugins import register_io_source

from {{cookiecutter.__package_name}}.core.contracts.schema import Schema
from {{cookiecutter.__package_name}}.core.contracts.validation import conform, parse
from {{cookiecutter.__package_name}}.core.errors import InputError, atomic_write, summarize

TEXT, JSON = (".csv", ".tsv"), (".jsonl", ".ndjson")  # all columns are text; times are
DELIMITERS = (",", ";", "\t", "|")
SNIFFED_LINES, SNIFFED_BYTES = 50, 1 << 24
READABLE = (*TEXT, ".parquet", ".arrow", ".feather", *JSON)

BINARY = (".parquet", ".arrow", ".feather")  # some damages abort their reader

READER = """
import json, sys
from pathlib import Path
import polars as pl
print(flush=True)
for line in sys.stdin:
    path, reason = Path(json.loads(line)), ""
    try:
        path.open("rb").close()
        scan = pl.scan_parquet if path.suffix.lower() == ".parquet" else pl.scan_ipc
        for _ in scan(path, glob=False, hive_partitioning=False).collect_batches(chunk_size=100_000, lazy=True):
            pass
    except OSError:
        pass
    except Exception as error:
        reason = str(error).partition("\\n")[0] or type(error).__name__
    print(json.dumps(reason), flush=True)
"""


class Unreadable(InputError):
    """The file can't be read, or its table is unclear."""


@cache
def _reader() -> tuple[IO[str], IO[str]]:
    """Another process that tries files until this one ends: its input and output."""
    line, pipe = [sys.executable, "-c", READER], subprocess.PIPE
    process = subprocess.Popen(line, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, encoding="utf-8")  # noqa: S603
    atexit.register(process.communicate)
    if not (process.stdin and process.stdout and process.stdout.readline()):
        raise InputError(f"{sys.executable} could not be started to read files")
    return process.stdin, process.stdout


def binary_damage(path: Path) -> str:
    """Why a Parquet or Arrow file can't be read, tried in another process: some damages abort it.

    The reason is empty if the file can be read, or can't even be opened.
    """
    names, reasons = _reader()
    print(json.dumps(str(path.absolute())), file=names, flush=True)
    if reason := reasons.readline():
        return str(json.loads(reason))
    _reader.cache_clear()
    return "it crashes its reader"


def _require_whole(path: Path) -> None:
    if path.suffix.lower() in BINARY and (reason := binary_damage(path)):
        raise Unreadable(f"{path} can't be read as {path.suffix[1:]}: {reason}; write it again")


def read_file(path: Path) -> tuple[bytes, pl.DataFrame]:
    """A file's bytes and its rows; all columns of a CSV file are text.

    Raises:
        Unreadable: The file can't be read, is of another kind, or is broken.
    """
    _require_whole(path)
    with _reading(path):
        content = path.read_bytes()
        return content, _scan(path, BytesIO(content)).collect()


def chunks(path: Path, size: int) -> Iterator[pl.DataFrame]:
    """The rows of a file in chunks of `size`; one empty chunk if it has no rows. All columns of a CSV file are text.

    Memory is bounded by the chunk and by the row groups of a Parquet file.

    Raises:
        Unreadable: The file is of another kind, or is broken.
    """
    _require_whole(path)
    with _reading(path):
        path.open("rb").close()  # clearer errors than those of Polars
        rows, empty = _scan(path, path.absolute()), True
        for chunk in rows.collect_batches(chunk_size=size, maintain_order=True, lazy=True):
            empty = False
            yield chunk
        if empty:
            yield rows.head(0).collect()


def conform_rows(rows: pl.DataFrame, schema: Schema, path: Path) -> pl.DataFrame:
    """Rows that were read from a file, with the schema's columns and types; the text of a CSV or JSON file is parsed.

    Raises:
        ContractViolation: As `parse` and `conform`.
    """
    return conform(parse(rows, schema) if path.suffix.lower() in {*TEXT, *JSON} else rows, schema)


def write_rows(path: Path, frames: Iterator[pl.DataFrame], schema: pl.Schema) -> None:
    """Write frames of one schema to a file, one at a time.

    An error or a second writer never leaves half a file.

    Raises:
        InputError: The file can't be written. Errors of the frames are raised as they are.
    """
    failed = False

    def source(*_: object) -> Iterator[pl.DataFrame]:
        nonlocal failed
        try:
            yield from frames
        except (Exception, PanicException) as error:
            failed = True
            if isinstance(error, Exception):
                raise
            raise PolarsError(summarize(error)) from None  # of a panic, Polars would print a traceback

    rows = register_io_source(source, schema=schema)
    sink = rows.sink_csv if path.suffix.lower() == ".csv" else rows.sink_parquet
    try:
        if path.is_dir():
            raise IsADirectoryError(None, "it is a folder")
        with atomic_write(path) as draft, ThreadPoolExecutor(1) as pool:
            pool.submit(sink, draft).result()  # Polars defers signals: the main thread stays free to handle them
    except (PolarsError, OSError) as error:
        if failed:
            raise
        raise InputError(f"{path.as_posix()} can't be written: {_reason(error)}") from error


def overwrite(path: Path, rows: pl.DataFrame) -> None:
    """Replace the rows of a file atomically; its kind, its delimiter and its time of modification stay."""
    times = path.stat()
    with atomic_write(path) as draft:
        match path.suffix.lower():
            case ".parquet":
                rows.write_parquet(draft)
            case ".arrow" | ".feather":
                rows.write_ipc(draft)
            case suffix if suffix in JSON:
                rows.write_ndjson(draft)
            case _:
                rows.write_csv(draft, separator=_in_utf8(path)[1])
        os.utime(draft, ns=(times.st_atime_ns, times.st_mtime_ns))


def _scan(path: Path, source: Path | BytesIO) -> pl.LazyFrame:
    match path.suffix.lower():
        case ".parquet":
            return pl.scan_parquet(source, glob=False, hive_partitioning=False)
        case ".arrow" | ".feather":
            return pl.scan_ipc(source, glob=False)
        case suffix if suffix in JSON:
            file = glob.escape(str(source)) if isinstance(source, Path) else source  # it has no `glob=False`
            return pl.scan_ndjson(file, infer_schema_length=None)
        case suffix if suffix in TEXT:
            text, delimiter = _in_utf8(source)
            rows = pl.scan_csv(text, separator=delimiter, infer_schema=False, glob=False)
            return rows.filter(pl.any_horizontal(pl.all().str.contains(r"\S")))  # a blank line is no row
        case other:
            raise Unreadable(f"{path} ends in {other!r}: batches are {', '.join(READABLE)}")


def _in_utf8(source: Path | BytesIO) -> tuple[Path | BytesIO, str]:
    """A CSV file in UTF-8, which is read as it is if it has this encoding, and its delimiter."""
    with source.open("rb") if isinstance(source, Path) else BytesIO(source.getvalue()) as file:
        head, encoding = file.read(2), "utf-8"
        file.seek(0)
        if head in {codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE}:
            encoding = "utf-16"
        elif not _is_utf8(file):
            encoding = "cp1252"
        file.seek(0)
        if encoding != "utf-8":
            text = file.read().decode(encoding, errors="replace")
            return BytesIO(text.encode()), _delimiter(text[:SNIFFED_BYTES].splitlines(keepends=True)[:SNIFFED_LINES])
        lines = [line.decode(errors="replace") for line in islice(file, SNIFFED_LINES)]
    return source, _delimiter(lines)


def _is_utf8(file: BinaryIO) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        while part := file.read(SNIFFED_BYTES):
            decoder.decode(part)
    except UnicodeDecodeError:
        return False
    return True


def _delimiter(lines: Sequence[str]) -> str:
    """The delimiter that splits each line into most columns; a comma if none does."""
    lines = [line for line in lines if line.strip()]
    widths = {mark: min(map(len, csv.reader(lines, delimiter=mark)), default=1) for mark in DELIMITERS}
    return max(DELIMITERS, key=lambda mark: widths[mark])


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unreadable(f"{path} can't be read: {_reason(error)}") from error
    except (PolarsError, PanicException, ValueError, MemoryError) as error:  # of a damaged file
        raise Unreadable(f"{path} can't be read as {path.suffix[1:]}: {summarize(error)}; write it again") from error


def _reason(error: PolarsError | OSError) -> str:
    return getattr(error, "strerror", None) or summarize(error)
