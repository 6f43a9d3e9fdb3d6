"""Experiments: rows and their split, `--fast`, progress, and the tracked run.

A script begins with `start(PROBLEM, "name")` and ends with `experiment.log(...)`.
"""

import builtins
import errno
import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
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
from {{cookiecutter.__package_name}}.core.command_line import discard
from {{cookiecutter.__package_name}}.core.contracts.schema import AVAILABLE_AT
from {{cookiecutter.__package_name}}.core.errors import InputError, Rejected, write_file
from {{cookiecutter.__package_name}}.core.models import evaluation, training
from {{cookiecutter.__package_name}}.core.models.evaluation import (
    Floats,
    PairedComparison,
    Predictions,
    compare_losses,
)
from {{cookiecutter.__package_name}}.core.problem import Problem
from {{cookiecutter.__package_name}}.core.store.provenance import provenance
from {{cookiecutter.__package_name}}.core.workspace import Workspace, open_project

FAST_ROWS = 4000
T = TypeVar("T")


@dataclass(frozen=True)
class Experiment:
    """A running experiment.

    Attributes:
        kind: The kind of its tracked run.
        workspace: The workspace.
        as_of: Time as of which data are used.
        fast: Whether to use few rows and repetitions, to check that the script runs.
    """

    kind: str
    workspace: Workspace
    as_of: datetime
    fast: bool

    @property
    def problem(self) -> Problem:
        """The problem."""
        return self.workspace.problem

    def rows(self, problem: Problem | None = None) -> pl.DataFrame:
        """The labelled rows with their features; with `--fast` an even sample of them.

        Args:
            problem: A problem with other features. Default: that of the project.

        Raises:
            Rejected: One of its features leaks.
        """
        lake, requested = self.workspace.lake, problem or self.problem
        rows = datasets.training_set(requested, lake, as_of=self.as_of)
        if problem:
            datasets.validate_no_leakage(problem, rows, datasets.history_as_of(problem, lake, as_of=self.as_of))
        return rows.gather_every(-(-len(rows) // FAST_ROWS)) if self.fast else rows

    def split(self, rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The training rows and the holdout, split as by the gate."""
        return next(self.windows(rows, 1))

    def windows(self, rows: pl.DataFrame, count: int) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
        """The newest windows as holdouts with their training rows, newest first; a single one if rows have no time.

        Raises:
            Rejected: There are too few rows.
        """
        requested, need = (
            self.workspace.acceptance.window,
            2 if self.fast else self.workspace.acceptance.window.min_rows,
        )
        for number in range(count if self.problem.schema.event_time else 1):
            as_of = self.as_of - number * timedelta(days=requested.days)
            known = rows.filter(pl.col(AVAILABLE_AT) <= as_of)
            train, holdout = datasets.split(self.problem, known, requested, as_of=as_of)
            if min(len(train), len(holdout)) >= need:
                yield train, holdout
            elif number == 0:
                raise datasets.too_few_rows(self.problem, train, holdout, need)

    def holdout_predictions(self, problem: Problem, train: pl.DataFrame, holdout: pl.DataFrame) -> Predictions:
        """The predictions for the holdout of the problem's model fitted on the training rows."""
        prediction = training.fitted_predictions(problem, self.workspace.parameters, train, holdout)
        return evaluation.labelled_predictions(problem, holdout, prediction, evaluation.classes_of(problem, train))

    def loss_reduction(self, ours: Floats, theirs: Floats, rows: pl.DataFrame) -> PairedComparison:
        """By how much our losses are lower than theirs."""
        days, confidence = evaluation.clusters(self.problem, rows), self.workspace.acceptance.confidence
        return compare_losses(ours, theirs, days, confidence=confidence, rng=np.random.default_rng(0))

    def progress(self, items: Iterable[T]) -> Iterator[T]:
        """Iterate with a progress bar."""
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
        """Log the results as a tracked run with table and figure, write these to the reports folder, and print them.

        Cells also show the figure.

        Args:
            finding: The result in a sentence.
            metrics: The metrics that `reproduce` compares, independent of the machine's speed.
            table: The result as a short table.
            figure: The plot, if there is one.
            tags: Further tags of the run.

        Returns:
            The id of the run.
        """
        workspace, name = self.workspace, self.kind.replace(" ", "-") + ("-fast" if self.fast else "")
        recorded = provenance(
            workspace.root, tables=datasets.table_versions(self.problem, workspace.lake), as_of=self.as_of
        )
        recorded |= {"finding": finding, "fast": str(self.fast).lower()} | dict(tags or {})
        files = {f"{name}.csv": table.write_csv().encode()} | ({f"{name}.png": plots.png(figure)} if figure else {})
        folder = workspace.path(workspace.settings.reports)
        with workspace.registry.run(self.kind, workspace.parameters.model_dump(), recorded) as run:
            run.log(metrics)
            for file, content in files.items():
                run.log_artifact(file, content)
                write_file(folder / file, content)
        show(table)
        if figure and (display := getattr(builtins, "display", None)):  # IPython's, in cells
            display(figure)
        print(finding, *(folder / file for file in files), f"run {run.id}", sep="\n")
        return run.id


def start(problem: Problem, kind: str) -> Experiment:
    """Start an experiment in the project; scripts take the option `--fast`, cells don't."""
    script = Path(sys.argv[0]).resolve().is_relative_to(Path(__file__).parent)
    parser = ArgumentParser(prog=Path(sys.argv[0]).name, description=f"Experiment: {kind}; a tracked run.")
    parser.add_argument("--fast", action="store_true", help="use few rows and repetitions")
    fast: bool = parser.parse_args(sys.argv[1:] if script else []).fast
    if script:
        sys.excepthook = report_error
    workspace = open_project(problem)
    return Experiment(kind, workspace, workspace.now(), fast)


def report_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an expected error in one line and exit like a command; print the traceback of others."""
    full = isinstance(error, OSError) and error.errno in {errno.EPIPE, errno.ENOSPC}
    if not full and not isinstance(error, InputError | Rejected):
        sys.__excepthook__(kind, error, trace)
        return
    with suppress(OSError):
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
    if full:
        discard(sys.stdout)
    raise SystemExit(1 if isinstance(error, Rejected) else 2)


def plot_loss_reductions(effects: Mapping[str, PairedComparison], *, title: str, label: str) -> tuple[Figure, Axes]:
    """Plot loss reductions with their bounds: blue if significantly positive, red if negative."""
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


def effect_table(effects: Mapping[str, PairedComparison], *, name: str, label: str) -> pl.DataFrame:
    """A row an effect, with its name in the first column."""
    rows = [(key, each.rows, each.mean, each.lower, each.upper) for key, each in effects.items()]
    return pl.DataFrame(rows, [name, "rows", label, "at least", "at most"], orient="row")


def show(table: pl.DataFrame) -> None:
    """Print a table in ASCII."""
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
