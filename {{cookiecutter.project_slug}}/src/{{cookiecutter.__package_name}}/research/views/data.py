"""The data by day: how many rows, what is missing, and how far features are from what the champion was trained on."""

from collections.abc import Sequence
from datetime import date, timedelta

import polars as pl
from matplotlib.dates import date2num
from matplotlib.figure import Figure

from {{cookiecutter.__package_name}}.core import datasets
from {{cookiecutter.__package_name}}.core.contracts.schema import ARRIVED, AT, KNOWN, Schema
from {{cookiecutter.__package_name}}.core.models.drift import trailing
from {{cookiecutter.__package_name}}.core.models.evaluation import Floats
from {{cookiecutter.__package_name}}.core.plots import figure
from {{cookiecutter.__package_name}}.core.workspace import Workspace

ON, ROWS = "_on", "_rows"
RECENT = 28  # days up to a day, whose rows are held against those of training


def volume(workspace: Workspace) -> Figure:
    """Rows a day of each table, by their time or, where they have none, by their arrival."""
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


def nulls(workspace: Workspace) -> Figure | str:
    """The share of missing values by day, of the columns in which some are."""
    tables = []
    for schema in workspace.problem.schemas.values():
        days = every_day(workspace, schema, pl.col(schema.public.names).null_count() / pl.len())
        some = [name for name in schema.public.names if days[name].sum() > 0]
        tables.append(days.select(ON, pl.col(some).name.prefix(f"{schema.name}.")))
    shares = pl.concat(tables, how="align")
    names = [name for name in shares.columns if name != ON]
    if not names:
        return "No value is missing in any table."
    shares = shares.upsample(ON, every="1d")
    return heat(shares[ON], names, shares.select(names).to_numpy().T, most=1.0, label="share missing")


def every_day(workspace: Workspace, schema: Schema, *wanted: pl.Expr) -> pl.DataFrame:
    """Something of each day's rows of a table, from the first day to the last; null on days without rows."""
    day = pl.col(schema.time or ARRIVED).dt.date().alias(ON)
    days = workspace.lake.scan(schema).group_by(day).agg(*wanted).sort(ON).collect()
    return days.upsample(ON, every="1d") if len(days) else days


def stability(workspace: Workspace) -> pl.DataFrame | str:
    """Each feature's index of the days up to each day, against the champion's training rows; or why there is none."""
    champion, problem = workspace.releases.champion(), workspace.problem
    if champion is None or not problem.schema.event_time:
        return "Drift doesn't apply: " + ("rows have no event time." if champion else "there is no champion yet.")
    rows = datasets.training_set(problem, workspace.lake, as_of=workspace.now())
    names = [name for name in champion.features if name in rows.columns]
    before = rows.filter(pl.col(KNOWN) <= champion.trained_until)
    number = rows[AT].dt.epoch("d")
    day = (number - number.min()).to_numpy()
    found = {name: trailing(before[name], rows[name], day, days=RECENT) for name in names}
    first = rows[AT].dt.date().min()
    assert isinstance(first, date)  # noqa: S101 - for the type: a training set has rows
    return pl.DataFrame({ON: [first + timedelta(days=n) for n in range(int(day.max()) + 1)]} | found)


def drift(workspace: Workspace, index: pl.DataFrame | str) -> Figure | str:
    """The indices by day, the features that have moved furthest on top; the line is the end of training."""
    if isinstance(index, str):
        return index
    names = _by_newest(index)
    limit = workspace.acceptance.monitor.drift
    drawn = heat(index[ON], names, index.select(names).to_numpy().T, most=2 * limit, label="stability index")
    champion = workspace.releases.champion()
    if champion:
        drawn.axes[0].axvline(float(date2num(champion.trained_until)), color="black")
    return drawn


def moved(workspace: Workspace, index: pl.DataFrame | str) -> str:
    """Which features have moved by now."""
    if isinstance(index, str):
        return ""
    limit = workspace.acceptance.monitor.drift
    found = [(name, index[name][-1]) for name in _by_newest(index)]
    far = [f"`{name}` {value:.2f}" for name, value in found if value > limit]
    said = f"Above {limit:g} in the newest {RECENT} days: {', '.join(far)}." if far else f"None is above {limit:g}."
    return f"{said} Drift alone is a warning and starts no training: labelled performance decides."


def _by_newest(index: pl.DataFrame) -> list[str]:
    names = [name for name in index.columns if name != ON]
    return sorted(names, key=lambda name: -index[name].fill_nan(0)[-1])


def heat(days: Sequence[date] | pl.Series, names: list[str], values: Floats, *, most: float, label: str) -> Figure:
    """Shades of values, shape (names, days), from none to most."""
    drawn = figure(11, 1.2 + 0.25 * len(names))
    axes = drawn.subplots()
    edges = date2num([*days, days[-1] + timedelta(days=1)])
    extent = (edges[0], edges[-1], len(names) - 0.5, -0.5)
    image = axes.imshow(values, aspect="auto", extent=extent, vmin=0, vmax=most, cmap="YlOrRd", interpolation="nearest")
    axes.xaxis_date()
    axes.set_yticks(range(len(names)), names)
    drawn.colorbar(image, label=label, pad=0.02, aspect=10)
    return drawn
