"""Write the settings of VS Code and PyCharm for what the project has: `uv run nox -s ide`.

One reading of the project (commands, research scripts, sessions) feeds both, so that neither drifts from it. A file
that is there keeps what it says, and only what it lacks is added. Here is the standard library alone, since a new
project is given its settings before it has an environment.
"""

import ast
import json
import sys
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Files = dict[str, str]
# What commands and tools write: to watch or index it costs.
WRITTEN = """
.hypothesis .import_linter_cache .mypy_cache .nox .pytest_cache .ruff_cache .venv
data/archive data/lake data/quarantine mlruns
""".split()

# --- what the project has


@dataclass(frozen=True)
class Command:
    """A command of the console script, the arguments that it can't do without, and the README's example of them."""

    name: str
    needs: tuple[str, ...]
    example: tuple[str, ...]


@dataclass(frozen=True)
class Project:
    """What can be run: commands, research scripts by path, nox sessions with the first line of what they say."""

    slug: str
    package: str
    commands: tuple[Command, ...]
    scripts: tuple[str, ...]
    sessions: dict[str, str]


def read(root: Path) -> Project:
    """Read what a project has from its files, without importing them."""
    slug = tomllib.loads(text(root / "pyproject.toml"))["project"]["name"]
    source = root / "src" / slug.replace("-", "_")
    paths = [path for name in ("experiments", "reports") for path in sorted((source / "research" / name).glob("*.py"))]
    start = f"uv run {slug} "
    lines = [line.removeprefix(start) for line in text(root / "README.md").splitlines() if line.startswith(start)]
    return Project(
        slug,
        source.name,
        tuple(commands(ast.parse(text(source / "cli.py")), [line.split() for line in lines if " -" not in line])),
        tuple(path.relative_to(root).as_posix() for path in paths if path.stem != "__init__"),
        dict(sessions(ast.parse(text(root / "noxfile.py")))),
    )


def text(path: Path) -> str:
    """The text of a file; none if a project does without it."""
    return path.read_text(encoding="utf-8") if path.exists() else ""


def commands(script: ast.Module, shown: list[list[str]]) -> Iterator[Command]:
    """The functions that click makes commands of, each with the first of the shown commands that fits."""
    assigned = [line for line in script.body if isinstance(line, ast.Assign)]
    named = {target.id: line.value for line in assigned for target in line.targets if isinstance(target, ast.Name)}
    for function in (line for line in script.body if isinstance(line, ast.FunctionDef)):
        for mark in function.decorator_list:
            match mark:
                case ast.Call(func=ast.Attribute(value=ast.Name(id=group), attr="command"), args=names):
                    name = str(ast.literal_eval(names[0])) if names else function.name
                    words, needs = ([] if group == "cli" else [group]) + [name], tuple(needed(function, named))
                    fitting = (line[len(words) :] for line in shown if line[: len(words)] == words)
                    examples = (rest for rest in fitting if len(rest) == len(needs))
                    yield Command(" ".join(words), needs, tuple(next(examples, ())))


def needed(function: ast.FunctionDef, named: dict[str, ast.expr]) -> Iterator[str]:
    """The arguments that click asks for, but for those that may be left out."""
    for mark in function.decorator_list:
        match named.get(mark.id) if isinstance(mark, ast.Name) else mark:
            case ast.Call(func=ast.Attribute(attr="argument"), args=[ast.Constant(value=str(name)), *_], keywords=more):
                if "required=False" not in map(ast.unparse, more):
                    yield name


def sessions(noxfile: ast.Module) -> Iterator[tuple[str, str]]:
    """The nox sessions, in their order."""
    for function in (line for line in noxfile.body if isinstance(line, ast.FunctionDef)):
        for mark in function.decorator_list:
            if ast.unparse(mark).startswith("nox.session"):
                words = mark.keywords if isinstance(mark, ast.Call) else []
                names = [str(ast.literal_eval(word.value)) for word in words if word.arg == "name"]
                yield (names or [function.name])[0], (ast.get_docstring(function) or "").partition("\n")[0]


# --- VS Code. An update puts keys and entries above the last one, users put theirs below it: so the two merge.

FOLDER = "${workspaceFolder}"
EXTENSIONS = """
charliermarsh.ruff ms-python.debugpy ms-python.mypy-type-checker ms-python.python ms-python.vscode-pylance
ms-python.vscode-python-envs ms-toolsai.jupyter redhat.vscode-yaml tamasfe.even-better-toml editorconfig.editorconfig
""".split()
UNWANTED = [f"ms-python.{name}" for name in ("autopep8", "black-formatter", "flake8", "isort", "pylint")]
SETTINGS = {
    "[python]": {
        "editor.codeActionsOnSave": {"source.fixAll.ruff": "explicit", "source.organizeImports.ruff": "explicit"},
        "editor.defaultFormatter": "charliermarsh.ruff",
        "editor.formatOnSave": True,
    },
    "git.branchProtection": ["main"],
    "jupyter.notebookFileRoot": FOLDER,
    "mypy-type-checker.importStrategy": "fromEnvironment",
    "mypy-type-checker.preferDaemon": True,
    "mypy-type-checker.reportingScope": "custom",
    "python-envs.defaultEnvManager": "ms-python.python:venv",
    "python-envs.workspaceSearchPaths": [".venv"],
    "python.analysis.typeCheckingMode": "off",  # mypy is the one authority
    "python.testing.pytestEnabled": True,
    "ruff.configurationPreference": "filesystemFirst",
    "ruff.importStrategy": "fromEnvironment",
    "files.watcherExclude": {f"**/{folder}/**": True for folder in WRITTEN},
}


def matcher(tool: str, *lines: dict[str, str | int]) -> dict[str, Any]:
    """How VS Code finds what a tool says of a place, in one line or in several."""
    return {"owner": tool, "source": tool, "fileLocation": ["autoDetect", FOLDER], "pattern": list(lines)}


PLACE = {"file": 1, "line": 2, "column": 3}
RUFF = matcher("ruff", {"regexp": r"^(\S.*?):(\d+):(\d+): (\S+) (.+)$", **PLACE, "code": 4, "message": 5})
TYPES = r"^(\S.*?):(\d+):(?:(\d+):)? (error|warning): (.+)$"
MYPY = matcher("mypy", {"regexp": TYPES, **PLACE, "severity": 4, "message": 5})
PYTEST = matcher(
    "pytest",
    {"regexp": r"^E +(\S.*)$", "message": 1},
    {"regexp": r"^$"},
    {"regexp": r"^(\S.*?):(\d+): (\w+)$", "file": 1, "line": 2, "code": 3},
)
SESSIONS: dict[str, dict[str, Any]] = {
    "lint": {"group": "build", "options": {"env": {"RUFF_OUTPUT_FORMAT": "concise"}}, "problemMatcher": [RUFF]},
    "types": {"group": "build", "problemMatcher": [MYPY]},
    "tests": {"group": {"kind": "test", "isDefault": True}, "problemMatcher": [PYTEST]},
}


def task(name: str, detail: str) -> dict[str, Any]:
    """A session as a task; uv finds the environment."""
    begin = {"label": name, "detail": detail, "type": "process", "command": "uv", "args": ["run", "nox", "-s", name]}
    return begin | SESSIONS.get(name, {"problemMatcher": []})


def launches(project: Project) -> Iterator[dict[str, Any]]:
    """Every command, the file that is open, what the Test Explorer debugs, and a process that waits for a debugger."""
    begin = {"type": "debugpy", "request": "launch", "cwd": FOLDER, "console": "integratedTerminal"}
    for command in project.commands:
        arguments = [*command.name.split(), *("${input:" + asked(command, need) + "}" for need in command.needs)]
        yield {"name": command.name, **begin, "module": project.package, "args": arguments}
    yield {"name": "current research file", **begin, "program": "${file}", "justMyCode": False}
    yield {"name": "current test file", **begin, "module": "pytest", "args": ["${file}"], "justMyCode": False}
    yield {"name": "tests of the Test Explorer", **begin, "purpose": ["debug-test"], "justMyCode": False}
    address = {"host": "127.0.0.1", "port": 5678}
    yield {"name": "attach", "type": "debugpy", "request": "attach", "connect": address, "justMyCode": False}


def inputs(project: Project) -> Iterator[dict[str, str]]:
    """What VS Code asks for before it starts a command."""
    for command in project.commands:
        for number, need in enumerate(command.needs):
            default = command.example[number] if command.example else ""
            about = {"type": "promptString", "description": f"{command.name} {need.upper()}", "default": default}
            yield {"id": asked(command, need), **about}


def asked(command: Command, need: str) -> str:
    """What the input for a command's argument is called."""
    return "-".join([*command.name.split(), need])


def vscode(project: Project) -> Files:
    """The files of VS Code, and the container that it opens."""
    setup_last = sorted(project.sessions.items(), key=lambda session: session[0] == "setup")
    files = {
        ".vscode/settings.json": SETTINGS,
        ".vscode/launch.json": {
            "version": "0.2.0",
            "inputs": list(inputs(project)),
            "configurations": list(launches(project)),
        },
        ".vscode/tasks.json": {"version": "2.0.0", "tasks": [task(*session) for session in setup_last]},
        ".vscode/extensions.json": {"unwantedRecommendations": UNWANTED, "recommendations": EXTENSIONS},
        ".devcontainer/devcontainer.json": {
            "name": project.slug,
            "image": "mcr.microsoft.com/devcontainers/python:3.13",
            "customizations": {"vscode": {"extensions": EXTENSIONS}},
            "postCreateCommand": "pip install uv && uv sync",
        },
    }
    return {path: dumped(content) for path, content in files.items()}


def dumped(content: object) -> str:
    """JSON with a line for each key."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


# --- PyCharm. Its module has the name of the project in pyproject.toml, and the interpreter.


def node(tag: str, *children: ET.Element, **attributes: str) -> ET.Element:
    """An element of XML."""
    made = ET.Element(tag, attributes)
    made.extend(children)
    return made


def component(name: str, *children: ET.Element) -> ET.Element:
    """What one part of PyCharm keeps."""
    return node("component", *children, name=name)


def settings(*components: ET.Element, root: str = "project", **attributes: str) -> str:
    """A file of settings."""
    declaration = '<?xml version="1.0" encoding="UTF-8"?>\n'
    return declaration + indented(node(root, *components, **attributes, version="4"))


def indented(root: ET.Element) -> str:
    """XML with a line for each element."""
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"


def module(project: Project) -> Files:
    """The module: where sources and tests are, and what is not indexed."""
    path, here = f".idea/{project.slug}.iml", "file://$MODULE_DIR$"
    sources = {"src": "false", "tests": "true"}
    folders = [node("sourceFolder", url=f"{here}/{name}", isTestSource=tests) for name, tests in sources.items()]
    folders += [node("excludeFolder", url=f"{here}/{folder}") for folder in WRITTEN]
    order = [node("orderEntry", type="inheritedJdk"), node("orderEntry", type="sourceFolder", forTests="false")]
    manager = component("NewModuleRootManager", node("content", *folders, url=here), *order)
    runner = component("TestRunnerService", node("option", name="PROJECT_TEST_RUNNER", value="py.test"))
    listed = node("module", fileurl=f"file://$PROJECT_DIR$/{path}", filepath=f"$PROJECT_DIR$/{path}")
    return {
        path: settings(manager, runner, root="module", type="PYTHON_MODULE"),
        ".idea/modules.xml": settings(component("ProjectModuleManager", node("modules", listed))),
    }


def start(project: Project, name: str, kind: str, factory: str, **values: str) -> Files:
    """A run configuration, in the project's folder with the module's interpreter."""
    values |= {"IS_MODULE_SDK": "true", "SDK_HOME": "", "WORKING_DIRECTORY": "$PROJECT_DIR$"}
    options = [node("option", name=key, value=value) for key, value in values.items()]
    parts = node("module", name=project.slug), *options, node("method", v="2")
    made = node("configuration", *parts, default="false", name=name, type=kind, factoryName=factory)
    return {f".run/{name}.run.xml": indented(component("ProjectRunConfigurationManager", made))}


def starts(project: Project) -> Files:
    """Every command that needs no argument or has an example of it, every research script, and the tests."""
    files: Files = {}
    python = ("PythonConfigurationType", "Python")
    for command in (row for row in project.commands if len(row.example) == len(row.needs)):
        line = " ".join([command.name, *command.example])
        values = {"SCRIPT_NAME": project.package, "MODULE_MODE": "true", "PARAMETERS": line}
        files |= start(project, command.name, *python, **values)
    for path in project.scripts:
        name = " ".join(Path(path).with_suffix("").parts[-2:])
        files |= start(project, name, *python, SCRIPT_NAME=f"$PROJECT_DIR$/{path}", MODULE_MODE="false")
    target = {"_new_target": '"$PROJECT_DIR$/tests"', "_new_targetType": '"PATH"'}
    return files | start(project, "tests", "tests", "py.test", **target)


def pycharm(project: Project) -> Files:
    """The files of PyCharm."""
    git, mypy = node("mapping", directory="", vcs="Git"), node("plugin", id="works.szabope.mypy")
    return {
        ".idea/.gitignore": "/dataSources*\n/shelf/\n/usage.statistics.xml\n/workspace.xml\n",
        ".idea/.name": f"{project.slug}\n",
        ".idea/vcs.xml": settings(component("VcsDirectoryMappings", git)),
        ".idea/externalDependencies.xml": settings(component("ExternalDependencies", mypy)),
        **module(project),
        **starts(project),
    }


# --- into the project

EDITORS = {"vscode": (".vscode", vscode), "pycharm": (".idea", pycharm)}


def write(root: Path, asked: str = "") -> list[str]:
    """Write the files of both, vscode, pycharm or none; unasked, of those that have a folder. Return what to tell."""
    project = read(root)
    chosen = [
        files
        for editor, (folder, files) in EDITORS.items()
        if asked in {editor, "both"} or (not asked and (root / folder).is_dir())
    ]
    told = [put(root, path, ours) for files in chosen for path, ours in files(project).items()]
    if not chosen and asked != "none":
        told.append("nothing written: say for which editor, `uv run nox -s ide -- both`, vscode or pycharm")
    return [line for line in told if line]


def put(root: Path, path: str, ours: str) -> str | None:
    """Write a file, or give the one that is there what it lacks; if that can't be read, lay ours beside it."""
    told = None
    if (root / path).exists():
        if not path.endswith(".json"):
            return None
        try:
            theirs = json.loads((root / path).read_bytes())
            whole = completed(theirs, json.loads(ours))
            if whole == theirs:
                return None
            ours = dumped(whole)
        except ValueError:
            told = f"{path} is no plain JSON and stays as it is; {path}.template has what it would get"
            path += ".template"
    (root / path).parent.mkdir(exist_ok=True)
    (root / path).write_text(ours, encoding="utf-8", newline="\n")
    return told


def completed(theirs: Any, ours: Any) -> Any:  # noqa: ANN401 - JSON
    """Theirs, with the keys of objects and the named entries of lists that only ours has."""
    match theirs, ours:
        case dict(), dict():
            return theirs | {key: completed(theirs.get(key, value), value) for key, value in ours.items()}
        case list(), list():
            names = [named(entry) for entry in theirs]
            return theirs + [entry for entry in ours if named(entry) and named(entry) not in names]
    return theirs


def named(entry: object) -> object:
    """What a launch configuration, a task or an input is known by."""
    names = [entry.get(key) for key in ("name", "label", "id")] if isinstance(entry, dict) else []
    return next(filter(None, names), None)


if __name__ == "__main__":
    sys.stderr.writelines(f"{line}\n" for line in write(Path(__file__).parents[1], *sys.argv[1:2]))
