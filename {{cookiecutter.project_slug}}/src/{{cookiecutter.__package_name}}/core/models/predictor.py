"""Prediction with an ONNX model, without the packages onnx and scikit-learn."""

import os
from functools import cached_property
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime reads it when it is imported

import numpy as np
import onnxruntime
import polars as pl
from numpy.typing import NDArray

from {{cookiecutter.__package_name}}.core.contracts.schema import Task
from {{cookiecutter.__package_name}}.core.errors import InputError, summarize
from {{cookiecutter.__package_name}}.core.problem import Problem

onnxruntime.disable_telemetry_events()  # on Windows, which has no such variable
PARITY_TOLERANCE = 1e-5  # of a difference: absolute for probabilities, relative to the values' spread for a regression


def text_features(problem: Problem, rows: pl.DataFrame) -> dict[str, bool]:
    """The features in the model's order; true if one is text."""
    return {name: rows.schema[name] == pl.String for name in problem.features}


def model_inputs(rows: pl.DataFrame, features: dict[str, bool]) -> pl.DataFrame:
    """The inputs of estimator and exported model: text without nulls, 32-bit floats with NaN for nulls."""
    return rows.select(
        pl.col(name).fill_null("") if text else pl.col(name).cast(pl.Float32).fill_null(float("nan"))
        for name, text in features.items()
    )


class Predictor:
    """A registered model.

    Args:
        model: ONNX with one input per feature; its last output is the prediction.
        features: The features in the model's order; true if one is text.
        task: Determines the shape of the predictions.
    """

    def __init__(self, model: bytes, features: dict[str, bool], task: Task) -> None:
        self._model, self.features, self.task = model, features, task

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3  # errors; it warns of what skl2onnx leaves unused
        try:
            return onnxruntime.InferenceSession(self._model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises its own classes
            msg = f"the model is not a valid ONNX model: {summarize(error)}; see docs/runbook.md"
            raise InputError(msg) from error

    def predict(self, rows: pl.DataFrame) -> NDArray[np.float64]:
        """Predictions for rows with their features.

        Returns:
            Probabilities of the target, shape (rows,), for a binary task; of each class, shape (rows, classes), for
            a multiclass task; values, shape (rows,), for a regression.
        """
        inputs = {name: _input(rows[name], text=text) for name, text in self.features.items()}
        output = self._session.get_outputs()[-1].name
        prediction = np.asarray(self._session.run([output], inputs)[0], dtype=np.float64)
        if self.task is Task.BINARY:
            return prediction[:, -1]
        return prediction.reshape(-1) if self.task is Task.REGRESSION else prediction


def _input(column: pl.Series, *, text: bool) -> NDArray[Any]:
    """One column of `model_inputs`, shape (rows, 1): three times as fast as the frame for a single row."""
    if text:
        return np.array([value or "" for value in column.to_list()], dtype=object).reshape(-1, 1)
    return column.cast(pl.Float32).to_numpy().reshape(-1, 1)


def predicted(task: Task, estimator: Any, inputs: pl.DataFrame) -> NDArray[np.float64]:  # noqa: ANN401 - any estimator
    """A fitted estimator's predictions, in the shape of `Predictor.predict`."""
    if task is Task.REGRESSION:
        return np.asarray(estimator.predict(inputs), dtype=np.float64)
    probabilities = np.asarray(estimator.predict_proba(inputs), dtype=np.float64)
    return probabilities[:, 1] if task is Task.BINARY else probabilities


def difference(task: Task, expected: NDArray[np.float64], found: NDArray[np.float64]) -> float:
    """The largest difference between two models' predictions, to compare with `PARITY_TOLERANCE`; NaN if one is NaN."""
    spread = float(np.ptp(expected)) or float(np.abs(expected).max()) if task is Task.REGRESSION else 1.0
    return float(np.abs(expected - found).max()) / (spread or 1.0)
