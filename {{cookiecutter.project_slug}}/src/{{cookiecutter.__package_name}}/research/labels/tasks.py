"""`labels export`: the unlabelled rows worth most, as tasks of Label Studio with the champion's predictions."""

import json
import logging
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import narwhals as nw
import numpy as np
import polars as pl

from {{cookiecutter.__package_name}}.core import datasets
from {{cookiecutter.__package_name}}.core.contracts.schema import Forbidden, Personal, Task
from {{cookiecutter.__package_name}}.core.errors import BadInput, Refused, whole
from {{cookiecutter.__package_name}}.core.models.evaluation import Floats
from {{cookiecutter.__package_name}}.core.store.releases import Release
from {{cookiecutter.__package_name}}.core.workspace import MODEL, Workspace
from {{cookiecutter.__package_name}}.research.labels import labelstudio, sampling, table

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportResult:
    """Tasks that were written.

    Attributes:
        tasks: How many.
        unlabelled: Of how many rows.
        strategy: By which they were chosen.
        out: The tasks.
        interface: The labelling interface that fits them.
    """

    tasks: int
    unlabelled: int
    strategy: str
    out: str
    interface: str

    def __str__(self) -> str:
        """Two lines for people."""
        return (
            f"{self.tasks} of {self.unlabelled} unlabelled rows, by {self.strategy} -> {self.out}\n"
            f"in Label Studio, paste {self.interface} as the labelling interface, then import the tasks"
        )


def export_tasks(
    workspace: Workspace, *, n: int, strategy: str = "margin", out: Path | None = None, now: datetime | None = None
) -> ExportResult:
    """Write the unlabelled rows worth most as tasks, the most worth first, and the interface beside them.

    A row is unlabelled if it is known and its event has happened, and the table of labels does not have it. Which are
    worth most is decided by `margin` and `disagreement`, see `sampling`, or by chance, seeded by the model's seed; the
    same state gives the same tasks.

    Raises:
        BadInput: The problem takes no labels by people, or the strategy does not apply.
        Refused: There is no unlabelled row.
    """
    problem = workspace.problem
    table.require(problem)
    path = out or workspace.path(workspace.settings.reports) / "labels.json"
    if path.suffix.lower() != ".json":
        raise BadInput(f"{path} ends in {path.suffix!r}: tasks are .json")
    moment, release, target = workspace.now(now), _champion(workspace, strategy), problem.target
    classes = table.classes(workspace)
    if not classes and problem.task is not Task.REGRESSION:
        raise BadInput(f"no class of {target.name} is known yet: name them by Category() in shared/contract.py")
    rows = _unlabelled(workspace, release, now=moment)
    output = release.predictor.predict(rows) if release else None
    chosen = sampling.most(_worth(workspace, strategy, rows, output, now=moment), n)
    tasks = _tasks(workspace, rows[chosen])
    if release and output is not None:
        for task, prediction in zip(tasks, _predictions(release, output[chosen]), strict=True):
            task["predictions"] = [prediction]
    description = target.field.description
    question = f"{target.name}: {description}" if description else target.name
    interface = path.with_suffix(".xml")
    _write(interface, labelstudio.interface(classes, question))
    _write(path, json.dumps(tasks, ensure_ascii=False, allow_nan=False, indent=1) + "\n")
    return ExportResult(len(tasks), len(rows), strategy, path.as_posix(), interface.as_posix())


def _champion(workspace: Workspace, strategy: str) -> Release | None:
    release, target = workspace.releases.champion(), workspace.problem.target.name
    if strategy == "margin" and workspace.problem.task is Task.REGRESSION:
        raise BadInput(f"margin compares classes, and {target} is a number: take --strategy disagreement or random")
    if release is None and strategy != "random":
        raise BadInput(f"{strategy} asks the champion, and there is none yet: run first, or take --strategy random")
    return release


def _unlabelled(workspace: Workspace, release: Release | None, *, now: datetime) -> pl.DataFrame:
    """The unlabelled rows in the order of their key; with their features where there is a champion."""
    problem, lake = workspace.problem, workspace.lake
    schema, history = problem.schema, datasets.known(problem, lake, as_of=now)
    rows: pl.LazyFrame = nw.to_native(history[schema.name])
    if schema.event_time:
        rows = rows.filter(pl.col(schema.event_time) <= now)
    pool = rows.join(lake.scan(problem.labels), on=schema.key, how="anti").sort(schema.key).collect()
    if pool.is_empty():
        raise Refused(f"no row of {schema.name} waits for its {problem.target.name}: ingest more of them first")
    if release is None:
        return pool
    built = datasets.to_predict(problem, pool, history, now=now)
    if missing := [name for name in release.features if name not in built.columns]:
        raise BadInput(f"features.build no longer gives the champion {', '.join(missing)}: keep them, or promote first")
    return built.sort(schema.key)


def _worth(workspace: Workspace, strategy: str, rows: pl.DataFrame, output: Floats | None, *, now: datetime) -> Floats:
    """How much a label of each row is worth."""
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
    """A task a row: its key as text, since a browser rounds large numbers, and what is neither personal nor forbidden.

    What a client sends in a request is what annotators see.
    """
    schema = workspace.problem.schema
    hidden = {*schema.having(Personal), *schema.having(Forbidden)}
    shown = [name for name in schema.request.names if name not in hidden and name in rows.columns]
    keys = rows.select(pl.col(schema.key).cast(pl.String)).to_dicts()
    data = json.loads(rows.select(shown).write_json())
    return [
        {"data": {"key": key, labelstudio.ROW: row}, "predictions": []} for key, row in zip(keys, data, strict=True)
    ]


def _predictions(release: Release, output: Floats) -> list[labelstudio.Row]:
    """What the champion predicts for each row."""
    version, names = f"{MODEL} {release.version}", release.classes or ("false", "true")
    if release.task is Task.REGRESSION:
        return [labelstudio.prediction(version, float(value)) for value in output]
    rows = sampling.of_classes(output)
    return [labelstudio.prediction(version, names[int(row.argmax())], float(row.max())) for row in rows]


def _write(path: Path, text: str) -> None:
    with whole(path) as draft:
        draft.write_text(text, encoding="utf-8", newline="\n")
