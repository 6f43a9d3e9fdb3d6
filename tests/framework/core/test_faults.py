"""Faults planted in arriving batches: the contract blocks them, and leaves clean days alone.

Whole days of the example, each with one fault in one table, are held against a lake that has what came before. Two days
are tried by default, twelve with `-m slow`.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

import my_ml_project
from my_ml_project.core.workspace import Workspace, open_workspace
from my_ml_project.production.ingest import Batch, check, ingest_file
from my_ml_project.shared import PROBLEM
from my_ml_project.shared.collect import ARRIVAL

PROJECT = Path(my_ml_project.__file__).parents[2]
DAY = timedelta(days=1)
DAYS = [datetime(2013, 2, 12, 5, tzinfo=UTC) + n * timedelta(days=26) for n in range(12)]
FAST = DAYS[:2]

Fault = Callable[[pl.DataFrame], pl.DataFrame]
N = pl.int_range(pl.len())  # a row's number


def weather(name: str, value: pl.Expr) -> tuple[str, Fault]:
    """A fault in one column of the weather."""
    return "weather", lambda rows: rows.with_columns(value.alias(name))


def flights(name: str, value: pl.Expr) -> tuple[str, Fault]:
    """A fault in one column of the flights."""
    return "flights", lambda rows: rows.with_columns(value.alias(name))


def twentieth(rows: pl.DataFrame) -> pl.DataFrame:
    """Every twentieth row."""
    return rows.gather_every(20)


def overdue(rows: pl.DataFrame) -> pl.DataFrame:
    """Some rows more, of flights two months ago."""
    old = twentieth(rows).with_columns(
        pl.col("leg") + 1_000_000, pl.col("scheduled") - 56 * DAY, pl.col("local_date") - 56 * DAY
    )
    return pl.concat([rows, old])


def untimely(rows: pl.DataFrame) -> pl.DataFrame:
    """Some rows more, of flights that leave tomorrow, with the delay that they will have."""
    return pl.concat(
        [rows, twentieth(rows).with_columns(pl.col("leg") + 1_000_000, pl.col("departed") + timedelta(days=1))]
    )


FAULTS: dict[str, tuple[str, Fault]] = {
    "a column is missing": ("weather", lambda rows: rows.drop("humidity")),
    "a column is renamed": ("weather", lambda rows: rows.rename({"humidity": "relative_humidity"})),
    "a column too many": flights("remark", pl.lit("")),
    "numbers as text": ("departures", lambda rows: rows.with_columns(pl.col("delay").cast(pl.String))),
    "inches of mercury": weather("pressure", pl.col("pressure") * 0.02953),
    "-999 for missing": weather("temperature", pl.when(N % 10 == 0).then(-999.0).otherwise("temperature")),
    "dew point above temperature": weather("dew_point", pl.col("temperature") + 5),
    "kilometres": flights("distance", (pl.col("distance") * 1.609344).cast(pl.Int64)),
    "another time zone": flights("scheduled", pl.col("scheduled") - timedelta(hours=2)),
    "rows twice": ("flights", lambda rows: pl.concat([rows, twentieth(rows)])),
    "rows twice, with other values": (
        "flights",
        lambda rows: pl.concat([rows, twentieth(rows).with_columns(pl.col("number") + 1)]),
    ),
    "late rows": ("flights", overdue),
    "no rows": ("flights", lambda rows: rows.head(0)),
    "half of the rows": ("flights", lambda rows: rows.gather_every(2)),
    "a burst of nulls": weather("temperature", pl.when(N % 3 > 0).then("temperature")),
    "a sensor that sticks": weather("humidity", pl.col("humidity").first()),
    "a new category": flights("carrier", pl.when(N % 5 == 0).then(pl.lit("ZZ")).otherwise("carrier")),
    "a leaked label": ("departures", untimely),
    "inverted labels": ("outcomes", lambda rows: rows.with_columns(~pl.col("late"))),
    "two columns swapped": (
        "flights",
        lambda rows: rows.with_columns(number="distance", distance="number"),
    ),
    "two columns swapped that look alike": (
        "weather",
        lambda rows: rows.with_columns(temperature="humidity", humidity="temperature"),
    ),
}
# Not seen on every day: there labelled performance has to tell.
WEAK = {"half of the rows", "inverted labels", "two columns swapped that look alike"}


@pytest.fixture
def lake(tmp_path: Path) -> tuple[Workspace, dict[str, pl.DataFrame]]:
    """A lake to fill, and the rows of the year."""
    tables = {table: pl.read_parquet(PROJECT / "data" / "example" / f"{table}.parquet") for table in ARRIVAL}
    return open_workspace(PROBLEM, root=tmp_path), tables


def between(rows: pl.DataFrame, table: str, since: datetime | None, until: datetime) -> pl.DataFrame:
    """What arrived in (since, until]."""
    due = ARRIVAL[table] <= until
    return rows.filter(due if since is None else due & (ARRIVAL[table] > since))


def tried(workspace: Workspace, tables: dict[str, pl.DataFrame], days: list[datetime]) -> dict[str, list[str]]:
    """By fault, the days on which it passes; by table, the clean days that are blocked."""
    passed: dict[str, list[str]] = {name: [] for name in (*FAULTS, *tables, "a batch sent twice")}
    since: datetime | None = None
    for day in days:
        batches = {}
        for table, rows in tables.items():
            before, batch = between(rows, table, since, day), between(rows, table, day, day + DAY)
            for _, month in before.group_by(ARRIVAL[table].dt.truncate("1mo"), maintain_order=True):
                stored(workspace, month, table, day)
            batches[table] = batch
            if not judged(workspace, batch, table, day + DAY).ok:
                passed[table].append(str(day))
        for name, (table, fault) in FAULTS.items():
            if not blocked(judged(workspace, fault(batches[table]), table, day + DAY), len(batches[table])):
                passed[name].append(str(day))
        again = between(tables["flights"], "flights", day - DAY, day)
        if judged(workspace, again, "flights", day).accepted:
            passed["a batch sent twice"].append(str(day))
        since = day
    return passed


def judged(workspace: Workspace, rows: pl.DataFrame, table: str, now: datetime) -> Batch:
    """What becomes of rows."""
    file = workspace.path("batch.parquet")
    rows.write_parquet(file)
    return check(workspace, file, table=table, now=now)


def stored(workspace: Workspace, rows: pl.DataFrame, table: str, now: datetime) -> None:
    """Let clean rows into the lake."""
    file = workspace.path("batch.parquet")
    rows.write_parquet(file)
    assert ingest_file(workspace, file, table=table, now=now).ok


def blocked(batch: Batch, clean: int) -> bool:
    """Whether a fault is kept out: the batch or its bad rows, or rows that came twice."""
    return not batch.ok or (batch.accepted == clean and batch.duplicates > 0)


def test_planted_faults_are_blocked_and_clean_days_are_not(
    lake: tuple[Workspace, dict[str, pl.DataFrame]],
) -> None:
    passed = tried(*lake, FAST)
    assert {name: days for name, days in passed.items() if days and name not in WEAK} == {}
    assert len(FAULTS) + 1 - len(WEAK) >= 18, "a batch sent twice is one more"


@pytest.mark.slow
def test_planted_faults_are_blocked_on_twelve_days_of_the_year(
    lake: tuple[Workspace, dict[str, pl.DataFrame]],
) -> None:
    passed = tried(*lake, DAYS)
    assert {name: days for name, days in passed.items() if days and name not in WEAK} == {}
