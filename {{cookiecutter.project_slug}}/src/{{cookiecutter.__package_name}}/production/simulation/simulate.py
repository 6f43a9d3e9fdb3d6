"""The past replayed day by day: the life cycle with its gate, beside a model that stays and one that is renewed.

The replay has a workspace and a clock of its own, and takes its batches from the project's lake as they became known.
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
from {{cookiecutter.__package_name}}.core.contracts.schema import AT, KNOWN, Schema
from {{cookiecutter.__package_name}}.core.datasets import training_set
from {{cookiecutter.__package_name}}.core.errors import BadInput, Refused, whole
from {{cookiecutter.__package_name}}.core.models import evaluation, training
from {{cookiecutter.__package_name}}.core.models.evaluation import Answers, Gain, costs, gain, metrics
from {{cookiecutter.__package_name}}.core.store import decisions
from {{cookiecutter.__package_name}}.core.store.predictions import Deployment, predict_as_deployed
from {{cookiecutter.__package_name}}.core.store.provenance import code_hash
from {{cookiecutter.__package_name}}.core.workspace import REPLAYS, Workspace
from {{cookiecutter.__package_name}}.production import lifecycle

DAILY = timedelta(days=1)
SHOWN = ("cost", "auc", "log_loss", "accuracy", "rmse", "mae")


@dataclass(frozen=True)
class Period:
    """A month of the replay, or all of it: rows, and metrics by policy."""

    name: str
    rows: int
    metrics: dict[str, dict[str, float]]


@dataclass(frozen=True)
class SimulationResult:
    """What a replay found.

    Attributes:
        months: Quality by month.
        total: Quality over all.
        saved: By how much the gated policy costs less than the static one, a row, by a bootstrap over days.
        saved_share: The same, as a share of the static policy's cost.
        challengers: After the first.
        promoted: Of them.
        plot: The PNG image by month, beside which the same lies as JSON, with the verdicts of the gate.
    """

    months: tuple[Period, ...]
    total: Period
    saved: Gain
    saved_share: float
    challengers: int
    promoted: int
    plot: str

    def __str__(self) -> str:
        """The table by month and what follows, for people."""
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
        """The metrics for people, the most important first."""
        return [name for name in SHOWN if name in self.total.metrics["static"]]


def simulate(workspace: Workspace, *, start: datetime | None = None, end: datetime | None = None) -> SimulationResult:
    """Replay the life cycle from one time to another; what was replayed before is not replayed again.

    Args:
        workspace: The workspace.
        start: When the first model is trained; without it, after a sixth of the time for which there are labels.
        end: Until when; without it, until the newest label.

    Raises:
        BadInput: The lake has no labels from before the start, or the end is not after it.
        Refused: No model can be trained at the start.
    """
    start, end = _bounds(workspace, start, end)
    own = _workspace(workspace, start)
    rows = training_set(workspace.problem, workspace.lake, as_of=end)
    _replay(own, start, end)
    releases = own.releases.newest(1000)[::-1]
    gated = [(release.released, release.predictor) for release in releases]
    deployments = {"static": gated[:1], "periodic": _periodic(workspace, rows, start, end), "gated": gated}
    served = rows.filter(pl.col(AT) > start)
    answers = {
        policy: evaluation.answers(own.problem, served, predict_as_deployed(served, models), releases[-1].classes)
        for policy, models in deployments.items()
    }
    path = own.settings.reports / f"simulation-{start:%Y%m%d}-{end:%Y%m%d}.png"
    return _report(own, served, answers, path)


def _bounds(workspace: Workspace, start: datetime | None, end: datetime | None) -> tuple[datetime, datetime]:
    labels = workspace.problem.labels
    known = nw.from_native(workspace.lake.scan(labels)).select(first=labels.known.min(), last=labels.known.max())
    oldest, newest = known.collect().row(0)
    if newest is None:
        raise BadInput("nothing to replay: the lake has no labels; run first")
    start = start or (oldest + (newest - oldest) / 6).replace(hour=0, minute=0, second=0, microsecond=0)
    end = end or newest
    if end <= start or not oldest < start < newest:
        msg = f"nothing to replay from {start:%Y-%m-%d} to {end:%Y-%m-%d}"
        raise BadInput(f"{msg}: the lake has labels from {oldest:%Y-%m-%d} to {newest:%Y-%m-%d}")
    return start, end


def _workspace(workspace: Workspace, start: datetime) -> Workspace:
    """A workspace beside the project's own, that is fed from its lake; another code or configuration has another."""
    made = (code_hash(workspace.root), workspace.parameters.model_dump_json(), workspace.acceptance.model_dump_json())
    folder = REPLAYS / f"{start:%Y-%m-%dT%H%M}-{hashlib.sha256(repr(made).encode()).hexdigest()[:8]}"
    places = {name: (folder / name).as_posix() for name in ("lake", "inbox", "archive", "quarantine", "tracking")}
    settings = type(workspace.settings).model_validate(workspace.settings.model_dump() | places)
    tables = {name: _history(workspace, schema) for name, schema in workspace.problem.schemas.items()}

    def collect(_root: Path, since: datetime | None, until: datetime, inbox: Path) -> list[Path]:
        return [path for name, rows in tables.items() for path in _deliver(rows, since, until, inbox / name)]

    return Workspace(workspace.root, settings, replace(workspace.problem, collect=collect))


def _history(workspace: Workspace, schema: Schema) -> pl.DataFrame:
    """A table's rows in the order in which they became known."""
    table = nw.from_native(workspace.lake.scan(schema)).select(*schema.names, schema.known.alias(KNOWN))
    rows: pl.DataFrame = table.sort(KNOWN).collect().to_native()
    return rows


def _deliver(rows: pl.DataFrame, since: datetime | None, until: datetime, folder: Path) -> Iterator[Path]:
    """A table's rows that became known in (since, until], in a file a month."""
    due = rows.filter(pl.col(KNOWN) <= until)
    due = due.filter(pl.col(KNOWN) > since) if since else due
    for (month,), part in due.group_by(pl.col(KNOWN).dt.strftime("%Y-%m"), maintain_order=True):
        path = folder / f"{month}-until-{until:%Y%m%dT%H%M%S}.parquet"
        with whole(path) as draft:
            part.drop(KNOWN).write_parquet(draft)
        yield path


def _replay(own: Workspace, start: datetime, end: datetime) -> None:
    """Run every day from the last one that was run."""
    done = decisions.read(own.lake)["at"].max()
    first = max(start, done + DAILY) if isinstance(done, datetime) else start
    days = [first + n * DAILY for n in range((end - first) // DAILY + 1)]
    logging.disable(logging.INFO)  # of each day
    try:
        with own.alone(), click.progressbar(days, label="replay", file=sys.stderr) as bar:
            for day in bar:
                lifecycle.run_due(own, now=day, dirty=True, predict=False, plot=False, smoke_test=False)
    finally:
        logging.disable(logging.NOTSET)
    if own.releases.champion() is None:
        raise Refused(f"no challenger passed the gate between {start:%Y-%m-%d} and {end:%Y-%m-%d}: nothing to compare")


def _periodic(workspace: Workspace, rows: pl.DataFrame, start: datetime, end: datetime) -> list[Deployment]:
    """A model trained on everything known, at the start and after every interval, and never judged."""
    models, every = [], timedelta(days=workspace.acceptance.retrain.every_days)
    for n in range((end - start) // every + 1):
        known = rows.filter(pl.col(KNOWN) <= start + n * every)
        fitted = training.fit(workspace.problem, workspace.parameters, known, check=known.tail(1000))
        models.append((start + n * every, fitted.predictor))
    return models


def _report(own: Workspace, rows: pl.DataFrame, answers: dict[str, Answers], path: Path) -> SimulationResult:
    """Compare the policies, and write a plot and the results as JSON."""
    decision, month = own.acceptance.decision, rows[AT].dt.strftime("%Y-%m")
    periods = {name: (month == name).to_numpy() for name in month.unique().sort()} | {"all": np.full(len(rows), True)}
    *months, total = (
        Period(name, int(mine.sum()), {policy: metrics(answer[mine], decision) for policy, answer in answers.items()})
        for name, mine in periods.items()
    )
    price = {policy: costs(answer, decision) for policy, answer in answers.items()}
    days, rng = evaluation.days(own.problem, rows), np.random.default_rng(0)
    saved = gain(price["gated"], price["static"], days, confidence=own.acceptance.confidence, rng=rng)
    share = saved.mean / float(price["static"].mean())
    verdicts = decisions.read(own.lake).drop_nulls("trained").select("at", "decision", "verdict").to_dicts()
    promotions = [release.released for release in own.releases.newest(1000)][:-1]
    found = SimulationResult(
        tuple(months), total, saved, share, len(verdicts) - 1, len(promotions), plot=path.as_posix()
    )
    with whole(own.path(path)) as draft:
        draft.write_bytes(_plot(found, promotions))
    with whole(own.path(path).with_suffix(".json")) as draft:
        draft.write_text(json.dumps(asdict(found) | {"verdicts": verdicts}, default=str), encoding="utf-8")
    return found


def _plot(found: SimulationResult, promotions: list[datetime]) -> bytes:
    """A metric by month and policy, with the days on which the gate promoted a version."""
    figure, name = plots.figure(9, 4.5), found.shown[0]
    axes = figure.subplots()
    names = [month.name for month in found.months]
    for policy in found.total.metrics:
        axes.plot(names, [month.metrics[policy][name] for month in found.months], marker="o", label=policy)
    for since in promotions:
        if f"{since:%Y-%m}" in names:
            axes.axvline(names.index(f"{since:%Y-%m}") + (since.day - 15) / 30, color="grey", linewidth=0.8, ls=":")
    axes.set(title=f"{name} by month (dotted: promotions of the gated policy)", ylabel=name)
    axes.legend()
    return plots.png(figure)
