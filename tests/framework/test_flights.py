"""What is about real data: the example's batches, its champion, and challengers of spoiled flights."""

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner

import my_ml_project
from my_ml_project import cli
from my_ml_project.core import datasets
from my_ml_project.core.contracts.schema import TARGET
from my_ml_project.core.workspace import Workspace
from my_ml_project.production import lifecycle
from my_ml_project.production.gate import Verdict, gate
from my_ml_project.production.ingest import ingest
from my_ml_project.production.status import status
from my_ml_project.production.train import train
from my_ml_project.shared.collect import ARRIVAL, END, TIME, collect

DAY = datetime(2013, 4, 1, tzinfo=UTC)  # when the champion of `flights` was promoted
FEBRUARY = datetime(2013, 2, 1, tzinfo=UTC)
INSTANT = timedelta(microseconds=1)


def example(root: Path, table: str, month: str = "2013") -> pl.DataFrame:
    """Bundled rows of a month."""
    rows = pl.read_parquet(root / "data" / "example" / f"{table}.parquet")
    return rows.filter(pl.col(TIME[table]).dt.strftime("%Y-%m").str.starts_with(month))


def test_the_example_is_collected_in_any_folder(flights_empty: Workspace, tmp_path: Path) -> None:
    root = flights_empty.root.rename(tmp_path / "a [b]")
    assert {path.parent.name for path in collect(root, None, FEBRUARY, root / "inbox")} == set(TIME)


def test_the_flights_of_a_quarter_lead_to_a_champion_in_one_run(flights: Workspace) -> None:
    now = status(flights)
    assert (now.champion, now.trained_until) == (1, DAY)
    assert now.metrics["auc"] > 0.65
    # files of January, February and March, and of April a day of flights and midnight's weather
    assert now.batches == {"flights": 4, "departures": 3, "outcomes": 3, "weather": 4}
    for table, known in ARRIVAL.items():
        stored = flights.lake.read(table, {}).select(pl.len()).collect().item()
        assert stored == len(example(flights.root, table).filter(known <= DAY)) > 0


def test_the_console_script_is_on_the_projects_own_problem(flights: Workspace) -> None:
    line = [sys.executable, "-m", my_ml_project.__name__, "monitor", "--json", "--now", f"{DAY:%Y-%m-%d}"]
    done = subprocess.run(line, cwd=flights.root, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert "contract of flights" in {finding["name"] for finding in json.loads(done.stdout)["alerts"]}


def test_reports_are_written_on_the_projects_own_problem(flights: Workspace) -> None:
    done = CliRunner().invoke(cli.cli, ["report", "--html", "pages", "--json"])
    assert done.exit_code == 0, done.output
    (line,) = done.stdout.splitlines()
    assert len(json.loads(line)["files"]) == len(list((flights.root / "pages").glob("*.html"))) == 3


def test_the_data_dictionary_that_ships_is_that_of_the_contract(flights_empty: Workspace) -> None:
    page = flights_empty.root / "docs" / "data-dictionary.md"
    before = page.read_bytes()
    page.unlink()
    done = CliRunner().invoke(cli.cli, ["data", "dictionary", "--json"])
    assert json.loads(done.stdout)["tables"] == ["flights", "departures", "outcomes", "weather"]
    assert page.read_bytes() == before


# --- batches


def test_a_month_of_the_example_goes_in_whole(flights_empty: Workspace) -> None:
    for table in flights_empty.problem.schemas:
        time = flights_empty.problem.schemas[table].time
        assert time
        january = pl.read_parquet(flights_empty.root / "data" / "example" / f"{table}.parquet").filter(
            pl.col(time) < FEBRUARY
        )
        file = flights_empty.root / f"{table}.parquet"
        january.write_parquet(file)
        (batch,) = ingest(flights_empty, file, now=DAY).batches
        assert batch.ok, str(batch)
        assert (batch.table, batch.accepted) == (table, len(january))
        assert len(flights_empty.lake.read(table, {}).collect()) == batch.accepted


def test_each_row_is_collected_when_it_becomes_known(flights_empty: Workspace) -> None:
    for table, known in ARRIVAL.items():
        rows = example(flights_empty.root, table, "2013-01")
        times = rows.select(known.alias("known"))["known"].unique().sort()
        first, second = times[100], times[200]
        for since, until, expected in (
            (None, first, rows.filter(known <= first)),
            (None, first - INSTANT, rows.filter(known < first)),
            (first, second, rows.filter(known > first, known <= second)),
        ):
            inbox = flights_empty.root / f"{table}-{since}-{until:%H%M%S%f}"
            files = [file for file in collect(flights_empty.root, since, until, inbox) if file.parent.name == table]
            assert [file.name for file in files] == [f"2013-01-until-{until:%Y%m%dT%H%M%S}.parquet"]
            assert pl.read_parquet(files[0]).equals(expected)
            assert not list(inbox.rglob("*.part"))


def test_flights_are_known_a_day_ahead(flights_empty: Workspace) -> None:
    first = example(flights_empty.root, "flights")["scheduled"].min()
    assert isinstance(first, datetime)
    day = first - timedelta(days=1)
    assert collect(flights_empty.root, None, day - INSTANT, flights_empty.root / "inbox") == []
    assert not (flights_empty.root / "inbox").exists()
    files = collect(flights_empty.root, None, day, flights_empty.root / "inbox")
    assert [file.relative_to(flights_empty.root / "inbox").parts[0] for file in files] == ["flights"]


def test_the_year_ends(flights_empty: Workspace) -> None:
    outcomes = {"leg": [1, 2], "known": [END, END + INSTANT], "late": [True, False]}
    pl.DataFrame(outcomes).write_parquet(flights_empty.root / "data" / "example" / "outcomes.parquet")
    files = collect(
        flights_empty.root, datetime(2013, 12, 1, tzinfo=UTC), END + timedelta(days=400), flights_empty.root / "inbox"
    )
    assert [file.name for file in files] == [f"2013-12-until-{END:%Y%m%dT%H%M%S}.parquet"]
    assert pl.read_parquet(files[0])["leg"].to_list() == [1]
    assert collect(flights_empty.root, END, END + timedelta(days=400), flights_empty.root / "inbox") == []


# --- the gate on spoiled training data, while the newest window is sound

SPOILED: dict[str, Callable[[pl.DataFrame], pl.DataFrame]] = {
    "shuffled labels": lambda rows: rows.with_columns(pl.col(TARGET).shuffle(seed=0)),
    "a few days only": lambda rows: datasets.last_days(rows, 3),
    "ten times as many alerts": lambda rows: rows.with_columns(pl.col(TARGET) | (pl.int_range(pl.len()) % 4 > 0)),
    "another unit": lambda rows: rows.with_columns(
        (pl.col("temperature") - 32) / 1.8, pl.col("delay_mean") * 60, pl.col("carrier_delay_mean") * 60
    ),
}


def judged(workspace: Workspace, monkeypatch: pytest.MonkeyPatch, name: str, moment: datetime) -> Verdict:
    """The gate's verdict on a challenger whose training data are spoiled, and its newest window is not."""
    split = datasets.split

    def spoilt(*arguments: Any, **options: Any) -> tuple[pl.DataFrame, pl.DataFrame]:
        before, held = split(*arguments, **options)
        return SPOILED[name](before), held

    with monkeypatch.context() as patch:
        patch.setattr(datasets, "split", spoilt)
        lifecycle.collect_and_ingest(workspace, moment)
        return gate(workspace, version=train(workspace, as_of=moment).version)


@pytest.mark.slow
@pytest.mark.parametrize("name", SPOILED)
@pytest.mark.parametrize("weeks", [2, 4, 6])
def test_a_challenger_of_spoiled_data_is_refused(
    flights: Workspace, monkeypatch: pytest.MonkeyPatch, name: str, weeks: int
) -> None:
    assert not judged(flights, monkeypatch, name, DAY + timedelta(weeks=weeks)).ok
