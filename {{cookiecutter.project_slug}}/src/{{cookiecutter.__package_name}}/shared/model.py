"""Yours: parameters -> an unfitted estimator, and augmentation.

Use an estimator of scikit-learn, LightGBM or XGBoost: categories are text, numbers are 32-bit floats. For other
frameworks add `export(estimator, features)`, which returns ONNX.
"""

from typing import Annotated

import numpy as np
import polars as pl
import polars.selectors as cs
from pydantic import BaseModel, ConfigDict, Field
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import TargetEncoder

from {{cookiecutter.__package_name}}.core.models.search_space import Search


class Parameters(BaseModel):
    """The parameters in `config/params.toml`, with the search space of `tune`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    learning_rate: Annotated[float, Search(0.01, 0.3, log=True)] = Field(
        default=0.05, gt=0, le=1, description="step of each tree"
    )
    max_iter: Annotated[int, Search(50, 400, log=True)] = Field(default=150, gt=0, description="number of trees")
    max_leaf_nodes: Annotated[int, Search(4, 64, log=True)] = Field(default=15, gt=1, description="leaves of a tree")
    min_samples_leaf: Annotated[int, Search(20, 500, log=True)] = Field(default=100, gt=0, description="rows in a leaf")
    l2_regularization: Annotated[float, Search(0.01, 100, log=True)] = Field(
        default=1.0, ge=0, description="pull of leaves towards zero"
    )
    augment_missing_share: float = Field(
        default=0.0, ge=0, le=1, description="share of training rows repeated with missing numbers; 0 is off"
    )
    seed: int = Field(default=0, ge=0, description="of all that is random in training")


def estimator(parameters: Parameters, categories: list[str]) -> Pipeline:
    """Gradient boosted trees over numbers and target-encoded categories.

    Args:
        parameters: Of the trees.
        categories: The text features. They are encoded, since the export to ONNX does not support native categorical
            features.
    """
    folds = StratifiedKFold(5, shuffle=True, random_state=parameters.seed)
    encode = make_column_transformer((TargetEncoder(cv=folds), categories), remainder="passthrough")
    trees = HistGradientBoostingClassifier(
        **parameters.model_dump(exclude={"augment_missing_share", "seed"}),
        early_stopping=False,
        random_state=parameters.seed,
    )
    return make_pipeline(encode, trees)


MISSING_PROBABILITY = 0.3  # probability that a number of a repeated row is missing


def augment(parameters: Parameters, rows: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    """Training rows, some of them repeated with missing numbers, as after a sensor failure.

    Only rows that a model is fitted on are augmented, never the holdout.
    """
    if not parameters.augment_missing_share:
        return rows
    again = rows.filter(pl.Series(rng.random(len(rows)) < parameters.augment_missing_share))
    numbers = again.select(cs.numeric() - cs.starts_with("_")).columns  # the label is `_target`
    blank = {name: pl.Series(rng.random(len(again)) < MISSING_PROBABILITY) for name in numbers}
    gaps = again.with_columns(pl.when(~blank[name]).then(pl.col(name)).alias(name) for name in numbers)
    return pl.concat([rows, gaps])
