"""Whatever is due now, in one idempotent command: collect, ingest, monitor, decide, train, gate, promote, predict."""

import logging
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import polars as pl

from {{cookiecutter.__package_name}}.core import datasets, plots
from {{cookiecutter.__package_name}}.core.contracts.schema import DTYPES
from {{cookiecutter.__package_name}}.core.errors import Refused
from {{cookiecutter.__package_name}}.core.models.importance import permutation_importance
from {{cookiecutter.__package_name}}.core.store import decisions
from {{cookiecutter.__package_name}}.core.store.candidates import Candidate
from {{cookiecutter.__package_name}}.core.store.registry import Version
from {{cookiecutter.__package_name}}.core.store.request_log import TABLE as REQUESTS
from {{cookiecutter.__package_name}}.core.workspace import Workspace
from {{cookiecutter.__package_name}}.production.ingest import IngestReport, ingest_inbox
from {{cookiecutter.__package_name}}.production.model_card import write_report
from {{cookiecutter.__package_name}}.production.monitor import Health, monitor
from {{cookiecutter.__package_name}}.production.notifications import notify
from {{cookiecutter.__package_name}}.production.predict import predict_ahead
from {{cookiecutter.__package_name}}.production.promote import PromotionResult, promote_candidate, repair
from {{cookiecutter.__package_name}}.production.retraining_policy import Decision, decide
from {{cookiecutter.__package_name}}.production.train import TrainingResult, register, train

log = logging.getLogger(__name__)

COLLECTIONS = "collections"


@dataclass(frozen=True)
class RunReport:
    """What a run did.

    Attributes:
        as_of: Labels known by then were used; none before the first.
        ingested: What came in.
        decision: Whether a challenger was due, and why.
        trained: The challenger, where one was trained.
        promoted: What came of it.
        picture: Of the challenger, for people.
        predicted: Rows predicted ahead of their outcome.
        champion: The version that serves now.
        next_due: From when a challenger is due.
        health: What the monitor found at the end.
    """

    as_of: datetime | None
    ingested: IngestReport
    decision: Decision
    trained: TrainingResult | None = None
    promoted: PromotionResult | None = None
    picture: str | None = None
    predicted: int = 0
    champion: int | None = None
    next_due: datetime | None = None
    health: Health | None = None

    @property
    def ok(self) -> bool:
        """Whether no person must act: no batch was refused as a whole, nothing is held up, no alarm is left."""
        alarmed = self.health is not None and self.champion is not None and not self.health.ok
        return self.ingested.ok and not self.decision.person and not alarmed

    def __str__(self) -> str:
        """What was done, for people."""
        rows = sum(batch.accepted for batch in self.ingested.batches)
        lines = [f"ingested {len(self.ingested.batches)} batches, {rows} rows"]
        lines += [f"  {batch}" for batch in self.ingested.batches if not batch.ok or batch.warnings]
        lines += [f"challenger: {self.decision.reason}"]
        lines += [str(self.trained)] if self.trained else []
        lines += [str(self.promoted)] if self.promoted else []
        lines += [f"picture: {self.picture}"] if self.picture else []
        lines += [f"predicted {self.predicted} rows whose outcome is to come, in the table predictions"]
        lines += [f"champion: {'none' if self.champion is None else f'version {self.champion}'}"]
        lines += [str(finding) for finding in self.health.urgent] if self.health and self.champion else []
        due = f"from {self.next_due:%Y-%m-%d}" if self.next_due else "with the next labels"
        return "\n".join([*lines, f"next challenger: {due}"])


def run(workspace: Workspace, *, now: datetime | None = None, dirty: bool = False) -> RunReport:
    """Do whatever is due, as `run_due`, and notify where a person must act."""
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
    smoke_test: bool = True,
) -> RunReport:
    """Do whatever is due.

    Args:
        workspace: The workspace.
        now: The time it is; without it, the setting `clock` says.
        dirty: Whether a challenger may be released from files that differ from the last commit.
        predict: Whether to predict ahead of the outcome.
        plot: Whether to draw challengers.
        smoke_test: Whether challengers are tested in a server process before they are released.
    """
    ingested = bring_in(workspace, now or datetime.now(UTC))
    moment = workspace.now(now)
    if datasets.newest(workspace.problem, workspace.lake) is None:
        log.info("train     not yet: no labels are known")
        return RunReport(None, ingested, Decision(due=False, reason="not yet, no labels are known"))
    repair(workspace)
    health = monitor(workspace, now=moment, full=False)
    decision = decide(workspace, health, dirty=dirty)
    log.info("decide    %s", decision.reason)
    trained, promoted, picture = None, None, None
    try:
        trained, promoted, picture = _retrain(
            workspace, moment, decision, dirty=dirty, plot=plot, smoke_test=smoke_test
        )
    except Refused as refused:  # as where labels stop: what serves goes on answering
        if workspace.releases.champion() is None:
            raise
        decision = replace(decision, reason=f"{decision.reason}, but {refused}", person=True)
    if promoted and promoted.ok:
        health = monitor(workspace, now=moment, full=False)
    champion = workspace.releases.champion()
    predicted = predict_ahead(workspace, now=moment) if champion and predict else 0
    log.info("predict   %d rows whose outcome is to come", predicted)
    last, every = moment if trained else decision.last, timedelta(days=workspace.acceptance.retrain.every_days)
    version, due = champion.version if champion else None, last + every if champion and last else None
    report = RunReport(moment, ingested, decision, trained, promoted, picture, predicted, version, due, health)
    _record(workspace, report)
    workspace.lake.tidy(others=[REQUESTS])
    return report


def bring_in(workspace: Workspace, until: datetime) -> IngestReport:
    """Collect what arrived since the last time, and ingest what is in the inbox."""
    inbox, lake = workspace.path(workspace.settings.inbox), workspace.lake
    columns = {"until": DTYPES[datetime]}
    since = lake.read(COLLECTIONS, columns).select(pl.col("until").max()).collect().item()
    log.info("collect   since %s", f"{since:%Y-%m-%d %H:%M}" if since else "the beginning")
    if since is None or since < until:
        workspace.problem.collect(workspace.root, since, until, inbox)
        lake.append(COLLECTIONS, pl.DataFrame({"until": [until]}, schema=columns), batch=until.isoformat())
    ingested = ingest_inbox(workspace, now=until)
    batches = ingested.batches
    log.info("ingest    %d batches, %d rows", len(batches), sum(batch.accepted for batch in batches))
    return ingested


def _retrain(
    workspace: Workspace, moment: datetime, decision: Decision, *, dirty: bool, plot: bool, smoke_test: bool
) -> tuple[TrainingResult | None, PromotionResult | None, str | None]:
    """Train a challenger where one is due, or take up the one that a killed run left, and promote it if it passes."""
    if not (decision.due or decision.left):
        return None, None, None
    workspace.registry.close_left_runs()
    trained = train(workspace, as_of=moment) if decision.due else None
    candidate = trained.candidate if trained else workspace.candidates.read(str(decision.left))
    version = register(workspace, candidate.run_id)
    picture = _draw(workspace, candidate, version) if plot else None
    rows = trained.training_set if trained else None
    promoted = promote_candidate(
        workspace, candidate, version, now=moment, training_set=rows, dirty=dirty, smoke_test=smoke_test
    )
    log.info("gate      version %d %s", version.number, "passes" if promoted.verdict.ok else "is refused")
    return trained, promoted, picture


def _draw(workspace: Workspace, candidate: Candidate, version: Version) -> str:
    """Draw a challenger on one page; return the picture's path, from the project's folder."""
    problem, rows = workspace.problem, candidate.holdout
    importance = permutation_importance(problem, candidate.predictor(problem), rows, candidate.classes)
    answers = {name: candidate.answers(problem, name) for name in ("model", "linear")}
    figure = plots.overview(importance, answers, workspace.acceptance.decision)
    figure.suptitle(f"version {version.number} on the {len(rows)} rows of the newest window")
    return write_report(workspace, version.run_id, f"version-{version.number}.png", plots.png(figure))


def _record(workspace: Workspace, report: RunReport) -> None:
    """Keep what was decided and why."""
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
        "alarms": "; ".join(str(finding) for finding in report.health.urgent) if report.health else "",
    }
    decisions.keep(workspace.lake, row)
