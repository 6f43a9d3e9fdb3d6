"""A project's own checks are green when it is new, and red when someone plants a fault."""

import json
import os
import shutil
import tomllib
from importlib.metadata import Distribution, distributions
from pathlib import Path

import pytest
import yaml
from baking import LONGEST, SHORTEST, TEMPLATE, Bake, Project, make, run

from hooks.pre_gen_project import DEPENDENCIES, SLUG

GATES = {
    "ruff check": "ruff check --no-cache",
    "ruff format": "ruff format --no-cache --check",
    "mypy": "mypy",
    "import-linter": "lint-imports --no-cache",
    "deptry": "deptry --no-ansi src",
    "mdformat": "mdformat --check --compact-tables README.md AGENTS.md CONTRIBUTING.md docs",
    "codespell": "codespell",
    "validate-pyproject": "validate-pyproject pyproject.toml",
    "zizmor": "zizmor --offline --persona=auditor .github",
}


def gate(name: str, project: Project, environment: Path, *, check: bool = True) -> str:
    """What one check of a project says, run from the shared environment."""
    tool, *arguments = GATES[name].split()
    here = {
        "PYTHONPATH": str(project.root / "src"),  # the shared environment holds no project
        "MYPY_CACHE_DIR": str(environment.parent / "mypy" / os.environ.get("PYTEST_XDIST_WORKER", "alone")),
    }
    result = run(environment / tool, *arguments, cwd=project.root, env=here, check=check)
    assert check or result.returncode, f"{name} should be red, and says:\n{result.stdout}{result.stderr}"
    return result.stdout + result.stderr


PROFILES = [(SHORTEST, "minimal"), ("my-ml-project", "standard"), (LONGEST, "full")]


@pytest.mark.parametrize(("slug", "profile"), PROFILES)
@pytest.mark.parametrize("name", GATES)
def test_a_new_project_is_green(bake: Bake, environment: Path, slug: str, profile: str, name: str) -> None:
    gate(name, bake(project_slug=slug, profile=profile), environment)


@pytest.mark.parametrize(("slug", "profile"), PROFILES)
def test_the_command_line_has_the_commands_of_its_profile(
    bake: Bake, environment: Path, slug: str, profile: str
) -> None:
    project = bake(project_slug=slug, profile=profile)
    source = {"PYTHONPATH": str(project.root / "src")}
    ask = f"from {project.package}.cli import cli; print(*dict(cli.walk()), sep='\\n')"
    commands = set(run(environment / "python", "-c", ask, cwd=project.root, env=source).stdout.splitlines())
    standard, full = {"serve", "report", "tune"}, {"labels export", "labels import", "data erase", "simulate"}
    parts = {"minimal": set[str](), "standard": standard, "full": standard | full}
    assert commands & (standard | full) == parts[profile]
    assert {"run", "train", "gate", "promote", "rollback", "predict", "explain", "reproduce"} < commands


ODD = {
    "project_name": "Ans \\ Größe <5",  # codespell:ignore ans
    "description": 'Rabatt oder Preis, d\'une \\ modèle <b> x < y, C:\\teh "q"\n日本',  # codespell:ignore ans,teh,oder
    "author_name": "Ans de Boer",  # codespell:ignore ans
    "owner": "gruppe/unter",  # codespell:ignore unter
}


@pytest.mark.parametrize("name", ["mdformat", "codespell", "validate-pyproject"])
def test_a_new_project_is_green_whatever_its_free_text(bake: Bake, environment: Path, name: str) -> None:
    gate(name, bake(**ODD, project_slug="odd"), environment)


@pytest.mark.parametrize("slug", [SHORTEST, LONGEST, "zz-9", "a-b-c-d", "numpy-fan"])
def test_the_lock_fits_every_name_without_a_network(bake: Bake, slug: str) -> None:
    run("uv", "lock", "--check", "--offline", cwd=bake(project_slug=slug).root)


def test_the_lock_has_at_most_190_packages(project: Project) -> None:
    assert len(tomllib.loads(project.read("uv.lock"))["package"]) <= 190


def test_the_lock_names_no_index_but_the_public_one(project: Project) -> None:
    packages = tomllib.loads(project.read("uv.lock"))["package"]
    sources = {str(package["source"]) for package in packages if package["name"] != project.slug}
    assert sources == {"{'registry': 'https://pypi.org/simple'}"}
    files = [file["url"] for package in packages for file in (*package.get("wheels", []), package.get("sdist")) if file]
    assert {url.split("/")[2] for url in files} == {"files.pythonhosted.org"}


def names_of(distribution: Distribution) -> set[str]:
    """What a distribution puts on the import path and on the command path."""
    files = [file.parts[0] for file in distribution.files or []]
    modules = {part.partition(".")[0] for part in files if part.endswith(".py") or "." not in part}
    return modules | {entry.name for entry in distribution.entry_points if entry.group == "console_scripts"}


def test_every_name_that_a_project_installs_is_refused_as_its_slug(project: Project, environment: Path) -> None:
    locked = {package["name"] for package in tomllib.loads(project.read("uv.lock"))["package"]} - {project.slug}
    (site,) = environment.parent.glob("Lib/site-packages" if os.name == "nt" else "lib/*/site-packages")
    installed = {name for distribution in distributions(path=[str(site)]) for name in names_of(distribution)}
    slugs = {name.replace("_", "-") for name in locked | installed}
    assert {slug for slug in slugs if SLUG.fullmatch(slug)} - DEPENDENCIES == set()


@pytest.fixture
def spoilt(project: Project, tmp_path: Path) -> Project:
    """A copy of a project, to plant a fault in."""
    root = tmp_path / project.slug
    shutil.copytree(project.root, root, ignore=shutil.ignore_patterns(".*_cache", ".git"))
    return Project(root)


@pytest.mark.parametrize(
    ("name", "path", "fault", "complaint"),
    [
        ("import-linter", "production/planted.py", "import {package}.research.planted", "not allowed to import"),
        ("import-linter", "research/planted.py", "import {package}.production.planted", "not allowed to import"),
        ("import-linter", "shared/planted.py", "import {package}.production.planted", "not allowed to import"),
        ("import-linter", "shared/planted.py", "import {package}.cli", "not allowed to import"),
        ("import-linter", "core/errors.py", "import {package}.core.settings", "not allowed to import"),
        ("import-linter", "production/planted.py", "import {package}.shared.contract", "not allowed to import"),
        ("import-linter", "another/__init__.py", "", "another"),
        ("mypy", "shared/planted.py", "def double(x):\n    return 2 * x", "no-untyped-def"),
        ("mypy", "production/planted.py", "text: str = 1", "assignment"),
        ("ruff check", "shared/planted.py", "import os", "F401"),
        ("ruff check", "production/planted.py", "def double(x: int) -> int:\n    return 2 * x", "D103"),
        ("ruff check", "production/planted.py", "from importlib import import_module", "TID251"),
        ("ruff format", "shared/planted.py", "x  =  1", "reformat"),
        ("deptry", "production/planted.py", "import django", "DEP001"),
        ("codespell", "shared/planted.py", "# teh end", "teh"),  # codespell:ignore teh
    ],
)
def test_a_planted_fault_turns_the_gate_red(  # noqa: PLR0913, PLR0917 - a row of the table
    spoilt: Project, environment: Path, name: str, path: str, fault: str, complaint: str
) -> None:
    for part in ("production", "research"):
        (spoilt.root / "src" / spoilt.package / part / "planted.py").write_text("", encoding="utf-8")
    planted = spoilt.root / "src" / spoilt.package / path
    planted.parent.mkdir(exist_ok=True)
    planted.write_text(fault.format(package=spoilt.package) + "\n", encoding="utf-8")
    assert complaint in gate(name, spoilt, environment, check=False)


def hooked(spoilt: Project, environment: Path, *hooks: str, check: bool = True) -> str:
    """What hooks say of all that a project would commit, run by pre-commit from the shared environment."""
    config = spoilt.root / ".pre-commit-config.yaml"
    config.write_text(spoilt.read(config.name).replace("uv run --frozen ", ""), encoding="utf-8", newline="\n")
    run("git", "init", "--quiet", cwd=spoilt.root)
    run("git", "add", "--all", cwd=spoilt.root)
    here = {
        "PATH": f"{environment}{os.pathsep}{os.environ['PATH']}",
        "PRE_COMMIT_HOME": str(spoilt.root.parent / "pre-commit"),
        "SKIP": ",".join({hook["id"] for hook in hooks_of(spoilt)} - set(hooks)),
    }
    result = run(environment / "pre-commit", "run", "--all-files", cwd=spoilt.root, env=here, check=check)
    assert check or result.returncode, f"{hooks} should be red, and say:\n{result.stdout}{result.stderr}"
    return result.stdout + result.stderr


def hooks_of(project: Project) -> list[dict[str, str]]:
    """The hooks that a project runs at a commit."""
    hooks: list[dict[str, str]] = yaml.safe_load(project.read(".pre-commit-config.yaml"))["repos"][0]["hooks"]
    return hooks


PLANTED = {
    "check-added-large-files": ("data/example/random.bin", "0" * 6_000_000, "exceeds 400 KB"),
    "detect-private-key": ("deploy.pem", "-----BEGIN RSA " + "PRIVATE KEY-----", "Private key found"),
    "check-merge-conflict": ("notes.txt", "<<<<<<< " + "HEAD", "Merge conflict"),
    "check-yaml": ("x.yaml", "a: [1", "x.yaml"),
    "check-json": ("x.json", '{"a": 1,}', "x.json"),
    "check-toml": ("config/x.toml", "a = ", "config/x.toml"),
    "import-by-statement": ("src/x.py", 'y = __import__("z")', "src/x.py:1"),
}


def test_a_new_project_passes_the_hooks_that_look_at_files(spoilt: Project, environment: Path) -> None:
    assert hooked(spoilt, environment, *PLANTED).count("Passed") == len(PLANTED)


def test_in_a_folder_of_a_repository_every_hook_runs_on_the_project_alone(environment: Path, tmp_path: Path) -> None:
    folder, repository = tmp_path / "repository" / "a b", tmp_path / "repository"
    folder.mkdir(parents=True)
    run("git", "init", "--quiet", cwd=repository)
    (repository / "others.py").write_text("import   os\n", encoding="utf-8")
    project = make(TEMPLATE, folder, {})
    run("git", "add", "--all", cwd=repository)
    here = {
        "PRE_COMMIT_HOME": str(tmp_path / "pre-commit"),
        "UV_PROJECT_ENVIRONMENT": str(environment.parent),
        "UV_NO_SYNC": "1",  # the shared environment holds no project
        "PYTHONPATH": str(project.root / "src"),
    }
    command = (environment / "pre-commit", "run", "--all-files")
    said = run(*command, cwd=project.root, env=here).stdout
    assert "Skipped" not in said
    assert said.count("Passed") == len(hooks_of(project))
    assert (repository / "others.py").read_text(encoding="utf-8") == "import   os\n"
    planted = project.root / "src" / project.package / "shared" / "features.py"
    planted.write_text(f"import os\n{planted.read_text(encoding='utf-8')}", encoding="utf-8")
    assert "F401" in run(*command[:2], "ruff-check", command[2], cwd=project.root, env=here, check=False).stdout


@pytest.mark.parametrize("hook", PLANTED)
def test_a_hook_stops_a_planted_file(spoilt: Project, environment: Path, hook: str) -> None:
    path, text, complaint = PLANTED[hook]
    (spoilt.root / path).write_text(f"{text}\n", encoding="utf-8")
    said = hooked(spoilt, environment, hook, check=False)
    assert complaint in said


@pytest.mark.parametrize("name", [".env", ".env.local", "prod.env", "config/prod.env"])
def test_a_file_of_secrets_is_not_committed(spoilt: Project, name: str) -> None:
    (spoilt.root / name).write_text("PASSWORD=x\n", encoding="utf-8")
    run("git", "init", "--quiet", cwd=spoilt.root)
    assert run("git", "check-ignore", name, cwd=spoilt.root).stdout == f"{name}\n"


def test_a_notebook_loses_its_outputs_at_a_commit(spoilt: Project, environment: Path) -> None:
    """As pre-commit has it: a hook that changes a file stops the commit."""
    (entry,) = [hook["entry"].split() for hook in hooks_of(spoilt) if hook["id"] == "nbstripout"]
    assert entry[:3] == ["uv", "run", "--frozen"]
    notebook = spoilt.root / "planted.ipynb"
    output = {"output_type": "stream", "name": "stdout", "text": "secret"}
    cell = {"cell_type": "code", "id": "a", "source": "1", "metadata": {}, "execution_count": 1, "outputs": [output]}
    content = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    notebook.write_text(json.dumps(content), encoding="utf-8")
    run(environment / entry[3], *entry[4:], notebook.name, cwd=spoilt.root)
    stripped = notebook.read_bytes()
    assert b"secret" not in stripped
    run(environment / entry[3], *entry[4:], notebook.name, cwd=spoilt.root)
    assert notebook.read_bytes() == stripped
