"""Long work on disk: its parts, gone on with after the last whole one, and joined into the target at the end.

They lie in a hidden folder beside the target, with what they are parts of. What their rows mean is not this room's.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import count, takewhile
from pathlib import Path

import polars as pl
from filelock import FileLock, Timeout
from polars.exceptions import PolarsError
from pydantic import BaseModel, ValidationError

from {{cookiecutter.__package_name}}.shared import BadInput, first_line

JOB, LOCK = "job.json", "lock"


class Job(BaseModel):
    """What the parts are parts of.

    Attributes:
        id: A hash of all that makes it another job.
        begun: When, by the wall clock.
        now: What was known by then is used,
        versions: in these versions of the tables.
    """

    id: str
    begun: datetime
    now: datetime
    versions: dict[str, int]


@dataclass(frozen=True)
class Checkpoint:
    """What there is of a target, a Parquet or CSV file, until it is whole."""

    target: Path

    @property
    def folder(self) -> Path:
        """Where the parts are."""
        return self.target.absolute().with_name(f".{self.target.name}.parts")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other commands from writing the same target meanwhile; parts outlive errors, and nothing else does.

        Raises:
            BadInput: One does, or the target can't be written.
        """
        if self.target.is_dir():
            raise BadInput(f"{self.target.as_posix()} can't be written: it is a folder")
        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / LOCK, timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise BadInput(f"another command writes {self.target.as_posix()}: try again when it is done") from error
        try:
            yield
        finally:
            if not self.parts():
                self.clear()
            lock.release()
            if self.job() is None:
                with suppress(OSError):  # the next one is here already
                    (self.folder / LOCK).unlink(missing_ok=True)
                    self.folder.rmdir()

    def job(self) -> Job | None:
        """What the parts are of; none where there are none."""
        try:
            return Job.model_validate_json((self.folder / JOB).read_bytes())
        except (OSError, ValidationError):
            return None

    def begin(self, job: Job) -> None:
        """Begin a job with no parts."""
        with self._writing():
            self.clear()
            (self.folder / JOB).write_text(job.model_dump_json(), encoding="utf-8", newline="\n")

    def parts(self) -> list[Path]:
        """The whole parts, in their order."""
        return list(takewhile(Path.exists, map(self._part, count())))

    def add(self, nth: int, rows: pl.DataFrame) -> None:
        """Write a part, whole or not at all; the first is 0."""
        draft = self.folder / "part.draft"
        with self._writing():
            rows.write_parquet(draft)
            draft.replace(self._part(nth))

    def joined(self) -> pl.LazyFrame:
        """The rows of all parts, in their order; what one of them has not is missing in its rows."""
        parts, dtypes = self.parts(), dict[str, pl.DataType]()
        scan = partial(pl.scan_parquet, glob=False, hive_partitioning=False)
        for part in parts:
            dtypes |= scan(part).collect_schema()
        return scan(parts, schema=dtypes, missing_columns="insert")

    def finish(self) -> None:
        """Write the target by the ending of its name, whole or not at all; the parts go."""
        draft = self.folder / "target.draft"
        with self._writing():
            if self.target.suffix.lower() == ".csv":
                self.joined().sink_csv(draft)
            else:
                self.joined().sink_parquet(draft)
            draft.replace(self.target)
            self.clear()

    def clear(self) -> None:
        """Take all away, first what the parts are of."""
        for path in (self.folder / JOB, *self.folder.glob("*.parquet"), *self.folder.glob("*.draft")):
            path.unlink(missing_ok=True)

    def _part(self, nth: int) -> Path:
        return self.folder / f"{nth:06}.parquet"

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (PolarsError, OSError) as error:
            reason = getattr(error, "strerror", None) or first_line(error)
            raise BadInput(f"{self.target.as_posix()} can't be written: {reason}") from error
