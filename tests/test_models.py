"""Another model needs a few lines of `shared/model.py` and `config/params.toml`, and nothing about ONNX."""

import ast
import difflib
import json
import os
import re
import shutil
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
from baking import Project, run

OWN = {"UV_PROJECT_ENVIRONMENT": "", "VIRTUAL_ENV": "", "OMP_NUM_THREADS": "1"}  # the project's own environment
YOURS = ("tests/shared/test_problem.py", "tests/research/test_experiments.py")
NOW = "2013-04-01"  # by which the example has labels of three months


@dataclass(frozen=True)
class Swap:
    """How the shipped model becomes another.

    Attributes:
        changes: Patterns of `model.py`, and what takes their place.
        parameters: The content of `config/params.toml`.
        packages: What the project lacks.
    """

    changes: dict[str, str]
    parameters: str
    packages: tuple[str, ...] = ()


IMPORT = "from sklearn.ensemble import HistGradientBoostingClassifier\n"
PARAMETERS = r"    learning_rate: .*?(?=    augment_missing_share)"
TREES = r"    trees = .*?\n    \)\n"
SWAPS = {
    "logistic regression": Swap(
        {
            IMPORT: "from sklearn.impute import SimpleImputer\nfrom sklearn.linear_model import LogisticRegression\n",
            "import TargetEncoder": "import StandardScaler, TargetEncoder",
            PARAMETERS: "    c: Annotated[float, Search(0.01, 100, log=True)] = Field(default=1.0, gt=0)\n",
            TREES: "    linear = LogisticRegression(C=parameters.c, max_iter=1000)\n",
            r"make_pipeline\(encode, trees\)": "make_pipeline(encode, SimpleImputer(), StandardScaler(), linear)",
        },
        "c = 0.5\naugment_missing_share = 0.0\nseed = 0\n",
    ),
    "random forest": Swap(
        {
            "HistGradientBoostingClassifier": "RandomForestClassifier",
            PARAMETERS: (
                "    n_estimators: int = Field(default=40, gt=0)\n    min_samples_leaf: int = Field(default=20, gt=0)\n"
            ),
            "early_stopping=False, ": "",
        },
        "n_estimators = 40\nmin_samples_leaf = 20\naugment_missing_share = 0.0\nseed = 0\n",
    ),
}


# The recipes of a project's page, by their heading; `xgboost-cpu` is without the 200 MB of CUDA.
RECIPES = {"LightGBM": ("lightgbm", "onnxmltools"), "XGBoost": ("xgboost-cpu", "onnxmltools")}
NAMES = (*SWAPS, *RECIPES)


def recipe(project: Project, name: str) -> Swap:
    """What the page on other models says of one: its blocks, in their order a command, a difference, and parameters."""
    section = project.read("docs/other-models.md").partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    command, difference, parameters = re.findall(r"^```\w+\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    assert command.split() == ["uv", "add", "--group", "train", *RECIPES[name]]
    changes = {}
    for hunk in re.split(r"^@@\n", difference, flags=re.MULTILINE):
        lines = hunk.splitlines(keepends=True)
        old, new = ("".join(line[1:] for line in lines if line[0] != other) for other in "+-")
        changes[re.escape(old)] = new
    return Swap(changes, parameters, RECIPES[name])


def swap_of(project: Project, name: str) -> Swap:
    """A swap of this module or of the page."""
    return SWAPS[name] if name in SWAPS else recipe(project, name)


def swapped(project: Project, folder: Path, swap: Swap) -> tuple[Project, int]:
    """A copy of the project with another model, and in how many lines of `model.py` it differs."""
    root = Path(shutil.copytree(project.root, folder / project.slug))
    path = root / "src" / project.package / "shared" / "model.py"
    shipped = changed = path.read_text(encoding="utf-8")
    for old, new in swap.changes.items():
        changed, found = re.subn(old, new.replace("\\", r"\\"), changed, flags=re.DOTALL)
        assert found, old
    path.write_text(changed, encoding="utf-8")
    (root / "config" / "params.toml").write_text(swap.parameters, encoding="utf-8")
    difference = list(difflib.ndiff(shipped.splitlines(), changed.splitlines()))
    return Project(root), max(sum(line.startswith(sign) for line in difference) for sign in ("- ", "+ "))


def python(swap: Swap) -> list[str]:
    """The project's environment and the swap's packages on top of it."""
    return ["uv", "run", "--quiet", "--isolated", "--locked", *(f"--with={package}" for package in swap.packages)]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_of_the_page_fits_the_shipped_model_and_has_all_its_parameters(
    project: Project, tmp_path: Path, name: str
) -> None:
    swap = recipe(project, name)
    mine, _ = swapped(project, tmp_path, swap)
    model = mine.read(f"src/{mine.package}/shared/model.py")
    ast.parse(model)
    fields = re.findall(
        r"^    (\w+): (?:Annotated|float|int)\b.* = Field\($|^    (\w+): .* = Field\(", model, re.MULTILINE
    )
    assert {one or other for one, other in fields} == tomllib.loads(swap.parameters).keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_another_model_goes_through_the_gate_to_predictions_by_at_most_15_lines(
    project: Project, tmp_path: Path, name: str
) -> None:
    swap = swap_of(project, name)
    mine, lines = swapped(project, tmp_path, swap)
    assert lines <= 15
    assert "onnx" not in re.sub(r'""".*?"""', "", mine.read(f"src/{mine.package}/shared/model.py"), flags=re.DOTALL)
    (mine.root / "config" / "acceptance.toml").write_text("[window]\ndays = 14\n", encoding="utf-8")
    command = [*python(swap), mine.slug]
    done = json.loads(run(*command, "run", "--now", NOW, "--dirty", "--json", cwd=mine.root, env=OWN).stdout)
    assert done["champion"] == 1, done
    asked = mine.root / "data" / "example" / "flights.parquet"
    answer = json.loads(run(*command, "predict", asked, "--now", NOW, "--json", cwd=mine.root, env=OWN).stdout)
    assert (answer["version"], answer["invalid"]) == (1, 0)


NEIGHBOURS = """
import numpy as np, polars as pl
from lightgbm import LGBMClassifier
from pydantic import BaseModel
from {package}.core.contracts.schema import Task
from {package}.core.models import onnx as onnx_model
from {package}.core.models.predictor import Predictor, predicted
from {package}.core.problem import ModelSpec

worst = []
for first in np.linspace(1000, 2000, 5, dtype=np.float32):
    values = [first]
    while len(values) < 4:
        values.append(np.nextafter(values[-1], np.float32(np.inf)))
    rows = pl.DataFrame({{"number": values * 50}}, schema={{"number": pl.Float32}})
    trees = LGBMClassifier(n_estimators=3, min_child_samples=1, verbose=-1)
    trees.fit(rows.to_numpy(), np.arange(200) % 4 >= 2)
    exported = onnx_model.export(ModelSpec(BaseModel, lambda *_: trees), trees, {{"number": False}})
    found = Predictor(exported, {{"number": False}}, Task.BINARY).predict(rows)
    expected = predicted(Task.BINARY, trees, rows.to_numpy())
    assert len(set(expected)) > 1
    worst.append(np.abs(found - expected).max())
print(max(worst))
"""


@pytest.mark.slow
def test_a_threshold_of_lightgbm_between_neighbouring_32_bit_numbers_keeps_them_apart(project: Project) -> None:
    program = NEIGHBOURS.format(package=project.package)
    found = run(*python(recipe(project, "LightGBM")), "python", "-c", program, cwd=project.root, env=OWN).stdout
    assert float(found) < 1e-6


@pytest.mark.slow
def test_with_lightgbm_all_tests_but_the_users_own_pass(project: Project, tmp_path: Path) -> None:
    swap = recipe(project, "LightGBM")
    mine, _ = swapped(project, tmp_path, swap)
    skipped = [f"--ignore={path}" for path in YOURS]
    workers = f"--numprocesses={os.environ.get('PYTEST_XDIST_AUTO_NUM_WORKERS', 'auto')}"
    run(*python(swap), "pytest", "-q", workers, *skipped, cwd=mine.root, env=OWN)
