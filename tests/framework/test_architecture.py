"""An import across a border is found and named, whichever way it goes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import my_ml_project

PACKAGE = my_ml_project.__name__
PROJECT = Path(my_ml_project.__file__).parents[2]
SOURCE = PROJECT / "src"
LINT = "from importlinter.cli import lint_imports_command; lint_imports_command()"


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


def test_a_new_project_breaks_no_contract_of_its_imports() -> None:
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


HEAVY = {"sklearn", "onnx", "skl2onnx", "mlflow", "matplotlib"}


@pytest.mark.parametrize(
    ("module", "libraries"), [("shared.model", ["sklearn"]), ("core.models.onnx", ["onnx", "skl2onnx", "sklearn"])]
)
def test_what_trains_loads_the_libraries_of_training(module: str, libraries: list[str]) -> None:
    program = f"import sys; import {PACKAGE}.{module}; print(sorted(set(sys.modules) & {HEAVY}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.strip() == str(libraries)
