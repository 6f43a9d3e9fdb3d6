"""Fit and compare: the same for experiments, training and gate."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel

from {{cookiecutter.__package_name}}.core.contracts.schema import TARGET, Task
from {{cookiecutter.__package_name}}.core.errors import Refused, first_line
from {{cookiecutter.__package_name}}.core.models.evaluation import Floats, answers, classes_of, losses
from {{cookiecutter.__package_name}}.core.models.predictor import (
    Predictor,
    model_inputs,
    predicted,
    text_features,
)
from {{cookiecutter.__package_name}}.core.problem import Problem


@dataclass(frozen=True)
class Fitted:
    """A fitted pipeline, the same as ONNX, and the largest difference between them."""

    pipeline: Any
    onnx: bytes
    predictor: Predictor
    classes: tuple[str, ...]
    parity: float


def fit(problem: Problem, parameters: BaseModel, rows: pl.DataFrame, *, check: pl.DataFrame) -> Fitted:
    """Fit the problem's model on rows with their features, and export it.

    Args:
        problem: The problem.
        parameters: Of its estimator.
        rows: A training set; the recipe's step of augmentation, if there is one, sees these rows and no others.
        check: Rows on which the exported model is held equal to the pipeline.

    Raises:
        Refused: The model can't be fitted or exported, or the export answers differently.
    """
    from {{cookiecutter.__package_name}}.core.models import onnx  # noqa: PLC0415 - serving, which monitors, has neither onnx nor sklearn

    try:
        features, pipeline = text_features(problem, rows), _fitted(problem, parameters, rows)
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:  # models raise anything
        none = ", ".join(name for name in problem.features if rows[name].null_count() == len(rows))
        way = (
            f"no row has {none}: drop it from features.FEATURES, or wait for rows" if none else "change shared/model.py"
        )
        raise Refused(f"the model can't be fitted to these rows: {first_line(error)}; {way}") from error
    content = onnx.export(problem.recipe(), pipeline, features)
    predictor = Predictor(content, features, problem.task)
    parity = onnx.parity(problem, pipeline, predictor, check)
    return Fitted(pipeline, content, predictor, classes_of(problem, rows), parity)


def fitted_predictions(problem: Problem, parameters: BaseModel, rows: pl.DataFrame, held: pl.DataFrame) -> Floats:
    """What the problem's model, fitted on rows and not exported, predicts for held rows."""
    inputs = model_inputs(held, text_features(problem, rows))
    return predicted(problem.task, _fitted(problem, parameters, rows), inputs)


def loss(problem: Problem, parameters: BaseModel, rows: pl.DataFrame, held: pl.DataFrame) -> float:
    """The mean loss on held rows of the problem's model, fitted on others and not exported."""
    prediction = fitted_predictions(problem, parameters, rows, held)
    return float(losses(answers(problem, held, prediction, classes_of(problem, rows))).mean())


def baselines(problem: Problem, rows: pl.DataFrame, held: pl.DataFrame, *, seed: int) -> dict[str, Floats]:
    """What simpler models predict for held rows: `dummy` knows only the target's distribution, `linear` is linear."""
    from sklearn.compose import make_column_transformer  # noqa: PLC0415 - takes a second: only what fits pays for it
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
    x, y, new = model_inputs(rows, features), _labels(problem, rows), model_inputs(held, features)
    return {name: predicted(problem.task, model.fit(x, y), new) for name, model in models.items()}


def _fitted(problem: Problem, parameters: BaseModel, rows: pl.DataFrame) -> Any:  # noqa: ANN401 - any estimator
    recipe = problem.recipe()
    if recipe.augment:
        rows = recipe.augment(parameters, rows, np.random.default_rng(parameters.model_dump()["seed"]))
    features = text_features(problem, rows)
    pipeline = recipe.estimator(parameters, [name for name, text in features.items() if text])
    return pipeline.fit(model_inputs(rows, features), _labels(problem, rows))


def _labels(problem: Problem, rows: pl.DataFrame) -> NDArray[Any]:
    """What scikit-learn is told: integers for a binary task, the names of classes, or values."""
    return rows[TARGET].cast(pl.Int64).to_numpy() if problem.task is Task.BINARY else rows[TARGET].to_numpy()
