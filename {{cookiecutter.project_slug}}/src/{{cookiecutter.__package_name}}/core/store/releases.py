"""The champion that serves: the newest row of the table `releases`, with all that a prediction needs.

ONNX in, predictions out, with neither scikit-learn nor MLflow.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from {{cookiecutter.__package_name}}.core.contracts.schema import DTYPES, Task
from {{cookiecutter.__package_name}}.core.errors import BadInput, Refused, first_line
from {{cookiecutter.__package_name}}.core.models.predictor import (
    TOLERANCE,
    Predictor,
    difference,
    model_inputs,
)
from {{cookiecutter.__package_name}}.core.store.lake import Lake

TABLE = "releases"
CARD, MODEL = "release.json", "model.onnx"  # as files beside a run
COLUMNS = {
    "number": pl.Int64(),
    "version": pl.Int64(),
    "released": DTYPES[datetime],
    "onnx": pl.Binary(),
    "card": pl.String(),
}

Row = dict[str, Any]  # a row as JSON has it


class Golden(BaseModel):
    """Requests with their features and the answers that the model gave in training."""

    requests: list[Row]
    features: list[Row]
    answers: list[Any]


class Release(BaseModel):
    """One model as it serves.

    Attributes:
        number: Counts the releases; a rollback is a release too.
        version: Of the model in the registry.
        run_id: The tracked run that trained it.
        released: When.
        reason: Why: promoted, or rolled back.
        trained_until: It has seen the labels that were known by then.
        task: What kind of answer it gives.
        features: In the model's order; true where one is text.
        classes: Of a multiclass task, in the order of its probabilities.
        threshold: The probability from which an alert costs less than none, of a binary task.
        reference: A typical value of each feature.
        metrics: On the newest labelled window, before the refit.
        parameters: Of the estimator.
        tables: The versions of the tables that it was trained on.
        golden: Requests with their answers.
        onnx: The model.
    """

    model_config = ConfigDict(frozen=True)

    number: int
    version: int
    run_id: str
    released: datetime
    reason: str
    trained_until: datetime
    task: Task
    features: dict[str, bool]
    classes: tuple[str, ...]
    threshold: float | None
    reference: Row
    metrics: dict[str, float]
    parameters: Row
    tables: dict[str, int]
    golden: Golden
    onnx: bytes = Field(exclude=True, repr=False)

    @classmethod
    def read(cls, card: str | bytes, onnx: bytes, **changes: object) -> "Release":
        """A release from its card, as `model_dump_json` writes it, and its model."""
        return cls.model_validate(json.loads(card) | {"onnx": onnx} | changes)

    @cached_property
    def predictor(self) -> Predictor:
        """The model, loaded when first asked."""
        return Predictor(self.onnx, self.features, self.task)

    def answers(self, predictions: NDArray[np.float64]) -> pl.DataFrame:
        """Predictions as people and files want them, a row a prediction.

        Returns:
            `probability` and `decision` for a binary task, `prediction` and one `probability_CLASS` a class for a
            multiclass task, `prediction` for a regression.
        """
        if self.task is Task.BINARY:
            return pl.DataFrame({"probability": predictions, "decision": predictions >= (self.threshold or 0.5)})
        if self.task is Task.REGRESSION:
            return pl.DataFrame({"prediction": predictions})
        names = np.asarray(self.classes)
        each = {f"probability_{name}": predictions[:, i] for i, name in enumerate(self.classes)}
        return pl.DataFrame({"prediction": names[predictions.argmax(axis=1)]} | each)

    def check(self) -> None:
        """Answer the golden requests from their features.

        Raises:
            Refused: An answer differs, or is no number.
        """
        types = {name: pl.String if text else pl.Float32 for name, text in self.features.items()}
        features = pl.DataFrame(self.golden.features, schema=types, strict=False)
        if features.is_empty():  # all were erased
            return
        expected = np.asarray(self.golden.answers, dtype=np.float64)
        worst = difference(self.task, expected, self.predictor.predict(features))
        if not worst <= TOLERANCE:
            msg = f"version {self.version} differs by {worst:.2g} from its golden answers: it must not serve"
            raise Refused(msg)


def contributions(release: Release, row: pl.DataFrame) -> dict[str, float]:
    """By how much the prediction changes when one feature takes a typical value instead (occlusion).

    The prediction is a probability (of the likeliest class for a multiclass task), or the value of a regression.
    """
    features = model_inputs(row, release.features)
    varied = [
        features.with_columns(pl.lit(release.reference[name], dtype=kind).alias(name))
        for name, kind in features.schema.items()
    ]
    predictions = release.predictor.predict(pl.concat([features, *varied]))
    if predictions.ndim > 1:
        predictions = predictions[:, int(np.argmax(predictions[0]))]
    return dict(zip(release.features, (predictions[0] - predictions[1:]).tolist(), strict=True))


class Releases:
    """The table of releases: appended to, and changed only where rows are erased."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._seen: tuple[int, Release | None] = (-1, None)

    def champion(self) -> Release | None:
        """What serves now; none before the first promotion. It is read again when the table has changed."""
        if (version := self._lake.version(TABLE)) != self._seen[0]:
            self._seen = (version, next(iter(self.newest(1)), None))
        return self._seen[1]

    def newest(self, n: int) -> list[Release]:
        """The newest releases, the newest first."""
        rows = self._lake.read(TABLE, COLUMNS).sort("number", descending=True).head(n).collect()
        return [_read(row) for row in rows.to_dicts()]

    def run_ids(self) -> set[str]:
        """The runs whose versions serve or served."""
        cards = self._lake.read(TABLE, COLUMNS).select(pl.col("card").str.json_path_match("$.run_id"))
        return set(cards.collect().to_series())

    def append(self, release: Release) -> bool:
        """Append a release, unless its number is taken; whether it was appended."""

        def attempt(version: int) -> bool:
            taken = self._lake.read(TABLE, COLUMNS).filter(pl.col("number") == release.number).collect()
            batch = f"release-{release.number}-{version}"  # a row that was deleted since must not be in its way
            return taken.is_empty() and self._lake.append(TABLE, rows_of([release]), batch=batch, expected=version)

        return self._lake.retry(TABLE, attempt)


def _read(row: Row) -> Release:
    try:
        return Release.read(row["card"], row["onnx"])
    except ValueError as error:
        msg = f"release {row['number']} in the table {TABLE} is broken: {first_line(error)}; see docs/runbook.md"
        raise BadInput(msg) from error


def rows_of(releases: Sequence[Release]) -> pl.DataFrame:
    """Releases as rows of the table."""
    rows = [(one.number, one.version, one.released, one.onnx, one.model_dump_json()) for one in releases]
    return pl.DataFrame(rows, schema=COLUMNS, orient="row")
