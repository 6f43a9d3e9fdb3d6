"""Yours: where new batches come from, the seam at which the project's own source plugs in.

The example's source is a year of files in `data/example`, delivered as if each row arrived when it became known.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

END = datetime(2013, 12, 31, 5, tzinfo=UTC)  # midnight in New York: the last day is there to be predicted
AHEAD = timedelta(days=1)  # a flight's schedule comes this long before it
KNOWN = {
    "flights": pl.col("scheduled") - AHEAD,
    "departures": pl.col("departed"),
    "outcomes": pl.col("known"),
    "weather": pl.col("observed"),
}


def collect(root: Path, since: datetime | None, until: datetime, inbox: Path) -> list[Path]:
    """Bring what arrived in (since, until] into the inbox: a file for each table and month.

    Args:
        root: The project's folder.
        since: Until when was collected before; none at first.
        until: Until when to collect.
        inbox: Has a folder a table; other files in it stay as they are.
    """
    source = root / "data" / "example"
    return [path for table in KNOWN for path in _deliver(source / table, since, min(until, END), inbox / table)]


def _deliver(source: Path, since: datetime | None, until: datetime, folder: Path) -> list[Path]:
    table = source.name
    due = KNOWN[table] <= until if since is None else KNOWN[table].is_between(since, until, closed="right")
    files = []
    for month in sorted(source.glob("*.parquet")):
        rows = pl.read_parquet(month).filter(due)
        if not rows.is_empty():
            files.append(_write(rows, folder / f"{month.stem}-until-{until:%Y%m%dT%H%M%S}.parquet"))
    return files


def _write(rows: pl.DataFrame, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    rows.write_parquet(draft)
    return draft.replace(path)
