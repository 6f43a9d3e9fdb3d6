"""The past played again, day by day: the life cycle with its gate, beside a model that stays and one that is renewed.

The replay has a workspace and a clock of its own, and takes its batches from the project's lake as they became known.
"""

import hashlib
import json
import logging
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

import click
import narwhals as nw
import numpy as np
import polars as pl

from {{cookiecutter.__package_name}}.core import plots
from {{cookiecutter.__package_name}}.core.contracts.schema import AT, KNOWN
from {{cookiecutter.__package_name}}.core.datasets import training_set
from {{cookiecutter.__package_name}}.core.errors import BadInput, Refused, whole
from {{cookiecutter.__package_name}}.core.models import evaluation, training
from {{cookiecutter.__package_name}}.core.models.evaluation import Answers, Gain, costs, gain, losses, metrics
from {{cookiecutter.__package_name}}.core.store import decisions
from {{cookiecutter.__package_name}}.core.store.predictions import Deployment, predict_as_deployed
from {{cookiecutter.__package_name}}.core.store.provenance import code_hash
from {{cookiecutter.__package_name}}.core.workspace import REPLAYS, Workspace
from {{cookiecutter.__package_name}}.production import lifecycle

log = logging.getLogger(__name__)

DAILY = timedelta(days=1)
POLICIES = ("static", "periodic", "gated")
SHOWN = ("cost", "auc", "log_loss", "accuracy", "rmse", "mae")


@dataclass(frozen=True)
class Month:
    """A month of the replay: rows, and metrics by policy."""

    month: str
    rows: int
    metrics: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Simulated:
    """What a replay found.

    Attributes:
        start: When the first model was trained.
        end: Until when it was replayed.
        months: Quality by month.
        total: Quality over all, by policy.
        saved: By how much the gated policy costs less than the static one, a row, by a bootstrap over days.
        saved_share: The same, as a share of the static policy's cost.
        against_periodic: The gated policy's cost over that of the periodic one.
        better_months: Months, from the first promotion on, in which the gated policy costs less than the static one.
        judged_months: How many they are.
        tried: Challengers after the first.
        promoted: Of them.
        stale_after: Days after which the static model's loss is surely above that of a fresh one; none if never.
        plot: The PNG image by month, beside which the same lies as JSON, with the verdicts of the gate.
    """

    start: datetime
    end: datetime
    months: tuple[Month, ...]
    total: dict[str, dict[str, float]]
    saved: Gain
    saved_share: float
    against_periodic: float
    better_months: int
    judged_months: int
    tried: int
    promoted: int
    stale_after: int | None
    plot: str

    def __str__(self) -> str:
        """The table by month and what follows, for people."""
        shown = [name for name in SHOWN if name in self.total["static"]][:2]
        head = "".join(f"{f'{name} {policy}':>20}" for name in shown for policy in POLICIES)
        lines = [f"{'':>8}{'rows':>8}{head}"]
        for month, rows, table in [(m.month, m.rows, m.metrics) for m in self.months] + [
            ("all", self.rows, self.total)
        ]:
            figures = (table[policy].get(name, float("nan")) for name in shown for policy in POLICIES)
            lines.append(f"{month:>8}{rows:>8}" + "".join(f"{figure:>20.4f}" for figure in figures))
        return "\n".join([*lines, *self.findings, f"plot: {self.plot}"])

    @property
    def rows(self) -> int:
        """How many rows were predicted."""
        return sum(month.rows for month in self.months)

    @property
    def findings(self) -> list[str]:
        """What follows from the table, a sentence a line."""
        saved = f"{100 * self.saved.mean:.2f} (at least {100 * self.saved.lower:.2f})"
        stale = f"after {self.stale_after} days" if self.stale_after else "at no age that was tried"
        return [
            f"gated costs {self.saved_share:.1%} less than static; per 100 rows {saved}",
            f"gated costs {self.against_periodic - 1:+.1%} beside periodic",
            f"gated beats static in {self.better_months} of {self.judged_months} months since its first change",
            f"{self.promoted} of {self.tried} challengers were promoted",
            f"the first model is surely worse than a fresh one {stale}",
        ]


def simulate(workspace: Workspace, *, start: datetime | None = None, end: datetime | None = None) -> Simulated:
    """Replay the life cycle from one time to another; what was replayed before is not replayed again.

    Args:
        workspace: The workspace.
        start: When the first model is trained; without it, after a sixth of the time for which there are labels.
        end: Until when; without it, until the newest label.

    Raises:
        BadInput: The lake has no labels from before the start, or the end is not after it.
        Refused: No model can be trained at the start.
    """
    labels = nw.from_native(workspace.lake.scan(workspace.problem.labels)).select(workspace.problem.labels.known)
    known = labels.collect().to_native().to_series().drop_nulls()
    if known.is_empty():
        raise BadInput("nothing to replay: the lake has no labels; run first")
    oldest, newest = known.min(), known.max()
    start = start or _day(oldest + (newest - oldest) / 6)
    end = end or _day(newest)
    if end <= start or not oldest < start < newest:
        msg = f"nothing to replay from {start:%Y-%m-%d} to {end:%Y-%m-%d}"
        raise BadInput(f"{msg}: the lake has labels from {oldest:%Y-%m-%d} to {newest:%Y-%m-%d}")
    own = _workspace(workspace, start)
    with ThreadPoolExecutor(1) as pool:  # what needs no replay keeps the second core busy
        rows = training_set(workspace.problem, workspace.lake, as_of=end)
        periodic = pool.submit(_periodic, workspace, rows, start, end)
        _replay(own, start, end)
        served = rows.filter(pl.col(AT) > start)
        answers = {
            "static": _predict_as_deployed(own, served, _releases(own)[:1]),
            "periodic": _predict_as_deployed(own, served, periodic.result()),
            "gated": _predict_as_deployed(own, served, _releases(own)),
        }
    return _report(own, served, answers, start, end)


def _day(moment: datetime) -> datetime:
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


def _workspace(workspace: Workspace, start: datetime) -> Workspace:
    """A workspace beside the project's own, that is fed from its lake; another code or configuration has another."""
    made = (code_hash(workspace.root), workspace.parameters.model_dump_json(), workspace.acceptance.model_dump_json())
    folder = REPLAYS / f"{start:%Y-%m-%dT%H%M}-{hashlib.sha256(repr(made).encode()).hexdigest()[:8]}"
    names = ("lake", "inbox", "archive", "quarantine", "tracking")
    places = {name: (folder / name).as_posix() for name in names}
    settings = type(workspace.settings).model_validate(workspace.settings.model_dump() | places)

    @cache
    def rows_of(name: str) -> pl.DataFrame:
        schema = workspace.problem.schemas[name]
        table = nw.from_native(workspace.lake.scan(schema)).select(*schema.names, schema.known.alias(KNOWN))
        rows: pl.DataFrame = table.collect().to_native()
        return rows.sort(KNOWN)

    def collect(_root: Path, since: datetime | None, until: datetime, inbox: Path) -> list[Path]:
        names = workspace.problem.schemas
        return [path for name in names for path in _deliver(rows_of(name), since, until, inbox / name)]

    return Workspace(workspace.root, settings, replace(workspace.problem, collect=collect))


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
    days = [first + n * DAILY for n in range(max(0, (end - first) // DAILY + 1))]
    machinery = logging.getLogger(__name__.partition(".")[0])
    level = machinery.level
    machinery.setLevel(logging.WARNING)
    try:
        with own.alone(), click.progressbar(days, label="replay", file=sys.stderr) as bar:
            for day in bar:
                lifecycle.run(own, now=day, dirty=True, predict=False, plot=False, smoke_test=False)
    finally:
        machinery.setLevel(level)
    if own.releases.champion() is None:
        raise Refused(f"no challenger passed the gate between {start:%Y-%m-%d} and {end:%Y-%m-%d}: nothing to compare")


def _periodic(workspace: Workspace, rows: pl.DataFrame, start: datetime, end: datetime) -> list[Deployment]:
    """A model trained on everything known, at the start and after every interval, and never judged."""
    turns, every = [], timedelta(days=workspace.acceptance.retrain.every_days)
    for n in range((end - start) // every + 1):
        known = rows.filter(pl.col(KNOWN) <= start + n * every)
        fitted = training.fit(workspace.problem, workspace.parameters, known, check=known.tail(1000))
        turns.append((start + n * every, fitted.predictor))
    return turns


def _releases(own: Workspace) -> list[Deployment]:
    return [(release.released, release.predictor) for release in reversed(own.releases.newest(1000))]


def _predict_as_deployed(own: Workspace, rows: pl.DataFrame, turns: list[Deployment]) -> Answers:
    return evaluation.answers(own.problem, rows, predict_as_deployed(rows, turns), own.releases.newest(1)[0].classes)


def _report(
    own: Workspace, rows: pl.DataFrame, answers: dict[str, Answers], start: datetime, end: datetime
) -> Simulated:
    """Compare the policies, and write a plot and the results as JSON into the folder of reports."""
    decision, confidence = own.acceptance.decision, own.acceptance.confidence
    months = tuple(_months(own, rows, answers))
    total = {policy: metrics(answer, decision) for policy, answer in answers.items()}
    price = {policy: costs(answer, decision) for policy, answer in answers.items()}
    days, rng = evaluation.days(own.problem, rows), np.random.default_rng(0)
    saved = gain(price["gated"], price["static"], days, confidence=confidence, rng=rng)
    log_of_runs = decisions.read(own.lake)
    tried = log_of_runs.drop_nulls("trained")
    changes = _releases(own)[1:]
    judged = [m for m in months if changes and m.month >= f"{changes[0][0]:%Y-%m}"]
    name = next(name for name in SHOWN if name in total["static"])
    sign = -1 if name in {"auc", "accuracy"} else 1
    better = [m for m in judged if sign * (m.metrics["static"][name] - m.metrics["gated"][name]) > 0]
    path = own.settings.reports / f"simulation-{start:%Y%m%d}-{end:%Y%m%d}.png"
    found = Simulated(
        start=start,
        end=end,
        months=months,
        total=total,
        saved=saved,
        saved_share=saved.mean / float(price["static"].mean()),
        against_periodic=float(price["gated"].mean() / price["periodic"].mean()),
        better_months=len(better),
        judged_months=len(judged),
        tried=len(tried) - 1,
        promoted=len(changes),
        stale_after=_stale_after(own, rows, answers, start),
        plot=path.as_posix(),
    )
    target = own.path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(_plot(found, name, [since for since, _ in changes]))
    results = asdict(found) | {"verdicts": tried.select("at", "decision", "verdict").to_dicts()}
    target.with_suffix(".json").write_text(json.dumps(results, default=str), encoding="utf-8", newline="\n")
    return found


def _months(own: Workspace, rows: pl.DataFrame, answers: dict[str, Answers]) -> Iterator[Month]:
    names = rows[AT].dt.strftime("%Y-%m")
    for month in names.unique().sort():
        mine = (names == month).to_numpy()
        figures = {policy: metrics(answer[mine], own.acceptance.decision) for policy, answer in answers.items()}
        yield Month(month, int(mine.sum()), figures)


def _stale_after(own: Workspace, rows: pl.DataFrame, answers: dict[str, Answers], start: datetime) -> int | None:
    """The first age, in intervals of retraining, from which the static model loses surely to one of that interval."""
    every = own.acceptance.retrain.every_days
    age = ((rows[AT] - start) / timedelta(days=every)).floor().to_numpy()
    for n in sorted(set(age[age >= 1])):
        mine = age == n
        fresh, old = (losses(answers[policy][mine]) for policy in ("periodic", "static"))
        days = evaluation.days(own.problem, rows.filter(mine))
        loses = gain(fresh, old, days, confidence=own.acceptance.confidence, rng=np.random.default_rng(int(n)))
        if loses.lower > 0:
            return int(n * every)
    return None


def _plot(found: Simulated, name: str, changes: list[datetime]) -> bytes:
    """A metric by month and policy, with the days on which the gate promoted a version."""
    figure = plots.figure(9, 4.5)
    axes = figure.subplots()
    names = [month.month for month in found.months]
    for policy in POLICIES:
        axes.plot(names, [month.metrics[policy][name] for month in found.months], marker="o", label=policy)
    for since in changes:
        if f"{since:%Y-%m}" in names:
            axes.axvline(names.index(f"{since:%Y-%m}") + (since.day - 15) / 30, color="grey", linewidth=0.8, ls=":")
    axes.set(title=f"{name} by month (dotted: promotions of the gated policy)", ylabel=name)
    axes.legend()
    return plots.png(figure)
