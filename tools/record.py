"""Record the first hour of a new project: `uvx nox -s record`.

It writes docs/images/first-minute.svg, the first `run` as it appeared in a terminal, and docs/reference/instance.md,
the files of a project and what its first commands print.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterable
from html import escape
from pathlib import Path

HERE = Path(__file__).parents[1]
PICTURE = HERE / "docs" / "images" / "first-minute.svg"
PAGE = HERE / "docs" / "reference" / "instance.md"
COLUMNS, ROWS = 112, 36  # of the terminal
LINE = 17  # pixels
COMMANDS = (
    "run",
    "run --now 2013-06-08",
    "run --now 2013-06-29",
    "run --now 2013-07-27",
    "status",
    "rollback",
    "monitor",
)
STYLE = (
    "text{font:13px ui-monospace,SFMono-Regular,Consolas,monospace;fill:#d6deeb;white-space:pre}"
    ".p{fill:#7fdbca}.l{opacity:0;animation:show .01s linear forwards}@keyframes show{to{opacity:1}}"
    "@media (prefers-reduced-motion:reduce){.l{animation:none;opacity:1}}"
)


def record(command: str, folder: Path) -> tuple[list[tuple[float, str]], int]:
    """The lines that a command prints, each with the seconds after which it appeared, and the exit status."""
    start = time.monotonic()
    line = ["uv", "run", folder.name, *command.split()]
    own = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    with subprocess.Popen(
        line, cwd=folder, env=own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
    ) as process:
        shown = [(time.monotonic() - start, text.rstrip("\n")) for text in process.stdout or ()]
    return shown, process.returncode


def picture(command: str, lines: Iterable[tuple[float, str]]) -> str:
    """An SVG of a terminal, in which the lines appear as they did."""
    shown = [(0.0, f"$ {command}"), *((moment + 0.5, text[:COLUMNS]) for moment, text in lines)][:ROWS]
    rows = [
        f'<text x="16" y="{26 + LINE * row}" class="{"l" if row else "p"}" style="animation-delay:{moment:.2f}s">'
        f"{escape(text)}</text>"
        for row, (moment, text) in enumerate(shown)
    ]
    width, height = 32 + 8 * COLUMNS, 28 + LINE * len(shown)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">'
    title = "<title>The first run of a new project, in real time</title>"
    return "\n".join(
        [
            head,
            title,
            f"<style>{STYLE}</style>",
            '<rect width="100%" height="100%" rx="8" fill="#011627"/>',
            *rows,
            "</svg>\n",
        ]
    )


def tree(files: Iterable[str]) -> str:
    """Files as a tree, folders first."""
    lines: list[str] = []

    def walk(names: list[list[str]], depth: int) -> None:
        folders = dict.fromkeys(name[0] for name in names if len(name) > 1)
        for folder in folders:
            lines.append(f"{'  ' * depth}{folder}/")
            walk([name[1:] for name in names if name[0] == folder and len(name) > 1], depth + 1)
        lines.extend(f"{'  ' * depth}{name[0]}" for name in names if len(name) == 1)

    walk([name.split("/") for name in sorted(files)], 0)
    return "\n".join(lines)


def main(folder: Path) -> None:
    """Let a new project live through its first commands, and write what they print."""
    tracked = subprocess.run(["git", "ls-files"], cwd=folder, capture_output=True, encoding="utf-8", check=True)
    parts = [
        "# A project and its first hour\n",
        "Written by `uvx nox -s record`: the files of a new project of the profile `standard`, and what its first",
        "commands print. The README of the project explains them.\n",
        f"## Files\n\n```text\n{tree(tracked.stdout.split())}\n```\n",
        "## Commands\n",
    ]
    for command in COMMANDS:
        lines, status = record(command, folder)
        if command == COMMANDS[0]:
            PICTURE.write_text(picture(f"uv run {folder.name} {command}", lines), encoding="utf-8", newline="\n")
        text = "\n".join(text for _, text in lines).replace(str(folder), ".")
        took = f"It took {lines[-1][0]:.0f} s and ended with exit status {status}."
        parts.append(f"`uv run {folder.name} {command}`\n\n```text\n{text}\n```\n\n{took}\n")
    PAGE.write_text("\n".join(parts), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
