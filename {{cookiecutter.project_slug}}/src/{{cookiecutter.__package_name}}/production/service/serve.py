"""The command `serve`: the application under uvicorn, which ends well at a signal."""

import errno
import gc
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

import uvicorn

from {{cookiecutter.__package_name}}.core.errors import BadInput
from {{cookiecutter.__package_name}}.core.workspace import Workspace
from {{cookiecutter.__package_name}}.production.service.app import create_app

log = logging.getLogger(__name__)

SHUTDOWN_SECONDS = 30  # for requests under way when the service ends
TAKEN = {errno.EADDRINUSE, errno.EACCES}  # by another, or kept for root


@dataclass(frozen=True)
class ServerStopped:
    """A server that has stopped, and what it did."""

    requests: int

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.requests} requests answered"


def serve(
    workspace: Workspace, *, host: str = "127.0.0.1", port: int = 8000, now: datetime | None = None
) -> ServerStopped:
    """Answer requests until SIGTERM or Ctrl-C; those under way are answered first.

    Args:
        workspace: The workspace.
        host: The address to listen at.
        port: The port; 0 takes a free one.
        now: The current time; without it, the setting `clock` says.

    Raises:
        BadInput: The address is taken, or there is none such.
    """
    app = create_app(workspace, now=now)
    service = app.state.service
    config = uvicorn.Config(
        app, lifespan="on", log_config=None, access_log=False, timeout_graceful_shutdown=SHUTDOWN_SECONDS
    )
    server = _Server(config)
    with listen(host, port) as listening, server.capture_signals():
        service.reloader.refresh()
        model, (address, number) = service.reloader.model, listening.getsockname()[:2]
        champion = f"version {model.release.version}" if model else "no champion yet"
        log.info("serve     %s at http://%s:%d", champion, address, number)
        gc.freeze()  # what was imported stays: looking through it again and again delays responses
        sys.setswitchinterval(0.0005)  # seconds: the thread that predicts would wait ten times as long for the others
        server.run(sockets=[listening])
    return ServerStopped(service.metrics.requests)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at an address; port 0 takes a free one.

    Raises:
        BadInput: The address is taken, or there is none such.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        option = "--port" if error.errno in TAKEN else "--host"
        raise BadInput(f"{host}:{port} can't be listened at: {error.strerror}; choose another {option}") from error


class _Server(uvicorn.Server):
    """Ends at a signal, after which the process ends as any command does."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take the signals that mean the end, while it serves."""
        before = {name: signal.signal(name, self.handle_exit) for name in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)
