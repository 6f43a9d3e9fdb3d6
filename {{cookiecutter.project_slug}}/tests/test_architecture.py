"""Which module may import which, and what serving does without."""

import os
import shutil
import subprocess
import sys
import tomllib
from datetime import timedelta
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from {{cookiecutter.__package_name}}.core.workspace import Workspace
from {{cookiecutter.__package_name}}.shared import contract

PACKAGE = contract.__name__.partition(".")[0]
PROJECT = Path(__file__).parents[1]
SOURCE = PROJECT / "src"
LINT = "from importlinter.cli import lint_imports_command; lint_imports_command()"


# About imports


def linted(folder: Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", LINT, "--no-cache", "--config", str(folder / "pyproject.toml")]
    env = os.environ | {"PYTHONPATH": str(folder / "src"), "COLUMNS": "400"}
    return subprocess.run(line, cwd=folder, capture_output=True, encoding="utf-8", env=env, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The source and what is asked of its imports, to change."""
    shutil.copytree(SOURCE, tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "src" / PACKAGE / "research" / "experiments" / "planted.py").touch()
    shutil.copy(PROJECT / "pyproject.toml", tmp_path)
    return tmp_path


def test_imports_run_one_way() -> None:
    found = linted(PROJECT)
    assert found.returncode == 0, found.stdout
    assert "Contracts: 3 kept, 0 broken." in found.stdout


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("production.gate", "research.experiments.planted"),
        ("research.experiments.planted", "production.gate"),
        ("core.store.lake", "production.gate"),
        ("core.store.lake", "research.experiments.planted"),
        ("core.store.lake", "cli"),
        ("production.gate", "cli"),
        ("production.gate", "app"),
        ("cli", "app"),
        ("core.errors", "core.settings"),
        ("core.contracts.schema", "core.problem"),
        ("core.models.training", "core.store.lake"),
        ("core.store.predictions", "core.datasets"),
        ("core.datasets", "core.workspace"),
        ("core.workspace", "shared.contract"),
        ("production.train", "shared"),
        ("research.experiment", "shared"),
        ("shared.features", "production.gate"),
        ("shared.collect", "research.experiment"),
    ],
)
def test_an_import_the_other_way_is_found_and_named(copy: Path, importer: str, imported: str) -> None:
    path = copy / "src" / PACKAGE / f"{importer.replace('.', '/')}.py"
    path.write_text(path.read_text(encoding="utf-8") + f"\n\nimport {PACKAGE}.{imported}\n", encoding="utf-8")
    found = linted(copy)
    assert found.returncode == 1
    assert f"{PACKAGE}.{importer} -> {PACKAGE}.{imported} (l." in found.stdout


@pytest.mark.parametrize("folder", [".", "core"])
def test_a_module_beside_the_layers_is_found_and_named(copy: Path, folder: str) -> None:
    (copy / "src" / PACKAGE / folder / "utilities.py").touch()
    found = linted(copy)
    assert found.returncode == 1
    assert "utilities" in found.stdout


# About what serves

HEAVY = ("sklearn", "onnx", "skl2onnx", "mlflow", "matplotlib")
LOADED = "import sys; print(sorted(set(sys.modules) & {heavy}))"


def loaded_by(*modules: str) -> str:
    line = "; ".join([*(f"import {PACKAGE}.{module}" for module in modules), LOADED.format(heavy=set(HEAVY))])
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, encoding="utf-8", check=True)
    return done.stdout.strip()


def test_what_serves_loads_no_library_of_training() -> None:
    serving = (
        "service.app",
        "service.serve",
        "predict",
        "explain",
        "ingest",
        "monitoring.monitor",
        "promote",
        "status",
    )
    assert loaded_by("shared", "core.models.training", *(f"production.{module}" for module in serving)) == "[]"


def test_what_trains_does() -> None:
    assert loaded_by("shared.model") == "['sklearn']"
    assert loaded_by("core.models.onnx") == "['onnx', 'skl2onnx', 'sklearn']"


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


def test_a_champion_answers_where_the_libraries_of_training_are_not_installed(trained: Workspace) -> None:
    assert set(HEAVY) <= not_served()
    schema = trained.problem.schema
    rows = trained.lake.scan(schema).select(schema.names).head(3).collect()
    rows.write_parquet("asked.parquet")
    key = "/".join(str(rows[name][0]) for name in schema.key)
    program = f"""
import sys
from pathlib import Path
sys.modules |= dict.fromkeys({not_served()})
from {PACKAGE}.production.explain import explain
from {PACKAGE}.production.predict import predict
from {PACKAGE}.production.status import status
from {PACKAGE}.shared import PROBLEM
from {PACKAGE}.production.monitoring.monitor import monitor
from {PACKAGE}.production.promote import rollback
from {PACKAGE}.core.workspace import open_workspace
workspace = open_workspace(PROBLEM)
print(predict(workspace, Path("asked.parquet")).rows, status(workspace).champion, explain(workspace, "{key}").version)
print(monitor(workspace).ok, rollback(workspace).version, predict(workspace, Path("asked.parquet")).version)
"""
    champion = trained.releases.newest(1)[0]
    again = {"number": 2, "version": 2, "released": champion.released + timedelta(hours=1)}
    trained.releases.append(champion.model_copy(update=again))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=False)
    assert (done.stdout.split(), done.returncode) == (["3", "2", "2", "True", "1", "1"], 0), done.stderr
    assert "version 1 serves; MLflow follows with the next run" in done.stderr
