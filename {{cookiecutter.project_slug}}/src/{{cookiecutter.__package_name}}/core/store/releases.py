"""The table `releases`: the champion is its newest row, with everything that predictions need.

Neither scikit-learn nor MLflow is needed.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from itertools import compress
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from {{cookiecutter.__package_name}}.core.contracts.schema import DTYPES, Task
from {{cookiecutter.__package_name}}.core.errors import InputError, Rejected, summarize
from {{cookiecutter.__package_name}}.core.models.predictor import (
    PARITY_TOLERANCE,
    Predictor,
    difference,
    model_inputs,
)
from {{cookiecutter.__package_name}}.core.store.erasures import erased_keys
from {{cookiecutter.__package_name}}.core.store.lake import Lake

RELEASES = "releases"
MODEL_FILE = "model.onnx"  # among the artifacts of a run
COLUMNS = {
    "number": pl.Int64(),
    "version": pl.Int64(),
    "released": DTYPES[datetime],
    "onnx": pl.Binary(),
    "record": pl.String(),
}

Row = dict[str, Any]  # a row in JSON


class GoldenRequests(BaseModel):
    """Requests with the features and predictions that the model had in training."""

    requests: list[Row]
    features: list[Row]
    predictions: list[Any]


class Release(BaseModel):
    """A released model.

    Attributes:
        number: Number of the release; a rollback is a release too.
        version: Model version in the registry.
        run_id: Id of the tracked run.
        released: Time of the release.
        reason: `promoted` or `rolled back`.
        trained_until: Time as of which its training labels were available.
        task: The task.
        features: The features in the model's order; true if one is text.
        classes: The classes of a multiclass task, in the order of the probabilities.
        threshold: The decision threshold of a binary task.
        words: The words for true and false of its target; empty if it has none of its own.
        reference: The reference value of each feature: median or mode.
        metrics: Metrics on the newest labelled window, before the refit.
        parameters: The parameters of the estimator.
        tables: The table versions of its training.
        golden: The golden requests.
        onnx: The ONNX model.
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
    words: tuple[str, ...] = ()
    reference: Row
    metrics: dict[str, float]
    parameters: Row
    tables: dict[str, int]
    golden: GoldenRequests
    onnx: bytes = Field(exclude=True, repr=False)

    @classmethod
    def read(cls, record: str | bytes, onnx: bytes, **changes: object) -> "Release":
        """A release from its record (the result of `model_dump_json`) and its ONNX model."""
        return cls.model_validate(json.loads(record) | {"onnx": onnx} | changes)

    @cached_property
    def predictor(self) -> Predictor:
        """The model, loaded on first use."""
        return Predictor(self.onnx, self.features, self.task)

    def prediction_frame(self, predictions: NDArray[np.float64]) -> pl.DataFrame:
        """Predictions as a frame with one row per prediction.

        Returns:
            `probability` and `decision` for a binary task; `prediction` and a `probability_CLASS` per class for a
            multiclass task; `prediction` for a regression.
        """
        if self.task is Task.BINARY:
            decisions = predictions >= (self.threshold or 0.5)
            return pl.DataFrame(
                {"probability": predictions, "decision": np.where(decisions, *self.words) if self.words else decisions}
            )
        if self.task is Task.REGRESSION:
            return pl.DataFrame({"prediction": predictions})
        names = np.asarray(self.classes)
        each = {f"probability_{name}": predictions[:, i] for i, name in enumerate(self.classes)}
        return pl.DataFrame({"prediction": names[predictions.argmax(axis=1)]} | each)

    def without(self, keys: pl.DataFrame) -> "Release":
        """The release without the golden requests that have these keys."""
        gone = json.loads(keys.write_json())
        remaining = [{name: row.get(name) for name in keys.columns} not in gone for row in self.golden.requests]
        columns = {name: list(compress(values, remaining)) for name, values in self.golden.model_dump().items()}
        return self.model_copy(update={"golden": GoldenRequests.model_validate(columns)})

    def check(self) -> None:
        """Check that the model reproduces the predictions of the golden requests.

        Raises:
            Rejected: A prediction differs or is not a number.
        """
        types = {name: pl.String if text else pl.Float32 for name, text in self.features.items()}
        features = pl.DataFrame(self.golden.features, schema=types, strict=False)
        if features.is_empty():  # all golden requests were erased
            return
        expected = np.asarray(self.golden.predictions, dtype=np.float64)
        worst = difference(self.task, expected, self.predictor.predict(features))
        if not worst <= PARITY_TOLERANCE:
            msg = f"version {self.version} differs by {worst:.2g} from its golden predictions: it must not serve"
            raise Rejected(msg)


def contributions(release: Release, row: pl.DataFrame) -> dict[str, float]:
    """The change of the prediction when one feature is replaced by its reference value (occlusion).

    The prediction is a probability (of the most likely class for a multiclass task), or the value of a regression.
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
    """The table of releases, which is append-only except for erasure."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._seen: tuple[int, Release | None] = (-1, None)

    def champion(self) -> Release | None:
        """The current release, or None before the first promotion. It is cached until the table changes."""
        if (version := self._lake.version(RELEASES)) != self._seen[0]:
            self._seen = (version, next(iter(self.newest(1)), None))
        return self._seen[1]

    def newest(self, n: int) -> list[Release]:
        """The newest releases, newest first."""
        rows = self._lake.read(RELEASES, COLUMNS).sort("number", descending=True).head(n).collect()
        return [_read(row) for row in rows.to_dicts()]

    def run_ids(self) -> set[str]:
        """The ids of the runs of all releases."""
        records = self._lake.read(RELEASES, COLUMNS).select(pl.col("record").str.json_path_match("$.run_id"))
        return set(records.collect().to_series())

    def append(self, release: Release) -> bool:
        """Append a release without erased rows, unless its number is taken; whether it was appended."""

        def attempt(version: int) -> bool:
            rows = rows_of([release.without(erased_keys(self._lake))])
            taken = self._lake.read(RELEASES, COLUMNS).filter(pl.col("number") == release.number).collect()
            batch = f"release-{release.number}-{version}"  # unique even after the row was deleted
            return taken.is_empty() and self._lake.append(RELEASES, rows, batch=batch, expected=version)

        return self._lake.retry(RELEASES, attempt)


def _read(row: Row) -> Release:
    try:
        return Release.read(row["record"], row["onnx"])
    except ValueError as error:
        msg = f"release {row['number']} in the table {RELEASES} is broken: {summarize(error)}; see docs/runbook.md"
        raise InputError(msg) from error


def rows_of(releases: Sequence[Release]) -> pl.DataFrame:
    """Releases as rows of the table `releases`."""
    rows = [(one.number, one.version, one.released, one.onnx, one.model_dump_json()) for one in releases]
    return pl.DataFrame(rows, schema=COLUMNS, orient="row")
