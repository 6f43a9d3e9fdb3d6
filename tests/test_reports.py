"""The reports of a project in a real browser: Chromium, without a screen and without anybody else's server."""

import os
import re
from pathlib import Path

import pytest
from baking import Project, copied, keep_a_quarter, run

from tools.browser import app, browser, open_report, program

NAMES = ("data", "lifecycle", "model")
PLANT = """
import sys
from datetime import UTC, datetime
import polars as pl
rows = pl.read_parquet(sys.argv[1])
rows.filter(pl.col("observed").dt.month() == 4).write_parquet(sys.argv[2])
"""
COST = re.compile(r"From ([0-9.]+) on, decisions cost ([0-9.]+) per 100 rows")


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
def test_the_app_answers_in_a_browser(project: Project, lively: tuple[Project, list[str], dict[str, str]]) -> None:
    made, start, env = lively
    asked: list[str] = []
    with browser() as context, app(start, made.root, {**os.environ, **env}) as address:
        for name in NAMES:
            text = open_report(context, f"{address}/{name}/", name, asked.append).inner_text("body")
            assert "Versions of the tables: flights 2," in text
            assert "Traceback" not in text
        page = context.pages[-1]
        page.evaluate("scrollTo(0, document.body.scrollHeight / 2)")
        live = program(page)
        assert live.evaluate("document.getElementById('App').scrollTop") > 0, "it is read on where one was"
        before = cost_of(live.inner_text("body"))
        live.get_by_role("slider").focus()
        for _ in range(20):
            page.keyboard.press("ArrowRight")
        live.wait_for_function(f"!document.body.innerText.includes('From {before[0]:.2f} on')")
        live.wait_for_function(f"document.body.innerText.includes('From {before[0] + 0.2:.2f} on')")
        after = cost_of(live.inner_text("body"))
        assert after[1] != before[1]
        weather = planted(project, made, start[0])
        run(*start, "ingest", weather, cwd=made.root, env=env)
        page.reload()
        assert " weather 3," in page.inner_text("main")
        assert " weather 3," in program(page).inner_text("body")
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
def test_a_page_needs_nothing_but_the_browser(lively: tuple[Project, list[str], dict[str, str]]) -> None:
    made, start, env = lively
    run(*start, "report", "--html", "pages", cwd=made.root, env=env)
    asked: list[str] = []
    with browser() as context:
        context.set_offline(offline=True)
        for name in NAMES:
            page = open_report(context, (made.root / "pages" / f"{name}.html").as_uri(), name, asked.append)
            assert page.locator("img[alt]").evaluate_all("all => all.every(image => image.naturalWidth > 100)")
            assert "Versions of the tables: flights 2," in page.inner_text("body")
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}


@pytest.mark.slow
def test_without_a_browser_one_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeError, match="apt-get install --yes chromium"), browser():
        pass
