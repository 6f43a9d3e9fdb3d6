"""The class of commands, and shared options."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, TextIO

import click

from {{cookiecutter.__package_name}}.core import NAME, PACKAGE

OK, REJECTED, INPUT_ERROR = 0, 1, 2
SECTIONS = ("Daily", "Data", "Model", "Predictions", "Research")  # of the help, in their order

DRIVERS = {  # the packages of modules that MLflow's and Optuna's databases need
    "psycopg": "psycopg[binary]",
    "psycopg2": "psycopg2-binary",
    "MySQLdb": "mysqlclient",
    "pymysql": "pymysql",
    "pyodbc": "pyodbc",
}


class UtcDateTime(click.DateTime):
    """A time in UTC."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:  # noqa: ANN401
        """Parse a time as UTC."""
        return super().convert(value, param, ctx).replace(tzinfo=UTC)


class Command(click.Command):
    """A command on the project: its function is called with the workspace and the options of the command.

    The result is printed as text on stderr, or with `--json` as one JSON object on stdout. The exit status is 1 if the
    result has a false `ok`. The object of click's context is a function that returns the problem.

    Attributes:
        section: Heading in the help.
        writes: Whether it writes: such commands run one at a time, under the lock of the project.
        standalone: Whether it works without the problem, which the workspace then lacks.
    """

    def __init__(
        self,
        *args: Any,  # noqa: ANN401 - click's own
        section: str,
        writes: bool = False,
        standalone: bool = False,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(*args, **kwargs)
        self.section, self.writes, self.standalone = section, writes, standalone
        self.params.append(click.Option(["--json", "as_json"], is_flag=True, help="Print one JSON object on stdout."))

    def invoke(self, ctx: click.Context) -> NoReturn:
        """Run the command on the project of the current directory, print the result, and exit with its status."""
        as_json = ctx.params.pop("as_json")
        result = self._run(ctx.obj, ctx.params, as_json=as_json)
        echo(json(result) if as_json else result, err=not as_json)
        sys.exit(OK if getattr(result, "ok", True) else REJECTED)

    def _run(self, problem: Callable[[], Any], options: dict[str, Any], *, as_json: bool) -> object:
        # Heavy libraries are imported inside commands, so that --help is instant.
        from polars.exceptions import PanicException, PolarsError

        from {{cookiecutter.__package_name}}.core.errors import InputError, Rejected, summarize

        where, workspace = "the project", None
        try:
            from {{cookiecutter.__package_name}}.core.logs import set_log_format
            from {{cookiecutter.__package_name}}.core.workspace import open_project

            found: Any = None if self.standalone else problem()
            workspace = open_project(found)
            set_log_format(workspace.settings.log_format)
            where = f"the project or its tables in {workspace.lake.url}"
            with workspace.exclusive_lock() if self.writes else nullcontext():
                return self.callback(workspace, **options) if self.callback else None
        except Rejected as error:
            fail(str(error), REJECTED, as_json=as_json)
        except InputError as error:
            fail(str(error), INPUT_ERROR, as_json=as_json)
        except ModuleNotFoundError as error:
            if (error.name or "").startswith(PACKAGE):
                raise
            install = f'uv add "{DRIVERS[error.name]}"' if error.name in DRIVERS else "uv sync"
            fail(f"{error.name} is not installed, and this command needs it: {install}", INPUT_ERROR, as_json=as_json)
        except (PolarsError, PanicException, OSError) as error:  # a file of a table is gone or broken
            read = not isinstance(error, OSError)
            damaged = next(workspace.lake.damaged_files(read=read), None) if workspace else None
            fail(damaged or f"{where} can't be read or written: {summarize(error)}", INPUT_ERROR, as_json=as_json)


class Group(click.Group):
    """Commands and groups of them; the help lists all commands by section."""

    command_class = Command
    group_class = type

    def walk(self, prefix: str = "") -> Iterator[tuple[str, Command]]:
        """Every command with its full name, such as `run` or `data erase`."""
        for name, command in self.commands.items():
            if isinstance(command, Group):
                yield from command.walk(f"{prefix}{name} ")
            elif isinstance(command, Command):
                yield f"{prefix}{name}", command

    def add(self, command: click.Command) -> None:
        """Add a command; a group of a name that is there gains the commands."""
        there = self.commands.get(command.name or "")
        if isinstance(there, Group) and isinstance(command, Group):
            for inner in command.commands.values():
                there.add(inner)
        else:
            self.add_command(command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's own
        """Write the commands into the help, by section."""
        commands = list(self.walk())
        for section in dict.fromkeys((*SECTIONS, *(command.section for _, command in commands))):
            listed = [(name, command.help or "") for name, command in commands if command.section == section]
            if listed:
                with formatter.section(section):
                    formatter.write_dl(listed)


PATH = click.Path(path_type=Path)
TIME = UtcDateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S.%f"])
POSITIVE = click.IntRange(1)
PORT = click.IntRange(0, 65535)
FILE = click.argument("file", type=PATH)
NOW = click.option("--now", type=TIME, metavar="TIME", help="Current time, UTC. Default: as the setting ML_CLOCK says.")


def command(
    name: str, *, section: str, writes: bool = False, standalone: bool = False
) -> Callable[[Callable[..., object]], Command]:
    """Make a function a command, for parts and extensions: it is called with the workspace and its parameters."""
    return click.command(name, cls=Command, section=section, writes=writes, standalone=standalone)


def fail(reason: str, status: int, *, as_json: bool) -> NoReturn:
    """Print the reason in one line and exit."""
    echo(f"{NAME}: {reason}", err=True)
    if as_json:
        echo(json({"error": reason}), err=False)
    sys.exit(status)


def echo(text: object, *, err: bool) -> None:
    """Print; if that fails, as on a full disk or into a closed pipe, exit with one line."""
    try:
        click.echo(text, err=err)
    except OSError as error:
        fail_to_print(error, err=err)


def fail_to_print(error: OSError, *, err: bool) -> NoReturn:
    """Exit with one line because stdout or stderr can't be written; what is left of its output is discarded."""
    discard(sys.stderr if err else sys.stdout)
    fail(f"the output can't be written: {error.strerror}", INPUT_ERROR, as_json=False)


def discard(stream: TextIO) -> None:
    """Discard what a broken stream holds and is given: Python would print an error at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def json(result: object) -> str:
    """A result as one line of JSON, in ASCII, which every console can show."""
    from pydantic import TypeAdapter

    return TypeAdapter[object](type(result)).dump_json(result, ensure_ascii=True).decode()
