"""Which unlabelled rows are worth a label: a score a row, the most worth first; pure functions over predictions."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel

from {{cookiecutter.__package_name}}.core.contracts.schema import TARGET, Task
from {{cookiecutter.__package_name}}.core.models import training
from {{cookiecutter.__package_name}}.core.models.evaluation import SMALLEST, Floats
from {{cookiecutter.__package_name}}.core.problem import Problem

MEMBERS = 5  # of a committee


def margin(prediction: Floats) -> Floats:
    """How little the likeliest class is ahead of the second: 1 where they are equal, 0 where there is no doubt.

    Margin sampling: Scheffer, Decomain, Wrobel (2001).

    Args:
        prediction: Probabilities, shape (rows,) of a binary task or (rows, classes).
    """
    likely = np.sort(of_classes(prediction), axis=1)
    worth: Floats = 1 - (likely[:, -1] - likely[:, -2])
    return worth


def disagreement(predictions: Sequence[Floats], task: Task) -> Floats:
    """How far the members of a committee are apart.

    Query by committee: Seung, Opper, Sompolinsky (1992). Of classes, the mean Kullback-Leibler divergence of the
    members from their mean (McCallum, Nigam, 1998), in nats; of values, their variance (Krogh, Vedelsby, 1995).

    Args:
        predictions: Of each member, for the same rows.
        task: What kind of answer they are.
    """
    if task is Task.REGRESSION:
        spread: Floats = np.stack(predictions).var(axis=0)
        return spread
    each = np.clip(np.stack([of_classes(prediction) for prediction in predictions]), SMALLEST, None)
    worth: Floats = (each * np.log(each / each.mean(axis=0))).sum(axis=2).mean(axis=0)
    return worth


def committee(
    problem: Problem, parameters: BaseModel, rows: pl.DataFrame, pool: pl.DataFrame, *, rng: np.random.Generator
) -> list[Floats]:
    """What refits on bootstrap samples of a training set predict for a pool of rows.

    Query by bagging: Abe, Mamitsuka (1998). A sample has each class as often as the set: members then know the same
    classes.
    """
    parts = [rows] if problem.task is Task.REGRESSION else rows.partition_by(TARGET, maintain_order=True)
    samples = (pl.concat([part[rng.integers(len(part), size=len(part))] for part in parts]) for _ in range(MEMBERS))
    return [training.fitted_predictions(problem, parameters, sample, pool) for sample in samples]


def most(worth: Floats, n: int) -> NDArray[np.intp]:
    """The places of the n rows that are worth most; among equal ones, the first."""
    return np.argsort(-worth, kind="stable")[:n]


def of_classes(prediction: Floats) -> Floats:
    """Probabilities with a column a class, for a binary task too: false, then true."""
    return np.column_stack([1 - prediction, prediction]) if prediction.ndim == 1 else prediction
