"""Predictions by the champion: for the rows of a file, and for upcoming rows of the lake."""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from pathlib import Path

import numpy as np
import polars as pl

from {{cookiecutter.__package_name}}.core import datasets
from {{cookiecutter.__package_name}}.core.contracts.schema import Personal, Schema
from {{cookiecutter.__package_name}}.core.contracts.validation import RULES, ContractViolation, with_violations
from {{cookiecutter.__package_name}}.core.datasets import History
from {{cookiecutter.__package_name}}.core.errors import BadInput, Refused
from {{cookiecutter.__package_name}}.core.store.files import chunks, conform_rows, write_rows
from {{cookiecutter.__package_name}}.core.store.predictions import PREDICTIONS
from {{cookiecutter.__package_name}}.core.store.releases import Release
from {{cookiecutter.__package_name}}.core.workspace import Workspace

log = logging.getLogger(__name__)

ROW, LINE = "_row", "_line"
CHUNK = 50_000  # rows of a file that are in memory at the same time


@dataclass(frozen=True)
class PredictionResult:
    """The result of predicting a file.

    Attributes:
        rows: The number of predicted rows.
        invalid: The number of rows that violate the contract.
        version: Of the model.
        out: The file with the predictions.
    """

    rows: int
    invalid: int
    version: int
    out: str

    @property
    def ok(self) -> bool:
        """Whether every row is valid."""
        return not self.invalid

    def __str__(self) -> str:
        """One line for people."""
        broken = f"; {self.invalid} rows break the contract and have a reason instead" if self.invalid else ""
        return f"{self.rows} rows predicted by version {self.version} -> {self.out}{broken}"


def champion(workspace: Workspace) -> Release:
    """The release that serves.

    Raises:
        Refused: Nothing was promoted yet, or it does not answer as it was trained to.
    """
    if (release := workspace.releases.champion()) is None:
        raise Refused("there is no champion yet: run, or train and promote, first")
    release.check()
    return release


def predict_rows(
    workspace: Workspace, release: Release, rows: pl.DataFrame, *, now: datetime, history: History | None = None
) -> pl.DataFrame:
    """The champion's answers to rows of the subject, beside the rows and in their order."""
    built = features_for(workspace, rows, now=now, history=history)
    if missing := [name for name in release.features if name not in built.columns]:
        msg = f"features.build no longer gives {', '.join(missing)}, which version {release.version} takes: keep them"
        raise BadInput(msg)
    answers = release.answers(release.predictor.predict(built))
    return rows.with_columns(*answers.iter_columns(), pl.lit(release.version).alias("version"))


def features_for(
    workspace: Workspace, rows: pl.DataFrame, *, now: datetime, history: History | None = None
) -> pl.DataFrame:
    """Rows of the subject, in their order, with their features: from what is known, as far as they look back."""
    history = history or datasets.known(workspace.problem, workspace.lake, as_of=now)
    return datasets.to_predict(workspace.problem, rows.with_row_index(ROW), history, now=now).sort(ROW).drop(ROW)


def predict(
    workspace: Workspace, file: Path, *, out: Path | None = None, now: datetime | None = None
) -> PredictionResult:
    """Predict the rows of a file into another file, without personal columns.

    A row that violates the contract gets the reasons instead of a prediction. Both files are processed in chunks, as of
    one time and one state of the tables. Personal and forbidden columns that are not part of the key may be missing.

    Raises:
        BadInput: The file can't be read, its columns violate the contract, or the predictions can't be written.
        Refused: There is no champion.
    """
    release, problem, lake = champion(workspace), workspace.problem, workspace.lake
    target = out or workspace.path(workspace.settings.reports) / f"{file.stem}-predicted{file.suffix}"
    if target.suffix.lower() not in {".parquet", ".csv"}:
        raise BadInput(f"{target} ends in {target.suffix!r}: answers are .parquet or .csv")
    moment, versions = workspace.now(now), datasets.versions(problem, lake)
    history = datasets.known(problem, lake, as_of=moment, versions=versions)
    requests = _requests(file, problem.schema.request)
    first = next(requests)
    schema = _output_schema(release, first, personal=problem.schema.having(Personal))
    rows = invalid = 0

    def predictions() -> Iterator[pl.DataFrame]:
        nonlocal rows, invalid
        for chunk in chain([first], requests):
            valid = chunk.filter(pl.col("error").is_null())
            parts = [pl.DataFrame(schema=schema), chunk.filter(pl.col("error").is_not_null())]
            if len(valid):
                parts.append(predict_rows(workspace, release, valid, now=moment, history=history))
            yield pl.concat(parts, how="diagonal").sort(LINE).select(schema.names())
            rows, invalid = rows + len(chunk), invalid + len(chunk) - len(valid)
            log.info("predict   %d rows of %s", rows, file)

    write_rows(target, predictions(), schema)
    return PredictionResult(rows - invalid, invalid, release.version, target.as_posix())


def _requests(file: Path, schema: Schema) -> Iterator[pl.DataFrame]:
    """The rows of a file as requests, in chunks, each row with its number and, in `error`, the rules that it violates.

    Raises:
        BadInput: The file can't be read, has no rows, or a column is missing, unknown or of another type.
    """
    for nth, chunk in enumerate(chunks(file, CHUNK)):
        present = schema.without([name for name in schema.closed if name not in chunk.columns])
        try:
            rows = conform_rows(chunk, present, file)
        except ContractViolation as violation:
            where = f" from row {nth * CHUNK + 1} on" if nth else ""
            raise BadInput(f"{file}{where} breaks the contract of {schema.name}: {violation}") from violation
        rules = pl.col(RULES).list
        error = pl.when(rules.len() > 0).then(rules.join("; ")).alias("error")
        yield with_violations(rows, present).with_columns(error).drop(RULES).with_row_index(LINE)


def _output_schema(release: Release, requests: pl.DataFrame, *, personal: Sequence[str]) -> pl.Schema:
    """The columns of the predictions of requests: theirs but personal ones, then those of the release."""
    answers = release.answers(np.empty((0, len(release.classes)) if release.classes else 0))
    kept = requests.drop(LINE, *personal, strict=False)
    return pl.Schema({**kept.schema, **answers.schema, "version": pl.Int32()})


def predict_ahead(workspace: Workspace, *, now: datetime) -> int:
    """Predict what the lake has and has no outcome yet, once for each version, into the table `predictions`.

    Returns:
        How many rows were predicted now; none where rows have no time or no key, or come with their outcome.
    """
    problem, lake = workspace.problem, workspace.lake
    schema, labels = problem.schema, problem.labels
    if labels is schema or not schema.key or not schema.event_time:
        return 0
    release, event = champion(workspace), schema.event_time
    made = pl.lit(now).cast(pl.Datetime("us", "UTC")).alias("made")

    def attempt(version: int) -> int:
        rows = _without_prediction(workspace, release, event, now=now)
        if rows.is_empty():
            return 0
        predicted = predict_rows(workspace, release, rows, now=now)
        kept = dict.fromkeys((*schema.key, event, *predicted.columns[len(rows.columns) :]))
        keys = hashlib.sha256(rows.select(schema.key).write_csv().encode()).hexdigest()
        batch = f"{release.number}-{now.isoformat()}-{keys}"
        new = predicted.select(*kept, made)
        lake.append(PREDICTIONS, new, batch=batch, expected=version)  # a class is a column
        return len(rows)

    return lake.retry(PREDICTIONS, attempt)


def _without_prediction(workspace: Workspace, release: Release, event: str, *, now: datetime) -> pl.DataFrame:
    """The rows that happen later, and have neither a label nor a prediction of the release."""
    problem, lake, schema = workspace.problem, workspace.lake, workspace.problem.schema
    key = {name: schema.dtypes[name] for name in schema.key}
    done = lake.read(PREDICTIONS, key | {"version": pl.Int32()}).filter(pl.col("version") == release.version)
    ahead = lake.scan(schema).filter(pl.col(event) > now).select(schema.names)
    for other in (lake.scan(problem.labels), done):
        ahead = ahead.join(other.select(schema.key), on=schema.key, how="anti")
    return ahead.sort(event, *schema.key).collect()
