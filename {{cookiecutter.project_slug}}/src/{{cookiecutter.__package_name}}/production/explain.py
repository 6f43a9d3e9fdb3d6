"""What people ask to see: where the project stands, and one row through every stage."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl

from {{cookiecutter.__package_name}}.production.predict import champion, features_for
from {{cookiecutter.__package_name}}.shared import BadInput, dataset, masked
from {{cookiecutter.__package_name}}.shared.checks import RULES, ContractViolation, keys_of, with_violations
from {{cookiecutter.__package_name}}.shared.release import contributions
from {{cookiecutter.__package_name}}.shared.schema import AT, BATCH, Personal, Schema
from {{cookiecutter.__package_name}}.shared.workspace import Workspace


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
        labels_until=dataset.newest(problem, workspace.lake),
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


Row = dict[str, Any]  # a row as JSON has it


@dataclass(frozen=True)
class Explained:
    """A row's way through the stages.

    Attributes:
        raw: As it is in the lake, without personal columns.
        broken: The rules of the contract that it breaks.
        predicted_at: What was known by then was used.
        features: What the model is given.
        answer: What the champion says.
        contributions: By how much each feature moves the prediction, against a typical value of it.
        outcome: What came true; none where it isn't known.
        version: Of the champion.
    """

    raw: Row
    broken: tuple[str, ...]
    predicted_at: str
    features: Row
    answer: Row
    contributions: dict[str, float]
    outcome: Any
    version: int

    def __str__(self) -> str:
        """The stages for people."""
        contract = "; ".join(self.broken) or "keeps every rule"
        moved = sorted(self.contributions.items(), key=lambda item: -abs(item[1]))
        likeliest = f"probability_{self.answer.get('prediction')}"
        of = f" (to {likeliest})" if likeliest in self.answer else ""
        lines = [
            "raw           " + _pairs(self.raw),
            "contract      " + contract,
            "predicted at  " + self.predicted_at,
            "features      " + _pairs(self.features),
            f"prediction    {_pairs(self.answer)} (version {self.version})",
            "contributions " + _pairs({name: f"{value:+.4f}" for name, value in moved}) + of,
            f"outcome       {'not known yet' if self.outcome is None else self.outcome}",
        ]
        return "\n".join(lines)


def explain(workspace: Workspace, key: str, *, now: datetime | None = None) -> Explained:
    """Take the row with this key through every stage, with what was known when it is predicted.

    Args:
        workspace: The workspace.
        key: The key's values, joined by `/` where it has several columns.
        now: Rows that are predicted later are predicted now; without it, the setting `clock` says.

    Raises:
        BadInput: There is no such row, or the table has no key.
        Refused: There is no champion.
    """
    release, schema = champion(workspace), workspace.problem.schema.request
    rows = _row(workspace, schema, key)
    built = features_for(workspace, rows, now=workspace.now(now))
    answer = release.answers(release.predictor.predict(built))
    raw = rows.drop(schema.having(Personal))
    return Explained(
        raw=_json(raw),
        broken=tuple(with_violations(rows, schema)[RULES].item()),
        predicted_at=built[AT].item().isoformat(),
        features=_json(built.select(list(release.features))),
        answer=_json(answer),
        contributions=contributions(release, built),
        outcome=_outcome(workspace, rows),
        version=release.version,
    )


def _row(workspace: Workspace, schema: Schema, key: str) -> pl.DataFrame:
    try:
        wanted = keys_of(schema, (key,))
    except ContractViolation:  # no value of the key's type: no row has it
        wanted = pl.DataFrame(schema={name: schema.dtypes[name] for name in schema.key})
    rows = workspace.lake.scan(schema).select(schema.names).join(wanted.lazy(), on=schema.key, how="semi").collect()
    if rows.is_empty():
        raise BadInput(f"{schema.name} has no row with {'/'.join(schema.key)} {key}")
    return rows


def _outcome(workspace: Workspace, rows: pl.DataFrame) -> Any:  # noqa: ANN401 - whatever the target is
    labels, key = workspace.problem.labels, workspace.problem.schema.key
    found = workspace.lake.scan(labels).join(rows.lazy().select(key), on=key, how="semi")
    values = found.select(workspace.problem.target.name).collect().to_series()
    return values[0] if len(values) else None


def _json(frame: pl.DataFrame) -> Row:
    row: Row = json.loads(frame.write_json())[0]
    return row


def _pairs(row: Row) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in row.items()
    )
