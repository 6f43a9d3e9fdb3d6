"""Where the project stands: champion, data, and what to do next."""

from dataclasses import dataclass
from datetime import datetime

import polars as pl

from {{cookiecutter.__package_name}}.core import datasets
from {{cookiecutter.__package_name}}.core.contracts.schema import BATCH, Schema
from {{cookiecutter.__package_name}}.core.errors import masked
from {{cookiecutter.__package_name}}.core.workspace import Workspace


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
        figures = ", ".join(f"{name} {value:.4g}" for name, value in self.metrics.items())
        champion = "none"
        if self.champion is not None:
            champion = f"version {self.champion}, trained on labels until {self.trained_until:%Y-%m-%d}: {figures}"
        batches = ", ".join(f"{name} {count}" for name, count in self.batches.items())
        return "\n".join(
            [
                f"predicts   {self.predicts} ({self.task})",
                f"champion   {champion}",
                f"labels     until {until}",
                f"batches    {batches}",
                f"tables in  {self.lake}",
                f"runs in    {self.tracking}",
                f"next       {self.next}",
            ]
        )


def status(workspace: Workspace) -> Status:
    """Where the project stands."""
    problem, champion = workspace.problem, workspace.releases.champion()
    names = ("auc", "log_loss", "accuracy", "rmse", "mae", "cost")
    asks = "predict FILE; explain KEY" if problem.schema.key else "predict FILE"
    return Status(
        predicts=f"{problem.labels.name}.{problem.target.name}",
        task=problem.task,
        labels_until=datasets.newest(problem, workspace.lake),
        batches={name: _batches(workspace, schema) for name, schema in problem.schemas.items()},
        champion=champion.version if champion else None,
        trained_until=champion.trained_until if champion else None,
        metrics={name: champion.metrics[name] for name in names if name in champion.metrics} if champion else {},
        lake=workspace.settings.lake,
        tracking=masked(workspace.settings.tracking),
        next=f"run again when batches have arrived; {asks}" if champion else "run",
    )


def _batches(workspace: Workspace, schema: Schema) -> int:
    return int(workspace.lake.scan(schema).select(pl.col(BATCH).n_unique()).collect().item())
