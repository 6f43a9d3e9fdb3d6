"""What every report has: the state of the tables that it shows, and sections of figures, tables and sentences."""

from datetime import UTC, datetime

import marimo as mo
import polars as pl
from matplotlib.figure import Figure

from {{cookiecutter.__package_name}}.core import plots
from {{cookiecutter.__package_name}}.core.problem import Problem
from {{cookiecutter.__package_name}}.core.workspace import Workspace, open_project

MINUTE = "%Y-%m-%d %H:%M"


def open_pinned(problem: Problem) -> Workspace:
    """This project with its tables in their present versions, so that all parts of a page show the same state."""
    return open_project(problem).pinned()


def header(title: str, workspace: Workspace) -> mo.Html:
    """The title, the time of the state that is shown, and the versions of its tables."""
    tables = ", ".join(f"{name} {version}" for name, version in workspace.settings.tables.items())
    as_of = f"Data as of **{workspace.now():{MINUTE}}** UTC, shown {datetime.now(UTC):{MINUTE}} UTC."
    return mo.md(f"# {title}\n\n{as_of} Table versions: {tables}.")


def section(title: str, *contents: Figure | pl.DataFrame | str | mo.Html) -> mo.Html:
    """Figures, tables, sentences in Markdown and controls below a heading, if there is one."""
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
    """Four digits of a number, minutes of a time; an integer is not grouped, since it may be a key."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else f"{value:{MINUTE}}" if isinstance(value, datetime) else str(value)
