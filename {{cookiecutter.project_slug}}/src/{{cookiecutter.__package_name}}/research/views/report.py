"""The command `report`: serve the marimo programs of `reports/` with `marimo run`, or export them as HTML."""

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

from {{cookiecutter.__package_name}}.core.errors import InputError, NothingYet, summarize, write_file
from {{cookiecutter.__package_name}}.core.workspace import Workspace

log = logging.getLogger(__name__)

PROGRAMS = Path(__file__).parents[1] / "reports"
HOST = "127.0.0.1"
MARIMO = (sys.executable, "-m", "marimo", "--quiet", "--yes")


@dataclass(frozen=True)
class ExportedReports:
    """The exported HTML files."""

    files: tuple[str, ...]

    def __str__(self) -> str:
        """A line a file."""
        return "\n".join(self.files)


def report(workspace: Workspace, *, html: Path | None = None, port: int = 8080) -> ExportedReports | str:
    """Serve the reports until SIGTERM or Ctrl-C, or export each as an HTML file.

    Args:
        workspace: The workspace.
        html: The folder of the HTML files. Default: serve the reports.
        port: The port of the server on localhost; 0 picks a free port.

    Raises:
        InputError: There is no champion yet, a cell fails, or the port is in use.
    """
    if workspace.releases.champion() is None:
        raise NothingYet("champion")
    return _serve(workspace, port) if html is None else _export(workspace, html)


def names() -> list[str]:
    """The names of all reports."""
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
                raise InputError(f"report {name}: {_failure(workspace, name) or done.stderr.strip().splitlines()[-1]}")
        for name in names():
            write_file(folder / f"{name}.html", Path(drafts, f"{name}.html").read_bytes())
    return ExportedReports(tuple((folder / f"{name}.html").as_posix() for name in names()))


def _failure(workspace: Workspace, name: str) -> str:
    """The failing cell of a report and its error, which marimo's export does not name."""
    path = PROGRAMS / f"{name}.py"
    try:
        runpy.run_path(str(path))["app"].run(defs={"workspace": workspace.pinned()})
    except Exception as error:  # noqa: BLE001 - whatever a cell raises
        lines = [
            frame.lineno or 0 for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)
        ]
        cells = [part for part in ast.parse(path.read_bytes()).body if isinstance(part, ast.FunctionDef)]
        found = (cell.name for cell in cells for line in lines if cell.lineno <= line <= (cell.end_lineno or 0))
        return f"cell {next(found, 'setup')} fails: {summarize(error)}"
    return ""


def _serve(workspace: Workspace, port: int) -> str:
    try:
        with socket.create_server((HOST, port)) as free:
            port = free.getsockname()[1]
    except OSError as error:
        raise InputError(f"can't listen on {HOST}:{port}: {error.strerror}; choose another --port") from error
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
    raise InputError(f"marimo run ended with exit status {status}")


def _wait_until_ready(server: subprocess.Popen[bytes], port: int) -> None:
    """Wait until the server accepts connections or has ended."""
    while server.poll() is None:
        with suppress(OSError), socket.create_connection((HOST, port), timeout=1):
            return
        time.sleep(0.1)
