"""What the tests share: projects baked once for each set of answers, and one environment for their tools."""

import json
import os
import shutil
from pathlib import Path

import pytest
from baking import TEMPLATE, Bake, Project, make, run
from filelock import FileLock


@pytest.fixture(scope="session", autouse=True)
def _own_git(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the user's own Git configuration out, and give Git an identity."""
    config = tmp_path_factory.mktemp("git") / "config"
    config.write_text("[user]\nname = Tester\nemail = tester@example.com\n", encoding="utf-8")
    os.environ.update(GIT_CONFIG_GLOBAL=str(config), GIT_CONFIG_NOSYSTEM="1")


@pytest.fixture(scope="session")
def bake(tmp_path_factory: pytest.TempPathFactory) -> Bake:
    """Make projects through Cookiecutter itself, each set of answers once."""
    template = tmp_path_factory.mktemp("template") / "template"
    caches = shutil.ignore_patterns(".*_cache", "__pycache__", ".venv", ".nox", "demo")
    shutil.copytree(TEMPLATE, template, ignore=caches)
    baked: dict[str, Project] = {}

    def bake_once(**answers: str) -> Project:
        key = json.dumps(answers, sort_keys=True)
        if key not in baked:
            baked[key] = make(template, tmp_path_factory.mktemp("bake"), answers)
        return baked[key]

    return bake_once


@pytest.fixture(scope="session")
def project(bake: Bake) -> Project:
    """The project of the default answers."""
    return bake()


@pytest.fixture(scope="session")
def environment(project: Project, pytestconfig: pytest.Config) -> Path:
    """The environment of a generated project's lock, kept between runs; its tools check every baked project."""
    folder = pytestconfig.cache.mkdir("environment")
    with FileLock(folder / "lock"):
        environment = {"UV_PROJECT_ENVIRONMENT": str(folder / "venv")}
        run("uv", "sync", "--locked", "--all-groups", "--no-install-project", cwd=project.root, env=environment)
    return folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
