"""The console script: a row a command, above the parts; heavy imports only inside a command."""

import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import click

PACKAGE = __name__.partition(".")[0]
NAME = PACKAGE.replace("_", "-")
OK, NO, BAD = 0, 1, 2
STOPPED = "stopped; run again to go on"

Parameter = Callable[[Callable[..., Any]], Callable[..., Any]]


class Moment(click.DateTime):
    """A time in UTC."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:  # noqa: ANN401
        """Read it, and say that it is UTC."""
        return super().convert(value, param, ctx).replace(tzinfo=UTC)


PATH = click.Path(path_type=Path)
TIME = Moment(["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S.%f"])
FILE = click.argument("file", type=PATH)
INBOX_FILE = click.argument("file", type=PATH, required=False)
RUN = click.argument("run", required=False)
KEY = click.argument("key")
KEYS = click.argument("keys", nargs=-1, required=True, metavar="KEY...")
NOW = click.option("--now", type=TIME, metavar="TIME", help="The time it is, UTC; else the clock.")
AS_OF = click.option("--as-of", type=TIME, metavar="TIME", help="Use what was known by then, UTC; else now.")
OWNER = click.option("--table", metavar="NAME", help="Whose rows they are; else by folder or columns.")
DIRTY = click.option("--dirty", is_flag=True, help="Release also from files that differ from the last commit.")
VERSION = click.option("--version", type=int, metavar="N", help="Which version; else the challenger.")
START = click.option("--from", "start", type=TIME, metavar="TIME", help="When the first model is trained, UTC.")
END = click.option("--to", "end", type=TIME, metavar="TIME", help="Until when, UTC; else the newest label.")
HOST = click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
PORT, APP_PORT = (
    click.option("--port", type=click.IntRange(0, 65535), default=usual, show_default=True, help="0 takes a free one.")
    for usual in (8000, 8080)
)
N = click.option("--n", type=click.IntRange(1), default=100, show_default=True, metavar="N", help="How many rows.")
STRATEGY = click.option(
    "--strategy",
    type=click.Choice(["margin", "random", "disagreement"]),
    default="margin",
    show_default=True,
    help="Which rows are worth most.",
)
TASKS = click.option("--out", type=PATH, metavar="FILE", help="Where to, .json; else into the reports.")
HTML = click.option("--html", type=PATH, metavar="DIR", help="Write each report as one HTML file into DIR.")
TRIALS = click.option("--trials", type=click.IntRange(1), default=50, show_default=True, metavar="N", help="How many.")
WORKERS = click.option("--workers", type=click.IntRange(1), metavar="N", help="How many processes; else one a core.")
STORAGE = click.option("--storage", metavar="URL", help="A database that many machines share; else a file here.")
OUT = click.option("--out", type=PATH, metavar="FILE", help="Where to, .parquet or .csv; else into the reports.")


@dataclass(frozen=True)
class Command:
    """A row: what a command of one or two words calls, `module:function` of the package, and how it is asked.

    The function is given the workspace and the command's parameters; what it returns is printed for people, or as
    JSON. Where that has a false `ok`, the answer is no. A command that `writes` runs alone.
    """

    group: str
    call: str
    help: str
    parameters: tuple[Parameter, ...] = ()
    writes: bool = False

    def __call__(self, *, as_json: bool, **options: Any) -> None:  # noqa: ANN401 - a command's own parameters
        """Do it, print what came of it, exit with its status."""
        from polars.exceptions import PanicException, PolarsError

        from {{cookiecutter.__package_name}}.shared import BadInput, Refused, first_line

        module, _, function = self.call.partition(":")
        where = "the project"
        try:
            from {{cookiecutter.__package_name}}.shared.workspace import open_workspace

            workspace = open_workspace()
            where = f"the project or its tables in {workspace.lake.url}"
            work = getattr(import_module(f"{PACKAGE}.{module}"), function)
            with workspace.alone(needed=self.writes):
                result = work(workspace, **options)
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
        click.echo(json(result) if as_json else result, err=not as_json)
        sys.exit(OK if getattr(result, "ok", True) else NO)


COMMANDS = {
    "run": Command(
        "Daily",
        "production.lifecycle:run",
        "Do whatever is due: collect, ingest, monitor, train, gate, promote, predict.",
        (NOW, DIRTY),
        writes=True,
    ),
    "status": Command(
        "Daily", "production.explain:status", "Say what is predicted, by which champion, from what data."
    ),
    "monitor": Command("Daily", "production.monitor:monitor", "Look at data, drift, age and live quality.", (NOW,)),
    "check": Command(
        "Data", "production.ingest:check", "Hold a FILE against its contract; nothing is written.", (FILE, OWNER, NOW)
    ),
    "ingest": Command(
        "Data",
        "production.ingest:ingest",
        "Append a FILE's rows once, or all of the inbox.",
        (INBOX_FILE, OWNER, NOW),
        writes=True,
    ),
    "data erase": Command(
        "Data",
        "production.erase:erase",
        "Erase rows by KEY, for good, wherever the project keeps them.",
        (KEYS,),
        writes=True,
    ),
    "labels export": Command(
        "Data",
        "research.labels.tasks:export",
        "Write the unlabelled rows worth most as tasks of Label Studio.",
        (N, STRATEGY, TASKS, NOW),
    ),
    "labels import": Command(
        "Data",
        "research.labels.batch:bring",
        "Turn a FILE that Label Studio exported into a batch of labels.",
        (FILE,),
        writes=True,
    ),
    "train": Command(
        "Model", "production.train:train", "Fit, measure and register a challenger.", (AS_OF,), writes=True
    ),
    "gate": Command("Model", "production.gate:judge", "Judge a challenger, with reasons.", (VERSION,)),
    "promote": Command(
        "Model",
        "production.promote:promote",
        "Judge a challenger; let it serve if it passes.",
        (VERSION, NOW, DIRTY),
        writes=True,
    ),
    "simulate": Command(
        "Model", "production.simulate:simulate", "Replay past days; compare with a model that stays.", (START, END)
    ),
    "rollback": Command(
        "Model", "production.promote:rollback", "Let the version before serve again.", (NOW,), writes=True
    ),
    "tune": Command(
        "Research",
        "research.tune:tune",
        "Search better parameters on past folds; write the best to config/params.toml.",
        (TRIALS, WORKERS, STORAGE),
    ),
    "runs": Command("Research", "research.reproduce:runs", "List the tracked runs, the newest first."),
    "reproduce": Command(
        "Research", "research.reproduce:reproduce", "Do a RUN again as it was, or the newest, and compare.", (RUN,)
    ),
    "report": Command(
        "Research", "research.report:report", "Open the reports as an app, or write them as HTML.", (HTML, APP_PORT)
    ),
    "predict": Command(
        "Answers", "production.predict:predict", "Predict the rows of a FILE by the champion.", (FILE, OUT, NOW)
    ),
    "serve": Command("Answers", "production.service.serve:serve", "Answer requests over HTTP.", (HOST, PORT, NOW)),
    "explain": Command(
        "Answers", "production.explain:explain", "Show the row with a KEY through every stage.", (KEY, NOW)
    ),
}


class Grouped(click.Group):
    """Commands by group, in the order in which one needs them."""

    def format_commands(self, _: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the groups into the help."""
        for group in dict.fromkeys(command.group for command in COMMANDS.values()):
            with formatter.section(group):
                formatter.write_dl([(name, row.help) for name, row in COMMANDS.items() if row.group == group])


@click.group(cls=Grouped, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.pass_context
def cli(context: click.Context) -> None:
    """From arriving batches to a champion that predicts.

    Without a command: where the project stands. Exit status 0: done; 1: the answer is no, or a person must act;
    2: bad input, with one line that says what to do.
    """
    if context.invoked_subcommand is None:
        COMMANDS["status"](as_json=False)


def add(name: str, row: Command) -> None:
    """Make a row a command of the console script."""

    @click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
    def callback(**options: Any) -> None:  # noqa: ANN401 - a command's own parameters
        row(**options)

    asked: Callable[..., Any] = callback
    for parameter in reversed(row.parameters):
        asked = parameter(asked)
    first, _, second = name.partition(" ")
    (group(first) if second else cli).command(name=second or first, help=row.help)(asked)


def group(name: str) -> click.Group:
    """The group of the commands of two words that begin with this one."""
    names = [other.partition(" ")[2] for other in COMMANDS if other.startswith(f"{name} ")]
    made = cli.commands.setdefault(name, click.Group(name, help=f"One of {', '.join(names)}.", no_args_is_help=False))
    if not isinstance(made, click.Group):
        raise TypeError(f"{name} is a command, and can't be a group too")
    return made


def fail(reason: str, status: int, *, as_json: bool) -> NoReturn:
    """Say no in one line, and exit."""
    click.echo(f"{NAME}: {reason}", err=True)
    if as_json:
        click.echo(json({"error": reason}))
    sys.exit(status)


def json(result: object) -> str:
    """A result as one line of JSON, in ASCII so that every console can show it."""
    from pydantic import TypeAdapter

    return TypeAdapter[object](type(result)).dump_json(result, ensure_ascii=True).decode()


for _name, _row in COMMANDS.items():
    add(_name, _row)


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
