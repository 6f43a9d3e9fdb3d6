"""A new project installs, runs and passes its own checks, by uv and by pip, on this machine."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from baking import Project, run
from container import build

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


def shapes(text: str) -> list[str]:
    """Lines without their numbers and their spacing."""
    return [" ".join(re.sub(r"[-+]?\d[\d.,:-]*", "N", line).split()) for line in text.splitlines()]


def pattern(shown: str) -> str:
    """What a page shows as a pattern of shapes; a line of three dots is any number of lines."""
    return "".join(r"(?:.*\n)*" if line == "..." else rf"{re.escape(line)}\n" for line in shapes(shown))


def test_by_uv_a_project_runs_and_passes_its_own_checks(mine: Project) -> None:
    run("uv", "sync", "--locked", cwd=mine.root, env=OWN)
    said = run("uv", "run", "--quiet", mine.slug, "run", cwd=mine.root, env=OWN).stderr
    (shown,) = re.findall(r"^```text\n(ingested.*?)^```$", mine.read("README.md"), re.DOTALL | re.MULTILINE)
    assert re.search(f"^{pattern(shown)}\\Z", "\n".join([*shapes(said), ""]), re.MULTILINE)  # its steps come before
    run("uv", "run", "nox", cwd=mine.root, env=OWN)
    assert mine.git("status", "--porcelain") == ""


@pytest.mark.skipif(os.name == "nt", reason="the documented commands are those of a Unix shell")
def test_by_pip_a_project_runs_as_its_guide_says(mine: Project) -> None:
    *install, tests = commands(mine.read("CONTRIBUTING.md"))
    assert tests == "pytest"
    script = "\n".join(["set -e", *install, f"{mine.slug} run", f"{tests} --collect-only --quiet"])
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    run("bash", "-c", script, cwd=mine.root, env={**OWN, "PATH": path})


@pytest.mark.skipif(os.name == "nt", reason="an image is built by a Unix shell")
def test_the_steps_of_the_container_make_a_service_of_what_runs_alone(
    mine: Project, environment: Path, tmp_path: Path
) -> None:
    source = {"PYTHONPATH": str(mine.root / "src")}
    run(environment / "python", "-m", mine.package, "run", cwd=mine.root, env=source)
    stage = build(mine.root, tmp_path / "stages")
    user, _, group = stage.user.partition(":")
    assert int(user) > 0
    assert int(group) > 0
    installed = sum(file.stat().st_size for file in (stage.root / ".venv").rglob("*") if file.is_file())
    compiled = sum(file.stat().st_size for file in (stage.root / ".venv").rglob("*.pyc"))
    assert installed - compiled < 500 * 2**20, f"{(installed - compiled) / 2**20:.0f} MB"
    packages = {path.name for path in (stage.root / ".venv").glob("lib/*/site-packages/*")}
    assert packages & {"sklearn", "mlflow", "matplotlib", "pandas", "pytest"} == set()
    shutil.copytree(mine.root / "data" / "lake", stage.root / "data" / "lake")
    python, *arguments = stage.command
    host, port = "127.0.0.1", free_port()
    arguments = [host if word == "0.0.0.0" else word for word in arguments]  # noqa: S104 - it is taken away
    line = [str(stage.root / ".venv/bin" / python), *arguments, "--port", str(port)]
    with subprocess.Popen(line, cwd=stage.root, env=stage.env, stderr=subprocess.PIPE, text=True) as service:
        try:
            said = service.stderr.readline() if service.stderr else ""
            assert said.split() == ["serve", "version", "1", "at", f"http://{host}:{port}"], said + str(service.poll())
            health = [word.replace("8000", str(port)) for word in stage.health[1:]]
            proxy = dict.fromkeys(("http_proxy", "HTTP_PROXY"), f"http://{host}:9")  # Docker hands one to containers
            run(stage.root / ".venv/bin/python", *health, cwd=stage.root, env=stage.env | proxy)
            assert answered(port)["version"] == 1
        finally:
            service.terminate()
        assert service.wait(timeout=60) == 0


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def answered(port: int) -> dict[str, Any]:
    """The service's answer to its own example."""
    with closing(HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("GET", "/openapi.json")
        post = json.loads(connection.getresponse().read())["paths"]["/predict"]["post"]
        example = post["requestBody"]["content"]["application/json"]["examples"]["rows"]["value"]
        now = datetime(2013, 12, 31, 12, tzinfo=UTC).isoformat()
        then = {"scheduled": now, "local_date": "2013-12-31", "local_minute": 420}
        example["rows"] = [row | then for row in example["rows"]]
        connection.request("POST", "/predict", json.dumps(example), {"Content-Type": "application/json"})
        response = connection.getresponse()
        body: dict[str, Any] = json.loads(response.read())
    assert response.status == 200, body
    return body
