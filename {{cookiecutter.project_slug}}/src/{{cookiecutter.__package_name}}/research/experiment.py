"""What experiments have in common: rows and their split, `--fast`, progress, and the tracked run with what it found.

A script says `start(PROBLEM, "what it is")`, tells its story in cells, and ends with `log`.
"""

import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import click
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from {{cookiecutter.__package_name}}.core import datasets, plots
from {{cookiecutter.__package_name}}.core.contracts.schema import KNOWN
from {{cookiecutter.__package_name}}.core.errors import BadInput, Refused
from {{cookiecutter.__package_name}}.core.models import evaluation, training
from {{cookiecutter.__package_name}}.core.models.evaluation import Answers, Floats, gain
from {{cookiecutter.__package_name}}.core.problem import Problem
from {{cookiecutter.__package_name}}.core.store.provenance import provenance
from {{cookiecutter.__package_name}}.core.workspace import Workspace, open_project

FAST_ROWS = 4000
T = TypeVar("T")


@dataclass(frozen=True)
class Effect:
    """By how much something lowers the mean loss, and the bounds of that; each is exceeded as seldom as the gate asks.

    Attributes:
        mean: Over the rows.
        lower: At least so much.
        upper: At most so much.
        rows: How many they are.
    """

    mean: float
    lower: float
    upper: float
    rows: int

    def __str__(self) -> str:
        return f"{self.mean:+.4f} (from {self.lower:+.4f} to {self.upper:+.4f}, {self.rows} rows)"


@dataclass(frozen=True)
class Experiment:
    """An experiment at work.

    Attributes:
        kind: What it is called among the tracked runs.
        workspace: The project's.
        as_of: What was known by then is used.
        fast: Whether some rows and few repetitions are enough, to see that every line runs.
    """

    kind: str
    workspace: Workspace
    as_of: datetime
    fast: bool

    @property
    def problem(self) -> Problem:
        """What is predicted."""
        return self.workspace.problem

    def rows(self, problem: Problem | None = None) -> pl.DataFrame:
        """The labelled rows with their features; with `--fast` some of them, evenly from all of the time.

        Args:
            problem: The problem with other features; without it, the project's own.

        Raises:
            Refused: One of its other features knows the future, as `train` would find.
        """
        lake, asked = self.workspace.lake, problem or self.problem
        rows = datasets.training_set(asked, lake, as_of=self.as_of)
        if problem:
            datasets.require_no_leak(problem, rows, datasets.known(problem, lake, as_of=self.as_of))
        return rows.gather_every(-(-len(rows) // FAST_ROWS)) if self.fast else rows

    def split(self, rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The rows before the newest labelled window, and the window, as the gate sees them."""
        return next(self.windows(rows, 1))

    def windows(self, rows: pl.DataFrame, most: int) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
        """The newest windows, the newest first, each with the rows before it; one, where rows have no time.

        Raises:
            Refused: There are too few rows for one.
        """
        asked, need = self.workspace.acceptance.window, 2 if self.fast else self.workspace.acceptance.window.rows
        for number in range(most if self.problem.schema.event_time else 1):
            as_of = self.as_of - number * timedelta(days=asked.days)
            known = rows.filter(pl.col(KNOWN) <= as_of)
            before, held = datasets.split(self.problem, known, asked, as_of=as_of)
            if min(len(before), len(held)) >= need:
                yield before, held
            elif number == 0:
                raise datasets.too_few(self.problem, before, held, need)

    def answers(self, problem: Problem, before: pl.DataFrame, held: pl.DataFrame) -> Answers:
        """What a problem's model, fitted on some rows as it is in training, says of others."""
        prediction = training.fitted_predictions(problem, self.workspace.parameters, before, held)
        return evaluation.answers(problem, held, prediction, evaluation.classes_of(problem, before))

    def effect(self, ours: Floats, theirs: Floats, rows: pl.DataFrame) -> Effect:
        """By how much our losses on rows are lower than theirs."""
        days, confidence = evaluation.days(self.problem, rows), self.workspace.acceptance.confidence
        low, high = (
            gain(*pair, days, confidence=confidence, rng=np.random.default_rng(0))
            for pair in ((ours, theirs), (theirs, ours))
        )
        return Effect(low.mean, low.lower, -high.lower, low.rows)

    def each(self, items: Iterable[T]) -> Iterator[T]:
        """One after the other, with a line of progress."""
        with click.progressbar(list(items), label=self.kind, file=sys.stderr) as bar:
            yield from bar

    def log(
        self,
        finding: str,
        metrics: Mapping[str, float],
        *,
        table: pl.DataFrame,
        figure: Figure | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """Log the results as a tracked run, with table and figure beside it and among the reports, and print them.

        Args:
            finding: In a sentence.
            metrics: What `reproduce` compares: nothing that the computer's speed decides.
            table: The result, short enough to be printed.
            figure: The plot, if there is one.
            tags: What else is to be known of the run.

        Returns:
            The run's id.
        """
        workspace, name = self.workspace, self.kind.replace(" ", "-") + ("-fast" if self.fast else "")
        recorded = provenance(workspace.root, tables=datasets.versions(self.problem, workspace.lake), as_of=self.as_of)
        recorded |= {"finding": finding, "fast": str(self.fast).lower()} | dict(tags or {})
        files = {f"{name}.csv": table.write_csv().encode()} | ({f"{name}.png": plots.png(figure)} if figure else {})
        folder = workspace.path(workspace.settings.reports)
        folder.mkdir(parents=True, exist_ok=True)
        with workspace.registry.run(self.kind, workspace.parameters.model_dump(), recorded) as run:
            run.log(metrics)
            for file, content in files.items():
                run.log_artifact(file, content)
                (folder / file).write_bytes(content)
        show(table)
        print(finding, *(folder / file for file in files), f"run {run.id}", sep="\n")
        return run.id


def start(problem: Problem, kind: str) -> Experiment:
    """Open the project for an experiment, with its `.env`; scripts take `--fast`, cells do not."""
    script = Path(sys.argv[0]).resolve().is_relative_to(Path(__file__).parent)
    parser = ArgumentParser(prog=Path(sys.argv[0]).name, description=f"Experiment: {kind}; a tracked run.")
    parser.add_argument("--fast", action="store_true", help="some rows, few repetitions: does every line run?")
    fast: bool = parser.parse_args(sys.argv[1:] if script else []).fast
    if script:
        sys.excepthook = report_error
    workspace = open_project(problem)
    return Experiment(kind, workspace, workspace.now(), fast)


def report_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an error that a person can correct in one line, and exit like a command; of others, the traceback."""
    if not isinstance(error, BadInput | Refused):
        sys.__excepthook__(kind, error, trace)
        return
    print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
    raise SystemExit(2 if isinstance(error, BadInput) else 1)


def plot_effects(effects: Mapping[str, Effect], *, title: str, label: str) -> tuple[Figure, Axes]:
    """Each effect with its bounds, the first on top: blue where it is surely above 0, red where surely below."""
    figure = plots.figure(8, 1.5 + 0.3 * len(effects))
    axes = figure.subplots()
    for place, effect in enumerate(effects.values()):
        colour = "tab:blue" if effect.lower > 0 else "tab:red" if effect.upper < 0 else "tab:gray"
        axes.plot([effect.lower, effect.upper], [place, place], color=colour, linewidth=2)
        axes.plot(effect.mean, place, "o", color=colour)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(effects)), list(effects))
    axes.invert_yaxis()
    axes.set(title=title, xlabel=label)
    return figure, axes


def effect_table(effects: Mapping[str, Effect], *, name: str, label: str) -> pl.DataFrame:
    """A row an effect, with its name in the first column."""
    rows = [(key, each.rows, each.mean, each.lower, each.upper) for key, each in effects.items()]
    return pl.DataFrame(rows, [name, "rows", label, "at least", "at most"], orient="row")


def show(table: pl.DataFrame) -> None:
    """Print a table, in characters that every console has."""
    with pl.Config(
        tbl_formatting="ASCII_MARKDOWN",
        tbl_hide_column_data_types=True,
        tbl_hide_dataframe_shape=True,
        tbl_rows=-1,
        tbl_cols=-1,
        tbl_width_chars=120,
        fmt_str_lengths=60,
        float_precision=4,
    ):
        print(table)
