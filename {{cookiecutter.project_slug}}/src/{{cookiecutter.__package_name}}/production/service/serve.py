"""The service: answers requests over HTTP, follows the champion, and says how it is."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any
from uuid import uuid4

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from {{cookiecutter.__package_name}}.production.service.answering import UNFIT, Answering, Ask, Batcher, Busy
from {{cookiecutter.__package_name}}.production.service.measures import Measures
from {{cookiecutter.__package_name}}.production.service.online import Online, Prepared
from {{cookiecutter.__package_name}}.production.service.openapi import described
from {{cookiecutter.__package_name}}.production.service.request import Asked, Reader, Unfit, read_flag
from {{cookiecutter.__package_name}}.production.service.requestlog import RequestLog
from {{cookiecutter.__package_name}}.shared import first_line
from {{cookiecutter.__package_name}}.shared.listening import answer, listen
from {{cookiecutter.__package_name}}.shared.release import CARD, MODEL, Release
from {{cookiecutter.__package_name}}.shared.workspace import Workspace

log = logging.getLogger(__name__)

JSON = "application/json"
TOO_LARGE, NO_JSON, UNREADY, TOO_SLOW = 413, 415, 503, 408
LARGE = 100_000  # bytes, from which a request is read in a thread, not to hold up others,
READERS = 4  # and so many of these at a time, for each takes memory
STEP = 0.2  # seconds, after which is seen whether the log is full
PATIENCE = 30  # seconds for a request's body to come, and for requests under way when the service ends


@dataclass(frozen=True)
class Ended:
    """A service that has ended, and what it did."""

    requests: int

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.requests} requests answered"


def serve(
    workspace: Workspace,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    now: datetime | None = None,
    candidate: Path | None = None,
) -> Ended:
    """Answer requests until told to end (SIGTERM, Ctrl-C); those under way are answered first.

    Args:
        workspace: The workspace.
        host: The address to listen at.
        port: And its port; 0 takes a free one.
        now: The time it is; without it, the setting `clock` says.
        candidate: A folder with a release that serves in place of the champion, for the canary; nothing is logged.

    Raises:
        BadInput: The address is taken, or there is none such.
    """
    release = _candidate(candidate) if candidate else None
    service = Service(workspace, release=release, now=now, keeps=candidate is None)
    service.online.refresh()
    with listen(host, port) as listening:
        prepared, (address, number) = service.online.prepared, listening.getsockname()[:2]
        champion = f"version {prepared.release.version}" if prepared else "no champion yet"
        gc.freeze()  # what was imported stays: to look through it again and again holds up answers
        greeting = f"serve     {champion} at http://{address}:{number}"
        answer(service.app, listening, greeting=greeting, patience=PATIENCE)
    return Ended(service.measures.requests)


class Direct:
    """The application, in which requests for predictions go past the framework's layers, which cost as much as they.

    Args:
        app: All of it.
        asked: What answers a POST to each path, and is described as part of the application.
    """

    def __init__(self, app: FastAPI, asked: Mapping[str, Callable[[Request], Awaitable[Response]]]) -> None:
        self._app, self._asked = app, asked

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, as ASGI has it."""
        answer = self._asked.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if answer is None:
            await self._app(scope, receive, send)
        else:
            await (await answer(Request(scope, receive)))(scope, receive, send)


class Service:
    """One workspace over HTTP.

    Args:
        workspace: The workspace.
        release: Serve this one, whatever is promoted.
        now: The time it is.
        keeps: Whether requests and answers are kept in the lake.
    """

    def __init__(
        self, workspace: Workspace, *, release: Release | None = None, now: datetime | None = None, keeps: bool = True
    ) -> None:
        self._workspace, self._settings = workspace, workspace.settings
        self.online = Online(workspace, release=release, now=now)
        self.log = RequestLog(workspace, most=2 * self._settings.serve_waiting) if keeps else None
        self.measures = Measures(self.online, self.log)
        self.answering = Answering(workspace, self.online, self.log)
        self._batcher = Batcher(self.answering.answer, waiting=self._settings.serve_waiting)
        self._large = asyncio.Semaphore(READERS)

    def app(self) -> "Direct":
        """The service as an application."""
        app = FastAPI(title=self._workspace.problem.schema.name, lifespan=self._lifespan)

        @app.post("/predict")
        async def predict(request: Request) -> Response:
            """Answer raw rows."""
            return await self._measured(request, ready=False)

        @app.post("/predict/features")
        async def predict_features(request: Request) -> Response:
            """Answer rows whose features are ready."""
            return await self._measured(request, ready=True)

        @app.get("/healthz")
        async def healthz() -> dict[str, str]:
            """Whether the process lives."""
            return {"status": "alive"}

        @app.get("/readyz")
        async def readyz() -> dict[str, int]:
            """Whether a champion answers, and which."""
            return {"version": self._prepared().release.version}

        @app.get("/metrics", response_class=Response)
        async def metrics() -> Response:
            """The service's figures, for Prometheus."""
            return Response(self.measures.text(), media_type=CONTENT_TYPE_LATEST)

        app.openapi = lambda: self._described(app)  # type: ignore[method-assign]
        return Direct(app, {"/predict": predict, "/predict/features": predict_features})

    def _described(self, app: FastAPI) -> dict[str, Any]:
        release = self.online.prepared.release if self.online.prepared else None
        return described(app, self._workspace, self.answering, release)

    async def _measured(self, request: Request, *, ready: bool) -> Response:
        started, rows = perf_counter(), 0
        try:
            shows = not ready and read_flag(request.scope["query_string"])
            response, rows = await self._answered(request, ready=ready, shows=shows)
        except Unfit as unfit:
            response = JSONResponse({"detail": unfit.errors}, UNFIT)
            self.measures.breached(error["type"] for error in unfit.errors)
        except HTTPException as error:
            headers = {"Connection": "close"} if error.status_code == TOO_LARGE else error.headers
            response = JSONResponse({"detail": error.detail}, error.status_code, headers=headers)
        self.measures.seen(request.scope["path"], response.status_code, perf_counter() - started, rows)
        return response

    async def _answered(self, request: Request, *, ready: bool, shows: bool) -> tuple[Response, int]:
        prepared = self._prepared()
        reader = self.answering.ready(prepared.release) if ready else self.answering.raw
        asked = await self._read(request, reader)
        try:
            reply = await self._batcher.ask(Ask(uuid4().hex, asked, reader, prepared, ready, shows))
        except Busy as busy:
            msg = f"more than {self._settings.serve_waiting} rows wait for an answer: try again"
            raise HTTPException(UNREADY, msg, {"Retry-After": "1"}) from busy
        self.measures.breached(reply.breaches)
        return Response(reply.content, reply.status, media_type="application/json"), asked.height

    def _prepared(self) -> Prepared:
        if self.online.prepared is None:
            raise HTTPException(UNREADY, f"no champion serves: {self.online.trouble or 'none was promoted'}")
        return self.online.prepared

    async def _read(self, request: Request, reader: Reader) -> Asked:
        kind = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
        coding = request.headers.get("content-encoding", "identity").strip().lower()
        if (kind, coding) != (JSON, "identity"):
            raise HTTPException(NO_JSON, f"send {JSON}, not compressed")
        size = int(request.headers.get("content-length", LARGE))  # unknown where it comes in chunks
        async with self._large if size >= LARGE else nullcontext():
            body = await self._body(request, size)
            return reader.read(body) if len(body) < LARGE else await asyncio.to_thread(reader.read, body)

    async def _body(self, request: Request, size: int) -> bytes:
        most, body = self._settings.serve_bytes, bytearray()
        if size <= most:
            try:
                async with asyncio.timeout(PATIENCE):
                    async for part in request.stream():
                        body += part
                        if len(body) > most:
                            break
                    else:
                        return bytes(body)
            except (TimeoutError, ClientDisconnect) as error:
                raise HTTPException(TOO_SLOW, "the body did not come") from error
        raise HTTPException(TOO_LARGE, f"more than {most} bytes: send less at a time, or predict a file")

    @asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        """Follow champion and history and keep the log while the service runs; keep the rest when it ends."""
        tasks = [asyncio.create_task(self._batcher.run())]
        tasks.append(asyncio.create_task(_again(self.online.refresh, self._settings.serve_looks)))
        if self.log:
            tasks.append(asyncio.create_task(_again(self._keep(self.log), min(STEP, self._settings.serve_keeps))))
        yield
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        self._batcher.close()
        if self.log:
            await asyncio.to_thread(self.log.append)

    def _keep(self, log: RequestLog) -> Callable[[], None]:
        """Append the log when it is time, or full; else prepare that."""
        due = monotonic() + self._settings.serve_keeps

        def work() -> None:
            nonlocal due
            if log.full or monotonic() >= due:
                log.append()
                due = monotonic() + self._settings.serve_keeps
            else:
                log.pack()

        return work


async def _again(work: Callable[[], object], seconds: float) -> None:
    """Do some work in a thread again and again, with a pause; it goes on whatever happens."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await asyncio.to_thread(work)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - a panic of Polars is no Exception
            log.warning("serve     goes on: %s", first_line(error))


def _candidate(folder: Path) -> Release:
    return Release.read((folder / CARD).read_bytes(), (folder / MODEL).read_bytes())
