"""What a model looks at: a model whose answer is known gives known effects."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from my_ml_project.core import datasets
from my_ml_project.core.contracts.schema import TARGET
from my_ml_project.core.models.importance import partial_dependence, permutation_importance
from my_ml_project.core.workspace import Workspace
from problems import START


def test_a_feature_matters_by_the_loss_that_its_shuffling_adds(trained: Workspace) -> None:
    rows = datasets.training_set(trained.problem, trained.lake, as_of=START).tail(2000)
    far = pl.col("hour") > rows["hour"].median()
    rows = rows.with_columns(far.alias(TARGET))
    model: Any = SimpleNamespace(
        predict=lambda given: given.select(0.1 + 0.8 * far.cast(pl.Float64)).to_series().to_numpy()
    )
    found = permutation_importance(trained.problem, model, rows, [])
    assert set(found) == set(trained.problem.features)
    assert next(iter(found)) == "hour"
    assert found.pop("hour") == pytest.approx(0.5 * (np.log(0.9) - np.log(0.1)), abs=0.1)
    assert set(found.values()) == {0.0}


def test_the_mean_prediction_follows_the_feature_that_is_moved() -> None:
    rows = pl.DataFrame({"x": np.linspace(0, 1, 101), "y": ["a", "a", "b"] * 33 + ["a", "b"]})
    model: Any = SimpleNamespace(
        features={"x": False, "y": True},
        predict=lambda given: given.select(pl.col("x") + (pl.col("y") == "b")).to_series().to_numpy(),
    )
    values, moved = partial_dependence(model, rows, "x")
    assert np.diff(moved) == pytest.approx(np.diff(np.array(values, dtype=float)))
    assert [min(values), max(values)] == pytest.approx([0.02, 0.98])
    names, by_name = partial_dependence(model, rows, "y")
    assert names == ["a", "b"]
    assert by_name == pytest.approx([0.5, 1.5])
