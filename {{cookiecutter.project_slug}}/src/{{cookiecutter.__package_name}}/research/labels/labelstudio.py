"""The formats of Label Studio: tasks with predictions, the labelling interface, and what it exports.

A task's `data` has the row's key as text in `key`, and what annotators see in `row`. Nothing of a row stands at the
top: there JSON-MIN writes fields of its own, `id` among them, over those of the same name.

The formats: https://labelstud.io/guide/task_format, https://labelstud.io/guide/export
"""

import json
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError, model_validator

from {{cookiecutter.__package_name}}.core.errors import InputError

ROW, LABEL = "row", "label"

Row = dict[str, Any]  # in JSON


def interface(classes: Sequence[str], question: str) -> str:
    """The labelling interface: a question, a row, and classes to choose from; without classes, a number to write."""
    view = ET.Element("View")
    ET.SubElement(view, "Header", value=question)
    ET.SubElement(view, "Table", name=ROW, value=f"${ROW}")
    if classes:
        choices = ET.SubElement(view, "Choices", name=LABEL, toName=ROW, choice="single", showInLine="true")
        for name in classes:
            ET.SubElement(choices, "Choice", value=name)
    else:
        ET.SubElement(view, "Number", name=LABEL, toName=ROW)
    ET.indent(view)
    return ET.tostring(view, encoding="unicode") + "\n"


def prediction(version: str, answer: str | float, score: float | None = None) -> Row:
    """A prediction of a task: a class with its probability, or a number."""
    kind, value = ("choices", {"choices": [answer]}) if isinstance(answer, str) else ("number", {"number": answer})
    result = {"from_name": LABEL, "to_name": ROW, "type": kind, "value": value}
    return {"model_version": version, "result": [result]} | ({} if score is None else {"score": score})


@dataclass(frozen=True)
class RawAnnotation:
    """An exported annotation, with values as text.

    Attributes:
        task: The id of its task.
        key: The row's key, by column.
        annotator: The id of the annotator.
        created: The time of the annotation or its last update.
        answer: The answer, or None.
        cancelled: Whether it was cancelled: a skipped task in Label Studio.
        id: The id of the annotation; of two at the same time, the larger is newer.
    """

    task: str
    key: dict[str, str]
    annotator: str
    created: datetime
    answer: str | None
    cancelled: bool
    id: str


class _Data(BaseModel):
    key: dict[str, str]


class _Result(BaseModel):
    from_name: str = ""
    value: Any = None


class _Annotation(BaseModel):
    id: int | str = 0
    completed_by: int | str | dict[str, Any] | None
    created_at: datetime
    updated_at: datetime | None = None
    was_cancelled: bool = False
    result: list[_Result] = []


class _Task(BaseModel):
    id: int | str = ""
    data: _Data
    annotations: list[_Annotation]

    @model_validator(mode="before")
    @classmethod
    def _from_json_min(cls, entry: Any) -> Any:  # noqa: ANN401 - whatever a file has
        """An entry of JSON-MIN, which has the data of a task and its annotation, if any, beside each other."""
        if not isinstance(entry, dict) or "annotations" in entry:
            return entry
        result = [{"from_name": LABEL, "value": entry.get(LABEL)}]
        made = {"id": entry.get("annotation_id", 0), "completed_by": entry.get("annotator"), "result": result}
        times = {name: entry.get(name) for name in ("created_at", "updated_at")}
        return {"id": entry.get("id", ""), "data": entry, "annotations": [made | times] if times["created_at"] else []}


def read(file: Path) -> list[RawAnnotation]:
    """The annotations of an export, JSON or JSON-MIN.

    Raises:
        InputError: The file can't be read, is not an export, or has an annotation of another interface or with several
            answers.
    """
    try:
        tasks = TypeAdapter(list[_Task]).validate_json(file.read_bytes())
    except OSError as error:
        raise InputError(f"{file} can't be read: {error.strerror or error}") from error
    except ValidationError as error:
        reason = error.errors()[0]
        place = ".".join(map(str, reason["loc"])) or "the file"
        msg = f"{file} is no list of tasks of `labels export`: {place}: {reason['msg']}"
        raise InputError(f"{msg}; export it again from Label Studio, as JSON or JSON-MIN") from error
    return [_raw(file, task, made) for task in tasks for made in task.annotations]


def _raw(file: Path, task: _Task, made: _Annotation) -> RawAnnotation:
    ours = [result.value for result in made.result if result.from_name == LABEL]
    if made.result and not ours and not made.was_cancelled:
        msg = f"{file}: task {task.id} has the control {made.result[0].from_name!r}, not {LABEL!r}"
        raise InputError(f"{msg}: set the project up with the interface that `labels export` writes")
    answers = _answers(ours)
    if len(answers) > 1:
        msg = f"{file}: task {task.id} has {len(answers)} answers of one annotator, {', '.join(answers)}"
        raise InputError(f"{msg}: keep one")
    created = made.updated_at or made.created_at
    return RawAnnotation(
        task=str(task.id),
        key=task.data.key,
        annotator=_annotator(made),
        created=created.astimezone(UTC) if created.tzinfo else created.replace(tzinfo=UTC),
        answer=answers[0] if answers else None,
        cancelled=made.was_cancelled,
        id=str(made.id),
    )


def _annotator(made: _Annotation) -> str:
    """The id of the annotator; each annotation of a deleted account counts as its own annotator."""
    found = made.completed_by
    if isinstance(found, dict):
        found = found.get("id", found.get("email"))
    return f"deleted, of annotation {made.id}" if found in {None, "None"} else str(found)


def _answers(value: object) -> list[str]:
    """The answers in an exported value."""
    match value:
        case None:
            return []
        case str():
            return [value]
        case list():
            return [answer for part in value for answer in _answers(part)]
        case {"choices": inner} | {"number": inner}:
            return _answers(inner)
    return [json.dumps(value)]
