"""What stands on what, what the machinery may know of the problem, and what serving does without."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from datetime import timedelta
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from {{cookiecutter.__package_name}}.shared import contract
from {{cookiecutter.__package_name}}.shared.schema import Category, schema_of
from {{cookiecutter.__package_name}}.shared.workspace import Workspace

PACKAGE = contract.__name__.partition(".")[0]
PROJECT = Path(__file__).parents[1]
SOURCE = PROJECT / "src"
PROBLEM = {f"shared/{name}.py" for name in ("contract", "features", "model", "collect")}
OWN = ("research/experiments/", "research/reports/")  # the problem may be there too
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
    assert "Contracts: 2 kept, 0 broken." in found.stdout


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("production.gate", "research.experiments.planted"),
        ("research.experiments.planted", "production.gate"),
        ("shared.lake", "production.gate"),
        ("shared.lake", "research.experiments.planted"),
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


# About the wall between problem and machinery

GENERAL = {
    "known",  # what was known by a time is what point-in-time is about
    "number",  # versions and releases have one
    "observed",  # the rate beside the predicted one, in calibration
    "outcome",  # what came true
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
        if name not in PROBLEM and not name.startswith(OWN):
            yield path


def found_in(source: Path, words: Iterable[str]) -> list[str]:
    """Where the machinery has one of the words, in a name, a string, a comment or a docstring.

    A name is found however it is written, a code in its capitals alone.
    """
    found = []
    sought = sorted(words)
    names, codes = (pattern(word for word in sought if word.islower() == named) for named in (True, False))
    for path in machinery(source):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            said = unnamed(line, PACKAGE)
            apart = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", said).lower()
            if names.search(apart) or codes.search(said):
                place = f"{path.relative_to(source / PACKAGE).as_posix()}:{number}"
                here = (word for word in sought if pattern([word]).search(apart if word.islower() else said))
                found += [f"{place} {word}: {line.strip()}" for word in here]
    return found


def unnamed(line: str, package: str) -> str:
    """A line without the package's name where it names a module: it may have a word of the problem."""
    module = rf"\b{package}(?=\.(?:cli|production|research|shared)\b)"
    return re.sub(rf"{module}|(?<=\bfrom ){package}(?= import )|(?<= -m ){package}\b", "", line)


def pattern(words: Iterable[str]) -> re.Pattern[str]:
    """Finds any of the words between blanks, signs or underscores."""
    any_of = "|".join(r"[\W_]+".join(map(re.escape, word.split("_"))) for word in words)
    return re.compile(rf"(?<![^\W_])(?:{any_of or '(?!)'})(?![^\W_])")


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ("from flights.shared.lake import Lake", "from .shared.lake import Lake"),
        ("from flights import research", "from  import research"),
        ("It is `python -m flights run`.", "It is `python -m  run`."),
        ("flights = flights.collect()  # from flights", "flights = flights.collect()  # from flights"),
        ("late_flights.shared, of all flights", "late_flights.shared, of all flights"),
    ],
)
def test_a_package_is_no_word_of_the_problem_where_it_is_a_module(line: str, left: str) -> None:
    assert unnamed(line, "flights") == left


def words_in(found: Iterable[str]) -> set[str]:
    """The words that were found."""
    return {line.split(": ")[0].split()[-1] for line in found}


def test_the_machinery_names_nothing_of_the_problem() -> None:
    found = found_in(SOURCE, words_of_the_problem() - GENERAL)
    way = "rename what is of the problem alone, add ordinary words to GENERAL"
    assert not found, "\n".join([f"{', '.join(sorted(words_in(found)))}: {way}", *found])


def test_every_exception_is_needed() -> None:
    assert words_in(found_in(SOURCE, GENERAL)) == GENERAL
    assert words_of_the_problem() >= GENERAL


WORDS = words_of_the_problem()
PLANTED = {
    "a name": ("{} = 1", str.lower),
    "a part of a name": ("mean_{}_sum = 1", str.lower),
    "a constant": ("THE_{} = 1", str.upper),
    "a class": ("class Latest{}Row: ...", lambda word: word.title().replace("_", "")),
    "a string": ("text = 'of {}!'", str.lower),
    "a comment": ("# of {}, and more", lambda word: word.replace("_", " ")),
    "a docstring": ('"""Of {}."""', lambda word: word.replace("_", " ").capitalize()),
}


@pytest.mark.parametrize("where", PLANTED)
def test_a_planted_word_is_found(copy: Path, where: str) -> None:
    line, written = PLANTED[where]
    names = {word for word in WORDS - GENERAL if word.islower()}
    assert names
    path = copy / "src" / PACKAGE / "shared" / "lake.py"
    text = "".join(f"{line.format(written(word))}\n" for word in sorted(names))
    path.write_text(text, encoding="utf-8")
    found = found_in(copy / "src", names)
    for place, word in enumerate(sorted(names), start=1):
        assert f"shared/lake.py:{place} {word}: {line.format(written(word))}" in found


def test_a_planted_category_is_found_as_it_is_written_only(copy: Path) -> None:
    codes = sorted(WORDS - {word for word in WORDS if word.islower()})
    path = copy / "src" / PACKAGE / "production" / "gate.py"
    path.write_text("".join(f"x = '{code}'\n" for code in codes), encoding="utf-8")
    places = [f"production/gate.py:{place} {code}: x = '{code}'" for place, code in enumerate(codes, start=1)]
    assert [line for line in found_in(copy / "src", codes) if line.startswith("production/gate.py")] == places
    path.write_text("".join(f"x = 'a{code} {code}b {code}1'\n" for code in codes), encoding="utf-8")
    assert not [line for line in found_in(copy / "src", codes) if line.startswith("production/gate.py")]


def test_the_problem_is_written_in_four_modules_experiments_and_reports() -> None:
    names = {path.relative_to(SOURCE / PACKAGE).as_posix() for path in (SOURCE / PACKAGE).rglob("*.py")}
    apart = names - {path.relative_to(SOURCE / PACKAGE).as_posix() for path in machinery(SOURCE)}
    assert names >= PROBLEM
    assert {name for name in apart if not name.startswith(OWN)} == PROBLEM


# About what serves

HEAVY = ("sklearn", "skl2onnx", "mlflow", "matplotlib", "onnx")
LOADED = "import sys; print(sorted(set(sys.modules) & {heavy}))"


def loaded_by(*modules: str) -> str:
    line = "; ".join([*(f"import {PACKAGE}.{module}" for module in modules), LOADED.format(heavy=set(HEAVY))])
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, encoding="utf-8", check=True)
    return done.stdout.strip()


def test_what_serves_loads_no_library_of_training() -> None:
    serving = (
        "production.service.serve",
        "production.predict",
        "production.explain",
        "production.ingest",
        "production.monitor",
        "production.promote",
    )
    assert loaded_by(*serving) == "[]"


def test_what_trains_does() -> None:
    assert loaded_by("shared.model") == "['onnx', 'skl2onnx', 'sklearn']"


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
from {PACKAGE}.production.explain import explain, status
from {PACKAGE}.production.predict import predict
from {PACKAGE}.production.monitor import monitor
from {PACKAGE}.production.promote import rollback
from {PACKAGE}.shared.workspace import open_workspace
workspace = open_workspace()
print(predict(workspace, Path("asked.parquet")).rows, status(workspace).champion, explain(workspace, "{key}").version)
print(monitor(workspace).ok, rollback(workspace).version, predict(workspace, Path("asked.parquet")).version)
"""
    champion = trained.releases.newest(1)[0]
    again = {"number": 2, "version": 2, "released": champion.released + timedelta(hours=1)}
    trained.releases.append(champion.model_copy(update=again))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=False)
    assert (done.stdout.split(), done.returncode) == (["3", "2", "2", "True", "1", "1"], 0), done.stderr
    assert "version 1 serves; MLflow follows with the next run" in done.stderr
