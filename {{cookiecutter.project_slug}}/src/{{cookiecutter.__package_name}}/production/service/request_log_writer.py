"""The writer of the request log: rows are buffered and appended to the table `requests` in the background."""

import json
import logging
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from threading import Lock
from time import monotonic
from uuid import uuid4

import polars as pl

from {{cookiecutter.__package_name}}.core.contracts.schema import PREDICTED_AT
from {{cookiecutter.__package_name}}.core.errors import InputError, summarize
from {{cookiecutter.__package_name}}.core.store import erasures
from {{cookiecutter.__package_name}}.core.store import request_log as table
from {{cookiecutter.__package_name}}.core.workspace import Workspace
from {{cookiecutter.__package_name}}.production.service.serving_model import PredictionBatch, ServingModel

log = logging.getLogger(__name__)

FULL = 10_000  # buffered rows that trigger a flush


@dataclass(frozen=True)
class LoggedBatch:
    """Rows that were predicted together.

    Attributes:
        ids: For each row the id of its request, its number there, and whether the request succeeded.
        raw: The raw rows; without columns if the request had features.
        batch: Their predictions.
        model: The serving model.
        at: The time of the event.
    """

    ids: list[tuple[str, int, bool]]
    raw: pl.DataFrame
    batch: PredictionBatch
    model: ServingModel
    at: datetime


class RequestLogWriter:
    """Buffers rows until they are appended to the table; if the table can't be written, the oldest are dropped.

    Args:
        workspace: The workspace.
        max_rows: Maximum number of buffered rows.

    Attributes:
        rows: The number of buffered rows.
        lost: The number of dropped rows.
    """

    def __init__(self, workspace: Workspace, *, max_rows: int) -> None:
        self._seconds, self._flushed = workspace.settings.serve_log_flush_seconds, monotonic()
        self._lake, self._max_rows = workspace.lake, max_rows
        self._dtypes = table.columns(workspace.problem)
        self._lock = Lock()
        self._new: list[LoggedBatch] = []
        self._unwritten: dict[str, pl.DataFrame] = {}  # by batch id, for exactly-once appends
        self.rows = self.lost = self._new_rows = 0

    @property
    def due(self) -> bool:
        """Whether a flush is due, by time or by number of rows."""
        return monotonic() >= self._flushed + self._seconds or self._new_rows >= FULL

    def add(self, batch: LoggedBatch) -> None:
        """Buffer a batch until the next flush."""
        with self._lock:
            self._new.append(batch)
            self._new_rows += len(batch.ids)
            self.rows += len(batch.ids)
            while self.rows > self._max_rows and (self._unwritten or len(self._new) > 1):
                self._drop_oldest()

    def flush(self) -> int:
        """Append the buffered rows to the table; return how many. After an error they stay buffered."""
        written, self._flushed = 0, monotonic()
        with self._lock:
            new, self._new, self._new_rows = self._new, [], 0
        packed = self._packed(new)
        with self._lock:
            self._unwritten |= {} if packed.is_empty() else {uuid4().hex: packed}
            unwritten = list(self._unwritten.items())
        try:
            for batch, rows in unwritten:
                self._lake.retry(table.REQUESTS, partial(self._append, batch, rows))
                with self._lock:
                    self.rows -= len(self._unwritten.pop(batch, ""))
                written += len(rows)
        except InputError as error:
            log.warning("serve     %d rows wait to be logged: %s", self.rows, error)
        return written

    def _append(self, batch: str, rows: pl.DataFrame, version: int) -> None:
        remaining = erasures.drop_erased(self._lake, rows)
        self._lake.append(table.REQUESTS, remaining, batch=batch, expected=version)

    def _drop_oldest(self) -> None:
        if self._unwritten:
            dropped = len(self._unwritten.pop(next(iter(self._unwritten))))
        else:
            dropped = len(self._new.pop(0).ids)
            self._new_rows -= dropped
        self.rows, self.lost = self.rows - dropped, self.lost + dropped

    def _packed(self, batches: list[LoggedBatch]) -> pl.DataFrame:
        """Batches as rows of the table, which need less memory; errors are logged."""
        frames = [pl.DataFrame(schema=self._dtypes)]
        for batch in batches:
            try:
                frames.append(self._frame(batch))
            except Exception as error:  # noqa: BLE001 - a fault of the log is no fault of a request
                log.warning("serve     %d rows can't be logged: %s", len(batch.ids), summarize(error))
                with self._lock:
                    self.rows, self.lost = self.rows - len(batch.ids), self.lost + len(batch.ids)
        return pl.concat(frames, how="diagonal")

    def _frame(self, batch: LoggedBatch) -> pl.DataFrame:
        """The table's rows for a batch; it has not all columns."""
        rows, answered = batch.batch.rows, pl.Series([answered for _, _, answered in batch.ids])
        ids = [(request, n, batch.at) for request, n, _ in batch.ids]
        names = (table.ID, table.ROW_NUMBER, table.SERVED_AT)
        return pl.DataFrame(ids, schema={name: table.COLUMNS[name] for name in names}, orient="row").with_columns(
            *batch.raw.select(name for name in self._dtypes if name in batch.raw.columns),
            *rows.select(name for name in (PREDICTED_AT,) if name in rows.columns),
            pl.lit(batch.model.release.version, dtype=pl.Int64).alias(table.VERSION),
            pl.lit(json.dumps(batch.model.versions)).alias(table.TABLES),
            _as_json(rows.select(list(batch.model.release.features))).alias(table.FEATURES),
            pl.when(answered).then(_as_json(batch.batch.predictions)).alias(table.PREDICTION),
        )


def _as_json(rows: pl.DataFrame) -> pl.Series:
    """Each row as JSON with 64-bit floats, as in responses."""
    return rows.cast({pl.Float32: pl.Float64}).select(pl.struct(pl.all()).struct.json_encode()).to_series()
