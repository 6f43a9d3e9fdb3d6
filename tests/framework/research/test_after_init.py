"""What works after `init` with no edit, in the words of the source, through the command line."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl
import pytest

import my_ml_project

PROJECT = Path(my_ml_project.__file__).parents[2]
PACKAGE = my_ml_project.__name__
GIT = ("git", "-c", "user.name=a", "-c", "user.email=a@example.org")
ROWS, UNLABELLED = 120, 3
ASK = f"""
import json, sys
from pathlib import Path
from starlette.testclient import TestClient
from {PACKAGE}.core.workspace import open_workspace
from {PACKAGE}.production.service.app import create_app
from {PACKAGE}.shared import PROBLEM

with TestClient(create_app(open_workspace(PROBLEM, root=Path.cwd()))) as client:
    print(client.post("/predict", json=json.loads(sys.argv[1])).text)
"""


def run(folder: Path, *arguments: str, program: Sequence[str] = ("-m", PACKAGE)) -> str:
    env = os.environ | {"PYTHONPATH": str(folder / "src"), "PYTHONUTF8": "1"}
    line = [sys.executable, *program, *arguments]
    done = subprocess.run(line, cwd=folder, env=env, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def git(folder: Path, *arguments: str) -> None:
    subprocess.run([*GIT, *arguments], cwd=folder, check=True)


def prices() -> pl.DataFrame:
    """Days of a price that went up or down, of which the newest have no outcome yet."""
    lags = [(number * 37 % 41 - 20) / 10 for number in range(ROWS)]
    ups = ["Up" if lag + (number % 7 - 3) / 3 > 0 else "Down" for number, lag in enumerate(lags)]
    return pl.DataFrame(
        {
            "Day": [f"D{number}" for number in range(ROWS)],
            "Lag 1": lags,
            "Holiday": ["Yes" if number % 5 == 0 else "No" for number in range(ROWS)],
            "Direction": [*ups[:-UNLABELLED], *[None] * UNLABELLED],
        }
    )


def start(folder: Path, rows: pl.DataFrame, *options: str) -> None:
    """A project of a table, in which `run` promoted a champion."""
    for name in ("src", "config", "tests"):
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "pyproject.toml", folder)
    shutil.copy(PROJECT / ".gitignore", folder)
    for arguments in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "first"]):
        git(folder, *arguments)
    rows.write_csv(folder / "source.csv")
    run(folder, "init", "source.csv", *options)
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "own data")
    assert "version 1 is champion" in run(folder, "run")


@pytest.fixture(scope="session")
def binary(once: Callable[..., Path]) -> Path:
    return once("after-init", lambda folder: start(folder, prices(), "--target", "Direction", "--key", "Day"))


@pytest.fixture(scope="session")
def predicted(binary: Path) -> pl.DataFrame:
    run(binary, "predict", "source.csv", "--out", "predicted.csv")
    return pl.read_csv(binary / "predicted.csv")


def test_a_file_of_the_source_is_predicted_in_its_words(predicted: pl.DataFrame) -> None:
    assert len(predicted) == ROWS
    assert predicted["error"].null_count() == ROWS
    expected = ["Up" if probability >= 0.5 else "Down" for probability in predicted["probability"]]
    assert set(expected) == {"Up", "Down"}
    assert predicted["decision"].to_list() == expected


@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_raw_rows_of_the_source_are_answered_as_its_file_is_predicted(
    binary: Path, predicted: pl.DataFrame, layout: str
) -> None:
    raw = prices().head(3).drop("Direction")
    body = {layout: raw.to_dicts() if layout == "rows" else raw.to_dict(as_series=False)}
    answer = json.loads(run(binary, json.dumps(body), program=("-c", ASK)).splitlines()[0])[layout]
    found = pl.DataFrame(answer)
    assert found["decision"].to_list() == predicted["decision"].head(3).to_list()
    assert found["probability"].to_list() == pytest.approx(predicted["probability"].head(3).to_list(), abs=1e-6)


def test_a_row_is_explained_in_the_words_of_the_source(binary: Path) -> None:
    said = run(binary, "explain", "D0")
    assert "outcome       Down" in said
    assert "decision Down" in said
    assert "outcome       not available yet" in run(binary, "explain", f"D{ROWS - 1}")


def test_the_pages_have_the_words_of_the_source(binary: Path) -> None:
    assert "true is Up, false is Down" in (binary / "docs" / "data-dictionary.md").read_text(encoding="utf-8")
    assert "the probability of Up, not Down" in (binary / "reports" / "model-card.md").read_text(encoding="utf-8")
    assert "| Up" in (binary / "reports" / "data-sheet.md").read_text(encoding="utf-8")


def test_unlabelled_rows_are_labelled_later(binary: Path, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    shutil.copytree(binary, folder)
    assert f"{UNLABELLED} of {UNLABELLED} unlabelled" in run(folder, "labels", "export", "--out", "tasks.json")
    assert 'value="Up"' in (folder / "tasks.xml").read_text(encoding="utf-8")
    tasks = json.loads((folder / "tasks.json").read_text(encoding="utf-8"))
    assert {task["predictions"][0]["result"][0]["value"]["choices"][0] for task in tasks} <= {"Up", "Down"}
    for number, task in enumerate(tasks):
        result = {"from_name": "label", "to_name": "row", "type": "choices", "value": {"choices": ["Up"]}}
        given = {"id": number, "completed_by": 1, "created_at": "2024-05-01T12:00:00Z", "was_cancelled": False}
        task.update({"id": number, "annotations": [given | {"result": [result]}]})
    (folder / "done.json").write_text(json.dumps(tasks), encoding="utf-8")
    assert f"{UNLABELLED} labels ->" in run(folder, "labels", "import", "done.json")
    run(folder, "run")
    assert "outcome       Up" in run(folder, "explain", f"D{ROWS - 1}")
    assert f"{UNLABELLED} rows were labelled before" in run(folder, "labels", "import", "done.json")
