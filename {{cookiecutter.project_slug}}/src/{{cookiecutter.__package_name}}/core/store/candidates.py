"""Trained challengers and what the gate said of them: the tables `candidates` and `verdicts`.

A killed `run` goes on from them, and `gate` and `promote` work from them as commands of their own. MLflow's files are
for people.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict

from {{cookiecutter.__package_name}}.core.contracts.schema import DTYPES
from {{cookiecutter.__package_name}}.core.errors import BadInput
from {{cookiecutter.__package_name}}.core.models import evaluation
from {{cookiecutter.__package_name}}.core.models.evaluation import Answers
from {{cookiecutter.__package_name}}.core.models.predictor import Predictor
from {{cookiecutter.__package_name}}.core.problem import Problem
from {{cookiecutter.__package_name}}.core.store.lake import Lake

TABLE, VERDICTS = "candidates", "verdicts"
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
    "smoke_test": pl.String(),
}
HEAVY = {"onnx", "holdout"}


class CandidateRecord(BaseModel):
    """What a challenger is made of.

    Attributes:
        run_id: The tracked run that trained it.
        trained: When.
        as_of: Labels known by then were used.
        tables: The versions of the tables.
        commit: Of the code; empty without Git.
        dirty: Whether files of the model differed from it.
        code: The hash of what makes the model.
        lock: The hash of the lock.
        parameters: Of the estimator.
        features: In the model's order; true where one is text.
        classes: Of a multiclass task, in the order of its probabilities.
        training_window_days: It was fitted on labels of so many days; 0 is all.
        metrics: Of the model and its baselines on the holdout, numbers of rows, parity.
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
    """A challenger with all that the gate needs.

    Attributes:
        onnx: The model, fitted without the holdout.
        holdout: The newest labelled window: rows with features and labels, and what each model predicts for them in the
            columns `_model`, `_linear` and `_dummy`.
    """

    onnx: bytes
    holdout: pl.DataFrame

    def predictor(self, problem: Problem) -> Predictor:
        """The model."""
        return Predictor(self.onnx, self.features, problem.task)

    def answers(self, problem: Problem, model: str = "model") -> Answers:
        """What a model answered to the holdout, beside what came true."""
        return evaluation.answers(problem, self.holdout, self.holdout[f"_{model}"].to_numpy(), self.classes)


@dataclass(frozen=True)
class LastVerdict:
    """What was last said of a challenger.

    Attributes:
        passed: Whether it may serve.
        smoke_test: Why the smoke test refused it; empty where it did not.
    """

    passed: bool
    smoke_test: str


class Candidates:
    """The tables of challengers and verdicts: appended to, and changed only where rows are erased."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake

    def append(self, candidate: Candidate) -> None:
        """Record a challenger, once."""
        self._lake.append(TABLE, rows_of([candidate]), batch=candidate.run_id)

    def newest(self) -> CandidateRecord | None:
        """What the challenger that was trained last is made of."""
        rows = self._lake.read(TABLE, COLUMNS).select("trained", "record").sort("trained").tail(1).collect()
        return CandidateRecord.model_validate_json(rows["record"].item()) if len(rows) else None

    def read(self, run_id: str) -> Candidate:
        """The challenger of a run.

        Raises:
            BadInput: There is none.
        """
        rows = self._lake.read(TABLE, COLUMNS).filter(pl.col("run_id") == run_id).collect()
        if rows.is_empty():
            raise BadInput(f"run {run_id} has no row in the table {TABLE} of the lake {self._lake.url}: train again")
        return _candidate(rows.row(0, named=True))

    def all(self) -> list[Candidate]:
        """All challengers, the first trained first."""
        return [_candidate(row) for row in self._lake.read(TABLE, COLUMNS).sort("trained").collect().to_dicts()]

    def last_verdict(self, run_id: str) -> LastVerdict | None:
        """What was last said of the challenger of a run, if anything."""
        said = self._verdicts(run_id)
        return LastVerdict(said["passed"][-1], said["smoke_test"][-1]) if len(said) else None

    def append_verdict(self, run_id: str, *, passed: bool, reasons: str, smoke_test: str) -> None:
        """Record what is said of a challenger, where it is not what was said last."""
        row = {"run_id": run_id, "passed": passed, "reasons": reasons, "smoke_test": smoke_test}

        def attempt(version: int) -> None:
            said = self._verdicts(run_id)
            if said.drop("at").tail(1).to_dicts() != [row]:
                rows = pl.DataFrame([row | {"at": datetime.now(UTC)}], schema=VERDICT_COLUMNS)
                self._lake.append(VERDICTS, rows, batch=f"{run_id}-{len(said)}", expected=version)

        self._lake.retry(VERDICTS, attempt)

    def _verdicts(self, run_id: str) -> pl.DataFrame:
        rows = self._lake.read(VERDICTS, VERDICT_COLUMNS).filter(pl.col("run_id") == run_id)
        return rows.select(list(VERDICT_COLUMNS)).sort("at").collect()


def rows_of(candidates: Sequence[Candidate]) -> pl.DataFrame:
    """Challengers as rows of the table."""
    rows = [candidate.model_dump(include={"run_id", "trained", "onnx"}) for candidate in candidates]
    for row, candidate in zip(rows, candidates, strict=True):
        holdout = BytesIO()
        candidate.holdout.write_parquet(holdout)
        row.update(record=candidate.model_dump_json(exclude=HEAVY), holdout=holdout.getvalue())
    return pl.DataFrame(rows, schema=COLUMNS)


def _candidate(row: dict[str, Any]) -> Candidate:
    record = CandidateRecord.model_validate_json(row["record"])
    return Candidate(**record.model_dump(), onnx=row["onnx"], holdout=pl.read_parquet(BytesIO(row["holdout"])))
