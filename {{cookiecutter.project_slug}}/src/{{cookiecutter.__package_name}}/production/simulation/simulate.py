"""Replay past days under three retraining policies: never, periodic, and behind the gate.

The simulation has its own workspace and clock, and delivers batches from the project's lake as they became available.
"""

import hashlib
import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import click
import narwhals as nw
import numpy as np
import polars as pl

from {{cookiecutter.__package_name}}.core import plots
from {{cookiecutter.__package_name}}.core.contracts.schema import AVAILABLE_AT, PREDICTED_AT, Schema
from {{cookiecutter.__package_name}}.core.datasets import training_set
from {{cookiecutter.__package_name}}.core.errors import (
    InputError,
    NothingYet,
    Rejected,
    atomic_write,
    write_file,
)
from {{cookiecutter.__package_name}}.core.models import evaluation, training
from {{cookiecutter.__package_name}}.core.models.evaluation import (
    PairedComparison,
    Predictions,
    compare_losses,
    costs,
    metrics,
)
from {{cookiecutter.__package_name}}.core.store import decisions
from {{cookiecutter.__package_name}}.core.store.predictions import Deployment, predict_as_deployed
from {{cookiecutter.__package_name}}.core.store.provenance import code_hash
from {{cookiecutter.__package_name}}.core.workspace import SIMULATIONS, Workspace
from {{cookiecutter.__package_name}}.production import lifecycle

DAILY = timedelta(days=1)
MAIN_METRICS = ("cost", "auc", "log_loss", "accuracy", "rmse", "mae")


@dataclass(frozen=True)
class PeriodMetrics:
    """The metrics of the policies in a month, or in total."""

    name: str
    rows: int
    metrics: dict[str, dict[str, float]]


@dataclass(frozen=True)
class SimulationResult:
    """The result of a simulation.

    Attributes:
        months: Metrics by month.
        total: Metrics over all rows.
        saved: The cost reduction per row of the gated policy against the static one.
        saved_share: The cost reduction as a share of the static policy's cost.
        challengers: The number of challengers after the first.
        promoted: The number of promoted ones among them.
        plot: The plot by month; a JSON file beside it has the results and the verdicts.
    """

    months: tuple[PeriodMetrics, ...]
    total: PeriodMetrics
    saved: PairedComparison
    saved_share: float
    challengers: int
    promoted: int
    plot: str

    def __str__(self) -> str:
        """The result as text."""
        columns = [(name, policy) for name in self.shown[:2] for policy in self.total.metrics]
        lines = [f"{'':>8}{'rows':>8}" + "".join(f"{f'{name} {policy}':>20}" for name, policy in columns)]
        for period in (*self.months, self.total):
            figures = (period.metrics[policy].get(name, float("nan")) for name, policy in columns)
            lines.append(f"{period.name:>8}{period.rows:>8}" + "".join(f"{figure:>20.4f}" for figure in figures))
        saved = f"{100 * self.saved.mean:.2f} (at least {100 * self.saved.lower:.2f})"
        lines.append(f"gated costs {self.saved_share:.1%} less than static; per 100 rows {saved}")
        lines.append(f"{self.promoted} of {self.challengers} challengers were promoted")
        return "\n".join([*lines, f"plot: {self.plot}"])

    @property
    def shown(self) -> list[str]:
        """The displayed metrics, the most important first."""
        return [name for name in MAIN_METRICS if name in self.total.metrics["static"]]


def simulate(workspace: Workspace, *, start: datetime | None = None, end: datetime | None = None) -> SimulationResult:
    """Replay the life cycle over a period; an interrupted simulation is resumed.

    Args:
        workspace: The workspace.
        start: Training time of the first model. Default: after a sixth of the labelled period, or after two windows.
        end: End of the period. Default: the newest label.

    Raises:
        InputError: There are no labels before the start, or the end is not after the start.
        Rejected: No model can be trained at the start.
    """
    start, end = _bounds(workspace, start, end)
    own = _workspace(workspace, start)
    rows = training_set(workspace.problem, workspace.lake, as_of=end)
    _replay(own, start, end)
    releases = own.releases.newest(1000)[::-1]
    gated = [(release.released, release.predictor) for release in releases]
    deployments = {"static": gated[:1], "periodic": _periodic(workspace, rows, start, end), "gated": gated}
    served = rows.filter(pl.col(PREDICTED_AT) > start)
    predictions = {
        policy: evaluation.labelled_predictions(
            own.problem, served, predict_as_deployed(served, models), releases[-1].classes
        )
        for policy, models in deployments.items()
    }
    path = own.settings.reports / f"simulation-{start:%Y%m%d}-{end:%Y%m%d}.png"
    return _report(own, served, predictions, path)


def _bounds(workspace: Workspace, start: datetime | None, end: datetime | None) -> tuple[datetime, datetime]:
    labels = workspace.problem.labels
    known = nw.from_native(workspace.lake.scan(labels)).select(
        first=labels.available_at.min(), last=labels.available_at.max()
    )
    oldest, newest = known.collect().row(0)
    if newest is None:
        raise NothingYet(f"label in table {labels.name}")
    window, sixth = timedelta(days=workspace.acceptance.window.days), (newest - oldest) / 6
    opening = sixth if sixth > window else 2 * window  # the first model needs rows before its window
    start = start or (oldest + opening).replace(hour=0, minute=0, second=0, microsecond=0)
    end = end or newest
    if end <= start or not oldest < start < newest:
        msg = f"nothing to replay from {start:%Y-%m-%d} to {end:%Y-%m-%d}"
        raise InputError(f"{msg}: the lake has labels from {oldest:%Y-%m-%d} to {newest:%Y-%m-%d}")
    return start, end


def _workspace(workspace: Workspace, start: datetime) -> Workspace:
    """The workspace of the simulation, fed from the project's lake; its folder depends on code and configuration."""
    made = (code_hash(workspace.root), workspace.parameters.model_dump_json(), workspace.acceptance.model_dump_json())
    folder = SIMULATIONS / f"{start:%Y-%m-%dT%H%M}-{hashlib.sha256(repr(made).encode()).hexdigest()[:8]}"
    places = {name: (folder / name).as_posix() for name in ("lake", "inbox", "archive", "quarantine", "tracking")}
    settings = type(workspace.settings).model_validate(workspace.settings.model_dump() | places)
    tables = {name: _history(workspace, schema) for name, schema in workspace.problem.schemas.items()}

    def collect(_root: Path, since: datetime | None, until: datetime, inbox: Path) -> list[Path]:
        return [path for name, rows in tables.items() for path in _deliver(rows, since, until, inbox / name)]

    return Workspace(workspace.root, settings, replace(workspace.problem, collect=collect))


def _history(workspace: Workspace, schema: Schema) -> pl.DataFrame:
    """The rows of a table in the order in which they became available."""
    table = nw.from_native(workspace.lake.scan(schema)).select(*schema.names, schema.available_at.alias(AVAILABLE_AT))
    rows: pl.DataFrame = table.sort(AVAILABLE_AT).collect().to_native()
    return rows


def _deliver(rows: pl.DataFrame, since: datetime | None, until: datetime, folder: Path) -> Iterator[Path]:
    """Write the rows that became available in (since, until], one file per month."""
    due = rows.filter(pl.col(AVAILABLE_AT) <= until)
    due = due.filter(pl.col(AVAILABLE_AT) > since) if since else due
    for (month,), part in due.group_by(pl.col(AVAILABLE_AT).dt.strftime("%Y-%m"), maintain_order=True):
        path = folder / f"{month}-until-{until:%Y%m%dT%H%M%S}.parquet"
        with atomic_write(path) as draft:
            part.drop(AVAILABLE_AT).write_parquet(draft)
        yield path


def _replay(own: Workspace, start: datetime, end: datetime) -> None:
    """Run each day, starting after the last one that was run."""
    done = decisions.read(own.lake)["at"].max()
    first = max(start, done + DAILY) if isinstance(done, datetime) else start
    days = [first + n * DAILY for n in range((end - first) // DAILY + 1)]
    logging.disable(logging.INFO)  # of each day
    try:
        with own.exclusive_lock(), click.progressbar(days, label="replay", file=sys.stderr) as bar:
            for day in bar:
                lifecycle.run_due(own, now=day, dirty=True, predict=False, plot=False, release_checks=False)
    finally:
        logging.disable(logging.NOTSET)
    if own.releases.champion() is None:
        raise Rejected(f"no challenger passed the gate between {start:%Y-%m-%d} and {end:%Y-%m-%d}: nothing to compare")


def _periodic(workspace: Workspace, rows: pl.DataFrame, start: datetime, end: datetime) -> list[Deployment]:
    """Models trained at the start and after every interval, without a gate."""
    models, every = [], timedelta(days=workspace.acceptance.retrain.every_days)
    for n in range((end - start) // every + 1):
        known = rows.filter(pl.col(AVAILABLE_AT) <= start + n * every)
        fitted = training.fit(workspace.problem, workspace.parameters, known, parity_rows=known.tail(1000))
        models.append((start + n * every, fitted.predictor))
    return models


def _report(own: Workspace, rows: pl.DataFrame, predictions: dict[str, Predictions], path: Path) -> SimulationResult:
    """Compare the policies, and write the plot and the results as JSON."""
    decision, month = own.acceptance.decision, rows[PREDICTED_AT].dt.strftime("%Y-%m")
    periods = {name: (month == name).to_numpy() for name in month.unique().sort()} | {"all": np.full(len(rows), True)}
    *months, total = (
        PeriodMetrics(
            name, int(mine.sum()), {policy: metrics(answer[mine], decision) for policy, answer in predictions.items()}
        )
        for name, mine in periods.items()
    )
    price = {policy: costs(answer, decision) for policy, answer in predictions.items()}
    days, rng = evaluation.clusters(own.problem, rows), np.random.default_rng(0)
    saved = compare_losses(price["gated"], price["static"], days, confidence=own.acceptance.confidence, rng=rng)
    share = saved.mean / float(price["static"].mean())
    verdicts = decisions.read(own.lake).drop_nulls("trained").select("at", "decision", "verdict").to_dicts()
    promotions = [release.released for release in own.releases.newest(1000)][:-1]
    found = SimulationResult(
        tuple(months), total, saved, share, len(verdicts) - 1, len(promotions), plot=path.as_posix()
    )
    write_file(own.path(path), _plot(found, promotions))
    write_file(own.path(path).with_suffix(".json"), json.dumps(asdict(found) | {"verdicts": verdicts}, default=str))
    return found


def _plot(found: SimulationResult, promotions: list[datetime]) -> bytes:
    """The plot of a metric by month and policy, with the promotions."""
    figure, name = plots.figure(9, 4.5), found.shown[0]
    axes = figure.subplots()
    names = [month.name for month in found.months]
    for policy in found.total.metrics:
        axes.plot(names, [month.metrics[policy][name] for month in found.months], marker="o", label=policy)
    for since in promotions:
        if f"{since:%Y-%m}" in names:
            axes.axvline(names.index(f"{since:%Y-%m}") + (since.day - 15) / 30, color="grey", linewidth=0.8, ls=":")
    axes.set(title=f"{name} by month (dotted: promotions)", ylabel=name)
    axes.legend()
    return plots.png(figure)
