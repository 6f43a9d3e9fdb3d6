"""Planted leaks are found, and no column of a public table is, also where one feature alone is good."""

import shutil
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import palmerpenguins
import polars as pl
import pytest
import statsmodels.datasets  # type: ignore[import-untyped]
from pydantic import BaseModel
from sklearn import datasets
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from vega_datasets import local_data  # type: ignore[import-untyped]

from my_ml_project.core.contracts.schema import AvailableAt, EventTime, Frame, Key, Table, Target
from my_ml_project.core.errors import Rejected
from my_ml_project.core.features import windows
from my_ml_project.core.models.leaks import MAX_ROWS, find_leaks
from my_ml_project.core.problem import ModelSpec, Problem
from my_ml_project.core.workspace import Workspace
from my_ml_project.production.ingest import ingest
from my_ml_project.production.train import TrainingResult, train

N = 500
START = datetime(2024, 1, 1, tzinfo=UTC)


def frame(found: Any) -> pl.DataFrame:
    """A table of pandas, without what would need PyArrow."""
    plain = {str(name): found[name].astype(object).where(found[name].notna(), None).tolist() for name in found}
    return pl.DataFrame({name: pl.Series(name, values, strict=False) for name, values in plain.items()})


def bunch(name: str) -> Callable[[], pl.DataFrame]:
    return lambda: frame(getattr(datasets, f"load_{name}")(as_frame=True).frame)


def stats(name: str) -> Callable[[], pl.DataFrame]:
    return lambda: frame(getattr(statsmodels.datasets, name).load_pandas().data)


def vega(name: str) -> Callable[[], pl.DataFrame]:
    return lambda: frame(getattr(local_data, name)())


def cars() -> pl.DataFrame:
    return pl.read_json(BytesIO(local_data.cars.raw())).with_columns(pl.col("Year").str.to_date())


TABLES = {
    "iris": (bunch("iris"), "target", str),
    "wine": (bunch("wine"), "target", str),
    "breast cancer": (bunch("breast_cancer"), "target", bool),
    "digits": (bunch("digits"), "target", str),
    "diabetes": (bunch("diabetes"), "target", float),
    "petal length": (vega("iris"), "petalLength", float),
    "penguins": (lambda: frame(palmerpenguins.load_penguins()), "species", str),
    "body mass": (lambda: frame(palmerpenguins.load_penguins()), "body_mass_g", float),
    "fair": (stats("fair"), "affairs", float),
    "doctors": (stats("randhie"), "mdvis", float),
    "vote": (stats("anes96"), "vote", bool),
    "engel": (stats("engel"), "foodexp", float),
    "cancer": (stats("cancer"), "cancer", float),
    "crime": (stats("statecrime"), "murder", float),
    "travel": (stats("modechoice"), "choice", bool),
    "unemployment": (stats("macrodata"), "unemp", float),
    "sunspots": (stats("sunspots"), "SUNACTIVITY", float),
    "cars": (cars, "Miles_per_Gallon", float),
    "weather": (vega("seattle_weather"), "weather", str),
}


@pytest.mark.parametrize("name", TABLES)
def test_no_column_of_a_public_table_is_a_leak(name: str) -> None:
    load, target, kind = TABLES[name]
    rows = load().filter(pl.col(target).is_not_null())
    values = rows[target].cast({str: pl.String, bool: pl.Boolean, float: pl.Float64}[kind])
    assert find_leaks(rows.drop(target), values) == {}
    if (time := next((each for each in rows if each.dtype.is_temporal()), None)) is not None:
        assert find_leaks(rows.drop(target, time.name), values, time) == {}


@pytest.fixture
def rows() -> pl.DataFrame:
    """An honest number, a category and a time."""
    rng = np.random.default_rng(0)
    return pl.DataFrame(
        {
            "number": rng.normal(size=N),
            "kind": rng.choice(["a", "b", "c"], N),
            "time": [START + timedelta(hours=int(hours)) for hours in np.sort(rng.integers(0, 10**5, N))],
        }
    )


@pytest.fixture
def amount(rows: pl.DataFrame) -> pl.Series:
    """A target with a heavy tail, which the honest number helps to predict."""
    return ((rows["number"] + pl.Series(np.random.default_rng(1).normal(size=N))) * 2).exp().alias("amount")


CLASS_LEAKS = {
    "a code of the class": lambda late, _: late.replace_strict({True: "X7", False: "Y2"}, return_dtype=pl.String),
    "a number of the class": lambda late, rng: late.cast(pl.Float64) + rng.uniform(0, 0.4, N),
    "a value that only one class has": lambda late, rng: pl.select(
        pl.when(late).then(pl.Series(rng.normal(size=N)))
    ).to_series(),
    "a text that only one class has": lambda late, _: pl.select(pl.when(late).then(pl.lit("refund"))).to_series(),
    "three errors in a thousand": lambda late, rng: late ^ pl.Series(rng.random(N) < 0.003),
}


@pytest.mark.parametrize("share", [0.5, 0.2])
@pytest.mark.parametrize("leak", CLASS_LEAKS)
@pytest.mark.parametrize("timed", [False, True])
def test_a_leaked_class_is_found(rows: pl.DataFrame, leak: str, share: float, *, timed: bool) -> None:
    rng = np.random.default_rng(2)
    late = pl.Series("late", rng.random(N) < share)
    values = CLASS_LEAKS[leak](late, rng).alias("leak")
    found = find_leaks(rows.drop("time").with_columns(values), late, rows["time"] if timed else None)
    assert found.keys() == {"leak"}
    assert found["leak"].startswith("predicts late alone with a skill of ")


AMOUNT_LEAKS = {
    "a copy": lambda amount: amount,
    "another unit": lambda amount: -2.54 * amount + 3,
    "its logarithm": lambda amount: amount.log(),
    "its rank": lambda amount: amount.rank(),
    "rounded": lambda amount: amount.round(1),
}


@pytest.mark.parametrize("leak", AMOUNT_LEAKS)
@pytest.mark.parametrize("timed", [False, True])
def test_a_leaked_number_is_found(rows: pl.DataFrame, amount: pl.Series, leak: str, *, timed: bool) -> None:
    values = AMOUNT_LEAKS[leak](amount).alias("leak")
    found = find_leaks(rows.drop("time").with_columns(values), amount, rows["time"] if timed else None)
    assert found.keys() == {"leak"}


def test_a_sum_is_found_with_all_its_terms_and_no_other_column(rows: pl.DataFrame, amount: pl.Series) -> None:
    tip = pl.Series("tip", np.random.default_rng(2).gamma(2, 5, N))
    parts = rows.with_columns(tip, (amount - tip).alias("fare"))
    found = find_leaks(parts, amount)
    assert found == {
        "fare": "gives amount in a weighted sum with tip",
        "tip": "gives amount in a weighted sum with fare",
    }


def test_a_delay_is_found_in_the_difference_of_two_times(rows: pl.DataFrame) -> None:
    minutes = pl.Series("delay", np.random.default_rng(2).normal(5, 30, N).round())
    rows = rows.with_columns((pl.col("time") + pl.duration(minutes=pl.lit(minutes))).alias("arrived"))
    assert find_leaks(rows.drop("time"), minutes, rows["time"]) == {
        "arrived": "gives delay in a weighted sum with time"
    }
    assert find_leaks(rows, minutes).keys() == {"arrived", "time"}


@pytest.mark.parametrize("by_day", [False, True])
def test_a_time_that_is_never_before_the_event_is_found(rows: pl.DataFrame, *, by_day: bool) -> None:
    rng = np.random.default_rng(2)
    late = pl.Series("late", rng.random(N) < 0.3)
    hours = pl.Series(rng.gamma(2, 20, N))
    times = rows.select(
        "time",
        closed=pl.col("time") + pl.duration(hours=pl.lit(hours)),
        ordered=pl.col("time") - pl.duration(hours=pl.lit(hours)),
        day=pl.col("time").dt.date(),
    )
    times = times.with_columns(pl.col("closed").dt.date()) if by_day else times
    assert find_leaks(times.drop("time"), late, times["time"]) == {"closed": "is never before time"}
    assert find_leaks(times.drop("time"), late) == {}


def test_a_sample_is_the_same_each_time_and_enough() -> None:
    rng = np.random.default_rng(2)
    n = 10 * MAX_ROWS
    late = pl.Series("late", rng.random(n) < 0.002)
    many = pl.DataFrame({"leak": late.cast(pl.Int8), "honest": rng.normal(size=n)})
    assert find_leaks(many, late) == find_leaks(many, late)
    assert find_leaks(many, late).keys() == {"leak"}


AWKWARD = {
    "no column": pl.DataFrame(),
    "nothing but nulls": pl.DataFrame({"x": pl.Series([None] * 60, dtype=pl.Float64)}),
    "the largest numbers": pl.DataFrame({"x": [1e308, -1e308] * 30}),
    "no number": pl.DataFrame({"x": ["a", None, "b"] * 20}),
    "constants": pl.DataFrame({"x": [1] * 60, "y": ["a"] * 60, "z": [START] * 60}),
    "infinities": pl.DataFrame({"x": [float("inf"), float("-inf"), float("nan")] * 20}),
}


TARGETS: dict[str, list[Any]] = {
    "numbers": [0.0, 1.0, 2.0, 7.0, 5.0] * 12,
    "booleans": [True, True, False, True, False] * 12,
    "one class": ["a"] * 60,
    "the largest numbers": [1e308, 2.0, 3.0, 5.0, 1e308] * 12,
}


@pytest.mark.parametrize("name", AWKWARD)
@pytest.mark.parametrize("target", TARGETS)
def test_awkward_columns_are_no_leaks(name: str, target: str) -> None:
    assert find_leaks(AWKWARD[name], pl.Series("y", TARGETS[target])) == {}


@pytest.mark.parametrize("n", [0, 1, 3, 4])
def test_few_rows_are_no_leak(n: int) -> None:
    assert find_leaks(pl.DataFrame({"x": [1.5] * n, "y": ["a"] * n}), pl.Series("late", [True] * n)) == {}


# --- training


class Reading(Table):
    """A temperature that changes little from one hour to the next."""

    table: ClassVar = "readings"

    hour: Annotated[datetime, Key(), EventTime()]
    known: Annotated[datetime, AvailableAt()]
    copy_of: float
    temperature: Annotated[float, Target()]


def build(rows: Frame, history: Mapping[str, Frame]) -> Frame:
    past = history["readings"].select("known", before="temperature")
    return windows.latest(rows, past, when="known", within=timedelta(days=1), values=["before"])


def readings() -> pl.DataFrame:
    n = 600
    steps = np.random.default_rng(0).normal(size=n) * 0.01
    hours = [START + timedelta(hours=each) for each in range(n)]
    values = np.sin(np.arange(n) / 40) * 10 + steps
    known = [each + timedelta(minutes=30) for each in hours]
    return pl.DataFrame({"hour": hours, "known": known, "copy_of": values * 1.8 + 32, "temperature": values})


def trained(workspace: Workspace) -> TrainingResult:
    path = workspace.root / "readings.parquet"
    readings().write_parquet(path)
    ingest(workspace, path, now=START + timedelta(days=40))
    return train(workspace, as_of=START + timedelta(days=25))


def problem(*features: str) -> Problem:
    spec = ModelSpec(Parameters, lambda *_: make_pipeline(SimpleImputer(), LinearRegression()))
    return Problem(
        entity=Reading,
        tables=(Reading,),
        features=features,
        lookback=timedelta(days=1),
        build=build,
        collect=lambda *_: [],
        model_spec=lambda: spec,
    )


class Parameters(BaseModel):
    seed: int = 0


Opened = Callable[..., Workspace]


@pytest.fixture
def tmp_path(tmp_path: Path, no_runs: Path) -> Path:
    """A folder of the test's own, with a registry in which nothing has run."""
    shutil.copytree(no_runs, tmp_path / "mlruns")
    return tmp_path


def test_the_last_label_predicts_a_smooth_series_and_is_no_leak(opened: Opened) -> None:
    rows = readings().with_columns(before=pl.col("temperature").shift()).slice(1)
    assert find_leaks(rows.select("before"), rows["temperature"], rows["hour"])
    assert trained(opened(problem("before"))).metrics["r2"] > 0.9


def test_train_refuses_a_leak_and_names_the_way_out(opened: Opened) -> None:
    with pytest.raises(Rejected, match="likely leaks: copy_of predicts temperature alone with a skill of") as refused:
        trained(opened(problem("copy_of", "before")))
    assert 'set [leaks] allow = ["copy_of"] in config/acceptance.toml' in str(refused.value)


def test_an_allowed_column_is_trained_on(opened: Opened) -> None:
    assert trained(opened(problem("copy_of"), '[leaks]\nallow = ["copy_of"]')).metrics["r2"] > 0.99
