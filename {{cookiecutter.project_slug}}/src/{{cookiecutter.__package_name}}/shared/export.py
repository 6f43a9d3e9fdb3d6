"""A fitted pipeline as the bytes that production loads: ONNX, canonical, and proven equal to the pipeline."""

from typing import Any

import numpy as np
import onnx
import polars as pl
from numpy.typing import NDArray

from {{cookiecutter.__package_name}}.shared.errors import Refused
from {{cookiecutter.__package_name}}.shared.predictor import Predictor, model_inputs
from {{cookiecutter.__package_name}}.shared.problem import Problem, Recipe
from {{cookiecutter.__package_name}}.shared.schema import Task

PARITY = 1e-5  # absolute for probabilities, relative to the spread of the values for a regression
UNSEEN = "a category never seen"


def to_bytes(recipe: Recipe, pipeline: Any, features: dict[str, bool]) -> bytes:  # noqa: ANN401 - any estimator
    """The pipeline as ONNX; the same pipeline gives the same bytes in every process.

    Raises:
        Refused: A step of the pipeline can't be exported.
    """
    try:
        model = recipe.export(pipeline, features)
    except Exception as error:  # converters raise anything
        steps = " -> ".join(type(step).__name__ for step in getattr(pipeline, "named_steps", {"": pipeline}).values())
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise Refused(f"the model ({steps}) can't be exported to ONNX: {reason}; change shared/model.py") from error
    opsets = sorted(model.opset_import, key=lambda opset: opset.domain)
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    model.graph.name = "model"
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def parity(problem: Problem, pipeline: Any, predictor: Predictor, rows: pl.DataFrame) -> float:  # noqa: ANN401
    """The largest difference between pipeline and exported model: on the rows, with nulls and with unseen categories.

    Raises:
        Refused: It is larger than `PARITY`.
    """
    features = rows.select(problem.features)
    text = [name for name, is_text in predictor.features.items() if is_text]
    numbers = [name for name in problem.features if name not in text]
    hard = features.with_columns(pl.lit(None, dtype=pl.Float32).alias(name) for name in numbers[::2])
    strange = features.with_columns(pl.lit(UNSEEN).alias(name) for name in text)
    try:
        worst = max(_difference(problem.task, pipeline, predictor, frame) for frame in (features, hard, strange))
    except ValueError as error:
        raise Refused(f"the model can't answer missing values or a new category: {error}; change model.py") from error
    if not worst <= PARITY:
        msg = (
            f"the exported model differs from the pipeline by {worst:.2g} (at most {PARITY:.0e}): a step of "
            "shared/model.py is lost in the export, as gradient boosting's own categorical_features are"
        )
        raise Refused(msg)
    return worst


def predicted(task: Task, model: Any, inputs: pl.DataFrame) -> NDArray[np.float64]:  # noqa: ANN401
    """A scikit-learn model's predictions, in the shape that a `Predictor` gives."""
    if task is Task.REGRESSION:
        return np.asarray(model.predict(inputs), dtype=np.float64)
    probabilities = np.asarray(model.predict_proba(inputs), dtype=np.float64)
    return probabilities[:, 1] if task is Task.BINARY else probabilities


def _difference(task: Task, pipeline: Any, predictor: Predictor, features: pl.DataFrame) -> float:  # noqa: ANN401
    expected = predicted(task, pipeline, model_inputs(features, predictor.features))
    scale = float(np.ptp(expected)) or 1.0 if task is Task.REGRESSION else 1.0
    return float(np.abs(expected - predictor.predict(features)).max() / scale)
