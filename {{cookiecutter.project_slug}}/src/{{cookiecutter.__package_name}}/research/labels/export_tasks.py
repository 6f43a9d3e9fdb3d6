"""`labels export`: sampled unlabelled rows as tasks of Label Studio, with predictions of the champion."""

import json
import logging
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import narwhals as nw
import numpy as np
import polars as pl

from {{cookiecutter.__package_name}}.core import datasets
from {{cookiecutter.__package_name}}.core.contracts.schema import Excluded, Personal, Task
from {{cookiecutter.__package_name}}.core.errors import InputError, NothingYet, Rejected, write_file
from {{cookiecutter.__package_name}}.core.models.evaluation import Floats
from {{cookiecutter.__package_name}}.core.store.releases import Release
from {{cookiecutter.__package_name}}.core.workspace import MODEL_NAME, Workspace
from {{cookiecutter.__package_name}}.research.labels import labelstudio, sampling, schema

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportResult:
    """The result of exporting tasks.

    Attributes:
        tasks: The number of tasks.
        unlabelled: The number of unlabelled rows.
        strategy: The sampling strategy.
        out: The file of tasks.
        interface: The file of the labelling interface.
    """

    tasks: int
    unlabelled: int
    strategy: str
    out: str
    interface: str

    def __str__(self) -> str:
        """Two lines of text."""
        return (
            f"{self.tasks} of {self.unlabelled} unlabelled rows, by {self.strategy} -> {self.out}\n"
            f"in Label Studio, paste {self.interface} as the labelling interface, then import the tasks"
        )


def export_tasks(
    workspace: Workspace, *, n: int, strategy: str = "margin", out: Path | None = None, now: datetime | None = None
) -> ExportResult:
    """Write sampled unlabelled rows as tasks, highest score first, and the labelling interface.

    A row is unlabelled if it is known and its event has happened, and it has no label. Which are
    worth most is decided by `margin` and `disagreement`, see `sampling`, or by chance, seeded by the model's seed; the
    same state gives the same tasks.

    Raises:
        InputError: The table of labels doesn't fit, or the strategy does not apply.
        Rejected: There is no unlabelled row.
    """
    problem = workspace.problem
    schema.validate_labels_table(problem)
    path = out or workspace.path(workspace.settings.reports) / "labels.json"
    if path.suffix.lower() != ".json":
        raise InputError(f"{path} ends in {path.suffix!r}: tasks are .json")
    moment, release, target = workspace.now(now), _champion(workspace, strategy), problem.target
    classes = schema.classes(workspace)
    if not classes and problem.task is not Task.REGRESSION:
        raise InputError(f"no class of {target.name} is known yet: name them by Category() in shared/contract.py")
    rows = _unlabelled(workspace, release, now=moment)
    output = release.predictor.predict(rows) if release else None
    chosen = sampling.highest(_scores(workspace, strategy, rows, output, now=moment), n)
    tasks = _tasks(workspace, rows[chosen])
    if release and output is not None:
        for task, prediction in zip(tasks, _predictions(release, output[chosen]), strict=True):
            task["predictions"] = [prediction]
    description = target.field.description
    question = f"{target.name}: {description}" if description else target.name
    interface = path.with_suffix(".xml")
    write_file(interface, labelstudio.interface(classes, question))
    write_file(path, json.dumps(tasks, ensure_ascii=False, allow_nan=False, indent=1) + "\n")
    return ExportResult(len(tasks), len(rows), strategy, path.as_posix(), interface.as_posix())


def _champion(workspace: Workspace, strategy: str) -> Release | None:
    release, target = workspace.releases.champion(), workspace.problem.target.name
    if strategy == "margin" and workspace.problem.task is Task.REGRESSION:
        raise InputError(f"margin compares classes, and {target} is a number: use --strategy disagreement or random")
    if release is None and strategy != "random":
        raise NothingYet(f"champion, which {strategy} needs,")
    return release


def _unlabelled(workspace: Workspace, release: Release | None, *, now: datetime) -> pl.DataFrame:
    """The unlabelled rows in the order of their key; with their features where there is a champion."""
    problem, lake = workspace.problem, workspace.lake
    schema, history = problem.schema, datasets.history_as_of(problem, lake, as_of=now)
    rows: pl.LazyFrame = nw.to_native(history[schema.name])
    if problem.labels is schema:  # in the history, a row is known with its label
        found = nw.from_native(lake.scan(schema)).filter(schema.predicted_at <= now)
        rows = found.drop([*schema.excluded_columns, *schema.outcome_columns]).to_native()
    if schema.event_time:
        rows = rows.filter(pl.col(schema.event_time) <= now)
    labelled = lake.scan(problem.labels).drop_nulls(problem.target.name)
    pool = rows.join(labelled, on=schema.key, how="anti").sort(schema.key).collect()
    if pool.is_empty():
        raise Rejected(f"no row of {schema.name} is unlabelled: ingest more rows first")
    if release is None:
        return pool
    built = datasets.prediction_features(problem, pool, history, now=now)
    if missing := [name for name in release.features if name not in built.columns]:
        raise InputError(
            f"features.build no longer returns {', '.join(missing)} of the champion: keep them, or promote"
        )
    return built.sort(schema.key)


def _scores(workspace: Workspace, strategy: str, rows: pl.DataFrame, output: Floats | None, *, now: datetime) -> Floats:
    """The sampling score of each row."""
    problem, parameters = workspace.problem, workspace.parameters
    rng = np.random.default_rng(parameters.seed)
    if strategy == "random" or output is None:
        return rng.random(len(rows))
    if strategy == "margin":
        return sampling.margin(output)
    labelled = datasets.training_set(problem, workspace.lake, as_of=now)
    log.info("labels    fits %d models on samples of %d rows", sampling.MEMBERS, len(labelled))
    return sampling.disagreement(sampling.committee(problem, parameters, labelled, rows, rng=rng), problem.task)


def _tasks(workspace: Workspace, rows: pl.DataFrame) -> list[labelstudio.Row]:
    """A task per row, with the key as text, since browsers round large numbers.

    Annotators see the columns of a request without personal and excluded ones.
    """
    schema = workspace.problem.schema
    hidden = {*schema.columns_with_role(Personal), *schema.columns_with_role(Excluded)}
    shown = [name for name in schema.request.names if name not in hidden and name in rows.columns]
    keys = rows.select(pl.col(schema.key).cast(pl.String)).to_dicts()
    data = json.loads(rows.select(shown).write_json())
    return [
        {"data": {"key": key, labelstudio.ROW: row}, "predictions": []} for key, row in zip(keys, data, strict=True)
    ]


def _predictions(release: Release, output: Floats) -> list[labelstudio.Row]:
    """The champion's prediction of each row."""
    version, names = f"{MODEL_NAME} {release.version}", release.classes or release.words[::-1] or ("false", "true")
    if release.task is Task.REGRESSION:
        return [labelstudio.prediction(version, float(value)) for value in output]
    rows = sampling.class_probabilities(output)
    return [labelstudio.prediction(version, names[int(row.argmax())], float(row.max())) for row in rows]
