"""What VS Code and PyCharm are told of a project is complete and right, and leaves alone what a user has set."""

import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from baking import LONGEST, SHORTEST, TEMPLATE, Bake, Project, copied, make, run
from ide_checks import problems

from hooks.post_gen_project import EDITOR_FILES, add_editor_settings, main
from tools import vscode_settings

FOLDERS = {"vscode": {".vscode", ".devcontainer"}, "pycharm": {".idea", ".run"}}
ENTRIES = {"run", "serve", "report"}
CHECKS = {"lint", "types", "tests"}
# They change what serves, or what can't be brought back: nobody should start them by a slip.
TERMINAL_ONLY = {"promote", "rollback", "data erase", "init"}


def sessions(root: Path) -> set[str]:
    """The nox sessions of a project, as nox knows them."""
    return set(re.findall(r"^[*-] ([\w-]+)", run("nox", "--list", cwd=root).stdout, re.MULTILINE))


@pytest.fixture(scope="session")
def project(bake: Bake) -> Project:
    """A project with everything that an editor can start."""
    return bake(profile="full")


@pytest.fixture(scope="module")
def commands(project: Project, environment: Path) -> set[str]:
    """The commands of a project, as its command line knows them."""
    ask = f"from {project.package}.cli import cli; print(*dict(cli.walk()), sep='\\n')"
    source = {"PYTHONPATH": str(project.root / "src")}
    return set(run(environment / "python", "-c", ask, cwd=project.root, env=source).stdout.splitlines())


def written(root: Path) -> dict[str, bytes]:
    """The files of both editors, by path."""
    paths = [path for names in FOLDERS.values() for name in names for path in (root / name).rglob("*")]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def settle(project: Project, rendered: Project, ide: str = "both") -> list[str]:
    """Have the hook add the settings as Cookiecutter leaves them to it; what it tells."""
    for editor, folders in FOLDERS.items():
        for folder in folders:
            shutil.copytree(rendered.root / folder, project.root / EDITOR_FILES / editor / folder)
    return add_editor_settings(project.root, ide)


@pytest.fixture
def mine(project: Project, tmp_path: Path) -> Project:
    return copied(project, tmp_path)


# --- what is written


@pytest.mark.parametrize("ide", ["both", "vscode", "pycharm", "none"])
def test_the_answer_decides_which_editors_are_served(bake: Bake, ide: str) -> None:
    made = bake(ide=ide, profile="full")
    wanted = {folder for editor, folders in FOLDERS.items() if ide in {editor, "both"} for folder in folders}
    assert {name.split("/")[0] for name in written(made.root)} == wanted
    assert {".editorconfig", "AGENTS.md"} <= set(made.files)
    assert not (made.root / EDITOR_FILES).exists()
    assert written(made.root).items() <= written(bake(profile="full").root).items()


@pytest.mark.parametrize(("slug", "profile"), [(SHORTEST, "minimal"), ("my-ml-project", "standard"), (LONGEST, "full")])
def test_nothing_is_wrong_in_a_new_project(bake: Bake, slug: str, profile: str) -> None:
    root = bake(project_slug=slug, profile=profile).root
    assert problems(root, sessions(root)) == []


def test_each_command_is_an_entry_or_in_the_list_unless_it_can_not_be_undone(
    project: Project, commands: set[str]
) -> None:
    launch = json.loads(project.read(".vscode/launch.json"))
    others = {"command", "run --now", "current file", "current file --fast", "current test file"}
    others |= {"tests of the Test Explorer", "attach"}
    assert {row["name"] for row in launch["configurations"]} == ENTRIES | others
    (listed,) = [row["options"] for row in launch["inputs"] if row["id"] == "command"]
    assert sorted(listed) == sorted(commands - ENTRIES - TERMINAL_ONLY)


def test_both_editors_start_the_same(project: Project) -> None:
    launches = json.loads(project.read(".vscode/launch.json"))["configurations"]
    assert all(row["args"] == [row["name"]] for row in launches if row["name"] in ENTRIES)
    runs = {name.removeprefix(".run/").removesuffix(".run.xml") for name in project.files if name.startswith(".run/")}
    assert runs == ENTRIES | CHECKS | {"command", "current-file-fast"}
    for name in ENTRIES:
        assert f'name="PARAMETERS" value="{name}"' in project.read(f".run/{name}.run.xml")


def test_options_of_the_first_hour_are_reached_in_both_editors(project: Project) -> None:
    rows = {row["name"]: row for row in json.loads(project.read(".vscode/launch.json"))["configurations"]}
    assert rows["run --now"]["args"] == ["run", "--now", "${input:now}"]
    assert (rows["current file --fast"]["program"], rows["current file --fast"]["args"]) == ("${file}", ["--fast"])
    assert "$Prompt$" in project.read(".run/command.run.xml")
    fast = project.read(".run/current-file-fast.run.xml")
    assert ('value="$FilePath$"' in fast, 'name="PARAMETERS" value="--fast"' in fast) == (True, True)


def test_entries_are_grouped_in_both_editors(project: Project) -> None:
    groups: dict[str, list[int]] = {}
    for row in json.loads(project.read(".vscode/launch.json"))["configurations"]:
        groups.setdefault(row["presentation"]["group"], []).append(row["presentation"]["order"])
    assert list(groups) == ["1 project", "2 file", "3 debugger"]
    assert all(orders == sorted(set(orders)) for orders in groups.values())
    for path in (path for path in project.files if path.startswith(".run/")):
        name = path.removeprefix(".run/").removesuffix(".run.xml")
        assert f'folderName="{"checks" if name in CHECKS else "project"}"' in project.read(path)


def test_agents_are_told_of_every_command_and_session(project: Project, commands: set[str]) -> None:
    page = project.read("AGENTS.md")
    assert {name for name in commands | sessions(project.root) if f"`{name}`" not in page} == set()


def test_files_end_with_keys_that_stay_so_that_an_update_and_a_user_do_not_meet(project: Project) -> None:
    last = list(json.loads(project.read(".vscode/settings.json")))[-1]
    assert last == "files.watcherExclude"
    assert json.loads(project.read(".vscode/launch.json"))["configurations"][-1]["name"] == "attach"
    assert json.loads(project.read(".vscode/tasks.json"))["tasks"][-1]["label"] == "setup"


def test_json_has_a_line_for_each_key(project: Project) -> None:
    for name in (name for name in written(project.root) if name.endswith(".json")):
        assert project.read(name) == json.dumps(json.loads(project.read(name)), indent=2) + "\n"


def test_both_editors_leave_out_what_is_written(project: Project) -> None:
    unwatched = set(json.loads(project.read(".vscode/settings.json"))["files.watcherExclude"])
    excluded = re.findall(
        r'<excludeFolder url="file://\$MODULE_DIR\$/(.+?)"', project.read(f".idea/{project.slug}.iml")
    )
    assert {f"**/{folder}/**" for folder in excluded} == unwatched


def test_twice_gives_the_bytes_of_once(mine: Project) -> None:
    before = written(mine.root)
    again = make(TEMPLATE, mine.root.parent, {"profile": "full"}, over=True)
    assert again.root == mine.root
    assert written(mine.root) == before
    assert not (mine.root / EDITOR_FILES).exists()


def test_an_updates_render_has_the_same_files(
    mine: Project, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    again = copied(mine, Path(tempfile.mkdtemp()))
    for editor, folders in FOLDERS.items():
        for folder in folders:
            (again.root / EDITOR_FILES / editor).mkdir(parents=True, exist_ok=True)
            (again.root / folder).rename(again.root / EDITOR_FILES / editor / folder)
    answers = {"project_slug": mine.slug, "ide": "both", "ci": "github", "profile": "full", "owner": ""}
    main({**answers, "_commit": "0" * 40}, again.root)
    assert written(again.root) == written(project.root)
    assert capfd.readouterr() == ("", "")


# --- what is there already


def test_keys_of_the_user_stay_and_what_is_missing_is_added(mine: Project, project: Project) -> None:
    settings = {"[python]": {"editor.formatOnSave": False}, "editor.tabSize": 8, "git.branchProtection": []}
    own = {"name": "mine", "type": "node", "request": "launch"}
    launch = {"version": "0.2.0", "configurations": [own, {"name": "run", "type": "debugpy", "args": ["run", "--now"]}]}
    tasks = {"tasks": [{"label": "mine", "type": "shell"}]}
    theirs: dict[str, dict[str, Any]] = {"settings": settings, "launch": launch, "tasks": tasks}
    ours = {name: json.loads(mine.read(f".vscode/{name}.json")) for name in theirs}
    for name, content in theirs.items():
        (mine.root / ".vscode" / f"{name}.json").write_text(json.dumps(content, indent=4), encoding="utf-8")
    (mine.root / ".idea" / "vcs.xml").write_text("<project/>", encoding="utf-8")
    for _ in range(2):
        assert settle(mine, project) == []
        now = {name: json.loads(mine.read(f".vscode/{name}.json")) for name in theirs}
        language = {**ours["settings"]["[python]"], "editor.formatOnSave": False}
        assert now["settings"] == {**ours["settings"], **settings, "[python]": language}
        assert list(now["settings"])[:3] == list(settings)
        rest = [row for row in ours["launch"]["configurations"] if row["name"] != "run"]
        assert now["launch"]["configurations"] == [*launch["configurations"], *rest]
        assert now["launch"]["inputs"] == ours["launch"]["inputs"]
        assert now["tasks"] == {"tasks": [*tasks["tasks"], *ours["tasks"]["tasks"]], "version": "2.0.0"}
        assert mine.read(".idea/vcs.xml") == "<project/>"


@pytest.mark.parametrize("ide", ["vscode", "pycharm", "none"])
def test_what_was_not_chosen_is_not_touched(mine: Project, project: Project, ide: str) -> None:
    for folders in FOLDERS.values():
        for folder in folders:
            shutil.rmtree(mine.root / folder)
    assert settle(mine, project, ide) == []
    assert {name.split("/")[0] for name in written(mine.root)} == FOLDERS.get(ide, set())
    assert not (mine.root / EDITOR_FILES).exists()


@pytest.mark.parametrize(
    "text", ['{\n  // mine\n  "a": 1,\n}\n', "", "{", b"\xff{}"], ids=["comment", "empty", "cut", "bytes"]
)
def test_a_file_that_is_no_plain_json_stays_and_ours_is_laid_beside_it(
    mine: Project, project: Project, text: str | bytes
) -> None:
    path = mine.root / ".vscode" / "settings.json"
    ours, theirs = path.read_bytes(), text if isinstance(text, bytes) else text.encode()
    path.write_bytes(theirs)
    for _ in range(2):
        (told,) = settle(mine, project, "vscode")
        assert told.startswith(".vscode/settings.json is no plain JSON")
        assert path.read_bytes() == theirs
        assert path.with_name("settings.json.template").read_bytes() == ours


@pytest.mark.parametrize("text", ["[]", "null", '{"configurations": {}, "inputs": null}'])
def test_json_of_another_shape_stays_as_it_is(mine: Project, project: Project, text: str) -> None:
    path = mine.root / ".vscode" / "launch.json"
    path.write_text(text, encoding="utf-8")
    assert settle(mine, project) == []
    theirs, now = json.loads(text), json.loads(path.read_text(encoding="utf-8"))
    assert now == theirs if not isinstance(theirs, dict) else theirs.items() <= now.items()


def test_a_project_made_over_a_folder_of_the_user_keeps_what_is_there(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "my-ml-project" / ".vscode"
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text('{"editor.tabSize": 8}', encoding="utf-8")
    (folder / "launch.json").write_text("{} // mine", encoding="utf-8")
    made = make(TEMPLATE, tmp_path, {}, over=True)
    assert list(json.loads(made.read(".vscode/settings.json")))[:2] == ["editor.tabSize", "[python]"]
    assert made.read(".vscode/launch.json") == "{} // mine"
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("Note: ") and "JSON" in line]
    assert len(told) == 1
    assert ".vscode/launch.json.template" in told[0]


# --- what the checks find


SETTINGS, LAUNCH, TASKS = ".vscode/settings.json", ".vscode/launch.json", ".vscode/tasks.json"
RUN = ".run/run.run.xml"
FAULTS = [
    (SETTINGS, '"ruff.importStrategy"', '"ruff.importStrategie"', "unknown key ruff.importStrategie"),
    (SETTINGS, '"ruff.importStrategy": "fromEnvironment"', '"ruff.run": "onSave"', "ruff.run is deprecated"),
    (
        SETTINGS,
        '"ruff.importStrategy": "fromEnvironment"',
        '"ruff.logLevel": "info"',
        "ruff.logLevel has the scope application",
    ),
    (SETTINGS, '"editor.formatOnSave": true', '"ruff.enable": true', "[python] ruff.enable has the scope window"),
    (SETTINGS, '"python.testing.pytestEnabled": true', '"python.testing.pytestEnabled": "yes"', "of type boolean"),
    (SETTINGS, '"mypy-type-checker.reportingScope": "custom"', '"mypy-type-checker.reportingScope": "all"', '"all"'),
    (SETTINGS, '"git.branchProtection"', '// mine\n  "git.branchProtection"', "settings.json: no strict JSON"),
    (LAUNCH, '"version": "0.2.0",', '"version": "0.2.0", "version": "0.2.0",', "version is there twice"),
    (LAUNCH, '"justMyCode": false\n    }\n  ]', '"justMyCode": false\n    },\n  ]', "launch.json: no strict JSON"),
    (LAUNCH, '"type": "debugpy"', '"type": "python"', 'run: type is "python"'),
    (LAUNCH, '"console": "integratedTerminal"', '"console": "terminal"', 'run: console is "terminal"'),
    (LAUNCH, '"justMyCode"', '"justmycode"', "unknown key justmycode"),
    (LAUNCH, '"name": "serve"', '"name": "run"', "two configurations are called run"),
    (LAUNCH, '"module": "my_ml_project"', '"module": "my_ml_projects"', "there is no module my_ml_projects"),
    (LAUNCH, '"program": "${file}"', '"program": "src/gone.py"', "there is no file src/gone.py"),
    (LAUNCH, "${input:command}", "${input:choice}", "nobody defines input choice"),
    (LAUNCH, '"id": "arguments"', '"id": "argument"', "nobody asks for the input argument"),
    (LAUNCH, '"type": "pickString"', '"type": "pick"', 'input command: type is "pick"'),
    (LAUNCH, '"default": "status"', '"default": "state"', "input command: state is none of its options"),
    (LAUNCH, '"cwd": "${workspaceFolder}"', '"cwd": "/work"', "/work is a path of one machine"),
    (LAUNCH, '"cwd": "${workspaceFolder}"', '"preLaunchTask": "prepare"', "there is no task prepare"),
    (TASKS, '"group": "build"', '"dependsOn": ["format"]', "lint: depends on format, which is no task"),
    (TASKS, '"label": "types"', '"label": "lint"', "two tasks are called lint"),
    (TASKS, '"label": "types"', '"label": "typing"', "the session types has no task"),
    (TASKS, '"problemMatcher": []', '"problemMatcher": ["$ruff"]', "there is no matcher $ruff"),
    (TASKS, '"message": 5', '"message": 9', "has no group 9 for message"),
    (TASKS, r'"regexp": "^E +(', r'"regexp": "^E +((', "can't be read"),
    (".vscode/extensions.json", '"charliermarsh.ruff"', '"ruff"', "ruff is no name of an extension"),
    (".vscode/extensions.json", '"charliermarsh.ruff"', '"ms-python.isort"', "ms-python.isort is there twice"),
    (".devcontainer/devcontainer.json", '"name": "', r'"name": "C:\\', "is a path of one machine"),
    (
        ".idea/modules.xml",
        'filepath="$PROJECT_DIR$/',
        'filepath="$PROJECT_DIR$/../',
        "and should list .idea/my-ml-project.iml",
    ),
    (".idea/my-ml-project.iml", "/src", "/source", "there is no folder source"),
    (".idea/my-ml-project.iml", "inheritedJdk", "jdk", "the module has no interpreter"),
    (".idea/vcs.xml", 'directory=""', 'directory="/work"', "vcs.xml: /work is a path"),
    (".idea/vcs.xml", "</project>", "", "vcs.xml: no XML"),
    (RUN, '<module name="my-ml-project"', '<module name="my_ml_project"', "its module is ['my_ml_project']"),
    (RUN, '<configuration default="false" name="run"', '<configuration default="false" name="serve"', "called serve"),
    (RUN, '"SCRIPT_NAME" value="my_ml_project"', '"SCRIPT_NAME" value="ml"', "there is no src/ml/__main__.py"),
    (RUN, "PythonConfigurationType", "UvRunConfigurationType", "UvRunConfigurationType"),
    (RUN, '"SDK_HOME" value=""', '"SDK_HOME" value="$PROJECT_DIR$/.venv"', "its interpreter should be the module's"),
    (RUN, '"WORKING_DIRECTORY" value="$PROJECT_DIR$"', '"WORKING_DIRECTORY" value=""', "in the project's folder"),
    (RUN, '"MODULE_MODE" value="true"', '"MODULE_MODE" value="false"', "there is no my_ml_project"),
    (".run/lint.run.xml", '"SCRIPT_NAME" value="nox"', '"SCRIPT_NAME" value="nix"', "there is no src/nix/__main__.py"),
    (".run/lint.run.xml", 'value="-s lint"', 'value="-s lnt"', "there is no nox session lnt"),
]


@pytest.mark.parametrize(("path", "old", "new", "complaint"), FAULTS, ids=[row[3] for row in FAULTS])
def test_a_planted_fault_is_found(mine: Project, path: str, old: str, new: str, complaint: str) -> None:
    text = mine.read(path)
    assert old in text
    (mine.root / path).write_text(text.replace(old, new, 1), encoding="utf-8")
    found = problems(mine.root, {"setup", "lint", "types", "tests", "update"})
    assert any(complaint in line for line in found), found


def test_the_list_of_settings_is_renewed_from_what_is_installed(tmp_path: Path) -> None:
    rows = {
        "ruff.enable": {"type": "boolean", "scope": "window"},
        "ruff.run": {"type": "string", "enum": ["a"], "markdownDeprecationMessage": "gone"},
    }
    for name, publisher in (("ruff", "charliermarsh"), ("other", "someone")):
        manifest = {"name": name, "publisher": publisher, "contributes": {"configuration": {"properties": rows}}}
        (tmp_path / name).mkdir()
        (tmp_path / name / "package.json").write_text(json.dumps(manifest), encoding="utf-8")
    known = json.loads(vscode_settings.PAGE.read_text(encoding="utf-8"))
    now = vscode_settings.renewed(known, tmp_path)
    assert {key: row for key, row in now.items() if row["ext"] == "charliermarsh.ruff"} == {
        "ruff.enable": {"ext": "charliermarsh.ruff", "scope": "window", "type": "boolean"},
        "ruff.run": {
            "ext": "charliermarsh.ruff",
            "scope": "window",
            "type": "string",
            "enum": ["a"],
            "deprecated": True,
        },
    }
    assert {row["ext"] for row in now.values()} == {row["ext"] for row in known.values()}
    assert vscode_settings.page(known) == vscode_settings.PAGE.read_text(encoding="utf-8")
