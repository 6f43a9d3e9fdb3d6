"""The HTML of reports: header and sections."""

from datetime import UTC, datetime

import marimo as mo
import polars as pl
from matplotlib.figure import Figure

from {{cookiecutter.__package_name}}.core import plots
from {{cookiecutter.__package_name}}.core.problem import Problem
from {{cookiecutter.__package_name}}.core.workspace import Workspace, open_project

MINUTE = "%Y-%m-%d %H:%M"


def open_pinned(problem: Problem) -> Workspace:
    """The project with its tables pinned to their current versions, for a consistent report."""
    return open_project(problem).pinned()


def header(title: str, workspace: Workspace) -> mo.Html:
    """The title with the time and the table versions of the report."""
    tables = ", ".join(f"{name} {version}" for name, version in workspace.settings.tables.items())
    as_of = f"Data as of **{workspace.now():{MINUTE}}** UTC, shown {datetime.now(UTC):{MINUTE}} UTC."
    return mo.md(f"# {title}\n\n{as_of} Table versions: {tables}.")


def section(title: str, *contents: Figure | pl.DataFrame | str | mo.Html) -> mo.Html:
    """Figures, tables, Markdown and controls below an optional heading."""
    heading = [mo.md(f"## {title}")] if title else []
    return mo.vstack([*heading, *(_show(content, title) for content in contents)])


def _show(content: Figure | pl.DataFrame | str | mo.Html, title: str) -> mo.Html:
    match content:
        case str():
            return mo.md(content)
        case Figure():
            return mo.image(plots.png(content), alt=title or "figure")
        case pl.DataFrame():
            return _table(content)
    return content


def _table(rows: pl.DataFrame) -> mo.Html:
    return mo.ui.table(
        rows,
        pagination=False,
        selection=None,
        show_column_summaries=False,
        show_data_types=False,
        show_download=False,
        format_mapping=dict.fromkeys(rows.columns, _text),
    )


def _text(value: object) -> str:
    """A cell: floats with four digits, times in minutes."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else f"{value:{MINUTE}}" if isinstance(value, datetime) else str(value)
