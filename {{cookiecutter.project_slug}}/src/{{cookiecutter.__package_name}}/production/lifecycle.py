"""Whatever is due now, in one idempotent command: collect, ingest, train, gate, promote, predict."""

import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import polars as pl

from {{cookiecutter.__package_name}}.production.ingest import Ingested, ingest_inbox
from {{cookiecutter.__package_name}}.production.predict import predict_ahead
from {{cookiecutter.__package_name}}.production.promote import Promoted, promote, repair
from {{cookiecutter.__package_name}}.production.train import Trained, draw, train
from {{cookiecutter.__package_name}}.shared import dataset
from {{cookiecutter.__package_name}}.shared.registry import CHALLENGER, Version, code_hash
from {{cookiecutter.__package_name}}.shared.release import Release
from {{cookiecutter.__package_name}}.shared.schema import DTYPES
from {{cookiecutter.__package_name}}.shared.workspace import Workspace

log = logging.getLogger(__name__)

COLLECTIONS = "collections"


@dataclass(frozen=True)
class Done:
    """What a run did.

    Attributes:
        as_of: Labels known by then were used; none before the first.
        ingested: What came in.
        trained: The challenger, where one was due.
        promoted: What came of it.
        picture: Of the challenger, for people.
        predicted: Rows predicted ahead of their outcome.
        champion: The version that serves now.
        next_due: From when a challenger is due.
    """

    as_of: datetime | None
    ingested: Ingested
    trained: Trained | None
    promoted: Promoted | None
    picture: str | None
    predicted: int
    champion: int | None
    next_due: datetime | None

    @property
    def ok(self) -> bool:
        """Whether no batch as a whole was refused; then a person must act."""
        return self.ingested.ok

    def __str__(self) -> str:
        """What was done, for people."""
        rows = sum(batch.accepted for batch in self.ingested.batches)
        lines = [f"ingested {len(self.ingested.batches)} batches, {rows} rows"]
        lines += [f"  {batch}" for batch in self.ingested.batches if not batch.ok]
        lines += [str(self.trained)] if self.trained else []
        lines += [str(self.promoted)] if self.promoted else ["no challenger was due"]
        lines += [f"picture: {self.picture}"] if self.picture else []
        lines += [f"predicted {self.predicted} rows whose outcome is to come, in the table predictions"]
        lines += [f"champion: {'none' if self.champion is None else f'version {self.champion}'}"]
        due = f"from {self.next_due:%Y-%m-%d}" if self.next_due else "with the next labels"
        return "\n".join([*lines, f"next challenger: {due}"])


def run(workspace: Workspace, *, now: datetime | None = None) -> Done:
    """Do whatever is due.

    Args:
        workspace: The workspace.
        now: The time it is; without it, the setting `clock` says.
    """
    arrival = now or datetime.now(UTC)
    ingested = bring_in(workspace, arrival)
    moment = workspace.now(now)
    if dataset.newest(workspace.problem, workspace.lake) is None:
        log.info("train     not yet: no labels are known")
        return Done(None, ingested, None, None, None, 0, None, None)
    repair(workspace, now=moment)
    trained, promoted, picture = _retrain(workspace, moment)
    champion = workspace.releases.champion()
    predicted = predict_ahead(workspace, now=moment) if champion else 0
    log.info("predict   %d rows whose outcome is to come", predicted)
    version, due = champion.version if champion else None, next_due(workspace, champion)
    return Done(moment, ingested, trained, promoted, picture, predicted, version, due)


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


def next_due(workspace: Workspace, champion: Release | None) -> datetime | None:
    """From when a challenger is due: an interval after the last was tried; none where it is with the next labels."""
    tried = workspace.registry.aliased(CHALLENGER)
    if tried is None or champion is None:
        return None
    last = datetime.fromisoformat(workspace.registry.tags(tried.run_id)["as_of"])
    return last + timedelta(days=workspace.acceptance.retrain.every_days)


def _retrain(workspace: Workspace, moment: datetime) -> tuple[Trained | None, Promoted | None, str | None]:
    """Train a challenger where one is due, or take up the one that a killed run left, and ask for its promotion."""
    version, trained, picture = _left(workspace), None, None
    if version is None and _due(workspace, moment):
        trained = train(workspace, as_of=moment)
        version = Version(trained.version, trained.run_id)
    if version is None:
        return None, None, None
    picture = draw(workspace, version)
    promoted = promote(workspace, version=version.number, now=moment)
    log.info("gate      version %d %s", version.number, "passes" if promoted.verdict.ok else "is refused")
    return trained, promoted, picture


def _due(workspace: Workspace, moment: datetime) -> bool:
    champion, tried = workspace.releases.champion(), workspace.registry.aliased(CHALLENGER)
    if tried is None:
        return True
    due = next_due(workspace, champion)
    if due is None:  # the last one was refused, and nothing serves: new labels may mend it
        newest = dataset.newest(workspace.problem, workspace.lake)
        return newest is not None and newest > datetime.fromisoformat(workspace.registry.tags(tried.run_id)["as_of"])
    return moment >= due


def _left(workspace: Workspace) -> Version | None:
    """The challenger of this code that was trained but not answered: a run was killed."""
    tried = workspace.registry.aliased(CHALLENGER)
    if tried is None or tried.number in workspace.releases.versions():
        return None
    if workspace.registry.verdict(tried) == "refused" or workspace.registry.tags(tried.run_id)["code"] != code_hash():
        return None
    return tried
