"""Searching for parameters: on past folds, by any number of workers, killed or not; found once and written down."""

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
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import optuna
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, create_model
from sklearn.compose import make_column_transformer
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeRegressor

from {{cookiecutter.__package_name}}.production.ingest import ingest
from {{cookiecutter.__package_name}}.research import study as studies
from {{cookiecutter.__package_name}}.research import tune as module
from {{cookiecutter.__package_name}}.research.study import Plan
from {{cookiecutter.__package_name}}.research.trials import Tried, _answer, search
from {{cookiecutter.__package_name}}.research.tune import tune, tuned_by, write
from {{cookiecutter.__package_name}}.shared import BadInput, Refused, dataset, training
from {{cookiecutter.__package_name}}.shared.folds import folds
from {{cookiecutter.__package_name}}.shared.problem import Problem, Recipe
from {{cookiecutter.__package_name}}.shared.schema import (
    AT,
    KNOWN,
    TARGET,
    EventTime,
    Frame,
    Known,
    Table,
    Target,
)
from {{cookiecutter.__package_name}}.shared.search import Choice, Search, space_of
from {{cookiecutter.__package_name}}.shared.settings import load_settings
from {{cookiecutter.__package_name}}.shared.user_problem import PROBLEM
from {{cookiecutter.__package_name}}.shared.workspace import Workspace, open_workspace

PROJECT = Path(__file__).parents[2]
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


def recipe() -> Recipe:
    return Recipe(Parameters, estimator, export)


class Level(Table):
    """The level of a river an hour from now, and when it was read."""

    table: ClassVar = "levels"

    at: Annotated[datetime, EventTime()]
    read: Annotated[datetime, Known()]
    rain: float
    level: Annotated[float, Target()]


def nothing(*_: object) -> list[Path]:
    return []


def as_it_is(rows: Frame, _: Mapping[str, Frame]) -> Frame:
    return rows


RIVER = Problem(
    subject=Level,
    tables=(Level,),
    features=("rain",),
    lookback=timedelta(0),
    build=as_it_is,
    collect=nothing,
    recipe=recipe,
)


def levels(n: int = 400) -> pl.DataFrame:
    """An hour a row, with features and target, as a training set has them."""
    rng = np.random.default_rng(0)
    rain = rng.uniform(0, 9, n)
    at = [NOW + number * HOUR for number in range(n)]
    rows = pl.DataFrame({"at": at, "rain": rain, TARGET: np.sin(rain) + rng.normal(0, 0.3, n)})
    times = rows.with_columns(pl.col("at").dt.convert_time_zone("UTC").alias(AT))
    return times.with_columns((pl.col(AT) + pl.duration(hours=5)).alias(KNOWN))


def plan(storage: Path | str, trials: int = 6, name: str = "river-12ab") -> Plan:
    return Plan(name, str(storage), trials, folds=4, current=Parameters().model_dump())


def searched(storage: Path | str, trials: int = 6, workers: int = 1) -> list[Tried]:
    return search(RIVER, plan(storage, trials), levels(), workers=workers)[0]


def apart(*arguments: object, ends: str = "") -> "subprocess.Popen[str]":
    """The same search in a process of its own, which says what it tried."""
    line = [sys.executable, __file__, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(line, env=os.environ | {ENDS: ends}, stdout=pipe, stderr=pipe, encoding="utf-8")


def told(process: "subprocess.Popen[str]") -> list[Tried]:
    out, err = process.communicate()
    assert process.returncode == 0, err
    return [Tried(**trial) for trial in json.loads(out)]


# --- folds


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
    rows = pl.DataFrame({AT: at, KNOWN: known}).with_row_index("row")
    cut = list(folds(RIVER, rows, number))
    assert len(cut) == number
    for before, held in cut:
        if len(before) and len(held):
            assert before.select(pl.max_horizontal(pl.col(AT).max(), pl.col(KNOWN).max())).item() < held[AT].min()
    tried = pl.concat([held for _, held in cut])["row"].to_list()
    assert tried == rows["row"].to_list()[len(rows) - len(tried) :], "each later row once, in its order"
    assert len(tried) >= len(rows) * number // (number + 1)


class Loaf(Table):
    table: ClassVar = "loaves"

    flour: int
    weight: Annotated[float, Target()]


BAKERY = dataclasses.replace(RIVER, subject=Loaf, tables=(Loaf,), features=("flour",))


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


def test_the_first_trial_is_of_the_parameters_that_are_there(expected: list[Tried]) -> None:
    rows, parameters = levels(), Parameters()
    losses = [training.loss(RIVER, parameters, before, held) for before, held in folds(RIVER, rows, 4)]
    assert expected[0].values == parameters.model_dump()
    assert expected[0].loss == pytest.approx(float(np.mean(losses)))


def test_a_search_finds_better_and_tries_values_where_they_are_searched(expected: list[Tried]) -> None:
    losses = [trial.loss for trial in expected if trial.loss is not None]
    assert min(losses) < 0.5 * losses[0]
    values = [trial.values for trial in expected[1:]]
    assert all(1 <= value["depth"] <= 12 and 0.0001 <= value["alpha"] <= 0.2 for value in values)
    assert {value["splitter"] for value in values} == {"best", "random"}
    assert all(value["alpha"] == float(f"{value['alpha']:.3g}") for value in values), "three digits are enough"
    assert {value["seed"] for value in values} == {0}, "what has no search stays"
    assert len({tuple(value.values()) for value in values}) > 20


def test_bad_trials_are_pruned_and_save_their_last_fits(tmp_path: Path, expected: list[Tried]) -> None:
    before, journal = Tree.fits, tmp_path / "tune.journal"
    assert searched(journal, trials=24) == expected
    with studies.opened(plan(journal, trials=24)) as study:
        trials = studies.finished(study, plan(journal, trials=24)).values()
        steps = [len(trial.intermediate_values) for trial in trials]
    assert [step == 4 for step in steps] == [trial.loss is not None for trial in expected]
    assert 0 < steps.count(4) < 24
    assert Tree.fits - before == sum(steps)
    whole = [trial.loss for trial in expected if trial.loss is not None]
    assert sum(loss > whole[0] for loss in whole) < 6, "what is much worse than before does not get to the end"


def test_a_search_that_is_done_fits_nothing_and_one_of_more_trials_goes_on(
    tmp_path: Path, expected: list[Tried]
) -> None:
    assert searched(tmp_path / "tune.journal", trials=8) == expected[:8]
    before = Tree.fits
    assert searched(tmp_path / "tune.journal", trials=8) == expected[:8]
    assert searched(tmp_path / "tune.journal", trials=3) == expected[:3]
    assert Tree.fits == before
    assert searched(tmp_path / "tune.journal", trials=10) == expected[:10]
    assert 2 <= Tree.fits - before <= 8


def test_a_search_that_was_killed_goes_on_and_finds_the_same(tmp_path: Path, expected: list[Tried]) -> None:
    journal = tmp_path / "tune.journal"
    killed = apart(journal, 12, 1, ends="itself 18")
    killed.communicate()
    assert killed.returncode == 137
    with studies.opened(plan(journal)) as study:
        states = Counter(trial.state.name for trial in study.get_trials())
        assert states == {"COMPLETE": 4, "RUNNING": 1, "WAITING": 7}
    before = Tree.fits
    assert searched(journal, trials=12) == expected[:12]
    assert Tree.fits - before <= 8 * 4, "what was done is not done again"
    with studies.opened(plan(journal)) as study:
        assert not [trial for trial in study.get_trials() if not trial.state.is_finished()]


@pytest.mark.slow
def test_two_workers_try_the_same_as_one(tmp_path: Path, expected: list[Tried]) -> None:
    assert told(apart(tmp_path / "tune.journal", 24, 2)) == expected


@pytest.mark.slow
def test_where_a_worker_is_ended_the_search_says_so_and_goes_on_later(tmp_path: Path, expected: list[Tried]) -> None:
    journal = tmp_path / "tune.journal"
    _, err = apart(journal, 24, 2, ends="itself 9").communicate()
    assert "Refused: a worker of tune was ended from outside: run again to go on" in err
    assert told(apart(journal, 24, 2)) == expected


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signal")
def test_workers_end_with_the_command_that_started_them(tmp_path: Path, expected: list[Tried]) -> None:
    journal = tmp_path / "tune.journal"
    killed = apart(journal, 99, 2, ends="parent 9")
    killed.communicate(timeout=60)  # until the last of them closes its output
    assert killed.returncode == -9
    assert searched(journal, trials=24) == expected


@pytest.mark.slow
def test_two_commands_share_the_trials_of_a_database(tmp_path: Path, expected: list[Tried]) -> None:
    address = f"sqlite:///{(tmp_path / 'tune.db').as_posix()}"
    both = [apart(address, 12, 1) for _ in range(2)]
    assert [told(process) for process in both] == [expected[:12], expected[:12]]
    with studies.opened(plan(address)) as study:
        done = [trial for trial in studies.counting(study) if trial.state.is_finished()]
    assert Counter(trial.user_attrs["place"] for trial in done) == Counter(range(12)), "none twice"


def test_a_database_that_can_not_be_used_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"^the database of --storage can't be used: [^\n]+$"):
        searched(f"sqlite:///{tmp_path.as_posix()}/none/tune.db")
    with pytest.raises(BadInput, match=r"^the database of --storage can't be used: [^\n]+$"):
        searched("river://somewhere/tune")


def test_one_command_alone_writes_a_journal(tmp_path: Path) -> None:
    with studies.alone(plan(tmp_path / "tune.journal")), pytest.raises(BadInput, match=r"^another tune searches in .*"):
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
    there = "the model can't be fitted with the parameters that are there"
    with pytest.raises(Refused, match=rf"^{there}: {reason}; change shared/model\.py$"):
        searched(tmp_path / "tune.journal")


def test_a_model_may_prune_its_own_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(tree: Tree, X: Any, y: Any) -> Any:
        if tree.ccp_alpha < 1:
            raise optuna.TrialPruned
        return DecisionTreeRegressor.fit(tree, X, y)

    monkeypatch.setattr(Tree, "fit", fit)
    assert [trial.loss is None for trial in searched(tmp_path / "tune.journal", trials=3)] == [False, True, True]


def test_what_a_worker_says_goes_on_and_one_that_says_nothing_was_ended_from_outside() -> None:
    reader, writer = multiprocessing.Pipe(duplex=False)
    writer.send(BadInput("the model can't be fitted"))
    writer.close()
    with pytest.raises(BadInput, match=r"^the model can't be fitted$"):
        _answer(reader)
    with pytest.raises(Refused, match=r"^a worker of tune was ended from outside: run again to go on"):
        _answer(reader)


@pytest.mark.slow
def test_what_a_model_raises_in_a_worker_is_the_same_line(tmp_path: Path) -> None:
    _, err = apart(tmp_path / "tune.journal", 6, 2, ends="model 1").communicate()
    last = err.splitlines()[-1]
    assert "Refused: the model can't be fitted with " in last
    assert last.endswith(": RuntimeError: too deep; change shared/model.py")
    assert "Process" not in err, "no traceback of a worker"


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
    levels().select(AT, KNOWN, "rain", TARGET).rename({AT: "at", KNOWN: "read", TARGET: "level"}).write_parquet(
        "x.parquet"
    )
    (batch,) = ingest(workspace, tmp_path / "x.parquet", now=workspace.now()).batches
    assert batch.ok, str(batch)
    (tmp_path / "config" / "acceptance.toml").write_text("[window]\ndays = 2\nrows = 20", encoding="utf-8")
    return workspace


def test_the_best_goes_into_the_file_with_its_run(river: Workspace) -> None:
    found = tune(river, trials=8, workers=1)
    assert (found.trials, found.workers) == (8, 1)
    assert found.best < found.before
    text = (river.root / "config" / "params.toml").read_text(encoding="utf-8")
    assert text.splitlines()[0] == "# Yours: of the tree."
    assert text.splitlines()[1].startswith(f"# Tuned by run {found.run_id}, values ")
    assert "# it may grow\n\nalpha = " in text
    again = open_workspace(RIVER, root=river.root)
    values = again.parameters.model_dump()
    assert values == river.parameters.model_dump() | {name: new for name, (_, new) in found.changed.items()}
    assert values != river.parameters.model_dump()
    assert tuned_by(again) == found.run_id
    (run,) = river.registry.runs()
    assert (run.id, run.tags["kind"], json.loads(run.tags["parameters"])) == (found.run_id, "tune", values)
    assert run.metrics == {
        "loss": found.best,
        "loss_before": found.before,
        "trials": 8,
        "pruned": found.pruned,
    }
    assert json.loads(run.tags["command"])[2:] == ["tune", "--trials", "8"]
    assert f"by run {found.run_id[:8]}: commit it; train and gate judge a challenger" in str(found)
    edited = text.replace("alpha = ", "alpha = 0.5 # ")
    (river.root / "config" / "params.toml").write_text(edited, encoding="utf-8")
    with pytest.raises(BadInput, match=r"were edited since run .* found them: drop the line '# Tuned by run"):
        tuned_by(again)


def test_where_nothing_is_better_the_file_stays_and_it_is_said(river: Workspace) -> None:
    found = tune(river, trials=1)
    assert found.changed == {}
    assert found.best == found.before
    assert str(found).splitlines()[1].startswith("nothing beats the parameters that are there")
    assert (river.root / "config" / "params.toml").read_text(encoding="utf-8") == PARAMS
    assert tuned_by(river) is None
    assert river.registry.runs()[0].metrics["loss"] == found.before
    (river.root / "config" / "params.toml").unlink()
    assert not tune(dataclasses.replace(river), trials=1).unmarked, "what is there may be the defaults"


@pytest.mark.parametrize("edited", [False, True])
def test_where_nothing_is_better_the_line_of_a_run_stays_unless_its_values_were_edited(
    river: Workspace, *, edited: bool
) -> None:
    path = river.root / "config" / "params.toml"
    write(path, {"depth": 3}, "abc")
    text = path.read_text(encoding="utf-8").replace("depth = 3", f"depth = {2 if edited else 3}")
    path.write_text(text, encoding="utf-8")
    found = tune(river, trials=1)
    assert (found.changed, found.unmarked) == ({}, edited)
    kept = [line for line in text.splitlines() if not (edited and line.startswith("# Tuned by run "))]
    assert path.read_text(encoding="utf-8").splitlines() == kept
    assert tuned_by(river) == (None if edited else "abc")
    assert ("config/params.toml names no run any more" in str(found)) is edited


def test_the_newest_window_stays_for_the_gate_and_a_later_look_changes_nothing(river: Workspace) -> None:
    rows = dataset.training_set(RIVER, river.lake, as_of=NOW + timedelta(days=300))
    kept = module._rows(river, rows)
    assert kept[KNOWN].to_list() == rows[KNOWN].to_list()[: len(rows) - 48]


@pytest.mark.parametrize("changed", ["rows", "parameters", "features", "search"])
def test_a_changed_problem_is_another_study(river: Workspace, changed: str) -> None:
    def name(workspace: Workspace, *, rows: pl.DataFrame, space: dict[str, Search | Choice]) -> str:
        return module._plan(workspace, rows, space, trials=5, storage=None).name

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
        (Unsearched, r"^no parameter says where it is to be searched: say it beside them in shared/model\.py, as "),
        (Beyond, r"^rate is searched at 2\.0 in shared/model\.py, where it can't be: Input should be less than"),
    ],
)
def test_parameters_that_can_not_be_searched_are_one_line(
    river: Workspace, parameters: type[BaseModel], reason: str
) -> None:
    problem = dataclasses.replace(RIVER, recipe=lambda: Recipe(parameters, estimator, export))
    (river.root / "config" / "params.toml").write_text("", encoding="utf-8")
    with pytest.raises(BadInput, match=reason):
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
    with pytest.raises(BadInput, match=rf"^{re.escape(line)}$"):
        space_of(parameters)


def test_a_port_that_is_no_number_is_one_line_without_the_password(river: Workspace) -> None:
    with pytest.raises(BadInput, match=r"^--storage postgresql://u:\*\*\*@host:abc/tune can't be an address: [^\n]+$"):
        module._plan(river, levels(), {}, trials=2, storage="postgresql://u:pw@host:abc/tune")


@pytest.mark.parametrize(
    "storage",
    [
        "tune.db",
        "sqlite://",
        "sqlite:///",
        "sqlite:///?timeout=9",
        "sqlite:///:memory:",
        "sqlite+pysqlite:///file::memory:?cache=shared&uri=true",
        "sqlite:///file:tune?mode=memory&uri=true",
    ],
)
def test_a_storage_that_many_can_not_share_is_one_line(river: Workspace, storage: str) -> None:
    line = f"--storage {storage} is no address of a database that many can share, as sqlite:///tune.db is"
    with pytest.raises(BadInput, match=rf"^{re.escape(line)}$"):
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
    (river.root / "config" / "acceptance.toml").write_text("[window]\nrows = 99", encoding="utf-8")
    with pytest.raises(Refused, match=r"^\d+ rows in fold 1 of 4 before the newest window are too few \(at least 99\)"):
        tune(dataclasses.replace(river))


# --- the file and its run


def test_a_file_keeps_what_is_not_tuned(tmp_path: Path) -> None:
    path = tmp_path / "params.toml"
    path.write_text("# Yours.\n# Of trees.\n\n# step\nrate = 0.1 # small\nseed = 1\n[deep]\nx = 1\n", encoding="utf-8")
    write(path, {"rate": 0.25, "leaves": 7}, "abc")
    first, second = path.read_text(encoding="utf-8"), ""
    assert tomllib.loads(first) == {"rate": 0.25, "leaves": 7, "seed": 1, "deep": {"x": 1}}
    assert first.startswith("# Yours.\n# Of trees.\n# Tuned by run abc, values ")
    assert "\n\n# step\nrate = 0.25 # small\nseed = 1\n" in first
    write(path, {"rate": 0.5}, "def")
    second = path.read_text(encoding="utf-8")
    assert second.count("# Tuned by run") == 1
    assert "# Tuned by run def, values " in second
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_that_found_other_parameters_is_named(river: Workspace) -> None:
    with river.registry.run("tune", {}, {"parameters": '{"depth": 3}'}) as run:
        pass
    write(river.root / "config" / "params.toml", {"depth": 4}, run.id)
    with pytest.raises(BadInput, match=rf"^run {run.id} found other parameters: drop the line '# Tuned by run"):
        tuned_by(dataclasses.replace(river))


def test_the_projects_parameters_are_those_of_the_run_that_found_them(tmp_path: Path) -> None:
    """Where this clone has the runs; elsewhere, that nobody edited them since."""
    project = open_workspace(PROBLEM, root=PROJECT)
    if not (project.path(project.settings.tracking) / "mlflow.db").is_file():
        project = dataclasses.replace(project, settings=project.settings.model_copy(update={"tracking": str(tmp_path)}))
    tuned_by(project)


def test_the_projects_parameters_are_searched_where_they_can_be() -> None:
    assert "seed" not in module._space(open_workspace(PROBLEM, root=PROJECT))


if __name__ == "__main__":
    storage, trials, workers = sys.argv[1:]
    sys.stdout.write(json.dumps([vars(trial) for trial in searched(storage, int(trials), int(workers))]))
