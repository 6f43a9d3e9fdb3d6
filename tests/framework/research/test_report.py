"""Reports: exported and served by marimo; what they show is what is in the tables."""

import dataclasses
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import date, timedelta
from html import unescape
from pathlib import Path
from typing import Annotated
from urllib.request import urlopen

import numpy as np
import pytest
from matplotlib.figure import Figure
from pydantic import Field

from my_ml_project.core.contracts.schema import PREDICTED_AT, Key, Personal, Table
from my_ml_project.core.errors import InputError, Rejected
from my_ml_project.core.models.evaluation import cost, metrics
from my_ml_project.core.workspace import Workspace
from my_ml_project.production import lifecycle
from my_ml_project.research.views import data, model
from my_ml_project.research.views import report as module_of_report
from my_ml_project.research.views.report import PROGRAMS, names, report
from problems import PROBLEM, START, Parcel

PACKAGE = module_of_report.__name__.partition(".")[0]


def a_week_on(workspace: Workspace) -> Workspace:
    """The same with the rows and labels of a week more."""
    assert lifecycle.collect_and_ingest(workspace, START + timedelta(days=7)).ok
    return workspace.pinned()


# --- export


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which reports are looked for, with one of them."""
    folder = tmp_path / "programs"
    folder.mkdir()
    shutil.copy(PROGRAMS / "lifecycle.py", folder)
    monkeypatch.setattr(module_of_report, "PROGRAMS", folder)
    return folder


def test_a_report_is_exported_with_its_figures_and_tables_and_without_its_code(
    flights: Workspace, programs: Path
) -> None:
    written = report(flights, html=Path("pages"))
    assert str(written) == "pages/lifecycle.html"
    page = Path("pages/lifecycle.html").read_text(encoding="utf-8")
    text = unescape(page.encode().decode("unicode_escape"))
    assert f"Table versions: {versions(flights)}" in text
    assert text.count("data:image/png;base64,") == 1
    assert text.count("<marimo-table ") == 3
    assert "lifecycle.timeline(" not in text, "code"
    assert (programs / "lifecycle.py").is_file()


def versions(workspace: Workspace) -> str:
    return ", ".join(f"{name} {workspace.lake.version(name)}" for name in workspace.problem.schemas)


def test_a_cell_that_fails_is_named_and_no_page_is_written(flights: Workspace, programs: Path) -> None:
    source = (programs / "lifecycle.py").read_text(encoding="utf-8")
    broken = source.replace("lifecycle.ages(workspace)", 'int("no number\\nat all")')
    assert broken != source
    (programs / "staleness.py").write_text(broken, encoding="utf-8")
    with pytest.raises(InputError, match=r"^report staleness: cell ages fails: invalid literal for int[^\n]*$"):
        report(flights, html=Path("pages"))
    assert not Path("pages").exists()


def test_without_a_champion_one_line_says_what_comes_first(empty: Workspace) -> None:
    with pytest.raises(Rejected, match=r"^there is no champion yet: call run, or set ML_LAKE and ML_TRACKING [^\n]*$"):
        report(empty, html=Path("pages"))


def test_the_programs_are_as_marimo_has_them() -> None:
    files = [str(PROGRAMS / f"{name}.py") for name in names()]
    line = [sys.executable, "-m", "marimo", "check", "--strict", *files]
    done = subprocess.run(line, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# --- persons


class Guarded(Parcel):
    """Two columns of the subject say something about a person now, one of them its key."""

    parcel: Annotated[int, Field(gt=0), Key(), Personal()]
    ordered: Annotated[date, Personal()]


def test_a_column_that_is_personal_by_now_is_shown_nowhere(trained: Workspace) -> None:
    """Not even from the evidence of a training in which it was not."""
    (trained.root / "config" / "acceptance.toml").write_text('[slices]\ncolumns = ["ordered"]\n', encoding="utf-8")
    tables: tuple[type[Table], ...] = (Guarded, *PROBLEM.tables[1:])
    problem = dataclasses.replace(PROBLEM, entity=Guarded, tables=tables)
    guarded = dataclasses.replace(trained, problem=problem)
    shown = {}
    for workspace in (trained, guarded):
        found = model.champion_predictions(workspace)
        lines = model.quality(workspace, found, "brier").axes[0].get_lines()
        labels = {str(line.get_label()).split()[0] for line in lines}
        shown[workspace is guarded] = {*found.rows.columns, *model.largest_losses(workspace, found).columns, *labels}
    assert {"parcel", "ordered"} <= shown[False]
    assert not {"parcel", "ordered"} & shown[True]
    assert model.contributions_of(guarded, found, "1") == "Rows have no key."


# --- what is shown


def test_the_slider_tells_the_cost_of_its_threshold(trained: Workspace) -> None:
    found, decision = model.champion_predictions(trained), trained.acceptance.decision
    told = {at: model.at_threshold(trained, found, at) for at in (0.1, 0.5)}
    for at, text in told.items():
        assert (
            f"At threshold **{at:.2f}**, the cost is **{cost(found.predictions, decision, threshold=at):.1f}** per"
            in text
        )
    assert told[0.1] != told[0.5]


def test_labels_since_the_training_are_among_the_champions_rows(trained: Workspace) -> None:
    before = model.champion_predictions(trained.pinned())
    after = model.champion_predictions(a_week_on(trained))
    new = after.rows.tail(len(after.rows) - len(before.rows))
    assert 300 < len(new) < 400
    assert np.array_equal(after.predictions.prediction[-len(new) :], after.champion.predictor.predict(new))


def test_quality_by_week_is_that_of_its_rows(trained: Workspace) -> None:
    workspace = a_week_on(trained)
    found = model.deployed_predictions(workspace)
    chosen = found.rows["courier"] == "van"
    table = model.over_time(workspace, found, "brier").filter(column="courier", value="van")
    assert len(table) > 1
    for week, rows, value in table.select("period", "rows", "brier").iter_rows():
        mine = ((found.rows[PREDICTED_AT].dt.truncate("1w").dt.date() == week) & chosen).to_numpy()
        figures = metrics(found.predictions[mine], workspace.acceptance.decision)
        assert (rows, value) == (mine.sum(), figures["brier"])


def test_answers_given_ahead_are_held_against_their_labels(trained: Workspace) -> None:
    assert isinstance(model.served_metrics(trained, model.champion_predictions(trained)), str), "no label has come yet"
    workspace = a_week_on(trained)
    table = model.served_metrics(workspace, model.champion_predictions(workspace))
    assert not isinstance(table, str)
    assert table[""].to_list() == ["upcoming predictions"]
    assert 40 < table["labels"].item() < 50


def test_a_row_is_found_by_its_key(trained: Workspace) -> None:
    found = model.champion_predictions(trained)
    key = str(found.rows["parcel"][3])
    told = model.contributions_of(trained, found, key)
    assert not isinstance(told, str)
    assert set(told["feature"]) == set(trained.problem.features)
    assert told.filter(feature="courier")["value"].item() == found.rows["courier"][3]
    assert "<i>" not in str(model.contributions_of(trained, found, "<i>"))


def test_missing_values_are_shown_where_there_are_some(trained: Workspace) -> None:
    drawn = data.missing_values(trained)
    assert not isinstance(drawn, str)
    assert {label.get_text() for label in drawn.axes[0].get_yticklabels()} == {"parcels.weight", "traffic.rain"}


def test_drift_is_measured_on_every_day_of_every_feature(trained: Workspace) -> None:
    drawn = data.drift(trained)
    assert not isinstance(drawn, str)
    assert drawn.axes[0].get_images()[0].get_size() == (len(trained.problem.features), 32)


@pytest.mark.parametrize("name", names())
def test_a_report_shows_the_tables_as_they_were_when_it_was_opened(
    name: str, trained: Workspace, shown: Callable[[str, Workspace], str]
) -> None:
    pinned = trained.pinned()
    before = shown(name, pinned)
    assert f"Data as of <strong>{pinned.now():%Y-%m-%d %H:%M}</strong>" in before
    assert f"Table versions: {versions(trained)}, " in before
    then = a_week_on(trained)
    after = shown(name, then)
    assert f"Table versions: {versions(trained)}, " in after
    assert images(after) != images(before)
    assert images(shown(name, pinned)) == images(before)
    assert last_day(data.row_counts(then)) - last_day(data.row_counts(pinned)) == 7


def images(text: str) -> list[str]:
    return re.findall(r"data:image/png;base64,([^\"']+)", text)


def last_day(drawn: Figure) -> int:
    """Until when bars are drawn, as a number of days."""
    return int(drawn.axes[0].dataLim.x1)


# --- the server


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM that a process could answer")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_reports_are_served_on_this_machine_until_a_signal(flights: Workspace, number: signal.Signals) -> None:
    line = [sys.executable, "-m", PACKAGE, "report", "--port", "0"]
    with subprocess.Popen(line, cwd=flights.root, stderr=subprocess.PIPE, encoding="utf-8") as process:
        assert process.stderr
        told = process.stderr.readline()
        found = re.fullmatch(r"reports at (http://127\.0\.0\.1:\d+) until Ctrl-C\n", told)
        assert found, told + process.stderr.read()
        for path in ("/", *(f"/?file={name}.py" for name in names())):
            with urlopen(found[1] + path) as answer:  # noqa: S310 - of this machine
                assert answer.status == 200
        process.send_signal(number)
        assert process.stderr.read() == "reports closed\n"
    assert process.returncode == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(found[1].rpartition(":")[2])))


def test_a_port_that_is_taken_is_named(trained: Workspace) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"^can't listen on 127.0.0.1:{port}: .*; choose another --port$"):
            report(trained, port=port)
