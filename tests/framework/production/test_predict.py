"""A file of any size, chunk by chunk: answered as at once, written as a whole or not at all, in little memory."""

import dataclasses
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar
from unittest.mock import patch

import narwhals as nw
import onnx
import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.exceptions import PolarsError
from pydantic import BaseModel, Field

import problems
from my_ml_project import shared
from my_ml_project.cli import cli
from my_ml_project.core.contracts.schema import Excluded, Key, Personal, Table, Target, Task
from my_ml_project.core.errors import InputError
from my_ml_project.core.problem import ModelSpec, Problem
from my_ml_project.core.settings import load_settings
from my_ml_project.core.store.releases import GoldenRequests, Release
from my_ml_project.core.workspace import Workspace
from my_ml_project.production import predict as predict_module
from my_ml_project.production.predict import PredictionResult, predict, predict_rows

ON_PATH = {"PYTHONPATH": str(Path(problems.__file__).parent)}
PACKAGE = predict_module.__name__.partition(".")[0]
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
ASKED, OUT = Path("asked.parquet"), Path("answers.parquet")
NAMES = (None, "plain", "a,b", 'said "x"', "two\nlines", " ", "ü", "'", "1")


class Ask(Table):
    """What is asked for."""

    table: ClassVar = "asks"
    rules: ClassVar = {
        "x is not above top": nw.col("x") <= nw.col("top"),
        "person is not of origin": nw.col("person") != nw.col("origin"),
    }

    id: Annotated[int, Key(), Excluded("a number means nothing")]
    name: str | None
    x: Annotated[float, Field(gt=0)]
    top: float | None
    person: Annotated[str, Personal()]
    origin: Annotated[str, Excluded("the law")]
    y: Annotated[float, Target()]


ASKING = Problem(
    entity=Ask,
    tables=(Ask,),
    features=("x",),
    lookback=timedelta(0),
    build=lambda rows, _: rows,
    collect=lambda *_: [],
    model_spec=lambda: ModelSpec(BaseModel, lambda *_: None, lambda *_: doubled()),
)


def doubled() -> onnx.ModelProto:
    """A model that gives 2 x."""
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None, 1]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Add", ["x", "x"], ["y"])], "doubled", [x], [y])
    return onnx.helper.make_model(graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", 17)])


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A project with a champion that doubles."""
    monkeypatch.chdir(tmp_path)
    workspace = Workspace(root=tmp_path, settings=load_settings(tmp_path), problem=ASKING)
    release = Release(
        number=1,
        version=1,
        run_id="run",
        released=NOON,
        reason="promoted",
        trained_until=NOON,
        task=Task.REGRESSION,
        features={"x": False},
        classes=(),
        threshold=None,
        reference={},
        metrics={},
        parameters={},
        tables={},
        golden=GoldenRequests(requests=[], features=[], predictions=[]),
        onnx=doubled().SerializeToString(),
    )
    workspace.releases.append(release)
    return workspace


@pytest.fixture
def by_three(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Let three rows be a chunk; gives what was said since it was last asked."""
    monkeypatch.setattr(predict_module, "CHUNK", 3)
    caplog.set_level(logging.INFO, PACKAGE)

    def said() -> list[str]:
        messages = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return messages

    return said


def rows_of(n: int) -> pl.DataFrame:
    """So many rows that keep the contract."""
    names = [NAMES[i % len(NAMES)] for i in range(n)]
    return pl.DataFrame(
        {"id": range(n), "name": names, "x": [i + 0.5 for i in range(n)], "top": float(n)}, strict=False
    ).with_columns(person=pl.lit("Ann"), origin=pl.lit("here"))


def written(rows: pl.DataFrame, file: Path) -> Path:
    with file.open("wb") as stream:
        rows.write_csv(stream) if file.suffix == ".csv" else rows.write_parquet(stream)
    return file


def read(file: Path) -> pl.DataFrame:
    content = file.read_bytes()
    return pl.read_csv(content) if file.suffix == ".csv" else pl.read_parquet(content)


def at_once(workspace: Workspace, file: Path, **options: Any) -> pl.DataFrame:
    """The answers to a file in one chunk."""
    with patch.object(predict_module, "CHUNK", 1000):
        predict(workspace, file, out=Path("whole.parquet"), **options)
    return read(Path("whole.parquet"))


# chunk by chunk


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.integers(1, 13),
    broken=st.lists(st.booleans(), min_size=12, max_size=12),
    names=st.lists(st.sampled_from(NAMES), min_size=12, max_size=12),
    endings=st.tuples(*[st.sampled_from(["csv", "parquet"])] * 2),
)
def test_answers_by_chunks_are_those_at_once(
    project: Workspace, size: int, broken: list[bool], names: list[str | None], endings: tuple[str, str]
) -> None:
    rows = rows_of(12).with_columns(
        name=pl.Series(names, dtype=pl.String), x=pl.when(pl.Series(broken)).then(-1.0).otherwise("x")
    )
    file, out, whole = written(rows, Path(f"asked.{endings[0]}")), Path(f"out.{endings[1]}"), Path(f"all.{endings[1]}")
    at_once = predict(project, file, out=whole)
    with patch.object(predict_module, "CHUNK", size):
        done = predict(project, file, out=out)
    assert done == PredictionResult(12 - sum(broken), sum(broken), 1, out.as_posix())
    assert (done.rows, done.invalid) == (at_once.rows, at_once.invalid)
    assert read(out).equals(read(whole))
    assert out.suffix != ".csv" or out.read_bytes() == whole.read_bytes()
    assert read(out)["id"].to_list() == list(range(12))
    answers = [None if bad else 2 * x for bad, x in zip(broken, rows["x"], strict=True)]
    assert read(out)["prediction"].to_list() == answers
    assert not list(Path.cwd().glob(".*"))


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_column_that_is_empty_in_a_chunk_is_as_it_is_at_once(
    project: Workspace, by_three: Callable[[], list[str]], ending: str
) -> None:
    late = pl.int_range(10) > 5
    rows = rows_of(10).with_columns(pl.when(late).then(pl.col("name", "top", "x")))
    file = written(rows, Path(f"asked.{ending}"))
    done = predict(project, file, out=OUT)
    assert by_three() == [f"predict   {n} rows of asked.{ending}" for n in (3, 6, 9, 10)]
    assert (done.rows, done.invalid) == (4, 6)
    answers = read(OUT)
    assert answers.columns == ["id", "name", "x", "top", "origin", "error", "prediction", "version"]
    assert answers["error"].to_list() == ["x is not null"] * 6 + [None] * 4
    assert answers["prediction"].null_count() == 6
    assert answers.equals(at_once(project, file))


@pytest.mark.parametrize("name", ["a [1] {2} %20.parquet", "year=2013/asked.parquet", "größe.csv", "~/asked.csv"])
@pytest.mark.usefixtures("by_three")
def test_a_file_is_read_by_its_name_whatever_it_is(project: Workspace, name: str) -> None:
    file = Path(name)
    file.parent.mkdir(exist_ok=True)
    target = file.with_name(f"out of {file.name}")
    assert predict(project, written(rows_of(4), file), out=target).rows == 4
    assert read(target)["id"].to_list() == [0, 1, 2, 3]
    assert "year" not in read(target).columns


class One(Table):
    """A table of which one column is asked for."""

    table: ClassVar = "ones"

    x: float | None
    y: Annotated[float, Target()]


BLANK_LINES = ["\n", "\r\n\r\n", "  \n", "\t\n", '""\n', '"  "\n', "\u00a0\n"]


ASKED_ROWS = ["id,name,x,top\n", "1,a,1,9\n", "2,,2,\n"]
ONES = dataclasses.replace(ASKING, entity=One, tables=(One,))


@pytest.mark.parametrize(
    ("problem", "lines", "blank"),
    [
        *((ASKING, ASKED_ROWS, blank) for blank in (*BLANK_LINES, ",,,\n", '"",""," ",\n')),
        *((ONES, ["x\n", "1\n", "2\n"], blank) for blank in BLANK_LINES),
    ],
)
def test_there_are_as_many_answers_as_rows(
    project: Workspace, monkeypatch: pytest.MonkeyPatch, problem: Problem, lines: list[str], blank: str
) -> None:
    monkeypatch.setattr(shared, "PROBLEM", problem)
    file = project.root / "asked.csv"
    file.write_text(blank.join([*lines, "", ""]), encoding="utf-8", newline="")
    (project.root / "config").mkdir()
    (project.root / "config" / "params.toml").touch()
    done = CliRunner().invoke(cli, ["predict", "asked.csv", "--out", "answers.csv"])
    assert done.exit_code == 0, done.output
    assert pl.read_csv("answers.csv")["prediction"].to_list() == [2, 4]


def test_a_breach_far_down_names_its_place_and_leaves_nothing(
    project: Workspace, by_three: Callable[[], list[str]]
) -> None:
    file = written(rows_of(8).with_columns(pl.col("x").cast(pl.String).replace("7.5", "much")), Path("asked.csv"))
    before = sorted(Path.cwd().rglob("*"))
    line = (
        r"^asked\.csv from row 7 on violates the contract of asks: column x has 1 values that are no float, as 'much'$"
    )
    with pytest.raises(InputError, match=line):
        predict(project, file, out=OUT)
    assert by_three() == ["predict   3 rows of asked.csv", "predict   6 rows of asked.csv"]
    assert sorted(Path.cwd().rglob("*")) == before


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda text: b"\xef\xbb\xbf" + text, None),
        (lambda text: text.replace(b"\n", b"\r\n"), None),
        (lambda text: text.rstrip(), None),
        (lambda text: text.replace(b",", b";"), None),
        (lambda text: text.replace(b",", b"\t"), None),
        (lambda text: text.decode().encode("utf-16"), None),
        (lambda text: text.replace(b"Ann", b"J\xfcrg"), None),
        (lambda text: text + b",,,,,,,\n", "can't be read as csv: found more fields than defined in 'Schema'; write"),
        (lambda _: b"", "can't be read as csv: empty CSV; write it again"),
        (lambda text: text.splitlines()[0], "violates the contract of asks: it has no rows"),
    ],
    ids=["mark", "crlf", "no end", "semicolons", "tabs", "utf-16", "latin", "ragged", "empty", "head"],
)
@pytest.mark.usefixtures("by_three")
def test_other_ways_to_write_csv_are_read_or_refused_in_one_line(
    project: Workspace, change: Callable[[bytes], bytes], line: str | None
) -> None:
    file, rows = Path("asked.csv"), rows_of(5).with_columns(name=pl.lit("plain"))
    file.write_bytes(change(rows.write_csv().encode()))
    if line is None:
        assert predict(project, file, out=OUT).rows == 5
        assert read(OUT).equals(at_once(project, written(rows, ASKED)))
        return
    with pytest.raises(InputError) as refused:
        predict(project, file, out=OUT)
    assert str(refused.value).startswith(f"asked.csv {line}")
    assert "\n" not in str(refused.value)
    assert not OUT.exists()


# columns that features never see


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_personal_and_forbidden_columns_may_be_missing_with_the_rules_that_need_them(
    project: Workspace, ending: str
) -> None:
    rows = rows_of(3).with_columns(person=pl.lit("here"), x=pl.Series([1.0, 99.0, 2.0]))
    full = predict(project, written(rows, Path(f"asked.{ending}")), out=OUT)
    assert (full.rows, full.invalid) == (0, 3)
    for absent in (["person"], ["origin"], ["person", "origin"]):
        done = predict(project, written(rows.drop(absent), Path(f"asked.{ending}")), out=OUT)
        assert (done.rows, done.invalid) == (2, 1)
        answers = read(OUT)
        assert answers["error"].to_list() == [None, "x is not above top", None]
        assert answers["prediction"].to_list() == [2.0, None, 4.0]
        kept = [name for name in rows.columns if name not in {*absent, "person"}]
        assert answers.columns == [*kept, "error", "prediction", "version"]


@pytest.mark.parametrize("name", ["id", "x", "name"])
def test_a_key_and_what_features_may_see_must_be_there(project: Workspace, name: str) -> None:
    with pytest.raises(InputError, match=rf"^asked\.parquet violates the contract of asks: column {name} is missing$"):
        predict(project, written(rows_of(3).drop(name, "person"), ASKED), out=OUT)


# nothing half-written

# Predicts a file in chunks of three rows, and dies in the third.
CHILD = """
import os, signal, sys
from pathlib import Path

from PACKAGE.production import predict as module
from problems import PROBLEM
from PACKAGE.core.workspace import open_workspace

predict_rows, count = module.predict_rows, 0


def dying(*given, **options):
    global count
    count += 1
    if count == 3:
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
    return predict_rows(*given, **options)


module.predict_rows = dying
module.CHUNK = 3
module.predict(open_workspace(PROBLEM), Path(sys.argv[1]), out=Path(sys.argv[2]))
""".replace("PACKAGE", PACKAGE)


@pytest.mark.parametrize("out", ["answers.parquet", "answers.csv"])
def test_a_killed_prediction_leaves_the_file_that_was_there(trained: Workspace, out: str) -> None:
    march = problems.arrived("parcels", problems.START)
    written(march.sample(10, seed=1, shuffle=True), ASKED)
    Path(out).write_text("yesterday's", encoding="utf-8")
    line = [sys.executable, "-c", CHILD, str(ASKED), out]
    killed = subprocess.run(line, env=os.environ | ON_PATH, capture_output=True, encoding="utf-8", check=False)
    assert killed.returncode in {-getattr(signal, "SIGKILL", signal.SIGTERM), signal.SIGTERM}, killed.stderr
    assert Path(out).read_text(encoding="utf-8") == "yesterday's"
    done = predict(trained, ASKED, out=Path(out))
    assert (done.rows, done.invalid) == (10, 0)
    assert len(read(Path(out))) == 10


@pytest.mark.parametrize("out", ["answers.parquet", "answers.csv"])
@pytest.mark.parametrize("error", [RuntimeError("out of luck"), OSError("out of luck"), PolarsError("out of luck")])
@pytest.mark.usefixtures("by_three")
def test_an_error_is_raised_as_it_is_and_leaves_all_files_as_they_were(
    project: Workspace, error: Exception, out: str
) -> None:
    written(rows_of(10), ASKED)
    Path(out).write_text("yesterday's", encoding="utf-8")
    before = {path: path.read_bytes() for path in Path.cwd().rglob("*") if path.is_file()}
    left = iter(range(2))

    def failing(*given: Any, **options: Any) -> pl.DataFrame:
        if next(left, None) is None:
            raise error
        return predict_rows(*given, **options)

    with patch.object(predict_module, "predict_rows", failing), pytest.raises(type(error)) as caught:
        predict(project, ASKED, out=Path(out))
    assert str(caught.value) == "out of luck"
    assert {path: path.read_bytes() for path in Path.cwd().rglob("*") if path.is_file()} == before


@pytest.mark.usefixtures("by_three")
def test_a_file_may_be_replaced_by_its_answers(project: Workspace) -> None:
    predict(project, written(rows_of(10), ASKED), out=ASKED)
    assert read(ASKED)["prediction"].to_list() == [2 * x for x in rows_of(10)["x"]]


@pytest.mark.usefixtures("by_three")
def test_two_commands_with_one_target_do_not_spoil_each_others_answers(project: Workspace) -> None:
    written(rows_of(10), ASKED)
    left = iter([False, True])

    def another_first(*given: Any, **options: Any) -> pl.DataFrame:
        if next(left, False):  # in the second chunk of the first command
            assert predict(project, written(rows_of(4), Path("others.parquet")), out=OUT).rows == 4
            assert len(read(OUT)) == 4
        return predict_rows(*given, **options)

    with patch.object(predict_module, "predict_rows", another_first):
        assert predict(project, ASKED, out=OUT).rows == 10
    assert read(OUT)["id"].to_list() == list(range(10))
    assert not list(Path.cwd().glob(".*"))


def test_the_main_thread_handles_signals_while_a_file_is_predicted(project: Workspace) -> None:
    written(rows_of(10), ASKED)
    threads = []

    def noted(*given: Any, **options: Any) -> pl.DataFrame:
        threads.append(threading.current_thread())
        return predict_rows(*given, **options)

    with patch.object(predict_module, "predict_rows", noted):
        predict(project, ASKED, out=OUT)
    assert threads
    assert threading.main_thread() not in threads


# memory

PEAK = """
import resource, sys
from pathlib import Path
from PACKAGE.production.predict import predict
from problems import PROBLEM
from PACKAGE.core.workspace import open_workspace
done = predict(open_workspace(PROBLEM), Path(sys.argv[1]), out=Path(f"{sys.argv[1]}.out.parquet"))
print(done.rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
""".replace("PACKAGE", PACKAGE)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell a peak of memory")
@pytest.mark.parametrize(("ending", "most"), [("parquet", 1.35), ("csv", 2)])
@pytest.mark.usefixtures("trained")
def test_memory_does_not_grow_with_the_file(ending: str, most: float) -> None:
    march = problems.arrived("parcels", problems.START).head(1_000)
    peaks = []
    for n in (150_000, 1_500_000):
        file = written(pl.concat([march] * (n // len(march))), Path(f"{n}.{ending}"))
        line = [sys.executable, "-c", PEAK, str(file)]
        done = subprocess.run(line, env=os.environ | ON_PATH, capture_output=True, encoding="utf-8", check=True)
        rows, peak = map(int, done.stdout.split())
        assert rows == n
        peaks.append(peak)
    assert peaks[1] < most * peaks[0], peaks
