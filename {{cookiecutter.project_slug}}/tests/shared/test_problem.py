"""Yours: the tests of the problem, on its real batches: contract, collection, features and model."""

import hashlib
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
import onnx
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from {{cookiecutter.__package_name}}.shared import checks, collect, contract, dataset, features, model, training
from {{cookiecutter.__package_name}}.shared.lake import Lake
from {{cookiecutter.__package_name}}.shared.problem import PROBLEM
from {{cookiecutter.__package_name}}.shared.schema import Frame, schema_of

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "data" / "example"
HOUR, MOMENT = timedelta(hours=1), timedelta(microseconds=1)
CLOCK_CHANGES = [date(2013, 3, 10), date(2013, 11, 3)]
WEATHER = ["temperature", "dew_point", "humidity", "wind_speed", "wind_gust", "precipitation", "pressure", "visibility"]

Row = dict[str, Any]
Tables = Mapping[str, pl.DataFrame]


def batch(table: str, month: str) -> pl.DataFrame:
    return pl.read_parquet(EXAMPLE / table / f"{month}.parquet")


@pytest.fixture(scope="module")
def year() -> dict[str, pl.DataFrame]:
    """All bundled rows, in the contract's types."""
    return {
        name: checks.conform(pl.concat([pl.read_parquet(p) for p in sorted((EXAMPLE / name).iterdir())]), schema)
        for name, schema in PROBLEM.schemas.items()
    }


def history_of(tables: Tables) -> dict[str, Frame]:
    return {name: nw.from_native(rows.lazy()) for name, rows in tables.items()}


def asked(flights: pl.DataFrame) -> Frame:
    return nw.from_native(flights.lazy()).with_columns(PROBLEM.schema.predicted.alias("_at"))


def built(flights: pl.DataFrame, tables: Tables) -> pl.DataFrame:
    rows: pl.DataFrame = features.build(asked(flights), history_of(tables)).collect().to_native()
    return rows.sort("leg")


# --- contract


@pytest.mark.parametrize("table", sorted(PROBLEM.schemas))
def test_every_bundled_batch_keeps_the_contract(table: str) -> None:
    schema = PROBLEM.schemas[table]
    stored = pl.DataFrame(schema=schema.dtypes)
    files = sorted((EXAMPLE / table).glob("*.parquet"))
    assert len(files) == 12
    for path in files:
        report = checks.accept(pl.read_parquet(path), schema, stored=stored)
        found = (len(report.rejected), report.repeats, report.breaches, report.notes)
        assert found == (0, 0, (), ()), f"{path.name}: {report.counts}"


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
    "no carrier": ("flights", {"carrier": None}, "carrier is given"),
    "hours for minutes": ("departures", {"delay": pl.col("delay") - 200}, "delay > -120"),
    "a constant key": ("outcomes", {"leg": 7}, "key is unique"),
    "a key that is none": ("outcomes", {"leg": 0}, "leg > 0"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_a_batch_is_found_by_the_rule_made_for_it(fault: str) -> None:
    table, change, rule = FAULTS[fault]
    schema = PROBLEM.schemas[table]
    rows = checks.conform(batch(table, "2013-01"), schema).with_columns(**change)
    report = checks.accept(rows, schema, stored=pl.DataFrame(schema=schema.dtypes))
    assert report.breaches
    assert [name for name in report.counts if name.startswith(rule)]


def test_too_many_missing_pressures_breach_a_batch() -> None:
    schema = PROBLEM.schemas["weather"]
    rows = checks.conform(batch("weather", "2013-01"), schema)
    none = pl.when(pl.int_range(pl.len()) < 0.61 * pl.len()).then(None).otherwise(pl.lit(1000.0))
    report = checks.accept(rows.with_columns(pressure=none), schema, stored=rows.clear())
    assert [breach[:22] for breach in report.breaches] == ["pressure is missing in"]


def test_a_destination_or_carrier_never_seen_is_let_in_with_a_note_whatever_its_distance() -> None:
    schema = PROBLEM.schemas["flights"]
    rows = checks.conform(batch("flights", "2013-01"), schema).with_columns(
        destination=pl.lit("XXX"), carrier=pl.lit("ZZ"), distance=pl.int_range(pl.len()) % 5999 + 1
    )
    report = checks.accept(rows, schema, stored=rows.clear())
    assert report.notes == ("carrier has a new value 'ZZ'", "destination has a new value 'XXX'")
    assert len(report.accepted) == len(rows)


# --- collection


@pytest.fixture
def inbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(ROOT)
    return tmp_path / "inbox"


def arrived(inbox: Path, table: str) -> pl.DataFrame:
    files = sorted((inbox / table).glob("*.parquet"))
    return pl.concat([pl.read_parquet(path) for path in files]).sort(PROBLEM.schemas[table].key)


def at(*moment: int) -> datetime:
    return datetime(2013, *moment, tzinfo=UTC)


def test_what_was_known_by_then_is_collected_a_file_for_each_table_and_month(inbox: Path, year: Tables) -> None:
    until = at(2, 1, 12)
    files = collect.collect(None, until, inbox)
    assert [path.relative_to(inbox).as_posix() for path in files] == [
        f"{table}/{month}-until-20130201T120000.parquet"
        for table in ("flights", "departures", "outcomes", "weather")
        for month in ("2013-01", "2013-02")
    ]
    known = {"flights": year["flights"]["scheduled"] - 24 * HOUR, "departures": year["departures"]["departed"]}
    known |= {"outcomes": year["outcomes"]["known"], "weather": year["weather"]["observed"]}
    for table, moments in known.items():
        key = PROBLEM.schemas[table].key
        assert set(arrived(inbox, table).select(key).rows()) == set(year[table].filter(moments <= until).select(key).rows())


def test_one_collection_follows_the_other_without_gap_or_overlap(inbox: Path, tmp_path: Path) -> None:
    first, again, second = at(1, 2, 15, 0, 0), at(1, 2, 15, 0, 30), at(1, 3, 17, 9)
    once = tmp_path / "once"
    collect.collect(None, second, once)
    files = [path for since, until in ((None, first), (first, again), (again, second)) for path in collect.collect(since, until, inbox)]
    assert len(files) == len(set(files)), "no collection writes over another's file"
    for table in PROBLEM.schemas:
        assert arrived(inbox, table).equals(arrived(once, table))
    assert collect.collect(second, second, inbox) == []


def test_a_row_is_collected_at_the_moment_it_becomes_known(inbox: Path, year: Tables) -> None:
    observed = year["weather"]["observed"][100]
    collect.collect(observed - HOUR, observed, inbox)
    assert arrived(inbox, "weather")["observed"].to_list() == [observed]
    assert collect.collect(observed, observed + HOUR - MOMENT, inbox / "later")[-1].parent.name != "weather"


def test_collecting_leaves_other_files_and_no_drafts(inbox: Path) -> None:
    (inbox / "weather").mkdir(parents=True)
    (inbox / "weather" / "mine.csv").write_text("mine")
    collect.collect(None, at(1, 2), inbox)
    assert (inbox / "weather" / "mine.csv").read_text() == "mine"
    assert not list(inbox.rglob("*.part"))


def test_the_example_ends_at_midnight_in_new_york_with_a_day_to_predict(inbox: Path, year: Tables) -> None:
    midnight = at(12, 31, 5)
    collect.collect(midnight - 30 * HOUR, datetime(2030, 1, 1, tzinfo=UTC), inbox)
    assert year["flights"]["scheduled"].max() == arrived(inbox, "flights")["scheduled"].max()
    assert arrived(inbox, "weather")["observed"].max() == midnight
    assert midnight - HOUR < arrived(inbox, "outcomes")["known"].max() <= midnight  # type: ignore[operator]
    assert collect.collect(midnight, datetime(2030, 1, 1, tzinfo=UTC), inbox) == []


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
    """Ten flights on each of thirty days over the year, among them those on which the clock changes."""
    days = [date(2013, 1, 1) + timedelta(days=13 * i) for i in range(28)] + CLOCK_CHANGES
    flights = year["flights"].sort("leg").with_row_index("n", offset=0)
    of_day = pl.col("leg").rank().over("local_date") - 1
    share = (of_day * 10 // pl.len().over("local_date")).cast(pl.Int64)
    picked = flights.filter(pl.col("local_date").is_in(days)).with_columns(share=share)
    return picked.unique(["local_date", "share"], keep="first", maintain_order=True).drop("n", "share")


def test_every_feature_has_a_slow_counterpart_here() -> None:
    assert set(SLOW) == set(features.FEATURES)
    assert len(features.FEATURES) == len(SLOW)


@pytest.mark.parametrize("feature", features.FEATURES)
def test_a_feature_equals_its_slow_counterpart(feature: str, sample: pl.DataFrame, year: Tables) -> None:
    expected = slow_features(sample, year)[feature]
    found = fast_features(sample, year)[feature].to_list()
    assert len(found) == 300
    if isinstance(expected[0], float) or feature.endswith("mean"):
        assert found == [None if value is None else pytest.approx(value, rel=1e-9, abs=1e-9) for value in expected]
    else:
        assert found == expected
