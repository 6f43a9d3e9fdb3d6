"""What is wrong with a project's settings for VS Code and PyCharm: more than the editors themselves would say.

The settings that VS Code's extensions know are listed in data/vscode-settings.json; tools/vscode_settings.py renews it.
"""

import json
import re
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]

KNOWN: dict[str, Row] = json.loads(
    (Path(__file__).parent / "data" / "vscode-settings.json").read_text(encoding="utf-8")
)
SCOPES = {"window", "resource", "machine-overridable", "language-overridable"}  # those that a folder may set
TYPES: dict[str, tuple[type, ...]] = {
    "array": (list,),
    "boolean": (bool,),
    "integer": (int,),
    "null": (type(None),),
    "number": (int, float),
    "object": (dict,),
    "string": (str,),
}
VARIABLES = {"workspaceFolder", "file", "relativeFile", "fileDirname"}
MATCHERS = {"$eslint-compact", "$eslint-stylish", "$gulp-tsc", "$jshint", "$lessCompile", "$msCompile", "$tsc"}


def keys(types: Mapping[str, str], **enums: list[str]) -> dict[str, Row]:
    """The keys of an object: names by their type, and those that have but a few values."""
    rows: dict[str, Row] = {name: {"type": kind} for kind, names in types.items() for name in names.split()}
    return rows | {name: {"type": "string", "enum": values} for name, values in enums.items()}


# https://code.visualstudio.com/docs/python/debugging, https://code.visualstudio.com/docs/reference/tasks-appendix
LAUNCH = keys(
    {
        "array": "purpose pathMappings",
        "boolean": "justMyCode subProcess stopOnEntry redirectOutput",
        "object": "connect env presentation",
        "string": "name module program cwd envFile preLaunchTask postDebugTask",
    },
    type=["debugpy"],
    request=["launch", "attach"],
    console=["internalConsole", "integratedTerminal", "externalTerminal"],
) | {"args": {"type": ["array", "string"]}}
INPUT = keys({"array": "options", "string": "id description default"}, type=["promptString", "pickString", "command"])
TASK = keys(
    {
        "array": "args",
        "boolean": "isBackground hide",
        "object": "options presentation",
        "string": "label detail command",
    },
    type=["process", "shell"],
    dependsOrder=["parallel", "sequence"],
) | {name: {"type": ["string", "array", "object"]} for name in ("dependsOn", "group", "problemMatcher")}
MATCHER = keys({"object": "background", "string": "owner source base applyTo"}, severity=["error", "warning", "info"])
MATCHER |= {"fileLocation": {"type": ["string", "array"]}, "pattern": {"type": ["array", "object"]}}
PATTERN = keys({"string": "regexp kind", "boolean": "loop"})
GROUPS = {"file", "line", "column", "endLine", "endColumn", "severity", "code", "message", "location"}


def problems(root: Path, sessions: Collection[str]) -> list[str]:
    """Everything that is wrong, a line each, in the files of both editors; a project's nox sessions are its tasks."""
    found: list[str] = []
    files: dict[str, Any] = {}
    for path in sorted([*root.glob(".vscode/*.json"), *root.glob(".devcontainer/*.json")]):
        name = path.relative_to(root).as_posix()
        try:
            files[name] = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique)
        except ValueError as error:
            found.append(f"{name}: no strict JSON: {error}")
    for name, content in files.items():
        found += [f"{name}: {line}" for line in machine_paths(strings(content))]
    tasks = files.get(".vscode/tasks.json", {"tasks": []})["tasks"]
    checks: dict[str, Callable[[Any], Iterator[str]]] = {
        ".vscode/settings.json": settings,
        ".vscode/launch.json": lambda content: launches(content, root, {task.get("label") for task in tasks}),
        ".vscode/tasks.json": lambda content: all_tasks(content, sessions),
        ".vscode/extensions.json": extensions,
    }
    for name, check in checks.items():
        if name in files:
            found += [f"{name}: {line}" for line in check(files[name])]
    return found + list(pycharm(root, sessions))


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON whose keys are there once."""
    if twice := repeated(key for key, _ in pairs):
        raise ValueError(f"{twice[0]} is there twice")
    return dict(pairs)


def repeated(names: Iterable[str]) -> list[str]:
    """The names that are there more than once."""
    return [name for name, times in Counter(names).items() if times > 1]


def strings(content: object) -> Iterator[str]:
    """Every string in JSON, keys too."""
    match content:
        case str():
            yield content
        case dict():
            for key, value in content.items():
                yield from (key, *strings(value))
        case list():
            for value in content:
                yield from strings(value)


def machine_paths(texts: Iterable[str]) -> Iterator[str]:
    """Texts that are, or name, a place on one machine."""
    here = (str(Path.home()), tempfile.gettempdir())
    for text in texts:
        if re.match(r"(file://)?(/|~|[A-Za-z]:[\\/])", text) or any(f"{place}/" in text for place in here):
            yield f"{text} is a path of one machine"


def fits(where: str, content: Mapping[str, Any], rows: Mapping[str, Row]) -> Iterator[str]:
    """Hold an object against its keys, their types and their values."""
    for key, value in content.items():
        row = rows.get(key)
        if row is None:
            yield f"{where}unknown key {key}"
            continue
        kinds = [row["type"]] if isinstance(row["type"], str) else row["type"]
        if not any(isinstance(value, TYPES[kind]) and (kind == "boolean") == isinstance(value, bool) for kind in kinds):
            yield f"{where}{key} is {json.dumps(value)}, and should be of type {' or '.join(kinds)}"
        elif "enum" in row and value not in row["enum"]:
            yield f"{where}{key} is {json.dumps(value)}, and should be one of {', '.join(map(str, row['enum']))}"


# --- VS Code


def settings(content: Mapping[str, Any], language: str = "") -> Iterator[str]:
    """Settings that nobody knows, that are deprecated, that a folder or a language can't set, or of a wrong value."""
    plain = {key: value for key, value in content.items() if not key.startswith("[")}
    yield from fits(language, plain, KNOWN)
    for key in plain.keys() & KNOWN.keys():
        scope = KNOWN[key]["scope"]
        if KNOWN[key].get("deprecated"):
            yield f"{language}{key} is deprecated"
        if scope not in SCOPES or (language and scope != "language-overridable"):
            yield f"{language}{key} has the scope {scope} and does nothing here"
    for key in content.keys() - plain.keys():
        yield from settings(content[key], f"{key} ")


def launches(content: Mapping[str, Any], root: Path, tasks: Collection[str]) -> Iterator[str]:
    """Launch configurations that can't start."""
    yield from fits("", content, keys({"array": "configurations inputs compounds", "string": "version"}))
    rows, asked = content["configurations"], {row["id"] for row in content.get("inputs", [])}
    yield from (f"two configurations are called {name}" for name in repeated(row["name"] for row in rows))
    yield from (f"two inputs are called {name}" for name in repeated(row["id"] for row in content.get("inputs", [])))
    for row in content.get("inputs", []):
        yield from fits(f"input {row['id']}: ", row, INPUT)
        if "options" in row and row.get("default") not in {None, *row["options"]}:
            yield f"input {row['id']}: {row['default']} is none of its options"
    for row in rows:
        name = f"{row['name']}: "
        yield from fits(name, row, LAUNCH)
        module, program = row.get("module", "pytest"), row.get("program", "${file}")
        if module != "pytest" and not (root / "src" / module.replace(".", "/") / "__main__.py").exists():
            yield f"{name}there is no module {module} to run"
        if not (root / program).exists() and "${file}" not in program:
            yield f"{name}there is no file {program}"
        if (task := row.get("preLaunchTask")) and task not in tasks:
            yield f"{name}there is no task {task}"
        for kind, what in re.findall(r"\$\{([^:}]+):?([^}]*)\}", " ".join(strings(row))):
            if what not in asked if kind == "input" else kind not in VARIABLES:
                yield f"{name}nobody defines {kind}{what and ' '}{what}"
    used = " ".join(strings(rows))
    yield from (f"nobody asks for the input {name}" for name in sorted(asked) if f"${{input:{name}}}" not in used)


def all_tasks(content: Mapping[str, Any], sessions: Collection[str]) -> Iterator[str]:
    """Tasks that are no nox session, or depend on nothing, or whose matcher finds nothing."""
    yield from fits("", content, keys({"array": "tasks inputs", "string": "version"}))
    labels = [row["label"] for row in content["tasks"]]
    yield from (f"two tasks are called {name}" for name in repeated(labels))
    yield from (f"the session {name} has no task" for name in sorted(set(sessions) - set(labels)))
    for row in content["tasks"]:
        name = f"{row['label']}: "
        yield from fits(name, row, TASK)
        needed = row.get("dependsOn", [])
        for other in [needed] if isinstance(needed, str) else needed:
            if other not in labels:
                yield f"{name}depends on {other}, which is no task"
        session = row["args"][-1] if row.get("args", [])[:3] == ["run", "nox", "-s"] else ""
        if "dependsOn" not in row and (session not in sessions or session != row["label"]):
            yield f"{name}runs {session or row.get('command')}, which is no nox session of that name"
        matchers = row.get("problemMatcher", [])
        for matcher in matchers if isinstance(matchers, list) else [matchers]:
            yield from (f"{name}{line}" for line in matcher_problems(matcher))


def matcher_problems(matcher: str | Mapping[str, Any]) -> Iterator[str]:
    """A matcher by a name that VS Code does not have, or with patterns that can't be read."""
    if isinstance(matcher, str):
        if matcher not in MATCHERS:
            yield f"there is no matcher {matcher}"
        return
    yield from fits("matcher ", matcher, MATCHER)
    patterns = matcher.get("pattern", [])
    for pattern in patterns if isinstance(patterns, list) else [patterns]:
        yield from fits("pattern ", {key: value for key, value in pattern.items() if key not in GROUPS}, PATTERN)
        try:
            groups = re.compile(pattern["regexp"]).groups
        except re.error as error:
            yield f"pattern {pattern['regexp']} can't be read: {error}"
            continue
        for key in GROUPS & pattern.keys():
            if pattern[key] not in range(1, groups + 1):
                yield f"pattern {pattern['regexp']} has no group {pattern[key]} for {key}"


def extensions(content: Mapping[str, Any]) -> Iterator[str]:
    """Names that are no extension's, and extensions that are wanted and unwanted."""
    yield from fits("", content, keys({"array": "recommendations unwantedRecommendations"}))
    names = [name for listed in content.values() for name in listed]
    yield from (f"{name} is no name of an extension" for name in names if not re.fullmatch(r"[\w-]+\.[\w-]+", name))
    yield from (f"{name} is there twice" for name in repeated(names))


# --- PyCharm


def pycharm(root: Path, sessions: Collection[str]) -> Iterator[str]:
    """Whatever is wrong in .idea and .run."""
    trees: dict[str, ET.Element] = {}
    for path in sorted([*root.glob(".idea/*.xml"), *root.glob(".idea/*.iml"), *root.glob(".run/*.xml")]):
        name = path.relative_to(root).as_posix()
        try:
            trees[name] = ET.fromstring(path.read_bytes())  # noqa: S314 - our own
        except ET.ParseError as error:
            yield f"{name}: no XML: {error}"
            continue
        for line in machine_paths(value for node in trees[name].iter() for value in node.attrib.values()):
            yield f"{name}: {line}"
    if (root / ".idea").is_dir():
        yield from module_problems(root, trees)
    runs = {name: node for name, tree in trees.items() for node in tree.iter("configuration")}
    names = [node.attrib["name"] for node in runs.values()]
    yield from (f".run: two configurations are called {name}" for name in repeated(names))
    for name, node in runs.items():
        yield from (f"{name}: {line}" for line in run_problems(root, node, sessions))


def module_problems(root: Path, trees: Mapping[str, ET.Element]) -> Iterator[str]:
    """A module whose name or folders are not the project's."""
    expected = f".idea/{root.name}.iml"
    for name in (name for name in trees if name.endswith(".iml")):
        if name != expected:
            yield f"{name}: the module should be called {root.name}"
        for node in trees[name].iter("sourceFolder"):
            folder = node.attrib["url"].removeprefix("file://$MODULE_DIR$/")
            if not (root / folder).is_dir():
                yield f"{name}: there is no folder {folder}"
        if not any(node.attrib.get("type") == "inheritedJdk" for node in trees[name].iter("orderEntry")):
            yield f"{name}: the module has no interpreter"
    listed = [node.attrib["filepath"] for node in trees[".idea/modules.xml"].iter("module")]
    if listed != [f"$PROJECT_DIR$/{expected}"]:
        yield f".idea/modules.xml: lists {listed}, and should list {expected}"


def run_problems(root: Path, node: ET.Element, sessions: Collection[str]) -> Iterator[str]:
    """A run configuration that PyCharm would not find a module, an interpreter, a script or a session for."""
    options = {option.attrib["name"]: option.attrib["value"] for option in node.iter("option")}
    modules = [module.attrib["name"] for module in node.iter("module")]
    kind = (node.attrib["type"], node.attrib["factoryName"])
    if modules != [root.name]:
        yield f"its module is {modules}, and should be {root.name}"
    if kind not in {("PythonConfigurationType", "Python"), ("tests", "py.test")}:
        yield f"PyCharm has no configurations of the type {kind}"
    if (options.get("IS_MODULE_SDK"), options.get("SDK_HOME")) != ("true", ""):
        yield "its interpreter should be the module's"
    if not options.get("WORKING_DIRECTORY", "").startswith("$PROJECT_DIR$"):
        yield "it should run in the project's folder"
    if options.get("SCRIPT_NAME") == "$FilePath$":  # the file that is open
        return
    script = options.get("SCRIPT_NAME", "$PROJECT_DIR$").replace("$PROJECT_DIR$", str(root))
    if (options.get("MODULE_MODE"), script) == ("true", "nox"):
        session = options.get("PARAMETERS", "").removeprefix("-s ")
        if session not in sessions:
            yield f"there is no nox session {session}"
        return
    path = f"src/{script.replace('.', '/')}/__main__.py" if options.get("MODULE_MODE") == "true" else script
    if not (root / path).exists():
        yield f"there is no {path}"
