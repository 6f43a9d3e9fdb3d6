"""Requests that arrive together are computed together, in a thread of their own, while others are read.

A large one has a thread to itself, so that it uses a second core and small ones need not wait for it.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import accumulate, islice
from typing import Any

import polars as pl
from pydantic_core import to_json

from {{cookiecutter.__package_name}}.production.service.online import NO_NUMBER, Answered, Online, Prepared
from {{cookiecutter.__package_name}}.production.service.request import (
    SHOWN,
    Asked,
    Layout,
    Reader,
    features_model,
)
from {{cookiecutter.__package_name}}.production.service.requestlog import Kept, RequestLog, Served
from {{cookiecutter.__package_name}}.shared import first_line
from {{cookiecutter.__package_name}}.shared.checks import RULES
from {{cookiecutter.__package_name}}.shared.derived import request_model
from {{cookiecutter.__package_name}}.shared.release import Release
from {{cookiecutter.__package_name}}.shared.workspace import Workspace

log = logging.getLogger(__name__)

TOGETHER = 512  # rows that are computed together, where there are several requests
THREADS = 2  # that compute: one for small requests, which are faster together than side by side
OK, UNFIT, BROKEN = 200, 422, 503
NO_ANSWER = "no answer can be computed"


class Busy(Exception):
    """More rows wait than may."""


@dataclass(frozen=True)
class Ask:
    """A request on its way.

    Attributes:
        id: Its own.
        asked: What it says.
        reader: What has read it.
        prepared: What answers it.
        ready: Whether it has features in place of a raw row.
        shows: Whether its answer has the features.
    """

    id: str
    asked: Asked
    reader: Reader
    prepared: Prepared
    ready: bool
    shows: bool


@dataclass(frozen=True)
class Reply:
    """A request's answer: its HTTP status, JSON, and the rules that rows break."""

    status: int
    content: bytes
    breaches: tuple[str, ...] = ()


class Batcher:
    """Takes all that waits, and has it answered together.

    Args:
        work: Answers some requests, each in its place.
        waiting: So many rows may wait.
    """

    def __init__(self, work: Callable[[list[Ask]], list[Reply]], *, waiting: int) -> None:
        self._work, self._most = work, waiting
        self._waiting: deque[tuple[Ask, asyncio.Future[Reply]]] = deque()
        self._some = asyncio.Event()
        self._free = asyncio.Semaphore(THREADS)
        self._threads = ThreadPoolExecutor(THREADS, "answering")
        self.rows = 0

    async def ask(self, ask: Ask) -> Reply:
        """The reply to a request.

        Raises:
            Busy: Too many rows wait already.
        """
        if self.rows and self.rows + ask.asked.height > self._most:
            raise Busy
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append((ask, future))
        self.rows += ask.asked.height
        self._some.set()
        return await future

    async def run(self) -> None:
        """Answer what comes, until cancelled."""
        async with asyncio.TaskGroup() as answering:
            while True:
                await self._some.wait()
                await self._free.acquire()
                taken = list(self._taken())
                task = answering.create_task(self._answer(taken))
                if sum(ask.asked.height for ask, _ in taken) <= TOGETHER:
                    await task

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()

    async def _answer(self, taken: list[tuple[Ask, "asyncio.Future[Reply]"]]) -> None:
        asks = [ask for ask, _ in taken]
        replies = await asyncio.get_running_loop().run_in_executor(self._threads, self._work, asks)
        self._free.release()
        for (_, future), reply in zip(taken, replies, strict=True):
            if not future.done():  # else who asked has gone
                future.set_result(reply)

    def _taken(self) -> Iterator[tuple[Ask, "asyncio.Future[Reply]"]]:
        rows = 0
        while self._waiting and (not rows or rows + self._waiting[0][0].asked.height <= TOGETHER):
            ask, future = self._waiting.popleft()
            rows += ask.asked.height
            yield ask, future
        self.rows -= rows
        if not self._waiting:
            self._some.clear()


class Answering:
    """Reads requests for one problem and answers them by what serves.

    Args:
        workspace: The workspace.
        online: What serves.
        log: Where answers are kept; none keeps them not.
    """

    def __init__(self, workspace: Workspace, online: Online, log: RequestLog | None) -> None:
        self._online, self._log = online, log
        request, self._settings = workspace.problem.schema.request, workspace.settings
        self.raw = Reader(request_model(request.model), request.dtypes, most=self._settings.serve_rows)

    def ready(self, release: Release) -> Reader:
        """What reads rows of ready features."""
        return _ready(tuple(release.features.items()), self._settings.serve_rows)

    def answer(self, asks: list[Ask]) -> list[Reply]:
        """The replies to some requests, in their order; one that can't be answered spoils no other."""
        groups: dict[tuple[int, int], list[int]] = {}
        for i, ask in enumerate(asks):
            groups.setdefault((id(ask.prepared), id(ask.reader)), []).append(i)
        found: dict[int, Reply] = {}
        for places in groups.values():
            found |= zip(places, self._tried([asks[i] for i in places]), strict=True)
        return [found[i] for i in range(len(asks))]

    def _tried(self, asks: list[Ask]) -> list[Reply]:
        """The replies; where one breaks all, each is tried alone."""
        try:
            return self._together(asks)
        except BaseException as error:  # noqa: BLE001 - the problem's own features can fail in any way, Polars panics
            if len(asks) > 1:
                return [reply for ask in asks for reply in self._tried([ask])]
            log.warning("serve     %s: %s", NO_ANSWER, first_line(error))
            return [Reply(BROKEN, to_json({"detail": NO_ANSWER}), (NO_ANSWER,))]

    def _together(self, asks: list[Ask]) -> list[Reply]:
        """The replies to requests of one kind, by one champion."""
        first, now = asks[0], self._online.now()
        rows, prepared = first.reader.frame(ask.asked for ask in asks), first.prepared
        if first.ready:
            none = pl.lit([], dtype=pl.List(pl.String)).alias(RULES)
            answered = Answered(rows.with_columns(none), prepared.answer_features(rows))
        else:
            answered = prepared.answer(rows, now=now)
        replies = list(_replies(asks, prepared, answered, now))
        if self._log:
            kept = [
                Kept(ask.id, ask.asked.height, reply.status == OK) for ask, reply in zip(asks, replies, strict=True)
            ]
            self._log.add(Served(kept, now, prepared, pl.DataFrame() if first.ready else rows, answered))
        return replies


@lru_cache(4)
def _ready(features: tuple[tuple[str, bool], ...], most: int) -> Reader:
    dtypes = {name: pl.String() if text else pl.Float64() for name, text in features}
    return Reader(features_model(dict(features)), dtypes, most=most)


def _replies(asks: list[Ask], prepared: Prepared, answered: Answered, now: datetime) -> Iterator[Reply]:
    """A reply a request, from the answers of all their rows."""
    ages, version = prepared.ages(now), prepared.release.version
    broken = answered.broken if answered.rows[RULES].list.len().max() else None
    lost = answered.answers.to_series(0).is_null() if answered.answers.to_series(0).null_count() else None
    rows = answered.answers.to_dicts() if any(ask.asked.layout is Layout.ROWS for ask in asks) else []
    ends = list(accumulate(ask.asked.height for ask in asks))
    for ask, end in zip(asks, ends, strict=True):
        start, layout = end - ask.asked.height, ask.asked.layout
        if broken and (reasons := list(islice(_reasons(broken[start:end], layout), SHOWN))):
            rules = tuple(dict.fromkeys(reason["msg"] for reason in reasons))
            yield Reply(UNFIT, to_json({"detail": reasons}), rules)
        elif lost is not None and lost[start:end].any():
            yield Reply(BROKEN, to_json({"detail": NO_NUMBER}), (NO_NUMBER,))
        else:
            said = rows[start:end] if layout is Layout.ROWS else answered.answers[start:end].to_dict(as_series=False)
            reply = {"id": ask.id, "version": version, "history_age": ages, layout.value: said}
            if ask.shows:
                shown = answered.rows[start:end].select(list(prepared.release.features))
                reply["features"] = shown.to_dicts() if layout is Layout.ROWS else shown.to_dict(as_series=False)
            yield Reply(OK, to_json(reply, inf_nan_mode="null"))


def _reasons(broken: Iterable[list[str]], layout: Layout) -> Iterator[dict[str, Any]]:
    for i, rules in enumerate(broken):
        for rule in rules:
            yield {"loc": ["body", layout, i], "msg": rule, "type": "rule"}
