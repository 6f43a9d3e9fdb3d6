"""What VS Code and PyCharm start in a project does start: commands, research, tests, debuggers and tasks."""

import ast
import json
import os
import re
import shlex
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from baking import Bake, Project, copied, keep_a_quarter, publish, run
from dap import first_stop
from filelock import FileLock

OWN = {"UV_PROJECT_ENVIRONMENT": "", "VIRTUAL_ENV": ""}  # the project's own environment, none around the tests
TEST = "tests/shared/test_problem.py"


@pytest.fixture(scope="session")
def project(bake: Bake) -> Project:
    """A project with everything that an editor can start."""
    return bake(profile="full")


@pytest.fixture(scope="session")
def installed(project: Project, tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Project:
    """A project of a quarter's data and a small model, with an environment of its own, made once for all workers."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "installed"
    with FileLock(f"{folder}.lock"):
        if not (folder / "done").exists():
            made = copied(project, folder)
            run("uv", "sync", "--locked", "--quiet", cwd=made.root, env=OWN)
            keep_a_quarter(made, python(made))
            (made.root / "config" / "params.toml").write_text("max_iter = 10\n", encoding="utf-8")
            publish(made.root, "Take a small model")  # `run` trains nothing that is not committed
            (folder / "done").touch()
    return Project(folder / project.slug)


def python(project: Project) -> Path:
    """The interpreter of a project's environment, which an editor finds by `python-envs.workspaceSearchPaths`."""
    (folder,) = json.loads(project.read(".vscode/settings.json"))["python-envs.workspaceSearchPaths"]
    return project.root / str(folder) / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


# --- under the debugger


def resolved(content: Any, variables: Mapping[str, str]) -> Any:  # noqa: ANN401 - JSON
    """JSON with VS Code's variables replaced."""
    text = json.dumps(content)
    for name, value in variables.items():
        text = text.replace(f"${{{name}}}", json.dumps(value)[1:-1])
    return json.loads(text)


def configuration(project: Project, name: str, **answers: str) -> dict[str, Any]:
    """A launch configuration as VS Code hands it to the debugger, with answers to its inputs."""
    launch = json.loads(project.read(".vscode/launch.json"))
    (row,) = [row for row in launch["configurations"] if row["name"] == name]
    variables = {f"input:{question['id']}": question["default"] for question in launch["inputs"]}
    variables |= {f"input:{question}": answer for question, answer in answers.items()}
    file = TEST if "test" in name else f"src/{project.package}/research/experiments/first_look.py"
    variables |= {"workspaceFolder": str(project.root), "file": str(project.root / file)}
    made: dict[str, Any] = {**resolved(row, variables), "python": str(python(project))}
    return made


def breakpoint_in_shared(project: Project) -> dict[Path, int]:
    """The line that puts the problem together, which commands, experiments, reports and tests all pass."""
    path = project.root / "src" / project.package / "shared" / "__init__.py"
    return {path: path.read_text(encoding="utf-8").splitlines().index("PROBLEM = Problem(") + 1}


NAMES = ["run", "run --now", "serve", "report", "command", "current file", "current file --fast", "current test file"]
NAMES += ["tests of the Test Explorer"]


@pytest.mark.parametrize("name", NAMES)
def test_a_launch_configuration_stops_at_a_breakpoint_in_shared(installed: Project, name: str) -> None:
    started = configuration(installed, name)
    if "purpose" in started:  # the Python extension adds what the Test Explorer wants to run
        started |= {"module": "pytest", "args": [TEST]}
    place = breakpoint_in_shared(installed)
    assert dict([first_stop(started, place)]) == place


def test_every_launch_configuration_is_tried(project: Project) -> None:
    launches = json.loads(project.read(".vscode/launch.json"))["configurations"]
    assert [row["name"] for row in launches] == [*NAMES, "attach"]


@pytest.mark.parametrize(("command", "arguments"), [("explain", "23791 --now 2013-12-31"), ("data dictionary", "")])
def test_a_command_from_the_list_gets_its_arguments_one_by_one(
    installed: Project, command: str, arguments: str
) -> None:
    path = installed.root / "src" / installed.package / "cli.py"
    function = command.rsplit(maxsplit=1)[-1]
    lines = path.read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"def {function}("))
    quotes = next(number for number in range(start, len(lines)) if lines[number].endswith('"""'))
    started = configuration(installed, "command", command=command, arguments=arguments)
    assert first_stop(started, {path: quotes + 2}) == (path, quotes + 2)


def test_every_command_of_the_list_is_known_and_takes_arguments(installed: Project) -> None:
    launch = json.loads(installed.read(".vscode/launch.json"))
    (options,) = [row["options"] for row in launch["inputs"] if row["id"] == "command"]
    for option in options:
        args = configuration(installed, "command", command=option, arguments="--help")["args"]
        said = run(python(installed), "-m", installed.package, *shlex.split(args), cwd=installed.root).stdout
        assert said.startswith(f"Usage: {installed.slug} {option} ")


WAITING = """
import runpy, sys
import debugpy
host, port, module, *sys.argv[1:] = sys.argv[1:]
print(debugpy.listen((host, int(port))), flush=True)
debugpy.wait_for_client()
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def test_attach_stops_a_process_that_waits(installed: Project) -> None:
    row = configuration(installed, "attach")
    assert row.pop("connect") == {"host": "127.0.0.1", "port": 5678}
    place = breakpoint_in_shared(installed)
    command = [str(python(installed)), "-c", WAITING, "127.0.0.1", "0", installed.package, "status"]
    with subprocess.Popen(command, cwd=installed.root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            host, port = ast.literal_eval(process.stdout.readline())
            assert dict([first_stop({**row, "connect": {"host": host, "port": port}}, place)]) == place
        finally:
            process.kill()


# --- in PyCharm


def command_line(project: Project, name: str) -> tuple[list[str], Path]:
    """What PyCharm makes of a run configuration: the command, and the folder that it runs in."""
    (node,) = ET.parse(project.root / ".run" / f"{name}.run.xml").getroot()  # noqa: S314 - our own
    said = {option.attrib["name"]: option.attrib["value"] for option in node.iter("option")}
    here = {name: value.replace("$PROJECT_DIR$", str(project.root)) for name, value in said.items()}
    if node.attrib["type"] == "tests":
        words = ["-m", "pytest", json.loads(here["_new_target"])]
    else:
        start = ["-m", here["SCRIPT_NAME"]] if here["MODULE_MODE"] == "true" else [here["SCRIPT_NAME"]]
        words = [*start, *shlex.split(here.get("PARAMETERS", ""))]
    return [str(python(project)), *words], Path(here["WORKING_DIRECTORY"])


def serves(project: Project, name: str) -> None:
    """Start a server by its configuration, and end it; it says where it listens and ends well."""
    command, folder = command_line(project, name)
    with subprocess.Popen([*command, "--port", "0"], cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        said = process.stderr.readline() if process.stderr else ""
        process.terminate()
        assert " at http://127.0.0.1:" in said
        assert process.wait(timeout=60) == 0


def starts(project: Project, name: str, *more: str) -> None:
    """Run a configuration of PyCharm to its end; fail unless it ends well."""
    command, folder = command_line(project, name)
    run(*command, *more, cwd=folder, env=OWN)


BRIEFLY = {  # what keeps a configuration short
    "lint": ["--", "ruff-check"],
    "types": ["--", "noxfile.py"],
    "tests": ["--collect-only", "--quiet"],
}
SERVERS = ["serve", "report"]


@pytest.mark.parametrize("name", BRIEFLY)
def test_a_check_of_pycharm_does_its_work(installed: Project, name: str) -> None:
    starts(installed, name, *BRIEFLY[name])


def test_pycharm_runs_what_is_due_and_then_serves(installed: Project) -> None:
    starts(installed, "run")
    for name in SERVERS:
        serves(installed, name)


def test_every_run_configuration_is_tried(project: Project) -> None:
    names = {name.removeprefix(".run/").removesuffix(".run.xml") for name in project.files if name.startswith(".run/")}
    asking = {"command", "current-file-fast"}  # PyCharm fills in what they run, by $Prompt$ and $FilePath$
    assert names == {"run", *SERVERS, *BRIEFLY, *asking}


# --- what a task finds


def found(matcher: Mapping[str, Any], output: str) -> list[dict[str, str]]:
    """What VS Code lists of an output: a matcher's expressions each take one line, one below the other."""
    lines = re.sub(r"\x1b\[[\d;]*m", "", output).splitlines()
    listed = []
    for start in range(len(lines)):
        below = zip(matcher["pattern"], lines[start:], strict=False)
        matches = [(pattern, re.search(pattern["regexp"], line)) for pattern, line in below]
        if len(matches) == len(matcher["pattern"]) and all(match for _, match in matches):
            groups = [
                (key, match[pattern[key]]) for pattern, match in matches for key in pattern if key != "regexp" and match
            ]
            listed.append(dict(groups))
    return listed


# What is planted, with the fault in the last line, what keeps the session short, and what is said.
PLANTED = {
    "lint": ('"""Planted."""\n\nprint(missing)\n', ["ruff-check"], "Undefined name `missing`"),
    "types": ('number: int = "one"\n', ["tests/test_planted_types.py"], "Incompatible types in assignment"),
    "tests": (
        "def test_planted() -> None:\n    assert 1 + 1 == 3\n",
        ["--numprocesses=1", "tests/test_planted_tests.py"],
        "assert (1 + 1) == 3",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_the_matcher_of_a_task_finds_a_planted_fault(installed: Project, name: str) -> None:
    fault, arguments, message = PLANTED[name]
    (task,) = [task for task in json.loads(installed.read(".vscode/tasks.json"))["tasks"] if task["label"] == name]
    (matcher,) = task["problemMatcher"]
    env = {**OWN, **task.get("options", {}).get("env", {})}
    path = installed.root / "tests" / f"test_planted_{name}.py"
    path.write_text(fault, encoding="utf-8")
    try:
        installed.git("add", "--intent-to-add", str(path))
        done = run(task["command"], *task["args"], "--", *arguments, cwd=installed.root, env=env, check=False)
    finally:
        installed.git("rm", "--quiet", "--cached", str(path))
        path.unlink()
    listed = [row for row in found(matcher, done.stdout) if row["file"] == f"tests/{path.name}"]
    said = [(int(row["line"]), message in row["message"]) for row in listed]
    assert (len(fault.splitlines()), True) in said, f"{listed} of:\n{done.stdout}{done.stderr}"
