"""Yours: the source of new batches.

The example delivers a year of rows from `data/example` as if each row arrived when it became available.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

END = datetime(2013, 12, 31, 5, tzinfo=UTC)  # midnight in New York; the last day remains to be predicted
SCHEDULE_LEAD = timedelta(days=1)  # schedules arrive this long before a flight
TIME = {"flights": "scheduled", "departures": "departed", "outcomes": "known", "weather": "observed"}
ARRIVAL = {table: pl.col(time) for table, time in TIME.items()} | {"flights": pl.col("scheduled") - SCHEDULE_LEAD}


def collect(root: Path, since: datetime | None, until: datetime, inbox: Path) -> list[Path]:
    """Write the rows that arrived in (since, until] to the inbox: a file per table and month.

    Args:
        root: The project's folder.
        since: End of the previous collection; None at first.
        until: End of this collection.
        inbox: The inbox, with a folder per table.
    """
    source = root / "data" / "example"
    return [
        path
        for table in ARRIVAL
        for path in _deliver(source / f"{table}.parquet", since, min(until, END), inbox / table)
    ]


def _deliver(source: Path, since: datetime | None, until: datetime, folder: Path) -> list[Path]:
    table = source.stem
    due = ARRIVAL[table] <= until if since is None else ARRIVAL[table].is_between(since, until, closed="right")
    month = pl.col(TIME[table]).dt.strftime("%Y-%m")
    arrived = pl.scan_parquet(source, glob=False).filter(due).collect()
    return [
        _write(rows, folder / f"{name}-until-{until:%Y%m%dT%H%M%S}.parquet")
        for (name,), rows in arrived.group_by(month, maintain_order=True)
    ]


def _write(rows: pl.DataFrame, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    rows.write_parquet(draft)
    return draft.replace(path)
