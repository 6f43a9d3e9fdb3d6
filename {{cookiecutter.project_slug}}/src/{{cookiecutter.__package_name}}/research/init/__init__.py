"""Your own data in one command: contract, features, model, configuration, tests and pages from a table."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from {{cookiecutter.__package_name}}.core.command_line import PATH, command
from {{cookiecutter.__package_name}}.core.parts import Part

if TYPE_CHECKING:
    from {{cookiecutter.__package_name}}.core.workspace import Workspace


@command("init", section="Data", writes=True, standalone=True)
@click.argument("table", type=PATH)
@click.option("--target", required=True, metavar="COLUMN", help="Column to predict.")
@click.option("--time", metavar="COLUMN", help="Column with the time of a row's event.")
@click.option("--key", metavar="COLUMN", multiple=True, help="Column that identifies a row; repeat it for several.")
@click.option(
    "--task", type=click.Choice(["binary", "multiclass", "regression"]), help="Default: derived from the target."
)
@click.option("--exclude", metavar="COLUMN", multiple=True, help="Column that features must not use; may be repeated.")
@click.option(
    "--keep", metavar="COLUMN", multiple=True, help="Column to keep though it looks like a leak; may be repeated."
)
@click.option("--available-at", metavar="COLUMN", help="Column with the time at which the label became available.")
@click.option("--missing", metavar="TEXT", multiple=True, help="Text that stands for a missing value; may be repeated.")
@click.option("--dry-run", is_flag=True, help="Show what would be written, and write nothing.")
def init(
    workspace: "Workspace",
    *,
    table: Path,
    missing: tuple[str, ...],
    dry_run: bool,
    **asked: Any,  # noqa: ANN401 - the options that are fields of a request
) -> object:
    """Replace the example with the problem of TABLE, a file or a folder of files."""
    from {{cookiecutter.__package_name}}.research.init import generate, profile

    return generate.init(workspace, table, profile.Request(**asked), missing=missing, dry_run=dry_run)


PART = Part(commands=(init,))
