"""Merge the template's newest release into the project, or move it to a larger profile: `uv run nox -s update`.

Nothing is committed. Exit status 0: merged and locked again, or nothing is newer. 1: a person must look at what is
listed. 2: it could not start, and says why in one line.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# Cruft and Cookiecutter as uv.lock pins them, in an environment of their own.
TOOLS = ("uv", "run", "--quiet", "--frozen", "--isolated", "--only-group", "update")
BARE = {  # the template is cloned as a bare repository, which a user's settings may forbid
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "safe.bareRepository",
    "GIT_CONFIG_VALUE_0": "all",
}
GIT = ("git", "-c", "core.quotePath=false")
RELEASE = re.compile(r"v\d+\.\d+\.\d+")
PROFILES = ("minimal", "standard", "full")  # each has everything of those before it


class Rejected(Exception):
    """The update could not start, or a tool that it needs failed."""


def run(
    *command: str | Path, cwd: Path = ROOT, stdin: str | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a command and keep what it prints; Rejected with its last words if it fails."""
    try:
        done = subprocess.run(
            command, cwd=cwd, input=stdin, capture_output=True, encoding="utf-8", errors="replace", check=False
        )
    except OSError as error:
        raise Rejected(f"{command[0]} can't be started: {error.strerror}") from None
    if check and done.returncode:
        raise Rejected(f"{command[0]} said: {reason(done)}")
    return done


def reason(done: subprocess.CompletedProcess[str]) -> str:
    """The line in which a command that failed says why; below it, Git gives advice."""
    words = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()
    return next((line for line in words if line.startswith("fatal: ")), words[-1])


def read_record() -> dict[str, Any]:
    """Read where the project comes from; Rejected unless it is recorded and all work is committed."""
    path = ROOT / ".cruft.json"
    if not path.is_file():
        raise Rejected("there is no .cruft.json that names the template; `cruft link` writes one")
    if run("git", "status", "--porcelain", "--untracked-files=normal").stdout:
        raise Rejected("some changes are not committed; commit or stash them first")
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def clone(record: dict[str, Any], folder: Path) -> None:
    """Clone the template; Rejected if it can't be reached, or lost the commit that the project was made from."""
    try:
        run("git", "clone", "--quiet", "--mirror", record["template"], folder)
    except Rejected as refused:
        raise Rejected(f"the template {record['template']} can't be reached; {refused}") from None
    if not commit_of(folder, record["commit"]):
        raise Rejected(f"the template {record['template']} has lost commit {record['commit']} of .cruft.json")


def commit_of(template: Path, name: str) -> str:
    """The commit that a tag, a branch or a commit's own name stands for; empty if the template has none."""
    name += "^{commit}"
    found = run("git", "rev-parse", "--quiet", "--verify", name, cwd=template, check=False)
    if found.stderr:  # a name that is not there makes no words
        raise Rejected(f"git said: {reason(found)}")
    return found.stdout.strip()


def releases(template: Path) -> dict[str, str]:
    """Each release, and what Git calls it: a tag, or the commit in the template's table where tags are missing."""
    table = run("git", "show", "HEAD:releases.toml", cwd=template, check=False).stdout
    found = {f"v{row['version']}": row["commit"] for row in tomllib.loads(table).get("release", [])}
    found |= {tag: tag for tag in run("git", "tag", cwd=template).stdout.split() if RELEASE.fullmatch(tag)}
    return dict(sorted(found.items(), key=lambda row: [int(part) for part in row[0][1:].split(".")]))


def choose(template: Path, record: dict[str, Any], wanted: str | None) -> str:
    """Pick what to update to: what is asked for, else the newest release, else the branch that the project follows."""
    found = releases(template)
    if wanted:
        if not commit_of(template, found.get(wanted, wanted)):
            raise Rejected(f"the template has no {wanted}; its releases: {', '.join(found) or 'none'}")
        return found.get(wanted, wanted)
    if found:
        return list(found.values())[-1]
    followed = record.get("checkout")
    return followed if followed and commit_of(template, followed) else "HEAD"


def is_newer(template: Path, target: str, record: dict[str, Any]) -> bool:
    """Tell whether the target has anything that the project has not."""
    done = run("git", "merge-base", "--is-ancestor", target, record["commit"], cwd=template, check=False)
    if done.returncode > 1:
        raise Rejected(f"git said: {reason(done)}")
    return done.returncode == 1


def render(template: Path, record: dict[str, Any], folder: Path, **other: str) -> dict[str, Path]:
    """Render the recorded commit by the recorded answers, of which some may be others: each file by its path."""
    commit, made = folder / "commit", folder / "-".join(["made", *other.values()])
    if not commit.exists():
        run("git", "worktree", "add", "--quiet", "--detach", commit, record["commit"], cwd=template)
    answers = record["context"]["cookiecutter"] | other
    pairs = [f"{name}={value}" for name, value in answers.items() if not name.startswith("_")]
    place = commit / (record.get("directory") or "")
    run(*TOOLS, "cookiecutter", place, "--no-input", "--output-dir", made, *pairs)
    (root,) = made.iterdir()
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    return {name: path for name, path in files.items() if name != ".cruft.json" and not name.startswith(".git/")}


def preload(template: Path, record: dict[str, Any], folder: Path) -> dict[str, Path]:
    """Give Git the files that the recorded commit made: by them it merges three ways, in any clone of the project."""
    files = render(template, record, folder)
    paths = "".join(f"{path}\n" for path in files.values())
    run("git", "hash-object", "-w", "--no-filters", "--stdin-paths", stdin=paths)
    return files


def merge(template: Path, target: str, *options: str) -> list[str]:
    """Let cruft merge; list the files that a person must look at, since cruft itself says that all is well."""
    checkout = () if target == "HEAD" else ("--checkout", target)
    said = run(*TOOLS, "cruft", "update", "--skip-apply-ask", "--template-path", template, *checkout, *options).stderr
    above = run("git", "rev-parse", "--show-prefix").stdout.strip()  # of a project in a folder of a repository
    words = re.findall(r"^error: (?:patch failed: )?(?!while searching for:)(.+?):", said, re.MULTILINE)
    refused = [name.removeprefix(above) for name in words]
    unmerged = run(*GIT, "diff", "--relative", "--name-only", "--diff-filter=U").stdout.splitlines()
    rejected = run(*GIT, "ls-files", "--others", "--", "*.rej", ":!.venv").stdout.splitlines()
    checked = run(*GIT, "diff", "--relative", "--check", "HEAD", check=False).stdout
    marked = re.findall(r"^(.+):\d+: leftover conflict marker$", checked, re.MULTILINE)
    return sorted({*refused, *unmerged, *rejected, *marked})


def move_up(template: Path, record: dict[str, Any], profile: str, folder: Path) -> list[str]:
    """Merge what a larger profile has more, and list what a person must look at."""
    answers = record["context"]["cookiecutter"]
    now = answers.get("profile", "full")
    if PROFILES.index(profile) <= PROFILES.index(now):
        raise Rejected(f"the project's profile is {now}, and only a larger one can follow")
    before, after = preload(template, record, folder), render(template, record, folder, profile=profile)
    conflicts = merge(template, record["commit"], "--variables-to-update", json.dumps({"profile": profile}))
    added = [name for name in after if name not in before and not (ROOT / name).exists()]
    for name in added:  # what is the user's from now on, which cruft leaves out
        (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(after[name], ROOT / name)
    answers["profile"] = profile  # as cruft does, which forgets the branch that the project follows
    text = json.dumps(record, ensure_ascii=False, indent=2) + "\n"
    (ROOT / ".cruft.json").write_text(text, encoding="utf-8", newline="\n")
    run("git", "add", "--", ".cruft.json", *added)
    return conflicts


def update(wanted: str | None, profile: str | None, folder: Path) -> list[str] | None:
    """Update the project, with a folder to work in; list what a person must look at, or None if nothing is newer."""
    record, template = read_record(), folder / "template"
    clone(record, template)
    if profile:
        return move_up(template, record, profile, folder)
    target = choose(template, record, wanted)
    if not is_newer(template, target, record):
        if wanted and commit_of(template, target) != record["commit"]:
            raise Rejected(f"{wanted} is older than what the project has; an update never goes backwards")
        return None
    preload(template, record, folder)
    files = merge(template, target)
    if not files and subprocess.run(["uv", "lock"], cwd=ROOT, check=False).returncode:
        return ["uv.lock"]
    return files


def is_taken(branch: str) -> bool:
    """Tell whether someone else has committed to the branch that updates are proposed on."""
    if run("git", "fetch", "--quiet", "origin", branch, check=False).returncode:
        return False
    me = run("git", "config", "user.email").stdout.strip()
    return any(author != me for author in run("git", "log", "--format=%ae", "HEAD..FETCH_HEAD").stdout.split())


def propose(branch: str, files: list[str]) -> None:
    """Push the merge on a branch of its own; where a person must merge, a commit that changes nothing and says so."""
    words = ["Update from the template"]
    if files:
        run("git", "reset", "--quiet", "--hard")
        run("git", "clean", "--quiet", "--force", "-d")
        called = "On this branch, call `uv run nox -s update`, resolve what it could not merge, and commit:"
        words = [f"Draft: {words[0]}", "", called, "", *(f"- {name}" for name in files)]
    run("git", "switch", "--quiet", "--force-create", branch)
    run("git", "add", "--all")
    run("git", "commit", "--quiet", "--allow-empty", "--no-verify", "--message", "\n".join(words))
    run("git", "push", "--quiet", "--force", "origin", branch)


def main() -> int:
    """Read the command line, update, and say what to do next."""
    parser = argparse.ArgumentParser(description="Merge the template's newest release into the project.")
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--to", metavar="RELEASE", help="a release, tag or commit, in place of the newest release")
    target.add_argument("--profile", choices=PROFILES, help="stay at the release, and move to a larger profile")
    parser.add_argument("--push", metavar="BRANCH", help="push the result on this branch, unless someone works on it")
    asked = parser.parse_args()
    if asked.push and is_taken(asked.push):
        print(f"Someone works on {asked.push}; it is left alone.")
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        settings = Path(temporary, "settings.json")  # the user's own answers to other templates stay out
        settings.write_text(json.dumps({"replay_dir": temporary}), encoding="utf-8")
        for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR"):
            os.environ.pop(name, None)  # of a Git hook that calls this
        os.environ.update(COOKIECUTTER_CONFIG=str(settings), PYTHONUTF8="1", **BARE)
        files = update(asked.to, asked.profile, Path(temporary))
    if files is None:
        print("Nothing is newer than what the project has.")
        return 0
    if asked.push:
        propose(asked.push, files)
    elif files:
        print("A person must look at these; then `uv lock`, `uv run nox`, and commit:", *files, sep="\n  ")
    else:
        print("Merged. Look at `git diff HEAD`, then commit.")
    return 1 if files else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Rejected as refused:
        print(f"No update: {refused}.", file=sys.stderr)
        sys.exit(2)
