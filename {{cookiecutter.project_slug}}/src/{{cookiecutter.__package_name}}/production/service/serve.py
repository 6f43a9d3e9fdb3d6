"""The command `serve`: the application under uvicorn."""

import gc
import sys
from dataclasses import dataclass
from datetime import datetime

from {{cookiecutter.__package_name}}.core.workspace import Workspace
from {{cookiecutter.__package_name}}.production.service.app import create_app
from {{cookiecutter.__package_name}}.production.service.http_server import answer, listen

SHUTDOWN_SECONDS = 30  # for requests under way when the service ends


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
    with listen(host, port) as socket:
        service.reloader.refresh()
        model, (address, number) = service.reloader.model, socket.getsockname()[:2]
        champion = f"version {model.release.version}" if model else "no champion yet"
        gc.freeze()  # what was imported stays: looking through it again and again delays responses
        sys.setswitchinterval(0.0005)  # seconds: the thread that predicts would wait ten times as long for the others
        greeting = f"serve     {champion} at http://{address}:{number}"
        answer(lambda: app, socket, greeting=greeting, patience=SHUTDOWN_SECONDS)
    return ServerStopped(service.metrics.requests)
