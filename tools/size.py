"""Count generated projects' files and lines of code: `uvx nox -s size`, or `python tools/size.py FOLDER...`.

Files are all that Git tracks outside `data/`. Lines are those of all Python outside `tests/`, without blank lines,
comments and docstrings. Nothing is subtracted.
"""

import ast
import io
import subprocess
import sys
import tokenize
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from pathlib import Path


@dataclass(frozen=True)
class Size:
    """The size of a project.

    Attributes:
        files: Files that Git tracks outside `data/`.
        lines: Lines of code by Python file outside `tests/`.
    """

    files: int
    lines: dict[str, int]

    @property
    def total(self) -> int:
        """All lines of code."""
        return sum(self.lines.values())


def code_lines(source: str) -> int:
    """Count lines of Python as cloc does: without blank lines, comments and docstrings."""
    documented = {
        line
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and ast.get_docstring(node) is not None
        for line in range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)
    }
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    code = [range(token.start[0], token.end[0] + 1) for token in tokens if token.type not in silent]
    return len({line for lines in code for line in lines} - documented)


def measure(project: Path) -> Size:
    """Count the files and lines of code of a project."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=project, capture_output=True, text=True, check=True).stdout
    files = [name for name in listed.rstrip("\0").split("\0") if not name.startswith("data/")]
    python = [name for name in files if name.endswith(".py") and not name.startswith("tests/")]
    return Size(len(files), {name: code_lines((project / name).read_text(encoding="utf-8")) for name in python})


def table(*sizes: Size) -> str:
    """Show the totals, and the lines of each folder, in a column for each project."""
    folders = [Counter[str]() for _ in sizes]
    for size, counted in zip(sizes, folders, strict=True):
        for name, lines in size.lines.items():
            counted[Path(name).parent.as_posix()] += lines
    rows = [
        ("files", [size.files for size in sizes]),
        ("lines of code", [size.total for size in sizes]),
        *((name, [counted[name] for counted in folders]) for name in sorted({*chain(*folders)})),
    ]
    return "\n".join("".join(f"{number:>7,}" for number in numbers) + f"  {name}" for name, numbers in rows)


if __name__ == "__main__":
    print(table(*(measure(Path(folder)) for folder in sys.argv[1:])))
