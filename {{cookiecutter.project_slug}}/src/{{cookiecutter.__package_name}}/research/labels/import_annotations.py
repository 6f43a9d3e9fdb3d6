"""`labels import`: aggregate annotations from Label Studio into a batch of labels in the inbox.

Existing labels, in the lake or in the inbox, don't change. The annotations with their agreement are appended to the
table `annotations`. The import is idempotent.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import narwhals as nw
import polars as pl

from {{cookiecutter.__package_name}}.core.contracts.schema import AVAILABLE_AT, DTYPES, PREDICTED_AT
from {{cookiecutter.__package_name}}.core.contracts.validation import (
    VIOLATIONS,
    ContractViolation,
    parse,
    with_violations,
)
from {{cookiecutter.__package_name}}.core.errors import InputError, atomic_write
from {{cookiecutter.__package_name}}.core.store import erasures
from {{cookiecutter.__package_name}}.core.workspace import Workspace
from {{cookiecutter.__package_name}}.research.labels import labelstudio, schema
from {{cookiecutter.__package_name}}.research.labels.labelstudio import RawAnnotation

ANNOTATIONS = "annotations"
PREFIX = "annotated-"  # of the file names of batches
STORED_SUFFIX = "_before"


@dataclass(frozen=True)
class ImportResult:
    """The result of importing annotations.

    Attributes:
        labels: The number of new labels.
        batch: The batch written to the inbox, if any.
        left_out: The number of rows or annotations that give no new label, by reason.
        annotations: The number of annotations appended to the table `annotations`.
    """

    labels: int
    batch: str | None
    left_out: dict[str, int]
    annotations: int

    def __str__(self) -> str:
        """The result as text."""
        lines = [
            f"{self.labels} labels -> {self.batch}: ingest it with run or ingest" if self.batch else "no new label",
            ", ".join(f"{number} {reason}" for reason, number in self.left_out.items() if number),
            f"{self.annotations} annotations are new in the table {ANNOTATIONS}",
        ]
        return "\n".join(filter(None, lines))


def import_annotations(workspace: Workspace, file: Path) -> ImportResult:
    """Import an export of Label Studio, JSON or JSON-MIN, as a batch of labels.

    Raises:
        InputError: Annotations can't fill the table of labels, the file is not an export of the project's
            tasks, or an answer violates the contract. Nothing is written in these cases.
    """
    problem = workspace.problem
    labels, target = schema.validate_labels_table(problem), problem.target.name
    exported = labelstudio.read(file)
    answered = [one for one in exported if one.answer is not None and not one.cancelled]
    typed = _typed(workspace, file, answered)
    annotations = erasures.drop_erased(workspace.lake, typed)
    entities = _entities(workspace, file, annotations)
    counted = aggregate(annotations, labels.key, target)
    decided = counted.unique(labels.key).select(*labels.key, pl.col("_label").alias(target), AVAILABLE_AT)
    decided = _by_now(workspace, file, decided.drop_nulls(target)).join(entities, on=labels.key)
    early = (
        decided.filter(pl.col(PREDICTED_AT) > pl.col(AVAILABLE_AT)) if problem.schema.event_time else decided.clear()
    )
    rows = _rows(workspace, decided.join(early, on=labels.key, how="anti"))
    stored = _stored(workspace)
    before = rows.join(stored, on=labels.key, suffix=STORED_SUFFIX)
    otherwise = before.filter(pl.col(target) != pl.col(f"{target}{STORED_SUFFIX}"))
    new = rows.join(stored, on=labels.key, how="anti")
    left_out = {
        "rows were labelled before": len(before),
        "of them have a different annotation, and don't change": len(otherwise),
        "rows are tied": counted.filter(pl.col("_label").is_null()).n_unique(labels.key),
        "rows were annotated before their time of prediction": len(early),
        "annotations were cancelled": sum(one.cancelled for one in exported),
        "have no answer": sum(one.answer is None and not one.cancelled for one in exported),
        "are about erased rows": len(typed) - len(annotations),
    }
    batch = _write(workspace, new) if len(new) else None
    return ImportResult(len(new), batch, left_out, _store(workspace, counted))


def aggregate(annotations: pl.DataFrame, key: Sequence[str], answer: str) -> pl.DataFrame:
    """Aggregate the annotations of each row into a label.

    The newest answer of each annotator counts. The label is the most frequent answer; a tie gives no label. For
    numbers, the label is the lower median.

    Args:
        annotations: One per row: the columns of the key, the answer, `_annotator`, `_created` and `_id`.
        key: The columns of the key.
        answer: The column of the answer.

    Returns:
        The newest annotation of each annotator, with these columns for the annotated row:
        `_label`: the label, or null for a tie.
        `_available_at`: the time of the newest annotation that agrees with the label; for a tie, of all.
        `_annotators`: the number of annotators.
        `_agreement`: the share of annotators who gave the label; for a tie, one of the tied answers.
    """
    given, modes = pl.col(answer), pl.col(answer).mode()
    dtype = annotations[answer].dtype
    label = given.quantile(0.5, "lower") if dtype.is_numeric() else pl.when(modes.len() == 1).then(modes.first())
    newest = annotations.sort("_created", pl.col("_id").str.zfill(20), answer).unique([*key, "_annotator"], keep="last")
    decided = newest.group_by(key).agg(label.cast(dtype).alias("_label"), pl.len().cast(pl.Int64).alias("_annotators"))
    agrees = pl.col("_label").is_null() | (given == pl.col("_label"))
    return (
        newest.join(decided, on=key)
        .with_columns(_votes=pl.len().over(*key, answer))
        .with_columns(
            pl.col("_created").filter(agrees).max().over(key).alias(AVAILABLE_AT),
            _agreement=pl.col("_votes").filter(agrees).max().over(key) / pl.col("_annotators"),
        )
        .sort(*key, "_annotator")
    )


def _typed(workspace: Workspace, file: Path, answered: Sequence[RawAnnotation]) -> pl.DataFrame:
    """One row per annotation: key and answer in the contract's types, task, annotator, time and id."""
    labels, target = workspace.problem.labels, workspace.problem.target
    for one in answered:
        if set(one.key) != set(labels.key):
            msg = f"{file}: task {one.task} has the key {', '.join(one.key)}, not {', '.join(labels.key)}"
            raise InputError(f"{msg}: it belongs to another project")
    schema = labels.without([name for name in labels.names if name not in {*labels.key, target.name}])
    words = dict(zip(workspace.problem.words, ("true", "false"), strict=False))
    text = [{**one.key, target.name: words.get(one.answer or "", one.answer)} for one in answered]
    try:
        rows = parse(pl.DataFrame(text, schema=dict.fromkeys(schema.names, pl.String())), schema)
    except ContractViolation as error:
        raise InputError(
            f"{file} violates the contract of {labels.name}: {error}; correct it in Label Studio"
        ) from error
    for one, violated in zip(answered, with_violations(rows, schema)[VIOLATIONS], strict=True):
        if len(violated):
            msg = f"{file}: task {one.task}, {one.answer!r}, violates the contract of {labels.name}"
            raise InputError(f"{msg}: {', '.join(violated)}; correct it in Label Studio")
    return rows.with_columns(
        pl.Series("_task", [one.task for one in answered], pl.String),
        pl.Series("_annotator", [one.annotator for one in answered], pl.String),
        pl.Series("_created", [one.created for one in answered], DTYPES[datetime]),
        pl.Series("_id", [one.id for one in answered], pl.String),
    )


def _entities(workspace: Workspace, file: Path, annotations: pl.DataFrame) -> pl.DataFrame:
    """The annotated rows: key, time of prediction, and the columns that labels copy."""
    entity = workspace.problem.schema
    stored = (
        nw.from_native(workspace.lake.scan(entity)).with_columns(entity.predicted_at.alias(PREDICTED_AT)).to_native()
    )
    columns = [*entity.key, PREDICTED_AT, *schema.copied(workspace.problem)]
    rows = stored.select(columns).join(annotations.lazy(), on=entity.key, how="semi").collect()
    for unknown in annotations.join(rows, on=entity.key, how="anti").to_dicts():
        key = ", ".join(f"{name} {unknown[name]}" for name in entity.key)
        msg = f"{file}: task {unknown['_task']} refers to {key}, which is not in {entity.name}"
        raise InputError(f"{msg}: it belongs to another project, or is not ingested yet")
    return rows


def _by_now(workspace: Workspace, file: Path, decided: pl.DataFrame) -> pl.DataFrame:
    """The labels, with `_available_at` capped at the current time if `clock` is `data`."""
    if later := decided[AVAILABLE_AT].filter(decided[AVAILABLE_AT] > datetime.now(UTC)).to_list():
        msg = f"{file}: {len(later)} labels are from the future, such as {max(later):%Y-%m-%d %H:%M} UTC"
        raise InputError(f"{msg}: correct the clock of the Label Studio server and `created_at` in the file")
    if workspace.settings.clock == "wall":
        return decided
    return decided.with_columns(pl.min_horizontal(AVAILABLE_AT, pl.lit(workspace.now(), dtype=DTYPES[datetime])))


def _rows(workspace: Workspace, decided: pl.DataFrame) -> pl.DataFrame:
    """Labels as rows of their table, sorted by key; other columns are null."""
    labels = workspace.problem.labels
    if at := schema.annotated_at(workspace.problem):
        decided = decided.with_columns(pl.col(AVAILABLE_AT).cast(labels.dtypes[at]).alias(at))
    empty = pl.DataFrame(schema={name: labels.dtypes[name] for name in labels.names})
    return pl.concat([empty, decided], how="diagonal").select(labels.names).sort(labels.key)


def _folder(workspace: Workspace) -> Path:
    return workspace.settings.inbox / workspace.problem.labels.name


def _stored(workspace: Workspace) -> pl.DataFrame:
    """The labels of the lake, and of the batches of annotations in the inbox."""
    labels, target = workspace.problem.labels, workspace.problem.target.name
    waiting = sorted(workspace.path(_folder(workspace)).glob(f"{PREFIX}*.parquet"))
    tables = [workspace.lake.scan(labels), *map(pl.scan_parquet, waiting)]
    known = pl.concat([rows.select(*labels.key, target) for rows in tables]).drop_nulls(target)
    return known.unique(labels.key).collect()


def _write(workspace: Workspace, rows: pl.DataFrame) -> str:
    """Write a batch into the inbox, atomically; its name is a hash of its content."""
    path = _folder(workspace) / f"{PREFIX}{_hash(rows)[:16]}.parquet"
    with atomic_write(workspace.path(path)) as draft:  # ingestion skips partial files
        rows.write_parquet(draft)
    return path.as_posix()


def _store(workspace: Workspace, counted: pl.DataFrame) -> int:
    """Append new annotations with the agreement on their row; return how many."""
    key, target = workspace.problem.labels.key, workspace.problem.target.name
    columns = {"_annotator": "annotator", "_created": "created", "_agreement": "agreement", "_annotators": "annotators"}
    rows = counted.select(*key, pl.col(target).cast(pl.String).alias("label"), *columns).rename(columns)

    def attempt(version: int) -> int:
        stored = workspace.lake.read(ANNOTATIONS, dict(rows.schema)).collect()
        left = erasures.drop_erased(workspace.lake, rows)
        new = left.join(stored, on=[*key, "label", "annotator", "created"], how="anti")
        if len(new):
            workspace.lake.append(ANNOTATIONS, new, batch=_hash(new), expected=version)
        return len(new)

    return workspace.lake.retry(ANNOTATIONS, attempt)


def _hash(rows: pl.DataFrame) -> str:
    return hashlib.sha256(rows.write_csv().encode()).hexdigest()
