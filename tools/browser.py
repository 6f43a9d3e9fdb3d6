"""A Chromium without a screen, for the tests and pictures of reports: the machine's own, with a profile that is new."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import BrowserContext, Frame, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
DRAWN = """
count => document.querySelectorAll('img[alt]').length >= count
    && [...document.querySelectorAll('img[alt]')].every(image => image.complete)
"""
REPLACED = "() => document.querySelector('main').hidden"
PICTURES = {"data": 3, "lifecycle": 1, "model": 5}  # of each report of the example


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
    """The app of reports, started by a command: its address."""
    command = [*start, "report", "--port", "0"]
    with subprocess.Popen(command, cwd=folder, env=env, stderr=subprocess.PIPE, text=True) as process:
        try:
            said = process.stderr.readline() if process.stderr else ""
            if " at http://" not in said:
                raise RuntimeError(said + (process.stderr.read() if process.stderr else ""))
            yield said.split(" at ")[1].strip()
        finally:
            process.terminate()


@dataclass(frozen=True)
class Opening:
    """A report that was opened.

    Attributes:
        page: In the browser.
        pictures: Seconds from the page's address to its last picture.
        controls: The same until the program with its controls stands in the page's place.
    """

    page: Page
    pictures: float
    controls: float


@dataclass(frozen=True)
class Opened:
    """A report in an app of its own.

    Attributes:
        name: The report's.
        started: Seconds from the app's command until it said its address.
        first: The first page that it was asked for.
        again: One more of the same.
    """

    name: str
    started: float
    first: Opening
    again: Opening


def opened(context: BrowserContext, start: list[str], folder: Path) -> Iterator[Opened]:
    """Open each report of the example, each in an app that has just been started; it ends when the next is asked for.

    Args:
        context: The browser.
        start: How a command of the project begins.
        folder: The project's.
    """
    env = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    for name in PICTURES:
        began = time.perf_counter()
        with app(start, folder, env) as address:
            started = time.perf_counter() - began
            first, again = (opening(context, f"{address}/{name}/", name) for _ in range(2))
            yield Opened(name, started, first, again)
            first.page.close()
            again.page.close()


def opening(context: BrowserContext, address: str, name: str) -> Opening:
    """Open a report of an app, and wait for its pictures and then for its controls."""
    began = time.perf_counter()
    page = open_report(context, address, name)
    pictures = time.perf_counter() - began
    program(page)
    return Opening(page, pictures, time.perf_counter() - began)


def open_report(context: BrowserContext, address: str, name: str, saw: Callable[[str], None] | None = None) -> Page:
    """Open a report, and wait until all of its pictures are there.

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
    page.wait_for_function(DRAWN, arg=PICTURES[name], timeout=120_000)
    return page


def program(page: Page) -> Frame:
    """The program of a report in an app, once it stands in the place of the page that was shown first."""
    page.wait_for_function(REPLACED, timeout=120_000)
    return page.frames[1]
