"""Try whether the framework's tests can fail: flip a sign or a comparison in sampled lines, one at a time.

`uvx nox -s mutate` renders the project of the framework's tests, flips 30 places of `core` and `production`, runs the
tests on each, and names the flips that no test notices; exit status 1 where there is one. It takes minutes a flip.
"""

import argparse
import ast
import copy
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parents[1]
FRAMEWORK = HERE / "tests" / "framework"
PACKAGE = "my_ml_project"
FLIPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.GtE,
    ast.GtE: ast.Lt,
    ast.Gt: ast.LtE,
    ast.LtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.USub: ast.UAdd,
}


@dataclass(frozen=True)
class Flip:
    """One place in one file, with what stands there and what is put there."""

    path: Path
    line: int
    start: int
    end: int
    before: str
    after: str

    def apply(self) -> str:
        """Put the flip into the file; return the file's text as it was."""
        text = self.path.read_bytes()
        self.path.write_bytes(text[: self.start] + self.after.encode() + text[self.end :])
        return text.decode()


def flips(path: Path) -> Iterator[Flip]:
    """Every sign and comparison of a file, flipped."""
    source = path.read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for node in ast.walk(ast.parse(source)):
        changed = flipped(node)
        if changed is None or not isinstance(node, ast.expr):
            continue
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)
        yield Flip(path, node.lineno, start, end, ast.unparse(node), f"({ast.unparse(changed)})")


def flipped(node: ast.AST) -> ast.AST | None:
    """Return the expression with its operator flipped; nothing where it has none of them."""
    new = copy.deepcopy(node)
    match new:
        case ast.Compare(ops=[operator]) if type(operator) in FLIPS:
            new.ops = [FLIPS[type(operator)]()]  # type: ignore[list-item]
        case ast.BinOp(op=operator) | ast.UnaryOp(op=operator) if type(operator) in FLIPS:
            new.op = FLIPS[type(operator)]()  # type: ignore[assignment]
        case _:
            return None
    return new


def red(project: Path, *paths: Path) -> bool:
    """Whether some test fails."""
    command = ["uv", "run", "--no-sync", "pytest", "-x", "-q", "--numprocesses=auto", "-p", "no:cacheprovider"]
    command += [f"--config-file={FRAMEWORK / 'pytest.toml'}", *map(str, paths or [FRAMEWORK])]
    return subprocess.run(command, cwd=project, capture_output=True, check=False).returncode != 0


def noticed(project: Path, flip: Flip) -> bool:
    """Whether a test of the folder, or else of the whole framework, notices a flip."""
    before = flip.apply()
    try:
        return red(project, FRAMEWORK / flip.path.parent.name) or red(project)
    finally:
        flip.path.write_text(before, encoding="utf-8", newline="\n")


def main() -> None:
    """Flip and count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("project", type=Path, help="the rendered project")
    parser.add_argument("--flips", type=int, default=30, help="how many places to try")
    parser.add_argument("--seed", type=int, default=0, help="which places")
    arguments = parser.parse_args()
    project = arguments.project
    if red(project):
        sys.exit("the framework's tests are red before anything is flipped")
    source = project / "src" / PACKAGE
    paths = [path for part in ("core", "production") for path in sorted((source / part).glob("*.py"))]
    found = [flip for path in paths for flip in flips(path)]
    chosen = random.Random(arguments.seed).sample(found, arguments.flips)  # noqa: S311 - a sample, no secret
    missed = []
    for number, flip in enumerate(chosen, 1):
        seen = noticed(project, flip)
        missed += [] if seen else [flip]
        where = f"{flip.path.relative_to(source).as_posix()}:{flip.line}"
        print(f"{number:3} {'noticed' if seen else 'MISSED '} {where}: {flip.before} -> {flip.after}", flush=True)
    summary = f"{len(chosen) - len(missed)} of {len(chosen)} flips noticed"
    print(f"{summary}, out of {len(found)} places (seed {arguments.seed})")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
