"""The life cycle: which versions served, what was decided and why, and how old everything is."""

from datetime import datetime, timedelta

import polars as pl
from matplotlib.dates import date2num
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from {{cookiecutter.__package_name}}.core import datasets
from {{cookiecutter.__package_name}}.core.contracts.schema import ARRIVED
from {{cookiecutter.__package_name}}.core.plots import figure
from {{cookiecutter.__package_name}}.core.store import decisions
from {{cookiecutter.__package_name}}.core.workspace import Workspace

MOST = 1000  # releases that are read
FIGURES = ("auc", "accuracy", "rmse", "mae", "log_loss", "calibration_error", "cost")


def versions(workspace: Workspace) -> pl.DataFrame:
    """Every release with what was measured of it in training, the newest first."""
    rows = [
        {
            "release": r.number,
            "version": r.version,
            "released": r.released,
            "why": r.reason,
            "labels until": r.trained_until,
        }
        | {name: r.metrics[name] for name in FIGURES if name in r.metrics}
        for r in workspace.releases.newest(MOST)
    ]
    return pl.DataFrame(rows, infer_schema_length=None)


def timeline(workspace: Workspace) -> Figure:
    """Which version served when, and the challengers that were refused."""
    releases, made = workspace.releases.newest(MOST)[::-1], decisions.read(workspace.lake)
    drawn = figure(11, 2.5)
    axes = drawn.subplots()
    times = date2num([release.released for release in releases] + [workspace.now()])
    served = [release.version for release in releases]
    axes.step(times, [*served, served[-1]], where="post", marker="o", label="serves")
    refused = made.filter(pl.col("trained").is_not_null(), pl.col("trained") != pl.col("champion").fill_null(-1))
    if len(refused):
        axes.plot(date2num(refused["at"].to_list()), refused["trained"], "x", color="tab:red", label="refused")
    axes.xaxis_date()
    axes.set(xlim=(times[0] - 1, times[-1] + 1), ylim=(0, max([*served, *refused["trained"]]) + 1))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(ylabel="version")
    axes.legend()
    return drawn


def decided(workspace: Workspace, *, newest: int = 30) -> pl.DataFrame | str:
    """What runs decided lately and why, the newest first."""
    made = decisions.read(workspace.lake).reverse().head(newest)
    if made.is_empty():
        return "No run has decided yet: the champion was promoted by hand."
    reasons = pl.col("verdict").map_elements(_reasons, return_dtype=pl.String)
    return made.select("at", "rows", "decision", pl.col("trained").alias("challenger"), reasons, "champion", "alarms")


def _reasons(verdict: str) -> str:
    """Whether it passed, and where not, why."""
    first, *answers = verdict.splitlines()
    return "; ".join([first, *(answer.strip() for answer in answers if answer.strip().startswith("NO"))])


def ages(workspace: Workspace) -> pl.DataFrame:
    """How old the champion's knowledge, the newest label and the newest row of each table are, beside their limits."""
    problem, now, limits = workspace.problem, workspace.now(), workspace.acceptance.monitor
    champion = workspace.releases.champion()
    found = [
        ("labels that the champion knows", champion.trained_until if champion else None, limits.stale_days),
        ("newest label", datasets.newest(problem, workspace.lake), None),
    ]
    for name, schema in problem.schemas.items():
        newest = workspace.lake.scan(schema).select(pl.col(schema.time or ARRIVED).max()).collect().item()
        found.append((f"newest row of {name}", newest, limits.silent_days if schema.time else None))
    return pl.DataFrame([_age(what, newest, now, limit) for what, newest, limit in found], infer_schema_length=None)


def _age(what: str, newest: datetime | None, now: datetime, limit: float | None) -> dict[str, object]:
    days = max((now - newest) / timedelta(days=1), 0) if newest else None
    stale = limit is not None and (days is None or days > limit)
    return {"": what, "newest": newest, "days old": days, "at most": limit, "is": "too old" if stale else "fine"}
