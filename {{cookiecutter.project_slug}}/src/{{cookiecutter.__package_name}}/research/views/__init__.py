"""Reports: what they show, computed from tables and runs, and the command that opens or exports them.

The programs in `research/reports` put figures, tables and sentences together.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from {{cookiecutter.__package_name}}.core.command_line import PATH, PORT, command
from {{cookiecutter.__package_name}}.core.parts import Part

if TYPE_CHECKING:
    from {{cookiecutter.__package_name}}.core.workspace import Workspace


@command("report", section="Research")
@click.option("--html", type=PATH, metavar="DIR", help="Export each report as one HTML file into DIR.")
@click.option("--port", type=PORT, default=8080, show_default=True, help="Port of the app; 0 picks a free port.")
def open_reports(workspace: "Workspace", *, html: Path | None, port: int) -> object:
    """Open the reports as an app, or export them as HTML."""
    from {{cookiecutter.__package_name}}.research.views.report import report

    return report(workspace, html=html, port=port)


PART = Part(commands=(open_reports,))
