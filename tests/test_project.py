"""A new project installs, runs and passes its own checks, by uv and by pip, on this machine."""

import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from baking import Project, run

OWN = {"UV_PROJECT_ENVIRONMENT": "", "VIRTUAL_ENV": ""}  # the project's own environment, none around the tests


@pytest.fixture
def mine(project: Project, tmp_path: Path) -> Project:
    """A project to work in."""
    shutil.copytree(project.root, tmp_path / project.slug)
    return Project(tmp_path / project.slug)


def commands(text: str) -> list[str]:
    """The commands of the first console block that holds pip's way of installing."""
    blocks: list[str] = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    (block,) = [block for block in blocks if "--group dev" in block]
    return block.splitlines()


def test_by_uv_a_project_runs_and_passes_its_own_checks(mine: Project) -> None:
    run("uv", "sync", "--locked", cwd=mine.root, env=OWN)
    run("uv", "run", mine.slug, "run", cwd=mine.root, env=OWN)
    run("uv", "run", "nox", cwd=mine.root, env=OWN)
    assert mine.git("status", "--porcelain") == ""


@pytest.mark.skipif(os.name == "nt", reason="the documented commands are those of a Unix shell")
def test_by_pip_a_project_runs_as_its_guide_says(mine: Project) -> None:
    *install, tests = commands(mine.read("CONTRIBUTING.md"))
    assert tests == "pytest"
    script = "\n".join(["set -e", *install, f"{mine.slug} run", f"{tests} --collect-only --quiet"])
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    run("bash", "-c", script, cwd=mine.root, env={**OWN, "PATH": path})
