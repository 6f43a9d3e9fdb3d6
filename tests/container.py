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


def build(context: Path, folder: Path) -> Stage:
    """Do all steps, and return the last stage.

    Args:
        context: The folder that holds Dockerfile and .dockerignore.
        folder: Where the stages go.
    """
    base = folder / "base"
    subprocess.run([sys.executable, "-m", "venv", str(base)], check=True)
    ignored = (context / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored[0] == "*"
    sent = {line.removeprefix("!") for line in ignored[1:]}
    stages: dict[str, Stage] = {}
    for line in steps((context / "Dockerfile").read_text(encoding="utf-8")):
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            image, _, name = rest.partition(" AS ")
            assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+", image), f"{image} is not pinned"
            name = name or "last"
            path = os.pathsep.join([str(base / "bin"), "/usr/local/bin", "/usr/bin", "/bin"])
            stages[name] = Stage(folder / name, {"PATH": path, "HOME": str(folder)} | passed_on())
            stages[name].root.mkdir(parents=True)
            continue
        do(stages, stages[name], instruction, rest, context, sent)
    return stages["last"]


def steps(text: str) -> list[str]:
    """The instructions, without comments."""
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def passed_on() -> dict[str, str]:
    """What reaches the registries from this machine, and nothing else of its environment."""
    names = re.compile(r"(PIP|UV)_(.*INDEX.*|CERT|FIND_LINKS|CACHE_DIR|NATIVE_TLS|SYSTEM_CERTS|CONFIG_FILE)|SSL_.*|.*_PROXY", re.IGNORECASE)
    return {name: value for name, value in os.environ.items() if names.fullmatch(name)}


def do(stages: dict[str, Stage], stage: Stage, instruction: str, rest: str, context: Path, sent: set[str]) -> None:
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
            *options, last = rest.split()
            flags = [option for option in options if option.startswith("--")]
            sources = [option for option in options if not option.startswith("--")]
            origin = next((stages[flag.partition("=")[2]] for flag in flags if flag.startswith("--from=")), None)
            for source in sources:
                assert origin or source in sent, f"{source} is not in .dockerignore"
                path = origin.path(source) if origin else context / source
                target = stage.path(last) / path.name if last.endswith("/") else stage.path(last)
                shutil.copytree(path, target, symlinks=True) if path.is_dir() else shutil.copy(path, target)
        case "USER":
            stage.user = rest
        case "CMD":
            stage.command = json.loads(rest)
        case "HEALTHCHECK":
            stage.health = json.loads(rest.partition(" CMD ")[2])
        case "EXPOSE":
            assert rest.isdigit()
        case other:
            raise AssertionError(f"the test does not know {other}")
