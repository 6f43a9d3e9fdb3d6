"""Whatever is due now, in one idempotent command: collect, ingest, monitor, decide, train, gate, promote, predict."""

import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import polars as pl

from {{cookiecutter.__package_name}}.production.ingest import Ingested, ingest_inbox
from {{cookiecutter.__package_name}}.production.monitor import Health, has_broken, monitor
from {{cookiecutter.__package_name}}.production.predict import predict_ahead
from {{cookiecutter.__package_name}}.production.promote import Promoted, promote, repair
from {{cookiecutter.__package_name}}.production.train import Trained, draw, train
from {{cookiecutter.__package_name}}.shared import dataset, decisions
from {{cookiecutter.__package_name}}.shared.registry import CHALLENGER, Version, changed_files, code_hash
from {{cookiecutter.__package_name}}.shared.requests import TABLE as REQUESTS
from {{cookiecutter.__package_name}}.shared.schema import DTYPES
from {{cookiecutter.__package_name}}.shared.workspace import Workspace

log = logging.getLogger(__name__)

COLLECTIONS = "collections"


@dataclass(frozen=True)
class Decision:
    """Whether a challenger is due, and why.

    Attributes:
        due: Whether one is trained now.
        reason: Why, or why not.
        left: A challenger that a killed run left, to be taken up in its place.
        person: Whether a person must act first.
    """

    due: bool
    reason: str
    left: Version | None = None
    person: bool = False


@dataclass(frozen=True)
class Done:
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
    ingested: Ingested
    decision: Decision
    trained: Trained | None = None
    promoted: Promoted | None = None
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
        lines += [f"  {batch}" for batch in self.ingested.batches if not batch.ok]
        lines += [f"challenger: {self.decision.reason}"]
        lines += [str(self.trained)] if self.trained else []
        lines += [str(self.promoted)] if self.promoted else []
        lines += [f"picture: {self.picture}"] if self.picture else []
        lines += [f"predicted {self.predicted} rows whose outcome is to come, in the table predictions"]
        lines += [f"champion: {'none' if self.champion is None else f'version {self.champion}'}"]
        lines += [str(finding) for finding in self.health.urgent] if self.health and self.champion else []
        due = f"from {self.next_due:%Y-%m-%d}" if self.next_due else "with the next labels"
        return "\n".join([*lines, f"next challenger: {due}"])


def run(workspace: Workspace, *, now: datetime | None = None, dirty: bool = False, answers: bool = True) -> Done:
    """Do whatever is due.

    Args:
        workspace: The workspace.
        now: The time it is; without it, the setting `clock` says.
        dirty: Whether a challenger may be released from files that differ from the last commit.
        answers: Whether to predict ahead, to draw challengers and to try them in a server process, which the life cycle
            does not need.
    """
    ingested = bring_in(workspace, now or datetime.now(UTC))
    moment = workspace.now(now)
    if dataset.newest(workspace.problem, workspace.lake) is None:
        log.info("train     not yet: no labels are known")
        return Done(None, ingested, Decision(due=False, reason="not yet, no labels are known"))
    repair(workspace, now=moment)
    health, last = monitor(workspace, now=moment, deep=False), last_tried(workspace)
    decision = decide(workspace, health, last, dirty=dirty)
    log.info("decide    %s", decision.reason)
    trained, promoted, picture = _retrain(workspace, moment, decision, dirty=dirty, draws=answers)
    if promoted and promoted.ok:
        health = monitor(workspace, now=moment, deep=False)
    champion = workspace.releases.champion()
    predicted = predict_ahead(workspace, now=moment) if champion and answers else 0
    log.info("predict   %d rows whose outcome is to come", predicted)
    last, every = moment if trained else last, timedelta(days=workspace.acceptance.retrain.every_days)
    version, due = champion.version if champion else None, last + every if champion and last else None
    done = Done(moment, ingested, decision, trained, promoted, picture, predicted, version, due, health)
    _record(workspace, done)
    workspace.lake.tidy(keep=timedelta(days=workspace.settings.keep_days), others=[REQUESTS])
    return done


def bring_in(workspace: Workspace, until: datetime) -> Ingested:
    """Collect what arrived since the last time, and ingest what is in the inbox."""
    inbox, lake = workspace.path(workspace.settings.inbox), workspace.lake
    columns = {"until": DTYPES[datetime]}
    since = lake.read(COLLECTIONS, columns).select(pl.col("until").max()).collect().item()
    log.info("collect   since %s", f"{since:%Y-%m-%d %H:%M}" if since else "the beginning")
    if since is None or since < until:
        workspace.problem.collect(since, until, inbox)
        lake.append(COLLECTIONS, pl.DataFrame({"until": [until]}, schema=columns), batch=until.isoformat())
    ingested = ingest_inbox(workspace, now=until)
    batches = ingested.batches
    log.info("ingest    %d batches, %d rows", len(batches), sum(batch.accepted for batch in batches))
    return ingested


def last_tried(workspace: Workspace) -> datetime | None:
    """As of when the last challenger was trained; none before the first."""
    newest = workspace.registry.newest()
    return datetime.fromisoformat(workspace.registry.tags(newest.run_id)["as_of"]) if newest else None


def decide(workspace: Workspace, health: Health, last: datetime | None, *, dirty: bool = False) -> Decision:
    """Whether a challenger is due: labelled performance decides, with memory, and age at the latest.

    Args:
        workspace: The workspace.
        health: What the monitor found.
        last: As of when the last challenger was trained.
        dirty: Whether files may differ from the last commit.
    """
    if left := _left(workspace, dirty=dirty):
        return Decision(
            due=False, reason=f"version {left.number} was trained and not judged: it is taken up", left=left
        )
    reason, due = _due(workspace, health, last)
    changed = changed_files(workspace.root) if due and not dirty else []
    if changed:
        some = ", ".join(changed[:3]) + (", ..." if len(changed) > 3 else "")  # noqa: PLR2004
        hold = f"due, {reason}, but {some} differ from the last commit: commit them, or run --dirty"
        return Decision(due=False, reason=hold, person=True)
    return Decision(due=due, reason=f"{'due' if due else 'not due'}, {reason}")


def _due(workspace: Workspace, health: Health, last: datetime | None) -> tuple[str, bool]:
    """Why a challenger is due or not, and whether it is."""
    retrain = workspace.acceptance.retrain
    if last is None:
        return "since there is none yet", True
    if workspace.releases.champion() is None:  # the last one was refused: new labels may mend it
        newest = dataset.newest(workspace.problem, workspace.lake)
        due = newest is not None and newest > last
        return f"since nothing serves, and there are {'new' if due else 'no new'} labels", due
    days, broken = (health.at - last) / timedelta(days=1), sum(bool(period.broken) for period in health.periods)
    if retrain.window_days <= days < retrain.every_days and has_broken(workspace, health.periods, now=health.at):
        return f"since live quality broke its limits in {broken} of {len(health.periods)} windows", True
    return f"{max(days, 0):.0f} days after the last", days >= retrain.every_days


def _left(workspace: Workspace, *, dirty: bool) -> Version | None:
    """The challenger of this code that was trained but not judged, or not released: a run was killed."""
    newest = workspace.registry.newest()
    if newest is None or newest.number in workspace.releases.versions():
        return None
    tags = workspace.registry.tags(newest.run_id)
    refused = workspace.registry.verdict(newest) == "refused" or (tags["dirty"] == "true" and not dirty)
    return None if refused or tags["code"] != code_hash() else newest


def _retrain(
    workspace: Workspace, moment: datetime, decision: Decision, *, dirty: bool, draws: bool
) -> tuple[Trained | None, Promoted | None, str | None]:
    """Train a challenger where one is due, or take up the one that a killed run left, and ask for its promotion."""
    version, trained = decision.left, None
    if decision.due or decision.left:
        workspace.registry.close_left_runs()
    if decision.due:
        trained = train(workspace, as_of=moment)
        version = Version(trained.version, trained.run_id)
    if version is None:
        return None, None, None
    workspace.registry.move(CHALLENGER, version.number)
    picture = draw(workspace, version) if draws else None
    promoted = promote(workspace, version=version.number, now=moment, dirty=dirty, serves=draws)
    log.info("gate      version %d %s", version.number, "passes" if promoted.verdict.ok else "is refused")
    return trained, promoted, picture


def _record(workspace: Workspace, done: Done) -> None:
    """Keep what was decided and why in the table `decisions`, once."""
    verdict = done.promoted.verdict if done.promoted else None
    row = {
        "at": done.as_of,
        "batches": len(done.ingested.batches),
        "rows": sum(batch.accepted for batch in done.ingested.batches),
        "decision": done.decision.reason,
        "trained": done.trained.version if done.trained else None,
        "verdict": str(verdict) if verdict else None,
        "champion": done.champion,
        "predicted": done.predicted,
        "alarms": "; ".join(str(finding) for finding in done.health.urgent) if done.health else "",
    }
    once = "-".join(str(row[name]) for name in ("at", "batches", "trained", "champion", "predicted"))
    workspace.lake.append(decisions.TABLE, pl.DataFrame([row], schema=decisions.COLUMNS), batch=once)
