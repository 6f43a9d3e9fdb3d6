"""The service's own description: what may be asked, with examples, and what is answered."""

import json
from typing import Any

import numpy as np
import polars as pl
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from {{cookiecutter.__package_name}}.production.service.answering import Answering
from {{cookiecutter.__package_name}}.production.service.request import Layout, Reader
from {{cookiecutter.__package_name}}.shared.derived import sample
from {{cookiecutter.__package_name}}.shared.release import Release
from {{cookiecutter.__package_name}}.shared.schema import Task
from {{cookiecutter.__package_name}}.shared.workspace import Workspace

Json = dict[str, Any]

PLACE: Json = {"anyOf": [{"type": "string"}, {"type": "integer"}]}
ERROR: Json = {
    "type": "object",
    "properties": {"loc": {"type": "array", "items": PLACE}, "msg": {"type": "string"}, "type": {"type": "string"}},
    "required": ["loc", "msg", "type"],
}
FLAG: Json = {"name": "features", "in": "query", "schema": {"type": "boolean", "default": False}}
WHY = {
    408: "The body did not come in time",
    413: "Too many bytes",
    415: "No JSON",
    422: "Not understood, or a row breaks the contract",
    503: "No champion, too much to do, or no number as an answer",
}


def described(app: FastAPI, workspace: Workspace, answering: Answering, release: Release | None) -> Json:
    """The service in OpenAPI, as of the release that serves."""
    found = get_openapi(title=app.title, version=str(release.version if release else 0), routes=app.routes)
    rows = sample(workspace.problem.subject, 2).drop(workspace.problem.schema.target or [], strict=False)
    rows = rows.drop([name for name in workspace.problem.schema.closed if name in rows.columns])
    example = json.loads(rows.write_json())
    found["paths"]["/predict"]["post"]["parameters"] = [FLAG]
    _asks(found["paths"]["/predict"]["post"], answering.raw, _with_zones(rows, example), release)
    if release:
        ready = answering.ready(release)
        _asks(found["paths"]["/predict/features"]["post"], ready, [release.reference], release)
    found["paths"]["/readyz"]["get"]["responses"]["503"] = _why(503)
    return found


def _asks(operation: Json, reader: Reader, example: list[Json], release: Release | None) -> None:
    columns = {name: [row.get(name) for row in example] for name in example[0]} if example else {}
    examples = {Layout.ROWS: {Layout.ROWS: example}, Layout.COLUMNS: {Layout.COLUMNS: columns}}
    content = {"schema": reader.schema(), "examples": {name: {"value": value} for name, value in examples.items()}}
    operation["requestBody"] = {"required": True, "content": {"application/json": content}}
    answers = {"description": "An answer a row", "content": {"application/json": {"schema": _answer(release)}}}
    operation["responses"] = {"200": answers} | {str(status): _why(status) for status in WHY}


def _why(status: int) -> Json:
    detail: Json = {"type": "array", "items": ERROR} if status == 422 else {"type": "string"}  # noqa: PLR2004
    schema = {"type": "object", "properties": {"detail": detail}, "required": ["detail"]}
    return {"description": WHY[status], "content": {"application/json": {"schema": schema}}}


def _answer(release: Release | None) -> Json:
    """The answer in both layouts; its columns are those of the release's task."""
    values: dict[str, Json] = {}
    if release:
        shape = (1, len(release.classes)) if release.task is Task.MULTICLASS else (1,)
        kinds = {pl.Boolean: "boolean", pl.String: "string"}
        values = {
            name: {"type": kinds.get(dtype.base_type(), "number")}
            for name, dtype in release.answers(np.zeros(shape)).schema.items()
        }
    row = {"type": "object", "properties": values, "required": list(values)}
    lists = {name: {"type": "array", "items": value} for name, value in values.items()}
    seconds = {"anyOf": [{"type": "number"}, {"type": "null"}]}
    return {
        "type": "object",
        "properties": {
            "id": {"type": "string", "description": "of the request, as in the table requests"},
            "version": {"type": "integer", "description": "of the model"},
            "history_age": {
                "type": "object",
                "additionalProperties": seconds,
                "description": "seconds since each table's newest row; null where features don't look back so far",
            },
            Layout.ROWS: {"type": "array", "items": row},
            Layout.COLUMNS: {"type": "object", "properties": lists, "required": list(lists)},
            "features": {"anyOf": [{"type": "array"}, {"type": "object"}], "description": "with features=true"},
        },
        "required": ["id", "version", "history_age"],
    }


def _with_zones(rows: pl.DataFrame, example: list[Json]) -> list[Json]:
    """JSON of rows, with times as the service reads them."""
    times = [name for name, dtype in rows.schema.items() if isinstance(dtype, pl.Datetime)]
    return [
        row | {name: row_time.isoformat() for name in times if (row_time := rows[name][i]) is not None}
        for i, row in enumerate(example)
    ]
