"""Yours: where new batches come from, the seam at which the project's own source plugs in.

The example's source is a year of rows in `data/example`, delivered as if each row arrived when it became known.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

END = datetime(2013, 12, 31, 5, tzinfo=UTC)  # midnight in New York: the last day is there to be predicted
AHEAD = timedelta(days=1)  # a flight's schedule comes this long before it
TIME = {"flights": "scheduled", "departures": "departed", "outcomes": "known", "weather": "observed"}
KNOWN = {table: pl.col(time) for table, time in TIME.items()} | {"flights": pl.col("scheduled") - AHEAD}


def collect(root: Path, since: datetime | None, until: datetime, inbox: Path) -> list[Path]:
    """Bring what arrived in (since, until] into the inbox: a file for each table and month.

    Args:
        root: The project's folder.
        since: Until when was collected before; none at first.
        until: Until when to collect.
        inbox: Has a folder a table; other files in it stay as they are.
    """
    source = root / "data" / "example"
    return [
        path for table in KNOWN for path in _deliver(source / f"{table}.parquet", since, min(until, END), inbox / table)
    ]


def _deliver(source: Path, since: datetime | None, until: datetime, folder: Path) -> list[Path]:
    table = source.stem
    due = KNOWN[table] <= until if since is None else KNOWN[table].is_between(since, until, closed="right")
    month = pl.col(TIME[table]).dt.strftime("%Y-%m")
    arrived = pl.scan_parquet(source).filter(due).collect()
    return [
        _write(rows, folder / f"{name}-until-{until:%Y%m%dT%H%M%S}.parquet")
        for (name,), rows in arrived.group_by(month, maintain_order=True)
    ]


def _write(rows: pl.DataFrame, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    rows.write_parquet(draft)
    return draft.replace(path)
