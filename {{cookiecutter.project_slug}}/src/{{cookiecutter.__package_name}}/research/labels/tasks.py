"""`labels export`: the unlabelled rows worth most, as tasks of Label Studio with what the champion says of them."""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

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
class Exported:
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


def export(
    workspace: Workspace, *, n: int, strategy: str = "margin", out: Path | None = None, now: datetime | None = None
) -> Exported:
    """Write the unlabelled rows worth most as tasks, the most worth first, and the interface beside them.

    A row is unlabelled if it is known and its event has happened, and the table of labels does not have it. Which are
    worth most is decided by `margin` and `disagreement`, see `sampling`, or by chance, seeded by the model's seed; the
    same state gives the same tasks.

    Raises:
        BadInput: The problem takes no labels by people, or the strategy can't be asked.
        Refused: There is no unlabelled row.
    """
    table.require(workspace.problem)
    target = out or workspace.path(workspace.settings.reports) / "labels.json"
    if target.suffix.lower() != ".json":
        raise BadInput(f"{target} ends in {target.suffix!r}: tasks are .json")
    moment, release = workspace.now(now), _champion(workspace, strategy)
    classes = table.classes(workspace)
    if not classes and workspace.problem.task is not Task.REGRESSION:
        msg = f"no class of {workspace.problem.target.name} is known yet"
        raise BadInput(f"{msg}: name them by Category() in shared/contract.py")
    rows = _unlabelled(workspace, release, now=moment)
    predictions = release.predictor.predict(rows) if release else None
    places = sampling.most(_worth(workspace, strategy, rows, predictions, now=moment), n)
    answers = [[] for _ in places] if release is None or predictions is None else _answers(release, predictions[places])
    tasks = [
        labelstudio.task(key, row, list(answer))
        for key, row, answer in zip(
            _keys(workspace, rows[places]), _shown(workspace, rows[places]), answers, strict=True
        )
    ]
    interface = target.with_suffix(".xml")
    labelled = workspace.problem.target
    question = f"{labelled.name}: {labelled.field.description}" if labelled.field.description else labelled.name
    texts = {interface: labelstudio.interface(classes, question)}
    texts[target] = json.dumps(tasks, ensure_ascii=False, allow_nan=False, indent=1) + "\n"
    for path, text in texts.items():
        with whole(path) as draft:
            draft.write_text(text, encoding="utf-8", newline="\n")
    return Exported(len(tasks), len(rows), strategy, target.as_posix(), interface.as_posix())


def _champion(workspace: Workspace, strategy: str) -> Release | None:
    release, target = workspace.releases.champion(), workspace.problem.target.name
    if strategy == "margin" and workspace.problem.task is Task.REGRESSION:
        raise BadInput(f"margin compares classes, and {target} is a number: take --strategy disagreement or random")
    if release is None and strategy != "random":
        raise BadInput(f"{strategy} asks the champion, and there is none yet: run first, or take --strategy random")
    return release


def _unlabelled(workspace: Workspace, release: Release | None, *, now: datetime) -> pl.DataFrame:
    """The unlabelled rows in the order of their key; with their features where there is a champion to ask."""
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


def _worth(
    workspace: Workspace, strategy: str, rows: pl.DataFrame, predictions: Floats | None, *, now: datetime
) -> Floats:
    problem, parameters = workspace.problem, workspace.parameters
    rng = np.random.default_rng(parameters.seed)
    if strategy == "random" or predictions is None:
        return rng.random(len(rows))
    if strategy == "margin":
        return sampling.margin(predictions)
    known = datasets.training_set(problem, workspace.lake, as_of=now)
    log.info("labels    asks %d refits on %d rows", sampling.MEMBERS, len(known))
    return sampling.disagreement(sampling.committee(problem, parameters, known, rows, rng=rng), problem.task)


def _answers(release: Release, predictions: Floats) -> Iterator[list[labelstudio.Row]]:
    """What the champion says of each row."""
    version = f"{MODEL} {release.version}"
    if release.task is Task.REGRESSION:
        yield from ([labelstudio.prediction(version, float(value), None)] for value in predictions)
        return
    names = release.classes or ("false", "true")
    for row in sampling.of_classes(predictions):
        likely = int(row.argmax())
        yield [labelstudio.prediction(version, names[likely], float(row[likely]))]


def _keys(workspace: Workspace, rows: pl.DataFrame) -> list[dict[str, str]]:
    """Each row's key, as text that is typed back exactly: numbers too, since a browser rounds large ones."""
    return rows.select(pl.col(workspace.problem.schema.key).cast(pl.String)).to_dicts()


def _shown(workspace: Workspace, rows: pl.DataFrame) -> list[dict[str, Any]]:
    """What annotators see of each row: the columns of the contract that are neither personal nor forbidden."""
    schema = workspace.problem.schema
    hidden = {*schema.having(Personal), *schema.having(Forbidden)}
    shown = [name for name in schema.request.names if name not in hidden and name in rows.columns]
    found: list[dict[str, Any]] = json.loads(rows.select(shown).write_json())
    return found
