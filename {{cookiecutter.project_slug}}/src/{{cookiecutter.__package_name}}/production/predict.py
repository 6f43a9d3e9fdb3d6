"""Predictions by the champion: for the rows of a file, and for what is coming."""

import hashlib
import logging
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import narwhals as nw
import polars as pl

from {{cookiecutter.__package_name}}.production.ingest import content_of, read_rows, typed
from {{cookiecutter.__package_name}}.shared import BadInput, Refused, dataset
from {{cookiecutter.__package_name}}.shared.checks import RULES, ContractBreach, conform, marked
from {{cookiecutter.__package_name}}.shared.release import Release
from {{cookiecutter.__package_name}}.shared.schema import AT, Personal
from {{cookiecutter.__package_name}}.shared.workspace import Workspace

log = logging.getLogger(__name__)

TABLE = "predictions"
ROW, LINE = "_row", "_line"


@dataclass(frozen=True)
class Predicted:
    """What became of a file of requests."""

    rows: int
    rejected: int
    version: int
    out: str

    @property
    def ok(self) -> bool:
        """Whether every row keeps the contract."""
        return not self.rejected

    def __str__(self) -> str:
        """One line for people."""
        broken = f"; {self.rejected} rows break the contract and have a reason instead" if self.rejected else ""
        return f"{self.rows} rows predicted by version {self.version} -> {self.out}{broken}"


def champion(workspace: Workspace) -> Release:
    """The release that serves.

    Raises:
        Refused: Nothing was promoted yet.
    """
    if (release := workspace.releases.champion()) is None:
        raise Refused("there is no champion yet: run, or train and promote, first")
    return release


def predict_rows(workspace: Workspace, release: Release, rows: pl.DataFrame, *, now: datetime) -> pl.DataFrame:
    """The champion's answers to rows of the subject, beside the rows and in their order."""
    built = features_for(workspace, rows, now=now)
    answers = release.answers(release.predictor.predict(built))
    return rows.with_columns(*answers.iter_columns(), pl.lit(release.version).alias("version"))


def features_for(workspace: Workspace, rows: pl.DataFrame, *, now: datetime) -> pl.DataFrame:
    """Rows of the subject, in their order, with their features: from what is known, as far as they look back."""
    problem = workspace.problem
    asked = dataset.requests(problem, rows.with_row_index(ROW), now=now)
    since = asked.select(nw.col(AT).min()).collect().item()
    history = dataset.known(problem, workspace.lake, as_of=now)
    recent = dataset.recent(problem, history, since=since)
    return dataset.with_features(problem, asked, recent).sort(ROW).drop(ROW)


def predict(workspace: Workspace, file: Path, *, out: Path | None = None, now: datetime | None = None) -> Predicted:
    """Predict a file's rows into another file, without personal columns; a row that breaks the contract gets reasons.

    Raises:
        BadInput: The file can't be read, its columns are not the contract's, or the answers can't be written there.
        Refused: There is no champion.
    """
    release, schema = champion(workspace), workspace.problem.schema.request
    target = out or workspace.path(workspace.settings.reports) / f"{file.stem}-predicted{file.suffix}"
    if target.suffix.lower() not in {".parquet", ".csv"}:
        raise BadInput(f"{target} ends in {target.suffix!r}: answers are .parquet or .csv")
    try:
        rows = conform(typed(read_rows(file, content_of(file)), schema, file), schema)
    except ContractBreach as breach:
        raise BadInput(f"{file} breaks the contract of {schema.name}: {breach}") from breach
    rules = marked(rows, schema)[RULES]
    kept = rules.list.len() == 0
    judged = rows.with_row_index(LINE).with_columns(error=rules.list.join("; "))
    parts = [judged.filter(~kept)]
    if kept.any():
        parts.append(predict_rows(workspace, release, judged.filter(kept).drop("error"), now=workspace.now(now)))
    _write(pl.concat(parts, how="diagonal").sort(LINE).drop(LINE, *schema.having(Personal)), target)
    return Predicted(int(kept.sum()), int((~kept).sum()), release.version, target.as_posix())


def predict_ahead(workspace: Workspace, *, now: datetime) -> int:
    """Predict what the lake has and has no outcome yet, once for each version, into the table `predictions`.

    Returns:
        How many rows were predicted now; none where rows have no time or no key, or come with their outcome.
    """
    problem, lake = workspace.problem, workspace.lake
    schema, labels = problem.schema, problem.labels
    if labels is schema or not schema.key or not schema.event_time:
        return 0
    release = champion(workspace)
    key = {name: schema.dtypes[name] for name in schema.key}
    done = lake.read(TABLE, key | {"version": pl.Int64()}).filter(pl.col("version") == release.version)
    ahead = lake.scan(schema).filter(pl.col(schema.event_time) > now).select(schema.names)
    for other in (lake.scan(labels), done):
        ahead = ahead.join(other.select(schema.key), on=schema.key, how="anti")
    if (rows := ahead.sort(schema.event_time, *schema.key).collect()).is_empty():
        return 0
    predicted = predict_rows(workspace, release, rows, now=now)
    kept = [*schema.key, schema.event_time, *predicted.columns[len(rows.columns) :]]
    made = pl.lit(now).cast(pl.Datetime("us", "UTC")).alias("made")
    keys = hashlib.sha256(rows.select(schema.key).write_csv().encode()).hexdigest()
    batch = f"{release.number}-{now.isoformat()}-{keys}"
    lake.append(TABLE, predicted.select(*kept, made), batch=batch)
    return len(rows)


def _write(rows: pl.DataFrame, out: Path) -> None:
    """Write Parquet or CSV by the ending of the name, whole or not at all."""
    draft = out.with_name(f".{out.name}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        rows.write_csv(draft) if out.suffix.lower() == ".csv" else rows.write_parquet(draft)
        draft.replace(out)
    except OSError as error:
        raise BadInput(f"{out} can't be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            draft.unlink()
