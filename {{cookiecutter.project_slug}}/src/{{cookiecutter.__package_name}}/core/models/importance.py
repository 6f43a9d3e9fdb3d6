"""Permutation importance and partial dependence of any model."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from {{cookiecutter.__package_name}}.core.models.evaluation import labelled_predictions, losses
from {{cookiecutter.__package_name}}.core.models.predictor import Predictor
from {{cookiecutter.__package_name}}.core.problem import Problem

IMPORTANCE_ROWS = 5000  # for permutation importance
DEPENDENCE_ROWS, DEPENDENCE_VALUES = 300, 12  # for partial dependence


def permutation_importance(
    problem: Problem, model: Predictor, rows: pl.DataFrame, classes: Sequence[str]
) -> dict[str, float]:
    """The increase of the loss when a feature is shuffled (Breiman, 2001), largest first."""
    some = rows.sample(min(IMPORTANCE_ROWS, len(rows)), seed=0)
    base = losses(labelled_predictions(problem, some, model.predict(some), classes)).mean()
    increase = {}
    for name in problem.features:
        shuffled = some.with_columns(some[name].shuffle(seed=1))
        increase[name] = float(
            losses(labelled_predictions(problem, shuffled, model.predict(shuffled), classes)).mean() - base
        )
    return dict(sorted(increase.items(), key=lambda item: -item[1]))


def partial_dependence(
    model: Predictor, rows: pl.DataFrame, feature: str
) -> tuple[list[float] | list[str], NDArray[np.float64]]:
    """The mean prediction when a feature has one value in all rows (partial dependence: Friedman, 2001).

    Args:
        model: The model.
        rows: Rows with their features, of which a sample is used.
        feature: The feature.

    Returns:
        Its values, quantiles of a number or the most frequent of a text, and the predictions, shape (values,) or
        (values, classes).
    """
    some = rows.sample(min(DEPENDENCE_ROWS, len(rows)), seed=0)
    if model.features[feature]:
        values = rows[feature].drop_nulls().value_counts(sort=True)[feature].head(DEPENDENCE_VALUES).to_list()
    else:
        numbers = rows[feature].cast(pl.Float64).drop_nulls().to_numpy()
        values = np.unique(np.quantile(numbers, np.linspace(0.02, 0.98, DEPENDENCE_VALUES))).tolist()
    moved = pl.concat([some.with_columns(pl.lit(value).alias(feature)) for value in values])
    predicted = model.predict(moved)
    return values, predicted.reshape(len(values), len(some), *predicted.shape[1:]).mean(axis=1)
