"""Leaks: planted ones are found, and columns of honest tables are not."""

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from sklearn import datasets

from my_ml_project.core.contracts.schema import Task
from my_ml_project.core.models.leaks import find_leaks

N = 600
RNG = np.random.default_rng(0)
HONEST = pl.DataFrame(
    {
        "size": RNG.normal(size=N),
        "rooms": RNG.integers(1, 6, N),
        "kind": RNG.choice([*"abc"], N),
        "new": RNG.random(N) < 0.3,
    }
)
PRICE = (HONEST["size"] + HONEST["rooms"]).to_numpy() + RNG.normal(scale=0.8, size=N)
TARGETS = {
    Task.REGRESSION: PRICE,
    Task.BINARY: (PRICE > 3).astype(float),
    Task.MULTICLASS: np.digitize(PRICE, [2, 4]).astype(float),
}


@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize("task", TARGETS)
def test_an_honest_column_is_no_leak_however_useful(task: Task, in_order: bool) -> None:  # noqa: FBT001
    assert find_leaks(HONEST, TARGETS[task], task, in_order=in_order) == {}


@pytest.mark.parametrize("name", ["iris", "wine", "breast_cancer", "diabetes"])
def test_no_column_of_an_easy_table_is_a_leak(name: str) -> None:
    table = getattr(datasets, f"load_{name}")()
    task = {"breast_cancer": Task.BINARY, "diabetes": Task.REGRESSION}.get(name, Task.MULTICLASS)
    columns = pl.DataFrame(table.data, schema=[str(column) for column in table.feature_names])
    assert find_leaks(columns, table.target.astype(float), task, in_order=False) == {}


def as_words(target: pl.Series) -> pl.Series:
    return target.rank("dense").cast(pl.Int64).cast(pl.String) + " percent"


def if_it_happened(target: pl.Series) -> pl.Series:
    return pl.select(pl.when(target > target.min()).then(pl.lit("a cause"))).to_series()


LEAKS: dict[str, tuple[Task, Callable[[pl.Series], pl.Series]]] = {
    "scaled": (Task.REGRESSION, lambda target: target * 1.2 + 3),
    "rounded": (Task.REGRESSION, lambda target: (target * 10).round().cast(pl.Int64)),
    "transformed": (Task.REGRESSION, lambda target: pl.Series(np.exp(target.to_numpy()))),
    "missing if not": (Task.BINARY, if_it_happened),
    "in words": (Task.BINARY, as_words),
    "with noise": (Task.BINARY, lambda target: target * 100 + pl.Series(RNG.normal(size=N))),
    "class in words": (Task.MULTICLASS, as_words),
    "as date": (
        Task.MULTICLASS,
        lambda target: pl.select(pl.date(2024, 1, 1) + pl.duration(days=target * 30)).to_series(),
    ),
}


@pytest.mark.parametrize("name", LEAKS)
@pytest.mark.parametrize("in_order", [False, True])
def test_a_column_that_gives_the_target_away_is_found(
    name: str,
    in_order: bool,  # noqa: FBT001 - a row of the table
) -> None:
    task, leak = LEAKS[name]
    columns = HONEST.with_columns(leak(pl.Series("leak", TARGETS[task])).alias("leak"))
    found = find_leaks(columns, TARGETS[task], task, in_order=in_order)
    assert found.keys() == {"leak"}
    assert "alone predicts the target, with a skill of " in found["leak"]
    assert find_leaks(columns, TARGETS[task], task, in_order=in_order, allow=["leak"]) == {}


def test_columns_that_add_up_to_the_target_are_found_and_no_others() -> None:
    target = RNG.gamma(2, 100, N)
    parts = RNG.dirichlet([1, 1, 1], N) * target[:, None]
    columns = HONEST.with_columns(pl.Series(f"part_{n}", parts[:, n]) for n in range(3))
    found = find_leaks(columns, target, Task.REGRESSION, in_order=False)
    assert found == dict.fromkeys(
        ["part_0", "part_1", "part_2"], "makes up the target, as a sum of part_0, part_1, part_2"
    )
    assert find_leaks(columns.drop("part_1"), target, Task.REGRESSION, in_order=False) == {}


def test_a_leak_is_found_in_many_rows_and_columns_and_in_gaps() -> None:
    target = RNG.normal(size=20_000)
    columns = pl.DataFrame({f"noise_{n}": RNG.normal(size=len(target)) for n in range(20)})
    columns = columns.with_columns(pl.Series("leak", target), nothing=pl.lit(None, dtype=pl.Float64))
    columns = columns.with_columns(pl.when(pl.int_range(pl.len()) % 50 > 0).then("leak").alias("leak"))
    assert find_leaks(columns, target, Task.REGRESSION, in_order=True).keys() == {"leak"}
