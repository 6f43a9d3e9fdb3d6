"""The load of the benchmark sends what it is given, and counts every answer."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from baking import TEMPLATE

LOAD = TEMPLATE / "tools" / "benchmark_load.py"
Write = Callable[[bytes], object]


def reply(body: str, status: str = "200 OK") -> bytes:
    """An answer as it is sent."""
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()


def echo(write: Write, body: str) -> None:
    """Answer with what was asked."""
    write(reply(body))


def load(answer: Callable[[Write, str], None], bodies: list[str], **plan: float) -> tuple[dict[str, Any], list[str]]:
    """What the load says of a server that answers like that, and the bodies that it was asked; none ends it."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked.append(self.rfile.read(int(self.headers["content-length"])).decode())
            answer(self.wfile.write, asked[-1])
            self.close_connection = not asked[-1]

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = False
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        told = json.dumps({"port": server.server_port, "path": "/", "bodies": bodies} | plan)
        said = subprocess.run([sys.executable, LOAD], input=told, capture_output=True, text=True, check=True).stdout
        server.shutdown()
    return json.loads(said), asked


def test_bodies_are_asked_in_turn_and_each_answer_is_counted() -> None:
    sample, asked = load(echo, ["a", "bb", "ccc"], seconds=0.1, connections=1)
    assert len(asked) > 3
    assert asked == (["a", "bb", "ccc"] * len(asked))[: len(asked)]
    assert sample["answers"] == len(asked)
    assert sample["body"] == asked[-1]
    assert sample["errors"] == []


def test_all_connections_ask_at_the_same_time() -> None:
    together = threading.Barrier(5, timeout=20)

    def all_at_once(write: Write, body: str) -> None:
        together.wait()
        write(reply(body))

    sample, asked = load(all_at_once, ["a"], seconds=0, connections=5)
    assert sample["answers"] == len(asked) == 5
    assert sample["errors"] == []


def test_an_answer_that_comes_in_pieces_is_one() -> None:
    def bit_by_bit(write: Write, body: str) -> None:
        for byte in reply(body):
            write(bytes([byte]))

    sample, _ = load(bit_by_bit, ["whole"], seconds=0, connections=1)
    assert sample["body"] == "whole"
    assert sample["answers"] == 1


def test_an_answer_that_is_not_200_is_an_error() -> None:
    def busy(write: Write, _: str) -> None:
        write(reply("try again", "503 Service Unavailable"))

    sample, asked = load(busy, ["a"], seconds=0, connections=2)
    assert sample["answers"] == len(asked) == 2
    assert sample["errors"] == ["503 try again"] * 2


def test_a_connection_that_the_server_closes_is_an_error() -> None:
    sample, _ = load(lambda *_: None, [""], seconds=60, connections=1)
    assert sample["errors"] == ["the server closed a connection"]
