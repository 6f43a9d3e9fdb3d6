"""Whether a challenger is due: labelled performance decides, with memory, and age at the latest."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from {{cookiecutter.__package_name}}.core import datasets
from {{cookiecutter.__package_name}}.core.errors import masked
from {{cookiecutter.__package_name}}.core.store.candidates import CandidateRecord
from {{cookiecutter.__package_name}}.core.store.provenance import changed_files, code_hash
from {{cookiecutter.__package_name}}.core.workspace import Workspace
from {{cookiecutter.__package_name}}.production.monitor import Health, has_broken


@dataclass(frozen=True)
class Decision:
    """Whether a challenger is due, and why.

    Attributes:
        due: Whether one is trained now.
        reason: Why, or why not.
        last: As of when the last one was trained; none before the first.
        left: The run of one that a killed command left, to be taken up in its place.
        person: Whether a person must act first.
    """

    due: bool
    reason: str
    last: datetime | None = None
    left: str | None = None
    person: bool = False


def decide(workspace: Workspace, health: Health, *, dirty: bool = False) -> Decision:
    """Decide whether a challenger is due.

    Args:
        workspace: The workspace.
        health: What the monitor found.
        dirty: Whether files may differ from the last commit.
    """
    newest = workspace.candidates.newest()
    last = newest.as_of if newest else None
    if newest and _left(workspace, newest, dirty=dirty):
        reason = f"the challenger of run {newest.run_id[:8]} was trained and not judged: it is taken up"
        return Decision(due=False, reason=reason, last=last, left=newest.run_id)
    reason, due = _due(workspace, health, last)
    if obstacle := _obstacle(workspace, dirty=dirty) if due else None:
        return Decision(due=False, reason=f"due, {reason}, but {obstacle}", last=last, person=True)
    return Decision(due=due, reason=f"{'due' if due else 'not due'}, {reason}", last=last)


def _obstacle(workspace: Workspace, *, dirty: bool) -> str | None:
    """What a person must do before a challenger is trained, if anything."""
    champion, changed = workspace.releases.champion(), [] if dirty else changed_files(workspace.root)
    if champion and not workspace.registry.versions():
        lost = f"version {champion.version} serves, and MLflow at {masked(workspace.registry.address)} knows no version"
        return f"{lost}: restore it, or train and promote to begin anew"
    some = ", ".join(changed[:3]) + (", ..." if len(changed) > 3 else "")  # noqa: PLR2004
    return f"{some} differ from the last commit: commit them, or run --dirty" if changed else None


def _due(workspace: Workspace, health: Health, last: datetime | None) -> tuple[str, bool]:
    """Why a challenger is due or not, and whether it is."""
    retrain = workspace.acceptance.retrain
    if last is None:
        return "since there is none yet", True
    if workspace.releases.champion() is None:  # the last one was refused: new labels may mend it
        newest = datasets.newest(workspace.problem, workspace.lake)
        due = newest is not None and newest > last
        return f"since nothing serves, and there are {'new' if due else 'no new'} labels", due
    days, broken = (health.at - last) / timedelta(days=1), sum(bool(period.broken) for period in health.periods)
    if retrain.window_days <= days < retrain.every_days and has_broken(workspace, health.periods, now=health.at):
        return f"since live quality broke its limits in {broken} of {len(health.periods)} windows", True
    return f"{max(days, 0):.0f} days after the last", days >= retrain.every_days


def _left(workspace: Workspace, newest: CandidateRecord, *, dirty: bool) -> bool:
    """Whether the newest challenger is of this code, and was not judged or not released: a run was killed."""
    if newest.run_id in workspace.releases.run_ids() or newest.code != code_hash(workspace.root):
        return False
    last = workspace.candidates.last_verdict(newest.run_id)
    return (last is None or last.passed) and (dirty or not newest.dirty)
