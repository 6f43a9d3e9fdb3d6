"""Servers of the command line: where they listen, and that they end well at a signal."""

import errno
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from {{cookiecutter.__package_name}}.core.errors import BadInput

log = logging.getLogger(__name__)
TAKEN = {errno.EADDRINUSE, errno.EACCES}  # by another, or kept for root


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


def answer(make: Callable[[], ASGIApp], listening: socket.socket, *, greeting: str, patience: int) -> None:
    """Answer requests until a signal means the end, which it does from the moment at which the greeting is said.

    Args:
        make: Gives what answers; requests wait for it.
        listening: Where.
        greeting: What is said first.
        patience: Seconds that requests under way may take in the end.
    """
    config = uvicorn.Config(
        make, factory=True, lifespan="on", log_config=None, access_log=False, timeout_graceful_shutdown=patience
    )
    server = _Server(config)
    with server.capture_signals():
        log.info(greeting)
        server.run(sockets=[listening])


class _Server(uvicorn.Server):
    """Ends at a signal, with what is under way answered; the process then ends as any command does."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take the signals that mean the end, while it serves."""
        before = {name: signal.signal(name, self.handle_exit) for name in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)
