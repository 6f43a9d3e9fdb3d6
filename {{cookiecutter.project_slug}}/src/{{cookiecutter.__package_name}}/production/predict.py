"""Predictions by the champion: for the rows of a file, and for what is coming."""

import hashlib
import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from {{cookiecutter.__package_name}}.production.checkpoint import Checkpoint, Job
from {{cookiecutter.__package_name}}.production.ingest import chunks, digest_of, typed
from {{cookiecutter.__package_name}}.shared import BadInput, Refused, dataset
from {{cookiecutter.__package_name}}.shared.checks import RULES, ContractBreach, conform, marked
from {{cookiecutter.__package_name}}.shared.dataset import History
from {{cookiecutter.__package_name}}.shared.live import PREDICTIONS
from {{cookiecutter.__package_name}}.shared.provenance import code_hash
from {{cookiecutter.__package_name}}.shared.release import Release
from {{cookiecutter.__package_name}}.shared.schema import Personal, Schema
from {{cookiecutter.__package_name}}.shared.workspace import Workspace

log = logging.getLogger(__name__)

ROW, LINE = "_row", "_line"
CHUNK = 50_000  # rows of a file, which are in memory at the same time


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
    history = history or dataset.known(workspace.problem, workspace.lake, as_of=now)
    return dataset.to_predict(workspace.problem, rows.with_row_index(ROW), history, now=now).sort(ROW).drop(ROW)


def predict(workspace: Workspace, file: Path, *, out: Path | None = None, now: datetime | None = None) -> Predicted:
    """Predict a file's rows into another file, without personal columns; a row that breaks the contract gets reasons.

    The file is read, and its answers are written, chunk by chunk. Stopped in between, the same command goes on, as of
    the time when it was first given. Personal and forbidden columns that are no keys may be missing.

    Raises:
        BadInput: The file can't be read, its columns are not the contract's, or the answers can't be written there.
        Refused: There is no champion.
    """
    release = champion(workspace)
    target = out or workspace.path(workspace.settings.reports) / f"{file.stem}-predicted{file.suffix}"
    if target.suffix.lower() not in {".parquet", ".csv"}:
        raise BadInput(f"{target} ends in {target.suffix!r}: answers are .parquet or .csv")
    same = (digest_of(file), file.suffix, release.number, release.run_id, code_hash(workspace.root), CHUNK, now)
    job = hashlib.sha256(repr(same).encode()).hexdigest()
    checkpoint = Checkpoint(target)
    with checkpoint.alone():
        _predict_chunks(workspace, release, file, checkpoint, _begun(workspace, checkpoint, job, now))
        rejected, rows = checkpoint.joined().select(pl.col("error").count(), pl.len()).collect().row(0)
        checkpoint.finish()
    return Predicted(rows - rejected, rejected, release.version, target.as_posix())


def _begun(workspace: Workspace, checkpoint: Checkpoint, job: str, now: datetime | None) -> Job:
    """The job that goes on, or is begun: its parts are of one time and of one state of the tables."""
    moment, found = datetime.now(UTC), checkpoint.job()
    keep = timedelta(days=workspace.settings.keep_days)
    if found is not None and found.id == job and moment - found.begun < keep:
        return found
    versions = dataset.versions(workspace.problem, workspace.lake)
    begun = Job(id=job, begun=moment, now=workspace.now(now), versions=versions)
    checkpoint.begin(begun)
    return begun


def _predict_chunks(workspace: Workspace, release: Release, file: Path, checkpoint: Checkpoint, job: Job) -> None:
    """Answer the chunks of a file that have no part yet."""
    history = dataset.known(workspace.problem, workspace.lake, as_of=job.now, versions=job.versions)
    schema, done = workspace.problem.schema.request, len(checkpoint.parts())
    if done:
        log.info("predict   goes on after %d rows of %s", done * CHUNK, file)
    for nth, rows in enumerate(chunks(file, CHUNK, start=done * CHUNK), start=done):
        try:
            judged = _judged(typed(rows, schema, file), schema)
        except ContractBreach as breach:
            checkpoint.clear()
            where = f" from row {nth * CHUNK + 1} on" if nth else ""
            raise BadInput(f"{file}{where} breaks the contract of {schema.name}: {breach}") from breach
        checkpoint.add(nth, _answered(workspace, release, judged, history, now=job.now))
        log.info("predict   %d rows of %s", nth * CHUNK + len(rows), file)


def _judged(rows: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    """Rows of requests as the contract has them, each with its number and its error, if it breaks a rule.

    Raises:
        ContractBreach: A column is missing, unknown or of another type, or there are no rows.
    """
    asked = schema.without([name for name in schema.closed if name not in rows.columns])
    rules = pl.col(RULES)
    judged = marked(conform(rows, asked), asked).with_row_index(LINE)
    return judged.with_columns(error=pl.when(rules.list.len() > 0).then(rules.list.join("; "))).drop(RULES)


def _answered(
    workspace: Workspace, release: Release, judged: pl.DataFrame, history: History, *, now: datetime
) -> pl.DataFrame:
    """Judged rows with answers to those that keep the contract, without personal columns."""
    parts = [judged.filter(pl.col("error").is_not_null())]
    if len(kept := judged.filter(pl.col("error").is_null()).drop("error")):
        parts.append(predict_rows(workspace, release, kept, now=now, history=history))
    answers = pl.concat(parts, how="diagonal").sort(LINE)
    return answers.drop(LINE, *workspace.problem.schema.having(Personal), strict=False)


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
    done = lake.read(PREDICTIONS, key | {"version": pl.Int64()}).filter(pl.col("version") == release.version)
    ahead = lake.scan(schema).filter(pl.col(schema.event_time) > now).select(schema.names)
    for other in (lake.scan(labels), done):
        ahead = ahead.join(other.select(schema.key), on=schema.key, how="anti")
    if (rows := ahead.sort(schema.event_time, *schema.key).collect()).is_empty():
        return 0
    predicted = predict_rows(workspace, release, rows, now=now)
    kept = dict.fromkeys((*schema.key, schema.event_time, *predicted.columns[len(rows.columns) :]))
    made = pl.lit(now).cast(pl.Datetime("us", "UTC")).alias("made")
    keys = hashlib.sha256(rows.select(schema.key).write_csv().encode()).hexdigest()
    batch = f"{release.number}-{now.isoformat()}-{keys}"
    lake.append(PREDICTIONS, predicted.select(*kept, made), batch=batch, gains=True)  # a class is a column
    return len(rows)
