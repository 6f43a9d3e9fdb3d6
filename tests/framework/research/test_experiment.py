"""What experiments have in common: rows, windows, `--fast`, and errors in a line."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from my_ml_project.core.contracts.schema import AVAILABLE_AT, Frame
from my_ml_project.core.errors import InputError, Rejected
from my_ml_project.core.models.evaluation import PairedComparison
from my_ml_project.core.workspace import Workspace
from my_ml_project.research import experiment, experiments
from my_ml_project.research.experiment import Experiment, start
from problems import PROBLEM, build

SCRIPT = str(Path(*experiments.__path__) / "mine.py")


@pytest.fixture
def begun(trained: Workspace) -> Experiment:
    return Experiment("mine", trained, trained.now(), fast=False)


@pytest.mark.parametrize(
    ("line", "fast"),
    [
        ([SCRIPT], False),
        ([SCRIPT, "--fast"], True),
        (["ipykernel_launcher.py", "-f", "kernel.json", "--fast"], False),
        (["pydevconsole.py", "--mode=client"], False),
    ],
    ids=["whole", "fast", "cells in VS Code", "cells in PyCharm"],
)
def test_fast_is_read_only_where_a_script_runs_whole(
    trained: Workspace, monkeypatch: pytest.MonkeyPatch, line: list[str], *, fast: bool
) -> None:
    before = sys.excepthook
    monkeypatch.setattr(sys, "excepthook", before)
    monkeypatch.setattr(sys, "argv", line)
    begun = start(PROBLEM, "mine")
    assert begun.problem is PROBLEM
    assert (begun.kind, begun.fast, begun.as_of) == ("mine", fast, trained.now())
    assert (sys.excepthook is before) == (line[0] != SCRIPT)


def test_an_argument_that_no_experiment_has_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [SCRIPT, "--quick"])
    with pytest.raises(SystemExit) as end:
        start(PROBLEM, "mine")
    assert end.value.code == 2
    assert "mine.py: error: unrecognized arguments: --quick" in capsys.readouterr().err


@pytest.mark.parametrize(("error", "status"), [(InputError("no"), 2), (Rejected("no"), 1)])
def test_what_a_person_can_mend_is_told_in_a_line(
    error: Exception, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [SCRIPT])
    with pytest.raises(SystemExit) as end:
        experiment.report_error(type(error), error, None)
    assert (end.value.code, capsys.readouterr().err) == (status, "mine.py: no\n")


def test_output_of_an_experiment_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    code = f"""
import sys
from {experiment.__package__} import experiment
sys.excepthook = experiment.report_error
print("found", flush=True)
"""
    (tmp_path / "mine.py").write_text(code, encoding="utf-8")
    reading, writing = os.pipe()
    os.close(reading)
    line = [sys.executable, str(tmp_path / "mine.py")]
    done = subprocess.run(line, stdout=writing, stderr=subprocess.PIPE, encoding="utf-8", check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (2, "mine.py: [Errno 32] Broken pipe\n")


def test_other_errors_are_shown_where_they_happened(capsys: pytest.CaptureFixture[str]) -> None:
    experiment.report_error(ZeroDivisionError, ZeroDivisionError("by zero"), None)
    assert "ZeroDivisionError: by zero" in capsys.readouterr().err


def test_fast_rows_are_few_and_from_all_of_the_time(begun: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "FAST_ROWS", 300)
    rows, few = begun.rows(), dataclasses.replace(begun, fast=True).rows()
    assert len(few) <= 300 < len(rows)
    assert few[AVAILABLE_AT].dt.truncate("1w").n_unique() == rows[AVAILABLE_AT].dt.truncate("1w").n_unique()


def test_a_feature_that_knows_the_future_is_refused_before_its_worth_is_told(begun: Experiment) -> None:
    def leak(parcels: Frame, history: Mapping[str, Frame]) -> Frame:
        own = history["arrivals"].select("parcel", knows="late")
        return build(parcels, history).join(own, on="parcel", how="left")

    leaking = dataclasses.replace(begun.problem, features=(*begun.problem.features, "knows"), build=leak)
    with pytest.raises(Rejected, match=r"^feature leakage: knows change when future rows[^\n]+$"):
        begun.rows(leaking)


def test_windows_follow_each_other_back_in_time_and_know_nothing_later(begun: Experiment) -> None:
    rows, length = begun.rows(), timedelta(days=begun.workspace.acceptance.window.days)
    windows = list(begun.windows(rows, 3))
    assert len(windows) == 3
    for number, (before, held) in enumerate(windows):
        end = begun.as_of - number * length
        assert held.equals(rows.filter(pl.col(AVAILABLE_AT).is_between(end - length, end, closed="right")))
        assert before.equals(rows.filter(pl.col(AVAILABLE_AT) <= end - length))
    before, held = begun.split(rows)
    assert (before.equals(windows[0][0]), held.equals(windows[0][1])) == (True, True)
    assert len(list(begun.windows(rows, 99))) < 10, "there are no more"


def test_too_few_rows_are_refused(begun: Experiment) -> None:
    with pytest.raises(
        Rejected, match=r"0 labelled rows before the newest window and 40 in it are too few \(at least 30"
    ):
        begun.split(begun.rows().tail(40))


def test_an_effect_has_its_mean_between_its_bounds_and_turns_with_its_sign(begun: Experiment) -> None:
    rows = begun.rows().tail(1000)
    theirs = np.random.default_rng(0).random(len(rows))
    ours = theirs - 0.1 + np.random.default_rng(1).normal(0, 0.1, len(rows))
    effect, back = begun.loss_reduction(ours, theirs, rows), begun.loss_reduction(theirs, ours, rows)
    assert 0 < effect.lower < effect.mean < effect.upper
    assert effect.mean == pytest.approx(0.1, abs=0.01)
    assert dataclasses.astuple(back) == pytest.approx((-effect.mean, -effect.upper, -effect.lower, 1000))
    assert str(PairedComparison(0.1, 0.05, 0.2, 7)) == "+0.1000 (from +0.0500 to +0.2000, 7 rows)"
