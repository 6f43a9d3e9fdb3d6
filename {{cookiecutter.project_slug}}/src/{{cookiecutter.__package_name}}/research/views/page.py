"""What every report has: the state of the tables that it shows; figures, tables and sentences as a page has them."""

from base64 import b64encode
from datetime import UTC, datetime
from html import escape
from io import BytesIO
from weakref import WeakValueDictionary

import marimo as mo
import matplotlib as mpl
import polars as pl
from matplotlib.figure import Figure

from {{cookiecutter.__package_name}}.research.views.kept import kept
from {{cookiecutter.__package_name}}.shared.problem import Problem
from {{cookiecutter.__package_name}}.shared.workspace import Workspace, open_project

Shown = Figure | pl.DataFrame | str
DIGITS = 4
MINUTE = "%Y-%m-%d %H:%M"
OPENED = WeakValueDictionary[object, Workspace]()


def opened(problem: Problem) -> Workspace:
    """This project with its tables as they are now, so that all parts of a page show the same state.

    As long as nothing changes it is the same workspace, so that a page shows what views kept of it.
    """
    now = open_project(problem).pinned()
    state = (now.root, now.settings.model_dump_json(), now.acceptance.model_dump_json(), f"{now.now():{MINUTE}}")
    return OPENED.setdefault(state, now)


def head(workspace: Workspace) -> mo.Html:
    """As of when, and from which versions of the tables."""
    tables = ", ".join(f"{name} {version}" for name, version in workspace.settings.tables.items())
    known = f"What was known as of **{workspace.now():{MINUTE}}** UTC"
    return mo.md(f"{known}, shown {datetime.now(UTC):{MINUTE}} UTC. Versions of the tables: {tables}.")


def show(what: Shown, *, alt: str = "") -> mo.Html:
    """A figure, a table or a sentence in Markdown, as a page has it.

    Args:
        what: What is shown.
        alt: What a figure shows, for those who don't see it.
    """
    if isinstance(what, str):
        return mo.md(what)
    return _table(what) if isinstance(what, pl.DataFrame) else _picture(what, alt)


def _table(rows: pl.DataFrame) -> mo.Html:
    head = "".join(f"<th{_style(kind)}>{escape(name)}</th>" for name, kind in rows.schema.items())
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{_style(kind)}>{escape(_text(value))}</td>" for value, kind in zip(row, rows.dtypes, strict=True)
        )
        + "</tr>"
        for row in rows.iter_rows()
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return mo.Html(
        f'<div class="markdown prose dark:prose-invert" style="max-width:none;overflow-x:auto">{table}</div>'
    )


def _style(kind: pl.DataType) -> str:
    """Numbers stand right, all else left, and times in one line."""
    nowrap = ";white-space:nowrap" if kind.is_temporal() else ""
    return f' style="text-align:{"right" if kind.is_numeric() else "left"}{nowrap}"'


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.{DIGITS}g}"
    return "" if value is None else f"{value:{MINUTE}}" if isinstance(value, datetime) else str(value)


def _picture(drawn: Figure, alt: str) -> mo.Html:
    return mo.Html(f'<img alt="{escape(alt)}" style="max-width:100%" src="data:image/svg+xml;base64,{_drawn(drawn)}">')


@kept
def _drawn(figure: Figure) -> str:
    content = BytesIO()
    with mpl.rc_context({"svg.hashsalt": "report"}):
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    return b64encode(content.getvalue()).decode()
