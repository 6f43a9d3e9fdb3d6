"""The champion, ready to serve: contract, features and model of the batch path, with their history in memory.

The plan from raw rows to features is made once, when champion or history change: that takes longer than to run it.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from threading import Lock

import narwhals as nw
import numpy as np
import polars as pl

from {{cookiecutter.__package_name}}.core import datasets
from {{cookiecutter.__package_name}}.core.contracts.schema import ARRIVED, AT, DTYPES, Frame
from {{cookiecutter.__package_name}}.core.contracts.validation import RULES, with_violations
from {{cookiecutter.__package_name}}.core.errors import Refused, first_line
from {{cookiecutter.__package_name}}.core.models import predictor
from {{cookiecutter.__package_name}}.core.problem import Problem
from {{cookiecutter.__package_name}}.core.store.releases import Release
from {{cookiecutter.__package_name}}.core.workspace import Workspace

log = logging.getLogger(__name__)

ROW, NOW = "_row", "_now"
AHEAD = timedelta(minutes=30)  # history has the rows that become known within it, and is read again before it is over


@dataclass(frozen=True)
class PredictionBatch:
    """Rows and their predictions, in the same order.

    Attributes:
        rows: The rows with their features; raw rows without personal and forbidden columns, with `_at` and, in
            `_rules`, the rules of the contract that each violates.
        predictions: Null where the model gives no number; meaningless for a row that violates a rule.
    """

    rows: pl.DataFrame
    predictions: pl.DataFrame

    @property
    def violations(self) -> list[list[str]]:
        """The rules that each row violates; empty where there are only features."""
        return self.rows[RULES].to_list() if RULES in self.rows.columns else []


class ServingModel:
    """One champion with the history of one moment.

    Args:
        workspace: The workspace.
        release: The champion.
        now: The current time.

    Attributes:
        release: The champion.
        versions: The versions of the tables that were read.
        newest: When the newest row of each table became known; none where it is older than features look back.
        expires: When the history is too old.
    """

    def __init__(self, workspace: Workspace, release: Release, *, now: datetime) -> None:
        problem, lake = workspace.problem, workspace.lake
        self._problem, self.release, self.expires = problem, release, now + AHEAD
        oldest = now - timedelta(days=workspace.settings.serve_past_days)
        self.versions = datasets.versions(problem, lake)
        known = datasets.known(problem, lake, as_of=now + 2 * AHEAD, versions=self.versions)
        history = {
            name: frame.collect(backend="polars").sort(problem.schemas[name].time or ARRIVED)  # so that joins need not
            for name, frame in datasets.recent(problem, known, since=oldest).items()
        }
        self.newest = {name: _newest(rows, problem.schemas[name].known, now) for name, rows in history.items()}
        self._rows = pl.DataFrame(schema={ROW: pl.UInt32(), **problem.schema.request.dtypes, NOW: DTYPES[datetime]})
        self._lock = Lock()  # of these rows, which the plan reads
        rows = pl.defer(lambda: self._rows, schema=self._rows.schema)
        self._plan = _plan(problem, rows, {name: rows.lazy() for name, rows in history.items()}, oldest)

    def predict(self, rows: pl.DataFrame, *, now: datetime) -> PredictionBatch:
        """Predict raw rows.

        Raises:
            Refused: The user-defined `build` does not give one row for each.
        """
        built = self._build(rows, now)
        if built[ROW].to_list() != [*range(len(rows))]:
            raise Refused(f"features.build gives {len(built)} rows for {len(rows)}: it must keep each, once")
        return PredictionBatch(built.drop(ROW, NOW), self._predictions(built))

    def predict_features(self, rows: pl.DataFrame) -> PredictionBatch:
        """Predict rows that have their features."""
        return PredictionBatch(rows, self._predictions(rows))

    def check(self, *, now: datetime) -> None:
        """Predict the golden requests from their features, and compute the features of no row.

        Raises:
            Refused: A prediction differs, or the user-defined `build` does not give the features that the model takes.
        """
        self.release.check()
        none = self._build(pl.DataFrame(schema=self._problem.schema.request.dtypes), now)
        given = predictor.text_features(self._problem, none)
        if wrong := [name for name, text in self.release.features.items() if given.get(name) is not text]:
            what = f"{', '.join(wrong)}, which features.build does not give like that"
            raise Refused(f"version {self.release.version} takes {what}: it is of other code")

    def history_age(self, now: datetime) -> dict[str, float | None]:
        """How long ago, in seconds, the newest row of each table became known."""
        return {name: None if at is None else (now - at) / timedelta(seconds=1) for name, at in self.newest.items()}

    def _build(self, rows: pl.DataFrame, now: datetime) -> pl.DataFrame:
        # For the few rows of requests, optimising the plan takes longer than it saves, and streaming twice as long.
        plain = pl.QueryOptFlags.none()
        with self._lock:
            self._rows = rows.with_row_index(ROW).with_columns(pl.lit(now, dtype=DTYPES[datetime]).alias(NOW))
            return datasets.collected(
                self._problem, lambda: self._plan.collect(engine="in-memory", optimizations=plain)
            )

    def _predictions(self, rows: pl.DataFrame) -> pl.DataFrame:
        numbers = self.release.predictor.predict(rows)
        finite = np.isfinite(numbers.reshape(len(rows), -1)).all(axis=1)
        predictions = self.release.answers(numbers)
        return predictions if finite.all() else predictions.select(pl.when(pl.Series(finite)).then(pl.all()))


def _plan(problem: Problem, rows: pl.LazyFrame, history: Mapping[str, Frame], oldest: datetime) -> pl.LazyFrame:
    """From raw rows to features, with the rules that each row violates: also that history goes back far enough."""
    requests = datasets.requests(problem, with_violations(rows, problem.schema.request), now=nw.col(NOW))
    built: pl.LazyFrame = problem.build(requests, history).to_native()
    if event := problem.schema.event_time:
        reason = f"{event} is not long past: predict FILE answers for older rows"
        older = pl.when(pl.col(AT) < oldest).then(pl.col(RULES).list.concat(pl.lit([reason])))
        built = built.with_columns(older.otherwise(pl.col(RULES)))
    return built.sort(ROW)


def _newest(rows: nw.DataFrame[pl.DataFrame], known: nw.Expr, now: datetime) -> datetime | None:
    newest = rows.select(known.alias(AT)).filter(nw.col(AT) <= now)[AT].max()
    return newest if isinstance(newest, datetime) else None


def text_features(problem: Problem) -> dict[str, bool]:
    """The features that the user-defined `build` gives; true where one is text.

    Raises:
        Refused: It does not give them all.
    """
    history: dict[str, Frame] = {
        name: nw.from_native(pl.LazyFrame(schema=schema.dtypes | {ARRIVED: DTYPES[datetime]})).drop(schema.closed)
        for name, schema in problem.schemas.items()
    }
    rows = datasets.requests(problem, pl.DataFrame(schema=problem.schema.request.dtypes), now=datetime.now(UTC))
    return predictor.text_features(problem, datasets.with_features(problem, rows, history))


class ModelReloader:
    """Follows champion and tables; the old model serves on where the new one is broken.

    Args:
        workspace: The workspace.
        release: Serve this one in place of the champion.
        now: The current time; without it, the setting `clock` says.

    Attributes:
        model: What serves; none before the first promotion.
        error: Why what serves is not the newest; none where it is.
        failures: How many errors there were.
    """

    def __init__(self, workspace: Workspace, *, release: Release | None = None, now: datetime | None = None) -> None:
        self._workspace, self._release, self._now = workspace, release, now
        self._wall_clock = (now or workspace.settings.now) is None and workspace.settings.clock == "wall"
        self._loaded_at = datetime.now(UTC)
        self._broken: dict[int, str] = {}  # releases that can't serve, and why
        self.model: ServingModel | None = None
        self.error: str | None = None
        self.failures = 0

    def now(self) -> datetime:
        """The current time; where data are the clock, that of the last load."""
        return datetime.now(UTC) if self._wall_clock else self._loaded_at

    def refresh(self) -> None:
        """Load a new champion or new history, if there is one; whatever is wrong with it, the old model serves on."""
        try:
            error = self._refresh()
        except Exception as failure:  # noqa: BLE001 - a lake out of reach, or anything else that loading can meet
            error = first_line(failure)
        if error and error != self.error:
            self.failures += 1
            log.warning("serve     goes on as it is: %s", error)
        self.error = error

    def _refresh(self) -> str | None:
        """Load what is new; return why the champion does not serve, if it does not."""
        current, champion = self.model, self._release or self._workspace.releases.champion()
        if champion is None:
            return None
        serving = current.release if current else None
        release = serving if champion.number in self._broken else champion
        if release and (current is None or release is not serving or self._outdated(current)):
            self._load(release)
        return self._broken.get(champion.number)

    def _load(self, release: Release) -> None:
        self._loaded_at = self._workspace.now(self._now)
        model = ServingModel(self._workspace, release, now=self._loaded_at)
        try:
            model.check(now=self._loaded_at)
        except Exception as error:  # noqa: BLE001 - a release can be broken in any way
            self._broken[release.number] = f"version {release.version} can't serve: {first_line(error)}"
            return
        if self.model and self.model.release.number != release.number:
            log.info("serve     version %d answers from now on", release.version)
        self._broken.pop(release.number, None)
        self.model = model

    def _outdated(self, current: ServingModel) -> bool:
        versions = datasets.versions(self._workspace.problem, self._workspace.lake)
        return versions != current.versions or self.now() > current.expires
