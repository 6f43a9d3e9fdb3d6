"""Start a notebook: `uv run nox -s notebook -- NAME` makes notebooks/NAME.ipynb, with the training set at hand.

Notebooks explore. What proves useful moves into an experiment or into `shared`, where it is tested.
"""

import json
import sys
import tomllib
from pathlib import Path

CELLS = """
from {package}.shared import dataset
from {package}.shared.user_problem import PROBLEM
from {package}.shared.workspace import open_workspace

workspace = open_workspace(PROBLEM)
rows = dataset.training_set(workspace.problem, workspace.lake, as_of=workspace.now())
rows.describe()
"""


def start(name: str, root: Path) -> Path:
    """Make a notebook.

    Args:
        name: Its name, without the ending.
        root: The project's folder.

    Raises:
        FileExistsError: There is one of this name.
    """
    package = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"].replace("-", "_")
    first, *code = CELLS.format(package=package).strip().split("\n\n")
    cells = [cell("markdown", f"# {name}"), *(cell("code", source) for source in (first, *code))]
    path = root / "notebooks" / f"{name}.ipynb"
    path.parent.mkdir(exist_ok=True)
    with path.open("x", encoding="utf-8", newline="\n") as file:
        json.dump({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 4}, file, indent=1)
        file.write("\n")
    return path


def cell(kind: str, source: str) -> dict[str, object]:
    """A cell, as version 4 of the notebook format has it."""
    ran: dict[str, object] = {"execution_count": None, "outputs": []} if kind == "code" else {}
    return {"cell_type": kind, "metadata": {}, "source": source, **ran}


def main() -> int:
    """Make the one that is asked for; exit status 2 where it can't be made."""
    match sys.argv[1:]:
        case [name] if Path(name).name == name and not name.startswith((".", "-")):
            try:
                print(start(name.removesuffix(".ipynb"), Path.cwd()))
            except FileExistsError as error:
                print(f"{error.filename} is there already: choose another name", file=sys.stderr)
                return 2
            return 0
        case given:
            print(f"give one name, not {' '.join(given) or 'none'}: uv run nox -s notebook -- NAME", file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main())
