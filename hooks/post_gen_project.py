"""Finish a project: take out the options that are off; a new one also gets its record for updates and a first commit.

Cookiecutter runs a rendered copy of this file in the new folder; the standard library is all it has. The render is a
pure function of the answers, so that an update can compare two of them; everything else happens once, on creation.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# As pairs: `tojson` sorts the keys of a mapping, and the record for updates keeps the order of the questions.
ANSWERS = r"""{{ cookiecutter.items() | list | tojson }}"""

# Question -> answer -> the paths that only this answer keeps.
OPTIONAL: dict[str, dict[str, list[str]]] = {
    "ci": {
        "github": [".github"],
        "gitlab": [".gitlab-ci.yml"],
    },
}
# Profile -> the paths that only it and larger profiles keep; PACKAGE stands for the package's folder.
PROFILES: dict[str, list[str]] = {
    "minimal": [],
    "standard": [
        ".dockerignore",
        ".template-editors/pycharm/.run/report.run.xml",
        ".template-editors/pycharm/.run/serve.run.xml",
        "Dockerfile",
        "docs/parts/reports.md",
        "docs/parts/service.md",
        "docs/parts/tuning.md",
        "PACKAGE/app.py",
        "PACKAGE/production/service",
        "PACKAGE/research/reports",
        "PACKAGE/research/tuning",
        "PACKAGE/research/views",
        "tests/production",
    ],
    "full": [
        ".template-editors/vscode/.devcontainer",
        "docs/parts/erase.md",
        "docs/parts/labels.md",
        "docs/parts/simulate.md",
        "PACKAGE/production/erasure",
        "PACKAGE/production/simulation",
        "PACKAGE/research/experiments/ablation.py",
        "PACKAGE/research/experiments/feature_cost.py",
        "PACKAGE/research/labels",
    ],
}
# Where the template has the settings of editors, by the answer: Cookiecutter overwrites, and a user's settings stay.
EDITORS = {"both": ("vscode", "pycharm"), "vscode": ("vscode",), "pycharm": ("pycharm",), "none": ()}
EDITOR_FILES = ".template-editors"
BEFORE = ".template-before"  # where the other hook says what was there before
# The project whose lock the template holds.
LOCKED = "my-ml-project"
# Neither the user's ignore list, signing key or hooks nor another repository's environment may change the first commit.
# Nor does it wait to be compressed, which takes half of Git's time: Git does so when it packs or pushes.
OWN_GIT = ("core.excludesFile=", "commit.gpgsign=false", "core.hooksPath=", "core.looseCompression=0")
FOREIGN = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY")


def is_rerender(answers: Mapping[str, str], root: Path) -> bool:
    """Tell whether an update tool renders the project in a temporary folder, rather than a user creating it."""
    in_temporary_folder = re.fullmatch(r"tmp[a-z0-9_]{8}", root.parent.name) is not None
    return "_commit" in answers and in_temporary_folder and Path(tempfile.gettempdir()).resolve() in root.parents


def unwanted(answers: Mapping[str, str]) -> list[str]:
    """List the paths of options that are off, and of larger profiles."""
    paths = [
        path
        for question, kept_by in OPTIONAL.items()
        for answer, paths in kept_by.items()
        if answers[question] not in {answer, "both"}
        for path in paths
    ]
    larger = list(PROFILES.values())[list(PROFILES).index(answers["profile"]) + 1 :]
    package = f"src/{answers['project_slug'].replace('-', '_')}"
    paths += [path.replace("PACKAGE", package) for profile in larger for path in profile]
    return [*paths, *([] if answers["owner"] else ["CODEOWNERS"])]


def restore(root: Path) -> set[Path]:
    """Put back what the other hook laid aside; return the files that were there before the project was rendered."""
    folder = root / BEFORE
    names = (folder / "files").read_text(encoding="utf-8").splitlines() if folder.is_dir() else []
    copies = folder / "copies"
    for path in (path for path in copies.rglob("*") if path.is_file()):
        path.replace(root / path.relative_to(copies))
    shutil.rmtree(folder, ignore_errors=True)
    return {root / name for name in names}


def prune(root: Path, paths: list[str], before: set[Path]) -> None:
    """Remove files and folders of the new project, but for files that were there before it."""
    for path in paths:
        target = root / path
        files = [file for file in target.rglob("*") if not file.is_dir()] if target.is_dir() else [target]
        for file in files:
            if file not in before:
                file.unlink(missing_ok=True)
        folders = sorted((folder for folder in target.rglob("*") if folder.is_dir()), reverse=True)
        for folder in (*folders, target):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def name_lock(root: Path, slug: str) -> None:
    """Write the project's own name into its lock, which is copied: to render it costs more than 50 other files."""
    lock = root / "uv.lock"
    text = lock.read_text(encoding="utf-8").replace(f'name = "{LOCKED}"\n', f'name = "{slug}"\n')
    lock.write_text(text, encoding="utf-8", newline="\n")


def add_editor_settings(root: Path, ide: str) -> list[str]:
    """Move the settings of the chosen editors to where these look for them; return what to tell."""
    folders = [root / EDITOR_FILES / editor for editor in EDITORS[ide]]
    files = [(path, root / path.relative_to(folder)) for folder in folders for path in sorted(folder.rglob("*"))]
    notes = [add_file(path, target, root) for path, target in files if path.is_file()]
    shutil.rmtree(root / EDITOR_FILES, ignore_errors=True)
    return [note for note in notes if note]


def add_file(path: Path, target: Path, root: Path) -> str | None:
    """Move a file of settings, or add what the one that is there lacks; if that can't be read, lay ours beside it."""
    target.parent.mkdir(exist_ok=True)
    if not target.exists():
        path.replace(target)
        return None
    if target.suffix != ".json":
        return None
    try:
        theirs = json.loads(target.read_bytes())
    except ValueError:
        path.replace(f"{target}.template")
        name = target.relative_to(root).as_posix()
        return f"{name} is no plain JSON and stays as it is; {name}.template has what it would get"
    merged = merge(theirs, json.loads(path.read_bytes()))
    if merged != theirs:
        text = json.dumps(merged, indent=2, ensure_ascii=False) + "\n"
        target.write_text(text, encoding="utf-8", newline="\n")
    return None


def merge(theirs: Any, ours: Any) -> Any:  # noqa: ANN401 - JSON
    """Add to the user's JSON the keys of objects and the named entries of lists that only the template's has."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        return theirs | {key: merge(theirs.get(key, value), value) for key, value in ours.items()}
    if isinstance(theirs, list) and isinstance(ours, list):
        names = [name_of(entry) for entry in theirs]
        return theirs + [entry for entry in ours if name_of(entry) and name_of(entry) not in names]
    return theirs


def name_of(entry: object) -> object:
    """The name of a launch configuration, the label of a task, or the identifier of an input."""
    if not isinstance(entry, dict):
        return None
    return entry.get("name") or entry.get("label") or entry.get("id")


def git(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Git in the project, on its own and without a word."""
    environment = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    command = ["git", *(part for setting in OWN_GIT for part in ("-c", setting)), *arguments]
    return subprocess.run(  # noqa: S603
        command, cwd=root, env=environment, capture_output=True, encoding="utf-8", errors="replace", check=False
    )


def ask_git(folder: Path, *arguments: str) -> str:
    """What Git answers in the template's folder; LookupError with its reason if it refuses."""
    result = git(folder, *arguments)
    if result.returncode:
        raise LookupError((result.stderr.strip().splitlines() or [f"`git {arguments[0]}` failed"])[-1])
    return result.stdout.strip()


def template_folder(answers: Mapping[str, str]) -> Path:
    """Find the rendered template; where its path is relative, that is from where the user stood."""
    bases = (os.environ.get("PWD", ""), answers.get("_output_dir", ""))
    folders = [Path(base, answers["_repo_dir"]).absolute() for base in bases if "_repo_dir" in answers]
    for folder in folders:
        if (folder / "cookiecutter.json").is_file():
            return folder
    raise LookupError("its folder can't be found; give its absolute path")


def address(url: str) -> str:
    """Write a clone's origin as cruft does: a path for file://; never with a password."""
    path = Path(url.removeprefix("file://"))
    return str(path) if url.startswith("file://") and path.exists() else re.sub(r"^(https?://)[^/@]*@", r"\1", url)


def origin(answers: Mapping[str, str]) -> dict[str, str | None]:
    """Tell the template's address and commit; LookupError with the reason if an update couldn't find them again."""
    if "_commit" in answers:  # cruft creates the project, and knows
        return {"template": answers["_template"], "commit": answers["_commit"], "checkout": None, "directory": None}
    folder = template_folder(answers)
    ask_git(folder, "ls-files", "--error-unmatch", "cookiecutter.json")
    if ask_git(folder, "status", "--porcelain", "--", "hooks", "*cookiecutter*"):
        raise LookupError("its folder has changes that are not committed")
    commit, prefix, top = ask_git(folder, "rev-parse", "HEAD", "--show-prefix", "--show-toplevel").split("\n")
    directory = prefix.rstrip("/") or None
    if Path(answers["_repo_dir"]).is_relative_to(answers["_template"]):  # used where it is, whatever --checkout says
        template = top if directory else str(folder)
        return {"template": template, "commit": commit, "checkout": None, "directory": directory}
    template = address(ask_git(folder, "config", "--get", "remote.origin.url"))
    return {"template": template, "commit": commit, "checkout": answers.get("_checkout"), "directory": directory}


def make_updatable(answers: Mapping[str, str], root: Path) -> str | None:
    """Record where the project comes from, in the bytes that cruft writes; otherwise say in one line why not."""
    if shutil.which("git") is None:
        return None  # the first commit lacks it too, and says so
    try:
        found = origin(answers)
    except LookupError as reason:
        return f"The template's updates can't reach this project until `cruft link`: {reason.args[0]}"
    about_the_run = {"_output_dir", "_repo_dir", "_checkout", "_template", "_commit"}
    context = {name: answer for name, answer in answers.items() if name not in about_the_run}
    context |= {"_template": str(found["template"]), "_commit": str(found["commit"])}
    record = {**found, "context": {"cookiecutter": context}}
    record = {name: record[name] for name in ("template", "commit", "checkout", "context", "directory")}
    text = json.dumps(record, ensure_ascii=False, indent=2) + "\n"
    (root / ".cruft.json").write_text(text, encoding="utf-8", newline="\n")
    return None


def fit_hooks(root: Path, folder: str) -> None:
    """Let the pre-commit hooks, which run in the repository's root, work on the project in this folder of it."""
    path = root / ".pre-commit-config.yaml"
    if not folder or not path.exists():
        return
    place, pattern = shlex.quote(folder), re.escape(folder)
    head, *hooks = path.read_text(encoding="utf-8").split("      - id: ")
    fitted = [head.replace("\nrepos:", f"files: ^{pattern}/\n\nrepos:")]
    for hook in hooks:
        option = "--directory" if "pass_filenames: false" in hook else "--project"
        text = re.sub(r"^( +(?:files|exclude): \^)", rf"\g<1>{pattern}/", hook, flags=re.MULTILINE)
        text = text.replace("uv run --frozen", f"uv run --frozen {option} {place}")
        text = text.replace("uv lock", f"uv lock --directory {place}")
        fitted.append(re.sub(r"(entry: .* codespell)", rf"\g<1> --toml {place}/pyproject.toml", text))
    path.write_text("      - id: ".join(fitted), encoding="utf-8", newline="\n")


def commit(root: Path, message: str) -> str | None:
    """Make the project a Git repository with a first commit; otherwise say in one line why not."""
    if shutil.which("git") is None:
        return "Git is not installed, so there is no first commit; the project works, but runs can't record one"
    if git(root, "rev-parse", "--is-inside-work-tree").returncode == 0:
        ignored = git(root, "check-ignore", "--quiet", ".").returncode == 0
        if not ignored:
            fit_hooks(root, git(root, "rev-parse", "--show-prefix").stdout.strip().rstrip("/"))
            return "This folder belongs to a Git repository already: add the project there; CI reads files of its root"
    steps = (
        ("init", "--quiet", "--initial-branch=main"),
        ("add", "--all"),
        ("commit", "--quiet", "--no-verify", "--message", message),
    )
    for step in steps:
        if step[0] == "commit" and git(root, "var", "GIT_AUTHOR_IDENT").returncode:
            return "No first commit, since Git lacks your name: set user.name and user.email by git config, then commit"
        result = git(root, *step)
        if result.returncode:
            why = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
            return f"No first commit, since `git {step[0]}` said: {why}"
    return None


def next_steps(answers: Mapping[str, str], notes: list[str]) -> str:
    """Tell a user what to type now."""
    slug = answers["project_slug"]
    lines = ["", f"{slug} is ready. Next:", f"  cd {slug}", "  uv sync", f"  uv run {slug} run", ""]
    return "\n".join([*lines, *(f"Note: {note}" for note in notes), *([""] if notes else [])])


def main(answers: Mapping[str, str], root: Path) -> None:
    """Prune, name and add settings of editors; for a user who creates it, also record, commit, print the next steps."""
    prune(root, unwanted(answers), restore(root))
    name_lock(root, answers["project_slug"])
    notes = add_editor_settings(root, answers["ide"])
    if is_rerender(answers, root):
        return
    once = make_updatable(answers, root), commit(root, f"Create {answers['project_slug']} from the template")
    notes += [note for note in once if note]
    print(next_steps(answers, notes).encode("ascii", "backslashreplace").decode(), file=sys.stderr)


if __name__ == "__main__":
    main(dict(json.loads(ANSWERS)), Path.cwd())
