"""The life cycle: deployed versions, decisions, and ages of data and model."""

from datetime import datetime, timedelta

import polars as pl
from matplotlib.dates import date2num
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from {{cookiecutter.__package_name}}.core import datasets
from {{cookiecutter.__package_name}}.core.contracts.schema import INGESTED_AT
from {{cookiecutter.__package_name}}.core.plots import figure
from {{cookiecutter.__package_name}}.core.store import decisions
from {{cookiecutter.__package_name}}.core.workspace import Workspace

MAX_RELEASES = 1000  # maximum number of releases
FIGURES = ("auc", "accuracy", "rmse", "mae", "log_loss", "calibration_error", "cost")


def versions(workspace: Workspace) -> pl.DataFrame:
    """All releases with the metrics of their training, newest first."""
    rows = [
        {
            "release": r.number,
            "version": r.version,
            "released": r.released,
            "reason": r.reason,
            "labels until": r.trained_until,
        }
        | {name: r.metrics[name] for name in FIGURES if name in r.metrics}
        for r in workspace.releases.newest(MAX_RELEASES)
    ]
    return pl.DataFrame(rows, infer_schema_length=None)


def timeline(workspace: Workspace) -> Figure:
    """The deployed version over time, and rejected challengers."""
    releases, made = workspace.releases.newest(MAX_RELEASES)[::-1], decisions.read(workspace.lake)
    drawn = figure(11, 2.5)
    axes = drawn.subplots()
    times = date2num([release.released for release in releases] + [workspace.now()])
    served = [release.version for release in releases]
    axes.step(times, [*served, served[-1]], where="post", marker="o", label="deployed")
    rejected = made.filter(pl.col("trained").is_not_null(), pl.col("trained") != pl.col("champion").fill_null(-1))
    if len(rejected):
        axes.plot(date2num(rejected["at"].to_list()), rejected["trained"], "x", color="tab:red", label="rejected")
    axes.xaxis_date()
    axes.set(xlim=(times[0] - 1, times[-1] + 1), ylim=(0, max([*served, *rejected["trained"]]) + 1))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(ylabel="version")
    axes.legend()
    return drawn


def recent_decisions(workspace: Workspace, *, newest: int = 30) -> pl.DataFrame | str:
    """The decisions of recent runs with reasons, newest first."""
    made = decisions.read(workspace.lake).reverse().head(newest)
    if made.is_empty():
        return "There are no decisions yet: the champion was promoted manually."
    reasons = pl.col("verdict").map_elements(_reasons, return_dtype=pl.String)
    return made.select("at", "rows", "decision", pl.col("trained").alias("challenger"), reasons, "champion", "alerts")


def _reasons(verdict: str) -> str:
    """The verdict with the failed checks."""
    first, *checks = verdict.splitlines()
    return "; ".join([first, *(check.strip() for check in checks if check.strip().startswith("FAIL"))])


def ages(workspace: Workspace) -> pl.DataFrame:
    """The age of the champion's training labels, the newest label and the newest row of each table, with limits."""
    problem, now, limits = workspace.problem, workspace.now(), workspace.acceptance.monitor
    champion = workspace.releases.champion()
    found = [
        ("training labels of the champion", champion.trained_until if champion else None, limits.max_model_age_days),
        ("newest label", datasets.newest_label(problem, workspace.lake), None),
    ]
    for name, schema in problem.schemas.items():
        newest = workspace.lake.scan(schema).select(pl.col(schema.time or INGESTED_AT).max()).collect().item()
        found.append((f"newest row of {name}", newest, limits.max_table_age_days if schema.time else None))
    return pl.DataFrame([_age(what, newest, now, limit) for what, newest, limit in found], infer_schema_length=None)


def _age(what: str, newest: datetime | None, now: datetime, limit: float | None) -> dict[str, object]:
    days = max((now - newest) / timedelta(days=1), 0) if newest else None
    stale = limit is not None and (days is None or days > limit)
    return {"": what, "newest": newest, "days old": days, "at most": limit, "status": "too old" if stale else "ok"}
