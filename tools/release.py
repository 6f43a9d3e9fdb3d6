"""Make a release: `uvx nox -s release -- 1.2.3` checks that projects can take it, tags it and adds it to releases.toml.

Nothing is pushed. The row names the tagged commit, so it is committed after it.
"""

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parents[1]
TABLE = HERE / "releases.toml"
VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")


def git(*arguments: str) -> str:
    """What Git prints in this checkout."""
    return subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()


def rows() -> list[dict[str, Any]]:
    """The releases in the table, oldest first."""
    return list(tomllib.loads(TABLE.read_text(encoding="utf-8")).get("release", []))


def recorded() -> dict[str, str]:
    """Version and commit of each release whose projects can update: of all but previews."""
    return {row["version"]: row["commit"] for row in rows() if not row.get("preview")}


def questions(text: str) -> dict[str, Any]:
    """What a cookiecutter.json asks, with the defaults."""
    return {name: default for name, default in json.loads(text).items() if not name.startswith("_")}


def lost(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """Yield what an older project has answered and a newer template no longer understands."""
    for name, default in old.items():
        if name not in new:
            yield f"the question {name} is gone"
        elif type(default) is not type(new[name]):
            yield f"the question {name} has another type"
        elif isinstance(default, list):
            yield from (f"the choice {name}={choice} is gone" for choice in default if choice not in new[name])


def number(version: str) -> list[int]:
    """A version as numbers that can be compared."""
    return [int(part) for part in version.split(".")]


def problems(version: str, changelog: str) -> Iterator[str]:
    """Yield each reason why this version can't be released."""
    if not VERSION.fullmatch(version):
        yield f"{version!r} is no version such as 1.2.3"
        return
    versions = [row["version"] for row in rows()]
    if any(number(version) <= number(older) for older in versions):
        yield f"{version} is not newer than {versions[-1]}"
    sections = re.split(r"^## ", changelog, flags=re.MULTILINE)
    heading = re.compile(rf"\[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d\n\s*\S")
    if not any(heading.match(section) for section in sections):
        yield f"CHANGELOG.md says nothing under `## [{version}] - YYYY-MM-DD`"
    now = questions((HERE / "cookiecutter.json").read_text(encoding="utf-8"))
    for older, commit in recorded().items():
        then = questions(git("show", f"{commit}:cookiecutter.json"))
        yield from (f"a project of {older} can't update: {loss}" for loss in lost(then, now))


def new_row(version: str, commit: str) -> str:
    """A release as the table has it."""
    return f'\n[[release]]\nversion = "{version}"\ncommit = "{commit}"\n'


def main(version: str) -> int:
    """Check, tag and record a release; 1 with the reasons if it can't be one."""
    found = list(problems(version, (HERE / "CHANGELOG.md").read_text(encoding="utf-8")))
    if git("status", "--porcelain"):
        found.append("some changes are not committed")
    if found:
        print(f"No release: {'; '.join(found)}.", file=sys.stderr)
        return 1
    commit = git("rev-parse", "HEAD")
    git("tag", f"v{version}", commit)
    with TABLE.open("a", encoding="utf-8", newline="\n") as table:
        table.write(new_row(version, commit))
    git("commit", "--quiet", "--message", f"Record release {version}", "--", TABLE.name)
    print(f"Tagged v{version} and recorded it. Push main and the tag together.")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2] or [""]))
