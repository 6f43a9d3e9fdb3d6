"""The monitor: data quality, age of the champion, live quality and drift.

Drift alone is a warning, since it often does no harm.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from {{cookiecutter.__package_name}}.core import datasets
from {{cookiecutter.__package_name}}.core.contracts.schema import AVAILABLE_AT, DTYPES, TARGET
from {{cookiecutter.__package_name}}.core.contracts.validation import VIOLATIONS, with_violations
from {{cookiecutter.__package_name}}.core.errors import NothingYet, Rejected
from {{cookiecutter.__package_name}}.core.models import evaluation
from {{cookiecutter.__package_name}}.core.models.drift import psi
from {{cookiecutter.__package_name}}.core.models.evaluation import by_slice, metrics
from {{cookiecutter.__package_name}}.core.parts import Alert, Severity
from {{cookiecutter.__package_name}}.core.store import predictions
from {{cookiecutter.__package_name}}.core.store.releases import Release
from {{cookiecutter.__package_name}}.core.workspace import Workspace
from {{cookiecutter.__package_name}}.production.gate import breached_limits
from {{cookiecutter.__package_name}}.production.ingest import lost_batches

MONITORING_PERIOD = timedelta(days=28)


@dataclass(frozen=True)
class QualityWindow:
    """Live quality in a window, beside the champion's metrics on its holdout.

    Attributes:
        until: End of the window.
        version: The version of the champion.
        rows: The number of labelled rows.
        online: The metrics on these rows.
        offline: The champion's metrics on its holdout, before the refit.
        breached: The breached limits of `config/acceptance.toml`.
    """

    until: datetime
    version: int
    rows: int
    online: dict[str, float]
    offline: dict[str, float]
    breached: tuple[str, ...]


@dataclass(frozen=True)
class Health:
    """The result of the monitor."""

    at: datetime
    alerts: tuple[Alert, ...]
    periods: tuple[QualityWindow, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no critical alert."""
        return not self.critical

    @property
    def critical(self) -> list[Alert]:
        """The critical alerts."""
        return [alert for alert in self.alerts if alert.severity is Severity.CRITICAL]

    def __str__(self) -> str:
        """The alerts as text, critical ones first, then live quality by window."""
        order = (Severity.CRITICAL, Severity.WARNING, Severity.OK)
        lines = [str(alert) for alert in sorted(self.alerts, key=lambda alert: order.index(alert.severity))]
        for period in self.periods:
            figures = ", ".join(
                f"{name} {value:.4g} (training {period.offline.get(name, float('nan')):.4g})"
                for name, value in period.online.items()
            )
            lines.append(f"until {period.until:%Y-%m-%d}, version {period.version}, {period.rows} rows: {figures}")
        return "\n".join(lines)


def monitor(workspace: Workspace, *, now: datetime | None = None, full: bool = True) -> Health:
    """Check data, champion and live quality.

    Args:
        workspace: The workspace.
        now: The current time. Default: by the setting `clock`.
        full: Whether to check stored rows, slices, drift and served predictions too.
    """
    moment, champion = workspace.now(now), workspace.releases.champion()
    alerts = [*_rejected_batches(workspace, moment), *_table_ages(workspace, moment)]
    if full:
        alerts += [Alert("archive", Severity.CRITICAL, line) for line in lost_batches(workspace, now=moment)]
        alerts += _stored_rows(workspace, moment)
    if champion is None:
        if full and datasets.newest_label(workspace.problem, workspace.lake) is None:
            raise NothingYet("champion")
        alerts.append(
            Alert(
                "champion",
                Severity.CRITICAL,
                "there is no champion: call run, and read why the challenger was rejected",
            )
        )
        return Health(moment, tuple(alerts), ())
    windows = workspace.acceptance.retrain.windows
    periods = live_quality(workspace, champion, now=moment, windows=windows if full else 1)
    if not full and any(period.breached for period in periods):  # only then are older windows needed
        periods = live_quality(workspace, champion, now=moment, windows=windows)
    alerts += [_model_age(workspace, champion, moment), _quality(workspace, periods)]
    if full:
        alerts.append(_golden(champion))
        rows = datasets.labelled_since(workspace.problem, workspace.lake, champion, now=moment, back=MONITORING_PERIOD)
        alerts += _classes(champion, rows)
        alerts += [*_slices(workspace, champion, rows), *_drift(workspace, champion, moment)]
        made = predictions.upcoming_predictions(workspace.problem, workspace.lake, champion)
        alerts += compare_with_labels(workspace, champion, made, "upcoming predictions", Severity.WARNING, now=moment)
        checks = [check for part in workspace.parts for check in part.monitor_checks]
        alerts += [alert for check in checks for alert in check(workspace, champion, moment)]
    return Health(moment, tuple(alerts), periods)


def live_quality(workspace: Workspace, release: Release, *, now: datetime, windows: int) -> tuple[QualityWindow, ...]:
    """The quality of a release in the newest windows of labels after its training, oldest first.

    Each row is predicted as of its time of prediction; windows with too few labels are omitted.
    """
    acceptance, length = workspace.acceptance, timedelta(days=workspace.acceptance.retrain.window_days)
    rows = datasets.labelled_since(workspace.problem, workspace.lake, release, now=now, back=windows * length)
    if rows.is_empty():
        return ()
    labelled = evaluation.labelled_predictions(
        workspace.problem, rows, release.predictor.predict(rows), release.classes
    )
    periods = []
    for n in reversed(range(windows)):
        until = now - n * length
        part = ((rows[AVAILABLE_AT] > until - length) & (rows[AVAILABLE_AT] <= until)).to_numpy()
        if part.sum() >= acceptance.window.min_rows:
            online = metrics(labelled[part], acceptance.decision)
            breached = breached_limits(online, acceptance)
            periods.append(QualityWindow(until, release.version, int(part.sum()), online, release.metrics, breached))
    return tuple(periods)


def limits_breached(workspace: Workspace, periods: tuple[QualityWindow, ...], *, now: datetime) -> bool:
    """Whether the limits are breached in the latest window and in enough windows overall."""
    retrain = workspace.acceptance.retrain
    latest = next((period for period in periods if period.until == now), None)
    return (
        latest is not None
        and bool(latest.breached)
        and sum(bool(p.breached) for p in periods) >= retrain.min_breached_windows
    )


def _rejected_batches(workspace: Workspace, moment: datetime) -> Iterator[Alert]:
    """Recently rejected batches that are still in quarantine."""
    folder = workspace.path(workspace.settings.quarantine)
    for path in sorted(folder.glob("*/*/reasons.json")):
        try:
            batch = json.loads(path.read_text(encoding="utf-8"))
            new = datetime.fromisoformat(batch["ingested_at"]) > moment - MONITORING_PERIOD
            detail = f"{'; '.join(batch['rejected'])}: correct the file, then delete {batch['quarantine']}"
            found = Alert(f"batch {batch['table']}/{batch['name']}", Severity.CRITICAL, detail)
        except (ValueError, KeyError, TypeError):
            batch, new = {"rejected": True}, True
            detail = f"reasons.json is not readable: delete {path.parent}"
            found = Alert(f"batch {path.parent.name}", Severity.CRITICAL, detail)
        if batch["rejected"] and new:
            yield found


def _table_ages(workspace: Workspace, moment: datetime) -> Iterator[Alert]:
    """The age of the newest row of each table."""
    limit = workspace.acceptance.monitor.max_table_age_days
    for name, schema in workspace.problem.schemas.items():
        if limit is None or schema.time is None:
            continue
        newest = workspace.lake.scan(schema).select(pl.col(schema.time).max()).collect().item()
        days = (moment - newest) / timedelta(days=1) if newest else float("inf")
        state = Severity.CRITICAL if days > limit else Severity.OK
        yield Alert(f"table {name}", state, f"its newest row is {max(days, 0):.1f} days old (at most {limit:g})")


def _stored_rows(workspace: Workspace, moment: datetime) -> Iterator[Alert]:
    """Validate the newest rows of the lake against the current contract."""
    for name, schema in workspace.problem.schemas.items():
        table = workspace.lake.scan(schema)
        recent = table.filter(pl.col(schema.time) > moment - MONITORING_PERIOD) if schema.time else table
        rows = with_violations(recent.select(schema.names).collect(), schema)
        breached = rows.filter(pl.col(VIOLATIONS).list.len() > 0)[VIOLATIONS].explode().unique().sort().to_list()
        detail = f"{len(rows)} newest rows are valid" if not breached else f"newest rows violate {', '.join(breached)}"
        yield Alert(f"contract of {name}", Severity.CRITICAL if breached else Severity.OK, detail)


def _model_age(workspace: Workspace, champion: Release, moment: datetime) -> Alert:
    days, limit = (moment - champion.trained_until) / timedelta(days=1), workspace.acceptance.monitor.max_model_age_days
    stale = limit is not None and days > limit
    detail = f"version {champion.version} was trained on labels until {max(days, 0):.0f} days ago"
    return Alert(
        "age", Severity.CRITICAL if stale else Severity.OK, f"{detail} (at most {limit:g})" if limit else detail
    )


def _golden(champion: Release) -> Alert:
    try:
        champion.check()
    except Rejected as rejected:
        return Alert(
            "golden requests", Severity.CRITICAL, f"{rejected}: call rollback, or train and promote another version"
        )
    return Alert("golden requests", Severity.OK, f"version {champion.version} reproduces its golden predictions")


def _quality(workspace: Workspace, periods: tuple[QualityWindow, ...]) -> Alert:
    if not periods:
        return Alert("live quality", Severity.OK, "too few labels since the champion's training")
    latest = periods[-1]
    if limits_breached(workspace, periods, now=latest.until):
        return Alert(
            "live quality", Severity.CRITICAL, f"{'; '.join(latest.breached)}: the next run trains a challenger"
        )
    if latest.breached:
        return Alert("live quality", Severity.WARNING, f"{'; '.join(latest.breached)}, in the latest window only")
    return Alert("live quality", Severity.OK, f"within its limits on the {latest.rows} newest labels")


def _classes(champion: Release, rows: pl.DataFrame) -> Iterator[Alert]:
    """Classes of recent labels that are unknown to the champion."""
    new = rows.filter(~pl.col(TARGET).is_in(champion.classes)) if champion.classes and len(rows) else rows.clear()
    if len(new):
        what = f"{len(new)} of {len(rows)} labels have classes that are unknown to version {champion.version}"
        yield Alert("classes", Severity.WARNING, f"{what}: {', '.join(new[TARGET].unique().sort())}")


def _slices(workspace: Workspace, champion: Release, rows: pl.DataFrame) -> Iterator[Alert]:
    acceptance = workspace.acceptance
    columns = [name for name in acceptance.slices.columns if name in rows.columns]
    if not columns:
        return
    labelled = evaluation.labelled_predictions(
        workspace.problem, rows, champion.predictor.predict(rows), champion.classes
    )
    for part in by_slice(labelled, rows, columns, acceptance.decision, at_least=acceptance.slices.min_rows):
        name = f"{part.column} {part.value}"
        bad = breached_limits(part.metrics, acceptance.slices)
        yield Alert(name, Severity.WARNING if bad else Severity.OK, "; ".join(bad) or f"{part.rows} labels")


def _drift(workspace: Workspace, champion: Release, moment: datetime) -> Iterator[Alert]:
    """Drift of features since the champion's training."""
    problem, limit = workspace.problem, workspace.acceptance.monitor.max_psi
    if not problem.schema.event_time:
        return
    try:
        rows = datasets.training_set(
            problem, workspace.lake, as_of=moment, since=champion.trained_until - MONITORING_PERIOD
        )
    except Rejected:  # no label
        rows = pl.DataFrame(schema={AVAILABLE_AT: DTYPES[datetime]})
    new = rows[AVAILABLE_AT] > champion.trained_until
    before, after = rows.filter(~new), rows.filter(new)
    if min(len(before), len(after)) < workspace.acceptance.window.min_rows:
        yield Alert("drift", Severity.OK, "too few labels since the champion's training")
        return
    found = {name: psi(before[name], after[name]) for name in champion.features}
    moved = [f"{name} {value:.3f}" for name, value in sorted(found.items(), key=lambda f: -f[1]) if value > limit]
    detail = f"{', '.join(moved)} (PSI; at most {limit:g})" if moved else "no drift"
    yield Alert("drift", Severity.WARNING if moved else Severity.OK, detail)


def compare_with_labels(
    workspace: Workspace, release: Release, made: pl.LazyFrame, name: str, urgent: Severity, *, now: datetime
) -> Iterator[Alert]:
    """The quality of predictions on recent labels; nothing if there are too few."""
    problem, acceptance = workspace.problem, workspace.acceptance
    if not problem.schema.key:
        return
    rows = predictions.join_labels(problem, workspace.lake, made, now=now, back=MONITORING_PERIOD)
    if len(rows) < acceptance.window.min_rows:
        return
    labelled = evaluation.labelled_predictions(problem, rows, predictions.model_output(release, rows), release.classes)
    figures = metrics(labelled, acceptance.decision)
    breached = breached_limits(figures, acceptance)
    detail = "; ".join(breached) or ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
    yield Alert(name, urgent if breached else Severity.OK, f"{detail} ({len(rows)} labels)")
