"""Where the project stands: champion, data, and what to do next."""

from dataclasses import dataclass
from datetime import datetime

import polars as pl

from {{cookiecutter.__package_name}}.core import datasets
from {{cookiecutter.__package_name}}.core.contracts.schema import BATCH
from {{cookiecutter.__package_name}}.core.errors import masked
from {{cookiecutter.__package_name}}.core.workspace import Workspace

METRICS = ("auc", "log_loss", "accuracy", "rmse", "mae", "cost")


@dataclass(frozen=True)
class Status:
    """Where a project stands.

    Attributes:
        predicts: The target and its table.
        task: What kind of answer it asks for.
        labels_until: When the newest label became known; none before the first.
        batches: Appended batches of each table.
        champion: The version that serves; none before the first promotion.
        trained_until: It has seen the labels that were known by then.
        metrics: Of the champion, on the window before its refit.
        lake: Where the tables are.
        tracking: Where runs and versions are.
        next: What to do next.
    """

    predicts: str
    task: str
    labels_until: datetime | None
    batches: dict[str, int]
    champion: int | None
    trained_until: datetime | None
    metrics: dict[str, float]
    lake: str
    tracking: str
    next: str

    def __str__(self) -> str:
        """The status for people."""
        until = f"{self.labels_until:%Y-%m-%d %H:%M} UTC" if self.labels_until else "no labels yet"
        champion = "none"
        if self.champion is not None:
            figures = ", ".join(f"{name} {value:.4g}" for name, value in self.metrics.items())
            champion = f"version {self.champion}, trained on labels until {self.trained_until:%Y-%m-%d}: {figures}"
        lines = {
            "predicts": f"{self.predicts} ({self.task})",
            "champion": champion,
            "labels": f"until {until}",
            "batches": ", ".join(f"{name} {count}" for name, count in self.batches.items()),
            "tables in": self.lake,
            "runs in": self.tracking,
            "next": self.next,
        }
        return "\n".join(f"{name:<10} {line}" for name, line in lines.items())


def status(workspace: Workspace) -> Status:
    """Where the project stands."""
    problem, lake, champion = workspace.problem, workspace.lake, workspace.releases.champion()
    batches = pl.col(BATCH).n_unique()
    figures = champion.metrics if champion else {}
    asks = "predict FILE; explain KEY" if problem.schema.key else "predict FILE"
    return Status(
        predicts=f"{problem.labels.name}.{problem.target.name}",
        task=problem.task,
        labels_until=datasets.newest(problem, lake),
        batches={name: lake.scan(schema).select(batches).collect().item() for name, schema in problem.schemas.items()},
        champion=champion.version if champion else None,
        trained_until=champion.trained_until if champion else None,
        metrics={name: figures[name] for name in METRICS if name in figures},
        lake=workspace.settings.lake,
        tracking=masked(workspace.settings.tracking),
        next=f"run again when batches have arrived; {asks}" if champion else "run",
    )
