"""The formats of Label Studio, by the standard library: tasks with predictions, the interface, and what it exports.

A task's `data` has the row's key as text in `key`, and what annotators see in `row`. Nothing of a row stands at the
top: there JSON-MIN writes fields of its own, `id` among them, over those of the same name.

The formats: https://labelstud.io/guide/task_format, https://labelstud.io/guide/export
"""

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from {{cookiecutter.__package_name}}.core.errors import BadInput

KEY, ROW, LABEL = "key", "row", "label"
WAY_OUT = "export it again from Label Studio, as JSON or JSON-MIN"

Row = dict[str, Any]  # as JSON has it


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


def task(key: dict[str, str], row: Row, predictions: Sequence[Row]) -> Row:
    """A task to import into Label Studio."""
    return {"data": {KEY: key, ROW: row}, "predictions": list(predictions)}


def prediction(version: str, answer: str | float, score: float | None) -> Row:
    """What a model answers, as a task's prediction: the name of a class, or a number.

    Args:
        version: The model's.
        answer: Its answer.
        score: The probability of that class.
    """
    kind, value = ("choices", {"choices": [answer]}) if isinstance(answer, str) else ("number", {"number": answer})
    result = {"from_name": LABEL, "to_name": ROW, "type": kind, "value": value}
    return {"model_version": version, "result": [result]} | ({} if score is None else {"score": score})


@dataclass(frozen=True)
class Given:
    """An annotation as it was exported, its values as text.

    Attributes:
        task: The number of its task, for messages.
        key: The row's key, by column.
        annotator: Who.
        created: When, of an answer that was corrected the last time.
        answer: Nothing where there is none.
        cancelled: Whether it was cancelled, which is how Label Studio keeps a skipped task.
        id: Of the annotation.
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


class _Minimal(BaseModel):
    id: int | str = ""
    key: dict[str, str]
    annotator: int | str | dict[str, Any] | None = None
    annotation_id: int | str = 0
    created_at: datetime | None = None
    updated_at: datetime | None = None
    label: Any = None


def read(file: Path) -> list[Given]:
    """The annotations of an export, JSON or JSON-MIN.

    Raises:
        BadInput: It can't be read, is none, or has an annotation of another interface or with several answers.
    """
    try:
        found = json.loads(file.read_bytes())
    except OSError as error:
        raise BadInput(f"{file} can't be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{file} is no JSON: {error}; {WAY_OUT}") from error
    if not isinstance(found, list):
        raise BadInput(f"{file} is no list of tasks; {WAY_OUT}")
    return [given for number, entry in enumerate(found, start=1) for given in _read(file, number, entry)]


def _read(file: Path, number: int, entry: object) -> Iterator[Given]:
    try:
        if isinstance(entry, dict) and "annotations" in entry:
            yield from _of_task(file, _Task.model_validate(entry))
        else:
            yield from _of_minimal(file, _Minimal.model_validate(entry))
    except ValidationError as error:
        part = error.errors()[0]
        where = ".".join(map(str, part["loc"])) or "it"
        msg = f"{file}: task {number} is none of `labels export`: {where}: {part['msg']}; {WAY_OUT}"
        raise BadInput(msg) from error


def _of_task(file: Path, found: _Task) -> Iterator[Given]:
    for made in found.annotations:
        ours = [result.value for result in made.result if result.from_name == LABEL]
        if made.result and not ours and not made.was_cancelled:
            name = made.result[0].from_name
            msg = f"{file}: task {found.id} was answered by {name!r}, not by {LABEL!r}"
            raise BadInput(f"{msg}: set the project up with the interface that `labels export` writes")
        yield Given(
            str(found.id),
            found.data.key,
            _who(made.completed_by, made.id),
            _newest(made.created_at, made.updated_at),
            _answer(file, found.id, ours),
            made.was_cancelled,
            str(made.id),
        )


def _of_minimal(file: Path, found: _Minimal) -> Iterator[Given]:
    if found.created_at is None:  # a task without an annotation
        return
    made = _newest(found.created_at, found.updated_at)
    who, answer = _who(found.annotator, found.annotation_id), _answer(file, found.id, found.label)
    yield Given(str(found.id), found.key, who, made, answer, cancelled=False, id=str(found.annotation_id))


def _who(annotator: int | str | dict[str, Any] | None, annotation: int | str) -> str:
    """The annotator's number where there is one, not the address; whose account is deleted is known by the answer."""
    found = annotator.get("id", annotator.get("email", "")) if isinstance(annotator, dict) else annotator
    return f"deleted, of annotation {annotation}" if found in {None, "None"} else str(found)


def _newest(created: datetime, updated: datetime | None) -> datetime:
    moments = (moment for moment in (created, updated) if moment)
    return max(moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC) for moment in moments)


def _answer(file: Path, task: int | str, value: object) -> str | None:
    found = list(_answers(value))
    if len(found) > 1:
        raise BadInput(f"{file}: task {task} has {len(found)} answers of one annotator, {', '.join(found)}: leave one")
    return found[0] if found else None


def _answers(value: object) -> Iterator[str]:
    """The answers in a value, in whichever of its forms it is exported."""
    match value:
        case None:
            return
        case list():
            for part in value:
                yield from _answers(part)
        case {"choices": inner} | {"number": inner}:
            yield from _answers(inner)
        case bool() | float() | int():
            whole = isinstance(value, float) and value.is_integer()
            yield json.dumps(int(value) if whole else value)
        case _:
            yield str(value)
