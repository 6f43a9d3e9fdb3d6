"""Reports: the programs of `reports/`, as an app for follow-up questions or as pages that need nothing else."""

import ast
import asyncio
import re
import traceback
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from html import escape
from importlib import import_module
from pathlib import Path
from string import Template
from typing import Any

import marimo as mo
from marimo import App
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Mount, Route

from {{cookiecutter.__package_name}}.shared import BadInput, first_line, whole
from {{cookiecutter.__package_name}}.shared.listening import answer, listen
from {{cookiecutter.__package_name}}.shared.problem import Problem
from {{cookiecutter.__package_name}}.shared.workspace import Workspace

PROGRAMS = Path(__file__).parent / "reports"
PACKAGE = f"{__name__.rpartition('.')[0]}.{PROGRAMS.name}"
VIEWS = f"{__name__.rpartition('.')[0]}.views.model"  # with all the libraries that reports need
HOST = "127.0.0.1"
LIVE = re.compile(r"<marimo-ui-element.*?</marimo-ui-element>", re.DOTALL)  # needs the app
PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>$title</title>
<link rel="icon" href="data:,">
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums }
td, th { padding: .15rem .8rem .15rem 0; vertical-align: top; border-bottom: 1px solid #ddd }
span.paragraph { display: block; margin: .6rem 0 }
img { max-width: 100% }
</style></head><body>
<main>$body</main>
$after
</body></html>
""")
CONTROLS = """<iframe id="app" title="the same with controls" style="position: fixed; inset: 0; border: 0;
width: 100%; height: 100%; background: white; clip-path: inset(50%)"></iframe>
<script>
const page = document.querySelector("main"), app = document.getElementById("app")
const parts = shown => shown.querySelectorAll("h1, h2, h3, table, img").length
addEventListener("load", () => { app.src = "app/" + location.search })
const watch = setInterval(() => {
  const live = app.contentDocument?.getElementById("App")
  if (!live || parts(live) < parts(page)) return
  clearInterval(watch)
  live.scrollTop = live.scrollHeight * scrollY / document.documentElement.scrollHeight
  page.hidden = true
  app.style.clipPath = "none"
  app.contentWindow.focus()
}, 100)
</script>"""


@dataclass(frozen=True)
class Written:
    """Pages that were written, and show the tables in these versions."""

    files: tuple[str, ...]
    tables: dict[str, int]

    def __str__(self) -> str:
        """A line a page."""
        return "\n".join(self.files)


@dataclass(frozen=True)
class Closed:
    """An app that was told to end."""

    def __str__(self) -> str:
        """One line for people."""
        return "reports closed"


def report(workspace: Workspace, *, html: Path | None = None, port: int = 8080) -> Written | Closed:
    """Show the reports as an app until told to end (SIGTERM, Ctrl-C), or write each as one HTML file.

    Args:
        workspace: The workspace.
        html: Where to write pages; without it, the app is started.
        port: Of the app, on this machine alone; 0 takes a free one.

    Raises:
        BadInput: There is nothing to show yet, a cell of a report fails, or the port is taken.
    """
    if workspace.releases.champion() is None:
        raise BadInput("there is no champion to report on yet: run first; if its challenger was refused, gate says why")
    if html is None:
        return _serve(workspace.problem, port)
    now = workspace.pinned()
    pages = {html / f"{name}.html": rendered(name, now) for name in programs()}
    for path, page in pages.items():
        with whole(path) as draft:
            draft.write_text(page, encoding="utf-8", newline="\n")
    return Written(tuple(path.as_posix() for path in pages), now.settings.tables)


def programs() -> list[str]:
    """The names of the programs, yours among them."""
    return sorted(path.stem for path in PROGRAMS.glob("*.py") if path.stem != "__init__")


def rendered(name: str, workspace: Workspace, *, after: str = "") -> str:
    """A program's page: its cells are run, and what they show stands below each other.

    Args:
        name: The program's.
        workspace: What it shows.
        after: What else the page has, in HTML.

    Raises:
        BadInput: A cell fails.
    """
    try:
        app: App = import_module(f"{PACKAGE}.{name}").app
        outputs, _ = app.run(defs={"workspace": workspace})
    except Exception as error:
        raise BadInput(f"report {name}: cell {_failed(name, error)} fails: {first_line(error)}") from error
    shown = (mo.as_html(output).text for output in outputs if output is not None)
    body = "\n".join(filter(None, (LIVE.sub("", text).strip() for text in shown)))
    return PAGE.substitute(title=escape(name), body=body, after=after)


def _failed(name: str, error: Exception) -> str:
    """The name of the cell that was left by an error."""
    path = PROGRAMS / f"{name}.py"
    lines = [frame.lineno or 0 for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path]
    cells = [part for part in ast.parse(path.read_bytes()).body if isinstance(part, ast.FunctionDef)] if lines else []
    found = (cell.name for cell in cells for line in lines if cell.lineno <= line <= (cell.end_lineno or 0))
    return next(found, "setup")


def application(problem: Problem) -> Starlette:
    """The programs as an app, each at its name, first as a page, and a page that leads to them."""
    builder = mo.create_asgi_app(quiet=True)
    names = programs()
    for name in names:
        builder = builder.with_app(path=f"/{name}/app", root=str(PROGRAMS / f"{name}.py"))
    apps: Any = builder.build()
    links = "".join(f'<li><a href="/{name}/">{name}</a></li>' for name in names)
    front = PAGE.substitute(title="Reports", body=f"<h1>Reports</h1><ul>{links}</ul>", after="")
    one = ThreadPoolExecutor(1)  # a program runs once at a time

    async def index(_: Request) -> HTMLResponse:
        return HTMLResponse(front)

    async def first(request: Request) -> HTMLResponse:
        name = request.url.path.strip("/")
        return HTMLResponse(await asyncio.get_running_loop().run_in_executor(one, _first, problem, name))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        one.submit(import_module, VIEWS)
        yield
        one.shutdown(wait=False, cancel_futures=True)  # what has begun is waited for when the process ends
        mounted: list[Any] = [route.app for route in apps.routes if isinstance(route, Mount)]
        for each in mounted:
            await each.state.session_manager.shutdown()  # the process would wait for what open pages run

    pages = [Route(f"/{name}/", first) for name in names]
    here = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    return Starlette(routes=[Route("/", index), *pages, *apps.routes], middleware=[here], lifespan=lifespan)


def _first(problem: Problem, name: str) -> str:
    """What a browser shows at once: a program's page, until the program itself is ready in its place."""
    from {{cookiecutter.__package_name}}.research.views import page  # noqa: PLC0415 - with all the libraries that reports need

    try:
        return rendered(name, page.opened(problem), after=CONTROLS)
    except Exception as error:  # noqa: BLE001 - the lake may be away too, and the app goes on
        body = f'<p>{escape(first_line(error))}</p><p><a href="app/">What can be shown all the same</a></p>'
        return PAGE.substitute(title=escape(name), body=body, after="")


def _serve(problem: Problem, port: int) -> Closed:
    with listen(HOST, port) as listening:
        greeting = f"report    at http://{HOST}:{listening.getsockname()[1]}"
        answer(partial(application, problem), listening, greeting=greeting, patience=1)
    return Closed()
