"""The weekly pipelines propose an update on one branch: the merge, or a draft that lists what a person must merge."""

import os
import sys
from pathlib import Path

import pytest
import yaml
from baking import Bake, Project, publish, run
from history import LATER, NEXT, NOW, History, change, copy

BRANCH = "template-update"
# Stands in for GitHub's command: it knows of one request once it has made one, and writes down what it is asked for.
GH = """#!/bin/sh
echo "$@" >> "$GH_LOG"
case "$1 $2" in
  "pr list") if grep -q "pr create" "$GH_LOG"; then echo 1; else echo 0; fi ;;
esac
"""


@pytest.fixture
def project(history: History, tmp_path: Path) -> Project:
    """A project in a pipeline's checkout, with a host that it can push to."""
    run("git", "clone", "--quiet", "--bare", history.at(NOW).root, tmp_path / "host.git", cwd=tmp_path)
    project = copy(history.at(NOW), tmp_path)
    project.git("remote", "set-url", "origin", str(tmp_path / "host.git"))
    return project


def propose(project: Project, release: str, status: int) -> str:
    """Do what the pipelines do; what was said."""
    command = (sys.executable, "tools/update.py", "--to", release, "--push", BRANCH)
    result = run(*command, cwd=project.root, check=False)
    assert result.returncode == status, result.stdout + result.stderr
    return result.stdout


def test_a_merge_is_one_commit_on_the_branch_and_a_newer_one_takes_its_place(
    project: Project, history: History
) -> None:
    for release in (NEXT, LATER):
        propose(project, release, 0)
        assert project.git("log", "--format=%s", f"main..origin/{BRANCH}") == "Update from the template\n"
        changed = project.git("diff", "--name-only", "main", f"origin/{BRANCH}").splitlines()
        assert {".cruft.json", "tools/added.py", "by-the-hook.txt"} <= set(changed)
        project.git("switch", "--quiet", "main")
    assert project.git("show", f"origin/{BRANCH}:tools/added.py") == history.at(LATER).read("tools/added.py")


def test_a_conflict_is_a_draft_without_marks_and_left_alone_once_someone_works_on_it(project: Project) -> None:
    change(project.root / "pyproject.toml", '"ruff>=0.16"', '"ruff>=0.16,<1"')
    publish(project.root, "Ours")
    propose(project, NEXT, 1)
    subject, *body = project.git("log", "-1", "--format=%B", f"origin/{BRANCH}").strip().splitlines()
    assert subject == "Draft: Update from the template"
    assert body[-1] == "- pyproject.toml"
    assert project.git("diff", "main", f"origin/{BRANCH}") == ""
    assert project.git("status", "--porcelain") == ""
    project.git("-c", "user.email=ada@example.com", "commit", "--quiet", "--allow-empty", "--message", "Resolve")
    project.git("push", "--quiet", "origin", BRANCH)
    project.git("switch", "--quiet", "main")
    assert propose(project, NEXT, 0) == f"Someone works on {BRANCH}; it is left alone.\n"


@pytest.mark.skipif(os.name == "nt", reason="the pipelines run in a Unix shell")
@pytest.mark.parametrize("subject", ["Update from the template", "Draft: Update from the template"])
def test_github_is_asked_for_one_request(bake: Bake, tmp_path: Path, subject: str) -> None:
    steps = yaml.safe_load(bake().read(".github/workflows/update.yml"))["jobs"]["update"]["steps"]
    script = tmp_path / "gh"
    script.write_text(GH, encoding="utf-8")
    script.chmod(0o755)
    log = tmp_path / "log"
    log.touch()
    repository = tmp_path / "repository"
    repository.mkdir()
    publish_empty(repository, subject)
    environment = {"PATH": os.pathsep.join([str(tmp_path), os.environ["PATH"]]), "GH_LOG": str(log)}
    for _ in range(2):
        run("bash", "-e", "-c", steps[-1]["run"], cwd=repository, env=environment)
    asked = [line.split(" --")[0] for line in log.read_text(encoding="utf-8").splitlines()]
    assert asked == ["pr list", "pr create", "pr list", f"pr edit {BRANCH}", f"pr ready {BRANCH}"]
    assert ("--draft" in log.read_text(encoding="utf-8")) == subject.startswith("Draft")


def publish_empty(repository: Path, subject: str) -> None:
    """Make a repository that stands on the branch with one commit."""
    run("git", "init", "--quiet", f"--initial-branch={BRANCH}", cwd=repository)
    run("git", "commit", "--quiet", "--allow-empty", "--message", f"{subject}\n\n- a.py", cwd=repository)


@pytest.mark.parametrize(("ci", "path"), [("github", ".github/workflows/update.yml"), ("gitlab", ".gitlab-ci.yml")])
def test_both_pipelines_have_the_whole_history_and_call_the_same(bake: Bake, ci: str, path: str) -> None:
    text = bake(ci=ci).read(path)
    assert f"tools/update.py --push {BRANCH}" in text
    assert "fetch-depth: 0" in text or "GIT_DEPTH: 0" in text
    assert "restore --staged" not in text
