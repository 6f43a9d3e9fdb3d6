"""What people ask to see: where the project stands, and one row through every stage."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl

from {{cookiecutter.__package_name}}.core.contracts.schema import AT, Personal
from {{cookiecutter.__package_name}}.core.contracts.validation import RULES, keys_of, with_violations
from {{cookiecutter.__package_name}}.core.errors import BadInput
from {{cookiecutter.__package_name}}.core.store.releases import contributions
from {{cookiecutter.__package_name}}.core.workspace import Workspace
from {{cookiecutter.__package_name}}.production.predict import champion, features_for

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
        moved = sorted(self.contributions.items(), key=lambda item: -abs(item[1]))
        likeliest = f"probability_{self.answer.get('prediction')}"
        of = f" (to {likeliest})" if likeliest in self.answer else ""
        lines = {
            "raw": _pairs(self.raw),
            "contract": "; ".join(self.broken) or "keeps every rule",
            "predicted at": self.predicted_at,
            "features": _pairs(self.features),
            "prediction": f"{_pairs(self.answer)} (version {self.version})",
            "contributions": _pairs({name: f"{value:+.4f}" for name, value in moved}) + of,
            "outcome": "not known yet" if self.outcome is None else self.outcome,
        }
        return "\n".join(f"{name:<13} {line}" for name, line in lines.items())


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
    wanted, stored = keys_of(schema, (key,)).lazy(), workspace.lake.scan(schema).select(schema.names)
    rows = stored.join(wanted, on=schema.key, how="semi").collect()
    if rows.is_empty():
        raise BadInput(f"{schema.name} has no row with {'/'.join(schema.key)} {key}")
    built = features_for(workspace, rows, now=workspace.now(now))
    answer = release.answers(release.predictor.predict(built))
    return Explained(
        raw=_json(rows.drop(schema.having(Personal))),
        broken=tuple(with_violations(rows, schema)[RULES].item()),
        predicted_at=built[AT].item().isoformat(),
        features=_json(built.select(list(release.features))),
        answer=_json(answer),
        contributions=contributions(release, built),
        outcome=_outcome(workspace, rows),
        version=release.version,
    )


def _outcome(workspace: Workspace, rows: pl.DataFrame) -> Any:  # noqa: ANN401 - whatever the target is
    problem = workspace.problem
    labels = workspace.lake.scan(problem.labels).join(rows.lazy(), on=problem.schema.key, how="semi").collect()
    return labels[problem.target.name].first()


def _json(frame: pl.DataFrame) -> Row:
    row: Row = json.loads(frame.write_json())[0]
    return row


def _pairs(row: Row) -> str:
    shown = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in row.items()}
    return ", ".join(f"{name} {value}" for name, value in shown.items())
