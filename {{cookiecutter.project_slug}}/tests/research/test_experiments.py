"""The experiments, run as they are run: whole from the command line."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from {{cookiecutter.__package_name}}.research import experiments
from {{cookiecutter.__package_name}}.shared.workspace import Workspace

(FOLDER,) = map(Path, experiments.__path__)
PACKAGE = experiments.__name__.partition(".")[0]
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if path.name != "__init__.py")
each = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)


def ran(name: str) -> str:
    line = [sys.executable, str(FOLDER / f"{name}.py")]
    done = subprocess.run(line, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_id(printed: str) -> str:
    found = re.search(r"^run (\w{32})$", printed, re.MULTILINE)
    assert found, printed
    return found[1]


def cells(script: Path) -> list[str]:
    """The cells of a script, as an IDE cuts it."""
    before, *found = re.split(r"^(?=# %%)", script.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert before == ""
    return found


def test_a_first_look_leaves_a_picture_and_a_tracked_run(trained: Workspace) -> None:
    printed = ran("first_look")
    run = run_id(printed)
    metrics, tags = trained.registry.metrics(run), trained.registry.tags(run)
    assert set(metrics) == {"rows", "rate"}
    assert f"{metrics['rows']:.0f} flights" in printed
    assert 0.1 < metrics["rate"] < 0.4
    assert tags["kind"] == "first look"
    assert tags["code"]
    picture = (trained.path(trained.settings.reports) / "first-look.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert trained.registry.read(run, "first-look.png") == picture


def test_a_challenger_is_compared_with_the_champion_and_tracked_and_nothing_else(trained: Workspace) -> None:
    before = trained.registry.aliased("challenger")
    printed = ran("challenger")
    run = run_id(printed)
    metrics, tags = trained.registry.metrics(run), trained.registry.tags(run)
    assert {"champion.auc", "challenger.auc", "champion.log_loss", "challenger.log_loss"} < set(metrics)
    difference = metrics["champion.log_loss"] - metrics["challenger.log_loss"]
    assert metrics["gain"] == pytest.approx(difference)
    assert metrics["gain"] != 0
    assert metrics["gain_lower"] < metrics["gain"]
    assert ("not proven to be better" in printed) == (metrics["gain_lower"] <= 0)
    assert (tags["kind"], tags["feature"]) == ("challenger", "last_hour_delay_mean")
    assert before
    assert trained.registry.aliased("challenger") == before
    assert [release.version for release in trained.releases.newest(9)] == [1]


def test_there_are_two_experiments() -> None:
    assert {script.stem for script in SCRIPTS} >= {"challenger", "first_look"}


@each
def test_an_experiment_imports_shared_and_nothing_else_of_the_project(script: Path) -> None:
    own = []
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            own += [alias.name for alias in node.names if alias.name.startswith(PACKAGE)]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            own += [node.module] if node.module and node.module.startswith(PACKAGE) else []
    assert own
    assert {name.rpartition(".")[0] or name for name in own if name != f"{PACKAGE}.shared"} == {f"{PACKAGE}.shared"}


@each
def test_an_experiment_is_cells_that_stand_on_their_own(script: Path) -> None:
    found = cells(script)
    assert len(found) >= 5
    assert found[0].startswith("# %% [markdown]")
    for number, cell in enumerate(found):
        compile(cell, f"{script.name}, cell {number}", "exec")
    for text in (cell for cell in found if cell.startswith("# %% [markdown]")):
        assert all(line.startswith("#") for line in text.split("\n") if line)
