"""The log of requests and predictions in the table `requests`: appended in batches, so that no request waits for it."""

import json
import logging
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from threading import Lock
from time import monotonic
from uuid import uuid4

import polars as pl

from {{cookiecutter.__package_name}}.core.contracts.schema import AT
from {{cookiecutter.__package_name}}.core.errors import BadInput, first_line
from {{cookiecutter.__package_name}}.core.store import erasures
from {{cookiecutter.__package_name}}.core.store import request_log as table
from {{cookiecutter.__package_name}}.core.workspace import Workspace
from {{cookiecutter.__package_name}}.production.service.serving_model import PredictionBatch, ServingModel

log = logging.getLogger(__name__)

SMALL = 250  # as many small batches become one frame at the latest
FULL = 10_000  # as many rows are appended before it is time


@dataclass(frozen=True)
class LoggedRequest:
    """A request in the log.

    Attributes:
        id: Its own.
        rows: The number of its rows.
        answered: Whether it got predictions.
    """

    id: str
    rows: int
    answered: bool


@dataclass(frozen=True)
class LoggedBatch:
    """Requests that were computed together.

    Attributes:
        requests: The requests.
        raw: Their raw rows; without columns where features were given.
        batch: Their predictions.
        model: What predicted.
        at: When.
    """

    requests: list[LoggedRequest]
    raw: pl.DataFrame
    batch: PredictionBatch
    model: ServingModel
    at: datetime

    @property
    def rows(self) -> int:
        """The number of rows of all requests."""
        return len(self.batch.rows)


class RequestLog:
    """Keeps rows in memory until they are appended to the table; the newest, while it can't be written.

    Args:
        workspace: The workspace.
        max_rows: The number of rows that are kept in memory.

    Attributes:
        rows: The number of rows in memory.
        lost: The number of rows that will never be appended.
    """

    def __init__(self, workspace: Workspace, *, max_rows: int) -> None:
        self._seconds, self._due = workspace.settings.serve_keeps, monotonic() + workspace.settings.serve_keeps
        self._lake, self._schema, self._max_rows = workspace.lake, workspace.problem.schema, max_rows
        self._dtypes = table.COLUMNS | table.logged_schema(workspace.problem).dtypes
        self._lock = Lock()
        self._new: list[LoggedBatch] = []  # not yet in the table's form, which takes time
        self._frames: list[pl.DataFrame] = []
        self._batch, self._in_batch = "", 0  # the frames at the front that are being appended, under this id
        self.rows = self.lost = self._unsent = 0

    @property
    def due(self) -> bool:
        """Whether it is time to flush, or there are many rows."""
        return monotonic() >= self._due or self._unsent >= FULL

    def add(self, batch: LoggedBatch) -> None:
        """Keep a batch until the next flush."""
        with self._lock:
            self._new.append(batch)
            self.rows += batch.rows
            self._unsent += batch.rows
            if len(self._new) >= SMALL or batch.rows >= SMALL:
                self._pack()
            while self.rows > self._max_rows and len(self._frames) + bool(self._new) > 1:
                self.lost += self._drop_first()

    def flush(self) -> int:
        """Append the rows to the table; return how many. What can't be appended stays, and is tried again."""
        written, self._due = 0, monotonic() + self._seconds
        try:
            for _ in range(2 if self._in_batch else 1):  # what the last attempt left comes first
                if not (frames := self._next_batch()):
                    break
                rows = pl.concat(frames)
                remaining = erasures.without(self._lake, self._schema, rows)
                self._lake.append(table.TABLE, remaining, batch=self._batch, gains=True)
                with self._lock:
                    while self._in_batch:
                        self._drop_first()
                written += len(rows)
        except BadInput as error:
            log.warning("serve     %d rows wait to be logged: %s", self.rows, error)
        return written

    def _next_batch(self) -> list[pl.DataFrame]:
        """The frames to append: if the last attempt failed, its frames under its id, so that none is doubled."""
        with self._lock:
            self._pack()
            self._unsent = 0
            if not self._in_batch:
                self._batch, self._in_batch = uuid4().hex, len(self._frames)
            return self._frames[: self._in_batch]

    def _drop_first(self) -> int:
        dropped = len(self._frames.pop(0))
        self.rows -= dropped
        self._in_batch = max(0, self._in_batch - 1)
        return dropped

    def _pack(self) -> None:
        """Bring new batches into the table's form; no request fails for it."""
        new, self._new = self._new, []
        for _, similar in groupby(new, key=lambda batch: (id(batch.model), batch.raw.columns)):
            batches = list(similar)
            try:
                self._frames.append(self._frame(batches))
            except Exception as error:  # noqa: BLE001 - a fault of the log is no fault of a request
                rows = sum(batch.rows for batch in batches)
                log.warning("serve     %d rows can't be logged: %s", rows, first_line(error))
                self.rows, self.lost = self.rows - rows, self.lost + rows

    def _frame(self, batches: list[LoggedBatch]) -> pl.DataFrame:
        """The table's rows for batches of one model."""
        model, requests = batches[0].model, [(request, batch.at) for batch in batches for request in batch.requests]
        rows = pl.concat([batch.batch.rows for batch in batches])
        predictions = pl.concat([batch.batch.predictions for batch in batches])
        raw = pl.concat([batch.raw for batch in batches])
        each = pl.DataFrame(
            [(request.id, n, at, request.answered) for request, at in requests for n in range(request.rows)],
            schema={name: table.COLUMNS[name] for name in (table.ID, table.NTH, table.SERVED)}
            | {"answered": pl.Boolean()},
            orient="row",
        )
        found = each.with_columns(
            pl.lit(model.release.version, dtype=pl.Int64).alias(table.VERSION),
            pl.lit(json.dumps(model.versions)).alias(table.TABLES),
            *rows.select(name for name in (AT,) if name in rows.columns),
            _as_json(rows.select(list(model.release.features))).alias(table.FEATURES),
            pl.when("answered").then(_as_json(predictions)).alias(table.ANSWER),
            *raw.select(name for name in self._dtypes if name in raw.columns),
        )
        missing = (pl.lit(None).alias(name) for name in self._dtypes if name not in found.columns)
        return found.with_columns(missing).select(pl.col(name).cast(dtype) for name, dtype in self._dtypes.items())


def _as_json(rows: pl.DataFrame) -> pl.Series:
    """Each row as JSON, with the numbers that a response has: JSON has floats of 64 bits."""
    return rows.cast({pl.Float32: pl.Float64}).select(pl.struct(pl.all()).struct.json_encode()).to_series()
