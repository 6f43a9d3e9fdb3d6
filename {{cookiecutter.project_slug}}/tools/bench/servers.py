"""Servers of this machine: started until they answer, asked by a process of its own, stopped with all they started."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from .load import HOST, Plan, Sample

PATIENCE = 120  # seconds that a server may take to start
CONNECTIONS = 64


@dataclass(frozen=True)
class Service:
    """A server that can be started, and what it can be asked.

    Attributes:
        command: Starts it; the port is added.
        asked: Path and bodies of each kind of request.
        log: Where it says what it says.
    """

    command: tuple[str, ...]
    asked: Mapping[str, tuple[str, list[str]]]
    log: Path


@dataclass(frozen=True)
class Server:
    """A service that runs.

    Attributes:
        service: What it is.
        port: Where it listens.
        process: The one that was started.
        seconds: From its start to its first answer.
    """

    service: Service
    port: int
    process: psutil.Popen
    seconds: float

    def plan(
        self, kind: str, seconds: float, *, connections: int = CONNECTIONS, rate: float | None = None
    ) -> "subprocess.Popen[str]":
        """A process that asks it for a while; `answered` waits for it."""
        path, bodies = self.service.asked[kind]
        plan = Plan(self.port, path, bodies, seconds, connections, rate)
        command = [sys.executable, "-m", "tools.bench.load"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if process.stdin:
            json.dump(asdict(plan), process.stdin)
            process.stdin.close()
            process.stdin = None
        return process

    def load(self, kind: str, seconds: float, *, connections: int = CONNECTIONS, rate: float | None = None) -> Sample:
        """Ask it for a while.

        Raises:
            SystemExit: An answer was not 200.
        """
        sample = answered(self.plan(kind, seconds, connections=connections, rate=rate))
        if sample.errors:
            sys.exit(f"{self.service.asked[kind][0]}: {sample.errors} errors, the first: {'; '.join(sample.wrong)}")
        return sample

    def rate(self, kind: str, seconds: float, *, connections: int = CONNECTIONS) -> float:
        """Requests a second, as many as it can answer."""
        sample = self.load(kind, seconds, connections=connections)
        return len(sample.latencies) / sample.seconds

    def memory(self) -> float:
        """The resident memory of all its processes, in MB."""
        return float(sum(process.memory_info().rss for process in tree(self.process)) / 1e6)


def answered(process: "subprocess.Popen[str]") -> Sample:
    """What came of a load.

    Raises:
        SystemExit: Its process failed.
    """
    said, _ = process.communicate()
    if process.returncode:
        sys.exit("the load could not be made: see above")
    return Sample(**json.loads(said))


@contextmanager
def serving(service: Service) -> Iterator[Server]:
    """Start a service, wait for its first answer, and stop it in the end.

    Raises:
        SystemExit: It ended, or did not answer in time.
    """
    with closing(socket.socket()) as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    path, bodies = next(iter(service.asked.values()))
    start = time.perf_counter()
    with service.log.open("w", encoding="utf-8") as log:
        process = psutil.Popen([*service.command, str(port)], stdout=log, stderr=subprocess.STDOUT)
    try:
        while not answers(f"http://{HOST}:{port}{path}", bodies[0]):
            if process.poll() is not None or time.perf_counter() - start > PATIENCE:
                said = service.log.read_text(encoding="utf-8", errors="replace")[-2000:]
                sys.exit(f"{' '.join(service.command)} does not answer; it said:\n{said}")
            time.sleep(0.01)
        yield Server(service, port, process, time.perf_counter() - start)
    finally:
        stop(process)


def answers(address: str, body: str) -> bool:
    """Whether a request is answered yet."""
    asked = urllib.request.Request(address, body.encode(), {"Content-Type": "application/json"})  # noqa: S310 - HTTP
    try:
        with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:  # noqa: S310
            return bool(answer.read())
    except OSError:
        return False


def tree(process: psutil.Process) -> list[psutil.Process]:
    """A process and all that it started."""
    return [process, *process.children(recursive=True)]


def stop(process: psutil.Process) -> None:
    """Ask all processes of a server to end, and end what is left."""
    if not process.is_running():
        return
    processes = tree(process)
    for each in processes:
        each.terminate()
    for left in psutil.wait_procs(processes, timeout=20)[1]:
        left.kill()
