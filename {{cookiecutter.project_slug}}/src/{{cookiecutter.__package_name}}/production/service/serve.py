"""The command `serve`: the application under uvicorn, with graceful shutdown."""

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

from {{cookiecutter.__package_name}}.core.errors import InputError
from {{cookiecutter.__package_name}}.core.workspace import Workspace
from {{cookiecutter.__package_name}}.production.service.app import create_app

log = logging.getLogger(__name__)

SHUTDOWN_SECONDS = 30  # timeout for pending requests
TAKEN = {errno.EADDRINUSE, errno.EACCES}  # the port is in use or privileged


@dataclass(frozen=True)
class ServerStopped:
    """The result of a stopped server."""

    requests: int

    def __str__(self) -> str:
        """One line of text."""
        return f"{self.requests} requests served"


def serve(
    workspace: Workspace, *, host: str = "127.0.0.1", port: int = 8000, now: datetime | None = None
) -> ServerStopped:
    """Serve until SIGTERM or Ctrl-C; pending requests are finished first.

    Args:
        workspace: The workspace.
        host: The address to listen at.
        port: The port; 0 picks a free port.
        now: The current time. Default: by the setting `clock`.

    Raises:
        InputError: The address is in use or doesn't exist.
    """
    app = create_app(workspace, now=now)
    service = app.state.service
    config = uvicorn.Config(
        app,
        lifespan="on",
        log_config=None,
        access_log=False,
        root_path=workspace.settings.serve_root_path or "",
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    server = _Server(config)
    with listen(host, port) as listening, server.capture_signals():
        service.reloader.refresh()
        model, (address, number) = service.reloader.model, listening.getsockname()[:2]
        champion = f"version {model.release.version}" if model else "no champion yet"
        log.info("serve     %s at http://%s:%d", champion, address, number)
        gc.freeze()  # imported objects are permanent: collecting them delays responses
        sys.setswitchinterval(0.0005)  # seconds; the default delays the prediction threads
        server.run(sockets=[listening])
    return ServerStopped(service.metrics.requests)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 picks a free port.

    Raises:
        InputError: The address is in use or doesn't exist.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        option = "--port" if error.errno in TAKEN else "--host"
        raise InputError(f"{host}:{port} is not available: {error.strerror}; choose another {option}") from error


class _Server(uvicorn.Server):
    """A server that shuts down at a signal."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM while serving."""
        before = {name: signal.signal(name, self.handle_exit) for name in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)
