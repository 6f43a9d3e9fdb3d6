"""Batch prediction with the champion: rows of a file, and upcoming rows of the lake."""

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
from {{cookiecutter.__package_name}}.core.contracts.schema import Personal
from {{cookiecutter.__package_name}}.core.contracts.validation import (
    VIOLATIONS,
    ContractViolation,
    with_violations,
)
from {{cookiecutter.__package_name}}.core.datasets import History
from {{cookiecutter.__package_name}}.core.errors import InputError, NothingYet
from {{cookiecutter.__package_name}}.core.problem import Problem
from {{cookiecutter.__package_name}}.core.store.files import chunks, conform_rows, write_rows
from {{cookiecutter.__package_name}}.core.store.predictions import PREDICTIONS
from {{cookiecutter.__package_name}}.core.store.releases import Release
from {{cookiecutter.__package_name}}.core.workspace import Workspace

log = logging.getLogger(__name__)

ROW, LINE = "_row", "_line"
CHUNK = 50_000  # rows per chunk


@dataclass(frozen=True)
class PredictionResult:
    """The result of predicting a file.

    Attributes:
        rows: The number of predicted rows.
        invalid: The number of rows that violate the contract.
        version: The model version.
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
        """One line of text."""
        broken = f"; {self.invalid} rows violate the contract and have an error instead" if self.invalid else ""
        return f"{self.rows} rows predicted by version {self.version} -> {self.out}{broken}"


def champion(workspace: Workspace) -> Release:
    """The champion, after a check.

    Raises:
        Rejected: There is no champion, or it fails its golden requests.
    """
    if (release := workspace.releases.champion()) is None:
        raise NothingYet("champion")
    release.check()
    return release


def predict_rows(
    workspace: Workspace, release: Release, rows: pl.DataFrame, *, now: datetime, history: History | None = None
) -> pl.DataFrame:
    """Rows of the entity with the predictions of the champion, in the same order."""
    built = features_for(workspace, rows, now=now, history=history)
    if missing := [name for name in release.features if name not in built.columns]:
        msg = f"features.build no longer returns {', '.join(missing)}, which version {release.version} needs: keep them"
        raise InputError(msg)
    predictions = release.prediction_frame(release.predictor.predict(built))
    return rows.with_columns(*predictions.iter_columns(), pl.lit(release.version).alias("version"))


def features_for(
    workspace: Workspace, rows: pl.DataFrame, *, now: datetime, history: History | None = None
) -> pl.DataFrame:
    """Rows of the entity with their features, in the same order."""
    history = history or datasets.history_as_of(workspace.problem, workspace.lake, as_of=now)
    return (
        datasets.prediction_features(workspace.problem, rows.with_row_index(ROW), history, now=now).sort(ROW).drop(ROW)
    )


def predict(
    workspace: Workspace, file: Path, *, out: Path | None = None, now: datetime | None = None
) -> PredictionResult:
    """Predict the rows of a file into another file, without personal columns.

    A row that violates the contract gets its violations instead of a prediction. Both files are processed in chunks, as
    of one time and one state of the tables. Personal and excluded columns that are not part of the key may be missing.

    Raises:
        InputError: The file can't be read, its columns violate the contract, or the predictions can't be written.
        Rejected: There is no champion.
    """
    release, problem, lake = champion(workspace), workspace.problem, workspace.lake
    target = out or workspace.path(workspace.settings.reports) / f"{file.stem}-predicted{file.suffix}"
    if target.suffix.lower() not in {".parquet", ".csv"}:
        raise InputError(f"{target} ends in {target.suffix!r}: use .parquet or .csv")
    moment, versions = workspace.now(now), datasets.table_versions(problem, lake)
    history = datasets.history_as_of(problem, lake, as_of=moment, versions=versions)
    requests = _requests(file, problem)
    first = next(requests)
    schema = _output_schema(release, first, personal=problem.schema.columns_with_role(Personal))
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


def _requests(file: Path, problem: Problem) -> Iterator[pl.DataFrame]:
    """The rows of a file as requests, in chunks, each row with its number and, in `error`, the rules that it violates.

    Raises:
        InputError: The file can't be read, has no rows, or a column is missing, unknown or of another type.
    """
    schema = problem.schema.request
    for nth, source in enumerate(chunks(file, CHUNK)):
        chunk = problem.translated_requests(source) if problem.translated_requests else source
        present = schema.without([name for name in schema.excluded_columns if name not in chunk.columns])
        try:
            rows = conform_rows(chunk, present, file)
        except ContractViolation as violation:
            where = f" from row {nth * CHUNK + 1} on" if nth else ""
            raise InputError(f"{file}{where} violates the contract of {schema.name}: {violation}") from violation
        rules = pl.col(VIOLATIONS).list
        error = pl.when(rules.len() > 0).then(rules.join("; ")).alias("error")
        yield with_violations(rows, present).with_columns(error).drop(VIOLATIONS).with_row_index(LINE)


def _output_schema(release: Release, requests: pl.DataFrame, *, personal: Sequence[str]) -> pl.Schema:
    """The columns of the output: those of the requests without personal ones, then those of the predictions."""
    predictions = release.prediction_frame(np.empty((0, len(release.classes)) if release.classes else 0))
    retained = requests.drop(LINE, *personal, strict=False)
    return pl.Schema({**retained.schema, **predictions.schema, "version": pl.Int32()})


def predict_upcoming(workspace: Workspace, *, now: datetime) -> int:
    """Predict upcoming rows of the lake, once per model version, into the table `predictions`.

    Returns:
        The number of predicted rows; 0 if rows have no time or no key, or contain their label.
    """
    problem, lake = workspace.problem, workspace.lake
    schema, labels = problem.schema, problem.labels
    if labels is schema or not schema.key or not schema.event_time:
        return 0
    release, event = champion(workspace), schema.event_time
    made = pl.lit(now).cast(pl.Datetime("us", "UTC")).alias("predicted_at")

    def attempt(version: int) -> int:
        rows = _without_prediction(workspace, release, event, now=now)
        if rows.is_empty():
            return 0
        predicted = predict_rows(workspace, release, rows, now=now)
        retained = dict.fromkeys((*schema.key, event, *predicted.columns[len(rows.columns) :]))
        keys = hashlib.sha256(rows.select(schema.key).write_csv().encode()).hexdigest()
        batch = f"{release.number}-{now.isoformat()}-{keys}"
        new = predicted.select(*retained, made)
        lake.append(PREDICTIONS, new, batch=batch, expected=version)  # a new class is a new column
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
