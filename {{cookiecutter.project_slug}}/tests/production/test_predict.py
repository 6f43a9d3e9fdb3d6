"""A file of any size, chunk by chunk: answered as at once, gone on with where it was stopped, in little memory."""

import logging
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar
from unittest.mock import patch

import narwhals as nw
import onnx
import polars as pl
import pytest
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from {{cookiecutter.__package_name}}.production import predict as predict_module
from {{cookiecutter.__package_name}}.production.checkpoint import Checkpoint
from {{cookiecutter.__package_name}}.production.predict import Predicted, champion, predict, predict_rows
from {{cookiecutter.__package_name}}.shared import BadInput
from {{cookiecutter.__package_name}}.shared.problem import Problem, Recipe
from {{cookiecutter.__package_name}}.shared.release import Golden, Release
from {{cookiecutter.__package_name}}.shared.schema import (
    ARRIVED,
    BATCH,
    CONTRACT,
    Forbidden,
    Key,
    Personal,
    Table,
    Target,
    Task,
)
from {{cookiecutter.__package_name}}.shared.settings import load_settings
from {{cookiecutter.__package_name}}.shared.workspace import Workspace

PACKAGE = predict_module.__name__.partition(".")[0]
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
START = datetime(2013, 4, 1, tzinfo=UTC)  # when the trained project's champion was promoted
ASKED, OUT, PARTS = Path("asked.parquet"), Path("answers.parquet"), Path(".answers.parquet.parts")
NAMES = (None, "plain", "a,b", 'said "x"', "two\nlines", " ", "ü", "'", "1")


class Ask(Table):
    """What is asked for."""

    table: ClassVar = "asks"
    rules: ClassVar = {
        "x is not above top": nw.col("x") <= nw.col("top"),
        "person is not of origin": nw.col("person") != nw.col("origin"),
    }

    id: Annotated[int, Key(), Forbidden("a number means nothing")]
    name: str | None
    x: Annotated[float, Field(gt=0)]
    top: float | None
    person: Annotated[str, Personal()]
    origin: Annotated[str, Forbidden("the law")]
    y: Annotated[float, Target()]


ASKING = Problem(
    subject=Ask,
    tables=(Ask,),
    features=("x",),
    lookback=timedelta(0),
    build=lambda rows, _: rows,
    collect=lambda *_: [],
    recipe=lambda: Recipe(BaseModel, lambda *_: None, lambda *_: doubled()),
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
        golden=Golden(requests=[], features=[], answers=[]),
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


def stopped(workspace: Workspace, *, after: int, now: datetime | None = None) -> None:
    """Let predicting what is asked fail after so many chunks."""
    left = iter(range(after))

    def failing(*given: Any, **options: Any) -> pl.DataFrame:
        if next(left, None) is None:
            raise RuntimeError("out of luck")
        return predict_rows(*given, **options)

    with patch.object(predict_module, "predict_rows", failing), pytest.raises(RuntimeError, match="out of luck"):
        predict(workspace, ASKED, out=OUT, now=now)
    assert len(list(PARTS.glob("*.parquet"))) == after


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
    assert done == Predicted(12 - sum(broken), sum(broken), 1, out.as_posix())
    assert (done.rows, done.rejected) == (at_once.rows, at_once.rejected)
    assert read(out).equals(read(whole))
    assert out.suffix != ".csv" or out.read_bytes() == whole.read_bytes()
    assert read(out)["id"].to_list() == list(range(12))
    if not all(broken):
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
    assert (done.rows, done.rejected) == (4, 6)
    answers = read(OUT)
    assert answers.columns == ["id", "name", "x", "top", "origin", "error", "prediction", "version"]
    assert answers["error"].to_list() == ["x is given"] * 6 + [None] * 4
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


def test_a_breach_far_down_names_its_place_and_leaves_nothing(
    project: Workspace, by_three: Callable[[], list[str]]
) -> None:
    file = written(rows_of(8).with_columns(pl.col("x").cast(pl.String).replace("7.5", "much")), Path("asked.csv"))
    before = sorted(Path.cwd().rglob("*"))
    line = r"^asked\.csv from row 7 on breaks the contract of asks: column x has 1 values that are no float, as 'much'$"
    with pytest.raises(BadInput, match=line):
        predict(project, file, out=OUT)
    assert by_three() == ["predict   3 rows of asked.csv", "predict   6 rows of asked.csv"]
    assert sorted(Path.cwd().rglob("*")) == before


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda text: b"\xef\xbb\xbf" + text, None),
        (lambda text: text.replace(b"\n", b"\r\n"), None),
        (lambda text: text.rstrip(), None),
        (lambda text: text.replace(b",", b";"), "breaks the contract of asks: column id is missing; "),
        (lambda text: text.decode().encode("utf-16"), "breaks the contract of asks: column id is missing; "),
        (lambda text: text.replace(b"Ann", b"J\xfcrg"), "can't be read as csv: invalid utf-8 sequence; write it again"),
        (lambda text: text + b",,,,,,,\n", "can't be read as csv: found more fields than defined in 'Schema'; write"),
        (lambda _: b"", "can't be read as csv: empty CSV; write it again"),
        (lambda text: text.splitlines()[0], "breaks the contract of asks: it has no rows"),
    ],
    ids=["mark", "crlf", "no end", "semicolons", "utf-16", "latin", "ragged", "empty", "head"],
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
    with pytest.raises(BadInput) as refused:
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
    assert (full.rows, full.rejected) == (0, 3)
    for absent in (["person"], ["origin"], ["person", "origin"]):
        done = predict(project, written(rows.drop(absent), Path(f"asked.{ending}")), out=OUT)
        assert (done.rows, done.rejected) == (2, 1)
        answers = read(OUT)
        assert answers["error"].to_list() == [None, "x is not above top", None]
        assert answers["prediction"].to_list() == [2.0, None, 4.0]
        kept = [name for name in rows.columns if name not in {*absent, "person"}]
        assert answers.columns == [*kept, "error", "prediction", "version"]


@pytest.mark.parametrize("name", ["id", "x", "name"])
def test_a_key_and_what_features_may_see_must_be_there(project: Workspace, name: str) -> None:
    with pytest.raises(BadInput, match=rf"^asked\.parquet breaks the contract of asks: column {name} is missing$"):
        predict(project, written(rows_of(3).drop(name, "person"), ASKED), out=OUT)


# stopped, and gone on with

# Answers a file in chunks of three rows, and dies with the draft of the third part half-written.
CHILD = """
import os, signal, sys
from pathlib import Path

import polars as pl

from PACKAGE.production import predict as module
from PACKAGE.shared.workspace import open_workspace

write, count = pl.DataFrame.write_parquet, 0


def dying(rows, path):
    global count
    count += 1
    write(rows, path)
    if count == 3:
        path.write_bytes(path.read_bytes()[:100])
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


pl.DataFrame.write_parquet = dying
module.CHUNK = 3
module.predict(open_workspace(), Path(sys.argv[1]), out=Path(sys.argv[2]))
""".replace("PACKAGE", PACKAGE)


def test_a_killed_prediction_goes_on_after_its_last_whole_part(
    trained: Workspace, by_three: Callable[[], list[str]]
) -> None:
    march = pl.read_parquet("data/example/flights.parquet").filter(pl.col("scheduled").dt.month() == 3)
    written(march.sample(10, seed=1, shuffle=True), ASKED)
    expected = at_once(trained, ASKED)
    by_three()
    line = [sys.executable, "-c", CHILD, str(ASKED), str(OUT)]
    killed = subprocess.run(line, capture_output=True, encoding="utf-8", check=False)
    assert killed.returncode in {-getattr(signal, "SIGKILL", signal.SIGTERM), signal.SIGTERM}, killed.stderr
    assert sorted(path.name for path in PARTS.glob("*.parquet")) == ["000000.parquet", "000001.parquet"]
    assert (PARTS / "part.draft").stat().st_size == 100
    done = predict(trained, ASKED, out=OUT)
    assert by_three() == [
        "predict   goes on after 6 rows of asked.parquet",
        "predict   9 rows of asked.parquet",
        "predict   10 rows of asked.parquet",
    ]
    assert (done.rows, done.rejected) == (10, 0)
    assert read(OUT).equals(expected)
    assert not PARTS.exists()


def test_what_goes_on_knows_no_more_than_when_it_was_begun(
    trained: Workspace, by_three: Callable[[], list[str]]
) -> None:
    march = pl.read_parquet("data/example/flights.parquet").filter(pl.col("scheduled").dt.month() == 3)
    expected = at_once(trained, written(march.sample(10, seed=1, shuffle=True), ASKED), now=START)
    stopped(trained, after=1, now=START)
    departures = trained.lake.scan(trained.problem.schemas["departures"])
    late = departures.with_columns(
        pl.col("leg") + 10**6,
        pl.lit(900, dtype=pl.Int64).alias("delay"),
        pl.lit(START).alias(ARRIVED),
        pl.lit("late").alias(BATCH),
        pl.lit(1, dtype=pl.Int64).alias(CONTRACT),
    )
    trained.lake.append("departures", late.collect(), batch="late")
    by_three()
    assert predict(trained, ASKED, out=OUT, now=START).rows == 10
    assert by_three()[0] == "predict   goes on after 3 rows of asked.parquet"
    assert read(OUT).equals(expected)
    predict(trained, ASKED, out=OUT, now=START)
    assert not read(OUT).equals(expected)


@pytest.mark.parametrize("step", ["finish", "clear"])
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_what_was_stopped_after_its_last_part_is_finished(
    project: Workspace, by_three: Callable[[], list[str]], ending: str, step: str
) -> None:
    file = written(rows_of(6), Path(f"asked.{ending}"))
    expected = at_once(project, file)
    clear = Checkpoint.clear

    def failing(checkpoint: Checkpoint) -> None:
        if checkpoint.parts():
            raise RuntimeError("out of luck")
        clear(checkpoint)

    with patch.object(Checkpoint, step, failing), pytest.raises(RuntimeError, match="out of luck"):
        predict(project, file, out=OUT)
    assert OUT.exists() == (step == "clear")
    by_three()
    assert predict(project, file, out=OUT).rows == 6
    assert by_three() == [f"predict   goes on after 6 rows of asked.{ending}"]
    assert read(OUT).equals(expected)
    assert not PARTS.exists()


def change_file(_: Workspace) -> dict[str, Any]:
    written(rows_of(10).reverse(), ASKED)
    return {}


def change_champion(workspace: Workspace) -> dict[str, Any]:
    workspace.releases.append(champion(workspace).model_copy(update={"number": 2, "version": 2}))
    return {}


def change_now(_: Workspace) -> dict[str, Any]:
    return {"now": NOON}


def wait_too_long(_: Workspace) -> dict[str, Any]:
    job = PARTS / "job.json"
    job.write_text(job.read_text(encoding="utf-8").replace('"begun":"2', '"begun":"1'), encoding="utf-8")
    return {}


def break_the_job(_: Workspace) -> dict[str, Any]:
    (PARTS / "job.json").write_text("{", encoding="utf-8")
    return {}


@pytest.mark.parametrize("change", [change_file, change_champion, change_now, wait_too_long, break_the_job])
def test_another_job_begins_anew(
    project: Workspace, by_three: Callable[[], list[str]], change: Callable[[Workspace], dict[str, Any]]
) -> None:
    written(rows_of(10), ASKED)
    stopped(project, after=2)
    options = change(project)
    by_three()
    done = predict(project, ASKED, out=OUT, **options)
    assert by_three() == [f"predict   {n} rows of asked.parquet" for n in (3, 6, 9, 10)]
    assert done.version == champion(project).version
    assert read(OUT).equals(at_once(project, ASKED, **options))


@pytest.mark.usefixtures("by_three")
def test_answers_that_stand_are_replaced_by_whole_ones_only(project: Workspace) -> None:
    written(rows_of(10), ASKED)
    OUT.write_text("yesterday's", encoding="utf-8")
    stopped(project, after=3)
    assert OUT.read_text(encoding="utf-8") == "yesterday's"
    predict(project, ASKED, out=OUT)
    assert len(read(OUT)) == 10


@pytest.mark.usefixtures("by_three")
def test_a_file_may_be_replaced_by_its_answers(project: Workspace) -> None:
    predict(project, written(rows_of(10), ASKED), out=ASKED)
    assert read(ASKED)["prediction"].to_list() == [2 * x for x in rows_of(10)["x"]]


@pytest.mark.usefixtures("by_three")
def test_two_commands_do_not_write_the_same_answers(project: Workspace) -> None:
    written(rows_of(10), ASKED)
    stopped(project, after=2)
    before = sorted(PARTS.iterdir())
    line = r"^another command writes answers\.parquet: try again when it is done$"
    with FileLock(PARTS / "lock"), pytest.raises(BadInput, match=line):
        predict(project, ASKED, out=OUT)
    assert sorted(PARTS.iterdir()) == before
    assert predict(project, ASKED, out=Path("others.parquet")).rows == 10


@pytest.mark.usefixtures("by_three")
def test_where_nothing_was_answered_nothing_is_left(project: Workspace) -> None:
    written(rows_of(10), ASKED)
    before = sorted(Path.cwd().rglob("*"))
    stopped(project, after=0)
    assert sorted(Path.cwd().rglob("*")) == before


# memory

PEAK = """
import resource, sys
from pathlib import Path
from PACKAGE.production.predict import predict
from PACKAGE.shared.workspace import open_workspace
done = predict(open_workspace(), Path(sys.argv[1]), out=Path(f"{sys.argv[1]}.out.parquet"))
print(done.rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
""".replace("PACKAGE", PACKAGE)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell a peak of memory")
@pytest.mark.parametrize(("ending", "most"), [("parquet", 1.35), ("csv", 2)])
def test_memory_does_not_grow_with_the_file(trained: Workspace, ending: str, most: float) -> None:
    march = pl.read_parquet(trained.root / "data" / "example" / "flights.parquet").head(5_000)
    peaks = []
    for n in (150_000, 1_500_000):
        file = written(pl.concat([march] * (n // len(march))), Path(f"{n}.{ending}"))
        done = subprocess.run([sys.executable, "-c", PEAK, file], capture_output=True, encoding="utf-8", check=True)
        rows, peak = map(int, done.stdout.split())
        assert rows == n
        peaks.append(peak)
    assert peaks[1] < most * peaks[0], peaks
