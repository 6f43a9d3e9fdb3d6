"""The status of the project: champion, data and next step."""

from dataclasses import dataclass
from datetime import datetime

import polars as pl

from {{cookiecutter.__package_name}}.core import datasets
from {{cookiecutter.__package_name}}.core.contracts.schema import BATCH
from {{cookiecutter.__package_name}}.core.errors import redact_passwords
from {{cookiecutter.__package_name}}.core.workspace import Workspace
from {{cookiecutter.__package_name}}.production.retraining_policy import untried_changes

METRICS = ("auc", "log_loss", "accuracy", "rmse", "mae", "cost")


@dataclass(frozen=True)
class Status:
    """The status of a project.

    Attributes:
        predicts: The target with its table.
        task: The task.
        labels_until: The time at which the newest label became available, or None without labels.
        batches: The number of batches by table.
        champion: The version of the champion, or None.
        trained_until: Time as of which its training labels were available.
        metrics: The metrics of the champion on the holdout, before the refit.
        challenger: The newest challenger that is not released and why; empty if there is none.
        changes: What changed since the champion was trained and is in no challenger yet, and what to do.
        lake: The URL of the lake.
        tracking: The URL of the MLflow server or its folder.
        mismatch: Why lake and MLflow don't belong together; empty if they do.
        next: The next step.
    """

    predicts: str
    task: str
    labels_until: datetime | None
    batches: dict[str, int]
    champion: int | None
    trained_until: datetime | None
    metrics: dict[str, float]
    challenger: str
    changes: str
    lake: str
    tracking: str
    mismatch: str
    next: str

    def __str__(self) -> str:
        """The status as text."""
        until = f"{self.labels_until:%Y-%m-%d %H:%M} UTC" if self.labels_until else "no labels yet"
        champion = "none"
        if self.champion is not None:
            figures = ", ".join(f"{name} {value:.4g}" for name, value in self.metrics.items())
            champion = f"version {self.champion}, trained on labels until {self.trained_until:%Y-%m-%d}: {figures}"
        lines = {
            "predicts": f"{self.predicts} ({self.task})",
            "champion": champion,
            "challenger": self.challenger,
            "changes": self.changes,
            "labels": f"until {until}",
            "batches": ", ".join(f"{name} {count}" for name, count in self.batches.items()),
            "tables in": self.lake,
            "runs in": self.tracking,
            "mismatch": self.mismatch,
            "next": self.next,
        }
        return "\n".join(f"{name:<10} {line}" for name, line in lines.items() if line)


def status(workspace: Workspace) -> Status:
    """The status of the project."""
    problem, lake, champion = workspace.problem, workspace.lake, workspace.releases.champion()
    batches = pl.col(BATCH).n_unique()
    figures = champion.metrics if champion else {}
    asks = "predict FILE; explain KEY" if problem.schema.key else "predict FILE"
    return Status(
        predicts=f"{problem.labels.name}.{problem.target.name}",
        task=problem.task,
        labels_until=datasets.newest_label(problem, lake),
        batches={name: lake.scan(schema).select(batches).collect().item() for name, schema in problem.schemas.items()},
        champion=champion.version if champion else None,
        trained_until=champion.trained_until if champion else None,
        metrics={name: figures[name] for name in METRICS if name in figures},
        challenger=_challenger(workspace),
        changes=untried_changes(workspace),
        lake=workspace.settings.lake,
        tracking=redact_passwords(workspace.settings.tracking),
        mismatch=workspace.mismatch(ask=False),
        next=f"run when new batches have arrived; {asks}" if champion else "run",
    )


def _challenger(workspace: Workspace) -> str:
    """The newest challenger and its verdict, unless it was released."""
    newest = workspace.candidates.newest()
    if newest is None or newest.run_id in workspace.releases.run_ids():
        return ""
    last = workspace.candidates.last_verdict(newest.run_id)
    if last is None or last.passed:
        state = "passed the gate and is not released: call promote" if last else "is not evaluated: call gate"
    else:
        failed = [line.removeprefix("FAIL").strip() for line in last.reasons.splitlines() if line.startswith("FAIL")]
        state = f"is rejected: {'; '.join(failed) or last.release_failure}"
    return f"run {newest.run_id[:8]}, trained on labels until {newest.as_of:%Y-%m-%d}, {state}"
