"""The champion, ready to answer requests: contract, features and model of the batch path, prepared once.

The history that features look back to is held in memory; the plan from a request to its features is made when history
or champion change, and only run when a request comes.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from threading import Lock

import narwhals as nw
import numpy as np
import polars as pl
from polars.exceptions import PolarsError
from polars.io.plugins import register_io_source

from {{cookiecutter.__package_name}}.shared import Refused, dataset, first_line, windows
from {{cookiecutter.__package_name}}.shared.checks import RULES, with_violations
from {{cookiecutter.__package_name}}.shared.release import Release
from {{cookiecutter.__package_name}}.shared.schema import AT, DTYPES
from {{cookiecutter.__package_name}}.shared.workspace import Workspace

log = logging.getLogger(__name__)

ROW, NOW = "_row", "_now"
AHEAD = timedelta(minutes=30)  # history is read again, at the latest, before what it knows ahead has come
NO_NUMBER = "the model gives no number"


@dataclass(frozen=True)
class Answered:
    """What became of some rows, in their order.

    Attributes:
        rows: The rows without personal and forbidden columns, with `_at`, their features and, in `_rules`, the rules
            that each breaks.
        answers: What the champion says; a row that breaks a rule has no meaningful one.
    """

    rows: pl.DataFrame
    answers: pl.DataFrame

    @property
    def broken(self) -> list[list[str]]:
        """The rules that each row breaks."""
        return self.rows[RULES].to_list()


class _Rows:
    """Where a plan takes its rows from: those of the requests at hand."""

    def __init__(self, schema: dict[str, pl.DataType]) -> None:
        self.schema, self.now, self.read = schema, pl.DataFrame(schema=schema), False

    def scan(self) -> pl.LazyFrame:
        """The rows, still to come."""
        return register_io_source(self._read, schema=self.schema, validate_schema=True)

    def _read(
        self, columns: list[str] | None, predicate: pl.Expr | None, n: int | None, _: int | None
    ) -> Iterator[pl.DataFrame]:
        self.read = True
        rows = self.now if columns is None else self.now.select(columns)
        rows = rows if predicate is None else rows.filter(predicate)
        yield rows if n is None else rows.head(n)


class Prepared:
    """One champion with the history of one moment; it runs its plan for one call at a time.

    Args:
        workspace: The workspace.
        release: The champion.
        now: The time it is.

    Attributes:
        versions: Of the tables that it has read.
        newest: When the newest row of each table became known; none where it is older than features look back.
        until: From then on its history is too old.
    """

    def __init__(self, workspace: Workspace, release: Release, *, now: datetime) -> None:
        problem, lake = workspace.problem, workspace.lake
        self._problem, self.release, self._running = problem, release, Lock()
        self.until = now + AHEAD
        oldest = now - timedelta(days=workspace.settings.serve_past_days)
        self.versions = dataset.versions(problem, lake)
        known = dataset.known(problem, lake, as_of=now + 2 * AHEAD, versions=self.versions)
        recent = dataset.recent(problem, known, since=oldest)
        self.history: dict[str, pl.DataFrame] = {
            name: frame.collect(backend="polars").to_native() for name, frame in recent.items()
        }
        self.newest = {name: self._newest(name, rows, now) for name, rows in self.history.items()}
        request = problem.schema.request
        self._rows = _Rows({ROW: pl.UInt32(), **request.dtypes, NOW: DTYPES[datetime]})
        asked = dataset.requests(problem, with_violations(self._rows.scan(), request), now=nw.col(NOW))
        history = {name: nw.from_native(rows.lazy()) for name, rows in self.history.items()}
        token = windows.held.set(self._computed)
        try:
            built: pl.LazyFrame = problem.build(asked, history).to_native()
        finally:
            windows.held.reset(token)
        self._plan = self._held(built, oldest).sort(ROW)

    def answer(self, rows: pl.DataFrame, *, now: datetime) -> Answered:
        """Answer rows of the subject, in their order.

        Raises:
            Refused: The problem's own `build` does not give one row for each.
        """
        given = rows.with_row_index(ROW).with_columns(pl.lit(now, dtype=DTYPES[datetime]).alias(NOW))
        with self._running:
            self._rows.now = given
            built = self._built()
        if not built[ROW].equals(given[ROW]):
            raise Refused(f"features.build gives {len(built)} rows for {len(rows)}: it must keep each, once")
        return Answered(built.drop(ROW, NOW), self.answer_features(built))

    def check(self) -> None:
        """Answer the golden requests, and run the plan without rows.

        Raises:
            Refused: An answer differs, or the plan does not give what the model takes.
        """
        self.release.check()
        self._rows.now = pl.DataFrame(schema=self._rows.schema)
        given = self._built().schema
        kinds = {
            name: name in given and (given[name] == pl.String) == text for name, text in self.release.features.items()
        }
        if wrong := [name for name, fits in kinds.items() if not fits]:
            msg = (
                f"version {self.release.version} takes {', '.join(wrong)}, which features.build does not give like that"
            )
            raise Refused(f"{msg}: it is of other code")

    def answer_features(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Answer rows that have their features; one for which the model gives no number has a null."""
        predictions = self.release.predictor.predict(rows)
        sound = np.isfinite(predictions.reshape(len(rows), -1)).all(axis=1)
        answers = self.release.answers(predictions)
        return answers if sound.all() else answers.select(pl.when(pl.Series(sound)).then(pl.all()))

    def ages(self, now: datetime) -> dict[str, float | None]:
        """How long ago, in seconds, the newest row of each table became known."""
        return {name: None if at is None else (now - at) / timedelta(seconds=1) for name, at in self.newest.items()}

    def _computed(self, events: pl.LazyFrame) -> pl.LazyFrame:
        """Compute events now, unless they come from the rows that are asked for: a third of an answer's time."""
        self._rows.read = False
        try:
            computed = events.collect()
        except PolarsError:  # which `check` meets again, and blames the release for
            return events
        return events if self._rows.read else computed.lazy()

    def _built(self) -> pl.DataFrame:
        # For the few rows of requests, to optimise the plan takes longer than it saves, and to stream twice as long.
        plain = pl.QueryOptFlags.none()
        return dataset.collected(self._problem, lambda: self._plan.collect(engine="in-memory", optimizations=plain))

    def _held(self, rows: pl.LazyFrame, oldest: datetime) -> pl.LazyFrame:
        """Add a rule to rows that look back further than history is held."""
        if not (event := self._problem.schema.event_time):
            return rows
        reason = f"{event} is not long past: predict FILE answers for older rows"
        overdue = pl.when(pl.col(AT) < oldest).then(pl.col(RULES).list.concat(pl.lit([reason])))
        return rows.with_columns(overdue.otherwise(pl.col(RULES)))

    def _newest(self, table: str, rows: pl.DataFrame, now: datetime) -> datetime | None:
        known = self._problem.schemas[table].known
        found = nw.from_native(rows.lazy()).select(known.alias(AT)).filter(nw.col(AT) <= now)
        newest = found.select(nw.col(AT).max()).collect().item()
        return newest if isinstance(newest, datetime) else None


class Online:
    """Follows champion and history; what serves is swapped whole, and stays where the new one is broken.

    Args:
        workspace: The workspace.
        release: Serve this one in place of the champion, whatever is promoted.
        now: The time it is; without it, the setting `clock` says.

    Attributes:
        prepared: What answers; none before the first promotion.
        trouble: Why what serves is not the newest; none where it is.
        failures: How often that came up.
    """

    def __init__(self, workspace: Workspace, *, release: Release | None = None, now: datetime | None = None) -> None:
        self._workspace, self._fixed, self._given = workspace, release, now
        given = now or workspace.settings.now
        self._ticks = given is None and workspace.settings.clock == "wall"
        self._looked = datetime.now(UTC)
        self._broken: dict[int, str] = {}
        self.prepared: Prepared | None = None
        self.trouble: str | None = None
        self.failures = 0

    def now(self) -> datetime:
        """The time it is, by what was read last where data are the clock."""
        return datetime.now(UTC) if self._ticks else self._looked

    def refresh(self) -> None:
        """Take a new champion or new history, where there is one; whatever is wrong with it, what serves goes on."""
        try:
            trouble = self._take()
        except Exception as error:  # noqa: BLE001 - a lake out of reach, or anything else that a look can meet
            trouble = first_line(error)
        if trouble and trouble != self.trouble:
            self.failures += 1
            log.warning("serve     goes on as it is: %s", trouble)
        self.trouble = trouble

    def _take(self) -> str | None:
        """Take what is new; return why the champion does not serve, if it does not."""
        current, champion = self.prepared, self._fixed or self._workspace.releases.champion()
        if champion is None:
            return None
        serving = current.release if current else None
        release = serving if champion.number in self._broken else champion
        if release and (current is None or release is not serving or self._moved(current)):
            self._prepare(release)
        return self._broken.get(champion.number)

    def _prepare(self, release: Release) -> None:
        self._looked = self._workspace.now(self._given)
        prepared = Prepared(self._workspace, release, now=self._looked)
        try:
            prepared.check()
        except Exception as error:  # noqa: BLE001 - a release can be broken in any way
            self._broken[release.number] = f"version {release.version} can't serve: {first_line(error)}"
            return
        if self.prepared and self.prepared.release.number != release.number:
            log.info("serve     version %d answers from now on", release.version)
        self._broken.pop(release.number, None)
        self.prepared = prepared

    def _moved(self, current: Prepared) -> bool:
        tables = dataset.versions(self._workspace.problem, self._workspace.lake)
        return tables != current.versions or self.now() > current.until
