"""The command line: one function a command, in the order of the help; heavy libraries are imported inside them."""

import logging
import os
import signal
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from {{cookiecutter.__package_name}}.core.workspace import Workspace

PACKAGE = __name__.partition(".")[0]
NAME = PACKAGE.replace("_", "-")
OK, NO, BAD = 0, 1, 2
STOPPED = "stopped; run again to go on"


class Moment(click.DateTime):
    """A time in UTC."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:  # noqa: ANN401
        """Parse a time as UTC."""
        return super().convert(value, param, ctx).replace(tzinfo=UTC)


class Command(click.Command):
    """A command on the project: its function is called with the workspace and the command's own parameters.

    The result is printed for people on stderr, or with `--json` as one JSON object on stdout. The exit status is 1
    where the result has a false `ok`.

    Attributes:
        section: The heading in the help.
        writes: Whether it takes the project's lock, since only one such command may run at a time.
    """

    def __init__(self, *args: Any, section: str, writes: bool = False, **kwargs: Any) -> None:  # noqa: ANN401 - click's own
        super().__init__(*args, **kwargs)
        self.section, self.writes = section, writes
        self.params.append(click.Option(["--json", "as_json"], is_flag=True, help="Print one JSON object on stdout."))

    def invoke(self, ctx: click.Context) -> NoReturn:
        """Run it on the project of the current directory, print the result, and exit with its status."""
        as_json = ctx.params.pop("as_json")
        result = self._run(ctx.params, as_json=as_json)
        click.echo(json(result) if as_json else result, err=not as_json)
        sys.exit(OK if getattr(result, "ok", True) else NO)

    def _run(self, options: dict[str, Any], *, as_json: bool) -> object:
        from polars.exceptions import PanicException, PolarsError

        from {{cookiecutter.__package_name}}.core.errors import BadInput, Refused, first_line

        where = "the project"
        try:
            from {{cookiecutter.__package_name}}.core.workspace import open_project
            from {{cookiecutter.__package_name}}.shared import PROBLEM

            workspace = open_project(PROBLEM)
            where = f"the project or its tables in {workspace.lake.url}"
            with workspace.alone(needed=self.writes):
                return self.callback(workspace, **options) if self.callback else None
        except Refused as error:
            fail(str(error), NO, as_json=as_json)
        except BadInput as error:
            fail(str(error), BAD, as_json=as_json)
        except ModuleNotFoundError as error:
            if (error.name or "").startswith(PACKAGE):
                raise
            fail(f"{error.name} is not installed here, and this command needs it: uv sync", BAD, as_json=as_json)
        except (PolarsError, PanicException, OSError) as error:  # a file of a table is gone or broken
            fail(f"{where} can't be read or written: {first_line(error)}", BAD, as_json=as_json)


class Group(click.Group):
    """Commands and groups of them; the help lists all commands by section."""

    command_class = Command
    group_class = type

    def walk(self, prefix: str = "") -> Iterator[tuple[str, Command]]:
        """Every command with its full name, such as `run` or `data erase`, in the order of the source."""
        for name, command in self.commands.items():
            if isinstance(command, Group):
                yield from command.walk(f"{prefix}{name} ")
            elif isinstance(command, Command):
                yield f"{prefix}{name}", command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's own
        """Write the commands into the help, by section."""
        commands = list(self.walk())
        for section in dict.fromkeys(command.section for _, command in commands):
            with formatter.section(section):
                formatter.write_dl(
                    [(name, command.help or "") for name, command in commands if command.section == section]
                )


PATH = click.Path(path_type=Path)
TIME = Moment(["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S.%f"])
POSITIVE = click.IntRange(1)
PORT = click.IntRange(0, 65535)
FILE = click.argument("file", type=PATH)
NOW = click.option("--now", type=TIME, metavar="TIME", help="Current time, UTC. Default: the setting ML_CLOCK.")
TABLE = click.option("--table", metavar="NAME", help="Table of the rows. Default: by the file's folder or columns.")
DIRTY = click.option("--dirty", is_flag=True, help="Release also from files that differ from the last commit.")
VERSION = click.option("--version", type=int, metavar="N", help="Version to evaluate. Default: the challenger.")


@click.group(cls=Group, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.pass_context
def cli(context: click.Context) -> None:
    """From arriving batches to a champion that predicts.

    Without a command, show the status. Exit status 0: done; 1: the answer is no, or a person must act; 2: bad input,
    with one line that says what to do.
    """
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
    """Show what is predicted, the champion, its data and what to do next."""
    from {{cookiecutter.__package_name}}.production import status

    return status.status(workspace)


@cli.command(section="Daily")
@NOW
def monitor(workspace: "Workspace", *, now: datetime | None) -> object:
    """Check data quality, drift, staleness and live performance."""
    from {{cookiecutter.__package_name}}.production.monitoring import monitor

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
    """Document the contract and erase rows."""


@data.command(section="Data")
def dictionary(workspace: "Workspace") -> object:
    """Document the contract in docs/data-dictionary.md."""
    from {{cookiecutter.__package_name}}.core.contracts import data_dictionary

    return data_dictionary.write_data_dictionary(
        workspace.problem.tables, workspace.root / "docs" / "data-dictionary.md"
    )


@data.command(section="Data", writes=True)
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
def erase(workspace: "Workspace", *, keys: tuple[str, ...]) -> object:
    """Erase the rows with each KEY from tables, files and tracked runs, permanently."""
    from {{cookiecutter.__package_name}}.production import erase

    return erase.erase(workspace, keys)


@cli.group(no_args_is_help=False)
def labels() -> None:
    """Have rows labelled by people in Label Studio."""


@labels.command("export", section="Data")
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
def export_tasks(workspace: "Workspace", *, n: int, strategy: str, out: Path | None, now: datetime | None) -> object:
    """Export the unlabelled rows that are most worth labelling as Label Studio tasks."""
    from {{cookiecutter.__package_name}}.research.labels import tasks

    return tasks.export_tasks(workspace, n=n, strategy=strategy, out=out, now=now)


@labels.command("import", section="Data", writes=True)
@FILE
def import_annotations(workspace: "Workspace", *, file: Path) -> object:
    """Import FILE, an export of Label Studio, as a batch of labels."""
    from {{cookiecutter.__package_name}}.research.labels import batch

    return batch.import_annotations(workspace, file)


@cli.command(section="Model", writes=True)
@click.option("--as-of", type=TIME, metavar="TIME", help="Train on what was known by then, UTC. Default: now.")
def train(workspace: "Workspace", *, as_of: datetime | None) -> object:
    """Train, evaluate and register a challenger."""
    from {{cookiecutter.__package_name}}.production import train

    return train.train(workspace, as_of=as_of)


@cli.command(section="Model")
@VERSION
def gate(workspace: "Workspace", *, version: int | None) -> object:
    """Evaluate a challenger against the gate and give the reasons."""
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


@cli.command(section="Model")
@click.option("--from", "start", type=TIME, metavar="TIME", help="When the first model is trained, UTC.")
@click.option("--to", "end", type=TIME, metavar="TIME", help="End of the replay, UTC. Default: the newest label.")
def simulate(workspace: "Workspace", *, start: datetime | None, end: datetime | None) -> object:
    """Replay past days under three retraining policies and compare them."""
    from {{cookiecutter.__package_name}}.production import simulate

    return simulate.simulate(workspace, start=start, end=end)


@cli.command(section="Model", writes=True)
@NOW
def rollback(workspace: "Workspace", *, now: datetime | None) -> object:
    """Roll back to the previous champion."""
    from {{cookiecutter.__package_name}}.production import promote

    return promote.rollback(workspace, now=now)


@cli.command(section="Research")
@click.option("--trials", type=POSITIVE, default=50, show_default=True, metavar="N", help="Number of trials.")
@click.option("--workers", type=POSITIVE, metavar="N", help="Number of worker processes. Default: one per CPU core.")
@click.option("--storage", metavar="URL", help="Database that several machines share. Default: a journal file.")
def tune(workspace: "Workspace", *, trials: int, workers: int | None, storage: str | None) -> object:
    """Search for better parameters on past folds and write the best to config/params.toml."""
    from {{cookiecutter.__package_name}}.research.tuning import tune

    return tune.tune(workspace, trials=trials, workers=workers, storage=storage)


@cli.command(section="Research")
def runs(workspace: "Workspace") -> object:
    """List the tracked runs, newest first."""
    from {{cookiecutter.__package_name}}.research import reproduce

    return reproduce.runs(workspace)


@cli.command(section="Research")
@click.argument("run", required=False)
def reproduce(workspace: "Workspace", *, run: str | None) -> object:
    """Re-run RUN (default: the latest) from its commit, lock file and table versions, and compare the results."""
    from {{cookiecutter.__package_name}}.research import reproduce

    return reproduce.reproduce(workspace, run)


@cli.command(section="Research")
@click.option("--html", type=PATH, metavar="DIR", help="Export each report as one HTML file into DIR.")
@click.option("--port", type=PORT, default=8080, show_default=True, help="Port of the app; 0 takes a free one.")
def report(workspace: "Workspace", *, html: Path | None, port: int) -> object:
    """Open the reports as an app, or export them as HTML."""
    from {{cookiecutter.__package_name}}.research import report

    return report.report(workspace, html=html, port=port)


@cli.command(section="Answers")
@FILE
@click.option("--out", type=PATH, metavar="FILE", help="Output file (.parquet or .csv). Default: a file in reports/.")
@NOW
def predict(workspace: "Workspace", *, file: Path, out: Path | None, now: datetime | None) -> object:
    """Predict the rows of FILE with the champion."""
    from {{cookiecutter.__package_name}}.production import predict

    return predict.predict(workspace, file, out=out, now=now)


@cli.command(section="Answers")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=PORT, default=8000, show_default=True, help="Port to listen on; 0 takes a free one.")
@NOW
def serve(workspace: "Workspace", *, host: str, port: int, now: datetime | None) -> object:
    """Serve predictions over HTTP."""
    from {{cookiecutter.__package_name}}.production.service import serve

    return serve.serve(workspace, host=host, port=port, now=now)


@cli.command(section="Answers")
@click.argument("key")
@NOW
def explain(workspace: "Workspace", *, key: str, now: datetime | None) -> object:
    """Show the row with KEY at every stage, from raw data to prediction and outcome."""
    from {{cookiecutter.__package_name}}.production import explain

    return explain.explain(workspace, key, now=now)


def fail(reason: str, status: int, *, as_json: bool) -> NoReturn:
    """Give the reason in one line, and exit."""
    click.echo(f"{NAME}: {reason}", err=True)
    if as_json:
        click.echo(json({"error": reason}))
    sys.exit(status)


def json(result: object) -> str:
    """A result as one line of JSON, in ASCII so that every console can show it."""
    from pydantic import TypeAdapter

    return TypeAdapter[object](type(result)).dump_json(result, ensure_ascii=True).decode()


def stop(*_: object) -> NoReturn:
    """End at once, in one line: an exception could surface inside a library, and the next run mends what is cut."""
    sys.stderr.write(f"{NAME}: {STOPPED}\n")
    sys.stderr.flush()
    os._exit(NO)


def main() -> None:
    """Run the console script."""
    signal.signal(signal.SIGINT, stop)
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    logging.getLogger(PACKAGE).setLevel(logging.INFO)
    try:
        cli(prog_name=NAME, standalone_mode=False)
    except click.UsageError as error:
        asked = error.ctx.command_path if error.ctx else NAME
        fail(f"{error.format_message()} See {asked} --help", BAD, as_json="--json" in sys.argv)
    except click.Abort:
        fail(STOPPED, NO, as_json=False)
