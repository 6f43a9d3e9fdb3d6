"""Which module may import which, and what serving does without."""

import os
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import polars as pl
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from {{cookiecutter.__package_name}}.core.workspace import Workspace
from {{cookiecutter.__package_name}}.shared import PROBLEM

PACKAGE = PROBLEM.build.__module__.partition(".")[0]
PROJECT = Path(__file__).parents[1]
HEAVY = {"sklearn", "onnx", "skl2onnx", "mlflow", "matplotlib"}
SERVING = ("explain", "ingest", "monitor", "predict", "promote", "status")


def python(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own, by the source of this project."""
    env = os.environ | {"PYTHONPATH": str(PROJECT / "src"), "COLUMNS": "400"}
    line = [sys.executable, "-c", program]
    return subprocess.run(line, cwd=folder, capture_output=True, encoding="utf-8", env=env, check=False)


def test_imports_run_one_way() -> None:
    done = python("from importlinter.cli import lint_imports_command; lint_imports_command(['--no-cache'])", PROJECT)
    assert done.returncode == 0, done.stdout


def test_what_serves_loads_no_library_of_training() -> None:
    modules = ["shared", "core.models.training", *(f"production.{name}" for name in SERVING)]
    imports = "; ".join(f"import {PACKAGE}.{name}" for name in modules)
    done = python(f"import sys; {imports}; print(sorted(set(sys.modules) & {HEAVY}))", PROJECT)
    assert done.stdout.strip() == "[]", done.stderr


def not_served() -> set[str]:
    """The modules of what is installed and what serving does not need: none of them is in its image."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    left, needed = [*project["dependencies"]], set[str]()
    while left:
        asked = Requirement(left.pop())
        name, here = canonicalize_name(asked.name), asked.marker is None or asked.marker.evaluate({"extra": ""})
        if here and name not in needed:
            needed.add(name)
            left += requires(name) or []
    modules = packages_distributions().items()
    return {module for module, names in modules if not needed & set(map(canonicalize_name, names))}


WITHOUT_TRAINING = """
import sys
from pathlib import Path
sys.modules |= dict.fromkeys({missing})
from {package}.core.workspace import open_workspace
from {package}.production.monitor import monitor
from {package}.production.predict import predict
from {package}.production.promote import rollback
from {package}.production.status import status
from {package}.shared import PROBLEM
workspace = open_workspace(PROBLEM)
monitor(workspace)
print(status(workspace).champion, predict(workspace, Path("asked.parquet")).rows, rollback(workspace).version)
"""


def test_a_champion_answers_where_the_libraries_of_training_are_not_installed(
    champion: Workspace, tmp_path: Path
) -> None:
    assert not_served() >= HEAVY
    shutil.copytree(champion.root, tmp_path / "project")
    there = Workspace(tmp_path / "project", champion.settings, PROBLEM)
    first = there.releases.newest(1)[0]
    there.releases.append(first.model_copy(update={"number": 2, "version": 2}))
    schema = PROBLEM.schema
    rows: pl.DataFrame = there.lake.scan(schema).select(schema.request.names).head(3).collect()
    rows.write_parquet(there.root / "asked.parquet")
    done = python(WITHOUT_TRAINING.format(missing=not_served(), package=PACKAGE), there.root)
    assert (done.stdout.split(), done.returncode) == (["2", "3", "1"], 0), done.stderr
    assert "version 1 serves; MLflow will be updated by the next run" in done.stderr
