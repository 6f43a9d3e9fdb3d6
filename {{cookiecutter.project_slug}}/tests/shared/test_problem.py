"""Yours: the tests of the problem, on its real batches: contract, collection, features and model.

An example of what to test: faults that have happened or might, the edges of a window, that no feature knows the future,
and features a second time in plain Python. That features are the same in every way of computing them, on every engine,
and all that follows from a batch, is tested for any problem in `tests/test_lifecycle.py`.
"""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
import pytest

from {{cookiecutter.__package_name}}.core.contracts import sample_data, validation
from {{cookiecutter.__package_name}}.core.contracts.schema import Frame
from {{cookiecutter.__package_name}}.shared import PROBLEM, collect, contract, features, model

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "data" / "example"
HOUR, MOMENT = timedelta(hours=1), timedelta(microseconds=1)
CLOCK_CHANGES = [date(2013, 3, 10), date(2013, 11, 3)]
STORM, BUSY = date(2013, 2, 9), date(2013, 9, 24)
HARD_DAYS = [date(2013, 1, 1), *CLOCK_CHANGES, STORM, BUSY, date(2013, 12, 31)]  # no history yet, no weather any more
WEATHER = ["temperature", "dew_point", "humidity", "wind_speed", "wind_gust", "precipitation", "pressure", "visibility"]

Row = dict[str, Any]
Tables = Mapping[str, pl.DataFrame]


def batch(table: str, month: str) -> pl.DataFrame:
    rows = pl.scan_parquet(EXAMPLE / f"{table}.parquet", glob=False)
    return rows.filter(pl.col(collect.TIME[table]).dt.strftime("%Y-%m") == month).collect()


@pytest.fixture(scope="module")
def year() -> dict[str, pl.DataFrame]:
    """All bundled rows, in the contract's types."""
    return {
        name: validation.conform(pl.read_parquet(EXAMPLE / f"{name}.parquet", glob=False), schema)
        for name, schema in PROBLEM.schemas.items()
    }


def asked(flights: pl.DataFrame) -> Frame:
    return nw.from_native(flights.lazy()).with_columns(PROBLEM.schema.predicted_at.alias("_predicted_at"))


def built(flights: pl.DataFrame, tables: Tables) -> pl.DataFrame:
    history = {name: nw.from_native(rows.lazy()) for name, rows in tables.items()}
    rows: pl.DataFrame = features.build(asked(flights), history).collect().to_native()
    return rows.sort("leg")


# --- contract


@pytest.mark.parametrize("table", sorted(PROBLEM.schemas))
def test_every_bundled_batch_keeps_the_contract(table: str) -> None:
    schema = PROBLEM.schemas[table]
    stored = pl.DataFrame(schema=schema.dtypes)
    for month in (f"2013-{number:02}" for number in range(1, 13)):
        rows = batch(table, month)
        assert not rows.is_empty()
        report = validation.validate(rows, schema, context=validation.Context(stored))
        found = (len(report.invalid), report.duplicates, report.rejected, report.warnings)
        assert found == (0, 0, (), ()), f"{month}: {report.counts}"


def test_local_times_are_those_of_new_york_also_when_the_clock_changes(year: Tables) -> None:
    local = year["flights"].with_columns(clock=pl.col("scheduled").dt.convert_time_zone("America/New_York"))
    minute = local["clock"].dt.hour().cast(pl.Int64) * 60 + local["clock"].dt.minute()
    assert (minute == local["local_minute"]).all()
    assert (local["clock"].dt.date() == local["local_date"]).all()
    assert set(CLOCK_CHANGES) <= set(local["local_date"])


def moved(hours: int) -> pl.Expr:
    return pl.col("scheduled") + timedelta(hours=hours)


FAULTS: dict[str, tuple[str, Mapping[str, Any], str]] = {
    "pressure in inches": ("weather", {"pressure": pl.col("pressure") * 0.02953}, "pressure > 850"),
    "pressure in pascals": ("weather", {"pressure": pl.col("pressure") * 100}, "pressure < 1100"),
    "a sensor that is off": ("weather", {"temperature": -999.0}, "temperature > -30"),
    "kelvin": ("weather", {"temperature": pl.col("temperature") + 255}, "temperature < 120"),
    "columns swapped": (
        "weather",
        {"dew_point": pl.col("temperature"), "temperature": pl.col("dew_point")},
        "dew_point is not above temperature",
    ),
    "gusts that are none": ("weather", {"wind_gust": pl.col("wind_speed") - 1}, "wind_gust is not below wind_speed"),
    "a share for a percentage": ("weather", {"humidity": pl.col("humidity") * -1}, "humidity >= 0"),
    "kilometres": ("flights", {"distance": (pl.col("distance") * 1.609).cast(pl.Int64)}, "distance belongs to dest"),
    "an hour ahead": ("flights", {"scheduled": moved(1)}, "local_minute is New York's"),
    "local time for UTC": ("flights", {"scheduled": moved(-5)}, "local_minute is New York's"),
    "no carrier": ("flights", {"carrier": pl.lit(None, dtype=pl.String)}, "carrier is not null"),
    "hours for minutes": ("departures", {"delay": pl.col("delay") - 200}, "delay > -120"),
    "a constant key": ("outcomes", {"leg": 7}, "key is unique"),
    "a key that is none": ("outcomes", {"leg": 0}, "leg > 0"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_a_batch_is_found_by_the_rule_made_for_it(fault: str) -> None:
    table, change, rule = FAULTS[fault]
    schema = PROBLEM.schemas[table]
    rows = validation.conform(batch(table, "2013-01"), schema).with_columns(**change)
    report = validation.validate(rows, schema, context=validation.Context(rows.clear()))
    assert report.rejected
    assert [name for name in report.counts if name.startswith(rule)]


def test_the_examples_in_the_contract_keep_its_rules() -> None:
    assert len(sample_data.sample(contract.Flight, 20)) == 20


def test_a_destination_or_carrier_never_seen_is_let_in_with_a_note_whatever_its_distance() -> None:
    schema = PROBLEM.schemas["flights"]
    rows = validation.conform(batch("flights", "2013-01"), schema).with_columns(
        destination=pl.lit("XXX"), carrier=pl.lit("ZZ"), distance=pl.int_range(pl.len()) % 5999 + 1
    )
    report = validation.validate(rows, schema, context=validation.Context(rows.clear()))
    assert report.warnings == ("carrier has a new value 'ZZ'", "destination has a new value 'XXX'")
    assert len(report.valid) == len(rows)
    left = validation.conform(batch("departures", "2013-01"), PROBLEM.schemas["departures"]).with_columns(
        carrier=pl.lit("ZZ")
    )
    report = validation.validate(left, PROBLEM.schemas["departures"], context=validation.Context(left.clear()))
    assert report.invalid.is_empty()


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


def test_what_was_known_by_then_is_collected_a_file_for_each_table_and_month(inbox: Path, year: Tables) -> None:
    until = at(2, 1, 12)
    files = collect.collect(ROOT, None, until, inbox)
    assert [path.relative_to(inbox).as_posix() for path in files] == [
        f"{table}/{month}-until-20130201T120000.parquet"
        for table in ("flights", "departures", "outcomes", "weather")
        for month in ("2013-01", "2013-02")
    ]
    known = {"flights": year["flights"]["scheduled"] - 24 * HOUR, "departures": year["departures"]["departed"]}
    known |= {"outcomes": year["outcomes"]["known"], "weather": year["weather"]["observed"]}
    for table, moments in known.items():
        key = PROBLEM.schemas[table].key
        assert set(arrived(inbox, table).select(key).rows()) == set(
            year[table].filter(moments <= until).select(key).rows()
        )


def test_one_collection_follows_the_other_without_gap_or_overlap(inbox: Path, tmp_path: Path) -> None:
    first, again, second = at(1, 2, 15, 0, 0), at(1, 2, 15, 0, 30), at(1, 3, 17, 9)
    once = tmp_path / "once"
    collect.collect(ROOT, None, second, once)
    files = [
        path
        for since, until in ((None, first), (first, again), (again, second))
        for path in collect.collect(ROOT, since, until, inbox)
    ]
    assert len(files) == len(set(files)), "no collection writes over another's file"
    for table in PROBLEM.schemas:
        assert arrived(inbox, table).equals(arrived(once, table))
    assert collect.collect(ROOT, second, second, inbox) == []


# --- features, against a slow loop over what is known two hours before the scheduled departure


@dataclass(frozen=True)
class Known:
    """What was known when a flight was predicted."""

    flight: Row
    departures: list[Row]  # of the three hours before
    weather: Row  # the newest of the six hours before, or empty

    def delays(self, carrier: str | None = None) -> list[int]:
        return [each["delay"] for each in self.departures if carrier in {None, each["carrier"]}]


def average(delays: list[int]) -> float | None:
    return sum(delays) / len(delays) if delays else None


# Optional for a new feature: that it is the same in increments, online and on DuckDB is tested without it.
SLOW: dict[str, Callable[[Known], Any]] = {
    "local_minute": lambda known: known.flight["local_minute"],
    "weekday": lambda known: known.flight["local_date"].isoweekday() % 7,
    "day_of_year": lambda known: (known.flight["local_date"] - date(2012, 12, 31)).days,
    "carrier": lambda known: known.flight["carrier"],
    "destination": lambda known: known.flight["destination"],
    "distance": lambda known: known.flight["distance"],
    "temperature": lambda known: known.weather.get("temperature"),
    "dew_point": lambda known: known.weather.get("dew_point"),
    "humidity": lambda known: known.weather.get("humidity"),
    "wind_speed": lambda known: known.weather.get("wind_speed"),
    "wind_gust": lambda known: known.weather.get("wind_gust"),
    "precipitation": lambda known: known.weather.get("precipitation"),
    "pressure": lambda known: known.weather.get("pressure"),
    "visibility": lambda known: known.weather.get("visibility"),
    "delay_mean": lambda known: average(known.delays()),
    "delay_count": lambda known: len(known.delays()),
    "carrier_delay_mean": lambda known: average(known.delays(known.flight["carrier"])),
    "carrier_delay_count": lambda known: len(known.delays(known.flight["carrier"])),
}


def by_day(rows: pl.DataFrame, when: str) -> dict[date, list[Row]]:
    found: dict[date, list[Row]] = {}
    for row in rows.iter_rows(named=True):
        found.setdefault(row[when].date(), []).append(row)
    return found


def slow(flights: pl.DataFrame, tables: Tables) -> list[Row]:
    """The features of flights in plain Python, in the order of their legs."""
    departures, weather = by_day(tables["departures"], "departed"), by_day(tables["weather"], "observed")
    found = []
    for flight in flights.sort("leg").iter_rows(named=True):
        now = flight["scheduled"] - 2 * HOUR
        days = [now.date() - timedelta(days=1), now.date()]
        left = [row for day in days for row in departures.get(day, []) if now - 3 * HOUR < row["departed"] <= now]
        seen = [row for day in days for row in weather.get(day, []) if now - 6 * HOUR < row["observed"] <= now]
        known = Known(flight, left, max(seen, key=lambda row: row["observed"], default={}))
        found.append({name: feature(known) for name, feature in SLOW.items()})
    return found


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


def differ(found: float | str | None, right: float | str | None) -> bool:
    """Whether a float is off by more than 1e-9, or anything else is off at all."""
    if isinstance(found, float) and isinstance(right, float):
        return not abs(found - right) <= 1e-9
    return type(found) is not type(right) or found != right


def test_features_are_those_of_the_slow_loop(sample: pl.DataFrame, year: Tables, fast: pl.DataFrame) -> None:
    rows = slow(sample, year)
    for name in SLOW:
        values = zip(fast["leg"], fast[name], (row[name] for row in rows), strict=True)
        assert [value for value in values if differ(*value[1:])] == [], name


def one_flight(year: Tables) -> pl.DataFrame:
    return year["flights"].filter(pl.col("leg") == 50000)


def test_departures_count_for_three_hours_and_weather_for_six_up_to_two_hours_before_the_flight(year: Tables) -> None:
    flight = one_flight(year)
    now = flight["scheduled"][0] - 2 * HOUR
    moments = [now - 3 * HOUR, now - 3 * HOUR + MOMENT, now, now + MOMENT]
    carriers = [flight["carrier"][0]] * 2 + ["XX", flight["carrier"][0]]
    left = pl.DataFrame({"leg": [1, 2, 3, 4], "carrier": carriers, "departed": moments, "delay": [1000, 5, -2, 2000]})
    left = validation.conform(left, PROBLEM.schemas["departures"])

    def with_weather(observed: datetime) -> Row:
        seen = year["weather"].head(1).with_columns(observed=pl.lit(observed).cast(pl.Datetime("us", "UTC")))
        return built(flight, dict(year) | {"departures": left, "weather": seen}).row(0, named=True)

    old, kept, new, future = (with_weather(now - age) for age in (6 * HOUR, 6 * HOUR - MOMENT, 0 * HOUR, -MOMENT))
    assert (kept["delay_count"], kept["delay_mean"]) == (2, 1.5)
    assert (kept["carrier_delay_count"], kept["carrier_delay_mean"]) == (1, 5)
    assert [row["temperature"] for row in (old, future)] == [None, None]
    assert [row["temperature"] for row in (kept, new)] == [year["weather"]["temperature"][0]] * 2


# --- point in time


def planted(year: Tables, now: datetime) -> dict[str, pl.DataFrame]:
    """The year with all that became known after a moment changed, and more of it."""
    changes: dict[str, tuple[str, dict[str, Any]]] = {
        "departures": ("departed", {"delay": pl.col("delay") + 1000}),
        "outcomes": ("known", {"late": ~pl.col("late")}),
        "weather": ("observed", {name: pl.col(name).fill_null(0) + 50 for name in WEATHER}),
    }
    tables = dict(year)
    for name, (known, change) in changes.items():
        past, future = year[name].filter(pl.col(known) <= now), year[name].filter(pl.col(known) > now)
        extra = (
            past.tail(200)
            .with_columns(pl.lit(now + MOMENT).cast(pl.Datetime("us", "UTC")).alias(known))
            .with_columns(**change)
        )
        extra = extra.tail(1) if name == "weather" else extra
        tables[name] = pl.concat([past, future.with_columns(**change), extra])
    return tables


def test_no_feature_changes_when_the_future_is_planted(sample: pl.DataFrame, year: Tables, fast: pl.DataFrame) -> None:
    for flight in sample.gather_every(100).iter_slices(1):
        now = flight["scheduled"][0] - 2 * HOUR
        found = built(flight, planted(year, now))
        assert found.equals(fast.filter(pl.col("leg") == flight["leg"][0])), f"leg {flight['leg'][0]}"


def test_features_do_change_when_the_past_is_planted(year: Tables) -> None:
    flight = one_flight(year)
    now = flight["scheduled"][0] - 2 * HOUR
    before, after = built(flight, year), built(flight, planted(year, now - HOUR))
    changed = {name for name in features.FEATURES if before[name][0] != after[name][0]}
    assert changed >= {*WEATHER, "delay_mean", "delay_count", "carrier_delay_mean", "carrier_delay_count"}


# --- model


def test_the_projects_parameters_are_those_of_the_model() -> None:
    given = tomllib.loads((ROOT / "config" / "params.toml").read_text(encoding="utf-8"))
    assert set(given) == set(model.Parameters.model_fields)
    assert model.Parameters.model_validate(given).model_dump() == given


def test_every_parameter_reaches_the_estimator() -> None:
    given = {"learning_rate": 0.5, "max_iter": 7, "max_leaf_nodes": 5, "min_samples_leaf": 9, "l2_regularization": 0.25}
    pipeline = model.estimator(model.Parameters.model_validate(given | {"seed": 11}), ["carrier"])
    trees = pipeline[-1].get_params()
    assert {name: trees[name] for name in given} == given
    assert (trees["random_state"], trees["early_stopping"]) == (11, False)
    assert pipeline[0].transformers[0][1].cv.random_state == 11
    assert pipeline[0].transformers[0][2] == ["carrier"]


def test_a_share_of_the_rows_is_repeated_with_numbers_missing_and_all_else_as_it_was() -> None:
    rng = np.random.default_rng(0)
    rows = pl.DataFrame({"text": ["a"] * 1000, "one": range(1000), "two": np.ones(1000), "_target": [True] * 1000})
    made = model.augment(model.Parameters(augment_missing_share=0.2), rows, rng)
    again = made[1000:]
    assert made[:1000].equals(rows)
    assert 150 < len(again) < 250
    assert again.select("text", "_target").equals(rows.select("text", "_target").head(len(again)))
    missing = [again[name].null_count() / len(again) for name in ("one", "two")]
    assert missing == pytest.approx([0.3, 0.3], abs=0.1)
    assert again["one"].drop_nulls().is_in(rows["one"].implode()).all()
