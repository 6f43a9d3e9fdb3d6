"""A Chromium without a screen, for the tests and pictures of reports: the machine's own, with a profile that is new."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from playwright.sync_api import BrowserContext, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
DRAWN = """
count => document.querySelectorAll('img[alt]').length >= count
    && [...document.querySelectorAll('img[alt]')].every(image => image.complete)
"""
FIGURES = {"data": 3, "lifecycle": 1, "model": 3}  # of each report of the example


@contextmanager
def browser(width: int = 1100, height: int = 900) -> Iterator[BrowserContext]:
    """The browser; pages are opened in it.

    Raises:
        RuntimeError: There is none.
    """
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        raise RuntimeError("no Chromium is found: apt-get install --yes chromium, or the installer of your system")
    with sync_playwright() as playwright, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=found, headless=True, args=QUIET, viewport={"width": width, "height": height}
        )
        try:
            yield context
        finally:
            context.close()


@contextmanager
def app(start: list[str], folder: Path, env: dict[str, str]) -> Iterator[str]:
    """The reports, served by a command: the server's address."""
    command = [*start, "report", "--port", "0"]
    with subprocess.Popen(command, cwd=folder, env=env, stderr=subprocess.PIPE, text=True) as process:
        try:
            said = process.stderr.readline() if process.stderr else ""
            if " at http://" not in said:
                raise RuntimeError(said + (process.stderr.read() if process.stderr else ""))
            yield said.split(" at ")[1].split()[0]
        finally:
            process.terminate()


@dataclass(frozen=True)
class Opened:
    """A report that was opened on a server of its own.

    Attributes:
        name: The report's.
        page: In the browser.
        started: Seconds from the server's command until it said its address.
        first: Seconds from the page's address to its last figure.
        again: The same of a second page.
    """

    name: str
    page: Page
    started: float
    first: float
    again: float


def opened(context: BrowserContext, start: list[str], folder: Path) -> Iterator[Opened]:
    """Open each report of the example, each on a server that has just started and ends when the next is asked for.

    Args:
        context: The browser.
        start: How a command of the project begins.
        folder: The project's.
    """
    env = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    for name in FIGURES:
        times = [time.perf_counter()]
        with app(start, folder, env) as address:
            times.append(time.perf_counter())
            for _ in range(2):
                page = open_report(context, f"{address}/?file={name}.py", name)
                times.append(time.perf_counter())
            started, first, again = (later - sooner for sooner, later in pairwise(times))
            yield Opened(name, page, started, first, again)
            for each in context.pages[1:]:
                each.close()


def open_report(context: BrowserContext, address: str, name: str, saw: Callable[[str], None] | None = None) -> Page:
    """Open a report, and wait until all of its figures are there.

    Args:
        context: The browser.
        address: Of the page.
        name: The report's.
        saw: Is told every address that the page asks for.
    """
    page = context.new_page()
    if saw:
        page.on("request", lambda request: saw(request.url))
    page.goto(address)
    page.wait_for_function(DRAWN, arg=FIGURES[name], timeout=120_000)
    return page
