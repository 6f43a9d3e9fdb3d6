"""What was asked and answered, in the table `requests`: appended in batches, so that no request waits for it."""

import json
import logging
import threading
from collections import deque
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from uuid import uuid4

import polars as pl

from {{cookiecutter.__package_name}}.production.service.online import Answered, Prepared
from {{cookiecutter.__package_name}}.shared import BadInput, erasures, first_line
from {{cookiecutter.__package_name}}.shared.requests import (
    ANSWER,
    COLUMNS,
    FEATURES,
    ID,
    NTH,
    SERVED,
    TABLE,
    TABLES,
    VERSION,
    asked,
)
from {{cookiecutter.__package_name}}.shared.schema import AT
from {{cookiecutter.__package_name}}.shared.workspace import Workspace

log = logging.getLogger(__name__)

PACK = 500  # so many small frames are made one at the latest
FULL = 10_000  # so many rows are appended before it is time


@dataclass(frozen=True)
class Kept:
    """A request in the log.

    Attributes:
        id: Its own.
        rows: How many it has.
        answered: Whether it was; else a rule was broken.
    """

    id: str
    rows: int
    answered: bool


@dataclass(frozen=True)
class Served:
    """Requests that were answered together, and by what.

    Attributes:
        requests: The requests.
        at: When they were answered.
        prepared: What answered.
        asked: The raw rows; without columns where features were ready.
        answered: The answers.
    """

    requests: list[Kept]
    at: datetime
    prepared: Prepared
    asked: pl.DataFrame
    answered: Answered

    @property
    def rows(self) -> int:
        """Of all requests."""
        return sum(request.rows for request in self.requests)


class RequestLog:
    """Keeps what was served until the next append; where the table can't be written, the newest so many rows.

    Args:
        workspace: The workspace.
        most: So many rows are kept at most.

    Attributes:
        rows: So many are kept now.
        new: So many of them were never tried to be appended.
        lost: So many were lost.
    """

    def __init__(self, workspace: Workspace, *, most: int) -> None:
        self._lake, self._schema, self._most = workspace.lake, workspace.problem.schema, most
        self._columns = asked(workspace).names
        self._waiting: list[Served] = []
        self._packed: list[pl.DataFrame] = []
        self._batches: deque[tuple[str, pl.DataFrame]] = deque()
        self._lock, self._packing, self._writing = threading.RLock(), threading.Lock(), threading.Lock()
        self.rows = self.new = self.lost = 0

    @property
    def full(self) -> bool:
        """Whether it should be appended before it is time."""
        return self.new >= FULL

    def add(self, served: Served) -> None:
        """Keep it for the next append."""
        with self._lock:
            self._waiting.append(served)
            self.rows += served.rows
            self.new += served.rows
        if len(self._waiting) >= PACK:  # nobody packs as fast as answers come
            self.pack()

    def append(self) -> int:
        """Append what is kept to the table; return how many rows. What can't be written is kept on."""
        with self._writing:  # the last append may begin while another is under way
            return self._append()

    def _append(self) -> int:
        self.pack()
        with self._lock:
            if self._packed:  # a batch keeps its id, so that it is appended once, however often it is tried
                self._batches.append((uuid4().hex, pl.concat(self._packed, how="diagonal")))
                self._packed = []
            self.new = 0
        written = 0
        try:
            while self._batches:
                batch, rows = self._batches[0]
                left = erasures.without(self._lake, self._schema, rows)
                self._lake.append(TABLE, left, batch=batch, gains=True)
                self._drop()
                written += len(rows)
        except BadInput as error:
            log.warning("serve     %d answers wait to be kept: %s", self.rows, error)
            while self.rows > self._most and self._batches:
                self.lost += self._drop()
        return written

    def _drop(self) -> int:
        with self._lock:
            _, rows = self._batches.popleft()
            self.rows -= len(rows)
        return len(rows)

    def pack(self) -> None:
        """Bring what waits into the table's form: this takes time, which is not to be that of answers."""
        with self._packing:  # an append waits for what is being packed
            with self._lock:
                taken, self._waiting = self._waiting, []
            for _, alike in groupby(taken, key=lambda served: (id(served.prepared), served.asked.columns)):
                self._pack(list(alike))

    def _pack(self, served: list[Served]) -> None:
        try:
            frame = self._frame(served)
        except Exception as error:  # noqa: BLE001 - no request fails for its log
            gone = sum(one.rows for one in served)
            log.warning("serve     %d answers can't be kept: %s", gone, first_line(error))
            with self._lock:
                self.rows, self.lost = self.rows - gone, self.lost + gone
        else:
            with self._lock:
                self._packed.append(frame)

    def _frame(self, served: list[Served]) -> pl.DataFrame:
        """The table's rows for requests of one kind, answered by one champion."""
        release, requests = served[0].prepared.release, [request for one in served for request in one.requests]
        rows = pl.concat([one.answered.rows for one in served])
        answers = pl.concat([one.answered.answers for one in served]).select(pl.struct(pl.all()).struct.json_encode())
        raw = pl.concat([one.asked for one in served])
        each = pl.DataFrame(
            {
                ID: [request.id for request in requests],
                NTH: [list(range(request.rows)) for request in requests],
                SERVED: [one.at for one in served for _ in one.requests],
                ANSWER: [request.answered for request in requests],
            },
            schema={ID: pl.String, NTH: pl.List(pl.UInt32), SERVED: COLUMNS[SERVED], ANSWER: pl.Boolean},
        ).explode(NTH)
        return rows.select(
            *(each[name] for name in (ID, NTH, SERVED)),
            pl.lit(release.version, dtype=pl.Int64).alias(VERSION),
            pl.lit(json.dumps(served[0].prepared.versions)).alias(TABLES),
            pl.col(AT) if AT in rows.columns else pl.lit(None, dtype=COLUMNS[AT]).alias(AT),
            pl.struct(_exact(rows.select(list(release.features)))).struct.json_encode().alias(FEATURES),
            pl.when(each[ANSWER]).then(answers.to_series()).alias(ANSWER),
            *(raw[name] for name in self._columns if name in raw.columns),
        )


def _exact(features: pl.DataFrame) -> list[pl.Expr]:
    """Features as they are answered: JSON has floats of 64 bits."""
    return [
        pl.col(name).cast(pl.Float64) if dtype == pl.Float32 else pl.col(name)
        for name, dtype in features.schema.items()
    ]
