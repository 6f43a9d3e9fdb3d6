"""What every report has: the state of the tables that it shows; figures, tables and sentences as marimo shows them."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import marimo as mo
import polars as pl
from matplotlib.figure import Figure

from {{cookiecutter.__package_name}}.shared import figures
from {{cookiecutter.__package_name}}.shared.problem import Problem
from {{cookiecutter.__package_name}}.shared.workspace import Workspace, open_project

MINUTE = "%Y-%m-%d %H:%M"
FORMAT = "{:" + MINUTE + "}"


def open_pinned(problem: Problem) -> Workspace:
    """This project with its tables in their present versions, so that all parts of a page show the same state."""
    return open_project(problem).pinned()


def header(workspace: Workspace) -> mo.Html:
    """As of when, and from which versions of the tables."""
    tables = ", ".join(f"{name} {version}" for name, version in workspace.settings.tables.items())
    as_of = f"Data as of **{workspace.now():{MINUTE}}** UTC, shown {datetime.now(UTC):{MINUTE}} UTC."
    return mo.md(f"{as_of} Table versions: {tables}.")


def show(content: Figure | pl.DataFrame | str, *, alt: str = "") -> mo.Html:
    """Show a figure, a table or a sentence in Markdown.

    Args:
        content: What is shown.
        alt: Describes a figure to those who do not see it.
    """
    if isinstance(content, str):
        return mo.md(content)
    return mo.image(figures.png(content), alt=alt) if isinstance(content, Figure) else _table(content)


def _table(rows: pl.DataFrame) -> mo.Html:
    formats: dict[str, str | Callable[..., Any]] = {
        name: _format(kind) for name, kind in rows.schema.items() if kind.is_numeric() or kind.is_temporal()
    }
    return mo.ui.table(
        rows,
        pagination=False,
        selection=None,
        show_column_summaries=False,
        show_data_types=False,
        show_download=False,
        format_mapping=formats,
    )


def _format(kind: pl.DataType) -> str:
    """Four digits of a number; an integer is none to be grouped, since it may be a key."""
    return FORMAT if kind.is_temporal() else "{:.4g}" if kind.is_float() else "{}"
