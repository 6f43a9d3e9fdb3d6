"""`init` makes a table the project's problem, or says in one line why not and writes nothing."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sklearn import datasets
from vega_datasets import local_data  # type: ignore[import-untyped]

import my_ml_project
from my_ml_project.cli import cli
from my_ml_project.core import NAME
from my_ml_project.research.init import choose, generate

PROJECT = Path(my_ml_project.__file__).parents[2]
LEFT_OUT = shutil.ignore_patterns(".venv", ".git", ".*cache", "__pycache__", "mlruns", "reports", "lake", "inbox")
N = 120
START = datetime(2024, 1, 1, tzinfo=UTC)

Init = Callable[..., tuple[int, str]]


def git(folder: Path, *arguments: str) -> str:
    line = ["git", "-c", "user.name=A", "-c", "user.email=a@example.org", *arguments]
    return subprocess.run(line, cwd=folder, check=True, capture_output=True, encoding="utf-8").stdout


def commit(folder: Path) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "Change")


@pytest.fixture(scope="session")
def project_folder(once: Callable[..., Path]) -> Path:
    """The rendered project, in a repository of its own."""

    def make(folder: Path) -> None:
        shutil.copytree(PROJECT, folder, ignore=LEFT_OUT)
        git(folder, "init", "--quiet")
        commit(folder)

    return once("own", make)


@pytest.fixture
def project(project_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(project_folder, tmp_path / "project")


@pytest.fixture
def init(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Init:
    """The command on the project: its exit status, and what it says."""
    monkeypatch.chdir(project)

    def run(*arguments: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["init", *map(str, arguments)], prog_name=NAME, standalone_mode=False)
        return int(str(ended.value.code)), capsys.readouterr().err

    return run


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One tree and no formatter: for tables of which only the rows matter."""
    monkeypatch.setattr(choose, "TREES", choose.TREES[:1])
    monkeypatch.setattr(choose, "ITERATIONS", (20,))
    monkeypatch.setattr(generate, "_run_tool", lambda *_: None)


def process(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A module of Python in a process of its own, which imports the project's own package."""
    around = os.environ | {"PYTHONPATH": str(project / "src")}
    line = [sys.executable, "-m", *arguments]
    return subprocess.run(line, cwd=project, capture_output=True, encoding="utf-8", env=around, check=False)


def contract(project: Path) -> str:
    return (project / "src" / "my_ml_project" / "shared" / "contract.py").read_text(encoding="utf-8")


def assert_untouched(project: Path) -> None:
    assert git(project, "status", "--porcelain") == ""
    assert {path.name for path in (project / "data").iterdir()} <= {"example", ".lock"}


# --- tables


def iris(folder: Path) -> Path:
    rows = datasets.load_iris(as_frame=True).frame
    path = folder / "iris.csv"
    rows.assign(target=[("setosa", "versicolor", "virginica")[each] for each in rows["target"]]).to_csv(
        path, index=False
    )
    return path


def tumours(folder: Path) -> Path:
    path = folder / "tumours.parquet"
    rows = datasets.load_breast_cancer(as_frame=True).frame
    pl.DataFrame({name: rows[name].to_list() for name in rows}).write_parquet(path)
    return path


def weather(folder: Path) -> Path:
    path = folder / "seattle weather.csv"
    path.write_bytes(local_data.seattle_weather.raw())
    return path


def tickets(folder: Path, **columns: Any) -> Path:
    """A small table with a time, of which the classes can be learned."""
    rng = np.random.default_rng(0)
    size = rng.normal(size=N)
    rows = {
        "opened": [START + timedelta(hours=7 * each) for each in range(N)],
        "size": size,
        "kind": rng.choice(["a", "b", "c"], N),
        "late": rng.random(N) < 1 / (1 + np.exp(-3 * size)),
    }
    path = folder / "tickets.csv"
    pl.DataFrame(rows | columns).write_csv(path)
    return path


TABLES = {
    "multiclass": (iris, "target", ()),
    "binary": (tumours, "target", ()),
    "regression": (weather, "temp_max", ("--time", "date")),
}


# --- three tasks


@pytest.mark.parametrize("task", TABLES)
def test_a_table_becomes_the_problem_and_the_example_goes(project: Path, tmp_path: Path, init: Init, task: str) -> None:
    make, target, options = TABLES[task]
    status, said = init(make(tmp_path), "--target", target, *options)
    assert status == 0, said
    assert f"task: {task}" in said
    assert "Target(" in contract(project)
    assert "flights" not in contract(project).lower()
    assert not (project / "data" / "example").exists()
    assert [path.name for path in (project / "data" / "source").iterdir()] == [make(tmp_path).name]
    assert "looks like a leak" not in said
    assert "skill of" not in said
    for name in ("README.md", "AGENTS.md", "docs/model-card.md"):
        assert "LaGuardia" not in (project / name).read_text(encoding="utf-8"), name


@pytest.mark.slow
@pytest.mark.parametrize("task", TABLES)
def test_run_and_the_tests_of_the_problem_work_with_no_edit(project: Path, tmp_path: Path, task: str) -> None:
    make, target, options = TABLES[task]
    done = process(project, "my_ml_project", "init", str(make(tmp_path)), "--target", target, *options)
    assert done.returncode == 0, done.stderr
    commit(project)
    done = process(project, "my_ml_project", "run", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["champion"] == 1
    done = process(project, "pytest", "-q", "tests/shared", "tests/test_architecture.py", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout
    assert git(project, "status", "--porcelain") == ""


# --- the project around it


def test_a_dry_run_says_the_same_and_writes_nothing(project: Path, tmp_path: Path, init: Init) -> None:
    status, said = init(iris(tmp_path), "--target", "target", "--dry-run")
    assert status == 0, said
    assert "nothing is written: leave out --dry-run" in said
    assert_untouched(project)
    _, written = init(iris(tmp_path), "--target", "target")
    assert said.replace("would be ", "").splitlines()[:-1] == written.splitlines()[: len(said.splitlines()) - 1]


def test_changes_that_are_not_committed_are_refused(project: Path, tmp_path: Path, init: Init) -> None:
    with (project / "README.md").open("a", encoding="utf-8") as file:
        file.write("\nOurs.\n")
    status, said = init(iris(tmp_path), "--target", "target")
    assert (status, said) == (
        2,
        f"{NAME}: the project has changes that are not committed, such as README.md: commit them first\n",
    )
    git(project, "checkout", "README.md")
    assert_untouched(project)


@pytest.mark.usefixtures("quick")
def test_the_table_itself_may_be_in_the_project_and_not_committed(project: Path, init: Init) -> None:
    status, said = init(iris(project), "--target", "target")
    assert status == 0, said


@pytest.mark.usefixtures("quick")
def test_a_second_init_replaces_the_first(project: Path, tmp_path: Path, init: Init) -> None:
    init(iris(tmp_path), "--target", "target")
    commit(project)
    status, said = init(tickets(tmp_path), "--target", "late", "--time", "opened")
    assert status == 0, said
    assert "petal" not in contract(project)
    assert "opened" in contract(project)
    assert [path.name for path in (project / "data" / "source").iterdir()] == ["tickets.csv"]
    before = next((project / "data").glob("before-init-*"))
    assert [path.name for path in (before / "source").iterdir()] == ["iris.csv"]


@pytest.mark.usefixtures("quick")
def test_the_state_of_a_first_run_is_moved_and_kept(
    project: Path, tmp_path: Path, flights_folder: Path, init: Init
) -> None:
    shutil.copytree(flights_folder / "data" / "lake", project / "data" / "lake")
    shutil.copytree(flights_folder / "mlruns", project / "mlruns")
    status, said = init(tickets(tmp_path), "--target", "late")
    assert status == 0, said
    before = next((project / "data").glob("before-init-*"))
    assert f"moved: the state of the project, to data/{before.name}" in said
    for name, origin in (("lake", flights_folder / "data" / "lake"), ("mlruns", flights_folder / "mlruns")):
        moved = {path.relative_to(before / name) for path in (before / name).rglob("*")}
        assert moved == {path.relative_to(origin) for path in origin.rglob("*")}
    assert not (project / "data" / "lake").exists()
    assert not (project / "mlruns").exists()


def test_a_lake_at_a_url_with_tables_is_refused(
    project: Path, tmp_path: Path, flights_folder: Path, init: Init, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ML_LAKE", (flights_folder / "data" / "lake").as_uri())
    status, said = init(iris(tmp_path), "--target", "target")
    assert status == 2
    assert re.fullmatch(rf"{NAME}: the lake file://\S+ has tables, which init can't move: set ML_LAKE to .*\n", said)
    assert_untouched(project)


def test_shared_that_cannot_be_imported_is_replaced(project: Path, tmp_path: Path) -> None:
    (project / "src" / "my_ml_project" / "shared" / "contract.py").write_text("1 +\n", encoding="utf-8")
    commit(project)
    done = process(project, "my_ml_project", "init", str(tickets(tmp_path)), "--target", "late")
    assert done.returncode == 0, done.stderr
    assert "late" in contract(project)


# --- leaks


@pytest.fixture
def leaking(tmp_path: Path) -> Path:
    """Tickets with a code of the class and a time that is known later."""
    late = pl.read_csv(tickets(tmp_path))["late"]
    code = np.where(late, "X7", "Y2")
    closed = [START + timedelta(hours=7 * each + each % 50) for each in range(N)]
    return tickets(tmp_path, **{"Churn code": code, "closed": closed})


@pytest.mark.usefixtures("quick")
def test_leaks_are_excluded_and_the_way_to_keep_them_is_said(project: Path, leaking: Path, init: Init) -> None:
    status, said = init(leaking, "--target", "late", "--time", "opened")
    assert status == 0, said
    assert "'Churn code' as churn_code: str, 2 categories: excluded, it predicts late alone with a skill of 0.9" in said
    assert "excluded, it is never before opened" in said
    assert "question: is 'Churn code' known before the prediction? --keep 'Churn code'; it predicts late alone" in said
    assert "size: float" in next(line for line in said.splitlines() if line.endswith("feature"))
    features = (project / "src" / "my_ml_project" / "shared" / "features.py").read_text(encoding="utf-8")
    assert "churn_code" not in features
    assert "closed" not in features


@pytest.mark.slow
def test_kept_leaks_are_features_that_train_allows_and_others_are_refused(project: Path, leaking: Path) -> None:
    asked = ("init", str(leaking), "--target", "late", "--time", "opened", "--keep", "Churn code", "--keep", "closed")
    done = process(project, "my_ml_project", *asked)
    assert done.returncode == 0, done.stderr
    path = project / "config" / "acceptance.toml"
    text = path.read_text(encoding="utf-8")
    assert tomllib.loads(text)["leaks"] == {"allow": ["churn_code", "closed"]}
    path.write_text(text.replace('allow = ["churn_code", "closed"]', 'allow = ["closed"]'), encoding="utf-8")
    commit(project)
    done = process(project, "my_ml_project", "run")
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"{NAME}: likely leaks: churn_code predicts late alone with a skill of 0.9")
    assert 'set [leaks] allow = ["closed", "churn_code"] in config/acceptance.toml' in line
    path.write_text(text, encoding="utf-8")
    commit(project)
    done = process(project, "my_ml_project", "train")
    assert done.returncode == 0, done.stderr


def test_an_unknown_key_of_leaks_is_an_error(project: Path) -> None:
    with (project / "config" / "acceptance.toml").open("a", encoding="utf-8") as file:
        file.write('\n[leaks]\nallowed = ["x"]\n')
    done = process(project, "my_ml_project", "train")
    assert done.returncode == 2
    assert "allowed" in done.stderr
    assert "Traceback" not in done.stderr


# --- awkward tables: what is refused, in one line, with nothing written

BOOLEANS = [True, False, True] * 40
REFUSED = {
    "no row": ("x,y\n", "'y' has 0 values: at least 50 labelled rows are needed"),
    "one row": ("x,y\n1,2\n", "'y' has 1 values"),
    "three rows": ("x,y\n1,a\n2,b\n3,a\n", "'y' has 3 values"),
    "nothing at all": ("", ""),
    "one class": ({"x": list(range(N)), "y": ["a"] * N}, "'y' is 'a' in every row: there is nothing to predict"),
    "a constant number": ({"x": list(range(N)), "y": [1.5] * N}, "'y' is '1.5' in every row"),
    "a target of nulls": ({"x": list(range(N)), "y": [None] * N}, "'y' has 0 values"),
    "no feature": ({"y": BOOLEANS}, "no column can be a feature"),
    "a feature of nulls": ({"x": [None] * N, "y": BOOLEANS}, "no column can be a feature"),
    "no such column": ({"x": list(range(N)), "z": BOOLEANS}, "there is no column 'y': columns are 'x', 'z'"),
    "only a leak": ({"x": [str(each) for each in BOOLEANS], "y": BOOLEANS}, "no column can be a feature"),
    "a class for each row": ({"x": list(range(N)), "y": [f"n{each}" for each in range(N)]}, "too many for classes"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.usefixtures("quick")
def test_what_no_model_can_learn_is_refused_in_one_line(project: Path, tmp_path: Path, init: Init, name: str) -> None:
    content, reason = REFUSED[name]
    path = tmp_path / "table.csv"
    path.write_text(content, encoding="utf-8") if isinstance(content, str) else pl.DataFrame(content).write_csv(path)
    status, said = init(path, "--target", "y")
    assert status == 2, said
    assert said.count("\n") == 1
    assert said.startswith(f"{NAME}: ")
    assert reason in said
    assert_untouched(project)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--key", "kind"), "'kind' repeat or are missing in some rows, hence are no key"),
        (("--time", "size"), "'size' is no time"),
        (("--time", "kind"), "'kind' is no time"),
        (("--task", "regression"), "'late' is no number"),
        (("--exclude", "colour"), "there is no column 'colour'"),
        (("--keep", "colour"), "there is no column 'colour'"),
    ],
    ids=lambda each: each if isinstance(each, str) else " ".join(each),
)
def test_options_that_do_not_fit_are_refused_in_one_line(
    project: Path, tmp_path: Path, init: Init, options: tuple[str, ...], reason: str
) -> None:
    status, said = init(tickets(tmp_path), "--target", "late", *options)
    assert (status, said.count("\n")) == (2, 1), said
    assert reason in said
    assert_untouched(project)


# --- awkward tables: what works


def numbers(seed: int = 1) -> list[float]:
    return list(map(float, np.random.default_rng(seed).normal(size=N).round(3)))


NAMES = [
    *("class", "import", "match", "copy", "json", "schema", "version", "rules", "table", "dt", "_x", "__y", "None"),
    *("with space", "dot.ted", "Größe", "naïve", "🙂", "日本", "a-b", "a_b", "1st", "%", "'", "|"),
    *("{x}", "$x", "tab\tle"),
    *("", "same", "same", "SAME", "prediction", "probability", "row_id2", "target", "label", "int", "float", "_target"),
]


def csv(path: Path, header: list[str], columns: list[list[Any]]) -> Path:
    lines = [",".join(f'"{name}"' for name in header)]
    lines += [",".join("" if value is None else f'"{value}"' for value in row) for row in zip(*columns, strict=True)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_any_name_of_a_column_works(project: Path, tmp_path: Path, init: Init) -> None:
    columns = [numbers(seed) for seed in range(len(NAMES))]
    path = csv(tmp_path / "names.csv", [*NAMES, "y"], [*columns, BOOLEANS])
    status, said = init(path, "--target", "y")
    assert status == 0, said
    done = process(project, "pytest", "-q", "tests/shared", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout


DATES = [date(2024, 1, 13) + timedelta(days=each) for each in range(N)]
WORKS: dict[str, dict[str, list[Any]]] = {
    "mixed types": {"x": [1, "a", 2.5, None] * 30},
    "a class with one row": {"x": numbers(), "y": [*(["a", "b"] * 59), "a", "c"]},
    "a column of nulls": {"x": [None] * N, "z": numbers()},
    "dates in three formats": {
        "a": [f"{each:%d.%m.%Y}" for each in DATES],
        "b": [f"{each:%m/%d/%Y}" for each in DATES],
        "c": [f"{each:%Y-%m-%d}" for each in DATES],
        "x": numbers(),
    },
    "dates in three formats in one column": {
        "a": [f"{each:{form}}" for each, form in zip(DATES, ["%d.%m.%Y", "%Y-%m-%d", "%d %b %Y"] * 40, strict=True)],
        "x": numbers(),
    },
    "thousands": {"x": [f"{each * 98765.4:,.2f}" for each in numbers()]},
    "decimal commas": {"x": [f"{each * 98765.4:,.2f}".translate(str.maketrans(",.", ".,")) for each in numbers()]},
    "a repeating key": {"customer_id": [each // 3 for each in range(N)], "x": numbers()},
    "a time with gaps": {"time": [None if each % 7 == 0 else DATES[each] for each in range(N)], "x": numbers()},
    "a time with zones": {
        "time": [f"2024-03-{1 + each // 5:02}T{each % 5 + 10}:00:00+0{each % 3}:00" for each in range(N)],
        "x": numbers(),
    },
    "infinite numbers": {"x": [float("inf"), *numbers()[1:]], "z": numbers(2)},
    "huge numbers": {"x": [1e300, *numbers()[1:]], "z": numbers(2)},
    "long texts": {"x": ["word " * (1 + each) for each in range(N)], "z": numbers(2)},
    "lines in a text": {"x": ['a\nb "c"', "d,e", "f"] * 40, "z": numbers(2)},
}


@pytest.mark.parametrize("name", WORKS)
@pytest.mark.usefixtures("quick")
def test_an_awkward_table_works_or_says_in_one_line_why_not(
    project: Path, tmp_path: Path, init: Init, name: str
) -> None:
    labels = {"y": np.random.default_rng(3).choice(["no", "yes"], N).tolist()}
    columns = labels | WORKS[name]
    path = tmp_path / "table.csv"
    pl.DataFrame({key: pl.Series(list(map(_text, values))) for key, values in columns.items()}).write_csv(path)
    status, said = init(path, "--target", "y", *(("--time", "time") if "time" in columns else ()))
    if name == "a time with gaps" and status:
        assert (status, said.count("\n")) == (2, 1), said
        assert_untouched(project)
        return
    assert status == 0, said
    compile(contract(project), "contract.py", "exec")


def _text(value: object) -> str | None:
    return None if value is None else str(value)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_two_thousand_columns_work(tmp_path: Path, init: Init) -> None:
    rows = {f"column {each}": numbers(each) for each in range(2000)}
    path = tmp_path / "wide.parquet"
    pl.DataFrame(rows | {"y": BOOLEANS}).write_parquet(path)
    status, said = init(path, "--target", "y", "--dry-run")
    assert status == 0, said[-2000:]
    assert "skill of" not in said


# --- random tables

VALUES = {
    "numbers": st.floats(allow_nan=True, allow_infinity=True),
    "small numbers": st.floats(-10, 10),
    "whole numbers": st.integers(-(2**63), 2**63 - 1),
    "few whole numbers": st.integers(0, 3),
    "texts": st.text(max_size=8),
    "words": st.sampled_from(["yes", "no", "NA", "-", "", "a"]),
    "booleans": st.booleans(),
    "dates": st.dates(),
    "times": st.datetimes(),
    "nulls": st.none(),
    "mixed": st.one_of(st.integers(), st.text(max_size=3), st.dates()),
}


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[str], list[list[Any]]]:
    rows = draw(st.sampled_from([0, 1, 3, 50, 80]))
    kinds = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=4))
    characters = st.characters(exclude_categories=["Cs", "Cc"], exclude_characters='"')
    names = [draw(st.text(characters, max_size=6)) for _ in kinds]
    columns: list[list[Any]] = []
    for kind in kinds:
        some = draw(st.lists(st.none() | VALUES[kind], min_size=1, max_size=12))
        columns.append(np.random.default_rng(len(columns)).choice(np.array(some, dtype=object), rows).tolist())
    label = draw(st.text(st.characters(categories=["L"]), min_size=1, max_size=6))  # also one that can be learned
    return [*names, label], [*columns, ["a", "b", "b"] * (rows // 3) + ["a"] * (rows % 3)]


@pytest.fixture
def _clean(project: Path) -> Iterator[None]:
    yield
    assert_untouched(project)


@pytest.mark.usefixtures("quick", "_clean")
@pytest.mark.filterwarnings("ignore:Skipping features without any observed values")  # a column of nulls in a fold
@settings(
    max_examples=15,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking takes minutes
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(tables(), st.booleans(), st.data())
def test_a_random_table_works_or_says_in_one_line_why_not(
    tmp_path: Path,
    init: Init,
    table: tuple[list[str], list[list[Any]]],
    timed: bool,  # noqa: FBT001 - drawn
    data: st.DataObject,
) -> None:
    names, columns = table
    path = csv(tmp_path / "random.csv", names, [[_quoted(value) for value in column] for column in columns])
    target = names[-1] if data.draw(st.booleans()) else data.draw(st.sampled_from(names))
    options = ("--time", data.draw(st.sampled_from(names))) if timed else ()
    status, said = init(path, "--target", target, *options, "--dry-run")
    assert status == 0 or (status, said.count("\n")) == (2, 1), said


def _quoted(value: object) -> str | None:
    return None if value is None else str(value).replace('"', '""')
