"""Hyperparameter tuning: on past folds, by any number of workers, killed or not; the best is written down."""

import dataclasses
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import optuna
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState
from pydantic import BaseModel, Field, create_model
from sklearn.compose import make_column_transformer
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeRegressor

import my_ml_project
from my_ml_project.core import datasets
from my_ml_project.core.contracts.schema import (
    AVAILABLE_AT,
    PREDICTED_AT,
    TARGET,
    AvailableAt,
    EventTime,
    Frame,
    Table,
    Target,
)
from my_ml_project.core.errors import InputError, Rejected
from my_ml_project.core.models import training
from my_ml_project.core.models.search_space import Choice, Search, space_of
from my_ml_project.core.problem import ModelSpec, Problem
from my_ml_project.core.settings import load_settings
from my_ml_project.core.workspace import Workspace, open_workspace
from my_ml_project.production.ingest import ingest
from my_ml_project.research.tuning import study as studies
from my_ml_project.research.tuning import tune as module
from my_ml_project.research.tuning.study import (
    Plan,
    finished_trials,
    folds,
    loss_of,
    open_study,
    search,
)
from my_ml_project.research.tuning.tune import tune, write_parameters
from my_ml_project.shared import PROBLEM

PROJECT = Path(my_ml_project.__file__).parents[2]
NOW = datetime(2024, 5, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
ENDS = "ENDS_AT_FIT"  # in the environment: in which fit the model raises, or a process ends: its own or its parent

# --- a problem with time: levels of a river, which rise with rain


class Parameters(BaseModel):
    """Of a tree."""

    depth: Annotated[int, Search(1, 12)] = 1
    alpha: Annotated[float, Search(0.0001, 0.2, log=True)] = Field(default=1.0, gt=0)
    splitter: Annotated[str, Choice(("best", "random"))] = "best"
    seed: int = 0


class Tree(DecisionTreeRegressor):  # type: ignore[misc] # scikit-learn is not typed
    """A tree that counts its fits, and in the middle of one raises or ends the process where it is told to."""

    fits = 0

    def fit(self, X: Any, y: Any) -> "Tree":
        Tree.fits += 1
        who, _, at = os.environ.get(ENDS, "").partition(" ")
        if at == str(Tree.fits):
            started_by = multiprocessing.parent_process()
            if who == "model":
                raise RuntimeError("too deep")
            if who == "itself":
                os._exit(137)
            elif started_by is not None and started_by.pid == os.getppid():
                os.kill(os.getppid(), signal.SIGKILL)
        super().fit(X, y)
        return self


def estimator(parameters: Parameters, categories: list[str]) -> Any:
    tree = Tree(
        max_depth=parameters.depth,
        ccp_alpha=parameters.alpha,
        splitter=parameters.splitter,
        random_state=parameters.seed,
    )
    return make_pipeline(make_column_transformer(("drop", categories), remainder="passthrough"), tree)


def export(*_: object) -> Any:
    raise AssertionError("a search exports nothing")


def model_spec() -> ModelSpec:
    return ModelSpec(Parameters, estimator, export)


class Level(Table):
    """The level of a river an hour from now, and when it was read."""

    table: ClassVar = "levels"

    at: Annotated[datetime, EventTime()]
    read: Annotated[datetime, AvailableAt()]
    rain: float
    level: Annotated[float, Target()]


def nothing(*_: object) -> list[Path]:
    return []


def as_it_is(rows: Frame, _: Mapping[str, Frame]) -> Frame:
    return rows


RIVER = Problem(
    entity=Level,
    tables=(Level,),
    features=("rain",),
    lookback=timedelta(0),
    build=as_it_is,
    collect=nothing,
    model_spec=model_spec,
)


def levels(n: int = 400) -> pl.DataFrame:
    """An hour a row, with features and target, as a training set has them."""
    rng = np.random.default_rng(0)
    rain = rng.uniform(0, 9, n)
    at = [NOW + number * HOUR for number in range(n)]
    rows = pl.DataFrame({"at": at, "rain": rain, TARGET: np.sin(rain) + rng.normal(0, 0.3, n)})
    times = rows.with_columns(pl.col("at").dt.convert_time_zone("UTC").alias(PREDICTED_AT))
    return times.with_columns((pl.col(PREDICTED_AT) + pl.duration(hours=5)).alias(AVAILABLE_AT))


def plan(storage: Path | str, trials: int = 6) -> Plan:
    return Plan("river-12ab34c", str(storage), trials, current=Parameters().model_dump())


@dataclasses.dataclass(frozen=True)
class Tried:
    values: dict[str, Any]
    loss: float | None


def searched(storage: Path | str, trials: int = 6, workers: int = 1) -> list[Tried]:
    found = search(RIVER, plan(storage, trials), levels(), workers=workers)
    losses = [loss_of(trial) for trial in found]
    return [
        Tried(trial.user_attrs["parameters"], None if loss == np.inf else loss)
        for trial, loss in zip(found, losses, strict=True)
    ]


def start(*arguments: object, ends: str = "") -> "subprocess.Popen[str]":
    """Start the same search in a process of its own, which prints the trials."""
    line = [sys.executable, __file__, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(line, env=os.environ | {ENDS: ends}, stdout=pipe, stderr=pipe, encoding="utf-8")


def result(process: "subprocess.Popen[str]") -> list[Tried]:
    out, err = process.communicate()
    assert process.returncode == 0, err
    return [Tried(**trial) for trial in json.loads(out)]


def require_exact(storage: Path | str, trials: int) -> None:
    """No trial is lost, doubled or left waiting: as many as planned are finished, and one of them is the current."""
    with open_study(plan(storage)) as study:
        states = Counter(trial.state for trial in study.get_trials())
        finished = finished_trials(study)
    assert states[TrialState.COMPLETE] + states[TrialState.PRUNED] == trials
    assert not states[TrialState.RUNNING] + states[TrialState.WAITING]
    tried = [trial.user_attrs["parameters"] for trial in finished]
    assert tried.count(Parameters().model_dump()) == 1
    assert len(set(map(str, tried))) == trials


def sqlite(folder: Path) -> str:
    return f"sqlite:///{(folder / 'tune.db').as_posix()}"


# --- folds


@settings(deadline=None)  # the first call imports what is slow to import
@given(
    hours=st.lists(st.integers(0, 60), min_size=12, max_size=60),
    late=st.lists(st.integers(0, 30), min_size=60, max_size=60),
    number=st.integers(1, 5),
)
def test_a_fold_is_tried_on_what_comes_after_all_that_it_was_fitted_on(
    hours: list[int], late: list[int], number: int
) -> None:
    at = [NOW + hour * HOUR for hour in sorted(hours)]
    known = [moment + wait * HOUR for moment, wait in zip(at, late, strict=False)]
    rows = pl.DataFrame({PREDICTED_AT: at, AVAILABLE_AT: known}).with_row_index("row")
    cut = list(folds(RIVER, rows, number))
    assert len(cut) == number
    for train, holdout in cut:
        if len(train) and len(holdout):
            assert (
                train.select(pl.max_horizontal(pl.col(PREDICTED_AT).max(), pl.col(AVAILABLE_AT).max())).item()
                < holdout[PREDICTED_AT].min()
            )
    tried = pl.concat([holdout for _, holdout in cut])["row"].to_list()
    assert tried == rows["row"].to_list()[len(rows) - len(tried) :], "each later row once, in its order"
    assert len(tried) >= len(rows) * number // (number + 1)


class Loaf(Table):
    table: ClassVar = "loaves"

    flour: int
    weight: Annotated[float, Target()]


BAKERY = dataclasses.replace(RIVER, entity=Loaf, tables=(Loaf,), features=("flour",))


def test_without_time_each_row_is_tried_once_and_stays_in_its_fold_whatever_arrives() -> None:
    rows = pl.DataFrame({"flour": range(200)})
    cut = list(folds(BAKERY, rows, 4))
    assert sorted(pl.concat([held for _, held in cut])["flour"]) == list(range(200))
    assert all(len(before) + len(held) == 200 and len(held) > 25 for before, held in cut)
    later = list(folds(BAKERY, pl.DataFrame({"flour": range(400)}), 4))
    assert all(set(held["flour"]) < set(more["flour"]) for (_, held), (_, more) in zip(cut, later, strict=True))


# --- the search


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[Tried]:
    """What one worker tries that is never stopped."""
    return searched(tmp_path_factory.mktemp("whole") / "tune.journal", trials=24)


def test_the_first_trial_evaluates_the_current_parameters(expected: list[Tried]) -> None:
    rows, parameters = levels(), Parameters()
    losses = [training.loss(RIVER, parameters, train, holdout) for train, holdout in folds(RIVER, rows, 4)]
    assert expected[0].values == parameters.model_dump()
    assert expected[0].loss == pytest.approx(float(np.mean(losses)))


def test_a_search_finds_better_and_samples_values_where_they_are_searched(expected: list[Tried]) -> None:
    losses = [trial.loss for trial in expected if trial.loss is not None]
    assert min(losses) < 0.5 * losses[0]
    values = [trial.values for trial in expected[1:]]
    assert all(1 <= value["depth"] <= 12 and 0.0001 <= value["alpha"] <= 0.2 for value in values)
    assert {value["splitter"] for value in values} == {"best", "random"}
    assert all(value["alpha"] == float(f"{value['alpha']:.3g}") for value in values), "three digits are enough"
    assert {value["seed"] for value in values} == {0}, "what has no search space stays"
    assert len({tuple(value.values()) for value in values}) > 20


def test_bad_trials_are_pruned_and_save_their_last_fits(tmp_path: Path, expected: list[Tried]) -> None:
    before, journal = Tree.fits, tmp_path / "tune.journal"
    assert searched(journal, trials=24) == expected, "one worker finds the same again"
    with open_study(plan(journal)) as study:
        steps = [len(trial.intermediate_values) for trial in finished_trials(study)]
    assert [step == 4 for step in steps] == [trial.loss is not None for trial in expected]
    assert 0 < steps.count(4) < 24
    assert Tree.fits - before == sum(steps)


def test_a_finished_search_fits_nothing_and_one_of_more_trials_continues(tmp_path: Path, expected: list[Tried]) -> None:
    journal = tmp_path / "tune.journal"
    assert searched(journal, trials=8) == expected[:8]
    before = Tree.fits
    assert searched(journal, trials=8) == expected[:8]
    assert searched(journal, trials=3) == expected[:8], "all that are there"
    assert Tree.fits == before
    assert searched(journal, trials=10) == expected[:10]
    assert 2 <= Tree.fits - before <= 8


@pytest.mark.parametrize("fit", [1, 4, 5, 18])
def test_a_search_that_was_killed_resumes_and_finds_the_same(tmp_path: Path, expected: list[Tried], fit: int) -> None:
    journal = tmp_path / "tune.journal"
    killed = start(journal, 8, 1, ends=f"itself {fit}")
    killed.communicate()
    assert killed.returncode == 137
    with journal.open("ab") as half:
        half.write(b'{"op_code": 4, "wor')
    before = Tree.fits
    assert searched(journal, trials=8) == expected[:8]
    assert Tree.fits - before <= 8 * 4 - (fit - 1) // 4 * 4, "what was done is not done again"
    require_exact(journal, 8)


@pytest.mark.slow
@pytest.mark.parametrize("address", [lambda folder: folder / "tune.journal", sqlite], ids=["journal", "SQLite"])
def test_workers_finish_as_many_trials_as_planned(tmp_path: Path, address: Callable[[Path], Path | str]) -> None:
    found = result(start(address(tmp_path), 12, 3))
    require_exact(address(tmp_path), 12)
    with open_study(plan(address(tmp_path))) as study:
        assert any(trial.user_attrs["parallel"] for trial in finished_trials(study))
    losses = [trial.loss for trial in found if trial.loss is not None]
    assert min(losses) < next(trial.loss or 0.0 for trial in found if trial.values == Parameters().model_dump())


@pytest.mark.slow
@pytest.mark.parametrize("fit", [1, 9])
def test_a_worker_that_was_killed_is_one_line_and_its_trial_is_replaced(tmp_path: Path, fit: int) -> None:
    journal = tmp_path / "tune.journal"
    _, err = start(journal, 24, 2, ends=f"itself {fit}").communicate()
    assert "Rejected: a worker process of tune was killed: run the same command to resume" in err
    result(start(journal, 24, 2))
    require_exact(journal, 24)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signal")
def test_workers_end_with_the_command_that_started_them(tmp_path: Path) -> None:
    journal = tmp_path / "tune.journal"
    killed = start(journal, 99, 2, ends="parent 9")
    killed.communicate(timeout=60)  # until the last of them closes its output
    assert killed.returncode == -9
    searched(journal, trials=24)
    require_exact(journal, 24)


@pytest.mark.slow
def test_two_commands_share_the_trials_of_a_database(tmp_path: Path) -> None:
    first, second = map(result, [start(sqlite(tmp_path), 12, 2) for _ in range(2)])
    assert first == second
    require_exact(sqlite(tmp_path), 12)


@pytest.mark.slow
@pytest.mark.parametrize("fit", [1, 2, 6])
def test_a_command_that_was_killed_loses_no_trial_of_a_database(tmp_path: Path, fit: int) -> None:
    killed = start(sqlite(tmp_path), 8, 1, ends=f"itself {fit}")
    other = start(sqlite(tmp_path), 8, 1)
    killed.communicate()
    assert len(result(other)) == 8
    require_exact(sqlite(tmp_path), 8)


def test_a_process_that_was_killed_before_its_first_sign_of_life_loses_no_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studies, "GRACE", 1)
    optuna.create_study(storage=sqlite(tmp_path), study_name=plan("").study).ask()
    searched(sqlite(tmp_path), 6)
    require_exact(sqlite(tmp_path), 6)


def test_a_trial_that_another_process_failed_meanwhile_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(tree: Tree, X: Any, y: Any) -> Any:
        Tree.fits += 1
        if Tree.fits == 3:
            with open_study(plan(sqlite(tmp_path))) as study:
                study.tell(0, state=TrialState.FAIL)
        return DecisionTreeRegressor.fit(tree, X, y)

    monkeypatch.setattr(Tree, "fits", 0)
    monkeypatch.setattr(Tree, "fit", fit)
    searched(sqlite(tmp_path), 3)
    require_exact(sqlite(tmp_path), 3)


def test_a_database_that_can_not_be_used_is_one_line(tmp_path: Path) -> None:
    for address in (f"sqlite:///{tmp_path.as_posix()}/none/tune.db", "river://somewhere/tune"):
        with pytest.raises(InputError, match=r"^the database of --storage can't be used: [^\n]+$"):
            searched(address)


def test_a_journal_is_used_by_one_command_at_a_time(tmp_path: Path) -> None:
    with (
        studies._exclusive_lock(str(tmp_path / "tune.journal")),
        pytest.raises(InputError, match=r"^another tune uses .*: wait for it, or share a database by --storage URL$"),
    ):
        searched(tmp_path / "tune.journal")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("\ntoo deep\nand more"), "ValueError: too deep"),
        (RuntimeError("too deep"), "RuntimeError: too deep"),
        (KeyError("depth"), "KeyError: 'depth'"),
        (AssertionError(), "AssertionError"),
    ],
)
def test_what_a_model_raises_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Tree, "fit", fail)
    line = rf"^the model can't be fitted with the current parameters: {reason}; change shared/model\.py$"
    with pytest.raises(Rejected, match=line):
        searched(tmp_path / "tune.journal")


@pytest.mark.slow
def test_what_a_model_raises_in_a_worker_is_the_same_line(tmp_path: Path) -> None:
    _, err = start(tmp_path / "tune.journal", 6, 2, ends="model 1").communicate()
    last = err.splitlines()[-1]
    assert "Rejected: the model can't be fitted with " in last
    assert last.endswith(": RuntimeError: too deep; change shared/model.py")


def test_a_model_may_prune_its_own_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(tree: Tree, X: Any, y: Any) -> Any:
        if tree.ccp_alpha < 1:
            raise optuna.TrialPruned
        return DecisionTreeRegressor.fit(tree, X, y)

    monkeypatch.setattr(Tree, "fit", fit)
    assert [trial.loss is None for trial in searched(tmp_path / "tune.journal", trials=3)] == [False, True, True]


def test_a_loss_that_is_no_number_prunes_the_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "loss", lambda _, parameters, *__: 1.0 if parameters.alpha == 1 else float("nan"))
    assert [trial.loss is None for trial in searched(tmp_path / "tune.journal", trials=3)] == [False, True, True]


# --- the command


PARAMS = """# Yours: of the tree.
depth = 1 # it may grow

alpha = 1.0
"""


@pytest.fixture
def river(tmp_path: Path, no_runs: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A project with levels in its lake."""
    shutil.copytree(no_runs, tmp_path / "mlruns")
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "params.toml").write_text(PARAMS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ML_NOW", "2024-06-01T00:00:00Z")
    workspace = Workspace(root=tmp_path, settings=load_settings(tmp_path), problem=RIVER)
    levels().select(PREDICTED_AT, AVAILABLE_AT, "rain", TARGET).rename(
        {PREDICTED_AT: "at", AVAILABLE_AT: "read", TARGET: "level"}
    ).write_parquet("x.parquet")
    (batch,) = ingest(workspace, tmp_path / "x.parquet", now=workspace.now()).batches
    assert batch.ok, str(batch)
    (tmp_path / "config" / "acceptance.toml").write_text("[window]\ndays = 2\nmin_rows = 20", encoding="utf-8")
    return workspace


def test_the_best_goes_into_the_file_with_its_run(river: Workspace) -> None:
    found = tune(river, trials=8, workers=1)
    assert found.trials == 8
    assert found.loss < found.loss_before
    text = (river.root / "config" / "params.toml").read_text(encoding="utf-8")
    assert text.splitlines()[0] == "# Yours: of the tree."
    assert text.splitlines()[1].startswith(f"# Tuned by run {found.run_id}: delete ")
    assert "# it may grow\n\nalpha = " in text
    again = open_workspace(RIVER, root=river.root)
    values = again.parameters.model_dump()
    assert values == river.parameters.model_dump() | {name: new for name, (_, new) in found.changed.items()}
    assert values != river.parameters.model_dump()
    (run,) = river.registry.runs()
    assert (run.id, run.tags["kind"], json.loads(run.tags["parameters"])) == (found.run_id, "tune", values)
    assert run.metrics == {
        "loss": found.loss,
        "loss_before": found.loss_before,
        "trials": 8,
        "pruned": found.pruned,
    }
    assert json.loads(run.tags["command"])[2:] == ["tune", "--trials", "8", "--workers", "1"]
    assert run.tags["parallel"] == "false"
    assert f"by run {found.run_id[:8]}: commit it, then train and promote a challenger" in str(found)


def test_where_nothing_is_better_the_file_stays(river: Workspace) -> None:
    found = tune(river, trials=1)
    assert (found.changed, found.loss) == ({}, found.loss_before)
    assert str(found).splitlines()[1].startswith("no trial beats the current parameters")
    assert (river.root / "config" / "params.toml").read_text(encoding="utf-8") == PARAMS
    assert river.registry.runs()[0].metrics["loss"] == found.loss_before


def test_a_search_by_several_workers_is_recorded_as_parallel(river: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def by_several(*arguments: Any, workers: int) -> list[optuna.trial.FrozenTrial]:
        found = search(*arguments, workers=1)
        found[1].user_attrs["parallel"] = workers > 1
        return found

    monkeypatch.setattr(module, "search", by_several)
    tune(river, trials=3, workers=2)
    (run,) = river.registry.runs()
    assert run.tags["parallel"] == "true"
    assert json.loads(run.tags["command"])[2:] == ["tune", "--trials", "3", "--workers", "2"]


def test_current_parameters_without_a_loss_are_one_line(river: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "loss", lambda *_: float("nan"))
    with pytest.raises(Rejected, match=r"^the current parameters have no loss, as their trial ended early: change "):
        tune(river, trials=2, workers=1)


def test_the_newest_window_stays_for_the_gate_and_a_later_look_changes_nothing(river: Workspace) -> None:
    rows = datasets.training_set(RIVER, river.lake, as_of=NOW + timedelta(days=300))
    kept = module._rows(river, rows)
    assert kept[AVAILABLE_AT].to_list() == rows[AVAILABLE_AT].to_list()[: len(rows) - 48]


@pytest.mark.parametrize("changed", ["rows", "parameters", "features", "search"])
def test_a_changed_problem_is_another_study(river: Workspace, changed: str) -> None:
    def name(workspace: Workspace, *, rows: pl.DataFrame, space: dict[str, Search | Choice]) -> str:
        return module._plan(workspace, rows, space, trials=5, storage=None).study

    rows, space = levels(), {"depth": Search(1, 9)}
    assert name(river, rows=rows, space=dict(space)) == name(river, rows=levels(), space=dict(space))
    other = river
    if changed == "parameters":
        (river.root / "config" / "params.toml").write_text("depth = 2", encoding="utf-8")
        other = open_workspace(RIVER, root=river.root)
    if changed == "features":
        other = dataclasses.replace(river, problem=dataclasses.replace(RIVER, features=("rain", "at")))
    more = {"depth": Search(1, 10)} if changed == "search" else space
    fewer = rows.head(399) if changed == "rows" else rows
    assert name(other, rows=fewer, space=dict(more)) != name(river, rows=rows, space=dict(space))


class Unsearched(BaseModel):
    seed: int = 0


class Beyond(BaseModel):
    rate: Annotated[float, Search(0.1, 2)] = Field(default=0.5, le=1)


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        (Unsearched, r"^no parameter has a search space: annotate one in shared/model\.py, as "),
        (Beyond, r"^rate is searched at 2\.0 in shared/model\.py, which is not valid: Input should be less than"),
    ],
)
def test_parameters_that_can_not_be_searched_are_one_line(
    river: Workspace, parameters: type[BaseModel], reason: str
) -> None:
    problem = dataclasses.replace(RIVER, model_spec=lambda: ModelSpec(parameters, estimator, export))
    (river.root / "config" / "params.toml").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match=reason):
        tune(dataclasses.replace(river, problem=problem))


NUMBERS = "give two finite numbers, the lower first"
LOG = "give a low end above 0, or leave out log"
VALUES = "list values, as Choice((0.1, 0.2))"


@pytest.mark.parametrize(
    ("kind", "where", "way"),
    [
        (float, Search(0.3, 0.1), NUMBERS),
        (int, Search(1, float("inf")), NUMBERS),
        (float, Search(0, 10, log=True), LOG),
        (int, Search(0.5, 10, log=True), LOG),
        (float, Choice(()), VALUES),
        (float, Choice(0.1), VALUES),  # type: ignore[arg-type] # a forgotten comma
    ],
)
def test_a_search_with_nothing_to_try_is_one_line(kind: type, where: Search | Choice, way: str) -> None:
    parameters: type[BaseModel] = create_model("Searched", rate=(Annotated[kind, where], 1))  # type: ignore[arg-type]
    line = f"rate can't be searched by {where} in shared/model.py: {way}"
    with pytest.raises(InputError, match=rf"^{re.escape(line)}$"):
        space_of(parameters)


def test_a_port_that_is_no_number_is_one_line_without_the_password(river: Workspace) -> None:
    with pytest.raises(
        InputError, match=r"^--storage postgresql://u:\*\*\*@host:abc/tune is not a valid address: [^\n]+$"
    ):
        module._plan(river, levels(), {}, trials=2, storage="postgresql://u:pw@host:abc/tune")


@pytest.mark.parametrize(
    "storage",
    [
        "tune.db",
        "sqlite://",
        "sqlite:///",
        "sqlite:///?timeout=9",
        "sqlite:///:memory:",
    ],
)
def test_a_storage_that_many_can_not_share_is_one_line(river: Workspace, storage: str) -> None:
    line = f"--storage {storage} is no URL of a database that processes can share, as sqlite:///tune.db is"
    with pytest.raises(InputError, match=rf"^{re.escape(line)}$"):
        module._plan(river, levels(), {}, trials=2, storage=storage)


@pytest.mark.parametrize(
    "storage", ["sqlite:///tune.db", "sqlite:////data/memory:/tune.db?timeout=9", "postgresql://us:er@host/memory"]
)
def test_a_storage_that_many_can_share_is_searched_in(
    river: Workspace, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert module._plan(river, levels(), {}, trials=2, storage=storage).storage == storage
    monkeypatch.setenv("OPTUNA_STORAGE", storage)  # a password is in no list of processes
    assert module._plan(river, levels(), {}, trials=2, storage=None).storage == storage
    assert module._plan(river, levels(), {}, trials=2, storage="sqlite:///other.db").storage == "sqlite:///other.db"


def test_too_few_rows_are_one_line(river: Workspace) -> None:
    (river.root / "config" / "acceptance.toml").write_text("[window]\nmin_rows = 99", encoding="utf-8")
    with pytest.raises(Rejected, match=r"^\d+ rows in a fold are too few \(at least 99\)"):
        tune(dataclasses.replace(river))


# --- the file and its run


def test_a_file_keeps_what_is_not_tuned(tmp_path: Path) -> None:
    path = tmp_path / "params.toml"
    path.write_text("# Yours.\n# Of trees.\n\n# step\nrate = 0.1 # small\nseed = 1\n[deep]\nx = 1\n", encoding="utf-8")
    write_parameters(path, {"rate": 0.25, "leaves": 7}, "abc")
    first, second = path.read_text(encoding="utf-8"), ""
    assert tomllib.loads(first) == {"rate": 0.25, "leaves": 7, "seed": 1, "deep": {"x": 1}}
    assert first.startswith("# Yours.\n# Of trees.\n# Tuned by run abc: ")
    assert "\n\n# step\nrate = 0.25 # small\nseed = 1\n" in first
    write_parameters(path, {"rate": 0.5}, "def")
    second = path.read_text(encoding="utf-8")
    assert second.count("# Tuned by run") == 1
    assert "# Tuned by run def: " in second
    assert list(tmp_path.iterdir()) == [path]


def test_the_projects_parameters_are_searched_where_they_can_be() -> None:
    assert "seed" not in module._space(open_workspace(PROBLEM, root=PROJECT))


if __name__ == "__main__":
    studies.HEARTBEAT, studies.GRACE = 1, 3
    storage, trials, workers = sys.argv[1:]
    sys.stdout.write(json.dumps([vars(trial) for trial in searched(storage, int(trials), int(workers))]))
