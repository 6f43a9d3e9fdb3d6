"""Response models, and the JSON responses of a batch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate, islice
from typing import Any

from fastapi import HTTPException
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic_core import to_json

from {{cookiecutter.__package_name}}.core.contracts.schema import Task
from {{cookiecutter.__package_name}}.production.service.request_model import ParsedRequest
from {{cookiecutter.__package_name}}.production.service.serving_model import PredictionBatch, ServingModel

MAX_ERRORS = 1000  # listed per request
NO_NUMBER = "the prediction is not a number"
UNAVAILABLE = 503
OUTPUTS: dict[Task, dict[str, Any]] = {
    Task.BINARY: {"probability": float, "decision": bool | str},
    Task.MULTICLASS: {"prediction": str},  # and a probability of each class
    Task.REGRESSION: {"prediction": float},
}


class Detail(BaseModel):
    """The reason of an error."""

    detail: str


def response_model(task: Task) -> type[BaseModel]:
    """The model of a response."""
    more = ConfigDict(extra="allow")
    values: dict[str, Any] = {name: (kind, ...) for name, kind in OUTPUTS[task].items()}
    row = create_model("Prediction", __config__=more, **values)
    lists: dict[str, Any] = {name: (list[kind], ...) for name, (kind, _) in values.items()}  # type: ignore[valid-type]
    columns = create_model("PredictionColumns", __config__=more, **lists)
    age = Field(description="seconds since the newest row of each table; null if it is older than the lookback")
    fields: dict[str, Any] = {
        "id": (str, Field(description="of the request, as in the table requests")),
        "version": (int, Field(description="of the model")),
        "history_age": (dict[str, float | None], age),
        "rows": (list[row], None),
        "columns": (columns, None),
        "features": (list[dict[str, Any]] | dict[str, list[Any]], Field(None, description="with features=true")),
    }
    return create_model("Predictions", **fields)


@dataclass(frozen=True)
class PredictionRequest:
    """A queued prediction request.

    Attributes:
        parsed: Its rows.
        id: Its id.
        show_features: Whether the response includes the features.
    """

    parsed: ParsedRequest
    id: str
    show_features: bool = False


def responses(
    requests: Sequence[PredictionRequest],
    batch: PredictionBatch,
    *,
    model: ServingModel,
    now: datetime,
) -> Iterator[bytes | RequestValidationError | HTTPException]:
    """A JSON response or an error for each request, from the predictions of all their rows.

    Args:
        requests: The requests.
        batch: The concatenated rows of the requests with their predictions.
        model: The serving model.
        now: The current time.
    """
    history_age = model.history_age(now)
    violations, missing = batch.violations, batch.predictions.to_series(0).is_null().to_list()
    rows = batch.predictions.to_dicts() if any(request.parsed.layout == "rows" for request in requests) else []
    for request, end in zip(requests, accumulate(request.parsed.height for request in requests), strict=True):
        start, by_row = end - request.parsed.height, request.parsed.layout == "rows"
        if any(violations[start:end]):
            errors = _errors(violations[start:end], request.parsed.layout)
            yield RequestValidationError(list(islice(errors, MAX_ERRORS)))
        elif any(missing[start:end]):
            yield HTTPException(UNAVAILABLE, NO_NUMBER)
        else:
            predictions = rows[start:end] if by_row else batch.predictions[start:end].to_dict(as_series=False)
            response: dict[str, Any] = {"id": request.id, "version": model.release.version, "history_age": history_age}
            response[request.parsed.layout] = predictions
            if request.show_features:
                shown = batch.rows[start:end].select(list(model.release.features))
                response["features"] = shown.to_dicts() if by_row else shown.to_dict(as_series=False)
            yield to_json(response, inf_nan_mode="null")


def _errors(violations: list[list[str]], layout: str) -> Iterator[dict[str, Any]]:
    for row, rules in enumerate(violations):
        for rule in rules:
            yield {"loc": ("body", layout, row), "msg": rule, "type": "rule"}
