"""A project takes a newer template without losing a byte of its user's work, by cruft and by `nox -s update`."""

import json
import os
import sys
import tomllib
from collections.abc import Callable
from fnmatch import fnmatch
from itertools import product
from pathlib import Path

import pytest
from baking import ROWS, Project, make, publish, run
from history import LATER, NEXT, NOW, RELEASES, RENAMED, History, change, copy

TRANSITIONS = [*((release, NOW) for release in RELEASES), (NOW, NEXT)]


# Ways in which users edit: each leaves its edits for a commit.


def nothing(project: Project) -> None:
    """No edit at all."""


def seeded(project: Project) -> None:
    """The user's own modules, pages and settings are rewritten, and new ones stand beside them."""
    package = project.root / "src" / project.package
    for path in (
        *(package / "shared" / f"{name}.py" for name in ("contract", "features", "model", "collect", "extensions")),
        *(package / "research" / "experiments" / f"{name}.py" for name in ("first_look", "mine")),
        *(project.root / "config" / f"{name}.toml" for name in ("params", "acceptance", "settings")),
        *(project.root / name for name in ("README.md", "docs/runbook.md", "docs/ours.md", "data/example/README.md")),
        project.root / "tests" / "shared" / "test_problem.py",
    ):
        path.write_text(f"# {path.name}, ours\n", encoding="utf-8")


def packages(project: Project) -> None:
    """Three packages for production and one for research are added."""
    for package in ("humanize", "attrs", "rich"):
        run("uv", "add", "--quiet", "--no-sync", package, cwd=project.root)
    run("uv", "add", "--quiet", "--no-sync", "--dev", "pygments", cwd=project.root)


def deletion(project: Project) -> None:
    """Files of both kinds are deleted: one that the template goes on changing, and the user's own."""
    (project.root / "src" / project.package / "core" / "features" / "windows.py").unlink()
    (project.root / "docs" / "data-dictionary.md").unlink()


def machinery(project: Project) -> None:
    """Files of the template are edited: some that it goes on changing, one that it doesn't, one that it renames."""
    package = project.root / "src" / project.package
    for path in (package / "cli.py", package / RENAMED[0], project.root / "noxfile.py"):
        with path.open("a", encoding="utf-8") as file:
            file.write("\n\nOURS = 1\n")
    moment = 'T = TypeVar("T")\n'
    change(
        package / "core" / "store" / "lake.py", moment, f"{moment}OURS = 1\n"
    )  # in the middle, as releases change it
    change(package / "cli.py", "\n\nimport logging\n", "\n# Ours\n\nimport logging\n")  # near what releases change
    change(project.root / "pyproject.toml", "max-args = 7", "max-args = 8")
    change(project.root / ".gitignore", "# Data stay", "/ours/\n# Data stay")
    settings = project.root / ".vscode" / "settings.json"
    if settings.exists():  # where the question `ide` chose it: below the last key, as releases put theirs above
        change(settings, '/mlruns/**": true\n  }\n', '/mlruns/**": true\n  },\n  "editor.tabSize": 8\n')


def rename(project: Project) -> None:
    """A file of the template gets another name."""
    (project.root / "CONTRIBUTING.md").rename(project.root / "HACKING.md")


def everything(project: Project) -> None:
    """All of it at once."""
    for way in (seeded, packages, deletion, machinery, rename):
        way(project)


Edit = Callable[[Project], None]
EDITS: list[Edit] = [nothing, seeded, packages, deletion, machinery, rename, everything]


def by_cruft(project: Project, release: str) -> None:
    """Update as cruft's documentation says."""
    run("cruft", "update", "--skip-apply-ask", "--checkout", release, cwd=project.root)
    run("uv", "lock", cwd=project.root)


def by_session(project: Project, release: str) -> None:
    """Update as the project's own session does."""
    run(sys.executable, "tools/update.py", "--to", release, cwd=project.root)


Runner = Callable[[Project, str], None]


def is_users(project: Project, name: str) -> bool:
    """Tell whether a path is on the list of what is the user's."""
    return any(fnmatch(name, pattern) for pattern in project.pyproject["tool"]["cruft"]["skip"])


def lines(content: bytes) -> set[str]:
    """The lines of a text that say something."""
    return {line for line in content.decode().splitlines() if line.strip()}


def contents(project: Project) -> dict[str, bytes]:
    """Every file with its bytes, but the record, which cruft writes, and the lock, which uv writes."""
    names = set(Project(project.root).files) - {".cruft.json", "uv.lock"}
    return {name: (project.root / name).read_bytes() for name in names}


def renamed(files: dict[str, bytes], package: str, new: dict[str, bytes]) -> dict[str, bytes]:
    """The same files under the names that the new release has for them."""
    before, after = (f"src/{package}/{name}" for name in RENAMED)
    return {after if name == before and after in new else name: content for name, content in files.items()}


def check_tree(after: Project, mine: dict[str, bytes], old: Project, new: Project) -> None:
    """Each file holds what the user's and the template's changes make together."""
    theirs, merged = contents(new), contents(after)
    mine, base = renamed(mine, old.package, theirs), renamed(contents(old), old.package, theirs)
    for name in {*mine, *base, *theirs, *merged}:
        yours, before, now, result = mine.get(name), base.get(name), theirs.get(name), merged.get(name)
        if is_users(after, name) or before == now or (yours is None) != (before is None):
            assert result == yours, f"{name} is the user's, and was touched"
        elif yours == before:
            assert result == now, f"{name} is the template's, and is not what the release makes"
        else:
            assert yours is not None and before is not None and now is not None and result is not None  # noqa: PT018
            for side in (yours, now):
                assert lines(side) - lines(before) <= lines(result), f"{name} lost lines"
                assert not (lines(before) - lines(side)) & lines(result), f"{name} has lines back"


def check_record(project: Project, release: str, history: History) -> None:
    """The record names the release's commit, and every answer, also to questions that are new."""
    record = json.loads(project.read(".cruft.json"))
    assert record["commit"] == run("git", "rev-parse", release, cwd=history.root).stdout.strip()
    questions = json.loads(run("git", "show", f"{release}:cookiecutter.json", cwd=history.root).stdout)
    assert {name for name in questions if not name.startswith("_")} <= set(record["context"]["cookiecutter"])


def versions(project: Project) -> dict[str, str]:
    """The versions that the lock pins."""
    return {package["name"]: package["version"] for package in tomllib.loads(project.read("uv.lock"))["package"]}


def check_lock(project: Project, pinned: dict[str, str]) -> None:
    """The lock fits, and pins what it pinned."""
    run("uv", "lock", "--check", "--offline", cwd=project.root)
    assert pinned.items() <= versions(project).items()


def update(project: Project, runner: Runner, history: History, old: str, new: str) -> None:
    """Commit what the user did, update, and look at everything."""
    answers = json.loads(project.read(".cruft.json"))["context"]["cookiecutter"]
    answers = {name: answer for name, answer in answers.items() if not name.startswith("_")}
    if project.git("status", "--porcelain"):
        publish(project.root, "Ours")
    mine, pinned = contents(project), versions(project)
    runner(project, new)
    assert project.git("diff", "--name-only", "--diff-filter=U") == ""
    assert [name for name in Project(project.root).files if name.endswith(".rej")] == []
    check_tree(project, mine, history.at(old, answers), history.at(new, answers))
    check_record(project, new, history)
    check_lock(project, pinned)


SAMPLE = {(by_session, nothing), (by_session, packages), (by_session, everything), (by_cruft, everything)}


@pytest.mark.parametrize(("old", "new"), TRANSITIONS)
@pytest.mark.parametrize(
    ("runner", "edit"),
    [
        pytest.param(*pair, id="-".join(way.__name__ for way in pair), marks=[] if pair in SAMPLE else pytest.mark.slow)
        for pair in product([by_session, by_cruft], EDITS)
    ],
)
def test_an_update_keeps_both_sides(  # noqa: PLR0913, PLR0917 - a row of the table
    history: History, tmp_path: Path, old: str, new: str, runner: Runner, edit: Edit
) -> None:
    project = copy(history.at(old), tmp_path)
    edit(project)
    update(project, runner, history, old, new)


@pytest.mark.slow
@pytest.mark.parametrize(("old", "new"), TRANSITIONS)
@pytest.mark.parametrize("answers", ROWS, ids=["-".join(value or "none" for value in row.values()) for row in ROWS])
def test_an_update_fits_every_set_of_answers(
    history: History, tmp_path: Path, old: str, new: str, answers: dict[str, str]
) -> None:
    project = copy(history.at(old, answers), tmp_path)
    everything(project)
    update(project, by_session, history, old, new)


@pytest.mark.slow
@pytest.mark.parametrize("release", RELEASES)
def test_a_project_that_nobody_edited_passes_its_own_tests_after_an_update(
    history: History, environment: Path, tmp_path: Path, release: str
) -> None:
    """What is the user's stays as that release made it, beside machinery and tests that are new."""
    project = copy(history.at(release), tmp_path)
    by_session(project, NOW)
    source = {"PYTHONPATH": str(project.root / "src"), "OMP_NUM_THREADS": "1"}
    run(environment / "pytest", "--numprocesses=auto", cwd=project.root, env=source)


def test_a_shallow_clone_is_updated_like_another(history: History, tmp_path: Path) -> None:
    mine = copy(history.at(NOW), tmp_path / "mine")
    machinery(mine)
    publish(mine.root, "Ours")
    update(copy(mine, tmp_path / "shallow", "--depth=1"), by_session, history, NOW, NEXT)


def make_in_a_folder(history: History, repository: Path) -> Project:
    """A small project in a folder of a repository that is there already."""
    (repository / "README.md").write_text("# Ours\n", encoding="utf-8")
    publish(repository, "Ours")
    return make(history.address, repository / "models", {"profile": "minimal"}, checkout=NOW)


@pytest.mark.parametrize("arguments", [("--to", NEXT), ("--profile", "standard")], ids=" ".join)
def test_a_project_in_a_folder_of_a_repository_is_updated(
    history: History, tmp_path: Path, arguments: tuple[str, str]
) -> None:
    project = make_in_a_folder(history, tmp_path)
    machinery(project)
    publish(tmp_path, "A model")
    said = run(sys.executable, "tools/update.py", *arguments, cwd=project.root).stdout
    assert said == "Merged. Look at `git diff HEAD`, then commit.\n"
    changed = project.git("diff", "HEAD", "--name-only").splitlines()
    assert {name.partition("/")[0] for name in changed} == {"models"}
    assert project.git("ls-files", "--others", "--exclude-standard") == ""
    assert "OURS = 1" in project.read("noxfile.py")


def test_what_a_person_must_merge_in_a_folder_of_a_repository_is_listed(history: History, tmp_path: Path) -> None:
    project = make_in_a_folder(history, tmp_path)
    script, deleted = f"src/{project.package}/cli.py", "tests/test_architecture.py"
    for name in (script, deleted):
        (project.root / name).write_text("# ours\n" + project.read(name), encoding="utf-8")
    publish(tmp_path, "A model")
    names = [script, f"{script}.rej", deleted]
    assert refusal(project, "--to", NEXT, status=1).splitlines()[1:] == [f"  {name}" for name in names]


def test_a_second_update_merges_what_the_first_merged_also_in_a_fresh_clone(history: History, tmp_path: Path) -> None:
    mine = copy(history.at(NOW), tmp_path / "mine")
    machinery(mine)
    update(mine, by_session, history, NOW, NEXT)
    publish(mine.root, "Update")
    update(copy(mine, tmp_path / "clone"), by_session, history, NEXT, LATER)


def test_a_deletion_that_the_users_edit_prevents_is_listed(history: History, tmp_path: Path) -> None:
    project = copy(history.at(NOW), tmp_path)
    edited = project.root / "tests" / "test_architecture.py"
    edited.write_text(edited.read_text(encoding="utf-8") + "\n\nOURS = 1\n", encoding="utf-8")
    publish(project.root, "Ours")
    assert "  tests/test_architecture.py" in refusal(project, "--to", NEXT, status=1).splitlines()
    assert edited.read_text(encoding="utf-8").endswith("OURS = 1\n")


def rewrite_record(project: Project, **values: str) -> None:
    """Write other values into the record, and commit."""
    record = {**json.loads(project.read(".cruft.json")), **values}
    (project.root / ".cruft.json").write_text(json.dumps(record), encoding="utf-8")
    publish(project.root, "Another record")


def refusal(project: Project, *arguments: str, status: int = 2) -> str:
    """What the session says where it doesn't update."""
    result = run(sys.executable, "tools/update.py", *arguments, cwd=project.root, check=False)
    assert result.returncode == status, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    return result.stdout + result.stderr


def test_where_both_edited_a_line_the_session_fails_and_lists_the_file(history: History, tmp_path: Path) -> None:
    project = copy(history.at(NOW), tmp_path)
    script = f"src/{project.package}/cli.py"
    change(project.root / "pyproject.toml", '"ruff>=0.16"', '"ruff>=0.16,<1"')
    (project.root / script).write_text("# ours\n" + project.read(script), encoding="utf-8")
    publish(project.root, "Ours")
    said = refusal(project, "--to", NEXT, status=1)
    assert said.splitlines()[1:] == ["  pyproject.toml", f"  {script}"]
    assert "<<<<<<<" in project.read("pyproject.toml")


def test_what_is_asked_for_by_default_is_the_newest_release_and_never_an_older_one(
    history: History, tmp_path: Path
) -> None:
    project = copy(history.at(LATER), tmp_path)
    assert refusal(project, status=0) == "Nothing is newer than what the project has.\n"
    assert "never goes backwards" in refusal(project, "--to", NOW)
    assert "has no v9" in refusal(project, "--to", "v9")
    assert project.git("status", "--porcelain") == ""


def test_without_tags_the_newest_release_is_the_one_in_the_table(history: History, tmp_path: Path) -> None:
    folder = tmp_path / "template.git"
    run("git", "clone", "--quiet", "--no-tags", "--branch", "main", history.address, folder, cwd=tmp_path)
    commits = {tag: run("git", "rev-parse", tag, cwd=history.root).stdout.strip() for tag in (NOW, NEXT)}
    with (folder / "releases.toml").open("a", encoding="utf-8") as table:
        for tag, commit in commits.items():
            table.write(f'\n[[release]]\nversion = "{tag[1:]}"\ncommit = "{commit}"\n')
    publish(folder, "Record releases")
    project = copy(history.at(NOW), tmp_path)
    rewrite_record(project, template=str(folder))
    run(sys.executable, "tools/update.py", cwd=project.root)
    assert json.loads(project.read(".cruft.json"))["commit"] == commits[NEXT]


def test_a_project_between_two_releases_stays_where_it_is(history: History, tmp_path: Path) -> None:
    folder = tmp_path / "template.git"
    run("git", "clone", "--quiet", history.address, folder, cwd=tmp_path)
    run("git", "tag", "--delete", LATER, cwd=folder)
    project = make(folder, tmp_path, {})
    assert (
        json.loads(project.read(".cruft.json"))["commit"] == run("git", "rev-parse", "main", cwd=folder).stdout.strip()
    )
    assert refusal(project, status=0) == "Nothing is newer than what the project has.\n"


def test_no_setting_of_git_and_no_hook_keeps_an_update_from_working(
    history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = copy(history.at(NOW), tmp_path)
    config = Path(os.environ["GIT_CONFIG_GLOBAL"]).read_text(encoding="utf-8")
    config += "[safe]\nbareRepository = explicit\n[status]\nshowUntrackedFiles = no\n"
    (tmp_path / "git").write_text(config, encoding="utf-8")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "git"))
    (project.root / "draft.py").touch()
    assert "commit or stash" in refusal(project)
    (project.root / "draft.py").unlink()
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    by_session(project, NEXT)
    monkeypatch.delenv("GIT_INDEX_FILE")
    check_record(project, NEXT, history)


def test_what_git_refuses_is_told_as_git_says_it(
    history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = copy(history.at(NOW), tmp_path)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    assert "dubious ownership" in refusal(project)
    monkeypatch.setenv("PATH", "nowhere")
    assert refusal(project) == "No update: git can't be started: No such file or directory.\n"


def test_what_keeps_an_update_from_starting_is_one_clear_line(history: History, tmp_path: Path) -> None:
    project = copy(history.at(NOW), tmp_path)
    (project.root / "draft.py").touch()
    assert "commit or stash" in refusal(project)
    (project.root / "draft.py").unlink()
    address = json.loads(project.read(".cruft.json"))["template"]
    for fault, words in (({"template": f"{address}/nowhere"}, "can't be reached"), ({"commit": "0" * 40}, "lost")):
        rewrite_record(project, **{"template": address, **fault})
        said = refusal(project)
        assert words in said
        assert said.count("\n") == 1
    (project.root / ".cruft.json").unlink()
    assert "cruft link" in refusal(project)
