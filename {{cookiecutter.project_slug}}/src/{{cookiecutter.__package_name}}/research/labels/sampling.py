"""Sampling of unlabelled rows: scores by margin or disagreement."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel

from {{cookiecutter.__package_name}}.core.contracts.schema import TARGET, Task
from {{cookiecutter.__package_name}}.core.models import training
from {{cookiecutter.__package_name}}.core.models.evaluation import MIN_PROBABILITY, Floats
from {{cookiecutter.__package_name}}.core.problem import Problem

MEMBERS = 5  # of a committee


def margin(prediction: Floats) -> Floats:
    """One minus the margin between the two most likely classes.

    Margin sampling: Scheffer, Decomain, Wrobel (2001).

    Args:
        prediction: Probabilities, shape (rows,) of a binary task or (rows, classes).
    """
    likely = np.sort(class_probabilities(prediction), axis=1)
    worth: Floats = 1 - (likely[:, -1] - likely[:, -2])
    return worth


def disagreement(predictions: Sequence[Floats], task: Task) -> Floats:
    """The disagreement of a committee.

    Query by committee: Seung, Opper, Sompolinsky (1992). Of classes, the mean Kullback-Leibler divergence of the
    members from their mean (McCallum, Nigam, 1998), in nats; of values, their variance (Krogh, Vedelsby, 1995).

    Args:
        predictions: Of each member, for the same rows.
        task: The task.
    """
    if task is Task.REGRESSION:
        spread: Floats = np.stack(predictions).var(axis=0)
        return spread
    each = np.clip(np.stack([class_probabilities(prediction) for prediction in predictions]), MIN_PROBABILITY, None)
    worth: Floats = (each * np.log(each / each.mean(axis=0))).sum(axis=2).mean(axis=0)
    return worth


def committee(
    problem: Problem, parameters: BaseModel, rows: pl.DataFrame, pool: pl.DataFrame, *, rng: np.random.Generator
) -> list[Floats]:
    """The predictions of models fitted on bootstrap samples of the training set.

    Query by bagging: Abe, Mamitsuka (1998). Samples are stratified by class.
    """
    parts = [rows] if problem.task is Task.REGRESSION else rows.partition_by(TARGET, maintain_order=True)
    samples = (pl.concat([part[rng.integers(len(part), size=len(part))] for part in parts]) for _ in range(MEMBERS))
    return [training.fitted_predictions(problem, parameters, sample, pool) for sample in samples]


def highest(worth: Floats, n: int) -> NDArray[np.intp]:
    """The indices of the n highest scores; ties by position."""
    return np.argsort(-worth, kind="stable")[:n]


def class_probabilities(prediction: Floats) -> Floats:
    """Probabilities with a column per class, for a binary task false and true."""
    return np.column_stack([1 - prediction, prediction]) if prediction.ndim == 1 else prediction
