"""A rendered project is complete, valid and clean, whatever the answers."""

import json
import re
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from baking import CHOICES, LONGEST, ROWS, TEMPLATE, Bake, Project

from hooks.post_gen_project import OPTIONAL
from tools.size import code_lines

READERS: dict[str, Callable[[str], Any]] = {
    ".json": json.loads,
    ".lock": tomllib.loads,
    ".toml": tomllib.loads,
    ".yaml": yaml.safe_load,
    ".yml": yaml.safe_load,
}
MOST_TEST_LINES, LONGEST_PATH = 1_500, 150
NASTY = "He said \"hi\" \\ 'x' $(exit 1) `exit 1` %PATH% <b>&amp; ${HOME} äöü 🚀\n# second line = [1]\t'''\"\"\""


@pytest.fixture(params=ROWS, ids=["-".join(value or "none" for value in row.values()) for row in ROWS])
def rendered(bake: Bake, request: pytest.FixtureRequest) -> Project:
    return bake(**request.param)


def test_no_jinja_is_left(rendered: Project) -> None:
    texts = {name: text.replace("${{", "") for name, text in rendered.texts.items()}
    assert [name for name, text in texts.items() if re.search(r"\{\{|\{%|\{#|cookiecutter\.", text)] == []


def test_configuration_parses(rendered: Project) -> None:
    for name in rendered.files:
        if reader := READERS.get(Path(name).suffix):
            assert reader(rendered.read(name)), f"{name} is empty"


def test_every_file_is_in_the_first_commit_and_nothing_else_is(rendered: Project) -> None:
    assert rendered.git("log", "--format=%s").splitlines() == [f"Create {rendered.slug} from the template"]
    assert rendered.git("branch", "--show-current").strip() == "main"
    assert rendered.git("ls-files", "-z").rstrip("\0").split("\0") == rendered.files
    assert rendered.git("status", "--porcelain", "--ignored") == ""


def test_no_path_of_the_machine_is_left(rendered: Project) -> None:
    machine = {str(rendered.root.parent), str(TEMPLATE), str(Path.home()), tempfile.gettempdir()}
    texts = {name: text for name, text in rendered.texts.items() if name != ".cruft.json"}  # names the template's copy
    for name, text in texts.items():
        assert not [path for path in machine if re.search(rf"{re.escape(path)}(/|\\|\b)", text)], name


def test_lines_end_as_on_linux_and_files_end_with_one(rendered: Project) -> None:
    for name, text in rendered.texts.items():
        assert "\r" not in text, name
        assert text == "" or (text.endswith("\n") and not text.endswith("\n\n")), name
        assert not re.search(r"[ \t]$", text, re.MULTILINE) or name == "LICENSE", name


def test_options_change_no_python_and_no_dependency(rendered: Project, bake: Bake) -> None:
    plain = bake(project_slug=rendered.slug, profile="full")
    python = {name: text for name, text in rendered.texts.items() if name.endswith(".py")}
    assert python.items() <= plain.texts.items()
    assert rendered.pyproject["dependency-groups"] == plain.pyproject["dependency-groups"]
    assert rendered.read("uv.lock") == plain.read("uv.lock")


@pytest.mark.parametrize(("question", "answer"), [(q, a) for q, kept in OPTIONAL.items() for a in kept])
def test_an_optional_path_is_there_when_it_is_on_and_gone_when_it_is_off(
    bake: Bake, question: str, answer: str
) -> None:
    for path in OPTIONAL[question][answer]:
        assert (bake(**{question: answer}).root / path).exists()
        for other in set(CHOICES[question]) - {answer, "both"}:
            assert not (bake(**{question: other}).root / path).exists()


def test_code_owners_are_there_when_there_is_an_owner(bake: Bake) -> None:
    assert "@some-team" in bake(owner="some-team").read("CODEOWNERS")
    assert "CODEOWNERS" not in bake(owner="").files


@pytest.mark.parametrize("host", CHOICES["ci"])
def test_the_rules_for_people_speak_of_ci_where_there_is_one(bake: Bake, host: str) -> None:
    assert bool(re.search(r"\bCI\b", bake(ci=host).read("CONTRIBUTING.md"))) == (host != "none")


@pytest.mark.parametrize("license_id", CHOICES["license"])
def test_the_licence_is_the_chosen_one(bake: Bake, license_id: str) -> None:
    words = {"MIT": "MIT License", "Apache-2.0": "Apache License", "BSD-3-Clause": "BSD 3-Clause"}
    project = bake(license=license_id, author_name="Ada Lovelace")
    assert words.get(license_id, "All rights reserved") in project.read("LICENSE")
    assert "Ada Lovelace" in project.read("LICENSE")
    assert project.pyproject["project"]["license"] in {license_id, "LicenseRef-Proprietary"}


def test_free_text_is_harmless_everywhere(bake: Bake) -> None:
    project = bake(project_name=NASTY, project_slug="nasty", description=NASTY, author_name=NASTY)
    once = " ".join(NASTY.split())
    assert project.pyproject["project"]["description"] == once
    assert project.pyproject["project"]["authors"] == [{"name": once}]
    shown = once.replace("\\", "\\\\").replace("<", "\\<")  # as Markdown takes a backslash and a tag for text
    assert project.read("README.md").splitlines()[0] == f"# {shown}"
    assert {n: t for n, t in project.texts.items() if n.endswith(".py")} == {
        n: t for n, t in bake(project_slug="nasty").texts.items() if n.endswith(".py")
    }


def test_code_is_counted_without_blank_lines_comments_and_docstrings() -> None:
    assert (
        code_lines(
            '"""Doc."""\n\n# why\nx = [\n    1,\n]\n\n\ndef f():\n    """Two\n    lines."""\n    return 1  # why\n'
        )
        == 5
    )


def test_the_tests_that_a_project_keeps_are_few(bake: Bake) -> None:
    project = bake(profile="full")
    lines = {name: text.count("\n") for name, text in project.texts.items() if name.startswith("tests/")}
    assert sum(lines.values()) <= MOST_TEST_LINES, lines
    assert lines["tests/shared/test_problem.py"] <= 400
    assert lines["tests/research/test_experiments.py"] <= 150


def test_paths_are_short_enough_for_windows(bake: Bake) -> None:
    assert max(len(f"{LONGEST}/{name}") for name in bake(project_slug=LONGEST, profile="full").files) <= LONGEST_PATH


def test_templates_of_python_files_hold_nothing_but_names() -> None:
    for path in (TEMPLATE / "{{cookiecutter.project_slug}}").rglob("*.py"):
        marks = re.findall(r"\{\{.*?\}\}|\{%.*?%\}|\{#", path.read_text(encoding="utf-8"))
        assert set(marks) <= {"{{cookiecutter.__package_name}}", "{{cookiecutter.project_slug}}"}, path


def test_no_file_is_large() -> None:
    sizes = {path: path.stat().st_size for path in (TEMPLATE / "{{cookiecutter.project_slug}}/data").rglob("*.*")}
    assert max(sizes.values()) <= 400_000
    assert sum(sizes.values()) <= 1_000_000
