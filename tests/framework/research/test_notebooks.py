"""Notebooks are allowed, in notebooks/: each runs and stands on the package, and nothing stands on it."""

import ast
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path

import nbformat
import polars as pl
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

import my_ml_project
from my_ml_project import research, shared
from my_ml_project.core import datasets
from my_ml_project.core.errors import InputError
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


def test_the_first_notebook_shows_the_same_in_marimo(flights: Workspace, tmp_path: Path) -> None:
    program = tmp_path / "start.py"
    line = [sys.executable, "-m", "marimo", "convert", str(PROJECT / "notebooks" / "start.ipynb"), "-o", str(program)]
    subprocess.run(line, cwd=flights.root, check=True, capture_output=True)
    outputs, _ = runpy.run_path(str(program))["app"].run()
    assert {"DataFrame", "Axes"} <= {type(output).__name__ for output in outputs}


def test_the_cells_of_an_experiment_show_its_picture(planted: Callable[..., Path], flights: Workspace) -> None:
    (folder,) = research.__path__
    script = Path(folder, "experiments", "first_look.py").read_text(encoding="utf-8")
    cells = [cell for cell in re.split(r"^# %%.*\n", script, flags=re.MULTILINE) if cell]
    last = run(planted(*cells), flights.root)["cells"][-1]
    assert "image/png" in {kind for output in last["outputs"] for kind in output.get("data", {})}


# --- what notebooks begin with


def test_the_training_set_is_one_call_away_also_for_pandas(flights: Workspace) -> None:
    training_set = my_ml_project.load_training_set()
    assert training_set.equals(datasets.training_set(flights.problem, flights.lake, as_of=flights.now()))
    assert list(training_set.to_pandas().columns) == training_set.columns
    earlier = my_ml_project.load_training_set(as_of=flights.now() - timedelta(days=7))
    assert 0 < len(earlier) < len(training_set)


def test_each_table_is_one_call_away_without_personal_columns(
    trained: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "PROBLEM", trained.problem)
    stored = trained.lake.scan(trained.problem.schema).collect()
    rows = my_ml_project.load_table("parcels")
    assert set(stored.columns) - set(rows.columns) == {"sender", "refunded"}
    assert len(rows.to_pandas()) == len(stored)
    assert isinstance(my_ml_project.load_table("decisions"), pl.DataFrame)
    with pytest.raises(InputError, match=r"no table parcel: choose one of parcels, .*predictions"):
        my_ml_project.load_table("parcel")


def test_the_package_itself_imports_no_library() -> None:
    program = f"import sys; import {PACKAGE}; print(sorted(set(sys.modules) & {{'polars', 'pydantic', 'numpy'}}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.strip() == "[]"


# --- what notebooks may import


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
