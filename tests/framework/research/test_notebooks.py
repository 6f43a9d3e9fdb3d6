"""Notebooks are allowed, in notebooks/: each runs and stands on the package, and nothing stands on it."""

import ast
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

import my_ml_project
from my_ml_project import research
from my_ml_project.core.workspace import Workspace

PROJECT = Path(my_ml_project.__file__).parents[2]
PACKAGE = research.__name__.partition(".")[0]
NOTEBOOKS = sorted((PROJECT / "notebooks").rglob("*.ipynb"))
LOADERS = {"notebooks", "import_ipynb", "importnb", "nbimporter"}  # what a module gets at a notebook by

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def run(notebook: Path, folder: Path) -> nbformat.NotebookNode:
    """The notebook with its outputs, after every cell was run as if it stood in this folder."""
    folder.mkdir(exist_ok=True)
    read = nbformat.read(notebook, as_version=4)
    client = NotebookClient(read, kernel_name="python3", timeout=300, resources={"metadata": {"path": str(folder)}})
    return client.execute()


def imported(source: str) -> Iterator[str]:
    """What some code imports, by its full names."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def packages(names: Iterable[str]) -> set[str]:
    """The first parts of names."""
    return {name.partition(".")[0] for name in names}


def imported_by(notebook: Path) -> set[str]:
    """What a notebook imports, by its full names; cells of another language are left out."""
    cells = [cell["source"] for cell in nbformat.read(notebook, as_version=4)["cells"] if cell["cell_type"] == "code"]
    python = [TransformerManager().transform_cell(cell) for cell in cells if not cell.lstrip().startswith("%%")]
    return set(imported("\n".join(python)))


def standing_on_notebooks(folder: Path) -> list[str]:
    """The modules that import a notebook, and those that stand among notebooks, where one could import them."""
    paths = [path for name in ("src", "tests", "tools") for path in sorted((folder / name).rglob("*.py"))]
    importing = [path for path in paths if LOADERS & packages(imported(path.read_text(encoding="utf-8")))]
    return [path.name for path in (*importing, *sorted((folder / "notebooks").rglob("*.py")))]


def of_production(names: Iterable[str]) -> list[str]:
    """The names that belong to production."""
    return sorted(name for name in names if f"{name}.".startswith(f"{PACKAGE}.production."))


@pytest.fixture
def planted(tmp_path: Path) -> Callable[..., Path]:
    """A notebook with some cells: `planted("import polars as pl", ...)`."""

    def write(*cells: str) -> Path:
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        nbformat.write(book, tmp_path / "planted.ipynb")
        return tmp_path / "planted.ipynb"

    return write


@each
def test_a_notebook_runs(path: Path, flights: Workspace) -> None:
    run(path, flights.root / "notebooks")


def test_the_first_notebook_shows_a_table_and_a_plot(flights: Workspace) -> None:
    cells = run(PROJECT / "notebooks" / "start.ipynb", flights.root / "notebooks")["cells"]
    shown = [kind for cell in cells for output in cell.get("outputs", []) for kind in output.get("data", {})]
    assert {"text/html", "image/png"} <= set(shown)


@each
def test_a_notebook_stands_on_the_package(path: Path) -> None:
    assert PACKAGE in packages(imported_by(path)), f"{path} writes anew what {PACKAGE} has: import it"


@each
def test_a_notebook_is_research_and_imports_nothing_of_production(path: Path) -> None:
    found = of_production(imported_by(path))
    assert not found, f"{path} imports {', '.join(found)}: what both need goes to {PACKAGE}.core or {PACKAGE}.shared"


def test_nothing_stands_on_a_notebook() -> None:
    assert standing_on_notebooks(PROJECT) == []


def test_a_notebook_that_fails_is_seen(planted: Callable[..., Path], flights: Workspace) -> None:
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        run(planted("1 / 0"), flights.root / "notebooks")


def test_a_notebook_that_writes_the_package_anew_is_seen(planted: Callable[..., Path]) -> None:
    cells = ("%matplotlib inline\nimport polars as pl", "files = !ls\npl?", "%%bash\nfor file in *; do echo; done")
    assert imported_by(planted(*cells)) == {"polars"}


@pytest.mark.parametrize(
    "source",
    [
        f"from {PACKAGE}.production.gate import gate",
        f"import {PACKAGE}.production",
        f"from {PACKAGE} import production",
    ],
)
def test_a_notebook_that_imports_production_is_seen(planted: Callable[..., Path], source: str) -> None:
    assert len(of_production(imported_by(planted(f"import {PACKAGE}", source)))) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [("src/a.py", "import nbimporter"), ("tests/a.py", "from notebooks.first import x"), ("notebooks/a.py", "x = 1")],
)
def test_a_module_that_stands_on_a_notebook_is_seen(tmp_path: Path, path: str, source: str) -> None:
    (tmp_path / path).parent.mkdir()
    (tmp_path / path).write_text(source, encoding="utf-8")
    assert standing_on_notebooks(tmp_path) == ["a.py"]
