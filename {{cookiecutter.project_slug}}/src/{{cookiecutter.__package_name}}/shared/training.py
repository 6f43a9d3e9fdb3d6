"""Fit, export, predict, compare: the same for experiments, training and gate.

What is fitted leaves as the bytes that production loads: ONNX, canonical, and proven equal to the pipeline.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import polars as pl
from numpy.typing import NDArray
from onnx import helper
from pydantic import BaseModel

from {{cookiecutter.__package_name}}.shared import Refused, first_line
from {{cookiecutter.__package_name}}.shared.evaluation import Floats, answers, classes_of, losses
from {{cookiecutter.__package_name}}.shared.problem import Problem, Recipe
from {{cookiecutter.__package_name}}.shared.release import Predictor, model_inputs, text_features
from {{cookiecutter.__package_name}}.shared.schema import TARGET, Task

PARITY = 1e-5  # absolute for probabilities, relative to the spread of the values for a regression
UNSEEN = "a category never seen"


def to_bytes(recipe: Recipe, pipeline: Any, features: dict[str, bool]) -> bytes:  # noqa: ANN401 - any estimator
    """The pipeline as ONNX; the same pipeline gives the same bytes in every process.

    Raises:
        Refused: A step of the pipeline can't be exported.
    """
    try:
        model = recipe.export(pipeline, features)
        _give_probability_alone(model.graph)
        onnx.checker.check_model(model)
    except Exception as error:  # converters raise anything
        steps = " -> ".join(type(step).__name__ for step in getattr(pipeline, "named_steps", {"": pipeline}).values())
        msg = f"the model ({steps}) can't be exported to ONNX: {first_line(error)}; change shared/model.py"
        raise Refused(msg) from error
    opsets = sorted(model.opset_import, key=lambda opset: opset.domain)
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    model.graph.name = "model"
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _give_probability_alone(graph: onnx.GraphProto) -> None:
    """Leave out the label that a binary tree ensemble gives too: nobody reads it, and it takes a fourth of the time."""
    trees = graph.node[-1]
    given = {each.name: helper.get_attribute_value(each) for each in trees.attribute}
    if given.get("post_transform") != b"LOGISTIC" or set(given.get("class_ids", ())) != {0}:
        return
    kept = {name: value for name, value in given.items() if name.startswith(("nodes_", "class_", "base_values"))}
    named = {name.replace("class_", "target_"): value for name, value in kept.items()} | {"n_targets": 1}
    trees.CopyFrom(helper.make_node("TreeEnsembleRegressor", trees.input, ["margin"], domain=trees.domain, **named))
    graph.node.append(helper.make_node("Sigmoid", ["margin"], ["probability"]))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("probability", onnx.TensorProto.FLOAT, [None, 1]))


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
    except (TypeError, ValueError) as error:
        msg = f"the exported model can't answer all rows, missing values and new categories: {error}; change model.py"
        raise Refused(msg) from error
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
    try:
        features, pipeline = text_features(problem, rows), _fitted(problem, parameters, rows)
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:  # models raise anything
        none = ", ".join(name for name in problem.features if rows[name].null_count() == len(rows))
        way = (
            f"no row has {none}: drop it from features.FEATURES, or wait for rows" if none else "change shared/model.py"
        )
        raise Refused(f"the model can't be fitted to these rows: {first_line(error)}; {way}") from error
    onnx = to_bytes(problem.recipe(), pipeline, features)
    predictor = Predictor(onnx, features, problem.task)
    return Fitted(pipeline, onnx, predictor, classes_of(problem, rows), parity(problem, pipeline, predictor, check))


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
