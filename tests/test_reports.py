"""The reports of a project in a real browser: Chromium, without a screen and without anybody else's server."""

import mimetypes
import os
import re
from pathlib import Path

import pytest
from baking import Project, copied, keep_a_quarter, run
from playwright.sync_api import Route, expect

from tools.browser import app, browser, open_report

NAMES = ("data", "lifecycle", "model")
PLANT = """
import sys
from datetime import UTC, datetime
import polars as pl
rows = pl.read_parquet(sys.argv[1])
rows.filter(pl.col("observed").dt.month() == 4).write_parquet(sys.argv[2])
"""

TABLES = {"data": 0, "lifecycle": 3, "model": 3}
SCRIPTS = "https://cdn.jsdelivr.net/npm/@marimo-team/frontend@"  # of marimo, in a page that it exports
COST = re.compile(r"At threshold ([0-9.]+), the cost is ([0-9.]+) per 100 rows")


@pytest.fixture
def lively(project: Project, environment: Path, tmp_path: Path) -> tuple[Project, list[str], dict[str, str]]:
    """A project of a quarter's data with a champion, the start of its command, and what it needs around it."""
    made = copied(project, tmp_path)
    keep_a_quarter(made, environment / "python")
    (made.root / "config" / "params.toml").write_text("max_iter = 20\n", encoding="utf-8")
    start, env = [str(environment / "python"), "-m", made.package], {"PYTHONPATH": str(made.root / "src")}
    run(*start, "run", "--dirty", cwd=made.root, env=env)
    return made, start, env


def cost_of(text: str) -> tuple[float, float]:
    """The threshold and the cost that a report tells."""
    found = COST.search(text)
    assert found, text[:2000]
    return float(found[1]), float(found[2])


@pytest.mark.slow
def test_the_reports_answer_in_a_browser(project: Project, lively: tuple[Project, list[str], dict[str, str]]) -> None:
    made, start, env = lively
    asked: list[str] = []
    with browser() as context, app(start, made.root, {**os.environ, **env}) as address:
        page = context.new_page()
        page.goto(address)
        for name in NAMES:
            page.locator(f"a[href*='file={name}.py']").wait_for(timeout=60_000)
        for name in NAMES:
            page = open_report(context, f"{address}/?file={name}.py", name, asked.append)
            text = page.inner_text("body")
            assert "Table versions: flights 2," in text
            assert "Traceback" not in text
        before = cost_of(page.inner_text("body"))
        page.get_by_role("slider").focus()
        for _ in range(20):
            page.keyboard.press("ArrowRight")
        page.wait_for_function(f"document.body.innerText.includes('From {before[0] + 0.2:.2f} on')", timeout=60_000)
        after = cost_of(page.inner_text("body"))
        assert after[1] != before[1]
        run(*start, "ingest", planted(project, made, start[0]), cwd=made.root, env=env)
        page = open_report(context, f"{address}/?file=data.py", "data", asked.append)
        assert " weather 3," in page.inner_text("body")
    assert [
        url for url in asked if not url.startswith((address, address.replace("http", "ws"), "data:", "blob:"))
    ] == []


def planted(project: Project, made: Project, python: str) -> str:
    """A file with the next month of one table."""
    file = made.root / "data" / "inbox" / "weather" / "2013-04.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    run(python, "-c", PLANT, project.root / "data" / "example" / "weather.parquet", file, cwd=made.root)
    return str(file)


@pytest.mark.slow
def test_an_exported_report_shows_its_figures_and_tables_with_marimos_scripts_alone(
    lively: tuple[Project, list[str], dict[str, str]], environment: Path
) -> None:
    made, start, env = lively
    run(*start, "report", "--html", "pages", cwd=made.root, env=env)
    (static,) = environment.parent.glob("lib/python*/site-packages/marimo/_static")

    def scripts(route: Route) -> None:
        path = static / route.request.url.partition("/dist/")[2]
        kind = mimetypes.guess_type(path.name)[0]
        route.fulfill(path=path, content_type=kind, headers={"access-control-allow-origin": "*"})

    asked: list[str] = []
    with browser() as context:
        context.route(f"{SCRIPTS}**", scripts)
        for name in NAMES:
            page = open_report(context, (made.root / "pages" / f"{name}.html").as_uri(), name, asked.append)
            assert page.locator("img[alt]").evaluate_all("all => all.every(image => image.naturalWidth > 100)")
            expect(page.locator("body")).to_contain_text("Table versions: flights 2,", timeout=60_000)
            expect(page.get_by_role("table")).to_have_count(TABLES[name], timeout=60_000)
    assert [url for url in asked if not url.startswith((SCRIPTS, "file:", "data:", "blob:"))] == []


@pytest.mark.slow
def test_without_a_browser_one_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeError, match="apt-get install --yes chromium"), browser():
        pass
