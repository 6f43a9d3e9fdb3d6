"""Whether all is well: the data, the champion's age, and its quality on labels that came later.

What is known to break predictions is an alarm; drift alone is a warning, since it fires on days without harm.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from {{cookiecutter.__package_name}}.core import datasets
from {{cookiecutter.__package_name}}.core.contracts.schema import DTYPES, KNOWN, TARGET
from {{cookiecutter.__package_name}}.core.contracts.validation import RULES, with_violations
from {{cookiecutter.__package_name}}.core.errors import Refused
from {{cookiecutter.__package_name}}.core.models import evaluation
from {{cookiecutter.__package_name}}.core.models.drift import stability
from {{cookiecutter.__package_name}}.core.models.evaluation import by_slice, metrics
from {{cookiecutter.__package_name}}.core.parts import Finding, State
from {{cookiecutter.__package_name}}.core.store import predictions
from {{cookiecutter.__package_name}}.core.store.releases import Release
from {{cookiecutter.__package_name}}.core.workspace import Workspace
from {{cookiecutter.__package_name}}.production.gate import missed

RECENT = timedelta(days=28)


@dataclass(frozen=True)
class Period:
    """A window of live quality beside what was measured before the release.

    Attributes:
        until: Labels known by then, and since the window before, count.
        version: The champion that had predicted.
        rows: How many.
        online: Metrics on them.
        offline: The same metrics in training, on the newest window of then.
        broken: The limits of `config/acceptance.toml` that they miss.
    """

    until: datetime
    version: int
    rows: int
    online: dict[str, float]
    offline: dict[str, float]
    broken: tuple[str, ...]


@dataclass(frozen=True)
class Health:
    """What the monitor found."""

    at: datetime
    findings: tuple[Finding, ...]
    periods: tuple[Period, ...]

    @property
    def ok(self) -> bool:
        """Whether nobody has to act."""
        return not self.urgent

    @property
    def urgent(self) -> list[Finding]:
        """The alarms."""
        return [finding for finding in self.findings if finding.state is State.ALARM]

    def __str__(self) -> str:
        """The findings for people, the urgent first, then live quality by period."""
        order = (State.ALARM, State.WARNING, State.FINE)
        lines = [str(finding) for finding in sorted(self.findings, key=lambda finding: order.index(finding.state))]
        for period in self.periods:
            figures = ", ".join(
                f"{name} {value:.4g} (training {period.offline.get(name, float('nan')):.4g})"
                for name, value in period.online.items()
            )
            lines.append(f"until {period.until:%Y-%m-%d}, version {period.version}, {period.rows} rows: {figures}")
        return "\n".join(lines)


def monitor(workspace: Workspace, *, now: datetime | None = None, full: bool = True) -> Health:
    """Look at data, champion and live quality.

    Args:
        workspace: The workspace.
        now: The time it is; without it, the setting `clock` says.
        full: Whether to hold the lake's newest rows against the contract again, and to look for drift.
    """
    moment, champion = workspace.now(now), workspace.releases.champion()
    findings = [*_refused(workspace, moment), *_silent(workspace, moment)]
    if full:
        findings += _invariants(workspace, moment)
    if champion is None:
        findings.append(Finding("champion", State.ALARM, "none serves: run, and read why a challenger was refused"))
        return Health(moment, tuple(findings), ())
    windows = workspace.acceptance.retrain.windows
    periods = live_quality(workspace, champion, now=moment, windows=windows if full else 1)
    if not full and any(period.broken for period in periods):  # only then do the windows before matter
        periods = live_quality(workspace, champion, now=moment, windows=windows)
    findings += [_age(workspace, champion, moment), _quality(workspace, periods)]
    if full:
        findings.append(_golden(champion))
        rows = datasets.labelled_since(workspace.problem, workspace.lake, champion, now=moment, back=RECENT)
        findings += _classes(champion, rows)
        findings += [*_slices(workspace, champion, rows), *_drift(workspace, champion, moment)]
        made = predictions.upcoming_predictions(workspace.problem, workspace.lake, champion)
        findings += compare_with_labels(workspace, champion, made, "predicted ahead", State.WARNING, now=moment)
        checks = [check for part in workspace.parts for check in part.monitor_checks]
        findings += [finding for check in checks for finding in check(workspace, champion, moment)]
    return Health(moment, tuple(findings), periods)


def live_quality(workspace: Workspace, release: Release, *, now: datetime, windows: int) -> tuple[Period, ...]:
    """Quality of a release in so many newest windows of labels that it was not trained on, the oldest first.

    It answers each row as of the row's time of prediction; windows with few labels are left out.
    """
    ask, length = workspace.acceptance, timedelta(days=workspace.acceptance.retrain.window_days)
    rows = datasets.labelled_since(workspace.problem, workspace.lake, release, now=now, back=windows * length)
    if rows.is_empty():
        return ()
    answers = evaluation.answers(workspace.problem, rows, release.predictor.predict(rows), release.classes)
    periods = []
    for n in reversed(range(windows)):
        until = now - n * length
        part = ((rows[KNOWN] > until - length) & (rows[KNOWN] <= until)).to_numpy()
        if part.sum() >= ask.window.rows:
            online = metrics(answers[part], ask.decision)
            broken = missed(online, ask)
            periods.append(Period(until, release.version, int(part.sum()), online, release.metrics, broken))
    return tuple(periods)


def has_broken(workspace: Workspace, periods: tuple[Period, ...], *, now: datetime) -> bool:
    """Whether the limits broke in the latest window, and in so many of the windows before that it is no chance."""
    retrain = workspace.acceptance.retrain
    latest = next((period for period in periods if period.until == now), None)
    return latest is not None and bool(latest.broken) and sum(bool(p.broken) for p in periods) >= retrain.broken


def _refused(workspace: Workspace, moment: datetime) -> Iterator[Finding]:
    """Batches that were breached as a whole lately, and still lie in quarantine."""
    folder = workspace.path(workspace.settings.quarantine)
    for path in sorted(folder.glob("*/*/reasons.json")):
        try:
            batch = json.loads(path.read_text(encoding="utf-8"))
            new = datetime.fromisoformat(batch["arrived"]) > moment - RECENT
            detail = f"{'; '.join(batch['rejected'])}: mend it, then delete {batch['quarantine']}"
            found = Finding(f"batch {batch['table']}/{batch['name']}", State.ALARM, detail)
        except (ValueError, KeyError, TypeError):
            batch, new = {"rejected": True}, True
            detail = f"its reasons can't be read: delete {path.parent}"
            found = Finding(f"batch {path.parent.name}", State.ALARM, detail)
        if batch["rejected"] and new:
            yield found


def _silent(workspace: Workspace, moment: datetime) -> Iterator[Finding]:
    """Tables in which nothing new has become known for long."""
    limit = workspace.acceptance.monitor.silent_days
    for name, schema in workspace.problem.schemas.items():
        if limit is None or schema.time is None:
            continue
        newest = workspace.lake.scan(schema).select(pl.col(schema.time).max()).collect().item()
        days = (moment - newest) / timedelta(days=1) if newest else float("inf")
        state = State.ALARM if days > limit else State.FINE
        yield Finding(f"table {name}", state, f"its newest row is {max(days, 0):.1f} days old (at most {limit:g})")


def _invariants(workspace: Workspace, moment: datetime) -> Iterator[Finding]:
    """The contract on the newest rows of the lake: it may have changed since they came."""
    for name, schema in workspace.problem.schemas.items():
        table = workspace.lake.scan(schema)
        recent = table.filter(pl.col(schema.time) > moment - RECENT) if schema.time else table
        rows = with_violations(recent.select(schema.names).collect(), schema)
        broken = rows.filter(pl.col(RULES).list.len() > 0)[RULES].explode().unique().sort().to_list()
        detail = f"{len(rows)} newest rows keep it" if not broken else f"newest rows break {', '.join(broken)}"
        yield Finding(f"contract of {name}", State.ALARM if broken else State.FINE, detail)


def _age(workspace: Workspace, champion: Release, moment: datetime) -> Finding:
    days, limit = (moment - champion.trained_until) / timedelta(days=1), workspace.acceptance.monitor.stale_days
    stale = limit is not None and days > limit
    detail = f"version {champion.version} knows labels until {days:.0f} days ago"
    return Finding("age", State.ALARM if stale else State.FINE, f"{detail} (at most {limit:g})" if limit else detail)


def _golden(champion: Release) -> Finding:
    try:
        champion.check()
    except Refused as refused:
        return Finding("golden requests", State.ALARM, f"{refused}: run rollback, or train and promote another")
    return Finding("golden requests", State.FINE, f"version {champion.version} answers as it was trained to")


def _quality(workspace: Workspace, periods: tuple[Period, ...]) -> Finding:
    if not periods:
        return Finding("live quality", State.FINE, "too few labels since the champion's training")
    latest = periods[-1]
    if has_broken(workspace, periods, now=latest.until):
        return Finding("live quality", State.ALARM, f"{'; '.join(latest.broken)}: run trains a challenger")
    if latest.broken:
        return Finding("live quality", State.WARNING, f"{'; '.join(latest.broken)}, in the latest window alone")
    return Finding("live quality", State.FINE, f"keeps its limits on the {latest.rows} newest labels")


def _classes(champion: Release, rows: pl.DataFrame) -> Iterator[Finding]:
    """Classes of the newest labels that the champion never learnt: of these it is always wrong."""
    new = rows.filter(~pl.col(TARGET).is_in(champion.classes)) if champion.classes and len(rows) else rows.clear()
    if len(new):
        what = f"{len(new)} of {len(rows)} labels are of classes that version {champion.version} does not know"
        yield Finding("classes", State.WARNING, f"{what}: {', '.join(new[TARGET].unique().sort())}")


def _slices(workspace: Workspace, champion: Release, rows: pl.DataFrame) -> Iterator[Finding]:
    ask = workspace.acceptance
    columns = [name for name in ask.slices.columns if name in rows.columns]
    if not columns:
        return
    answers = evaluation.answers(workspace.problem, rows, champion.predictor.predict(rows), champion.classes)
    for part in by_slice(answers, rows, columns, ask.decision, at_least=ask.slices.rows):
        name = f"{part.column} {part.value}"
        bad = missed(part.metrics, ask.slices)
        yield Finding(name, State.WARNING if bad else State.FINE, "; ".join(bad) or f"{part.rows} labels")


def _drift(workspace: Workspace, champion: Release, moment: datetime) -> Iterator[Finding]:
    """Features whose distribution since the champion's training is another than just before it."""
    problem, limit = workspace.problem, workspace.acceptance.monitor.drift
    if not problem.schema.event_time:
        return
    try:
        rows = datasets.training_set(problem, workspace.lake, as_of=moment, since=champion.trained_until - RECENT)
    except Refused:  # no label
        rows = pl.DataFrame(schema={KNOWN: DTYPES[datetime]})
    new = rows[KNOWN] > champion.trained_until
    before, after = rows.filter(~new), rows.filter(new)
    if min(len(before), len(after)) < workspace.acceptance.window.rows:
        yield Finding("drift", State.FINE, "too few labels since the champion's training")
        return
    found = {name: stability(before[name], after[name]) for name in champion.features}
    moved = [f"{name} {value:.3f}" for name, value in sorted(found.items(), key=lambda f: -f[1]) if value > limit]
    detail = f"{', '.join(moved)} (stability index; at most {limit:g})" if moved else "no feature has moved"
    yield Finding("drift", State.WARNING if moved else State.FINE, detail)


def compare_with_labels(
    workspace: Workspace, release: Release, made: pl.LazyFrame, name: str, urgent: State, *, now: datetime
) -> Iterator[Finding]:
    """Quality of predictions by the labels that became known lately; nothing where they are few."""
    problem, ask = workspace.problem, workspace.acceptance
    if not problem.schema.key:
        return
    rows = predictions.join_labels(problem, workspace.lake, made, now=now, back=RECENT)
    if len(rows) < ask.window.rows:
        return
    answers = evaluation.answers(problem, rows, predictions.model_output(release, rows), release.classes)
    figures = metrics(answers, ask.decision)
    broken = missed(figures, ask)
    detail = "; ".join(broken) or ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
    yield Finding(name, urgent if broken else State.FINE, f"{detail} ({len(rows)} labels)")
