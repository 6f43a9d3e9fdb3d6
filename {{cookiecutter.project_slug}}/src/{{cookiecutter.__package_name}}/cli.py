"""The command line: one function a command; heavy libraries are imported inside them.

Parts and the user's extensions bring commands of their own.
"""

import logging
import os
import signal
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from {{cookiecutter.__package_name}}.core import NAME, parts
from {{cookiecutter.__package_name}}.core.command_line import (
    FILE,
    INPUT_ERROR,
    NOW,
    PATH,
    REJECTED,
    TIME,
    Group,
    fail,
    fail_to_print,
)
from {{cookiecutter.__package_name}}.core.logs import set_log_format

if TYPE_CHECKING:
    from {{cookiecutter.__package_name}}.core.problem import Problem
    from {{cookiecutter.__package_name}}.core.workspace import Workspace

EXTENSIONS = Path(__file__).parent / "shared" / "extensions.py"
STOPPED = "stopped; call it again to resume"

TABLE = click.option(
    "--table", metavar="NAME", help="Table of the rows. Default: derived from the folder or the columns of the file."
)
DIRTY = click.option("--dirty", is_flag=True, help="Allow a release from files that differ from the last commit.")
VERSION = click.option("--version", type=int, metavar="N", help="Version to evaluate. Default: the challenger.")


def load_problem() -> "Problem":
    """The user's problem, with its extensions."""
    from {{cookiecutter.__package_name}}.shared import PROBLEM

    return PROBLEM


class Commands(Group):
    """The commands of the framework; those of the user are added on demand, since importing them takes time."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name, the user's own among them."""
        if cmd_name not in self.commands:
            self.add_extensions()
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write all commands into the help."""
        self.add_extensions()
        super().format_commands(ctx, formatter)

    def add_extensions(self) -> None:
        """Add the user's commands, if any; if `shared` can't be imported, print one line."""
        if "commands=" not in EXTENSIONS.read_text(encoding="utf-8"):
            return  # importing `shared` takes a second
        try:
            for command in load_problem().extensions.commands:
                self.add(command)
        except Exception as error:  # noqa: BLE001 - the user's code can fail in any way
            click.echo(f"{NAME}: could not import shared and its commands: {error!r}", err=True)


@click.group(cls=Commands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name=NAME)
@click.pass_context
def cli(context: click.Context) -> None:
    """Train, evaluate, promote, serve and monitor the model of this project.

    Without a command, show the status. Exit status 0: done; 1: rejected, or a person must act; 2: invalid input, with
    one line that says what to do.
    """
    context.obj = load_problem
    if context.invoked_subcommand is None:
        with status.make_context(status.name, [], parent=context) as inner:
            status.invoke(inner)


@cli.command(section="Daily", writes=True)
@NOW
@DIRTY
def run(workspace: "Workspace", *, now: datetime | None, dirty: bool) -> object:
    """Run whatever is due: collect, ingest, monitor, train, gate, promote and predict."""
    from {{cookiecutter.__package_name}}.production import lifecycle

    return lifecycle.run(workspace, now=now, dirty=dirty)


@cli.command(section="Daily")
def status(workspace: "Workspace") -> object:
    """Show the champion, the state of the data and the next step."""
    from {{cookiecutter.__package_name}}.production import status

    return status.status(workspace)


@cli.command(section="Daily")
@NOW
def monitor(workspace: "Workspace", *, now: datetime | None) -> object:
    """Check data quality, drift, staleness and live performance."""
    from {{cookiecutter.__package_name}}.production import monitor

    return monitor.monitor(workspace, now=now)


@cli.command(section="Data")
@FILE
@TABLE
@NOW
def check(workspace: "Workspace", *, file: Path, table: str | None, now: datetime | None) -> object:
    """Validate FILE against its contract without writing anything."""
    from {{cookiecutter.__package_name}}.production import ingest

    return ingest.check(workspace, file, table=table, now=now)


@cli.command(section="Data", writes=True)
@click.argument("file", type=PATH, required=False)
@TABLE
@NOW
def ingest(workspace: "Workspace", *, file: Path | None, table: str | None, now: datetime | None) -> object:
    """Validate FILE (default: every file in the inbox) and append its valid rows exactly once."""
    from {{cookiecutter.__package_name}}.production import ingest

    return ingest.ingest(workspace, file, table=table, now=now)


@cli.group(no_args_is_help=False)
def data() -> None:
    """Document and maintain the data."""


@data.command(section="Data")
def dictionary(workspace: "Workspace") -> object:
    """Document the contract in docs/data-dictionary.md."""
    from {{cookiecutter.__package_name}}.core.contracts import data_dictionary

    return data_dictionary.write_data_dictionary(
        workspace.problem.tables, workspace.root / "docs" / "data-dictionary.md"
    )


@cli.command(section="Model", writes=True)
@click.option("--as-of", type=TIME, metavar="TIME", help="Train on the data available at this time, UTC. Default: now.")
def train(workspace: "Workspace", *, as_of: datetime | None) -> object:
    """Train, evaluate and register a challenger."""
    from {{cookiecutter.__package_name}}.production import train

    return train.train(workspace, as_of=as_of)


@cli.command(section="Model")
@VERSION
def gate(workspace: "Workspace", *, version: int | None) -> object:
    """Evaluate a challenger against the gate and print the reasons."""
    from {{cookiecutter.__package_name}}.production import gate

    return gate.gate(workspace, version=version)


@cli.command(section="Model", writes=True)
@VERSION
@NOW
@DIRTY
def promote(workspace: "Workspace", *, version: int | None, now: datetime | None, dirty: bool) -> object:
    """Evaluate a challenger and promote it to champion if it passes the gate."""
    from {{cookiecutter.__package_name}}.production import promote

    return promote.promote(workspace, version=version, now=now, dirty=dirty)


@cli.command(section="Model", writes=True)
@NOW
def rollback(workspace: "Workspace", *, now: datetime | None) -> object:
    """Roll back to the previous champion."""
    from {{cookiecutter.__package_name}}.production import promote

    return promote.rollback(workspace, now=now)


@cli.command(section="Research")
@click.option("--sort", metavar="METRIC", help="Metric by which the best runs are first. Default: newest first.")
def runs(workspace: "Workspace", *, sort: str | None) -> object:
    """Compare the parameters and metrics of the tracked runs."""
    from {{cookiecutter.__package_name}}.research import reproduce

    return reproduce.runs(workspace, sort=sort)


@cli.command(section="Research")
@click.argument("run", required=False)
def reproduce(workspace: "Workspace", *, run: str | None) -> object:
    """Re-run RUN (default: the latest) from its commit, lock file and table versions, and compare the results."""
    from {{cookiecutter.__package_name}}.research import reproduce

    return reproduce.reproduce(workspace, run)


@cli.command(section="Predictions")
@FILE
@click.option("--out", type=PATH, metavar="FILE", help="Output file (.parquet or .csv). Default: a file in reports/.")
@NOW
def predict(workspace: "Workspace", *, file: Path, out: Path | None, now: datetime | None) -> object:
    """Predict the rows of FILE with the champion."""
    from {{cookiecutter.__package_name}}.production import predict

    return predict.predict(workspace, file, out=out, now=now)


@cli.command(section="Predictions")
@click.argument("key")
@NOW
def explain(workspace: "Workspace", *, key: str, now: datetime | None) -> object:
    """Show the row with KEY at every stage, from raw data to prediction and label."""
    from {{cookiecutter.__package_name}}.production import explain

    return explain.explain(workspace, key, now=now)


for part in parts.installed():
    for part_command in part.commands:
        cli.add(part_command)


def stop(*_: object) -> NoReturn:
    """Exit at once with one line.

    An exception could surface inside a library, and the next run repairs partial work.
    """
    sys.stderr.write(f"{NAME}: {STOPPED}\n")
    sys.stderr.flush()
    os._exit(REJECTED)


def main() -> None:
    """Run the console script."""
    signal.signal(signal.SIGINT, stop)
    logging.raiseExceptions = False  # no traceback where stderr can't be written
    set_log_format("text")  # until a command has read the settings
    try:
        cli(prog_name=NAME, standalone_mode=False)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else NAME
        fail(f"{error.format_message()} See {command} --help", INPUT_ERROR, as_json="--json" in sys.argv)
    except click.Abort:
        fail(STOPPED, REJECTED, as_json=False)
    except OSError as error:  # of --help: commands handle their own
        fail_to_print(error, err=False)
