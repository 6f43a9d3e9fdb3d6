"""The tests that a project keeps stand on no example: they pass for contracts of every shape, unchanged."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import my_ml_project

PROJECT = Path(my_ml_project.__file__).parents[2]
PACKAGE = my_ml_project.__name__

ROLES = "AvailableAt, Category, EventTime, Excluded, Key, Nulls, Personal, Table, Target"
CONTRACT = f"""
from datetime import datetime, timedelta
from typing import Annotated, ClassVar
from pydantic import Field
from {PACKAGE}.core.contracts.schema import {ROLES}
"""
FEATURES = f"""
from datetime import timedelta
import narwhals as nw
from {PACKAGE}.core.features import windows
WINDOW, LOOKBACK = timedelta(hours=4), timedelta(hours=5)  # a loan is known an hour before it begins
"""
MODEL = """
from pydantic import BaseModel, ConfigDict, Field
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.tree import {tree}

class Parameters(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    depth: int = 4
    seed: int = 0

def estimator(parameters, categories):
    encode = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    tree = {tree}(max_depth=parameters.depth, random_state=parameters.seed)
    return make_pipeline(make_column_transformer((encode, categories), remainder="passthrough"), tree)
"""
COLLECT = "def collect(root, since, until, inbox):\n    return []\n"

# A key, a time with a lead, a person, a label that comes later in a table of its own.
LOANS = (
    """
class Loan(Table):
    table: ClassVar = "loans"
    loan: Annotated[int, Field(ge=0), Key()]
    begins: Annotated[datetime, EventTime(lead=timedelta(hours=1))]
    person: Annotated[str, Personal()]
    origin: Annotated[str | None, Excluded("the law")]
    income: Annotated[float, Field(gt=0)]
    years: Annotated[int | None, Field(gt=0)]

class Repayment(Table):
    table: ClassVar = "repayments"
    loan: Annotated[int, Field(ge=0), Key()]
    ended: Annotated[datetime, AvailableAt()]
    repaid: Annotated[bool, Target()]

ENTITY = Loan
TABLES = (Repayment, Loan)
""",
    """
FEATURES = ("income", "years", "others", "repaid_before")

def build(rows, history):
    others, repaid = {"others": nw.lit(1)}, {"repaid_before": nw.col("repaid").cast(nw.Int64)}
    rows = windows.trailing(rows, history["loans"], when="begins", window=WINDOW, sums=others)
    return windows.trailing(rows, history["repayments"], when="ended", window=WINDOW, sums=repaid)
""",
    "DecisionTreeClassifier",
)
# A key of two columns, one of them the time; several classes without a list of them, in the same table.
VISITS = (
    """
class Visit(Table):
    table: ClassVar = "visits"
    max_span: ClassVar = timedelta(days=3)
    min_volume: ClassVar = 0.9
    site: Annotated[str, Category(("a", "b", "c", "d")), Key()]
    at: Annotated[datetime, EventTime(), Key()]
    pages: Annotated[int | None, Field(ge=1, le=9), Nulls(at_most=0.05)]
    known: Annotated[datetime, AvailableAt()]
    went: Annotated[str | None, Target()]

ENTITY = Visit
TABLES = (Visit,)
""",
    """
FEATURES = ("site", "pages")

def build(rows, history):
    return rows
""",
    "DecisionTreeClassifier",
)
# Neither key nor time, and a text without a list of values.
LOAVES = (
    """
class Loaf(Table):
    table: ClassVar = "loaves"
    flour: Annotated[float | None, Field(gt=0)]
    baker: str
    weight: Annotated[float, Field(gt=0), Target()]

ENTITY = Loaf
TABLES = (Loaf,)
""",
    """
FEATURES = ("flour", "baker", "double")

def build(rows, history):
    return rows.with_columns(double=nw.col("flour") * 2)
""",
    "DecisionTreeRegressor",
)
# A key without a time, and labels of which only their arrival is known.
TICKETS = (
    """
class Ticket(Table):
    table: ClassVar = "tickets"
    number: Annotated[str, Key()]
    words: Annotated[int, Field(ge=1)]

class Answer(Table):
    table: ClassVar = "solved"
    number: Annotated[str, Key()]
    hours: Annotated[float, Field(ge=0, le=100), Target()]

ENTITY = Ticket
TABLES = (Ticket, Answer)
""",
    """
FEATURES = ("words",)

def build(rows, history):
    return rows
""",
    "DecisionTreeRegressor",
)


@pytest.mark.slow
@pytest.mark.parametrize("problem", [LOANS, VISITS, LOAVES, TICKETS], ids=["loans", "visits", "loaves", "tickets"])
def test_a_project_keeps_its_tests_whatever_its_contract(problem: tuple[str, str, str], tmp_path: Path) -> None:
    for name in ("src", "tests"):
        shutil.copytree(PROJECT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "pyproject.toml", tmp_path)
    contract, features, tree = problem
    shared = tmp_path / "src" / PACKAGE / "shared"
    (shared / "contract.py").write_text(CONTRACT + contract, encoding="utf-8")
    (shared / "features.py").write_text(FEATURES + features, encoding="utf-8")
    (shared / "model.py").write_text(MODEL.format(tree=tree), encoding="utf-8")
    (shared / "collect.py").write_text(COLLECT, encoding="utf-8")
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "params.toml").write_text("depth = 3\n", encoding="utf-8")
    for name in ("shared", "research"):
        shutil.rmtree(tmp_path / "tests" / name)
    line = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-m",
        "slow or not slow",
        "tests/test_lifecycle.py",
        "tests/production",
    ]
    env = os.environ | {"PYTHONPATH": str(tmp_path / "src"), "PYTHONUTF8": "1"}
    done = subprocess.run(line, cwd=tmp_path, env=env, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout
