"""Picture the reports of the example: `uvx nox -s screenshots`."""

import io
import subprocess
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

from tools.browser import browser, opened

HERE = Path(__file__).parents[1]
IMAGES = HERE / "docs" / "images"
COLOURS = 256
HEIGHT = 3300  # of a picture, at most
MEASURE = "() => Math.max(...[...document.querySelectorAll('*')].map(part => part.scrollHeight))"
SETTLED = f"""
() => {{
    const height = ({MEASURE})(), now = performance.now()
    if (height !== window.lastHeight) [window.lastHeight, window.lastChange] = [height, now]
    return now - window.lastChange > 5000
}}
"""  # cells below the last figure have run: the page has not grown for five seconds


def picture(page: Page, path: Path) -> None:
    """Write the page, or as much of it as is readable in a picture, with few colours."""
    page.wait_for_function(SETTLED)
    page.set_viewport_size({"width": 1100, "height": min(int(page.evaluate(MEASURE)), HEIGHT)})
    page.wait_for_function("document.fonts.ready.then(() => true)")
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    image.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.relative_to(HERE)}: {path.stat().st_size / 1000:.0f} kB")


def live(project: Path) -> None:
    """Let half a year go by in a project: what is due is done once a month."""
    for month in range(7, 13):
        command = ["uv", "run", project.name, "run", "--now", f"2013-{month:02}-01"]
        subprocess.run(command, cwd=project, check=False)  # an alarm is a month of this life too


def main(project: Path) -> None:
    """Let a new project live, and picture its reports."""
    live(project)
    start = [str(project / ".venv" / "bin" / "python"), "-m", project.name.replace("-", "_")]
    with browser() as context:
        for report in opened(context, start, project):
            picture(report.page, IMAGES / f"report-{report.name}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
