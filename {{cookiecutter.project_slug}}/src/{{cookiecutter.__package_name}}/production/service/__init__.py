"""The HTTP service: predictions of the champion over FastAPI, with request log and smoke test."""

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING

import click

from {{cookiecutter.__package_name}}.core.command_line import NOW, PORT, command
from {{cookiecutter.__package_name}}.core.parts import Alert, Check, Part

if TYPE_CHECKING:
    from {{cookiecutter.__package_name}}.core.store.releases import Release
    from {{cookiecutter.__package_name}}.core.workspace import Workspace


@command("serve", section="Predictions")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=PORT, default=8000, show_default=True, help="Port to listen on; 0 picks a free port.")
@NOW
def start_server(workspace: "Workspace", *, host: str, port: int, now: datetime | None) -> object:
    """Serve predictions over HTTP."""
    from {{cookiecutter.__package_name}}.production.service.serve import serve

    return serve(workspace, host=host, port=port, now=now)


def run_smoke_test(workspace: "Workspace", release: "Release") -> Iterable[Check]:
    """Send requests to a server process that serves the release."""
    from {{cookiecutter.__package_name}}.production.service.smoke_test import checks

    return checks(workspace, release, now=release.trained_until)


def monitor_requests(workspace: "Workspace", champion: "Release", now: datetime) -> Iterable[Alert]:
    """Check the logged requests and the predictions that were served."""
    from {{cookiecutter.__package_name}}.production.service.logged_requests import alerts

    return alerts(workspace, champion, now=now)


PART = Part(commands=(start_server,), release_checks=(run_smoke_test,), monitor_checks=(monitor_requests,))
