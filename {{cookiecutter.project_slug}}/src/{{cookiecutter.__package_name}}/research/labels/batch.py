"""`labels import`: what annotators answered in Label Studio, as a batch of the table of labels in the inbox.

A row that has its label, in the lake or in a batch that waits in the inbox, keeps it; who answered what, when, and how
many agree is in the table `annotations`. So a second import of the same answers, in this file or another, changes
nothing.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import narwhals as nw
import polars as pl

from {{cookiecutter.__package_name}}.core.contracts.schema import AT, DTYPES, KNOWN
from {{cookiecutter.__package_name}}.core.contracts.validation import (
    RULES,
    ContractViolation,
    parse,
    with_violations,
)
from {{cookiecutter.__package_name}}.core.errors import BadInput, whole
from {{cookiecutter.__package_name}}.core.store import erasures
from {{cookiecutter.__package_name}}.core.workspace import Workspace
from {{cookiecutter.__package_name}}.research.labels import labelstudio, table
from {{cookiecutter.__package_name}}.research.labels.labelstudio import RawAnnotation

TABLE = "annotations"
PREFIX = "annotated-"  # of the batches' names
BEFORE = "_before"


@dataclass(frozen=True)
class ImportResult:
    """What became of an export.

    Attributes:
        labels: How many rows get a label by it.
        batch: The batch that was written into the inbox, if any.
        left_out: How many rows or annotations give no label, by the reason.
        annotations: How many were added to the table `annotations`.
    """

    labels: int
    batch: str | None
    left_out: dict[str, int]
    annotations: int

    def __str__(self) -> str:
        """A line for the batch, and one for what is none of it."""
        lines = [
            f"{self.labels} labels -> {self.batch}: run or ingest takes them in" if self.batch else "no new label",
            ", ".join(f"{number} {reason}" for reason, number in self.left_out.items() if number),
            f"{self.annotations} annotations are new in the table {TABLE}",
        ]
        return "\n".join(filter(None, lines))


def import_annotations(workspace: Workspace, file: Path) -> ImportResult:
    """Import an export of Label Studio, JSON or JSON-MIN, as a batch of labels.

    Raises:
        BadInput: The problem takes no labels by people, the file is no export of its tasks, or has an answer that the
            contract does not let in. Nothing is written then.
    """
    problem = workspace.problem
    labels, target = table.require(problem), problem.target.name
    exported = labelstudio.read(file)
    answered = [one for one in exported if one.answer is not None and not one.cancelled]
    typed = _typed(workspace, file, answered)
    annotations = erasures.without(workspace.lake, problem.schema, typed)
    entities = _entities(workspace, file, annotations)
    counted = decide(annotations, labels.key, target)
    decided = counted.unique(labels.key).select(*labels.key, pl.col("_label").alias(target), KNOWN)
    decided = _by_now(workspace, file, decided.drop_nulls(target)).join(entities, on=labels.key)
    early = decided.filter(pl.col(AT) > pl.col(KNOWN)) if problem.schema.event_time else decided.clear()
    rows = _rows(workspace, decided.join(early, on=labels.key, how="anti"))
    stored = _stored(workspace)
    before = rows.join(stored, on=labels.key, suffix=BEFORE)
    otherwise = before.filter(pl.col(target) != pl.col(f"{target}{BEFORE}"))
    new = rows.join(stored, on=labels.key, how="anti")
    left_out = {
        "rows had their label before": len(before),
        "of them are answered otherwise now, and keep it": len(otherwise),
        "rows are tied": counted.filter(pl.col("_label").is_null()).n_unique(labels.key),
        "rows were answered before they are predicted": len(early),
        "annotations were cancelled": sum(one.cancelled for one in exported),
        "have no answer": sum(one.answer is None and not one.cancelled for one in exported),
        "are about erased rows": len(typed) - len(annotations),
    }
    batch = _write(workspace, new) if len(new) else None
    return ImportResult(len(new), batch, left_out, _store(workspace, counted))


def decide(annotations: pl.DataFrame, key: Sequence[str], answer: str) -> pl.DataFrame:
    """Find the label of each row by what its annotators answered.

    Of an annotator who answered about a row more than once, the newest answer counts. What most annotators answered is
    the label; a tie is none. Of numbers, the label is the answer in the middle, of two in the middle the lower: always
    an answer that somebody gave.

    Args:
        annotations: One a row: the key's columns, the answer's, `_annotator`, `_created` and `_id`.
        key: The columns of the key.
        answer: The column of the answer.

    Returns:
        The annotations that count, with `_label`, null where the annotators tie; `_known`, when the newest of the
        answers that agree with the label was given, of a tie the newest of all; `_annotators`, how many they are; and
        `_agreement`, the share of them whose answer is the label, of a tie one of the most frequent answers.
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
            pl.col("_created").filter(agrees).max().over(key).alias(KNOWN),
            _agreement=pl.col("_votes").filter(agrees).max().over(key) / pl.col("_annotators"),
        )
        .sort(*key, "_annotator")
    )


def _typed(workspace: Workspace, file: Path, answered: Sequence[RawAnnotation]) -> pl.DataFrame:
    """A row an annotation: its key and answer in the contract's types, who made it, and when."""
    labels, target = workspace.problem.labels, workspace.problem.target
    for one in answered:
        if set(one.key) != set(labels.key):
            msg = f"{file}: task {one.task} has the key {', '.join(one.key)}, not {', '.join(labels.key)}"
            raise BadInput(f"{msg}: it is of another project")
    schema = labels.without([name for name in labels.names if name not in {*labels.key, target.name}])
    text = [{**one.key, target.name: one.answer} for one in answered]
    try:
        rows = parse(pl.DataFrame(text, schema=dict.fromkeys(schema.names, pl.String())), schema)
    except ContractViolation as error:
        raise BadInput(f"{file} breaks the contract of {labels.name}: {error}; correct it in Label Studio") from error
    for one, violated in zip(answered, with_violations(rows, schema)[RULES], strict=True):
        if len(violated):
            msg = f"{file}: task {one.task}, {one.answer!r}, breaks the contract of {labels.name}"
            raise BadInput(f"{msg}: {', '.join(violated)}; correct it in Label Studio")
    return rows.with_columns(
        pl.Series("_task", [one.task for one in answered], pl.String),
        pl.Series("_annotator", [one.annotator for one in answered], pl.String),
        pl.Series("_created", [one.created for one in answered], DTYPES[datetime]),
        pl.Series("_id", [one.id for one in answered], pl.String),
    )


def _entities(workspace: Workspace, file: Path, annotations: pl.DataFrame) -> pl.DataFrame:
    """The rows that were annotated: their keys, when they are predicted, and what labels copy from them."""
    schema = workspace.problem.schema
    stored = nw.from_native(workspace.lake.scan(schema)).with_columns(schema.predicted.alias(AT)).to_native()
    columns = [*schema.key, AT, *table.copied(workspace.problem)]
    rows = stored.select(columns).join(annotations.lazy(), on=schema.key, how="semi").collect()
    for unknown in annotations.join(rows, on=schema.key, how="anti").to_dicts():
        key = ", ".join(f"{name} {unknown[name]}" for name in schema.key)
        msg = f"{file}: task {unknown['_task']} is about {key}, which {schema.name} does not have"
        raise BadInput(f"{msg}: it is of another project, or not ingested yet")
    return rows


def _by_now(workspace: Workspace, file: Path, decided: pl.DataFrame) -> pl.DataFrame:
    """The same known by now at the latest: the clock of data stands still while people answer."""
    if later := decided[KNOWN].filter(decided[KNOWN] > datetime.now(UTC)).to_list():
        msg = f"{file}: {len(later)} labels are from the future, as of {max(later):%Y-%m-%d %H:%M} UTC"
        raise BadInput(f"{msg}: set the clock of Label Studio's machine right, and the file's `created_at`")
    if workspace.settings.clock == "wall":
        return decided
    return decided.with_columns(pl.min_horizontal(KNOWN, pl.lit(workspace.now(), dtype=DTYPES[datetime])))


def _rows(workspace: Workspace, decided: pl.DataFrame) -> pl.DataFrame:
    """Labels as rows of their table, in the order of their key; what annotations don't say is missing."""
    labels = workspace.problem.labels
    if labels.time:
        decided = decided.with_columns(pl.col(KNOWN).cast(labels.dtypes[labels.time]).alias(labels.time))
    empty = pl.DataFrame(schema={name: labels.dtypes[name] for name in labels.names})
    return pl.concat([empty, decided], how="diagonal").select(labels.names).sort(labels.key)


def _folder(workspace: Workspace) -> Path:
    return workspace.settings.inbox / workspace.problem.labels.name


def _stored(workspace: Workspace) -> pl.DataFrame:
    """The labels of the lake, and of the batches of annotations that wait in the inbox."""
    labels, target = workspace.problem.labels, workspace.problem.target.name
    waiting = sorted(workspace.path(_folder(workspace)).glob(f"{PREFIX}*.parquet"))
    tables = [workspace.lake.scan(labels), *map(pl.scan_parquet, waiting)]
    return pl.concat([rows.select(*labels.key, target) for rows in tables]).unique(labels.key).collect()


def _write(workspace: Workspace, rows: pl.DataFrame) -> str:
    """Write a batch into the inbox, atomically; its name is a hash of its content."""
    path = _folder(workspace) / f"{PREFIX}{_hash(rows)[:16]}.parquet"
    with whole(workspace.path(path)) as draft:  # the inbox leaves drafts where they are
        rows.write_parquet(draft)
    return path.as_posix()


def _store(workspace: Workspace, counted: pl.DataFrame) -> int:
    """Append each annotation that counts to their table, once, with the agreement on its row by then."""
    key, target = workspace.problem.labels.key, workspace.problem.target.name
    columns = {"_annotator": "annotator", "_created": "created", "_agreement": "agreement", "_annotators": "annotators"}
    rows = counted.select(*key, pl.col(target).cast(pl.String).alias("label"), *columns).rename(columns)

    def attempt(version: int) -> int:
        stored = workspace.lake.read(TABLE, dict(rows.schema)).collect()
        left = erasures.without(workspace.lake, workspace.problem.schema, rows)
        new = left.join(stored, on=[*key, "label", "annotator", "created"], how="anti")
        if len(new):
            workspace.lake.append(TABLE, new, batch=_hash(new), expected=version)
        return len(new)

    return workspace.lake.retry(TABLE, attempt)


def _hash(rows: pl.DataFrame) -> str:
    return hashlib.sha256(rows.write_csv().encode()).hexdigest()
