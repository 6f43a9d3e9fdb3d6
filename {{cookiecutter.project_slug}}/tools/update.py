"""Merge the template's newest release into the project: `uv run nox -s update`.

Nothing is committed. Exit status 0: merged and locked again, or nothing is newer. 1: a person must look at what is
listed. 2: it could not start, and says why in one line.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# Cruft and Cookiecutter as uv.lock pins them, in an environment of their own.
TOOLS = ("uv", "run", "--quiet", "--frozen", "--isolated", "--only-group", "update")
GIT = ("git", "-c", "core.quotePath=false")
RELEASE = re.compile(r"v\d+\.\d+\.\d+")


class Refused(Exception):
    """The update could not start, or a tool that it needs failed."""


def run(
    *command: str | Path, cwd: Path = ROOT, stdin: str | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a command and keep what it prints; Refused with its last words if it fails."""
    done = subprocess.run(
        command, cwd=cwd, input=stdin, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if check and done.returncode:
        words = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()
        raise Refused(f"{command[0]} said: {words[-1]}")
    return done


def read_record() -> dict[str, Any]:
    """Read where the project comes from; Refused unless it is recorded and all work is committed."""
    path = ROOT / ".cruft.json"
    if not path.is_file():
        raise Refused("there is no .cruft.json that names the template; `cruft link` writes one")
    if run("git", "status", "--porcelain").stdout:
        raise Refused("some changes are not committed; commit or stash them first")
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def clone(record: dict[str, Any], folder: Path) -> None:
    """Clone the template; Refused if it can't be reached, or lost the commit that the project was made from."""
    try:
        run("git", "clone", "--quiet", "--mirror", record["template"], folder)
    except Refused as refused:
        raise Refused(f"the template {record['template']} can't be reached; {refused}") from None
    if not commit_of(folder, record["commit"]):
        raise Refused(f"the template {record['template']} has lost commit {record['commit']} of .cruft.json")


def commit_of(template: Path, name: str) -> str:
    """The commit that a tag, a branch or a commit's own name stands for; empty if the template has none."""
    name += "^{commit}"
    return run("git", "rev-parse", "--quiet", "--verify", name, cwd=template, check=False).stdout.strip()


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
            raise Refused(f"the template has no {wanted}; its releases: {', '.join(found) or 'none'}")
        return found.get(wanted, wanted)
    if found:
        return list(found.values())[-1]
    followed = record.get("checkout")
    return followed if followed and commit_of(template, followed) else "HEAD"


def is_newer(template: Path, target: str, record: dict[str, Any]) -> bool:
    """Tell whether the target has anything that the project has not."""
    question = ("git", "merge-base", "--is-ancestor", target, record["commit"])
    return run(*question, cwd=template, check=False).returncode != 0


def preload(template: Path, record: dict[str, Any], folder: Path) -> None:
    """Give Git the files that the recorded commit made: by them it merges three ways, in any clone of the project."""
    run("git", "clone", "--quiet", template, folder / "before")
    run("git", "checkout", "--quiet", record["commit"], cwd=folder / "before")
    answers = {name: value for name, value in record["context"]["cookiecutter"].items() if not name.startswith("_")}
    pairs = [f"{name}={value}" for name, value in answers.items()]
    place = folder / "before" / (record.get("directory") or "")
    run(*TOOLS, "cookiecutter", place, "--no-input", "--output-dir", folder / "made", *pairs)
    files = [path for path in (folder / "made").rglob("*") if path.is_file() and ".git" not in path.parts]
    run("git", "hash-object", "-w", "--no-filters", "--stdin-paths", stdin="".join(f"{path}\n" for path in files))


def merge(template: Path, target: str) -> list[str]:
    """Let cruft merge; list the files that a person must look at, since cruft itself says that all is well."""
    checkout = () if target == "HEAD" else ("--checkout", target)
    said = run(*TOOLS, "cruft", "update", "--skip-apply-ask", "--template-path", template, *checkout).stderr
    refused = re.findall(r"^error: (?:patch failed: )?(.+?):", said, re.MULTILINE)
    unmerged = run(*GIT, "diff", "--relative", "--name-only", "--diff-filter=U").stdout.splitlines()
    rejected = run(*GIT, "ls-files", "--others", "--", "*.rej", ":!.venv").stdout.splitlines()
    checked = run(*GIT, "diff", "--relative", "--check", "HEAD", check=False).stdout
    marked = re.findall(r"^(.+):\d+: leftover conflict marker$", checked, re.MULTILINE)
    return sorted({*refused, *unmerged, *rejected, *marked})


def update(wanted: str | None, folder: Path) -> list[str] | None:
    """Update the project, with a folder to work in; list what a person must look at, or None if nothing is newer."""
    record, template = read_record(), folder / "template"
    clone(record, template)
    target = choose(template, record, wanted)
    if not is_newer(template, target, record):
        if wanted and commit_of(template, target) != record["commit"]:
            raise Refused(f"{wanted} is older than what the project has; an update never goes backwards")
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
    parser.add_argument("--to", metavar="RELEASE", help="a release, tag or commit, in place of the newest release")
    parser.add_argument("--push", metavar="BRANCH", help="push the result on this branch, unless someone works on it")
    asked = parser.parse_args()
    if asked.push and is_taken(asked.push):
        print(f"Someone works on {asked.push}; it is left alone.")
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        settings = Path(temporary, "settings.json")  # the user's own answers to other templates stay out
        settings.write_text(json.dumps({"replay_dir": temporary}), encoding="utf-8")
        os.environ.update(COOKIECUTTER_CONFIG=str(settings), PYTHONUTF8="1")
        files = update(asked.to, Path(temporary))
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
    except Refused as refused:
        print(f"No update: {refused}.", file=sys.stderr)
        sys.exit(2)
