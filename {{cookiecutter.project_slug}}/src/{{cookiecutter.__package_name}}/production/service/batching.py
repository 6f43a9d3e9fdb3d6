"""Micro-batching: concurrent requests are computed together in a thread.

A request with more rows than `BATCH_ROWS` does not block smaller ones.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

from {{cookiecutter.__package_name}}.core.errors import summarize

BATCH_ROWS = 512
THREADS = 2

Item = TypeVar("Item")
Result = TypeVar("Result")


class QueueFull(Exception):
    """More rows are queued than allowed."""


class PredictionFailed(Exception):
    """A request can't be computed."""


class _Queued(NamedTuple, Generic[Item, Result]):
    item: Item
    rows: int
    future: "asyncio.Future[Result]"


class Batcher(Generic[Item, Result]):
    """Queues items and computes them in batches.

    Args:
        compute: Returns the result of each item in order; an exception is raised to the caller of `submit`.
        max_queued_rows: Maximum number of queued rows.
    """

    def __init__(
        self, compute: Callable[[Sequence[Item]], Sequence[Result | Exception]], *, max_queued_rows: int
    ) -> None:
        self._compute, self._max_queued_rows = compute, max_queued_rows
        self._queue: deque[_Queued[Item, Result]] = deque()
        self._threads, self._free = ThreadPoolExecutor(THREADS, "predict"), asyncio.Semaphore(THREADS)
        self._working: asyncio.Task[None] | None = None
        self.queued_rows = 0

    async def submit(self, item: Item, *, rows: int) -> Result:
        """The item's result.

        Raises:
            QueueFull: Too many rows are queued.
            PredictionFailed: `compute` fails for this item.
        """
        if self.queued_rows and self.queued_rows + rows > self._max_queued_rows:
            raise QueueFull
        queued = _Queued[Item, Result](item, rows, asyncio.get_running_loop().create_future())
        self._queue.append(queued)
        self.queued_rows += rows
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        return await queued.future

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()

    async def _work(self) -> None:
        while self._queue:
            await self._free.acquire()
            batch = self._next_batch()
            running = asyncio.create_task(self._run(batch))
            if sum(queued.rows for queued in batch) <= BATCH_ROWS:
                await running

    def _next_batch(self) -> list[_Queued[Item, Result]]:
        batch, rows = [self._queue.popleft()], 0
        rows = batch[0].rows
        while self._queue and rows + self._queue[0].rows <= BATCH_ROWS:
            batch.append(self._queue.popleft())
            rows += batch[-1].rows
        self.queued_rows -= rows
        return batch

    async def _run(self, batch: list[_Queued[Item, Result]]) -> None:
        items = [queued.item for queued in batch]
        results = await asyncio.get_running_loop().run_in_executor(self._threads, self._results, items)
        self._free.release()
        for queued, result in zip(batch, results, strict=True):
            if queued.future.done():  # the client has gone
                continue
            if isinstance(result, Exception):
                queued.future.set_exception(result)
            else:
                queued.future.set_result(result)

    def _results(self, items: Sequence[Item]) -> Sequence[Result | Exception]:
        """The results; if the batch fails, each item is computed separately."""
        try:
            return self._compute(items)
        except BaseException as error:  # noqa: BLE001 - user-defined features fail in any way, a panic of Polars too
            if len(items) > 1:
                return [result for item in items for result in self._results([item])]
            return [PredictionFailed(summarize(error))]
