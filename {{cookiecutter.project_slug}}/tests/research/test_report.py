"""Reports: programs over the live tables, as pages and as an app; what they show is what is in the tables."""

import dataclasses
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier
from typing import Annotated, Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from pydantic import Field
from starlette.testclient import TestClient

from {{cookiecutter.__package_name}}.production import lifecycle
from {{cookiecutter.__package_name}}.research import report as module_of_report
from {{cookiecutter.__package_name}}.research.report import PROGRAMS, application, programs, rendered, report
from {{cookiecutter.__package_name}}.research.views import answers, data, model, page
from {{cookiecutter.__package_name}}.research.views.kept import kept
from {{cookiecutter.__package_name}}.shared import BadInput, contract
from {{cookiecutter.__package_name}}.shared.evaluation import cost, metrics
from {{cookiecutter.__package_name}}.shared.schema import AT, Key, Personal
from {{cookiecutter.__package_name}}.shared.workspace import Workspace

START = datetime(2013, 4, 1, tzinfo=UTC)  # when the trained project's champion was promoted
NAMES = ("data", "lifecycle", "model")


def a_week_on(workspace: Workspace) -> Workspace:
    """The same with the rows and labels of a week more."""
    assert lifecycle.bring_in(workspace, START + timedelta(days=7)).ok
    return workspace.pinned()


# --- pages


def test_each_program_is_a_page_of_the_tables_as_they_are(trained: Workspace) -> None:
    written = report(trained, html=Path("pages"))
    assert [Path(path).stem for path in str(written).splitlines()] == programs()
    assert set(NAMES) <= set(programs())
    before = {name: Path("pages", f"{name}.html").read_text(encoding="utf-8") for name in NAMES}
    for text in before.values():
        assert says_its_tables(text, trained)
        assert text.count("<img ") == text.count('src="data:image/svg+xml;base64,') > 0
        assert "<marimo" not in text, "needs the app"
        assert re.findall(r"""(?:src|href)=["'](?!data:)""", text) == [], "asks for something else"
    held, then = trained.pinned(), a_week_on(trained)
    after = rendered("lifecycle", then)
    assert says_its_tables(after, trained)
    assert not says_its_tables(before["lifecycle"], trained)
    assert pictures(after) != pictures(before["lifecycle"])
    assert pictures(rendered("lifecycle", held)) == pictures(before["lifecycle"]), "all of a page is of one state"
    assert last_day(data.volume(then)) - last_day(data.volume(held)) == 7


def last_day(drawn: Figure) -> int:
    """Until when bars are drawn, as a number of days."""
    return int(drawn.axes[0].dataLim.x1)


def says_its_tables(text: str, workspace: Workspace) -> bool:
    versions = ", ".join(f"{name} {workspace.lake.version(name)}" for name in workspace.problem.schemas)
    when = f"as of <strong>{workspace.now():%Y-%m-%d %H:%M}</strong>"
    return when in text and f"Versions of the tables: {versions}, " in text


def pictures(text: str) -> list[str]:
    return re.findall(r"base64,([^\"]+)", text)


@pytest.mark.parametrize(
    ("name", "module", "function", "cell"),
    [("data", data, "volume", "volume"), ("model", model, "by_champion", "answered")],
)
def test_a_cell_that_fails_is_named_and_no_page_is_written(
    trained: Workspace, monkeypatch: pytest.MonkeyPatch, name: str, module: Any, function: str, cell: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("no such thing\nand more")

    monkeypatch.setattr(module, function, fail)
    monkeypatch.setattr(module_of_report, "programs", lambda: [name])
    with pytest.raises(BadInput, match=f"^report {name}: cell {cell} fails: no such thing$"):
        report(trained, html=Path("pages"))
    assert not Path("pages").exists()


def test_without_a_champion_one_line_says_what_comes_first(empty: Workspace) -> None:
    with pytest.raises(BadInput, match=r"^there is no champion to report on yet: run first; [^\n]*$"):
        report(empty, html=Path("pages"))


def test_the_programs_are_as_marimo_has_them() -> None:
    files = [str(PROGRAMS / f"{name}.py") for name in NAMES]
    line = [sys.executable, "-m", "marimo", "check", "--strict", *files]
    done = subprocess.run(line, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# --- persons


class Guarded(contract.SUBJECT):
    """Two columns of the subject say something about a person now, one of them its key."""

    leg: Annotated[int, Field(gt=0), Key(), Personal()]
    number: Annotated[int, Personal()]


def test_a_column_that_is_personal_by_now_is_shown_nowhere(trained: Workspace) -> None:
    """Not even from the evidence of a training in which it was not."""
    (trained.root / "config" / "acceptance.toml").write_text('[slices]\ncolumns = ["number"]\n', encoding="utf-8")
    tables = (Guarded, *contract.TABLES[1:])
    guarded = dataclasses.replace(trained, problem=dataclasses.replace(trained.problem, subject=Guarded, tables=tables))
    shown = {}
    for workspace in (trained, guarded):
        found = model.by_champion(workspace)
        lines = model.quality(workspace, found, "brier").axes[0].get_lines()
        labels = {str(line.get_label()).split()[0] for line in lines}
        shown[workspace is guarded] = {*found.rows.columns, *model.worst(workspace, found).columns, *labels}
    assert {"leg", "number"} <= shown[False]
    assert not {"leg", "number"} & shown[True]
    assert model.case(guarded, found, "1") == "Rows have no key by which one could be found."


# --- what is shown


def test_the_slider_tells_the_cost_of_its_threshold(trained: Workspace) -> None:
    found, decision = model.by_champion(trained), trained.acceptance.decision
    told = {at: answers.in_words(trained, found, at) for at in (0.1, 0.5)}
    for at, text in told.items():
        assert f"From **{at:.2f}** on, decisions cost **{cost(found.answers, decision, threshold=at):.1f}** per" in text
    assert told[0.1] != told[0.5]
    table = answers.thresholds(trained, found)
    assert not isinstance(table, str)
    assert table.filter(threshold=0.5)["cost per 100 rows"].item() == cost(found.answers, decision, threshold=0.5)


def test_labels_since_the_training_are_among_the_champions_rows(trained: Workspace) -> None:
    before = model.by_champion(trained.pinned())
    after = model.by_champion(a_week_on(trained))
    new = after.rows.tail(len(after.rows) - len(before.rows))
    assert 1000 < len(new) < 3000
    assert np.array_equal(after.answers.prediction[-len(new) :], after.champion.predictor.predict(new))


def test_quality_by_week_is_that_of_its_rows(trained: Workspace) -> None:
    workspace = a_week_on(trained)
    found = model.in_service(workspace)
    chosen = found.rows["carrier"] == "DL"
    table = model.over_time(workspace, found, "brier", chosen)
    assert len(table) > 1
    for week, rows, value in table.iter_rows():
        mine = ((found.rows[AT].dt.truncate("1w").dt.date() == week) & chosen).to_numpy()
        figures = metrics(found.answers[mine], workspace.acceptance.decision)
        assert (rows, value) == (mine.sum(), figures["brier"])


def test_answers_given_ahead_are_held_against_their_labels(trained: Workspace) -> None:
    assert isinstance(model.given(trained, model.by_champion(trained)), str), "no label has come yet"
    workspace = a_week_on(trained)
    table = model.given(workspace, model.by_champion(workspace))
    assert not isinstance(table, str)
    assert table[""].to_list() == ["predicted ahead"]
    assert 50 < table["labels"].item() < 700


def test_a_row_is_found_by_its_key(trained: Workspace) -> None:
    found = model.by_champion(trained)
    key = str(found.rows["leg"][3])
    told = model.case(trained, found, key)
    assert not isinstance(told, str)
    assert set(told["feature"]) == set(trained.problem.features)
    assert told.filter(feature="carrier")["value"].item() == found.rows["carrier"][3]
    assert "<i>" not in str(model.case(trained, found, "<i>"))


def test_missing_values_are_shown_where_there_are_some(trained: Workspace) -> None:
    drawn = data.nulls(trained)
    assert not isinstance(drawn, str)
    assert {label.get_text() for label in drawn.axes[0].get_yticklabels()} == {"weather.wind_gust", "weather.pressure"}


def test_drift_is_measured_on_every_day_and_warns_only(trained: Workspace) -> None:
    index = data.stability(trained)
    assert not isinstance(index, str)
    assert index.height == 90
    assert "Drift alone is a warning" in data.moved(trained, index)


# --- what is kept


def test_a_view_is_made_once_of_the_same_things_and_who_asks_meanwhile_waits(trained: Workspace) -> None:
    made: list[tuple[Workspace, str]] = []
    all_ask = Barrier(4)

    @kept
    def view(workspace: Workspace, word: str = "") -> list[str]:
        made.append((workspace, word))
        return [word]

    def ask(_: int) -> list[str]:
        all_ask.wait(timeout=60)
        return view(held, word="a")

    held = trained.pinned()
    with ThreadPoolExecutor(4) as threads:
        first, *others = threads.map(ask, range(4))
    assert all(each is first for each in others)
    assert made == [(held, "a")]
    assert view(held, "b") == ["b"]
    assert view(held.pinned(), word="a") is not first, "another state"
    assert view(trained, word="a") is not view(trained, word="a"), "its tables change"
    assert len(made) == 5


def test_what_was_asked_last_is_kept_and_a_failure_never(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("{{cookiecutter.__package_name}}.research.views.kept.MOST", 2)
    made: list[int] = []

    @kept
    def view(number: int) -> float:
        made.append(number)
        return 1 / number

    for number in (1, 2, 1, 3, 3, 2, 1):
        view(number)
    assert made == [1, 2, 3, 1], "the oldest makes room"
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            view(0)
    assert made[4:] == [0, 0]


# --- the app


def test_a_report_is_a_page_first_and_shows_the_tables_as_they_are_each_time(trained: Workspace) -> None:
    with TestClient(application(trained.problem), base_url="http://127.0.0.1") as client:
        before = client.get("/data/").text
        assert says_its_tables(before, trained)
        assert pictures(before) == pictures(rendered("data", trained.pinned()))
        held = page.opened(trained.problem)
        assert page.opened(trained.problem) is held
        a_week_on(trained)
        after = client.get("/data/").text
        assert says_its_tables(after, trained)
        assert pictures(after) != pictures(before)
        assert page.opened(trained.problem) is not held
        (trained.root / "config" / "acceptance.toml").write_text("[monitor]\ndrift = 0.5\n", encoding="utf-8")
        assert page.opened(trained.problem).acceptance.monitor.drift == 0.5


def test_what_fails_is_told_on_the_page_which_leads_to_the_rest(
    trained: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_: object) -> Workspace:
        raise OSError("the lake doesn't answer")

    assert trained.root == Path.cwd()
    monkeypatch.setattr(data, "volume", lambda _: 1 / 0)
    with TestClient(application(trained.problem), base_url="http://127.0.0.1") as client:
        told = client.get("/data/").text
        monkeypatch.setattr(page, "opened", away)
        assert "<p>the lake doesn&#x27;t answer</p>" in client.get("/data/").text
    assert "<p>report data: cell volume fails: division by zero</p>" in told
    assert 'href="app/"' in told
    assert "<iframe " not in told, "marimo says that something went wrong, and not what"


def test_the_app_leads_to_each_report_and_answers_this_machine_alone(trained: Workspace) -> None:
    assert trained.root == Path.cwd()
    with TestClient(application(trained.problem), base_url="http://127.0.0.1") as client:
        front = client.get("/").text
        for name in NAMES:
            assert f'href="/{name}/"' in front
            assert "<iframe " in client.get(f"/{name}").text
            assert "<marimo-" in client.get(f"/{name}/app/").text
        assert client.get("/nothing/").status_code == 404
        assert client.get("/", headers={"host": "elsewhere.example"}).status_code == 400
