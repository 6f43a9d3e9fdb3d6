"""Hyperparameter tuning on past folds."""

from typing import TYPE_CHECKING

import click

from {{cookiecutter.__package_name}}.core.command_line import POSITIVE, command
from {{cookiecutter.__package_name}}.core.parts import Part

if TYPE_CHECKING:
    from {{cookiecutter.__package_name}}.core.workspace import Workspace


@command("tune", section="Research")
@click.option("--trials", type=POSITIVE, default=50, show_default=True, metavar="N", help="Number of trials.")
@click.option("--workers", type=POSITIVE, metavar="N", help="Number of worker processes. Default: one per CPU core.")
@click.option("--storage", metavar="URL", help="Database that several machines share. Default: a journal file.")
def search_parameters(workspace: "Workspace", *, trials: int, workers: int | None, storage: str | None) -> object:
    """Search for better parameters on past folds and write the best to config/params.toml."""
    from {{cookiecutter.__package_name}}.research.tuning.tune import tune

    return tune(workspace, trials=trials, workers=workers, storage=storage)


PART = Part(commands=(search_parameters,))
