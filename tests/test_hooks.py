"""The hooks, as the plain Python that they are, and through Cookiecutter."""

import json
import os
import re
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import pytest
from baking import CHOICES, LONGEST, QUESTIONS, SHORTEST, TEMPLATE, Bake, Project, run
from cookiecutter.exceptions import FailedHookException

from hooks import post_gen_project, pre_gen_project

ANSWERS = {
    "project_name": "My ML Project",
    "project_slug": "my-ml-project",
    "description": "It predicts.",
    "author_name": "Ada",
    "owner": "",
    **{question: choices[0] for question, choices in CHOICES.items()},
    "ide": "none",  # test_ide.py
}


def refusal(capsys: pytest.CaptureFixture[str], **answers: str) -> str:
    """The one line with which the hook refuses these answers, or nothing."""
    status = pre_gen_project.main({**ANSWERS, **answers})
    out, err = capsys.readouterr()
    assert out == ""
    assert status == (1 if err else 0)
    assert err.count("\n") == status
    assert err.isascii()
    return err


@pytest.mark.parametrize("slug", [SHORTEST, "my-ml-project", LONGEST, "a1-b2-c3"])
def test_a_sound_slug_is_accepted(capsys: pytest.CaptureFixture[str], slug: str) -> None:
    assert refusal(capsys, project_slug=slug) == ""


@pytest.mark.parametrize(
    ("slug", "reason"),
    [
        ("", "small letters"),
        ("1st-project", "a letter first"),
        ("My-Project", "small letters"),
        ("my_project", "single hyphens"),
        ("my--project", "single hyphens"),
        ("my-project-", "single hyphens"),
        ("-my-project", "a letter first"),
        ("my project", "small letters"),
        ("my-project\n", "small letters"),
        ("../evil", "small letters"),
        ("größe", "small letters"),
        ("class", "word of the Python language"),
        ("match", "word of the Python language"),
        ("json", "standard library"),
        ("polars", "installs"),
        ("scikit-learn", "installs"),
        ("sklearn", "installs"),
        ("pydantic-settings", "installs"),
        ("tests", "folder or a command"),
        ("src", "folder or a command"),
        ("data", "folder or a command"),
        ("uv", "folder or a command"),
        ("con", "Windows"),
        ("lpt1", "Windows"),
        ("x" * 41, "41 characters"),
    ],
)
def test_a_slug_that_cannot_work_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], slug: str, reason: str
) -> None:
    line = refusal(capsys, project_slug=slug)
    assert reason in line
    assert "project_slug=" in line


@pytest.mark.parametrize("question", ["project_name", "description", "author_name"])
@pytest.mark.parametrize("text", ["{{ 7*7 }}", "{% raw %}", "{# #}", "a\0b", "a\x1bb", "a\udc80b"])
def test_text_that_would_run_or_break_is_refused(capsys: pytest.CaptureFixture[str], question: str, text: str) -> None:
    assert refusal(capsys, **{question: text}).startswith(question)


@pytest.mark.parametrize(
    "text", ['"quoted"', "back\\slash", "$(id) `id`", "a\nb\tc", "äöü 🚀 日本", "{'a': 1}", "x" * 200]
)
def test_odd_text_is_accepted(capsys: pytest.CaptureFixture[str], text: str) -> None:
    assert refusal(capsys, project_name=text, description=text, author_name=text) == ""


@pytest.mark.parametrize("owner", ["", "some-team", "Group/sub.group/team_1"])
def test_an_owner_is_a_name_as_in_an_address(capsys: pytest.CaptureFixture[str], owner: str) -> None:
    assert refusal(capsys, owner=owner) == ""


@pytest.mark.parametrize("owner", ["@team", "a b", "team/", "https://example.com/team", "a\nb"])
def test_an_owner_that_is_no_name_is_refused(capsys: pytest.CaptureFixture[str], owner: str) -> None:
    assert "owner" in refusal(capsys, owner=owner)


def test_an_empty_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "give the project a name" in refusal(capsys, project_name=" ")


def test_an_empty_author_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "author_name is empty" in refusal(capsys, author_name=" ")


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("My ML Project", "my-ml-project"),
        ("Größe & Maß", "grosse-mass"),
        ('Späti\'s "Net" \\ 2.0', "spati-s-net-2-0"),
        ("🚀🚀", "my-ml-project"),
        ("word " * 40, "word-word-word-word-word-word-word-word"),
        ("x" * 200, "x" * 40),
    ],
)
def test_a_name_that_attacks_becomes_a_sound_slug(bake: Bake, name: str, slug: str) -> None:
    assert bake(project_name=name).slug == slug


@pytest.mark.parametrize("name", ["class", "1st Project!", "pytest", "con"])
def test_a_name_that_cannot_work_leaves_nothing_behind(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], bake: Bake, name: str
) -> None:
    with pytest.raises(FailedHookException):
        bake(project_name=name)
    lines = [line for line in capfd.readouterr().err.splitlines() if "choose another" in line]
    assert len(lines) == 1
    assert list(tmp_path.iterdir()) == []


def test_every_question_has_a_prompt_and_there_are_at_most_nine() -> None:
    prompts = json.loads((TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8"))["__prompts__"]
    assert list(prompts) == list(QUESTIONS)
    assert len(QUESTIONS) <= 9


def created(root: Path) -> Path:
    """A folder as Cookiecutter leaves it to the hook, with a pipeline for each host."""
    for name in (".github/workflows/ci.yml", ".gitlab-ci.yml", "CODEOWNERS", "README.md", "uv.lock", "data/lake/x"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("text\n", encoding="utf-8")
    (root / ".gitignore").write_text("/data/\n", encoding="utf-8")
    return root


def git(root: Path, *arguments: str) -> str:
    """What Git prints."""
    return run("git", *arguments, cwd=root).stdout


def test_a_new_project_is_committed_and_told_about_on_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = created(tmp_path / "my-ml-project")
    post_gen_project.main(ANSWERS, root)
    out, err = capsys.readouterr()
    assert out == ""
    assert "uv run my-ml-project run" in err
    assert err.count("Note") == 1  # these answers name no template to record
    assert git(root, "ls-files").split() == [".github/workflows/ci.yml", ".gitignore", "README.md", "uv.lock"]
    assert git(root, "status", "--porcelain") == ""


def test_pruning_twice_is_pruning_once(tmp_path: Path) -> None:
    root = created(tmp_path)
    paths = post_gen_project.unwanted({**ANSWERS, "ci": "none"})
    post_gen_project.prune(root, paths, set())
    post_gen_project.prune(root, paths, set())
    assert sorted(path.name for path in root.iterdir()) == [".gitignore", "README.md", "data", "uv.lock"]


def test_the_users_own_git_settings_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "pre-commit").write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    (hooks / "pre-commit").chmod(0o755)
    (tmp_path / "ignore").write_text("*.md\n", encoding="utf-8")
    config = Path(os.environ["GIT_CONFIG_GLOBAL"]).read_text(encoding="utf-8")
    config += f"[commit]\ngpgsign = true\n[core]\nhooksPath = {hooks}\nexcludesFile = {tmp_path / 'ignore'}\n"
    (tmp_path / "config").write_text(config, encoding="utf-8")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "config"))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    root = created(tmp_path / "project")
    assert post_gen_project.commit(root, "First") is None
    monkeypatch.delenv("GIT_DIR")
    assert "README.md" in git(root, "ls-files")
    assert git(root, "log", "--format=%s") == "First\n"


def test_without_git_a_note_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    post_gen_project.main(ANSWERS, created(tmp_path / "my-ml-project"))
    assert "Note: Git is not installed" in capsys.readouterr().err


def test_without_an_identity_a_note_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config").write_text("[user]\nuseConfigOnly = true\n", encoding="utf-8")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "config"))
    root = created(tmp_path / "my-ml-project")
    post_gen_project.main(ANSWERS, root)
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Note")]
    assert len([note for note in notes if "user.email" in note]) == 1
    assert "README.md" in git(root, "ls-files")


def test_inside_another_work_tree_nothing_is_initialised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    git(tmp_path, "init")
    root = created(tmp_path / "services" / "my-ml-project")
    post_gen_project.main(ANSWERS, root)
    assert not (root / ".git").exists()
    assert git(tmp_path, "ls-files") == ""
    assert "belongs to a Git repository already" in capsys.readouterr().err


def test_where_another_work_tree_ignores_it_the_project_is_its_own(tmp_path: Path) -> None:
    git(tmp_path, "init")
    (tmp_path / ".gitignore").write_text("/demo/\n", encoding="utf-8")
    root = created(tmp_path / "demo" / "my-ml-project")
    assert post_gen_project.commit(root, "First") is None
    assert (root / ".git").is_dir()


def rerendered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder such as an update tool renders in."""
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return created(Path(tempfile.mkdtemp()) / "my-ml-project")


def test_a_rerender_only_prunes_and_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    root = rerendered(tmp_path, monkeypatch)
    post_gen_project.main({**ANSWERS, "_commit": "0" * 40}, root)
    assert capfd.readouterr() == ("", "")
    assert not (root / ".git").exists()
    assert not (root / ".gitlab-ci.yml").exists()


@pytest.mark.parametrize("answers", [ANSWERS, {**ANSWERS, "_commit": "0" * 40}], ids=["by cookiecutter", "by cruft"])
def test_a_user_may_create_below_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: dict[str, str]
) -> None:
    folder = rerendered(tmp_path, monkeypatch).parent
    root = created((folder if "_commit" not in answers else tmp_path / "mine") / "another")
    post_gen_project.main(answers, root)
    assert (root / ".git").is_dir()


def test_two_renders_are_equal(bake: Bake, project: Project) -> None:
    again = bake(project_name="My ML Project", ide="both")
    assert again.files == project.files
    assert all((again.root / name).read_bytes() == (project.root / name).read_bytes() for name in again.files)


@pytest.mark.parametrize("hook", [pre_gen_project, post_gen_project], ids=lambda hook: str(hook.__name__))
def test_a_hook_holds_one_jinja_literal_and_imports_the_standard_library_alone(hook: ModuleType) -> None:
    text = Path(str(hook.__file__)).read_text(encoding="utf-8")
    (mark,) = re.findall(r"\{\{.*?\}\}|\{%|\{#", text)
    assert mark in {"{{ cookiecutter | tojson }}", "{{ cookiecutter.items() | list | tojson }}"}
    modules = set(re.findall(r"^(?:from|import) (\w+)", text, re.MULTILINE))
    assert modules <= sys.stdlib_module_names


def test_files_that_were_there_before_are_neither_deleted_nor_changed(tmp_path: Path) -> None:
    theirs = {
        ".github/workflows/deploy.yml": "name: deploy\n",
        ".github/workflows/ci.yml": "name: ours\n",
        ".gitlab-ci.yml": "job: {}\n",
        "CODEOWNERS": "* @team\n",
        "Dockerfile": "FROM scratch\n",
        "src/ours/production/service/mine.py": "x = 1\n",
        "README.md": "# Ours\n",
        "uv.lock": "version = 1\n",
    }
    for name, text in theirs.items():
        (tmp_path / "ours" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "ours" / name).write_text(text, encoding="utf-8")
    answers = ("project_slug=ours", "ci=none", "profile=minimal")
    options = ("--no-input", "--default-config", "--overwrite-if-exists", "--skip-if-file-exists")
    run(sys.executable, "-m", "cookiecutter", TEMPLATE, *options, "--output-dir", tmp_path, *answers, cwd=tmp_path)
    made = Project(tmp_path / "ours")
    assert {name: made.read(name) for name in theirs} == theirs
    assert "src/ours/core/problem.py" in made.files
    assert {name for name in made.files if name.startswith((".github/", "src/ours/production/service/"))} <= set(theirs)
    assert not (made.root / post_gen_project.BEFORE).exists()
