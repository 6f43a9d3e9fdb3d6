"""What a model looks at, whatever it is: by how much its loss grows without a feature, and where a feature moves it."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from {{cookiecutter.__package_name}}.core.models.evaluation import answers, losses
from {{cookiecutter.__package_name}}.core.models.predictor import Predictor
from {{cookiecutter.__package_name}}.core.problem import Problem

ROWS = 5000  # on which the importance of features is measured
SOME, VALUES = 300, 12  # rows on which a feature is moved, and to so many values


def permutation_importance(
    problem: Problem, model: Predictor, rows: pl.DataFrame, classes: Sequence[str]
) -> dict[str, float]:
    """By how much the mean loss grows when a feature's values are shuffled (Breiman, 2001), the largest first."""
    some = rows.sample(min(ROWS, len(rows)), seed=0)
    base = losses(answers(problem, some, model.predict(some), classes)).mean()
    grown = {}
    for name in problem.features:
        shuffled = some.with_columns(some[name].shuffle(seed=1))
        grown[name] = float(losses(answers(problem, shuffled, model.predict(shuffled), classes)).mean() - base)
    return dict(sorted(grown.items(), key=lambda item: -item[1]))


def partial_dependence(
    model: Predictor, rows: pl.DataFrame, feature: str
) -> tuple[list[float] | list[str], NDArray[np.float64]]:
    """The mean prediction when a feature has one value in all rows (partial dependence: Friedman, 2001).

    Args:
        model: The model.
        rows: Rows with their features; some of them are taken.
        feature: The feature that is moved.

    Returns:
        Its values, quantiles of a number or the most frequent of a text, and the predictions, shape (values,) or
        (values, classes).
    """
    some = rows.sample(min(SOME, len(rows)), seed=0)
    if model.features[feature]:
        values = rows[feature].drop_nulls().value_counts(sort=True)[feature].head(VALUES).to_list()
    else:
        numbers = rows[feature].cast(pl.Float64).drop_nulls().to_numpy()
        values = np.unique(np.quantile(numbers, np.linspace(0.02, 0.98, VALUES))).tolist()
    moved = pl.concat([some.with_columns(pl.lit(value).alias(feature)) for value in values])
    predicted = model.predict(moved)
    return values, predicted.reshape(len(values), len(some), *predicted.shape[1:]).mean(axis=1)
