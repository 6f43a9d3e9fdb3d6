"""Leaks: columns that say so much about the target that they were probably known only after it."""

from collections.abc import Collection, Iterable, Iterator, Mapping

import numpy as np
import polars as pl
from numpy.typing import NDArray

from {{cookiecutter.__package_name}}.core.contracts.schema import Task
from {{cookiecutter.__package_name}}.core.models.evaluation import Floats, Predictions, losses

MAX_SKILL = 0.9  # of one column alone
MAX_R2 = 0.999  # of a linear function of the columns
MAX_ROWS, GLANCE = 5000, 2000  # of the check, and of a first glance at each column
FOLDS = 3
ROWS_PER_COLUMN = 4  # of a linear fit

Fold = tuple[NDArray[np.int64], NDArray[np.int64]]  # the positions of its training and test rows


def find_leaks(
    columns: pl.DataFrame, target: Floats, task: Task, *, in_order: bool, allow: Collection[str] = ()
) -> dict[str, str]:
    """The columns that look like leaks, with the reason.

    A column leaks if a small tree of it alone has a skill of at least 0.9 on folds, where the skill is 1 - loss / loss
    of the prior; or if the target is a linear function of numbers with an R2 above 0.999.

    Args:
        columns: The features: numbers, booleans, dates and texts.
        target: Shape (rows,): 0 or 1, the index of the class, or the value.
        task: The task.
        in_order: Whether the rows are in the order of time: folds go forward then.
        allow: Columns that are no leaks.
    """
    rows = _sample(len(target), MAX_ROWS)
    columns, target = columns.drop(allow, strict=False)[rows], target[rows]
    numbers = {name: _numbers(columns[name]) for name in columns.columns}
    few = _sample(len(target), GLANCE)
    leaks = {}
    for name, values in numbers.items():
        if _skill(values, target, task, [(few, few)]) >= MAX_SKILL:
            skill = _skill(values, target, task, _folds(len(target), in_order=in_order))
            if skill >= MAX_SKILL:
                leaks[name] = f"alone predicts the target, with a skill of {skill:.2f}"
    if task is Task.REGRESSION:
        plain = {n: v for n, v in numbers.items() if n not in leaks and columns[n].dtype != pl.String}
        while parts := _linear(plain, target, in_order=in_order):
            leaks |= dict.fromkeys(parts, f"makes up the target, as a sum of {', '.join(parts)}")
            plain = {name: values for name, values in plain.items() if name not in parts}
    return leaks


def _sample(n: int, size: int) -> NDArray[np.int64]:
    """The positions of at most `size` rows, in order."""
    return np.arange(n) if n <= size else np.sort(np.random.default_rng(0).permutation(n)[:size])


def _folds(n: int, *, in_order: bool) -> Iterator[Fold]:
    order = np.arange(n) if in_order else np.random.default_rng(0).permutation(n)
    blocks = np.array_split(order, FOLDS + 1)
    for number, test in enumerate(blocks[1:], start=1):
        others = blocks[:number] if in_order else [block for block in blocks if block is not test]
        yield np.concatenate(others), test


def _numbers(values: pl.Series) -> Floats:
    """A column as numbers; texts by how common they are, missing values below all others."""
    if values.dtype == pl.String:
        values = values.replace_strict(
            {text: rank for rank, text in enumerate(values.drop_nulls().value_counts(sort=True)[values.name])},
            return_dtype=pl.Float64,
        )
    plain = values.to_physical().cast(pl.Float64)
    low = plain.min()
    return plain.fill_null((low if isinstance(low, float) else 0.0) - 1).to_numpy()


def _skill(values: Floats, target: Floats, task: Task, folds: Iterable[Fold]) -> float:
    """1 - loss / loss of the prior of a small tree, on the test rows of folds; 0 if the prior has no loss."""
    from sklearn.tree import DecisionTreeRegressor  # noqa: PLC0415 - takes a second to import

    wanted = np.eye(int(target.max()) + 1)[target.astype(np.int64)] if task is Task.MULTICLASS else target
    loss = prior = 0.0
    for train, test in folds:
        tree = DecisionTreeRegressor(max_leaf_nodes=16, min_samples_leaf=5, random_state=0)
        tree.fit(values[train, None], wanted[train])  # on classes, its leaves are probabilities
        share = np.repeat(wanted[train].mean(axis=0)[None], len(test), axis=0)
        loss += losses(Predictions(task, target[test], tree.predict(values[test, None]))).sum()
        prior += losses(Predictions(task, target[test], share)).sum()
    return 1 - loss / prior if prior > 0 else 0.0


def _linear(numbers: Mapping[str, Floats], target: Floats, *, in_order: bool) -> list[str]:
    """The columns that the target is a linear function of, on rows that it was not fitted on; often there are none."""
    train, test = list(_folds(len(target), in_order=in_order))[-1]
    if not numbers or len(train) < ROWS_PER_COLUMN * len(numbers):
        return []
    table = np.column_stack(list(numbers.values()))
    table = (table - table.mean(axis=0)) / np.maximum(table.std(axis=0), 1e-12)

    def r2(columns: list[int]) -> float:
        inputs = np.column_stack([table[:, columns], np.ones(len(table))])
        weights = np.linalg.lstsq(inputs[train], target[train])[0]
        left = np.square(inputs[test] @ weights - target[test]).sum()
        spread = np.square(target[test] - target[test].mean()).sum()
        return float(1 - left / spread) if spread > 0 else 0.0

    needed = list(range(table.shape[1]))
    if r2(needed) <= MAX_R2:
        return []
    for column in list(needed):
        if len(needed) > 1 and r2([other for other in needed if other != column]) > MAX_R2:
            needed.remove(column)
    names = list(numbers)
    return [names[column] for column in needed]
