"""Send requests to a server of this machine as fast as it answers, and count the answers.

A process of its own with the standard library alone: a Plan comes on stdin and a Sample goes to stdout, both as JSON.
Requests are built before the first one is sent, and connections stay open.
"""

import asyncio
import json
import re
import sys
from dataclasses import asdict, dataclass, field
from itertools import cycle
from typing import cast

HOST = "127.0.0.1"
PATIENCE = 60  # seconds that the last answers may take
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
SHOWN = 3  # errors that are shown in full


@dataclass(frozen=True)
class Plan:
    """What to send.

    Attributes:
        port: Port of the server.
        path: Path of the requests.
        bodies: JSON documents to send in turn.
        seconds: How long to send; 0 sends one request over each connection.
        connections: Number of requests that wait for their answers at the same time.
    """

    port: int
    path: str
    bodies: list[str]
    seconds: float
    connections: int


@dataclass
class Sample:
    """What the server answered.

    Attributes:
        seconds: From the first request to the last answer.
        answers: Number of answers.
        errors: The first answers that were not 200, and lost connections.
        body: The last answer.
    """

    seconds: float = 0
    answers: int = 0
    errors: list[str] = field(default_factory=list)
    body: str = ""


def request(path: str, body: str) -> bytes:
    """Build an HTTP request."""
    content = body.encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
    return f"{head}\r\n\r\n".encode() + content


class Load:
    """One plan while it is carried out."""

    def __init__(self, plan: Plan, loop: asyncio.AbstractEventLoop) -> None:
        """Prepare the requests and start the clock."""
        self.loop, self.sample = loop, Sample()
        self.requests = cycle([request(plan.path, body) for body in plan.bodies])
        self.finished: asyncio.Future[None] = loop.create_future()
        self.busy = plan.connections
        self.start = loop.time()
        self.end = self.start + plan.seconds

    def answered(self, connection: "Connection", status: bytes, body: bytes) -> None:
        """Count an answer, and send the next request while there is time."""
        self.sample.answers += 1
        if status != b"200":
            self.fail(f"{status.decode()} {body[:300].decode(errors='replace')}")
        if self.loop.time() < self.end:
            connection.send(next(self.requests))
            return
        self.sample.body = body.decode()
        self.busy -= 1
        if not self.busy:
            self.finish()

    def fail(self, reason: str) -> None:
        """Note an error."""
        self.sample.errors += [reason] if len(self.sample.errors) < SHOWN else []

    def finish(self) -> None:
        """Stop the clock."""
        if not self.finished.done():
            self.sample.seconds = self.loop.time() - self.start
            self.finished.set_result(None)


class Connection(asyncio.Protocol):
    """A connection with one request under way."""

    def __init__(self, load: Load) -> None:
        """Belong to a load."""
        self.load, self.buffer, self.end = load, b"", 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self.transport = cast("asyncio.Transport", transport)
        self.send(next(self.load.requests))

    def send(self, content: bytes) -> None:
        """Send a request."""
        self.transport.write(content)

    def data_received(self, data: bytes) -> None:
        """Collect the parts of an answer."""
        self.buffer = self.buffer + data if self.buffer else data
        if not self.end:
            if (head := self.buffer.find(b"\r\n\r\n")) < 0:
                return
            length = LENGTH.search(self.buffer, 0, head + 2)
            self.head, self.end = head + 4, head + 4 + (int(length[1]) if length else 0)
        if len(self.buffer) >= self.end:
            answer, self.buffer, self.end = self.buffer, b"", 0
            self.load.answered(self, answer[9:12], answer[self.head :])

    def connection_lost(self, _: Exception | None) -> None:
        """End the load: a lost connection is an error."""
        if not self.load.finished.done():
            self.load.fail("the server closed a connection")
            self.load.finish()


async def carry_out(plan: Plan) -> Sample:
    """Carry out a plan."""
    loop = asyncio.get_running_loop()
    load = Load(plan, loop)
    for _ in range(plan.connections):
        await loop.create_connection(lambda: Connection(load), HOST, plan.port)
    try:
        await asyncio.wait_for(load.finished, plan.seconds + PATIENCE)
    except TimeoutError:
        load.fail(f"{load.busy} answers did not come within {PATIENCE} s")
    return load.sample


if __name__ == "__main__":
    json.dump(asdict(asyncio.run(carry_out(Plan(**json.load(sys.stdin))))), sys.stdout)
