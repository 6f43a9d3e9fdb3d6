"""The table `decisions`: the decision of each run with its reasons."""

from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256

import polars as pl

from {{cookiecutter.__package_name}}.core.contracts.schema import DTYPES
from {{cookiecutter.__package_name}}.core.store.lake import Lake

DECISIONS = "decisions"
COLUMNS: dict[str, pl.DataType] = {
    "at": DTYPES[datetime],
    "batches": pl.Int64(),
    "rows": pl.Int64(),
    "decision": pl.String(),
    "trained": pl.Int64(),
    "verdict": pl.String(),
    "champion": pl.Int64(),
    "predicted": pl.Int64(),
    "alerts": pl.String(),
}


def append(lake: Lake, row: Mapping[str, object]) -> None:
    """Append the decision of a run exactly once."""
    rows = pl.DataFrame([row], schema=COLUMNS)
    lake.append(DECISIONS, rows, batch=sha256(rows.write_json().encode()).hexdigest())


def read(lake: Lake) -> pl.DataFrame:
    """All decisions, oldest first."""
    return lake.read(DECISIONS, COLUMNS).sort("at").collect()
