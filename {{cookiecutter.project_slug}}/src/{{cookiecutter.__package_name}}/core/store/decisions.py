"""The table `decisions`: what each run decided, and why."""

from collections.abc import Mapping
from datetime import datetime

import polars as pl

from {{cookiecutter.__package_name}}.core.contracts.schema import DTYPES
from {{cookiecutter.__package_name}}.core.store.lake import Lake

TABLE = "decisions"
COLUMNS: dict[str, pl.DataType] = {
    "at": DTYPES[datetime],
    "batches": pl.Int64(),
    "rows": pl.Int64(),
    "decision": pl.String(),
    "trained": pl.Int64(),
    "verdict": pl.String(),
    "champion": pl.Int64(),
    "predicted": pl.Int64(),
    "alarms": pl.String(),
}


def keep(lake: Lake, row: Mapping[str, object]) -> None:
    """Keep what a run decided, once."""
    once = "-".join(str(row[name]) for name in ("at", "batches", "trained", "champion", "predicted"))
    lake.append(TABLE, pl.DataFrame([row], schema=COLUMNS), batch=once)


def read(lake: Lake) -> pl.DataFrame:
    """All decisions, the oldest first."""
    return lake.read(TABLE, COLUMNS).sort("at").collect()
