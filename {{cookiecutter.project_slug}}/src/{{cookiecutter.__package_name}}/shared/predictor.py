"""A registered model at work: ONNX in, predictions out, with neither scikit-learn nor MLflow."""

from functools import cached_property

import numpy as np
import onnxruntime
import polars as pl
from numpy.typing import NDArray

from {{cookiecutter.__package_name}}.shared.problem import Problem
from {{cookiecutter.__package_name}}.shared.schema import Task


def text_features(problem: Problem, rows: pl.DataFrame) -> dict[str, bool]:
    """The features in the model's order; true where one is text, a category."""
    return {name: rows.schema[name] == pl.String for name in problem.features}


def model_inputs(rows: pl.DataFrame, features: dict[str, bool]) -> pl.DataFrame:
    """What pipeline and exported model are both given: text with no missing values, 32-bit floats with NaN for them."""
    return rows.select(
        pl.col(name).fill_null("") if text else pl.col(name).cast(pl.Float32).fill_null(float("nan"))
        for name, text in features.items()
    )


class Predictor:
    """A model as it is registered.

    Args:
        model: ONNX, one input a feature.
        features: The features in the model's order; true where one is text.
        task: What kind of answer it gives.
    """

    def __init__(self, model: bytes, features: dict[str, bool], task: Task) -> None:
        self._model, self.features, self.task = model, features, task

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        return onnxruntime.InferenceSession(self._model, options, providers=["CPUExecutionProvider"])

    def predict(self, rows: pl.DataFrame) -> NDArray[np.float64]:
        """Predictions for rows with their features.

        Returns:
            Probabilities of the target, shape (rows,), for a binary task; of each class, shape (rows, classes), for
            a multiclass task; values, shape (rows,), for a regression.
        """
        inputs = {
            name: column.to_numpy().reshape(-1, 1).astype(object if self.features[name] else np.float32)
            for name, column in model_inputs(rows, self.features).to_dict().items()
        }
        answers = self._session.run(None, inputs)
        prediction = np.asarray(answers[-1], dtype=np.float64)
        if self.task is Task.BINARY:
            return prediction[:, 1]
        return prediction.reshape(-1) if self.task is Task.REGRESSION else prediction
