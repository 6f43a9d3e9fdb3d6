"""The parameters of the model of a table, chosen on folds before the newest window."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.model_selection import KFold, StratifiedKFold, TimeSeriesSplit

from {{cookiecutter.__package_name}}.core.contracts.schema import Task
from {{cookiecutter.__package_name}}.core.models.evaluation import MIN_PROBABILITY

TREES = (
    {"learning_rate": 0.1, "max_leaf_nodes": 31, "min_samples_leaf": 20},
    {"learning_rate": 0.1, "max_leaf_nodes": 6, "min_samples_leaf": 20},
    {"learning_rate": 0.05, "max_leaf_nodes": 12, "min_samples_leaf": 10},
)
ITERATIONS = (20, 50, 100, 200)
STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)
WEIGHTS = tuple(weight / 10 for weight in range(11))
FOLDS, MAX_ROWS = 3, 20_000

Estimator = Callable[[dict[str, Any]], Any]
Predictions = NDArray[np.float64]


def choose(
    estimator: Estimator, inputs: pl.DataFrame, target: NDArray[Any], task: Task, *, in_order: bool
) -> tuple[dict[str, Any], float, float]:
    """Parameters with the lowest loss on folds.

    Args:
        estimator: Parameters to the unfitted vote of `linear` and `trees`.
        inputs: The features, in the order of time if rows have one.
        target: The labels.
        task: The task.
        in_order: Whether the folds go forward in time.

    Returns:
        The parameters, their loss, and the loss of a constant prediction.
    """
    rows = _sample(len(inputs), in_order=in_order)
    inputs, target = inputs[rows], target[rows]
    linear: dict[float, list[Predictions]] = {strength: [] for strength in STRENGTHS}
    trees: dict[tuple[int, int], list[Predictions]] = {}
    labels, dummy = [], []
    for train, test in _folds(target, task, in_order=in_order):
        x, y, new = inputs[train], target[train], inputs[test]
        labels.append(target[test])
        dummy.append(_constant(y, len(test), task))
        for strength in STRENGTHS:
            fitted = _part(estimator({"linear_strength": strength}), "linear").fit(x, y)
            linear[strength].append(_predict(fitted, new, task))
        for number, parameters in enumerate(TREES):
            fitted = _part(estimator(parameters | {"max_iter": ITERATIONS[-1]}), "trees").fit(x, y)
            stages = list(_stages(fitted, new, task))
            for iterations in ITERATIONS:
                trees.setdefault((number, iterations), []).append(stages[iterations - 1])
    truth = np.concatenate(labels)
    lines = {strength: np.concatenate(found) for strength, found in linear.items()}
    forests = {which: np.concatenate(found) for which, found in trees.items()}
    strength = min(lines, key=lambda each: _loss(truth, lines[each], task))
    options = (
        (_loss(truth, weight * forest + (1 - weight) * lines[strength], task), weight, which)
        for which, forest in forests.items()
        for weight in WEIGHTS
    )
    loss, weight, (number, iterations) = min(options)
    chosen = {"trees_weight": weight, "linear_strength": strength, "max_iter": iterations, **TREES[number]}
    return chosen, loss, _loss(truth, np.concatenate(dummy), task)


def _sample(n: int, *, in_order: bool) -> NDArray[np.int64]:
    if n <= MAX_ROWS:
        return np.arange(n)
    return np.arange(n - MAX_ROWS, n) if in_order else np.sort(np.random.default_rng(0).permutation(n)[:MAX_ROWS])


def _folds(target: NDArray[Any], task: Task, *, in_order: bool) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    if in_order:
        folds = TimeSeriesSplit(FOLDS, test_size=len(target) // 5)
    elif task is Task.REGRESSION or np.unique(target, return_counts=True)[1].min() < FOLDS:
        folds = KFold(FOLDS, shuffle=True, random_state=0)
    else:
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    classes = np.unique(target)
    for train, test in folds.split(target, target):
        if task is Task.REGRESSION or len(np.unique(target[train])) == len(classes):
            yield train, test


def _part(vote: Any, name: str) -> Any:  # noqa: ANN401 - scikit-learn's
    return dict(vote.estimators)[name]


def _predict(model: Any, inputs: pl.DataFrame, task: Task) -> Predictions:  # noqa: ANN401
    return np.asarray(model.predict(inputs) if task is Task.REGRESSION else model.predict_proba(inputs))


def _stages(model: Any, inputs: pl.DataFrame, task: Task) -> Iterator[Predictions]:  # noqa: ANN401
    encoded = model[0].transform(inputs)
    yield from model[-1].staged_predict(encoded) if task is Task.REGRESSION else model[-1].staged_predict_proba(encoded)


def _constant(target: NDArray[Any], n: int, task: Task) -> Predictions:
    if task is Task.REGRESSION:
        return np.full(n, target.mean())
    return np.tile(np.unique(target, return_counts=True)[1] / len(target), (n, 1))


def _loss(target: NDArray[Any], prediction: Predictions, task: Task) -> float:
    if task is Task.REGRESSION:
        return float(np.square(prediction - target).mean())
    given = prediction[np.arange(len(target)), target]
    return float(-np.log(np.clip(given, MIN_PROBABILITY, None)).mean())
