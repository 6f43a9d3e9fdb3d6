"""The life cycle as one idempotent command: collect, ingest, monitor, decide, train, gate, promote, predict."""

import logging
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import polars as pl

from {{cookiecutter.__package_name}}.core import datasets, plots
from {{cookiecutter.__package_name}}.core.contracts.schema import DTYPES
from {{cookiecutter.__package_name}}.core.errors import Rejected, flush
from {{cookiecutter.__package_name}}.core.models.importance import permutation_importance
from {{cookiecutter.__package_name}}.core.store import decisions
from {{cookiecutter.__package_name}}.core.store.candidates import Candidate
from {{cookiecutter.__package_name}}.core.store.registry import Version
from {{cookiecutter.__package_name}}.core.store.request_log import REQUESTS
from {{cookiecutter.__package_name}}.core.workspace import Workspace
from {{cookiecutter.__package_name}}.production.ingest import IngestReport, ingest_inbox, waiting_files
from {{cookiecutter.__package_name}}.production.model_card import write_report
from {{cookiecutter.__package_name}}.production.monitor import Health, monitor
from {{cookiecutter.__package_name}}.production.notifications import notify
from {{cookiecutter.__package_name}}.production.predict import predict_upcoming
from {{cookiecutter.__package_name}}.production.promote import (
    PromotionResult,
    promote_candidate,
    repair_registry,
)
from {{cookiecutter.__package_name}}.production.retraining_policy import (
    RetrainingDecision,
    decide,
    untried_changes,
)
from {{cookiecutter.__package_name}}.production.train import TrainingResult, register, train

log = logging.getLogger(__name__)

COLLECTIONS = "collections"


@dataclass(frozen=True)
class RunReport:
    """The report of a run.

    Attributes:
        as_of: Time as of which labels were available; None without labels.
        ingested: The ingested batches.
        decision: Whether a challenger was due, with the reason.
        trained: The challenger, if one was trained.
        promoted: The result of the promotion, if any.
        plot_file: The plots of the challenger.
        predicted: The number of predicted upcoming rows.
        champion: The version of the champion.
        next_due: When the next challenger is due.
        health: The result of the monitor.
        past: Whether the data are of the past, so that time passes by `--now` alone.
        changes: What changed since the champion was trained and is in no challenger yet, and what to do.
    """

    as_of: datetime | None
    ingested: IngestReport
    decision: RetrainingDecision
    trained: TrainingResult | None = None
    promoted: PromotionResult | None = None
    plot_file: str | None = None
    predicted: int = 0
    champion: int | None = None
    next_due: datetime | None = None
    health: Health | None = None
    past: bool = False
    changes: str = ""

    @property
    def ok(self) -> bool:
        """Whether nobody has to act: a champion, no rejected batch, no blocked retraining, no critical alert."""
        if self.as_of and self.champion is None:
            return False
        critical = self.health is not None and self.champion is not None and not self.health.ok
        return self.ingested.ok and not self.decision.needs_attention and not critical

    def __str__(self) -> str:
        """The report as text."""
        rows = sum(batch.accepted for batch in self.ingested.batches)
        lines = [f"ingested {len(self.ingested.batches)} batches, {rows} rows"]
        lines += [f"  {batch}" for batch in self.ingested.batches if not batch.ok or batch.warnings]
        lines += [f"  {line}" for line in self.ingested.lost]
        lines += [f"challenger: {self.decision.reason}"]
        lines += [str(self.trained)] if self.trained else []
        lines += [str(self.promoted)] if self.promoted else []
        lines += [f"plot: {self.plot_file}"] if self.plot_file else []
        lines += [f"predicted {self.predicted} upcoming rows, in the table predictions"]
        lines += [f"champion: {'none' if self.champion is None else f'version {self.champion}'}"]
        lines += [str(alert) for alert in self.health.critical] if self.health and self.champion else []
        due = f"from {self.next_due:%Y-%m-%d}" if self.next_due else "with the next labels"
        if self.as_of and not self.champion:
            due += ", or when changed features, parameters or model are committed"
        if self.past and self.next_due:  # the first midnight at which it is due
            due += f": let time pass with run --now {self.next_due + timedelta(days=1, microseconds=-1):%Y-%m-%d}"
        lines += [f"next challenger: {due}"]
        lines += [self.changes] if self.changes and not self.decision.needs_attention else []
        return "\n".join(lines)


def run(workspace: Workspace, *, now: datetime | None = None, dirty: bool = False) -> RunReport:
    """Run whatever is due, and notify if a person must act."""
    try:
        report = run_due(workspace, now=now, dirty=dirty)
    except Exception as error:
        notify(workspace, "run failed", str(error))
        raise
    if not report.ok:
        notify(workspace, "a person must act", str(report))
    return report


def run_due(
    workspace: Workspace,
    *,
    now: datetime | None = None,
    dirty: bool = False,
    predict: bool = True,
    plot: bool = True,
    release_checks: bool = True,
) -> RunReport:
    """Run whatever is due.

    Args:
        workspace: The workspace.
        now: The current time. Default: by the setting `clock`.
        dirty: Whether to allow a release from files that differ from the last commit.
        predict: Whether to predict upcoming rows.
        plot: Whether to plot challengers.
        release_checks: Whether to run the release checks, such as the smoke test.
    """
    ingested = collect_and_ingest(workspace, now)
    moment = workspace.now(now)
    if datasets.newest_label(workspace.problem, workspace.lake) is None:
        return RunReport(None, ingested, RetrainingDecision(due=False, reason="not due, no labels are available"))
    if mismatch := workspace.mismatch():
        log.warning("run       %s", mismatch)
    repair_registry(workspace)
    log.info("monitor   the champion and the data")
    health = monitor(workspace, now=moment, full=False)
    decision = decide(workspace, health, dirty=dirty)
    trained, promoted, plot_file = None, None, None
    try:
        trained, promoted, plot_file = _retrain(
            workspace, moment, decision, dirty=dirty, plot=plot, release_checks=release_checks
        )
    except Rejected as rejected:  # such as missing labels: the champion keeps serving
        if workspace.releases.champion() is None:
            raise
        decision = replace(decision, reason=f"{decision.reason}, but {rejected}", needs_attention=True)
    if promoted and promoted.ok:
        health = monitor(workspace, now=moment, full=False)
    champion = workspace.releases.champion()
    log.info("predict   upcoming rows")
    predicted = predict_upcoming(workspace, now=moment) if champion and predict else 0
    last, every = moment if trained else decision.last_trained, timedelta(days=workspace.acceptance.retrain.every_days)
    version, due = champion.version if champion else None, last + every if champion and last else None
    past = workspace.settings.start is not None
    report = RunReport(
        *(moment, ingested, decision, trained, promoted, plot_file, predicted, version, due, health, past),
        changes=untried_changes(workspace),
    )
    _record(workspace, report)
    workspace.lake.maintain(others=[REQUESTS])
    return report


def collect_and_ingest(workspace: Workspace, now: datetime | None) -> IngestReport:
    """Collect new batches, and ingest the inbox.

    Args:
        workspace: The workspace.
        now: Until when to collect. Default: the wall clock; with the setting `start`, as far as the last run.
    """
    inbox, lake, start = workspace.path(workspace.settings.inbox), workspace.lake, workspace.settings.start
    columns = {"until": DTYPES[datetime]}
    since = lake.read(COLLECTIONS, columns).select(pl.col("until").max()).collect().item()
    until = now or (since or start if start is not None else datetime.now(UTC))
    log.info("collect   since %s", f"{since:%Y-%m-%d %H:%M}" if since else "the beginning")
    if since is None or since < until:
        workspace.problem.collect(workspace.root, since, until, inbox)
        for path in waiting_files(inbox):  # later runs don't collect them again
            with suppress(PermissionError):  # somebody else's
                flush(path)
                flush(path.parent)
        lake.append(COLLECTIONS, pl.DataFrame({"until": [until]}, schema=columns), batch=until.isoformat())
    log.info("ingest    the inbox")
    return ingest_inbox(workspace, now=until)


def _retrain(
    workspace: Workspace,
    moment: datetime,
    decision: RetrainingDecision,
    *,
    dirty: bool,
    plot: bool,
    release_checks: bool,
) -> tuple[TrainingResult | None, PromotionResult | None, str | None]:
    """Train a challenger if one is due, or resume that of a killed run; promote it if it passes the gate."""
    if not (decision.due or decision.unfinished_run):
        return None, None, None
    workspace.registry.close_left_runs()
    trained = train(workspace, as_of=moment) if decision.due else None
    candidate = trained.candidate if trained else workspace.candidates.read(str(decision.unfinished_run))
    version = register(workspace, candidate.run_id)
    plot_file = _draw(workspace, candidate, version) if plot else None
    rows = trained.training_set if trained else None
    log.info("gate      version %d", version.number)
    promoted = promote_candidate(
        workspace, candidate, version, now=moment, training_set=rows, dirty=dirty, release_checks=release_checks
    )
    return trained, promoted, plot_file


def _draw(workspace: Workspace, candidate: Candidate, version: Version) -> str:
    """Plot the overview of a challenger; return the path relative to the project's folder."""
    problem, rows = workspace.problem, candidate.holdout
    importance = permutation_importance(problem, candidate.predictor(problem), rows, candidate.classes)
    predictions = {name: candidate.holdout_predictions(problem, name) for name in ("model", "linear")}
    figure = plots.overview(importance, predictions, workspace.acceptance.decision)
    figure.suptitle(f"version {version.number} on {len(rows)} rows of the newest window")
    return write_report(workspace, version.run_id, f"version-{version.number}.png", plots.png(figure))


def _record(workspace: Workspace, report: RunReport) -> None:
    """Append the decision and its reasons to the table `decisions`."""
    verdict = report.promoted.verdict if report.promoted else None
    row = {
        "at": report.as_of,
        "batches": len(report.ingested.batches),
        "rows": sum(batch.accepted for batch in report.ingested.batches),
        "decision": report.decision.reason,
        "trained": report.trained.version if report.trained else None,
        "verdict": str(verdict) if verdict else None,
        "champion": report.champion,
        "predicted": report.predicted,
        "alerts": "; ".join(str(alert) for alert in report.health.critical) if report.health else "",
    }
    decisions.append(workspace.lake, row)
