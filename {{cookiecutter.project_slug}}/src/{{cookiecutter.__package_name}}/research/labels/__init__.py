"""Labelling with Label Studio: export of tasks and import of annotations."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from {{cookiecutter.__package_name}}.core.command_line import FILE, NOW, PATH, POSITIVE, Group, command
from {{cookiecutter.__package_name}}.core.parts import Part

if TYPE_CHECKING:
    from {{cookiecutter.__package_name}}.core.workspace import Workspace


@command("export", section="Data")
@click.option("--n", type=POSITIVE, default=100, show_default=True, metavar="N", help="Number of rows.")
@click.option(
    "--strategy",
    type=click.Choice(["margin", "random", "disagreement"]),
    default="margin",
    show_default=True,
    help="How rows are sampled.",
)
@click.option("--out", type=PATH, metavar="FILE", help="Output file (.json). Default: a file in reports/.")
@NOW
def export_rows(workspace: "Workspace", *, n: int, strategy: str, out: Path | None, now: datetime | None) -> object:
    """Export the unlabelled rows that are most worth labelling as Label Studio tasks."""
    from {{cookiecutter.__package_name}}.research.labels.export_tasks import export_tasks

    return export_tasks(workspace, n=n, strategy=strategy, out=out, now=now)


@command("import", section="Data", writes=True)
@FILE
def import_labels(workspace: "Workspace", *, file: Path) -> object:
    """Import FILE, an export of Label Studio, as a batch of labels."""
    from {{cookiecutter.__package_name}}.research.labels.import_annotations import import_annotations

    return import_annotations(workspace, file)


LABELS = Group(
    "labels", commands=[export_rows, import_labels], help="Have rows labelled in Label Studio.", no_args_is_help=False
)
PART = Part(commands=(LABELS,))
