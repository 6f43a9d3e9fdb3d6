"""Measure features and ingestion of a project: run by `tools/benchmark.py` in its folder and environment.

Prints one JSON object of CPU seconds and their ratios.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import narwhals as nw
import polars as pl

PACKAGE = sys.argv[1]
ROUNDS = 7
WINDOW, LOOKBACK = "3h", timedelta(hours=6)


def module(name: str) -> Any:  # noqa: ANN401 - the project's package has the user's name
    """A module of the generated project."""
    return import_module(f"{PACKAGE}.{name}")


def by_hand(flights: pl.LazyFrame, departures: pl.LazyFrame, weather: pl.LazyFrame, names: list[str]) -> pl.LazyFrame:
    """The same features in Polars alone, as someone would write them who wants them fast."""
    numbers = [pl.col("temperature", "dew_point", "humidity", "wind_speed", "wind_gust")]
    numbers.append(pl.col("precipitation", "pressure", "visibility"))
    observed = weather.select("observed", *numbers).sort("observed")
    rows = flights.sort("_predicted_at").join_asof(
        observed,
        left_on="_predicted_at",
        right_on="observed",
        strategy="backward",
        tolerance=LOOKBACK - timedelta(microseconds=1),
    )
    left = departures.select("carrier", "departed", "delay").sort("departed")
    running = left.with_columns(total=pl.col("delay").cum_sum(), count=pl.int_range(1, pl.len() + 1))
    own = left.with_columns(
        carrier_total=pl.col("delay").cum_sum().over("carrier"),
        carrier_count=pl.col("delay").cum_count().over("carrier"),
    ).cast({"carrier_count": pl.Int64})
    rows = rows.with_columns(start=pl.col("_predicted_at").dt.offset_by(f"-{WINDOW}"))
    for moment in ("_predicted_at", "start"):
        rows = rows.sort(moment)
        rows = rows.join_asof(
            running.select("departed", pl.col("total", "count").name.suffix(moment)),
            left_on=moment,
            right_on="departed",
        ).drop("departed", strict=False)
        mine = own.select("carrier", "departed", pl.col("carrier_total", "carrier_count").name.suffix(moment))
        rows = rows.join_asof(mine, left_on=moment, right_on="departed", by="carrier", check_sortedness=False).drop(
            "departed", strict=False
        )
    for name in ("", "carrier_"):
        for what in ("total", "count"):
            column = f"{name}{what}"
            rows = rows.with_columns(
                (pl.col(f"{column}_predicted_at").fill_null(0) - pl.col(f"{column}start").fill_null(0)).alias(column)
            )
        mean = pl.when(pl.col(f"{name}count") > 0).then(pl.col(f"{name}total") / pl.col(f"{name}count"))
        rows = rows.with_columns(mean.alias(f"{name}delay_mean"), pl.col(f"{name}count").alias(f"{name}delay_count"))
    date = pl.col("local_date").dt
    rows = rows.with_columns(weekday=date.weekday() % 7, day_of_year=date.ordinal_day())
    return rows.select("leg", *(pl.col(name) for name in names))


def cpu(work: Callable[[], object]) -> float:
    """CPU seconds of this process, all threads."""
    start = time.process_time()
    work()
    return time.process_time() - start


def features() -> dict[str, float]:
    """Features of all flights, by the project and by hand, in turn."""
    problem = module("shared").PROBLEM
    tables = {
        name: pl.read_parquet(f"data/example/{name}.parquet").cast(schema.dtypes)
        for name, schema in problem.schemas.items()
    }
    rows = tables["flights"].with_columns(_predicted_at=pl.col("scheduled") - timedelta(hours=2))
    names = list(problem.features)

    def ours() -> pl.DataFrame:
        history = {name: nw.from_native(table.lazy()) for name, table in tables.items()}
        built: pl.DataFrame = problem.build(nw.from_native(rows.lazy()), history).collect().to_native()
        return built.select("leg", *names)

    def hand() -> pl.DataFrame:
        return by_hand(rows.lazy(), tables["departures"].lazy(), tables["weather"].lazy(), names).collect()

    mine, theirs = ours().sort("leg"), hand().sort("leg")
    for name in names:
        if mine[name].dtype.is_float():
            worst = (mine[name] - theirs[name]).abs().max()
            assert worst is not None  # noqa: S101 - a benchmark of two different things is none
            same = float(worst) < 1e-9 and mine[name].null_count() == theirs[name].null_count()
        else:
            same = mine[name].cast(theirs[name].dtype).equals(theirs[name])
        if not same:
            sys.exit(f"the two ways differ in {name}")
    pairs = [(cpu(ours), cpu(hand)) for _ in range(ROUNDS)]
    return {
        "rows": len(rows),
        "features": len(names),
        "ours": statistics.median(pair[0] for pair in pairs),
        "by_hand": statistics.median(pair[1] for pair in pairs),
        "ratio": statistics.median(pair[0] / pair[1] for pair in pairs),
    }


def days() -> dict[str, float]:
    """A day's batches into empty tables and into those of a year, in turn."""
    workspaces, ingest = module("core.workspace"), module("production.ingest")
    collect, settings = module("shared.collect"), module("core.settings")
    ratios, first, late = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        year = _workspace(workspaces, settings, Path(folder, "year"))
        day = datetime(2013, 12, 10, 5, tzinfo=UTC)
        collect.collect(Path.cwd(), None, day, year.path(year.settings.inbox))
        ingest.ingest_inbox(year, now=day)
        for number in range(ROUNDS):
            since, until = day + timedelta(days=number), day + timedelta(days=number + 1)
            empty = _workspace(workspaces, settings, Path(folder, f"empty-{number}"))
            for workspace in (empty, year):
                collect.collect(Path.cwd(), since, until, workspace.path(workspace.settings.inbox))
            first.append(cpu(lambda: ingest.ingest_inbox(empty, now=until)))  # noqa: B023 - called at once
            late.append(cpu(lambda: ingest.ingest_inbox(year, now=until)))  # noqa: B023
            ratios.append(late[-1] / first[-1])
    return {"first": statistics.median(first), "late": statistics.median(late), "ratio": statistics.median(ratios)}


def large() -> dict[str, float]:
    """Wall seconds of a day's batch into a table of ten million rows."""
    ingest, schema = module("production.ingest"), module("shared").PROBLEM.schemas["departures"]
    rows, part, day = 10_000_000, 1_000_000, timedelta(days=1)
    end = datetime(2013, 12, 10, 5, tzinfo=UTC)

    def departures(first: int, n: int, since: datetime, until: datetime) -> pl.DataFrame:
        step = (until - since) / n
        times = pl.Series([0]).extend_constant(0, n - 1).cum_count() * step + since
        return pl.select(
            leg=pl.int_range(first + 1, first + n + 1),
            carrier=pl.lit("DL"),
            departed=times.cast(schema.dtypes["departed"]),
            delay=pl.int_range(n) % 60,
        )

    with tempfile.TemporaryDirectory() as folder:
        own = _workspace(module("core.workspace"), module("core.settings"), Path(folder))
        for n in range(rows // part):
            since = end - (rows // part - n) * 365 * day
            made = departures(n * part, part, since, since + 365 * day)
            stamped = made.with_columns(
                _ingested_at=pl.lit(end), _batch=pl.lit(str(n)), _contract=pl.lit(1, dtype=pl.Int64)
            )
            own.lake.append("departures", stamped.cast({"_ingested_at": schema.dtypes["departed"]}), batch=str(n))
        file = Path(folder, "day.parquet")
        departures(rows, 2700, end, end + day).write_parquet(file)
        start = time.perf_counter()
        batch = ingest.ingest_file(own, file, table="departures", now=end + 2 * day)
        wall = time.perf_counter() - start
    if batch.accepted != 2700:
        sys.exit(f"the day's batch was not taken: {batch}")
    return {"rows": rows, "wall": wall}


def _workspace(workspaces: Any, settings: Any, folder: Path) -> Any:  # noqa: ANN401 - the project's own classes
    where = {name: str(folder / name) for name in ("lake", "inbox", "archive", "quarantine", "tracking")}
    return workspaces.Workspace(Path.cwd(), settings.Settings(**where), module("shared").PROBLEM)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    print(json.dumps({"features": features(), "days": days(), "large": large()}))
