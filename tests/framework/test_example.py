"""The example's problem on its real batches, where the proof is of the framework: limits, windows, ways, training sets.

Its own tests, which a project keeps as an example, are in `tests/shared/test_problem.py` of the project.
"""

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import narwhals as nw
import numpy as np
import onnx
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from pydantic import ValidationError
from sklearn.metrics import roc_auc_score

import my_ml_project
from my_ml_project.core import datasets
from my_ml_project.core.contracts import validation
from my_ml_project.core.contracts.schema import Frame
from my_ml_project.core.errors import Rejected
from my_ml_project.core.models import training
from my_ml_project.core.settings import Settings
from my_ml_project.core.store.lake import Lake
from my_ml_project.core.store.releases import Release
from my_ml_project.core.workspace import Workspace
from my_ml_project.production.service.serving_model import ServingModel
from my_ml_project.shared import PROBLEM, collect, features, model

ROOT = Path(my_ml_project.__file__).parents[2]
EXAMPLE = ROOT / "data" / "example"
HOUR, MOMENT = timedelta(hours=1), timedelta(microseconds=1)
CLOCK_CHANGES = [date(2013, 3, 10), date(2013, 11, 3)]
STORM, BUSY = date(2013, 2, 9), date(2013, 9, 24)
HARD_DAYS = [date(2013, 1, 1), *CLOCK_CHANGES, STORM, BUSY, date(2013, 12, 31)]  # no history yet, no weather any more
MONTHS = [*(datetime(2013, month, 1, tzinfo=UTC) for month in range(1, 13)), datetime(2014, 1, 2, tzinfo=UTC)]
WEATHER = ["temperature", "dew_point", "humidity", "wind_speed", "wind_gust", "precipitation", "pressure", "visibility"]

Row = dict[str, Any]
Tables = Mapping[str, pl.DataFrame]


def batch(table: str, month: str) -> pl.DataFrame:
    rows = pl.scan_parquet(EXAMPLE / f"{table}.parquet")
    return rows.filter(pl.col(collect.TIME[table]).dt.strftime("%Y-%m") == month).collect()


@pytest.fixture(scope="module")
def year() -> dict[str, pl.DataFrame]:
    """All bundled rows, in the contract's types."""
    return {
        name: validation.conform(pl.read_parquet(EXAMPLE / f"{name}.parquet"), schema)
        for name, schema in PROBLEM.schemas.items()
    }


def history_of(tables: Tables) -> dict[str, Frame]:
    return {name: nw.from_native(rows.lazy()) for name, rows in tables.items()}


def fill(lake: Lake, tables: Tables, *, arrived: datetime) -> None:
    """Put rows into a lake, as they are ingested."""
    for name, rows in tables.items():
        stamp = pl.lit(arrived).cast(pl.Datetime("us", "UTC"))
        lake.append(name, rows.with_columns(_ingested_at=stamp, _batch=pl.lit("1")), batch="1")


def asked(flights: pl.DataFrame) -> Frame:
    return nw.from_native(flights.lazy()).with_columns(PROBLEM.schema.predicted_at.alias("_predicted_at"))


def built(flights: pl.DataFrame, tables: Tables) -> pl.DataFrame:
    rows: pl.DataFrame = features.build(asked(flights), history_of(tables)).collect().to_native()
    return rows.sort("leg")


# --- contract


LIMITS: dict[tuple[str, str], tuple[float | None, float | None]] = {
    ("flights", "leg"): (1, None),
    ("flights", "local_minute"): (0, 1439),
    ("flights", "number"): (1, 9999),
    ("flights", "distance"): (1, 5999),
    ("departures", "leg"): (1, None),
    ("departures", "delay"): (-119, 2879),
    ("outcomes", "leg"): (1, None),
    ("weather", "temperature"): (math.nextafter(-30, 0), math.nextafter(120, 0)),
    ("weather", "dew_point"): (math.nextafter(-50, 0), math.nextafter(100, 0)),
    ("weather", "humidity"): (0.0, 100.0),
    ("weather", "wind_speed"): (0.0, math.nextafter(150, 0)),
    ("weather", "wind_gust"): (0.0, math.nextafter(200, 0)),
    ("weather", "precipitation"): (0.0, math.nextafter(10, 0)),
    ("weather", "pressure"): (math.nextafter(850, 900), math.nextafter(1100, 0)),
    ("weather", "visibility"): (0.0, 10.0),
}


@pytest.mark.parametrize(("table", "name"), LIMITS)
def test_a_number_lies_within_the_limits_of_its_column(table: str, name: str) -> None:
    column = PROBLEM.schemas[table].column(name)
    for limit, direction in zip(LIMITS[table, name], (-math.inf, math.inf), strict=True):
        if limit is not None:
            beyond = limit + math.copysign(1, direction) if column.kind is int else math.nextafter(limit, direction)
            values = nw.from_native(pl.DataFrame({name: [column.kind(limit), column.kind(beyond)]}))
            kept = values.select(**column.conditions()).rows()
            assert [all(row) for row in kept] == [True, False]


def test_every_number_has_limits() -> None:
    numbers = {
        (table, column.name)
        for table, schema in PROBLEM.schemas.items()
        for column in schema.columns
        if column.kind in {int, float}
    }
    assert set(LIMITS) == numbers


def test_equal_values_keep_the_rules_across_columns() -> None:
    rows = nw.from_native(
        pl.DataFrame({"dew_point": [50.0], "temperature": [50.0], "wind_speed": [9.0], "wind_gust": [9.0]})
    )
    assert rows.select(**PROBLEM.schemas["weather"].model.rules).row(0) == (True, True)


# --- collection


@pytest.fixture
def inbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(ROOT)
    return tmp_path / "inbox"


def arrived(inbox: Path, table: str) -> pl.DataFrame:
    files = sorted((inbox / table).glob("*.parquet"))
    return pl.concat([pl.read_parquet(path) for path in files]).sort(PROBLEM.schemas[table].key)


def at(month: int, day: int, hour: int = 0, minute: int = 0, second: int = 0) -> datetime:
    return datetime(2013, month, day, hour, minute, second, tzinfo=UTC)


def test_a_row_is_collected_at_the_moment_it_becomes_known(inbox: Path, year: Tables) -> None:
    observed = year["weather"]["observed"][100]
    collect.collect(ROOT, observed - HOUR, observed, inbox)
    assert arrived(inbox, "weather")["observed"].to_list() == [observed]
    assert collect.collect(ROOT, observed, observed + HOUR - MOMENT, inbox / "later")[-1].parent.name != "weather"


def test_collecting_leaves_other_files_and_no_drafts(inbox: Path) -> None:
    (inbox / "weather").mkdir(parents=True)
    (inbox / "weather" / "mine.csv").write_text("mine")
    collect.collect(ROOT, None, at(1, 2), inbox)
    assert (inbox / "weather" / "mine.csv").read_text() == "mine"
    assert not list(inbox.rglob("*.part"))


def test_the_example_ends_at_midnight_in_new_york_with_a_day_to_predict(inbox: Path, year: Tables) -> None:
    midnight = at(12, 31, 5)
    collect.collect(ROOT, midnight - 30 * HOUR, datetime(2030, 1, 1, tzinfo=UTC), inbox)
    assert year["flights"]["scheduled"].max() == arrived(inbox, "flights")["scheduled"].max()
    for table, known in (("departures", "departed"), ("outcomes", "known")):
        due = year[table].filter(pl.col(known) <= midnight)
        assert arrived(inbox, table)[known].max() == due[known].max()
        assert len(due) < len(year[table])
    assert collect.collect(ROOT, midnight, datetime(2030, 1, 1, tzinfo=UTC), inbox) == []


# --- the same features and predictions, whichever way


@pytest.fixture(scope="module")
def sample(year: Tables) -> pl.DataFrame:
    """1,000 flights, drawn with a seed: fifty on each of the hard days and of fourteen others over the year."""
    rng, others = np.random.default_rng(2013), [date(2013, 1, 9) + timedelta(days=26 * i) for i in range(14)]
    flights = year["flights"].sort("leg")
    legs = [flights.filter(pl.col("local_date") == day)["leg"].to_numpy() for day in (*HARD_DAYS, *others)]
    drawn = np.concatenate([rng.choice(of_a_day, 50, replace=False) for of_a_day in legs])
    return flights.filter(pl.col("leg").is_in(drawn.tolist()))


@pytest.fixture(scope="module")
def fast(sample: pl.DataFrame, year: Tables) -> pl.DataFrame:
    return built(sample, year)


def test_the_1000_flights_try_what_can_go_wrong(sample: pl.DataFrame, fast: pl.DataFrame) -> None:
    expected = fast.to_dict(as_series=False)
    assert len(sample) == 1000
    assert set(HARD_DAYS) < set(sample["local_date"])
    assert set(expected["weekday"]) == set(range(7))
    assert {min(expected["day_of_year"]), max(expected["day_of_year"])} == {1, 365}
    assert 0 in expected["delay_count"]
    assert max(expected["delay_count"]) > 60
    assert None in expected["carrier_delay_mean"]
    assert any(value and value < 0 for value in expected["delay_mean"])
    assert [name for name in WEATHER if None not in expected[name]] == []


@dataclass(frozen=True)
class Given:
    """Flights to predict, the year's tables, the same in a workspace, and what predicts."""

    flights: pl.DataFrame
    tables: Tables
    workspace: Workspace
    champion: Release

    def predicted(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The flights among rows with their features, and what the champion says of them."""
        asked = rows.join(self.flights.select("leg"), on="leg", how="semi")
        return asked.with_columns(probability=self.champion.predictor.predict(asked))

    def online(self, flights: pl.DataFrame, *, now: datetime, days: int, at_once: int) -> Iterator[pl.DataFrame]:
        """The same from the service, which holds some days of history, in requests of so many flights."""
        settings = self.workspace.settings.model_copy(update={"serve_max_age_days": days})
        serving = ServingModel(replace(self.workspace, settings=settings), self.champion, now=now)
        for rows in flights.iter_slices(at_once):
            answered = serving.predict(rows, now=now)
            assert not any(answered.violations)
            yield answered.rows.with_columns(answered.predictions["probability"])


@pytest.fixture(scope="module")
def given(sample: pl.DataFrame, year: Tables, tmp_path_factory: pytest.TempPathFactory) -> Given:
    workspace = Workspace(tmp_path_factory.mktemp("year"), Settings(lake="lake"), PROBLEM)
    fill(workspace.lake, year, arrived=MONTHS[-1])
    few = built(year["flights"].gather_every(20), year).join(year["outcomes"].rename({"late": "_target"}), on="leg")
    fitted = training.fit(PROBLEM, model.Parameters(max_iter=50), few, parity_rows=few)
    served: Row = {"task": PROBLEM.task, "features": fitted.predictor.features, "threshold": 0.2, "onnx": fitted.onnx}
    return Given(sample, year, workspace, Release.model_construct(**served))


def in_one_batch(given: Given) -> pl.DataFrame:
    return given.predicted(datasets.training_set(PROBLEM, given.workspace.lake, as_of=MONTHS[-1]))


def month_by_month(given: Given) -> pl.DataFrame:
    lake = given.workspace.lake
    increments = [datasets.training_set(PROBLEM, lake, as_of=end, since=start) for start, end in pairwise(MONTHS)]
    return given.predicted(pl.concat(increments))


def online_one_by_one(given: Given) -> pl.DataFrame:
    days = given.flights.group_by("local_date", maintain_order=True)
    evenings = [(flights, datetime(day.year, day.month, day.day, tzinfo=UTC) + 28 * HOUR) for (day,), flights in days]
    return pl.concat(row for rows, now in evenings for row in given.online(rows, now=now, days=1, at_once=1))


def online_in_bulk(given: Given) -> pl.DataFrame:
    return pl.concat(given.online(given.flights.reverse(), now=MONTHS[-1], days=400, at_once=1000))


def in_duckdb(given: Given) -> pl.DataFrame:
    """The same `build` on another engine, which takes and gives Parquet files."""
    folder = given.workspace.root
    with duckdb.connect(config={"threads": 1}) as database:
        database.execute("SET TimeZone = 'UTC'")

        def taken(name: str, rows: pl.DataFrame) -> Frame:
            rows.write_parquet(folder / f"{name}.parquet")
            return nw.from_native(database.read_parquet(str(folder / f"{name}.parquet")))

        history = {name: taken(name, rows) for name, rows in given.tables.items()}
        asked = taken("asked", given.flights).with_columns(PROBLEM.schema.predicted_at.alias("_predicted_at"))
        features.build(asked, history).to_native().write_parquet(str(folder / "built.parquet"))
    return given.predicted(pl.read_parquet(folder / "built.parquet"))


@pytest.mark.parametrize(
    "way",
    [in_one_batch, month_by_month, pytest.param(online_one_by_one, marks=pytest.mark.slow), online_in_bulk, in_duckdb],
)
def test_1000_flights_have_the_same_features_and_predictions_whichever_way(
    way: Callable[[Given], pl.DataFrame], given: Given, fast: pl.DataFrame
) -> None:
    found = way(given).sort("leg")
    names = ["leg", *features.FEATURES]
    assert_frame_equal(found.select(names), fast.select(names), check_dtypes=False, rel_tol=0, abs_tol=1e-9)
    right = given.champion.predictor.predict(fast)
    assert np.abs(found["probability"].to_numpy() - right).max() <= 1e-9
    assert np.ptp(right) > 0.5


def test_the_declared_lookback_is_all_that_features_need(
    sample: pl.DataFrame, year: Tables, fast: pl.DataFrame
) -> None:
    for flight in sample.gather_every(100).iter_slices(1):
        since = flight["scheduled"][0] - 2 * HOUR
        recent = datasets.lookback(PROBLEM, history_of(year), since=since)
        single: pl.DataFrame = features.build(asked(flight), recent).collect().to_native()
        assert single.equals(fast.filter(pl.col("leg") == flight["leg"][0]))


# --- training sets


@pytest.fixture(scope="module")
def january(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A lake with January, as it was ingested."""
    lake = Lake(str(tmp_path_factory.mktemp("january")))
    tables = {name: validation.conform(batch(name, "2013-01"), schema) for name, schema in PROBLEM.schemas.items()}
    fill(lake, tables, arrived=at(2, 1))
    return lake


@pytest.fixture(scope="module")
def rows(january: Lake) -> pl.DataFrame:
    return datasets.training_set(PROBLEM, january, as_of=at(2, 2))


def test_a_training_set_has_every_flight_with_an_outcome_and_its_label(rows: pl.DataFrame) -> None:
    flights, outcomes = batch("flights", "2013-01"), batch("outcomes", "2013-01")
    assert set(rows["leg"]) == set(flights["leg"]) & set(outcomes["leg"])
    assert len(rows) == rows["leg"].n_unique() > 7000
    joined = rows.join(outcomes.with_columns(pl.col("leg").cast(pl.Int64)), on="leg")
    assert (joined["_target"] == joined["late"]).all()
    assert (joined["_available_at"] == joined["known"]).all()
    assert (rows["_predicted_at"] == rows["scheduled"] - 2 * HOUR).all()
    assert rows["_predicted_at"].is_sorted()


def test_what_was_not_known_yet_is_not_trained_on(january: Lake) -> None:
    moment = at(1, 15, 12)
    early = datasets.training_set(PROBLEM, january, as_of=moment)
    known = batch("outcomes", "2013-01").filter(pl.col("known") <= moment)
    assert set(early["leg"]) == set(known["leg"])


def test_the_features_leak_nothing_and_one_that_knows_the_outcome_is_named(rows: pl.DataFrame, january: Lake) -> None:
    def leaking(flights: Frame, history: Mapping[str, Frame]) -> Frame:
        outcomes = history["outcomes"].select("leg", was_late=nw.col("late").cast(nw.Int64))
        return features.build(flights, history).join(outcomes, on="leg", how="left")

    history = datasets.history_as_of(PROBLEM, january, as_of=at(2, 2))
    datasets.validate_no_leakage(PROBLEM, rows, history)
    spoilt = replace(PROBLEM, build=leaking, features=(*PROBLEM.features, "was_late"))
    leaked = datasets.training_set(spoilt, january, as_of=at(2, 2))
    with pytest.raises(Rejected, match="feature leakage: was_late change"):
        datasets.validate_no_leakage(spoilt, leaked, history)


# --- model


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("learning_rate", 1, 1.01),
        ("learning_rate", 0.001, 0),
        ("max_iter", 1, 0),
        ("max_leaf_nodes", 2, 1),
        ("min_samples_leaf", 1, 0),
        ("l2_regularization", 0, -0.1),
        ("seed", 0, -1),
        ("max_iter", 10, "many"),
    ],
)
def test_a_parameter_lies_within_its_limits(name: str, good: float, bad: object) -> None:
    assert getattr(model.Parameters.model_validate({name: good}), name) == good
    with pytest.raises(ValidationError, match=name):
        model.Parameters.model_validate({name: bad})


def test_an_unknown_parameter_is_refused() -> None:
    with pytest.raises(ValidationError, match="depth"):
        model.Parameters.model_validate({"depth": 3})


def test_the_model_learns_a_few_flights_by_heart(rows: pl.DataFrame) -> None:
    few = rows.gather_every(30)
    eager = model.Parameters(learning_rate=0.5, max_iter=100, min_samples_leaf=1, l2_regularization=0)
    fitted = training.fit(PROBLEM, eager, few, parity_rows=few)
    assert roc_auc_score(few["_target"], fitted.predictor.predict(few)) > 0.99


def test_the_model_tells_flights_of_the_next_days_apart(rows: pl.DataFrame) -> None:
    past, coming = rows.filter(pl.col("_available_at") <= at(1, 24)), rows.filter(pl.col("_predicted_at") > at(1, 24))
    fitted = training.fit(PROBLEM, model.Parameters(max_iter=50), past, parity_rows=coming)
    assert roc_auc_score(coming["_target"], fitted.predictor.predict(coming)) > 0.6


def test_the_exported_model_has_an_input_a_feature_in_their_order(rows: pl.DataFrame) -> None:
    fitted = training.fit(PROBLEM, model.Parameters(max_iter=2), rows.head(500), parity_rows=rows.head(500))
    inputs = onnx.load_from_string(fitted.onnx).graph.input
    text = {each.name for each in inputs if each.type.tensor_type.elem_type == onnx.TensorProto.STRING}
    assert [each.name for each in inputs] == list(features.FEATURES)
    assert text == {"carrier", "destination"}


FIT_AND_HASH = """
import hashlib, sys
import polars as pl
from {package}.core.models import training
from {package}.shared import PROBLEM, model
rows = pl.read_parquet(sys.argv[1])
fitted = training.fit(PROBLEM, model.Parameters(max_iter=20), rows, parity_rows=rows.head(200))
print(hashlib.sha256(fitted.onnx).hexdigest())
"""


def test_two_fresh_processes_make_the_same_model_byte_for_byte(rows: pl.DataFrame, tmp_path: Path) -> None:
    rows.head(4000).write_parquet(tmp_path / "rows.parquet")
    program = FIT_AND_HASH.format(package=model.__name__.partition(".")[0])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "rows.parquet")],
            env=os.environ | {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": number, "PYTHONHASHSEED": number},
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in ("1", "2")
    ]
    first, second = (process.communicate()[0].strip() for process in processes)
    assert len(first) == 64
    assert first == second


def test_without_augmentation_a_model_is_byte_for_byte_what_it_was_and_with_it_another(year: Tables) -> None:
    few = built(year["flights"].head(300), year).join(year["outcomes"].rename({"late": "_target"}), on="leg")
    without = replace(PROBLEM, model_spec=lambda: replace(PROBLEM.model_spec(), augment=None))
    plain, off, on = (
        training.fit(problem, model.Parameters(max_iter=5, augment_missing_share=share), few, parity_rows=few).onnx
        for problem, share in ((without, 0), (PROBLEM, 0), (PROBLEM, 0.5))
    )
    assert plain == off
    assert on != off
