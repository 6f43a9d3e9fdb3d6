"""Picture the reports of the example: `uvx nox -s screenshots`; it also says how long each took to open."""

import io
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

from tools.browser import PICTURES, app, browser, open_report
from tools.mutate import make_project

HERE = Path(__file__).parents[1]
IMAGES = HERE / "docs" / "images"
COLOURS = 128
HEIGHT = 3300  # of a picture, at most


def picture(page: Page, path: Path) -> None:
    """Write the page, or as much of it as is readable in a picture, with few colours."""
    height = "() => Math.max(...[...document.querySelectorAll('*')].map(part => part.scrollHeight))"
    page.set_viewport_size({"width": 1100, "height": min(int(page.evaluate(height)), HEIGHT)})
    page.wait_for_function("document.fonts.ready.then(() => true)")
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.relative_to(HERE)}: {path.stat().st_size / 1000:.0f} kB")


def shown(project: Path, start: list[str], write: Callable[[Page, str], None]) -> None:
    """Open each report of a project, each time in an app that has just been started."""
    env = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    with browser() as context:
        for name in PICTURES:
            began = time.perf_counter()
            with app(start, project, env) as address:
                page = open_report(context, f"{address}/{name}/", name)
                print(
                    f"{name}: {time.perf_counter() - began:.1f} s from the command to the last picture in the browser"
                )
                again = time.perf_counter()
                open_report(context, f"{address}/{name}/", name).close()
                print(f"{name}: {time.perf_counter() - again:.1f} s in an app that runs")
                write(page, name)
                page.close()


def live(project: Path) -> None:
    """Let half a year go by in a project: what is due is done once a month."""
    for month in range(7, 13):
        command = ["uv", "run", project.name, "run", "--now", f"2013-{month:02}-01"]
        subprocess.run(command, cwd=project, check=False)  # an alarm is a month of this life too


def main() -> None:
    """Make a project, let it live, and picture its reports."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        project = make_project(Path(folder))
        live(project)
        start = [str(project / ".venv" / "bin" / "python"), "-m", project.name.replace("-", "_")]
        shown(project, start, lambda page, name: picture(page, IMAGES / f"report-{name}.png"))


if __name__ == "__main__":
    main()
