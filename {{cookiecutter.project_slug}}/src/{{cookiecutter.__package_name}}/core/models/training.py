"""Fitting and baselines, shared by experiments, training and promotion."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel

from {{cookiecutter.__package_name}}.core.contracts.schema import TARGET, Task
from {{cookiecutter.__package_name}}.core.errors import Rejected, summarize
from {{cookiecutter.__package_name}}.core.models.evaluation import (
    Floats,
    classes_of,
    labelled_predictions,
    losses,
)
from {{cookiecutter.__package_name}}.core.models.predictor import (
    Predictor,
    model_inputs,
    predicted,
    text_features,
)
from {{cookiecutter.__package_name}}.core.problem import Problem


@dataclass(frozen=True)
class FittedModel:
    """A fitted pipeline, its ONNX export and the maximum difference between them."""

    pipeline: Any
    onnx: bytes
    predictor: Predictor
    classes: tuple[str, ...]
    parity: float


def fit(problem: Problem, parameters: BaseModel, rows: pl.DataFrame, *, parity_rows: pl.DataFrame) -> FittedModel:
    """Fit the problem's model on rows with their features, and export it.

    Args:
        problem: The problem.
        parameters: The parameters of the model's estimator.
        rows: A training set; only these rows are augmented.
        parity_rows: Rows on which the exported model is compared with the pipeline.

    Raises:
        Rejected: The model can't be fitted or exported, or the export predicts differently.
    """
    from {{cookiecutter.__package_name}}.core.models import onnx  # noqa: PLC0415 - serving has neither onnx nor sklearn

    try:
        features, pipeline = text_features(problem, rows), _fitted(problem, parameters, rows)
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:  # models raise anything
        none = ", ".join(name for name in problem.features if rows[name].null_count() == len(rows))
        way = (
            f"no row has {none}: drop it from features.FEATURES, or wait for rows" if none else "change shared/model.py"
        )
        raise Rejected(f"the model can't be fitted on these rows: {summarize(error)}; {way}") from error
    content = onnx.export(problem.model_spec(), pipeline, features)
    predictor = Predictor(content, features, problem.task)
    parity = onnx.parity(problem, pipeline, predictor, parity_rows)
    return FittedModel(pipeline, content, predictor, classes_of(problem, rows), parity)


def fitted_predictions(problem: Problem, parameters: BaseModel, rows: pl.DataFrame, holdout: pl.DataFrame) -> Floats:
    """The predictions for the holdout of a model fitted on the training rows, without export."""
    inputs = model_inputs(holdout, text_features(problem, rows))
    return predicted(problem.task, _fitted(problem, parameters, rows), inputs)


def loss(problem: Problem, parameters: BaseModel, rows: pl.DataFrame, holdout: pl.DataFrame) -> float:
    """The mean loss on the holdout of a model fitted on the training rows, without export."""
    prediction = fitted_predictions(problem, parameters, rows, holdout)
    return float(losses(labelled_predictions(problem, holdout, prediction, classes_of(problem, rows))).mean())


def baselines(problem: Problem, rows: pl.DataFrame, holdout: pl.DataFrame, *, seed: int) -> dict[str, Floats]:
    """The predictions of baselines for the holdout: `dummy` (the distribution of the target) and `linear`."""
    from sklearn.compose import make_column_transformer  # noqa: PLC0415 - takes a second to import
    from sklearn.dummy import DummyClassifier, DummyRegressor  # noqa: PLC0415
    from sklearn.impute import SimpleImputer  # noqa: PLC0415
    from sklearn.linear_model import LogisticRegression, Ridge  # noqa: PLC0415
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415
    from sklearn.preprocessing import OneHotEncoder, StandardScaler  # noqa: PLC0415

    features = text_features(problem, rows)
    text = [name for name, is_text in features.items() if is_text]
    numbers = [name for name in features if name not in text]
    encode = make_column_transformer(
        (OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=50, sparse_output=False), text),
        (make_pipeline(SimpleImputer(add_indicator=True), StandardScaler()), numbers),
    )
    regression = problem.task is Task.REGRESSION
    dummy = DummyRegressor() if regression else DummyClassifier(strategy="prior")
    linear = Ridge() if regression else LogisticRegression(solver="newton-cholesky", random_state=seed)
    models = {"dummy": dummy, "linear": make_pipeline(encode, linear)}
    x, y, new = model_inputs(rows, features), _labels(problem, rows), model_inputs(holdout, features)
    return {name: predicted(problem.task, model.fit(x, y), new) for name, model in models.items()}


def _fitted(problem: Problem, parameters: BaseModel, rows: pl.DataFrame) -> Any:  # noqa: ANN401 - any estimator
    model_spec = problem.model_spec()
    if model_spec.augment:
        rows = model_spec.augment(parameters, rows, np.random.default_rng(parameters.model_dump()["seed"]))
    features = text_features(problem, rows)
    pipeline = model_spec.estimator(parameters, [name for name, text in features.items() if text])
    return pipeline.fit(model_inputs(rows, features), _labels(problem, rows))


def _labels(problem: Problem, rows: pl.DataFrame) -> NDArray[Any]:
    """The labels for scikit-learn: integers for a binary task, class names, or values."""
    return rows[TARGET].cast(pl.Int64).to_numpy() if problem.task is Task.BINARY else rows[TARGET].to_numpy()
