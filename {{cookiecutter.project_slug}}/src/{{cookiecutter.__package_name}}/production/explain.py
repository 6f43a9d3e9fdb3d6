"""One row at every stage: raw data, contract, features, prediction and label."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl

from {{cookiecutter.__package_name}}.core.contracts.schema import PREDICTED_AT, Personal
from {{cookiecutter.__package_name}}.core.contracts.validation import VIOLATIONS, parse_keys, with_violations
from {{cookiecutter.__package_name}}.core.errors import InputError
from {{cookiecutter.__package_name}}.core.store.releases import contributions
from {{cookiecutter.__package_name}}.core.workspace import Workspace
from {{cookiecutter.__package_name}}.production.predict import champion, features_for

Row = dict[str, Any]  # a row in JSON


@dataclass(frozen=True)
class Explanation:
    """A row at every stage.

    Attributes:
        raw: The row in the lake, without personal columns.
        violations: The rules of the contract that it violates.
        predicted_at: Time as of which data were available.
        features: The features of the row.
        prediction: The prediction of the champion.
        contributions: The contribution of each feature to the prediction, relative to its reference value.
        outcome: The label, or None if it is not available.
        version: The version of the champion.
    """

    raw: Row
    violations: tuple[str, ...]
    predicted_at: str
    features: Row
    prediction: Row
    contributions: dict[str, float]
    outcome: Any
    version: int

    def __str__(self) -> str:
        """The stages as text."""
        moved = sorted(self.contributions.items(), key=lambda item: -abs(item[1]))
        likeliest = f"probability_{self.prediction.get('prediction')}"
        of = f" (to {likeliest})" if likeliest in self.prediction else ""
        lines = {
            "raw": _pairs(self.raw),
            "contract": "; ".join(self.violations) or "no violations",
            "predicted at": self.predicted_at,
            "features": _pairs(self.features),
            "prediction": f"{_pairs(self.prediction)} (version {self.version})",
            "contributions": _pairs({name: f"{value:+.4f}" for name, value in moved}) + of,
            "outcome": "not available yet" if self.outcome is None else self.outcome,
        }
        return "\n".join(f"{name:<13} {line}" for name, line in lines.items())


def explain(workspace: Workspace, key: str, *, now: datetime | None = None) -> Explanation:
    """Show the row with this key at every stage, with the data available at its time of prediction.

    Args:
        workspace: The workspace.
        key: The key; the values of several columns are joined by `/`.
        now: The current time. Default: by the setting `clock`.

    Raises:
        InputError: The row doesn't exist, or the table has no key.
        Rejected: There is no champion.
    """
    release, schema = champion(workspace), workspace.problem.schema.request
    wanted = parse_keys(schema, (key,)).lazy()
    stored = workspace.lake.scan(workspace.problem.schema).select(schema.names)
    rows = stored.join(wanted, on=schema.key, how="semi").collect()
    if rows.is_empty():
        raise InputError(f"{schema.name} has no row with {'/'.join(schema.key)} {key}")
    built = features_for(workspace, rows, now=workspace.now(now))
    prediction = release.prediction_frame(release.predictor.predict(built))
    return Explanation(
        raw=_json(rows.drop(schema.columns_with_role(Personal))),
        violations=tuple(with_violations(rows, schema)[VIOLATIONS].item()),
        predicted_at=built[PREDICTED_AT].item().isoformat(),
        features=_json(built.select(list(release.features))),
        prediction=_json(prediction),
        contributions=contributions(release, built),
        outcome=_outcome(workspace, rows),
        version=release.version,
    )


def _outcome(workspace: Workspace, rows: pl.DataFrame) -> Any:  # noqa: ANN401 - whatever the target is
    problem = workspace.problem
    labels = workspace.lake.scan(problem.labels).join(rows.lazy(), on=problem.schema.key, how="semi").collect()
    outcome = labels[problem.target.name].first()
    return problem.words[not outcome] if problem.words and outcome is not None else outcome


def _json(frame: pl.DataFrame) -> Row:
    row: Row = json.loads(frame.write_json())[0]
    return row


def _pairs(row: Row) -> str:
    shown = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in row.items()}
    return ", ".join(f"{name} {value}" for name, value in shown.items())
