"""What the pages of a new project say of its commands, messages and files is what its code has.

Asked here, since pages are the user's and no update touches them: in a project they may lag behind the machinery.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from baking import Bake, Project, run

ASK = """
import click, json
from {package} import cli

def usage(command):
    return command.collect_usage_pieces(click.Context(cli.cli))[1:]

print(json.dumps({{
    "commands": {{" ".join([name, *usage(command)]): command.help for name, command in cli.cli.walk()}},
}}))
"""


@pytest.fixture(scope="session")
def project(bake: Bake) -> Project:
    """A project with everything that the pages speak of."""
    return bake(profile="full")


@pytest.fixture(scope="module")
def code(project: Project, environment: Path) -> dict[str, Any]:
    """What the project's code has: each command's usage and help."""
    source = {"PYTHONPATH": str(project.root / "src")}
    asked = run(environment / "python", "-c", ASK.format(package=project.package), cwd=project.root, env=source)
    answer: dict[str, Any] = json.loads(asked.stdout)
    return answer


def part_commands(project: Project) -> set[str]:
    """The commands in the table of parts."""
    section = project.read("README.md").partition("\n## Parts\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| .+ \| (?:standard|full) \| (.+) \| `(\w+\.md)` \|$", section, re.MULTILINE)
    assert {f"docs/parts/{page}" for _, page in cells} == {name for name in project.files if "docs/parts/" in name}
    return {name for cell, _ in cells for name in re.findall(r"`([^`]+)`", cell)}


def test_the_readme_has_a_row_for_every_command_and_names_those_of_parts(
    project: Project, code: dict[str, Any]
) -> None:
    section = project.read("README.md").partition("\n## Commands\n")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `([^`]+)` \| (.+) \|$", section, re.MULTILINE))
    assert rows.items() <= code["commands"].items()
    others = {re.sub(r" [A-Z\[].*", "", usage) for usage in code["commands"].keys() - rows}
    assert others == part_commands(project)


def test_the_readme_is_short(project: Project) -> None:
    assert len(project.read("README.md").splitlines()) <= 150


def source_of(project: Project) -> str:
    """The project's code, strings over two lines as one."""
    source = "\n".join(text for name, text in project.texts.items() if re.fullmatch(r"src/.*\.py", name))
    return re.sub(r'"\s*\n\s*f?"', "", source)


def test_every_message_in_the_runbook_is_one_that_the_code_says(project: Project) -> None:
    said = source_of(project)
    prose = re.sub(r"^```.*?^```$", "", project.read("docs/runbook.md"), flags=re.DOTALL | re.MULTILINE)
    messages = [" ".join(quoted.split()) for quoted in re.findall(r"`([^`]+)`", prose) if " " in quoted]
    parts = [part.strip(" ;:,.") for message in messages for part in re.split(r"\.\.\.|\bN\b|\bNAME\b", message)]
    assert len(parts) > 20
    assert [part for part in parts if part.removesuffix(" data/quarantine/") not in said] == []


def test_what_pages_show_in_brackets_of_a_verdict_is_what_the_code_says(project: Project) -> None:
    """A project's own tests, which follow its pages, leave out what is in brackets."""
    said = source_of(project)
    pages = [text for name, text in project.texts.items() if re.fullmatch(r"README\.md|docs/.*\.md", name)]
    shown = [block for page in pages for block in re.findall(r"^```text\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)]
    brackets = {words for block in shown if "better than" in block for words in re.findall(r"\(([^()]*)\)", block)}
    shapes = {r"\{[^{}]*\}".join(map(re.escape, re.split(r"[-+]?\d[\d.:-]*", words))) for words in brackets}
    assert len(shapes) > 1
    assert {shape for shape in shapes if not re.search(rf"\({shape}\)", said)} == set()
