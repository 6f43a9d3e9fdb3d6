"""What the tests share: projects baked once for each set of answers, and one environment for their tools."""

import json
import os
from pathlib import Path

import pytest
from baking import Bake, Project, copy_template, make, publish, run
from filelock import FileLock
from history import History, write_history


@pytest.fixture(scope="session", autouse=True)
def _own_configuration(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the user's own configuration of Git and Cookiecutter out, and give Git an identity."""
    folder = tmp_path_factory.mktemp("configuration")
    (folder / "git").write_text("[user]\nname = Tester\nemail = tester@example.com\n", encoding="utf-8")
    own = {"cookiecutters_dir": str(folder / "clones"), "replay_dir": str(folder / "replay")}
    (folder / "cookiecutter").write_text(json.dumps(own), encoding="utf-8")
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        del os.environ[name]  # by which a Git hook names its own repository
    os.environ.update(GIT_CONFIG_GLOBAL=str(folder / "git"), GIT_CONFIG_NOSYSTEM="1")
    os.environ.update(dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost"))
    os.environ["COOKIECUTTER_CONFIG"] = str(folder / "cookiecutter")


@pytest.fixture(scope="session")
def bake(tmp_path_factory: pytest.TempPathFactory) -> Bake:
    """Make projects through Cookiecutter itself, each set of answers once."""
    template = copy_template(tmp_path_factory.mktemp("template") / "template")
    publish(template, "This checkout")
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


@pytest.fixture(scope="session")
def history(tmp_path_factory: pytest.TempPathFactory) -> History:
    """The template's releases, past and to come."""
    root = write_history(tmp_path_factory.mktemp("history") / "template.git")
    return History(root, tmp_path_factory.mktemp("made"))
