"""The serving model: the same contract, features and model as batch prediction, with the history in memory.

The query plan from raw rows to features is built once per champion and history, since building takes longer than
running it.
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
from {{cookiecutter.__package_name}}.core.contracts.schema import DTYPES, INGESTED_AT, PREDICTED_AT, Frame
from {{cookiecutter.__package_name}}.core.contracts.validation import VIOLATIONS, with_violations
from {{cookiecutter.__package_name}}.core.errors import Rejected, summarize
from {{cookiecutter.__package_name}}.core.models import predictor
from {{cookiecutter.__package_name}}.core.problem import Problem
from {{cookiecutter.__package_name}}.core.store.releases import Release
from {{cookiecutter.__package_name}}.core.workspace import Workspace

log = logging.getLogger(__name__)

ROW, NOW = "_row", "_now"
HISTORY_MARGIN = timedelta(minutes=30)  # time until a reload; rows up to twice as far ahead are included


@dataclass(frozen=True)
class PredictionBatch:
    """Rows and their predictions, in the same order.

    Attributes:
        rows: The rows with their features. Raw rows lack personal and excluded columns; they have
            `_predicted_at`, and the contract rules that each violates in `_violations`.
        predictions: The predictions: null if not a finite number, undefined for a row with violations.
    """

    rows: pl.DataFrame
    predictions: pl.DataFrame

    @property
    def violations(self) -> list[list[str]]:
        """The rules that each row violates; empty for rows of features."""
        return self.rows[VIOLATIONS].to_list() if VIOLATIONS in self.rows.columns else []


class ServingModel:
    """A release with a snapshot of the history.

    Args:
        workspace: The workspace.
        release: The champion.
        now: The current time.

    Attributes:
        release: The champion.
        versions: The versions of the tables that were read.
        newest: The available-at time of the newest row of each table; None if it is older than the lookback.
        expires: When the history must be read again.
    """

    def __init__(self, workspace: Workspace, release: Release, *, now: datetime) -> None:
        problem, lake = workspace.problem, workspace.lake
        self._problem, self.release, self.expires = problem, release, now + HISTORY_MARGIN
        oldest = now - timedelta(days=workspace.settings.serve_max_age_days)
        self.versions = datasets.table_versions(problem, lake)
        known = datasets.history_as_of(problem, lake, as_of=now + 2 * HISTORY_MARGIN, versions=self.versions)
        history = {
            name: frame.collect(backend="polars").sort(problem.schemas[name].time or INGESTED_AT)  # for the joins
            for name, frame in datasets.lookback(problem, known, since=oldest).items()
        }
        self.newest = {name: _newest(rows, problem.schemas[name].available_at, now) for name, rows in history.items()}
        self._rows = pl.DataFrame(schema={ROW: pl.UInt32(), **problem.schema.request.dtypes, NOW: DTYPES[datetime]})
        self._lock = Lock()  # guards these rows, which the plan reads
        rows = pl.defer(lambda: self._rows, schema=self._rows.schema)
        self._plan = _plan(problem, rows, {name: rows.lazy() for name, rows in history.items()}, oldest)

    def predict(self, rows: pl.DataFrame, *, now: datetime) -> PredictionBatch:
        """Predict raw rows.

        Raises:
            Rejected: The user-defined `build` changes the number of rows.
        """
        built = self._build(rows, now)
        if built[ROW].to_list() != [*range(len(rows))]:
            raise Rejected(
                f"features.build returned {len(built)} rows for {len(rows)}: it must return each row exactly once"
            )
        return PredictionBatch(built.drop(ROW, NOW), self._predictions(built))

    def predict_features(self, rows: pl.DataFrame) -> PredictionBatch:
        """Predict rows of features."""
        return PredictionBatch(rows, self._predictions(rows))

    def check(self, *, now: datetime) -> None:
        """Check the golden requests, and that `build` returns the features of the model.

        Raises:
            Rejected: A prediction differs, or the features are not those of the model.
        """
        self.release.check()
        none = self._build(pl.DataFrame(schema=self._problem.schema.request.dtypes), now)
        given = predictor.text_features(self._problem, none)
        if wrong := [name for name, text in self.release.features.items() if given.get(name) is not text]:
            what = f"{', '.join(wrong)}, which features.build does not return with these types"
            raise Rejected(f"version {self.release.version} needs {what}: it was trained by other code")

    def history_age(self, now: datetime) -> dict[str, float | None]:
        """The age of the newest row of each table in seconds."""
        return {name: None if at is None else (now - at) / timedelta(seconds=1) for name, at in self.newest.items()}

    def _build(self, rows: pl.DataFrame, now: datetime) -> pl.DataFrame:
        # For few rows, optimizing or streaming the plan takes longer than it saves.
        plain = pl.QueryOptFlags.none()
        with self._lock:
            self._rows = rows.with_row_index(ROW).with_columns(pl.lit(now, dtype=DTYPES[datetime]).alias(NOW))
            return datasets.collect_features(
                self._problem, lambda: self._plan.collect(engine="in-memory", optimizations=plain)
            )

    def _predictions(self, rows: pl.DataFrame) -> pl.DataFrame:
        numbers = self.release.predictor.predict(rows)
        finite = np.isfinite(numbers.reshape(len(rows), -1)).all(axis=1)
        predictions = self.release.prediction_frame(numbers)
        return predictions if finite.all() else predictions.select(pl.when(pl.Series(finite)).then(pl.all()))


def _plan(problem: Problem, rows: pl.LazyFrame, history: Mapping[str, Frame], oldest: datetime) -> pl.LazyFrame:
    """The query plan from raw rows to features and violations, including the age limit of rows."""
    requests = datasets.as_requests(problem, with_violations(rows, problem.schema.request), now=nw.col(NOW))
    built: pl.LazyFrame = problem.build(requests, history).to_native()
    if event := problem.schema.event_time:
        reason = f"{event} is within the maximum age: use predict FILE for older rows, or set ML_SERVE_MAX_AGE_DAYS"
        older = pl.when(pl.col(PREDICTED_AT) < oldest).then(pl.col(VIOLATIONS).list.concat(pl.lit([reason])))
        built = built.with_columns(older.otherwise(pl.col(VIOLATIONS)))
    return built.sort(ROW)


def _newest(rows: nw.DataFrame[pl.DataFrame], known: nw.Expr, now: datetime) -> datetime | None:
    newest = rows.select(known.alias(PREDICTED_AT)).filter(nw.col(PREDICTED_AT) <= now)[PREDICTED_AT].max()
    return newest if isinstance(newest, datetime) else None


def text_features(problem: Problem) -> dict[str, bool]:
    """The features that the user-defined `build` returns, and whether each is text.

    Raises:
        Rejected: Features are missing.
    """
    history: dict[str, Frame] = {
        name: nw.from_native(pl.LazyFrame(schema=schema.dtypes | {INGESTED_AT: DTYPES[datetime]})).drop(
            schema.excluded_columns
        )
        for name, schema in problem.schemas.items()
    }
    rows = datasets.as_requests(problem, pl.DataFrame(schema=problem.schema.request.dtypes), now=datetime.now(UTC))
    return predictor.text_features(problem, datasets.with_features(problem, rows, history))


class ModelReloader:
    """Reloads the model when champion or tables change; the old model keeps serving if the new one fails.

    Args:
        workspace: The workspace.
        release: Release to serve. Default: the champion.
        now: The current time. Default: by the setting `clock`.

    Attributes:
        model: The serving model; None before the first promotion.
        error: Why the newest release or data could not be loaded, or None.
        failures: The number of errors; a repeated error counts once.
    """

    def __init__(self, workspace: Workspace, *, release: Release | None = None, now: datetime | None = None) -> None:
        self._workspace, self._release, self._now = workspace, release, now
        self._wall_clock = (now or workspace.settings.now) is None and workspace.settings.clock == "wall"
        self._loaded_at = datetime.now(UTC)
        self._failed_releases: dict[int, str] = {}  # the reason by release number
        self.model: ServingModel | None = None
        self.error: str | None = None
        self.failures = 0

    def now(self) -> datetime:
        """The current time; the time of the last load if the time is fixed or set by the data."""
        return datetime.now(UTC) if self._wall_clock else self._loaded_at

    def refresh(self) -> None:
        """Load a new champion or new history, if any; after an error the old model keeps serving."""
        try:
            error = self._refresh()
        except Exception as failure:  # noqa: BLE001 - an unreachable lake, or any other error
            error = summarize(failure)
        if error and error != self.error:
            self.failures += 1
            log.warning("serve     keeps the current model: %s", error)
        self.error = error

    def _refresh(self) -> str | None:
        """Load a new champion or new history; return why the champion can't be served, or None."""
        current, champion = self.model, self._release or self._workspace.releases.champion()
        if champion is None:
            return None
        serving = current.release if current else None
        release = serving if champion.number in self._failed_releases else champion
        if release and (current is None or release is not serving or self._outdated(current)):
            self._load(release)
        return self._failed_releases.get(champion.number)

    def _load(self, release: Release) -> None:
        self._loaded_at = self._workspace.now(self._now)
        model = ServingModel(self._workspace, release, now=self._loaded_at)
        try:
            model.check(now=self._loaded_at)
        except Exception as error:  # noqa: BLE001 - a release can be broken in any way
            self._failed_releases[release.number] = f"version {release.version} can't serve: {summarize(error)}"
            return
        if self.model and self.model.release.number != release.number:
            log.info("serve     version %d is serving", release.version)
        self._failed_releases.pop(release.number, None)
        self.model = model

    def _outdated(self, current: ServingModel) -> bool:
        versions = datasets.table_versions(self._workspace.problem, self._workspace.lake)
        return versions != current.versions or self.now() > current.expires
