"""The experiments, run as they are run: on the example, and on made-up rows of which the truth is known."""

import ast
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, ClassVar

import narwhals as nw
import numpy as np
import polars as pl
import pytest
from pydantic import Field

from my_ml_project.core.contracts.schema import Category, EventTime, Frame, Table, Target
from my_ml_project.core.problem import Problem
from my_ml_project.core.settings import Settings
from my_ml_project.core.workspace import Workspace
from my_ml_project.research import experiment, experiments
from my_ml_project.shared import PROBLEM

(FOLDER,) = map(Path, experiments.__path__)
PACKAGE = experiments.__name__.partition(".")[0]
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if path.name != "__init__.py")
GENERAL = ("ablation", "baseline", "feature_cost")  # which name no column of the example
each = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)

Ran = Callable[..., str]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ran:
    """Run an experiment whole, in this process, which saves seconds of imports: what it printed."""

    def run(name: str, *arguments: str) -> str:
        script = str(FOLDER / f"{name}.py")
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # is put back
        with suppress(SystemExit):  # where it does not apply
            runpy.run_path(script, run_name="__main__")
        return capsys.readouterr().out

    return run


def run_id(printed: str) -> str:
    found = re.search(r"^run (\w{32})$", printed, re.MULTILINE)
    assert found, printed
    return found[1]


def result(workspace: Workspace, kind: str) -> pl.DataFrame:
    """The table that an experiment left among the reports."""
    return pl.read_csv(workspace.path(workspace.settings.reports) / f"{kind}.csv")


def cells(script: Path) -> list[str]:
    """The cells of a script, as an IDE cuts it."""
    before, *found = re.split(r"^(?=# %%)", script.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert before == ""
    return found


# --- on the example


def kept(tracked, name: str, printed: str, flights: Workspace) -> str:
    """Hold what an experiment left against what it printed: its run."""
    run = run_id(printed)
    metrics, tags = tracked.metrics(flights.registry, run), tracked.tags(flights.registry, run)
    assert (tags["kind"], tags["fast"]) == (name.replace("_", " "), "true")
    assert metrics
    assert all(np.isfinite(list(metrics.values())))
    assert tags["code"]
    assert tags["finding"] in printed
    draws = "figure=" in (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    name = f"{name.replace('_', '-')}-fast"
    assert tracked.list_artifacts(flights.registry, run) == [f"{name}.csv", *([f"{name}.png"] if draws else [])]
    for file in tracked.list_artifacts(flights.registry, run):
        shown = (flights.path(flights.settings.reports) / file).read_bytes()
        assert tracked.read(flights.registry, run, file) == shown
        assert file.endswith(".csv") or shown.startswith(b"\x89PNG")
    assert 1 < len(result(flights, name)) < 30
    return run


LONGER = ("ablation", "feature_cost")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(script.stem, marks=[pytest.mark.slow] if script.stem in LONGER else [])
        for script in SCRIPTS
        if script.stem != "new_feature"
    ],
)
def test_an_experiment_leaves_a_tracked_run_with_figures_a_picture_and_a_table(
    tracked, name: str, flights: Workspace, ran: Ran
) -> None:
    kept(tracked, name, ran(name, "--fast"), flights)


def test_a_challenger_is_compared_with_the_champion_on_windows_and_nothing_is_registered(
    tracked, flights: Workspace, ran: Ran
) -> None:
    registered = flights.registry.version_by_alias("challenger")
    printed = ran("new_feature", "--fast")
    run = kept(tracked, "new_feature", printed, flights)
    metrics, tags = tracked.metrics(flights.registry, run), tracked.tags(flights.registry, run)
    assert {"champion.auc", "challenger.auc", "champion.log_loss", "challenger.log_loss"} < set(metrics)
    table = result(flights, "new-feature-fast")
    assert len(table) == 2
    newest = metrics["champion.log_loss"] - metrics["challenger.log_loss"]
    assert table["lowers the loss by"][0] == pytest.approx(newest)
    assert metrics["loss_reduction"] == pytest.approx(np.average(table["lowers the loss by"], weights=table["rows"]))
    assert metrics["loss_reduction"] != 0
    assert metrics["loss_reduction_lower"] < metrics["loss_reduction"]
    assert ("not significant" in printed) == (metrics["loss_reduction_lower"] <= 0)
    assert tags["feature"] == "rain"
    assert flights.registry.version_by_alias("challenger") == registered
    assert [release.version for release in flights.releases.newest(9)] == [1]


@pytest.mark.slow
@each
def test_an_experiment_runs_as_a_script_of_its_own(tracked, script: Path, flights: Workspace) -> None:
    line = [sys.executable, str(script), "--fast"]
    done = subprocess.run(line, cwd=flights.root, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert tracked.tags(flights.registry, run_id(done.stdout))["fast"] == "true"


@pytest.mark.slow
@each
def test_an_experiment_runs_on_all_rows(tracked, script: Path, flights: Workspace, ran: Ran) -> None:
    tags = tracked.tags(flights.registry, run_id(ran(script.stem)))
    assert tags["fast"] == "false"
    table = result(flights, tags["kind"].replace(" ", "-"))
    if script.stem == "ablation":
        assert set(PROBLEM.features) < set(table["left out"])
        assert table.filter(pl.col("verdict") == "noise")["left out"].str.starts_with("noise").to_list() == [True] * 5


# --- on rows made up here: half of the time a signal means yes, then it means no

DAY, ROWS = timedelta(days=1), 3000
END = datetime(2024, 7, 1, tzinfo=UTC)
START = END - 180 * DAY


class Call(Table):
    """A call, and whether it was answered."""

    table: ClassVar = "calls"

    at: Annotated[datetime, EventTime()]
    signal: Annotated[float, Field(ge=-9, le=9)]
    weather: Annotated[float, Field(ge=-9, le=9)]
    line: Annotated[str, Category(("old", "new"))]
    answered: Annotated[bool, Target()]


class Sack(Table):
    """A sack without a time, and what it weighs."""

    table: ClassVar = "sacks"

    signal: Annotated[float, Field(ge=-9, le=9)]
    line: Annotated[str, Category(("old", "new"))]
    heavy: Annotated[bool, Target()]


def build(rows: Frame, _: object) -> Frame:
    return rows.with_columns(twice=nw.col("signal") * 2)


def problem(table: type[Table], *names: str) -> Problem:
    return Problem(
        entity=table,
        tables=(table,),
        features=names,
        lookback=timedelta(0),
        build=build,
        collect=lambda *_: [],
        model_spec=PROBLEM.model_spec,
    )


def opened(
    folder: Path, asked: Problem, rows: pl.DataFrame, acceptance: str, monkeypatch: pytest.MonkeyPatch
) -> Workspace:
    """A workspace with rows, which experiments find in place of the project's."""
    (folder / "config").mkdir()
    (folder / "config" / "acceptance.toml").write_text(acceptance, encoding="utf-8")
    (folder / "config" / "params.toml").write_text("max_iter = 20\nlearning_rate = 0.3\n", encoding="utf-8")
    workspace = Workspace(folder, Settings(now=END), asked)
    stamped = rows.with_columns(_ingested_at=pl.lit(START).cast(pl.Datetime("us", "UTC")), _batch=pl.lit("1"))
    workspace.lake.append(asked.schema.name, stamped, batch="1")
    monkeypatch.setattr(experiment, "open_project", lambda _: workspace)
    return workspace


def made_up(*, turns: bool) -> pl.DataFrame:
    rng, number = np.random.default_rng(1), np.arange(ROWS)
    signal, luck = rng.normal(size=ROWS), rng.normal(size=ROWS)
    turned = np.where((number > ROWS / 2) & turns, -1, 1)
    return pl.DataFrame(
        {
            "at": [START + int(n) * 180 * DAY / ROWS for n in number],
            "signal": signal.clip(-9, 9),
            "weather": rng.normal(size=ROWS).clip(-9, 9),
            "line": rng.choice(["old", "new"], ROWS),
            "answered": turned * signal + 0.5 * luck > 0,
        },
        schema_overrides={"at": pl.Datetime("us", "UTC")},
    )


ASKED = "[window]\ndays = 20\n[retrain]\nevery_days = 30\n[budget]\nmicroseconds = 1e6\nbytes = 8\n"


@pytest.fixture
def folder(tmp_path: Path, no_runs: Path) -> Path:
    """A folder with a registry in which nothing has run."""
    (tmp_path / "mlruns").mkdir()
    for file in no_runs.iterdir():
        (tmp_path / "mlruns" / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_a_feature_that_tells_all_is_told_from_one_that_tells_nothing_and_from_noise(
    tracked, folder: Path, ran: Ran, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = problem(Call, "signal", "weather", "line")
    workspace = opened(folder, calls, made_up(turns=False), ASKED, monkeypatch)
    printed = ran("ablation")
    verdicts = dict(result(workspace, "ablation").select("left out", "verdict").iter_rows())
    assert verdicts.pop("signal") == "useful"
    assert [verdicts.pop(f"noise_{number}") for number in range(1, 6)] == ["noise"] * 5
    assert set(verdicts) == {"weather", "line"}
    assert "useful" not in verdicts.values()
    assert "1 of 3 are better than noise: signal\n" in printed
    metrics = tracked.metrics(workspace.registry, run_id(printed))
    assert metrics["loss_reduction_lower.signal"] > 0.1 > metrics["loss_reduction.noise_1"]


def test_two_features_that_tell_the_same_hide_each_other(
    folder: Path, ran: Ran, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = problem(Call, "signal", "twice", "line")
    monkeypatch.setattr(f"{PACKAGE}.shared.features.SAME", ("signal", "twice"), raising=False)
    workspace = opened(folder, calls, made_up(turns=False), ASKED, monkeypatch)
    ran("ablation")
    verdicts = dict(result(workspace, "ablation").select("left out", "verdict").iter_rows())
    assert verdicts["SAME"] == "useful"
    assert "useful" not in {verdicts["signal"], verdicts["twice"]}


def test_a_feature_over_the_budget_is_named(tracked, folder: Path, ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = problem(Call, "signal", "twice", "line")
    workspace = opened(folder, calls, made_up(turns=False), ASKED.replace("bytes = 8", "bytes = 4"), monkeypatch)
    printed = ran("feature_cost")
    table = result(workspace, "feature-cost")
    verdicts = dict(table.select("feature", "budget").iter_rows())
    assert verdicts == {"signal": "bytes over budget", "twice": "bytes over budget", "line": "within"}
    assert "2 of 3 features are over budget" in printed
    assert dict(table.select("feature", "bytes").iter_rows())["twice"] == ROWS * 8
    tags = tracked.tags(workspace.registry, run_id(printed))
    assert float(tags["seconds.twice"]) >= 0
    assert not [name for name in tracked.metrics(workspace.registry, run_id(printed)) if "seconds" in name]


@pytest.mark.parametrize("name", GENERAL)
def test_where_rows_have_no_time_an_experiment_runs(
    tracked, name: str, folder: Path, ran: Ran, monkeypatch: pytest.MonkeyPatch
) -> None:
    sacks = made_up(turns=False).select("signal", "line", heavy="answered")
    workspace = opened(folder, problem(Sack, "signal", "line"), sacks, ASKED, monkeypatch)
    printed = ran(name, "--fast")
    tags = tracked.tags(workspace.registry, run_id(printed))
    assert tags["finding"] in printed
    assert "random" not in printed


# --- as cells


def test_the_first_experiments_are_there() -> None:
    assert {script.stem for script in SCRIPTS} >= {*GENERAL, "new_feature", "first_look"}


@each
def test_an_experiment_imports_shared_and_what_experiments_have_in_common(script: Path) -> None:
    own = []
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            own += [alias.name for alias in node.names if alias.name.startswith(PACKAGE)]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            own += [node.module] if node.module and node.module.startswith(PACKAGE) else []
    assert f"{PACKAGE}.research.experiment" in own
    parts = {name.removeprefix(f"{PACKAGE}.").partition(".")[0] for name in own}
    assert parts <= {"core", "shared", "research"}
    assert {name for name in own if ".research." in name} == {f"{PACKAGE}.research.experiment"}


@each
def test_an_experiment_is_cells_that_stand_on_their_own(script: Path) -> None:
    found = cells(script)
    assert len(found) > 1
    assert found[0].startswith("# %% [markdown]")
    for number, cell in enumerate(found):
        compile(cell, f"{script.name}, cell {number}", "exec")
    for text in (cell for cell in found if cell.startswith("# %% [markdown]")):
        assert all(line.startswith("#") for line in text.split("\n") if line)


def test_an_experiment_runs_cell_by_cell_as_in_an_editor(
    tracked, flights: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher.py", "-f", "kernel.json", "--fast"])
    names: dict[str, object] = {}
    for number, cell in enumerate(cells(FOLDER / "first_look.py")):
        exec(compile(cell, f"cell {number}", "exec"), names)  # noqa: S102 - as a kernel does
    printed = capsys.readouterr().out
    metrics, tags = tracked.metrics(flights.registry, run_id(printed)), tracked.tags(flights.registry, run_id(printed))
    assert set(metrics) == {"rows", "base_rate"}
    assert f"{metrics['rows']:.0f} labelled flights" in printed
    assert 20_000 < metrics["rows"] < 30_000
    assert 0.1 < metrics["base_rate"] < 0.4
    assert (tags["fast"], tags["command"]) == ("false", "[]")
