"""What stands on what, what the machinery may know of the problem, and what serving does without."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from {{cookiecutter.__package_name}}.shared import contract
from {{cookiecutter.__package_name}}.shared.schema import Category, schema_of

PACKAGE = contract.__name__.partition(".")[0]
PROJECT = Path(__file__).parents[1]
SOURCE = PROJECT / "src"
PROBLEM = {f"shared/{name}.py" for name in ("contract", "features", "model", "collect")}  # and the experiments
LINT = "from importlinter.cli import lint_imports_command; lint_imports_command()"


# --- imports


def linted(folder: Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", LINT, "--no-cache", "--config", str(folder / "pyproject.toml")]
    env = os.environ | {"PYTHONPATH": str(folder / "src"), "COLUMNS": "400"}
    return subprocess.run(line, cwd=folder, capture_output=True, encoding="utf-8", env=env, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The source and what is asked of its imports, to change."""
    shutil.copytree(SOURCE, tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "pyproject.toml", tmp_path)
    return tmp_path


def test_imports_run_one_way() -> None:
    found = linted(PROJECT)
    assert found.returncode == 0, found.stdout
    assert "Contracts: 2 kept, 0 broken." in found.stdout


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("production.gate", "research.experiments.challenger"),
        ("research.experiments.challenger", "production.gate"),
        ("shared.lake", "production.gate"),
        ("shared.lake", "research.experiments.challenger"),
        ("shared.lake", "cli"),
        ("production.gate", "cli"),
        ("shared.schema", "shared.contract"),
        ("shared.contract", "shared.features"),
        ("shared.features", "shared.problem"),
        ("shared.problem", "shared.workspace"),
    ],
)
def test_an_import_the_other_way_is_found_and_named(copy: Path, importer: str, imported: str) -> None:
    path = copy / "src" / PACKAGE / f"{importer.replace('.', '/')}.py"
    path.write_text(path.read_text(encoding="utf-8") + f"\n\nimport {PACKAGE}.{imported}\n", encoding="utf-8")
    found = linted(copy)
    assert found.returncode == 1
    assert f"{PACKAGE}.{importer} -> {PACKAGE}.{imported} (l." in found.stdout


def test_a_part_beside_the_layers_is_found_and_named(copy: Path) -> None:
    (copy / "src" / PACKAGE / "utilities.py").touch()
    found = linted(copy)
    assert found.returncode == 1
    assert "utilities" in found.stdout


# --- the wall between problem and machinery

GENERAL = {
    "known": "what had become known by a time is what point-in-time is about",
    "number": "versions, releases and bins have one",
    "observed": "the rate that calibration compares with the predicted one",
    "outcome": "what came true",
    "late": "",
}


def words_of_the_problem() -> set[str]:
    """Names of tables, their classes, columns and categories."""
    words = set()
    for table in contract.TABLES:
        schema = schema_of(table)
        words |= {table.__name__.lower(), schema.name, *schema.names}
        for column in schema.columns:
            category = column.role(Category)
            words |= set(category.values) if category else set()
    return words


def machinery(source: Path) -> Iterator[Path]:
    """The files that an own problem leaves as they are."""
    for path in sorted((source / PACKAGE).rglob("*.py")):
        name = path.relative_to(source / PACKAGE).as_posix()
        if name not in PROBLEM and not name.startswith("research/experiments/"):
            yield path


def found_in(source: Path, words: Iterable[str]) -> list[str]:
    """Where the machinery has one of the words, in a name, a string, a comment or a docstring."""
    found = []
    patterns = {word: pattern(word) for word in words}
    for path in machinery(source):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", line)
            place = f"{path.relative_to(source / PACKAGE).as_posix()}:{number}"
            found += [f"{place} {word}: {line.strip()}" for word, sought in patterns.items() if sought.search(apart)]
    return found


def pattern(word: str) -> re.Pattern[str]:
    """Finds a word between blanks, signs or underscores; a name in any case, a code only in capitals."""
    parts = r"[\W_]+".join(map(re.escape, word.split("_")))
    return re.compile(rf"(?<![^\W_]){parts}(?![^\W_])", re.IGNORECASE if word.islower() else 0)


def test_the_machinery_names_nothing_of_the_problem() -> None:
    assert found_in(SOURCE, words_of_the_problem() - set(GENERAL)) == []
