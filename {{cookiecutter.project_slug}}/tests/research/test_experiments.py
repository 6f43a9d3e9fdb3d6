"""Yours: each experiment runs from beginning to end, on a few sample rows; what it finds there means nothing."""

import re
import runpy
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from {{cookiecutter.__package_name}}.core.workspace import Workspace
from {{cookiecutter.__package_name}}.research import experiments

(FOLDER,) = map(Path, experiments.__path__)
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if path.name != "__init__.py")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_an_experiment_leaves_a_tracked_run_and_a_table(
    script: Path, champion: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(champion.root)
    monkeypatch.setattr(sys, "argv", [str(script), "--fast"])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # is put back
    with suppress(SystemExit):
        runpy.run_path(str(script), run_name="__main__")
    printed = capsys.readouterr().out
    assert re.search(r"^run \w{32}$", printed, re.MULTILINE), printed
    assert list((champion.root / "reports").glob(f"{script.stem.replace('_', '-')}*.csv"))
