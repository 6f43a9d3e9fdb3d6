"""Bump what no lock pins, here and in the template folder: `uvx nox -s bump`.

That is the actions of workflows, by commit and version, and the tools that pyproject.toml pins exactly.
"""

import re
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

HERE = Path(__file__).parents[1]
PROJECT = HERE / "{{cookiecutter.project_slug}}"
ACTION = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)@[0-9a-f]{40} # v[\d.]+")
TOOL = re.compile(r'"(?P<name>[\w.-]+)==[\w.]+"')
TAG = re.compile(r"^(?P<commit>[0-9a-f]{40})\trefs/tags/(?P<version>v\d+\.\d+\.\d+)(\^\{\})?$", re.MULTILINE)


def newest_tag(listed: str) -> tuple[str, str]:
    """The commit and the version of the newest release in what `git ls-remote --tags` prints."""
    tags = {match["version"]: match["commit"] for match in TAG.finditer(listed)}  # a tag's commit stands below the tag
    version = max(tags, key=lambda tag: [int(part) for part in tag[1:].split(".")])
    return tags[version], version


@cache
def pinned_action(name: str) -> str:
    """An action at its newest release, as a workflow uses it."""
    address = f"https://github.com/{name}"
    listed = subprocess.run(["git", "ls-remote", "--tags", address], capture_output=True, text=True, check=True).stdout
    return "{}@{} # {}".format(name, *newest_tag(listed))


@cache
def pinned_tool(name: str) -> str:
    """A tool at its newest version, as pyproject.toml pins it."""
    command = ["uv", "pip", "compile", "--quiet", "--no-deps", "--no-header", "--no-annotate", "-"]
    found = subprocess.run(command, input=name, capture_output=True, text=True, check=True).stdout.strip()
    return f'"{found}"'


def bump(text: str, pattern: re.Pattern[str], pin: Callable[[str], str]) -> str:
    """Replace each pin of a text by a newer one."""
    return pattern.sub(lambda match: pin(match["name"]), text)


def main() -> None:
    """Bump every workflow and both pyproject.toml."""
    workflows = [path for root in (HERE, PROJECT) for path in (root / ".github" / "workflows").glob("*.yml")]
    files = [(path, ACTION, pinned_action) for path in workflows]
    files += [(root / "pyproject.toml", TOOL, pinned_tool) for root in (HERE, PROJECT)]
    for path, pattern, pin in files:
        before = path.read_text(encoding="utf-8")
        if (after := bump(before, pattern, pin)) != before:
            path.write_text(after, encoding="utf-8", newline="\n")
            print(f"changed {path.relative_to(HERE)}")


if __name__ == "__main__":
    main()
