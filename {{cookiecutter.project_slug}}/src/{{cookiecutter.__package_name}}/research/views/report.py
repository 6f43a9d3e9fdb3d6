"""Reports: the marimo programs of `reports/`, served by `marimo run` or written by `marimo export html`."""

import ast
import logging
import runpy
import signal
import socket
import subprocess
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from {{cookiecutter.__package_name}}.core.errors import BadInput, first_line, whole
from {{cookiecutter.__package_name}}.core.workspace import Workspace

log = logging.getLogger(__name__)

PROGRAMS = Path(__file__).parents[1] / "reports"
HOST = "127.0.0.1"
MARIMO = (sys.executable, "-m", "marimo", "--quiet", "--yes")


@dataclass(frozen=True)
class ExportedReports:
    """The HTML files that were written."""

    files: tuple[str, ...]

    def __str__(self) -> str:
        """A line a file."""
        return "\n".join(self.files)


def report(workspace: Workspace, *, html: Path | None = None, port: int = 8080) -> ExportedReports | str:
    """Serve the reports until a signal (SIGTERM, Ctrl-C), or write each as an HTML file.

    Args:
        workspace: The workspace.
        html: The folder to write to; without it, the reports are served.
        port: Of the server, on this machine alone; 0 takes a free one.

    Raises:
        BadInput: There is no champion yet, a cell of a report fails, or the port is taken.
    """
    if workspace.releases.champion() is None:
        raise BadInput("there is no champion to report on yet: run first; if its challenger was refused, gate says why")
    return _serve(workspace, port) if html is None else _export(workspace, html)


def names() -> list[str]:
    """The names of all reports, yours among them."""
    return sorted(path.stem for path in PROGRAMS.glob("*.py") if path.stem != "__init__")


def _export(workspace: Workspace, folder: Path) -> ExportedReports:
    with TemporaryDirectory() as drafts:
        for name in names():
            command = [*MARIMO, "export", "html", "--no-include-code", "--no-sandbox", "--force"]
            command += ["--output", str(Path(drafts, f"{name}.html")), str(PROGRAMS / f"{name}.py")]
            done = subprocess.run(  # noqa: S603 - marimo's own command line
                command, cwd=workspace.root, capture_output=True, encoding="utf-8", check=False
            )
            if done.returncode:
                raise BadInput(f"report {name}: {_failure(workspace, name) or done.stderr.strip().splitlines()[-1]}")
        for name in names():
            with whole(folder / f"{name}.html") as draft:
                draft.write_bytes(Path(drafts, f"{name}.html").read_bytes())
    return ExportedReports(tuple((folder / f"{name}.html").as_posix() for name in names()))


def _failure(workspace: Workspace, name: str) -> str:
    """Which cell of a report fails and why, which marimo's export does not say."""
    path = PROGRAMS / f"{name}.py"
    try:
        runpy.run_path(str(path))["app"].run(defs={"workspace": workspace.pinned()})
    except Exception as error:  # noqa: BLE001 - whatever a cell raises
        lines = [
            frame.lineno or 0 for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)
        ]
        cells = [part for part in ast.parse(path.read_bytes()).body if isinstance(part, ast.FunctionDef)]
        found = (cell.name for cell in cells for line in lines if cell.lineno <= line <= (cell.end_lineno or 0))
        return f"cell {next(found, 'setup')} fails: {first_line(error)}"
    return ""


def _serve(workspace: Workspace, port: int) -> str:
    try:
        with socket.create_server((HOST, port)) as free:
            port = free.getsockname()[1]
    except OSError as error:
        raise BadInput(f"can't listen at {HOST}:{port}: {error.strerror}; choose another --port") from error
    command = [*MARIMO, "run", "--headless", "--no-token", "--no-sandbox", "--show-tracebacks"]
    command += ["--host", HOST, "--port", str(port), str(PROGRAMS)]
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with subprocess.Popen(command, cwd=workspace.root, start_new_session=True) as server:  # noqa: S603 - as above
        try:
            _wait_until_ready(server, port)
            log.info("reports at http://%s:%d until Ctrl-C", HOST, port)
            status = server.wait()
        except KeyboardInterrupt:
            server.terminate()
            return "reports closed"
    raise BadInput(f"marimo run ended with exit status {status}")


def _wait_until_ready(server: subprocess.Popen[bytes], port: int) -> None:
    """Return when a server accepts connections, or has ended."""
    while server.poll() is None:
        with suppress(OSError), socket.create_connection((HOST, port), timeout=1):
            return
        time.sleep(0.1)
