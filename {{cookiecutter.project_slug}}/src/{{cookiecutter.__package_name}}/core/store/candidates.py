"""Trained challengers and the verdicts of the gate: the tables `candidates` and `verdicts`.

A killed `run` resumes from them, and `gate` and `promote` read them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict

from {{cookiecutter.__package_name}}.core.contracts.schema import DTYPES
from {{cookiecutter.__package_name}}.core.contracts.validation import drop_rows
from {{cookiecutter.__package_name}}.core.errors import InputError
from {{cookiecutter.__package_name}}.core.models import evaluation
from {{cookiecutter.__package_name}}.core.models.evaluation import Predictions
from {{cookiecutter.__package_name}}.core.models.predictor import Predictor
from {{cookiecutter.__package_name}}.core.problem import Problem
from {{cookiecutter.__package_name}}.core.store.erasures import erased_keys
from {{cookiecutter.__package_name}}.core.store.lake import Lake

CANDIDATES, VERDICTS = "candidates", "verdicts"
COLUMNS: dict[str, pl.DataType] = {
    "run_id": pl.String(),
    "trained": DTYPES[datetime],
    "record": pl.String(),
    "onnx": pl.Binary(),
    "holdout": pl.Binary(),
}
VERDICT_COLUMNS: dict[str, pl.DataType] = {
    "run_id": pl.String(),
    "at": DTYPES[datetime],
    "passed": pl.Boolean(),
    "reasons": pl.String(),
    "release_failure": pl.String(),
}
LARGE_FIELDS = {"onnx", "holdout"}


class CandidateRecord(BaseModel):
    """The record of a challenger.

    Attributes:
        run_id: Id of the tracked run.
        trained: Time of training.
        as_of: Time as of which labels were available.
        tables: The table versions.
        commit: Git commit; empty without Git.
        dirty: Whether files of the model differed from the commit.
        code: Hash of the code and parameters of the model.
        lock: Hash of the lock file.
        parameters: The parameters of the estimator.
        features: The features in the model's order; true if one is text.
        classes: The classes of a multiclass task, in the order of the probabilities.
        training_window_days: Length of the training window in days; 0 is all rows.
        metrics: Metrics of model and baselines on the holdout, numbers of rows, parity.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True, ser_json_inf_nan="constants")

    run_id: str
    trained: datetime
    as_of: datetime
    tables: dict[str, int]
    commit: str
    dirty: bool
    code: str
    lock: str
    parameters: dict[str, Any]
    features: dict[str, bool]
    classes: tuple[str, ...]
    training_window_days: int
    metrics: dict[str, float]


class Candidate(CandidateRecord):
    """A challenger with everything that the gate needs.

    Attributes:
        onnx: The ONNX model, fitted without the holdout.
        holdout: The rows of the newest labelled window with features, labels and the predictions of the models in the
            columns `_model`, `_linear` and `_dummy`.
    """

    onnx: bytes
    holdout: pl.DataFrame

    def predictor(self, problem: Problem) -> Predictor:
        """The model."""
        return Predictor(self.onnx, self.features, problem.task)

    def holdout_predictions(self, problem: Problem, model: str = "model") -> Predictions:
        """The predictions of a model for the holdout, with the true values."""
        return evaluation.labelled_predictions(
            problem, self.holdout, self.holdout[f"_{model}"].to_numpy(), self.classes
        )

    def without(self, keys: pl.DataFrame) -> "Candidate":
        """The challenger without the rows of the holdout that have these keys."""
        return self.model_copy(update={"holdout": drop_rows(self.holdout, keys)})


@dataclass(frozen=True)
class LastVerdict:
    """The last verdict on a challenger.

    Attributes:
        passed: Whether it passed.
        reasons: The checks, a line each.
        release_failure: The release checks that failed; empty if all passed or none ran.
    """

    passed: bool
    reasons: str
    release_failure: str


class Candidates:
    """The tables of challengers and verdicts, which are append-only except for erasure."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake

    def append(self, candidate: Candidate) -> None:
        """Append a challenger exactly once, without rows that were erased during its training."""

        def attempt(version: int) -> None:
            rows = rows_of([candidate.without(erased_keys(self._lake))])
            self._lake.append(CANDIDATES, rows, batch=candidate.run_id, expected=version)

        self._lake.retry(CANDIDATES, attempt)

    def newest(self, run_id: str | None = None) -> CandidateRecord | None:
        """The record of the newest challenger, or of that of a run; None if there is none."""
        found = self._lake.read(CANDIDATES, COLUMNS)
        found = found if run_id is None else found.filter(pl.col("run_id") == run_id)
        rows = found.select("trained", "record").sort("trained").tail(1).collect()
        return CandidateRecord.model_validate_json(rows["record"].item()) if len(rows) else None

    def read(self, run_id: str) -> Candidate:
        """The challenger of a run.

        Raises:
            InputError: There is none.
        """
        rows = self._lake.read(CANDIDATES, COLUMNS).filter(pl.col("run_id") == run_id).collect()
        if rows.is_empty():
            raise InputError(
                f"run {run_id} has no row in the table {CANDIDATES} of the lake {self._lake.url}: train again"
            )
        return _candidate(rows.row(0, named=True))

    def all(self) -> list[Candidate]:
        """All challengers, oldest first."""
        return [_candidate(row) for row in self._lake.read(CANDIDATES, COLUMNS).sort("trained").collect().to_dicts()]

    def last_verdict(self, run_id: str) -> LastVerdict | None:
        """The last verdict on the challenger of a run, or None."""
        last = self._verdicts(run_id).tail(1).drop("run_id", "at").to_dicts()
        return LastVerdict(**last[0]) if last else None

    def append_verdict(self, run_id: str, *, passed: bool, reasons: str, release_failure: str) -> None:
        """Append a verdict if it differs from the last one."""
        row = {"run_id": run_id, "passed": passed, "reasons": reasons, "release_failure": release_failure}

        def attempt(version: int) -> None:
            verdicts = self._verdicts(run_id)
            if verdicts.drop("at").tail(1).to_dicts() != [row]:
                rows = pl.DataFrame([row | {"at": datetime.now(UTC)}], schema=VERDICT_COLUMNS)
                self._lake.append(VERDICTS, rows, batch=f"{run_id}-{len(verdicts)}", expected=version)

        self._lake.retry(VERDICTS, attempt)

    def _verdicts(self, run_id: str) -> pl.DataFrame:
        rows = self._lake.read(VERDICTS, VERDICT_COLUMNS).filter(pl.col("run_id") == run_id)
        return rows.select(list(VERDICT_COLUMNS)).sort("at").collect()


def rows_of(candidates: Sequence[Candidate]) -> pl.DataFrame:
    """Challengers as rows of the table `candidates`."""
    rows = [candidate.model_dump(include={"run_id", "trained", "onnx"}) for candidate in candidates]
    for row, candidate in zip(rows, candidates, strict=True):
        holdout = BytesIO()
        candidate.holdout.write_parquet(holdout)
        row.update(record=candidate.model_dump_json(exclude=LARGE_FIELDS), holdout=holdout.getvalue())
    return pl.DataFrame(rows, schema=COLUMNS)


def _candidate(row: dict[str, Any]) -> Candidate:
    record = CandidateRecord.model_validate_json(row["record"])
    return Candidate(**record.model_dump(), onnx=row["onnx"], holdout=pl.read_parquet(BytesIO(row["holdout"])))
