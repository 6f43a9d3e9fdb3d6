"""The data by day: rows, missing values, and drift of features."""

from datetime import timedelta

import numpy as np
import polars as pl
from matplotlib.dates import date2num
from matplotlib.figure import Figure

from {{cookiecutter.__package_name}}.core import datasets
from {{cookiecutter.__package_name}}.core.contracts.schema import (
    AVAILABLE_AT,
    INGESTED_AT,
    PREDICTED_AT,
    Schema,
)
from {{cookiecutter.__package_name}}.core.models.drift import rolling_psi
from {{cookiecutter.__package_name}}.core.models.evaluation import Floats
from {{cookiecutter.__package_name}}.core.plots import figure
from {{cookiecutter.__package_name}}.core.workspace import Workspace

ON, ROWS = "_on", "_rows"
DRIFT_DAYS = 28  # length of the rolling window


def row_counts(workspace: Workspace) -> Figure:
    """The number of rows of each table by day."""
    schemas = workspace.problem.schemas.values()
    drawn = figure(11, 1 + 1.3 * len(schemas))
    panels = drawn.subplots(len(schemas), sharex=True, squeeze=False)[:, 0]
    for axes, schema in zip(panels, schemas, strict=True):
        days = every_day(workspace, schema, pl.len().alias(ROWS))
        if len(days):
            edges = date2num([*days[ON], days[ON][-1] + timedelta(days=1)])
            axes.stairs(days[ROWS].fill_null(0), edges, fill=True)
            axes.xaxis_date()
        axes.set(title=schema.name, ylabel="rows a day")
    return drawn


def missing_values(workspace: Workspace) -> Figure | str:
    """The share of missing values by day, of the columns with any."""
    tables = []
    for schema in workspace.problem.schemas.values():
        days = every_day(workspace, schema, pl.col(schema.loggable.names).null_count() / pl.len())
        some = [name for name in schema.loggable.names if days[name].sum() > 0]
        tables.append(days.select(ON, pl.col(some).name.prefix(f"{schema.name}.")))
    shares = pl.concat(tables, how="align")
    names = [name for name in shares.columns if name != ON]
    if not names:
        return "No value is missing in any table."
    shares = shares.upsample(ON, every="1d")
    return heatmap(shares[ON], names, shares.select(names).to_numpy().T, most=1.0, label="share missing")


def every_day(workspace: Workspace, schema: Schema, *wanted: pl.Expr) -> pl.DataFrame:
    """Aggregates of a table by day; null on days without rows."""
    day = pl.col(schema.time or INGESTED_AT).dt.date().alias(ON)
    days = workspace.lake.scan(schema).group_by(day).agg(*wanted).sort(ON).collect()
    return days.upsample(ON, every="1d") if len(days) else days


def drift(workspace: Workspace) -> Figure | str:
    """Each feature's stability index by day: the days up to it against the champion's training rows.

    The features that have moved furthest are on top; the line is the end of training.
    """
    champion, problem = workspace.releases.champion(), workspace.problem
    if champion is None or not problem.schema.event_time:
        return "Drift doesn't apply: " + ("rows have no event time." if champion else "there is no champion yet.")
    rows = datasets.training_set(problem, workspace.lake, as_of=workspace.now())
    before = rows.filter(pl.col(AVAILABLE_AT) <= champion.trained_until)
    number = rows[PREDICTED_AT].dt.epoch("d")
    day = (number - number.min()).to_numpy()
    names = [name for name in champion.features if name in rows.columns]
    index = {name: rolling_psi(before[name], rows[name], day, days=DRIFT_DAYS) for name in names}
    names.sort(key=lambda name: -np.nan_to_num(index[name][-1]))
    values, most = np.stack([index[name] for name in names]), 2 * workspace.acceptance.monitor.max_psi
    drawn = heatmap(rows[PREDICTED_AT].dt.date(), names, values, most=most, label="PSI")
    drawn.axes[0].axvline(float(date2num(champion.trained_until)), color="black")
    return drawn


def heatmap(days: pl.Series, names: list[str], values: Floats, *, most: float, label: str) -> Figure:
    """Shades of values, shape (names, days), from none to most; of the days, the first and the last count."""
    drawn = figure(11, 1.2 + 0.25 * len(names))
    axes = drawn.subplots()
    first, last = date2num([days[0], days[-1] + timedelta(days=1)])
    extent = (first, last, len(names) - 0.5, -0.5)
    image = axes.imshow(values, aspect="auto", extent=extent, vmin=0, vmax=most, cmap="YlOrRd", interpolation="nearest")
    axes.xaxis_date()
    axes.set_yticks(range(len(names)), names)
    drawn.colorbar(image, label=label, pad=0.02, aspect=10)
    return drawn
