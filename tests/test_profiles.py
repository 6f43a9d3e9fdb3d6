"""The smaller of two profiles is a part of the larger, byte for byte, and a project moves up with its user's edits."""

import json
import re
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from baking import CHOICES, TEMPLATE, Bake, Project, copied, publish, run
from history import NEXT, NOW, History, change, copy

from hooks.post_gen_project import EDITOR_FILES, PROFILES
from tools.size import Size, measure, table

NAMES = list(PROFILES)
STEPS = list(pairwise(NAMES))
EDITOR_FOLDERS = (".vscode/", ".idea/", ".run/", ".devcontainer/")
# Files and lines of code, at most. They only go down, to 110 and 3,700, 140 and 4,700, 160 and 5,900.
LIMITS = {"minimal": (130, 6_975), "standard": (164, 9_055), "full": (181, 10_030)}


# --- what is in them


def test_the_question_offers_every_profile_and_standard_by_default() -> None:
    assert sorted(CHOICES["profile"]) == sorted(NAMES)
    assert CHOICES["profile"][0] == "standard"


@pytest.mark.parametrize(("small", "large"), STEPS)
def test_a_smaller_profile_is_a_strict_part_of_a_larger(bake: Bake, small: str, large: str) -> None:
    assert set(bake(profile=small).files) < set(bake(profile=large).files)


@pytest.mark.parametrize(("small", "large"), STEPS)
def test_files_of_two_profiles_are_the_same_byte_for_byte(bake: Bake, small: str, large: str) -> None:
    one, other = bake(profile=small).root, bake(profile=large).root
    differ = {name for name in bake(profile=small).files if (one / name).read_bytes() != (other / name).read_bytes()}
    assert {name for name in differ if not name.startswith(EDITOR_FOLDERS)} == {".cruft.json"}


@pytest.mark.parametrize("profile", NAMES)
def test_a_path_of_the_table_is_there_from_its_profile_on(bake: Bake, profile: str) -> None:
    for other in NAMES:
        project = bake(profile=other)
        for listed in PROFILES[profile]:
            path = listed.replace("PACKAGE", f"src/{project.package}")
            path = re.sub(rf"^{re.escape(EDITOR_FILES)}/\w+/", "", path)
            assert (project.root / path).exists() == (NAMES.index(other) >= NAMES.index(profile)), path


@pytest.mark.parametrize("profile", NAMES)
def test_editors_start_what_there_is(bake: Bake, profile: str) -> None:
    project = bake(profile=profile)
    launch = json.loads(project.read(".vscode/launch.json"))
    parts = {"serve": "production/service", "report": "research/views"}
    there = {name for name, path in parts.items() if (project.root / "src" / project.package / path).exists()}
    assert {row["name"] for row in launch["configurations"]} & set(parts) == there
    assert {name for name in parts if f".run/{name}.run.xml" in project.files} == there


# --- how large they are


@pytest.fixture(scope="module")
def sizes(bake: Bake) -> dict[str, Size]:
    return {name: measure(bake(profile=name).root) for name in NAMES}


@pytest.mark.parametrize("profile", NAMES)
def test_a_profile_stays_small(sizes: dict[str, Size], profile: str) -> None:
    size, (files, lines) = sizes[profile], LIMITS[profile]
    assert size.files <= files, table(size)
    assert size.total <= lines, table(size)


def test_the_page_on_decisions_states_the_sizes(sizes: dict[str, Size]) -> None:
    page = (TEMPLATE / "docs" / "explanation" / "decisions.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+) \| ([\d,]+) \| ([\d,]+) \|$", page, re.MULTILINE)
    stated = {name: [int(number.replace(",", "")) for number in numbers] for name, *numbers in rows}
    assert stated.keys() == sizes.keys()
    for name, size in sizes.items():
        assert stated[name] == pytest.approx([size.files, size.total], rel=0.02), table(*sizes.values())


# --- moving up


def edited(project: Project) -> dict[str, bytes]:
    """Edit a project as its user may, in each kind of file, and commit it; what it then is."""
    package = project.root / "src" / project.package
    for path in (package / "shared" / "features.py", package / "cli.py", project.root / "README.md"):
        with path.open("a", encoding="utf-8") as file:
            file.write("\n\n# Ours\n")
    (package / "research" / "experiments" / "ours.py").write_text("# %% Ours\n", encoding="utf-8")
    (project.root / "docs" / "runbook.md").unlink()
    own = '    {\n      "name": "ours",\n      "type": "node"\n    },\n'
    change(
        project.root / ".vscode" / "launch.json",
        '    {\n      "name": "attach"',
        f'{own}    {{\n      "name": "attach"',
    )
    publish(project.root, "Ours")
    return contents(project)


def contents(project: Project) -> dict[str, bytes]:
    """Every file with its bytes."""
    return {name: (project.root / name).read_bytes() for name in Project(project.root).files}


def move(project: Project, profile: str, status: int = 0) -> str:
    """What the session says when a project is to move up."""
    line = (sys.executable, "tools/update.py", "--profile", profile)
    result = run(*line, cwd=project.root, check=False)
    assert result.returncode == status, result.stdout + result.stderr
    return result.stdout + result.stderr


@pytest.mark.parametrize(
    ("small", "large"),
    [("minimal", "full"), *(pytest.param(*step, marks=pytest.mark.slow) for step in STEPS)],
)
def test_a_project_moves_up_with_its_users_edits(history: History, tmp_path: Path, small: str, large: str) -> None:
    before, after = history.at(NOW, {"profile": small}), history.at(NOW, {"profile": large})
    project = copy(before, tmp_path)
    mine = edited(project)
    move(project, large)
    old, new, now = contents(before), contents(after), contents(project)
    untouched = {name for name in new if name not in old or mine.get(name) == old[name]}
    assert {name: now.get(name) for name in untouched} == {name: new[name] for name in untouched}
    kept = {name for name in mine if name not in untouched} - {".vscode/launch.json"}
    assert {name: now[name] for name in kept} == {name: mine[name] for name in kept}
    assert set(now) == set(mine) | (set(new) - set(old))
    assert json.loads(now[".cruft.json"])["context"]["cookiecutter"]["profile"] == large
    launches = json.loads(now[".vscode/launch.json"])["configurations"]
    assert {row["name"] for row in launches} > {"ours", "serve", "report"}
    publish(project.root, "Move up")
    run(sys.executable, "tools/update.py", "--to", NEXT, cwd=project.root)
    assert set(contents(history.at(NEXT, {"profile": large}))) - set(contents(project)) == {"docs/runbook.md"}


@pytest.mark.parametrize(("now", "wanted"), [("full", "standard"), ("standard", "minimal"), ("full", "full")])
def test_a_project_does_not_move_down_or_stay(history: History, tmp_path: Path, now: str, wanted: str) -> None:
    project = copy(history.at(NOW, {"profile": now}), tmp_path)
    said = move(project, wanted, status=2)
    assert said == f"No update: the project's profile is {now}, and only a larger one can follow.\n"
    assert project.git("status", "--porcelain") == ""


def test_a_project_with_changes_that_are_not_committed_does_not_move(history: History, tmp_path: Path) -> None:
    project = copy(history.at(NOW, {"profile": "minimal"}), tmp_path)
    (project.root / "draft.py").touch()
    assert "commit or stash" in move(project, "full", status=2)


def test_a_file_of_the_user_where_a_larger_profile_has_one_stays(history: History, tmp_path: Path) -> None:
    project = copy(history.at(NOW, {"profile": "minimal"}), tmp_path)
    experiment = project.root / "src" / project.package / "research" / "experiments" / "ablation.py"
    experiment.write_text("# %% Ours\n", encoding="utf-8")
    (project.root / "Dockerfile").write_text("# Ours\n", encoding="utf-8")
    publish(project.root, "Ours")
    assert move(project, "full", status=1).splitlines()[1:] == ["  Dockerfile"]
    assert experiment.read_text(encoding="utf-8") == "# %% Ours\n"


# --- that they work


@pytest.mark.slow
def test_a_minimal_project_runs_and_passes_its_own_checks(bake: Bake, tmp_path: Path) -> None:
    own = {"UV_PROJECT_ENVIRONMENT": "", "VIRTUAL_ENV": ""}
    project = copied(bake(profile="minimal"), tmp_path)
    run("uv", "sync", "--locked", cwd=project.root, env=own)
    said = run("uv", "run", project.slug, "run", cwd=project.root, env=own).stderr
    assert "version 1 is champion" in said
    run("uv", "run", "nox", cwd=project.root, env=own)
    assert project.git("status", "--porcelain") == ""
