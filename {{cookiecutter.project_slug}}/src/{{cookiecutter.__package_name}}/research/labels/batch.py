"""`labels import`: what annotators answered in Label Studio, as a batch of the table of labels in the inbox.

The rule by which annotations become labels is in `annotations`. A row that has its label, in the lake or in a batch
that waits in the inbox, keeps it; who said what, when, and how many agree is kept in the table `annotations`. So a
second import of the same answers, in this file or another, changes nothing.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import narwhals as nw
import polars as pl

from {{cookiecutter.__package_name}}.core.contracts.schema import AT, DTYPES, KNOWN, Category, Schema
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
from {{cookiecutter.__package_name}}.research.labels.annotations import Annotation, Decision, decide
from {{cookiecutter.__package_name}}.research.labels.labelstudio import Given

TABLE = "annotations"
PREFIX = "annotated-"  # of the batches' names
BEFORE, NTH = "_before", "_nth"


@dataclass(frozen=True)
class Imported:
    """What became of an export.

    Attributes:
        labels: How many rows get a label by it.
        batch: The batch that was written into the inbox, if any.
        there: How many rows had their label before.
        otherwise: Of how many of these the annotators now say something else; the label stays.
        ties: Of how many rows the annotators tie, so that there is no label.
        early: How many rows were answered before they are predicted, which no label may be.
        cancelled: How many annotations were cancelled: the task was skipped.
        empty: How many have no answer.
        erased: How many are about rows that were erased.
        annotations: How many were added to the table `annotations`.
    """

    labels: int
    batch: str | None
    there: int
    otherwise: int
    ties: int
    early: int
    cancelled: int
    empty: int
    erased: int
    annotations: int

    def __str__(self) -> str:
        """A line for the batch, and one for what is none of it."""
        head = f"{self.labels} labels -> {self.batch}: run or ingest takes them in" if self.batch else "no new label"
        others = {
            "rows had their label before": self.there,
            "of them are answered otherwise now, and keep it": self.otherwise,
            "rows are tied": self.ties,
            "rows were answered before they are predicted": self.early,
            "annotations were cancelled": self.cancelled,
            "have no answer": self.empty,
            "are about erased rows": self.erased,
        }
        told = ", ".join(f"{number} {what}" for what, number in others.items() if number)
        kept = f"{self.annotations} annotations are new in the table {TABLE}"
        return "\n".join([head, *([told] if told else []), kept])


def bring(workspace: Workspace, file: Path) -> Imported:
    """Bring an export of Label Studio, JSON or JSON-MIN, in as a batch of labels.

    Raises:
        BadInput: The problem takes no labels by people, the file is no export of its tasks, or has an answer that the
            contract does not let in. Nothing is written then.
    """
    labels, target = table.require(workspace.problem), workspace.problem.target.name
    given = labelstudio.read(file)
    counted = [one for one in given if one.answer is not None and not one.cancelled]
    typed = _typed(workspace, file, counted).with_row_index(NTH)
    answers = erasures.without(workspace.lake, workspace.problem.schema, typed)
    counted, answers = [counted[nth] for nth in answers[NTH]], answers.drop(NTH)
    subject = _subject(workspace, file, counted, answers)
    decisions = decide(_annotations(counted, answers, labels.key))
    decided = _by_now(workspace, file, _decided(labels, target, decisions)).join(subject, on=labels.key)
    early = decided.filter(pl.col(AT) > pl.col(KNOWN)) if workspace.problem.schema.event_time else decided.head(0)
    rows = _rows(labels, decided.join(early, on=labels.key, how="anti"))
    stored = _stored(workspace, labels, target)
    there = rows.join(stored, on=labels.key, suffix=BEFORE)
    fresh = rows.join(stored, on=labels.key, how="anti")
    return Imported(
        labels=len(fresh),
        batch=_written(workspace, labels, fresh) if len(fresh) else None,
        there=len(there),
        otherwise=len(there.filter(pl.col(target) != pl.col(f"{target}{BEFORE}"))),
        ties=sum(decision.label is None for decision in decisions),
        early=len(early),
        cancelled=sum(one.cancelled for one in given),
        erased=len(typed) - len(answers),
        empty=sum(one.answer is None and not one.cancelled for one in given),
        annotations=_kept(workspace, labels, decisions),
    )


def _typed(workspace: Workspace, file: Path, given: Sequence[Given]) -> pl.DataFrame:
    """Keys and answers in the contract's types, a row an annotation."""
    labels, target = workspace.problem.labels, workspace.problem.target
    for one in given:
        if set(one.key) != set(labels.key):
            msg = f"{file}: task {one.task} has the key {', '.join(one.key)}, not {', '.join(labels.key)}"
            raise BadInput(f"{msg}: it is of another project")
    _require_classes(workspace, file, given)
    asked = labels.without([name for name in labels.names if name not in {*labels.key, target.name}])
    text = [{**one.key, target.name: one.answer} for one in given]
    try:
        rows = parse(pl.DataFrame(text, schema=dict.fromkeys(asked.names, pl.String())), asked)
    except ContractViolation as breach:
        raise BadInput(f"{file} breaks the contract of {labels.name}: {breach}; correct it in Label Studio") from breach
    for one, broken in zip(given, with_violations(rows, asked)[RULES], strict=True):
        if len(broken):
            msg = f"{file}: task {one.task}, {one.answer!r}, breaks the contract of {labels.name}: {', '.join(broken)}"
            raise BadInput(f"{msg}; correct it in Label Studio")
    return rows


def _require_classes(workspace: Workspace, file: Path, given: Sequence[Given]) -> None:
    """Refuse an answer that is no class; where the contract lets classes grow, or knows none, any text is one."""
    target, classes = workspace.problem.target, table.classes(workspace)
    category = target.role(Category)
    for one in given if classes and not (category and category.grows) else ():
        if one.answer not in classes:
            name = f"{workspace.problem.labels.name}.{target.name}"
            msg = f"{file}: task {one.task}: {one.answer!r} is no class of {name} ({', '.join(classes)})"
            way = "" if target.kind is bool else ", or name it by Category() in shared/contract.py"
            raise BadInput(f"{msg}: correct it in Label Studio{way}")


def _subject(workspace: Workspace, file: Path, given: Sequence[Given], answers: pl.DataFrame) -> pl.DataFrame:
    """The rows that were asked about: their keys, when they are predicted, and what labels copy from them."""
    problem = workspace.problem
    schema, key = problem.schema, problem.schema.key
    stored = nw.from_native(workspace.lake.scan(schema)).with_columns(schema.predicted.alias(AT)).to_native()
    wanted = answers.lazy().select(key).unique()
    rows = stored.select(*key, AT, *table.copied(problem)).join(wanted, on=key, how="semi").collect()
    for one, found in zip(given, answers.join(rows.with_columns(_=1), on=key, how="left")["_"], strict=True):
        if found is None:
            msg = f"{file}: task {one.task} is about {', '.join(f'{k} {v}' for k, v in one.key.items())}"
            raise BadInput(f"{msg}, which {schema.name} does not have: it is of another project, or not ingested yet")
    return rows


def _annotations(given: Sequence[Given], answers: pl.DataFrame, key: list[str]) -> Iterator[Annotation]:
    keys = answers.select(key).iter_rows()
    for one, parts, answer in zip(given, keys, answers.drop(key).to_series(), strict=True):
        yield Annotation(parts, one.annotator, one.created, answer, one.id)


def _decided(labels: Schema, target: str, decisions: Sequence[Decision]) -> pl.DataFrame:
    """The decisions for a label: the rows' keys, their labels, and since when these are known."""
    dtypes = {name: labels.dtypes[name] for name in (*labels.key, target)} | {KNOWN: DTYPES[datetime]}
    rows = [(*one.key, one.label, one.known) for one in decisions if one.label is not None]
    return pl.DataFrame(rows, schema=dtypes, orient="row")


def _by_now(workspace: Workspace, file: Path, decided: pl.DataFrame) -> pl.DataFrame:
    """The same known by now at the latest: the clock of data stands still while people answer."""
    if later := decided[KNOWN].filter(decided[KNOWN] > datetime.now(UTC)).to_list():
        msg = f"{file}: {len(later)} labels are from the future, as of {max(later):%Y-%m-%d %H:%M} UTC"
        raise BadInput(f"{msg}: set the clock of Label Studio's machine right, and the file's `created_at`")
    if workspace.settings.clock == "wall":
        return decided
    return decided.with_columns(pl.min_horizontal(KNOWN, pl.lit(workspace.now(), dtype=DTYPES[datetime])))


def _rows(labels: Schema, decided: pl.DataFrame) -> pl.DataFrame:
    """Decisions as rows of the table of labels, in the order of their key; what annotations don't say is missing."""
    time = [pl.col(KNOWN).cast(labels.dtypes[name]).alias(name) for name in [labels.time] if name]
    rows = decided.with_columns(time)
    absent = [pl.lit(None, dtype=labels.dtypes[name]).alias(name) for name in labels.names if name not in rows.columns]
    return rows.with_columns(absent).select(labels.names).sort(labels.key)


def _stored(workspace: Workspace, labels: Schema, target: str) -> pl.DataFrame:
    """The labels of the lake, and of the batches of annotations that wait in the inbox."""
    waiting = sorted(_folder(workspace, labels).glob(f"{PREFIX}*.parquet"))
    tables = [workspace.lake.scan(labels), *map(pl.scan_parquet, waiting)]
    return pl.concat([rows.select(*labels.key, target) for rows in tables]).unique(labels.key).collect()


def _folder(workspace: Workspace, labels: Schema) -> Path:
    return workspace.path(workspace.settings.inbox) / labels.name


def _written(workspace: Workspace, labels: Schema, rows: pl.DataFrame) -> str:
    """Write a batch into the inbox, as a whole; its name is a hash of what it holds."""
    folder, name = _folder(workspace, labels), f"{PREFIX}{_hash(rows)[:16]}.parquet"
    with whole(folder / name) as draft:  # the inbox leaves drafts where they are
        rows.write_parquet(draft)
    return (workspace.settings.inbox / labels.name / name).as_posix()


def _kept(workspace: Workspace, labels: Schema, decisions: Sequence[Decision]) -> int:
    """Keep each annotation that counts, once, with the agreement on its row by then: how many are new."""
    key = {name: labels.dtypes[name] for name in labels.key}
    dtypes = key | {
        "label": pl.String(),
        "annotator": pl.String(),
        "created": DTYPES[datetime],
        "agreement": pl.Float64(),
        "annotators": pl.Int64(),
    }
    rows = [
        (*one.key, _text(given.answer), given.annotator, given.created, one.agreement, len(one.counted))
        for one in decisions
        for given in one.counted
    ]
    said = pl.DataFrame(rows, schema=dtypes, orient="row")
    same = [*labels.key, "label", "annotator", "created"]
    new = said.join(workspace.lake.read(TABLE, dtypes).collect(), on=same, how="anti")
    if len(new):
        workspace.lake.append(TABLE, new, batch=_hash(new))
    return len(new)


def _text(answer: object) -> str:
    return str(answer).lower() if isinstance(answer, bool) else str(answer)


def _hash(rows: pl.DataFrame) -> str:
    return hashlib.sha256(rows.write_csv().encode()).hexdigest()
