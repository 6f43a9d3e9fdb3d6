"""A Dockerfile's steps in plain folders: a stage is a folder, what the base image brings is an environment.

Only the instructions that the project's own file uses are known; any other is an error.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

HOME = "/app"  # the one folder in which all stages work


@dataclass
class Stage:
    """What a stage has done so far."""

    root: Path
    env: dict[str, str]
    user: str = "root"
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)

    def path(self, text: str) -> Path:
        """A path of the image, relative to the folder it works in."""
        return self.root / text.removeprefix(HOME).lstrip("/")


@dataclass(frozen=True)
class Image:
    """An image while it is built.

    Attributes:
        context: The folder that holds Dockerfile and .dockerignore.
        sent: What .dockerignore lets through.
        stages: By name.
    """

    context: Path
    sent: set[str]
    stages: dict[str, Stage] = field(default_factory=dict)


def build(context: Path, folder: Path) -> Stage:
    """Do all steps, and return the last stage.

    Args:
        context: The folder that holds Dockerfile and .dockerignore.
        folder: Where the stages go.
    """
    base = folder / "base"
    subprocess.run([sys.executable, "-m", "venv", str(base)], check=True)
    everything, *sent = (context / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert everything == "*"
    image, name = Image(context, {line.removeprefix("!") for line in sent}), ""
    for line in steps((context / "Dockerfile").read_text(encoding="utf-8")):
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            pinned, _, name = rest.partition(" AS ")
            assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+", pinned), f"{pinned} is not pinned"
            path = os.pathsep.join([str(base / "bin"), "/usr/local/bin", "/usr/bin", "/bin"])
            image.stages[name] = Stage(folder / (name or "last"), {"PATH": path, "HOME": str(folder)} | passed_on())
            image.stages[name].root.mkdir(parents=True)
        else:
            do(image, image.stages[name], instruction, rest)
    return image.stages[name]


def steps(text: str) -> list[str]:
    """The instructions, without comments."""
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def passed_on() -> dict[str, str]:
    """What reaches the registries from this machine, and nothing else of its environment."""
    own = "INDEX_URL EXTRA_INDEX_URL DEFAULT_INDEX INDEX CERT FIND_LINKS CACHE_DIR NATIVE_TLS SYSTEM_CERTS CONFIG_FILE"
    names = {f"{tool}_{name}" for tool in ("PIP", "UV") for name in own.split()}
    found = {name for name in os.environ if name in names or name.startswith("SSL_") or name.upper().endswith("_PROXY")}
    return {name: os.environ[name] for name in found}


def do(image: Image, stage: Stage, instruction: str, rest: str) -> None:
    """Do one step."""
    match instruction:
        case "WORKDIR":
            assert rest == HOME
        case "ENV":
            for name, value in (pair.split("=", 1) for pair in rest.split()):
                stage.env[name] = value.replace(HOME, str(stage.root)).replace("$PATH", stage.env["PATH"])
        case "RUN":
            subprocess.run(rest, shell=True, cwd=stage.root, env=stage.env, check=True, capture_output=True)  # noqa: S602
        case "COPY":
            copy(image, stage, rest)
        case "USER":
            stage.user = rest
        case "CMD":
            stage.command = json.loads(rest)
        case "HEALTHCHECK":
            stage.health = json.loads(rest.partition(" CMD ")[2])
        case other:
            assert other == "EXPOSE", f"the test does not know {other}"


def copy(image: Image, stage: Stage, rest: str) -> None:
    """Copy from the context, or from another stage."""
    *options, last = rest.split()
    origin = next((image.stages[part.partition("=")[2]] for part in options if part.startswith("--from=")), None)
    for source in (part for part in options if not part.startswith("--")):
        assert origin or source in image.sent, f"{source} is not in .dockerignore"
        path = origin.path(source) if origin else image.context / source
        target = stage.path(last) / path.name if last.endswith("/") else stage.path(last)
        if path.is_dir():
            shutil.copytree(path, target, symlinks=True)
        else:
            shutil.copy(path, target)
