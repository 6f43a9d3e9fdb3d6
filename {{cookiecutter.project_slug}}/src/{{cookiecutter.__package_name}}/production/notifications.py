"""Notifications of events on which a person must act."""

import json
import logging
from dataclasses import asdict
from datetime import UTC, datetime
from urllib.request import Request, urlopen

from {{cookiecutter.__package_name}}.core import NAME
from {{cookiecutter.__package_name}}.core.errors import summarize
from {{cookiecutter.__package_name}}.core.parts import Event
from {{cookiecutter.__package_name}}.core.workspace import Workspace

log = logging.getLogger(__name__)

SECONDS = 10  # timeout of the webhook


def notify(workspace: Workspace, subject: str, detail: str) -> None:
    """Call the extensions and post to the webhook of the settings; errors are logged."""
    event = Event(NAME, subject, detail, datetime.now(UTC))
    targets = [part.notify for part in workspace.parts if part.notify]
    if address := workspace.settings.webhook:
        targets.append(lambda event: _post(str(address), event))
    for target in targets:
        try:
            target(event)
        except Exception as error:  # noqa: BLE001 - the user's code and the network can fail in any way
            log.warning("notify    a notification could not be sent: %s", summarize(error))


def _post(address: str, event: Event) -> None:
    """Post an event as JSON, with the field `text` that chat services show."""
    text = f"{event.project}: {event.subject}\n{event.detail}"
    body = json.dumps(asdict(event) | {"text": text}, default=str).encode()
    request = Request(address, body, {"Content-Type": "application/json"})  # noqa: S310 - the setting is an HTTP address
    with urlopen(request, timeout=SECONDS):  # noqa: S310
        pass
