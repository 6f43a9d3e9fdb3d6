"""What was asked and answered, in the table `requests`: appended in batches, so that no request waits for it."""

import json
import logging
import threading
from collections import deque
from dataclasses import dataclass
from datetime import datetime
from uuid import uuid4

import polars as pl

from {{cookiecutter.__package_name}}.production.requests import (
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
from {{cookiecutter.__package_name}}.production.service.online import Answered, Prepared
from {{cookiecutter.__package_name}}.shared import BadInput
from {{cookiecutter.__package_name}}.shared.checks import RULES
from {{cookiecutter.__package_name}}.shared.schema import AT
from {{cookiecutter.__package_name}}.shared.workspace import Workspace

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Served:
    """Rows that were answered together, and by what.

    Attributes:
        ids: Of the request that each row came in.
        nth: Its place in that request.
        at: When they were answered.
        prepared: What answered.
        asked: The raw rows; without columns where features were ready.
        answered: The answers.
    """

    ids: list[str]
    nth: list[int]
    at: datetime
    prepared: Prepared
    asked: pl.DataFrame
    answered: Answered


class RequestLog:
    """Keeps what was served until the next append; where the table can't be written, the newest so many rows.

    Args:
        workspace: The workspace.
        most: So many rows are kept at most.
    """

    def __init__(self, workspace: Workspace, *, most: int) -> None:
        self._lake, self._most = workspace.lake, most
        self._kept = asked(workspace).names
        self._waiting: deque[Served] = deque()
        self._lock = threading.Lock()
        self.rows = 0
        self.lost = 0

    def add(self, served: Served) -> None:
        """Keep it for the next append."""
        with self._lock:
            self._waiting.append(served)
            self.rows += len(served.ids)
            while self.rows > self._most:
                gone = len(self._waiting.popleft().ids)
                self.rows, self.lost = self.rows - gone, self.lost + gone

    def append(self) -> int:
        """Append what is kept to the table; return how many rows. What can't be written is kept on."""
        with self._lock:
            taken, self._waiting, self.rows = list(self._waiting), deque(), 0
        if not taken:
            return 0
        rows = pl.concat([self._frame(served) for served in taken], how="diagonal")
        try:
            self._lake.append(TABLE, rows, batch=uuid4().hex, gains=True)
        except BadInput as error:
            log.warning("serve     %d answers wait to be kept: %s", len(rows), error)
            with self._lock:
                self._waiting.extendleft(reversed(taken))
                self.rows += len(rows)
            return 0
        return len(rows)

    def _frame(self, served: Served) -> pl.DataFrame:
        release, rows = served.prepared.release, served.answered.rows
        tables = json.dumps(served.prepared.versions)
        at = pl.col(AT) if AT in rows.columns else pl.lit(None, dtype=COLUMNS[AT]).alias(AT)
        answers = served.answered.answers.select(pl.struct(pl.all()).struct.json_encode()).to_series()
        return rows.select(
            pl.Series(ID, served.ids, dtype=pl.String),
            pl.Series(NTH, served.nth, dtype=pl.UInt32),
            pl.lit(served.at, dtype=COLUMNS[SERVED]).alias(SERVED),
            pl.lit(release.version, dtype=pl.Int64).alias(VERSION),
            pl.lit(tables).alias(TABLES),
            at,
            pl.struct(list(release.features)).struct.json_encode().alias(FEATURES),
            pl.when(pl.col(RULES).list.len() == 0).then(answers).alias(ANSWER),
        ).with_columns(served.asked.select(name for name in self._kept if name in served.asked.columns).get_columns())
