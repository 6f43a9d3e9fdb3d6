"""Simulation: past days replayed under three retraining policies."""

from datetime import datetime
from typing import TYPE_CHECKING

import click

from {{cookiecutter.__package_name}}.core.command_line import TIME, command
from {{cookiecutter.__package_name}}.core.parts import Part

if TYPE_CHECKING:
    from {{cookiecutter.__package_name}}.core.workspace import Workspace


@command("simulate", section="Model")
@click.option("--from", "start", type=TIME, metavar="TIME", help="Training time of the first model, UTC.")
@click.option("--to", "end", type=TIME, metavar="TIME", help="End of the replay, UTC. Default: the newest label.")
def replay(workspace: "Workspace", *, start: datetime | None, end: datetime | None) -> object:
    """Replay past days under three retraining policies and compare them."""
    from {{cookiecutter.__package_name}}.production.simulation.simulate import simulate

    return simulate(workspace, start=start, end=end)


PART = Part(commands=(replay,))
