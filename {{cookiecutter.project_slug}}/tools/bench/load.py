"""Ask a server of this machine for a while, and time its answers: what the benchmark measures with.

A process of its own (`python -m tools.bench.load`), with the standard library alone, that takes a Plan on stdin and
gives a Sample on stdout, both as JSON. It sends what was built before, over connections that stay open.
"""

import asyncio
import json
import re
import sys
from collections import deque
from dataclasses import asdict, dataclass, field
from itertools import cycle
from typing import cast

HOST = "127.0.0.1"
PATIENCE = 60  # seconds that answers may take when no more is asked
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
KEPT = 3  # wrong answers that are told in full


@dataclass(frozen=True)
class Plan:
    """What to ask, and how.

    Attributes:
        port: Of the server.
        path: Of the requests.
        bodies: JSON to send, in turn.
        seconds: How long.
        connections: How many requests may wait for their answers at the same time.
        rate: Requests a second, at even distances, whether or not answers have come. None: as fast as they come.
    """

    port: int
    path: str
    bodies: list[str]
    seconds: float
    connections: int = 64
    rate: float | None = None


@dataclass(frozen=True)
class Sample:
    """What came of it.

    Attributes:
        seconds: From the first request to the last answer.
        latencies: Seconds from when each request was due until its answer was there.
        errors: How many answers were not 200, or never came.
        wrong: The first of them.
        body: The last answer.
    """

    seconds: float
    latencies: list[float]
    errors: int
    wrong: list[str]
    body: str


def request(path: str, body: str) -> bytes:
    """An HTTP request as it is sent."""
    content = body.encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
    return f"{head}\r\n\r\n".encode() + content


@dataclass(eq=False)
class Load:
    """One plan while it is carried out."""

    plan: Plan
    loop: asyncio.AbstractEventLoop
    free: deque["Connection"] = field(default_factory=deque)
    late: deque[float] = field(default_factory=deque)  # due, and no connection was free
    latencies: list[float] = field(default_factory=list)
    errors: int = 0
    wrong: list[str] = field(default_factory=list)
    body: bytes = b""

    def __post_init__(self) -> None:
        self.requests = cycle([request(self.plan.path, body) for body in self.plan.bodies])
        self.finished: asyncio.Future[None] = self.loop.create_future()
        self.start = self.end = 0.0

    def begin(self) -> None:
        """Send the first requests."""
        self.start = self.loop.time()
        self.end = self.start + self.plan.seconds
        if self.plan.rate:
            self.tick(0)
            return
        while self.free:
            self.free.popleft().send(next(self.requests), self.start)

    def tick(self, count: int) -> None:
        """Send, or note as late, the request that is due now, and come back for the next."""
        due = self.start + count / (self.plan.rate or 1)
        if due >= self.end:
            self.rest()
            return
        if self.free:
            self.free.popleft().send(next(self.requests), due)
        else:
            self.late.append(due)
        self.loop.call_at(self.start + (count + 1) / (self.plan.rate or 1), self.tick, count + 1)

    def answered(self, connection: "Connection", status: bytes, body: bytes) -> None:
        """Note an answer, and give its connection the next request."""
        now = self.loop.time()
        self.latencies.append(now - connection.due)
        self.body = body
        if status != b"200":
            self.fail(f"{status.decode()} {body[:300].decode(errors='replace')}")
        if self.late:
            connection.send(next(self.requests), self.late.popleft())
        elif self.plan.rate is None and now < self.end:
            connection.send(next(self.requests), now)
        else:
            self.free.append(connection)
            self.rest()

    def rest(self) -> None:
        """Finish, if the time is over and nobody waits."""
        over = self.loop.time() >= self.end and len(self.free) == self.plan.connections
        if over and not self.finished.done():
            self.finished.set_result(None)

    def fail(self, reason: str) -> None:
        """Note what went wrong."""
        self.errors += 1
        if len(self.wrong) < KEPT:
            self.wrong.append(reason)


class Connection(asyncio.Protocol):
    """A connection that has at most one request under way."""

    def __init__(self, load: Load) -> None:
        self.load, self.due, self.buffer, self.whole = load, 0.0, b"", 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be ready."""
        self.transport = cast("asyncio.Transport", transport)
        self.load.free.append(self)

    def send(self, content: bytes, due: float) -> None:
        """Send a request that was due at a time."""
        self.due = due
        self.transport.write(content)

    def data_received(self, data: bytes) -> None:
        """Collect an answer until it is whole."""
        self.buffer = self.buffer + data if self.buffer else data
        if not self.whole:
            if (head := self.buffer.find(b"\r\n\r\n")) < 0:
                return
            length = LENGTH.search(self.buffer, 0, head + 2)
            self.head, self.whole = head + 4, head + 4 + (int(length[1]) if length else 0)
        if len(self.buffer) >= self.whole:
            answer, self.buffer, self.whole = self.buffer, b"", 0
            self.load.answered(self, answer[9:12], answer[self.head :])

    def connection_lost(self, _: Exception | None) -> None:
        """End the load: a connection that is lost is an error."""
        if not self.load.finished.done():
            self.load.fail("the server closed a connection")
            self.load.finished.set_result(None)


async def carry_out(plan: Plan) -> Sample:
    """Carry out a plan."""
    loop = asyncio.get_running_loop()
    load = Load(plan, loop)
    for _ in range(plan.connections):
        await loop.create_connection(lambda: Connection(load), HOST, plan.port)
    load.begin()
    try:
        await asyncio.wait_for(load.finished, plan.seconds + PATIENCE)
    except TimeoutError:
        load.fail(f"{plan.connections - len(load.free)} answers did not come in {PATIENCE} s")
    return Sample(loop.time() - load.start, load.latencies, load.errors, load.wrong, load.body.decode())


if __name__ == "__main__":
    json.dump(asdict(asyncio.run(carry_out(Plan(**json.load(sys.stdin))))), sys.stdout)
