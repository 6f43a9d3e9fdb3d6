"""The documentation builds, links to what is there, asks nobody else for anything, and its commands work."""

import re
import shutil
from fnmatch import fnmatch
from pathlib import Path

import pytest
from baking import QUESTIONS, TEMPLATE, Bake, Project, run

from tools.record import tree

PAGES = [TEMPLATE / "README.md", *sorted((TEMPLATE / "docs").rglob("*.md"))]
# Commands in the pages that no test here runs, each with its reason; the others are started by the tests named.
ELSEWHERE = {
    "pip install uv": "it needs a machine without uv; .ci/run does it",
    "pip install uv && uvx nox -s demo": "test_project.py does what the session does",
    "pip install uv && uvx nox": "it is what runs this test",
    "uvx cookiecutter gh:org/ml-template": "every test makes projects; the address is the reader's",
    "cd my-ml-project": "every test of a project works in its folder",
    "uv run my-ml-project run": "test_project.py",
    "uv run my-ml-project init sales.csv --target returned": "framework/research/test_init.py, on tables of its own",
    "uv run my-ml-project run --now 2013-06-08": "framework/test_docs.py, as the README of a project has it",
    "uv run my-ml-project run --now 2013-06-29": "framework/test_docs.py, as the README of a project has it",
    "uv run my-ml-project run --now 2013-07-27": "framework/test_docs.py, as the README of a project has it",
    "uv run nox": "test_project.py",
    "uv run my-ml-project explain 23791": "the project's own tests run it",
    "python -m venv .venv": "test_project.py, by pip",
    "source .venv/bin/activate": "test_project.py, by pip",
    "python -m pip install --upgrade pip": "test_project.py, by pip",
    "pip install --editable . --group dev": "test_project.py, by pip",
    "my-ml-project run": "test_project.py, by pip",
    "pytest": "test_project.py, by pip",
    "uvx nox -s demo": "test_project.py does what the session does",
    "uvx nox": "it is what runs this test",
    "uvx nox -s format": "it changes the checkout; test_gates.py finds what it would change",
    "uvx nox -s lock": "it asks the registry for new versions; test_gates.py checks the lock",
    "uvx nox -s bench": "it takes a quarter of an hour",
    "uvx nox -s quality": "it takes a quarter of an hour",
    "uvx nox -s size": "test_render.py counts as the session does",
    "uvx nox -s bump": "it asks for new versions; test_releases.py tests what it rewrites",
    "uvx nox -s release -- 1.2.3": "it makes a tag; test_releases.py does what the session does, in a copy",
    "uvx nox -s tests -- -m slow -k updates": "it takes minutes",
    "uv run nox -s update": "test_updates.py does what the session does",
    "uv run nox -s update -- --to v1.2.3": "test_updates.py does what the session does",
    "uv run nox -s update -- --profile full": "test_profiles.py does what the session does",
    "git diff HEAD": "it only shows",
    'git commit --all --message "Update from the template"': "it is plain Git",
    "uvx cruft@2.16.0 link https://github.com/org/ml-template": "test_record.py; the address is the reader's",
    "uvx cookiecutter@2.7.1 gh:org/ml-template --overwrite-if-exists --skip-if-file-exists": "test_hooks.py does",
    "git add .cruft.json": "it is plain Git",
    'git commit --message "Link to the template"': "it is plain Git",
    "uvx cruft@2.16.0 diff": "test_record.py",
    "jq --raw-output .commit my-ml-project/.cruft.json": "it only shows",
    "uvx nox -s mutate": "it takes half an hour",
    "uvx nox -s docs": "test_the_documentation_builds does what the session does",
    "uv run tools/build_example.py": "it downloads the source; the size of its result is checked by test_render.py",
}
OUTSIDE = re.compile(
    r"""<(?:script|img|link)\b[^>]*?(?:src|href)=["']https?://|url\(["']?https?://|@import\s+["']https?://"""
)
# What makes the theme's own script load another from a third party: diagrams, galleries, code to run, a repository.
LOADERS = re.compile(r'class="[^"]*\b(?:mermaid|glightbox|md-exec|md-source)\b')


def build(folder: Path) -> str:
    """Build the documentation in a folder that has its sources; return what was said, or fail."""
    return run("zensical", "build", "--clean", "--strict", cwd=folder).stdout


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A copy of the documentation's sources."""
    shutil.copytree(TEMPLATE / "docs", tmp_path / "docs")
    shutil.copy(TEMPLATE / "zensical.toml", tmp_path)
    return tmp_path


def test_the_documentation_builds_and_asks_no_third_party(sources: Path) -> None:
    build(sources)
    pages = [*(sources / "site").rglob("*.html"), *(sources / "site").rglob("*.css")]
    assert len([page for page in pages if page.suffix == ".html"]) > 10
    assert [page.name for page in pages if OUTSIDE.search(page.read_text(encoding="utf-8"))] == []
    assert [page.name for page in pages if LOADERS.search(page.read_text(encoding="utf-8"))] == []


def test_a_broken_link_is_an_error(sources: Path) -> None:
    with (sources / "docs" / "index.md").open("a", encoding="utf-8") as page:
        page.write("\n[nothing](nowhere.md)\n")
    with pytest.raises(AssertionError, match="page does not exist"):
        build(sources)


def test_the_page_of_an_instance_has_the_files_of_a_project(bake: Bake) -> None:
    page = (TEMPLATE / "docs" / "reference" / "instance.md").read_text(encoding="utf-8")
    assert f"```text\n{tree(bake(profile='standard').files)}\n```" in page, "uvx nox -s record"


def test_the_home_page_has_the_tree_and_the_comparison_of_the_readme() -> None:
    readme = (TEMPLATE / "README.md").read_text(encoding="utf-8")
    home = (TEMPLATE / "docs" / "index.md").read_text(encoding="utf-8")
    (tree,) = re.findall(r"^```text\n.*?^```", readme, re.DOTALL | re.MULTILINE)
    (comparison,) = re.findall(r"^## Compared with others\n.*?(?=\n\n## )", readme, re.DOTALL | re.MULTILINE)
    assert tree in home
    assert comparison in home


def test_links_of_the_readme_lead_to_files() -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]+)\)", (TEMPLATE / "README.md").read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (TEMPLATE / link).exists()] == []


def test_every_command_of_the_pages_is_run_or_says_why_not() -> None:
    blocks = [block for page in PAGES for block in re.findall(r"```bash\n(.*?)```", page.read_text("utf-8"), re.DOTALL)]
    commands = {line for block in blocks for line in block.splitlines()}
    assert commands == set(ELSEWHERE)


def test_the_sessions_that_the_pages_name_are_there(project: Project) -> None:
    for start, root in (("uvx", TEMPLATE), ("uv run", project.root)):
        sessions = run("nox", "--list", cwd=root).stdout
        named = {name for command in ELSEWHERE for name in re.findall(rf"^{start} nox -s (\w+)", command)}
        assert named
        assert {name for name in named if not re.search(rf"^[*-] {name}\b", sessions, re.MULTILINE)} == set()


def test_the_questions_page_has_every_question_and_the_commands_page_every_command(project: Project) -> None:
    questions = (TEMPLATE / "docs" / "reference" / "questions.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)`", questions, re.MULTILINE)) == set(QUESTIONS)
    page = (TEMPLATE / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")
    readme = project.read("README.md").partition("\n## Commands\n")[2].partition("\n## What is where\n")[0]
    rows = re.findall(r"^\|(.*`.*)\|$", readme, re.MULTILINE)  # of commands and of parts: see test_pages.py
    commands = {name for row in rows for name in re.findall(r"`([a-z]+(?: [a-z]+)?)(?: [A-Z\[][^`]*)?`", row)}
    assert len(commands) > 10
    assert set(re.findall(r"^\| `([a-z]+(?: [a-z]+)?)", page, re.MULTILINE)) == commands


def paths_of(section: str) -> list[str]:
    """The paths in the table of a section of the page on ownership."""
    page = (TEMPLATE / "docs" / "explanation" / "ownership.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.+?`) \|", page.split(f"## {section}\n")[1].split("\n## ")[0], re.MULTILINE)
    return [path for row in rows for path in re.findall(r"`([^`]+)`", row)]


def test_the_page_on_ownership_is_the_list_of_the_project(project: Project) -> None:
    listed = [path.replace("PACKAGE", project.package) for path in paths_of("Yours")]
    assert sorted(listed) == project.pyproject["tool"]["cruft"]["skip"]


def test_a_file_that_is_yours_says_so_in_its_first_line_and_no_other_does(project: Project) -> None:
    """But for scripts in cells, which begin with one, and pages, which begin with their title."""
    skip = project.pyproject["tool"]["cruft"]["skip"]
    said = {name for name, text in project.texts.items() if re.match(r'(?:"""|# )Yours: ', text)}
    files = {name for name in project.texts if name.endswith((".py", ".toml"))}
    yours = {name for name in files if any(fnmatch(name, path) for path in skip)}
    assert said == {name for name in yours if not project.read(name).startswith("# %%")}


def test_the_page_on_ownership_covers_every_file_and_no_other(bake: Bake) -> None:
    projects = [bake(ci="github", owner="some-team", profile="full"), bake(ci="gitlab")]
    files = {name.replace(project.package, "PACKAGE") for project in projects for name in project.files}
    patterns = [path for section in ("Yours", "The template's", "Shared") for path in paths_of(section)]
    assert {name for name in files if not any(fnmatch(name, pattern) for pattern in patterns)} == set()
    assert [pattern for pattern in patterns if not any(fnmatch(name, pattern) for name in files)] == []
