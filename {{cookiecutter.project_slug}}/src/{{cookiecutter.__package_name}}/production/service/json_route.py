"""JSON requests with limits of size and time, and the responses to invalid requests."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic_core import from_json
from starlette.requests import ClientDisconnect

from {{cookiecutter.__package_name}}.production.service.responses import MAX_ERRORS

JSON = "application/json"
BODY_SECONDS = 30  # timeout of the request body
INVALID = 422


class JsonRequest(Request):
    """A request whose body must be plain JSON and arrive within the limits."""

    async def body(self) -> bytes:
        """The body.

        Raises:
            HTTPException: It is not JSON, is too large, or times out.
        """
        if not hasattr(self, "_body"):
            kind = self.headers.get("content-type", JSON).partition(";")[0].strip().lower()
            coding = self.headers.get("content-encoding", "identity").strip().lower()
            if (kind, coding) != (JSON, "identity"):
                raise HTTPException(415, f"send {JSON}, not compressed")
            try:
                async with asyncio.timeout(BODY_SECONDS):
                    self._body = await self._read(self.app.state.service.settings.serve_max_body_bytes)
            except (TimeoutError, ClientDisconnect) as error:
                raise HTTPException(408, "the request body timed out") from error
        return self._body

    async def _read(self, limit: int) -> bytes:
        body, size = bytearray(), int(self.headers.get("content-length", 0))
        if size <= limit:
            async for part in self.stream():
                body += part
                if len(body) > limit:
                    break
        if max(size, len(body)) > limit:
            msg = f"more than {limit} bytes: send fewer rows per request, or use predict FILE"
            raise HTTPException(413, msg, {"Connection": "close"})
        return bytes(body)

    async def json(self) -> Any:  # noqa: ANN401 - whatever JSON has
        """The parsed body; pydantic limits the depth of nested lists."""
        body = await self.body()
        try:
            return from_json(body)
        except ValueError as error:
            raise json.JSONDecodeError(str(error), "", 0) from error


class JsonRoute(APIRoute):
    """A route that reads its request as a `JsonRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler of a request, as FastAPI documents it."""
        handle = super().get_route_handler()

        async def handle_json(request: Request) -> Response:
            return await handle(JsonRequest(request.scope, request.receive))

        return handle_json


async def invalid_request(request: Request, error: Exception) -> Response:
    """The response to an invalid request: place and reason of each error, without the personal values."""
    errors = error.errors() if isinstance(error, RequestValidationError) else []
    reasons = [found["msg"] if found["type"] == "rule" else found["type"] for found in errors]
    request.app.state.service.metrics.count_rejected(reasons)
    if len(errors) > MAX_ERRORS:
        msg = f"{len(errors)} errors, too many to list"
        errors = [{"loc": ["body"], "msg": msg, "type": "too_many"}]
    return JSONResponse({"detail": [_public(found) for found in errors]}, INVALID)


def _public(error: dict[str, Any]) -> dict[str, Any]:
    """Place, reason and type of an error; for malformed JSON the reason of the parser."""
    reason = f"{error['msg']}: {error['ctx']['error']}" if error["type"] == "json_invalid" else error["msg"]
    return {"loc": error["loc"], "msg": reason, "type": error["type"]}
