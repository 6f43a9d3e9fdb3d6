"""The retraining policy: a challenger is due if live quality breaches its limits, or by age."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from {{cookiecutter.__package_name}}.core import datasets
from {{cookiecutter.__package_name}}.core.store.candidates import CandidateRecord
from {{cookiecutter.__package_name}}.core.store.provenance import HASHED_FILES, changed_files, code_hash
from {{cookiecutter.__package_name}}.core.workspace import Workspace
from {{cookiecutter.__package_name}}.production.monitor import Health, limits_breached


@dataclass(frozen=True)
class RetrainingDecision:
    """Whether a challenger is due, with the reason.

    Attributes:
        due: Whether to train a challenger.
        reason: The reason.
        last_trained: Time of the last training, or None.
        unfinished_run: The run of a challenger that a killed command did not evaluate, to resume with.
        needs_attention: Whether a person must act first.
    """

    due: bool
    reason: str
    last_trained: datetime | None = None
    unfinished_run: str | None = None
    needs_attention: bool = False


def decide(workspace: Workspace, health: Health, *, dirty: bool = False) -> RetrainingDecision:
    """Decide whether a challenger is due.

    Args:
        workspace: The workspace.
        health: The result of the monitor.
        dirty: Whether files may differ from the last commit.
    """
    newest = workspace.candidates.newest()
    last = newest.as_of if newest else None
    if newest and _is_unfinished(workspace, newest, dirty=dirty):
        reason = f"the challenger of run {newest.run_id[:8]} was trained but not evaluated: resuming with it"
        return RetrainingDecision(due=False, reason=reason, last_trained=last, unfinished_run=newest.run_id)
    reason, due = _due(workspace, health, newest)
    if blocker := _blocker(workspace, newest, dirty=dirty) if due else None:
        return RetrainingDecision(
            due=False, reason=f"due, {reason}, but {blocker}", last_trained=last, needs_attention=True
        )
    return RetrainingDecision(due=due, reason=f"{'due' if due else 'not due'}, {reason}", last_trained=last)


def untried_changes(workspace: Workspace) -> str:
    """What has changed since the champion and the newest challenger were trained, and what to do; empty if nothing."""
    champion, newest = workspace.releases.champion(), workspace.candidates.newest()
    trained = workspace.candidates.newest(champion.run_id) if champion else None
    if not (champion and trained and newest) or code_hash(workspace.root) in {trained.code, newest.code}:
        return ""
    files = changed_files(workspace.root, HASHED_FILES, since=trained.commit) if trained.commit else []
    what = f"{_some(files) or 'code or parameters'} changed since version {champion.version} was trained"
    return f"{what}: commit, then call train and promote"


def _some(files: list[str]) -> str:
    return ", ".join(files[:3]) + (", ..." if len(files) > 3 else "")  # noqa: PLR2004


def _blocker(workspace: Workspace, newest: CandidateRecord | None, *, dirty: bool) -> str | None:
    """What blocks the training until a person acts, or None."""
    champion, changed = workspace.releases.champion(), [] if dirty else changed_files(workspace.root)
    if champion and not workspace.registry.has_run((newest or champion).run_id):
        return f"{workspace.mismatch()}; if its runs are lost, train and promote to start over"
    return f"{_some(changed)} differ from the last commit: commit them, or call run --dirty" if changed else None


def _due(workspace: Workspace, health: Health, newest: CandidateRecord | None) -> tuple[str, bool]:
    """The reason, and whether a challenger is due."""
    retrain = workspace.acceptance.retrain
    if newest is None:
        return "there is no challenger yet", True
    last, verdict = newest.as_of, workspace.candidates.last_verdict(newest.run_id)
    if verdict and not verdict.passed and newest.code != code_hash(workspace.root):
        return "code or parameters have changed since the last challenger was rejected", True
    if workspace.releases.champion() is None:  # the last one was rejected: retry with new labels
        label = datasets.newest_label(workspace.problem, workspace.lake)
        due = label is not None and label > last
        return f"there is no champion, and there are {'new' if due else 'no new'} labels", due
    days, breached = (health.at - last) / timedelta(days=1), sum(bool(period.breached) for period in health.periods)
    if retrain.window_days <= days < retrain.every_days and limits_breached(workspace, health.periods, now=health.at):
        return f"live quality breached its limits in {breached} of {len(health.periods)} windows", True
    return f"{max(days, 0):.0f} days after the last training", days >= retrain.every_days


def _is_unfinished(workspace: Workspace, newest: CandidateRecord, *, dirty: bool) -> bool:
    """Whether the newest challenger is of the current code, but was not evaluated or not released."""
    if newest.run_id in workspace.releases.run_ids() or newest.code != code_hash(workspace.root):
        return False
    if not workspace.registry.has_run(newest.run_id):  # of another machine with an MLflow of its own
        return False
    last = workspace.candidates.last_verdict(newest.run_id)
    return (last is None or last.passed) and (dirty or not newest.dirty)
