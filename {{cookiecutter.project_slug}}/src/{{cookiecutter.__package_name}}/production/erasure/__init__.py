"""Erasure: permanent deletion of rows of the entity."""

from typing import TYPE_CHECKING

import click

from {{cookiecutter.__package_name}}.core.command_line import Group, command
from {{cookiecutter.__package_name}}.core.parts import Part

if TYPE_CHECKING:
    from {{cookiecutter.__package_name}}.core.workspace import Workspace


@command("erase", section="Data", writes=True)
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@click.option("--yes", is_flag=True, help="Erase without asking.")
def erase_rows(workspace: "Workspace", *, keys: tuple[str, ...], yes: bool) -> object:
    """Erase the rows with each KEY from tables, files and tracked runs, permanently."""
    from {{cookiecutter.__package_name}}.production.erasure.erase import confirm, erase

    if not yes:
        confirm(keys)
    return erase(workspace, keys)


PART = Part(commands=(Group("data", commands=[erase_rows]),))
