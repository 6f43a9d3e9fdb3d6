"""What a project keeps: tables, releases, runs and versions, settings, and the workspace that opens them."""

import dataclasses
import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar

import deltalake
import numpy as np
import polars as pl
import pytest
from deltalake.exceptions import CommitFailedError
from mlflow import MlflowClient
from pydantic import BaseModel

from my_ml_project.core import errors as errors_module
from my_ml_project.core.acceptance import Acceptance, DecisionCosts, Retrain, Slices, Window
from my_ml_project.core.contracts.schema import (
    AvailableAt,
    Excluded,
    Key,
    Personal,
    Table,
    Target,
    Task,
    schema_of,
)
from my_ml_project.core.errors import InputError, Rejected, redact_passwords, summarize, write_file
from my_ml_project.core.problem import ModelSpec, Problem
from my_ml_project.core.settings import load_config, load_settings, project_root
from my_ml_project.core.store import durability
from my_ml_project.core.store import lake as lake_module
from my_ml_project.core.store import provenance as provenance_module
from my_ml_project.core.store.lake import Conflict, Lake
from my_ml_project.core.store.provenance import (
    ALL_FILES,
    MODEL_FILES,
    changed_files,
    code_hash,
    provenance,
)
from my_ml_project.core.store.registry import Registry, Version
from my_ml_project.core.store.releases import GoldenRequests, Release, Releases, rows_of
from my_ml_project.core.workspace import open_project, open_workspace
from my_ml_project.production.erasure import deletion
from my_ml_project.shared import PROBLEM

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
NUMBERS: dict[str, pl.DataType] = {"n": pl.Int64()}


class Order(Table):
    """An order."""

    table: ClassVar = "orders"

    id: Annotated[int, Key()]


def numbers(*values: int) -> pl.DataFrame:
    return pl.DataFrame({"n": values})


def stored(lake: Lake, version: int | None = None) -> list[int]:
    return sorted(lake.read("numbers", NUMBERS, version=version).collect()["n"].to_list())


TRICKY = '''
NAME = f"ä {1!r} # no comment {'a'} "  # ö
TEXT = """not a docstring

# no comment
"""
class One: """of one line"""
def two(): return (  # three

    4)
'''
SIGNIFICANT = '''NAME = f"ä {1!r} # no comment {'a'} "
TEXT = """not a docstring

# no comment
"""
class One: """of one line"""
def two(): return (
    4)
'''


def test_what_is_significant_is_plain_text_and_so_equal_on_every_python() -> None:
    assert provenance_module.significant(TRICKY).strip() == SIGNIFICANT.strip()


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def test_a_batch_sent_twice_is_appended_once(lake: Lake) -> None:
    assert lake.append("numbers", numbers(1, 2), batch="first") is True
    assert lake.append("numbers", numbers(1, 2), batch="first") is False
    assert lake.append("numbers", numbers(1, 2), batch="second") is True
    assert stored(lake) == [1, 1, 2, 2]


def test_a_batch_is_known_to_the_table_that_it_went_into_and_to_no_other(lake: Lake) -> None:
    assert not lake.has("numbers", "first")
    lake.append("numbers", numbers(1), batch="first")
    assert lake.has("numbers", "first")
    assert not lake.has("numbers", "second")
    assert not lake.has("others", "first")


def test_versions_count_appends_from_zero_and_are_minus_one_before(lake: Lake) -> None:
    assert lake.version("numbers") == -1
    for n in range(3):
        lake.append("numbers", numbers(n), batch=str(n))
        assert lake.version("numbers") == n


def test_a_table_is_read_as_of_a_version(lake: Lake) -> None:
    for n in range(3):
        lake.append("numbers", numbers(n), batch=str(n))
    assert [stored(lake, version) for version in (-1, 0, 1, 2)] == [[], [0], [0, 1], [0, 1, 2]]
    assert stored(lake) == [0, 1, 2], "reading an older version leaves the newest in place"


def test_what_another_process_appends_is_seen(lake: Lake) -> None:
    other = Lake(lake.url)
    lake.append("numbers", numbers(1), batch="first")
    assert stored(other) == [1]
    lake.append("numbers", numbers(2), batch="second")
    assert stored(other) == [1, 2]
    assert other.version("numbers") == 1
    assert other.append("numbers", numbers(2), batch="second") is False


FOLDERS: tuple[str, ...] = (
    "my project",
    "Übung",
    "50%",
    "a#b",
    "100% of a+b & c's",
    "{a} $b (c), d;e=f",
    "@ ~ `x` !",
    "\U0001f600",
)
FOLDERS += ("a [b]", "a[b]", "a^b") if os.name == "nt" else ("a [b]", "a[b]", "a^b", 'a|b [*?] "<c>":')


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_lake_may_lie_in_any_folder(tmp_path: Path, folder: str) -> None:
    lake = Lake(str(tmp_path / folder / "lake"))
    lake.append("numbers", numbers(1), batch="first")
    assert (stored(lake), stored(Lake(lake.url))) == ([1], [1])
    assert not lake.append("numbers", numbers(1), batch="first")
    with pytest.raises(Conflict):
        lake.append("numbers", numbers(1), batch="late", expected=-1)
    lake.append("numbers", numbers(1).head(0), batch="empty")
    assert Lake(lake.url).has("numbers", "empty")
    lake.append("numbers", numbers(2).with_columns(gained=pl.lit("x")), batch="second")
    both = lake.read("numbers", {}).sort("n").collect()
    assert both["gained"].to_list() == [None, "x"], "a column that came later is missing before"
    deletion.delete(lake, "numbers", numbers(2))
    assert stored(lake) == [1]
    deletion.replace(lake, "numbers", lambda: both.head(0))
    assert lake.read("numbers", {}).collect().equals(both.head(0))
    lake.append("numbers", numbers(3), batch="third")
    lake.maintain()
    assert (stored(lake), lake.has("numbers", "second")) == ([3], True)


def test_a_link_to_a_folder_counts_as_the_folder(tmp_path: Path) -> None:
    (tmp_path / "a [b]").mkdir()
    (tmp_path / "link").symlink_to("a [b]", target_is_directory=True)
    lake = Lake(str(tmp_path / "link"))
    assert lake.append("numbers", numbers(1), batch="first")
    assert stored(Lake(str(tmp_path / "a [b]"))) == [1]


def test_a_folder_where_delta_cannot_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"^the folder [^\n]+ has '%20' in its name, where Delta Lake can't read tables: move"
    ):
        Lake(str(tmp_path / "a%20b" / "lake"))


def test_the_database_of_runs_is_in_its_folder_whatever_that_is_called(tmp_path: Path, no_runs: Path) -> None:
    folders = ["a%20b", "a b", "a [b]^", *["a?b=c", 'a|<*>"'] * (os.name != "nt")]
    for folder in folders:
        shutil.copytree(no_runs, tmp_path / folder)
        registry = Registry(str(tmp_path / folder), "m")
        with registry.run("train", {}, {}) as run:
            run.log_artifact("note.txt", b"hello")
        assert len(registry.runs()) == 1
        assert [path.read_bytes() for path in (tmp_path / folder).rglob("note.txt")] == [b"hello"]
    assert {path.name for path in tmp_path.iterdir()} == set(folders)


def test_an_append_is_on_the_disk_before_it_is_reported(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[Path] = []
    monkeypatch.setattr(durability, "flush", flushed.append)
    lake.append("numbers", numbers(1), batch="first")
    table = Path(lake.url, "numbers")
    (data,), log = table.glob("*.parquet"), table / "_delta_log"
    assert flushed == [data, table, log / f"{0:020}.json", log, Path(lake.url), Path(lake.url).parent]
    flushed.clear()
    lake.append("numbers", numbers(2), batch="second")
    (added,) = {*table.glob("*.parquet")} - {data}
    assert flushed == [added, table, log / f"{1:020}.json", log]


def test_what_is_rewritten_is_on_the_disk_before_it_is_reported(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(lake_module.MAX_FILES + 1):
        lake.append("numbers", numbers(n), batch=str(n))
    flushed: set[Path] = set()
    monkeypatch.setattr(durability, "flush", flushed.add)
    lake.maintain()
    table = deltalake.DeltaTable(lake.address("numbers"))
    assert {*map(Path, table.file_uris())} <= flushed
    deletion.delete(lake, "numbers", numbers(3))
    assert {*map(Path, deltalake.DeltaTable(lake.address("numbers")).file_uris())} <= flushed
    assert [*Path(lake.url).rglob("*.checkpoint.parquet")][-1] in flushed


@pytest.mark.parametrize("left", [0, 300], ids=["empty", "cut off"])
@pytest.mark.parametrize("version", range(3))
def test_a_commit_that_a_power_loss_has_torn_is_named(lake: Lake, version: int, left: int) -> None:
    """Delta Lake reads over an empty commit: its rows would just be missing."""
    for n in range(3):
        lake.append("numbers", numbers(n), batch=str(n))
    commits = [Path(lake.url, "numbers", "_delta_log", f"{n:020}.json") for n in range(version, 3)]
    commits[0].write_bytes(commits[0].read_bytes()[:left])
    with pytest.raises(
        InputError,
        match=rf"^table numbers in [^\n]+ a power loss has torn [^\n]+{version}\.json: delete it and any newer one",
    ):
        Lake(lake.url).read("numbers", NUMBERS)
    for commit in commits:
        commit.unlink()
    again = Lake(lake.url)
    assert [again.append("numbers", numbers(n), batch=str(n)) for n in range(3)] == [n >= version for n in range(3)]
    assert stored(again) == [0, 1, 2]


def test_a_torn_commit_after_a_checkpoint_is_named_and_one_before_does_not_matter(lake: Lake) -> None:
    for n in range(2):
        lake.append("numbers", numbers(n), batch=str(n))
    deltalake.DeltaTable(lake.address("numbers")).create_checkpoint()
    lake.append("numbers", numbers(2), batch="2")
    log = Path(lake.url, "numbers", "_delta_log")
    (log / f"{0:020}.json").write_bytes(b"")
    assert stored(Lake(lake.url)) == [0, 1, 2]
    (log / f"{2:020}.json").write_bytes(b"")
    with pytest.raises(InputError, match="has torn its commit"):
        Lake(lake.url).version("numbers")


CUTS = [Path.unlink, lambda path: path.write_bytes(b""), lambda path: path.write_bytes(path.read_bytes()[:100])]


@pytest.mark.parametrize("damage", CUTS, ids=["gone", "empty", "cut off"])
@pytest.mark.parametrize("when", ["before it is opened", "after"])
def test_a_data_file_that_is_gone_or_cut_off_is_named(lake: Lake, damage: Callable[[Path], None], when: str) -> None:
    lake.append("numbers", numbers(1), batch="first")
    assert (stored(lake), list(lake.damaged_files(read=False))) == ([1], [])
    (file,) = Path(lake.url, "numbers").glob("*.parquet")
    damage(file)
    line = f"table numbers: its file {file} is gone or damaged: restore it from a backup"
    if when == "after":
        assert list(lake.damaged_files(read=False)) == [line]
    else:
        with pytest.raises(InputError) as caught:
            Lake(lake.url).version("numbers")
        assert str(caught.value) == line


def test_a_data_file_with_other_bytes_is_named(lake: Lake) -> None:
    for n in range(3):
        lake.append("numbers", numbers(n), batch=str(n))
    file = min(Path(lake.url, "numbers").glob("*.parquet"))
    file.write_bytes(bytes(len(file.read_bytes())))
    assert list(lake.damaged_files(read=False)) == []
    (line,) = lake.damaged_files(read=True)
    assert line == f"table numbers: its file {file} is gone or damaged: restore it from a backup"


def test_a_checkpoint_that_is_cut_off_is_named(lake: Lake) -> None:
    lake.append("numbers", numbers(1), batch="first")
    deltalake.DeltaTable(lake.address("numbers")).create_checkpoint()
    (checkpoint,) = Path(lake.url).rglob("*.checkpoint.parquet")
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    with pytest.raises(InputError, match=rf"^table numbers: its file {re.escape(str(checkpoint))} is gone or damaged"):
        Lake(lake.url).version("numbers")


def test_a_file_that_cannot_be_written_whole_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.md"
    write_file(path, "old")
    monkeypatch.setattr(errors_module, "flush", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        write_file(path, "new")
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("report.md", "old")]


def test_an_empty_database_of_runs_is_named(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    with pytest.raises(InputError, match=r"mlflow\.db is empty, as after a power loss: restore it"):
        Registry(str(tmp_path), "m").runs()


def test_a_table_that_does_not_exist_has_its_columns_and_no_rows(lake: Lake) -> None:
    empty = lake.scan(schema_of(Order)).collect()
    assert dict(empty.schema) == {
        "id": pl.Int64,
        "_ingested_at": pl.Datetime("us", "UTC"),
        "_batch": pl.String,
        "_contract": pl.Int64,
    }
    assert empty.is_empty()
    assert lake.scan(schema_of(Order), version=3).collect().is_empty()
    assert not Path(lake.url).exists(), "looking makes no table"


def test_a_contracts_table_is_read_with_arrival_and_batch(lake: Lake) -> None:
    rows = pl.DataFrame({"id": [1], "_ingested_at": [NOON], "_batch": ["first"], "_contract": [1]})
    lake.append("orders", rows, batch="first")
    lake.append("orders", rows.with_columns(id=2), batch="second")
    assert lake.scan(schema_of(Order), version=0).collect().equals(rows)
    assert lake.scan(schema_of(Order)).collect().height == 2


def test_five_batches_sent_by_four_writers_at_once_are_each_appended_once(lake: Lake) -> None:
    together = threading.Barrier(4)

    def send(writer: int) -> list[int]:
        own = Lake(lake.url)
        together.wait()
        order = [(writer + n) % 5 for n in range(5)]
        return [n for n in order if own.append("numbers", numbers(n, n), batch=str(n))]

    with ThreadPoolExecutor(4) as pool:
        appended = [n for done in pool.map(send, range(4)) for n in done]
    assert sorted(appended) == [0, 1, 2, 3, 4]
    assert stored(lake) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_eight_threads_share_a_lake_and_no_row_is_lost_or_doubled(lake: Lake) -> None:
    threads, each = range(8), range(5)
    together = threading.Barrier(len(threads))

    def append_and_read(thread: int) -> None:
        together.wait()
        for n in each:
            value = len(each) * thread + n
            assert lake.append("numbers", numbers(value), batch=str(value))
            assert not lake.append("numbers", numbers(value), batch=str(value))
            found = stored(lake)
            assert value in found
            assert len(found) == len(set(found))

    with ThreadPoolExecutor(len(threads)) as pool:
        list(pool.map(append_and_read, threads))
    assert stored(lake) == list(range(len(threads) * len(each)))
    assert lake.version("numbers") == len(threads) * len(each) - 1


@pytest.mark.parametrize(("failures", "appended"), [(19, True), (20, False)])
def test_an_append_gives_way_to_others_twenty_times(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, failures: int, *, appended: bool
) -> None:
    left, write = [CommitFailedError("taken")] * failures, deltalake.write_deltalake

    def taken(*arguments: object, **options: object) -> None:
        if left:
            raise left.pop()
        write(*arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(deltalake, "write_deltalake", taken)
    if appended:
        assert lake.append("numbers", numbers(1), batch="first")
    else:
        with pytest.raises(
            InputError,
            match=r"could not commit to table numbers .* after 20 attempts .*; try again later$",
        ):
            lake.append("numbers", numbers(1), batch="first")
    assert stored(lake) == ([1] if appended else [])


def test_rows_with_other_columns_are_refused_and_the_table_stays_as_it_is(lake: Lake) -> None:
    lake.append("numbers", numbers(1), batch="first")
    with pytest.raises(InputError, match=r"^table numbers in the lake .* can't be used: [^\n]+$"):
        lake.append("numbers", pl.DataFrame({"n": ["one"], "m": [1]}), batch="second")
    assert (stored(lake), lake.has("numbers", "second")) == ([1], False)


def corrupt_log(table: Path) -> None:
    (table / "_delta_log" / f"{0:020}.json").write_text("no json")


def empty_log(table: Path) -> None:
    (table / "_delta_log" / f"{0:020}.json").write_text("")


def file_in_place_of_the_lake(table: Path) -> None:
    table.rename(table.parent.with_name("moved"))
    table.parent.rmdir()
    table.parent.write_text("a file")


@pytest.mark.parametrize("spoil", [corrupt_log, empty_log, file_in_place_of_the_lake])
@pytest.mark.parametrize(
    "use",
    [
        lambda lake: lake.read("numbers", NUMBERS),
        lambda lake: lake.read("numbers", NUMBERS, version=0),
        lambda lake: lake.version("numbers"),
        lambda lake: lake.has("numbers", "first"),
        lambda lake: lake.append("numbers", numbers(2), batch="second"),
    ],
    ids=["read", "read a version", "version", "has", "append"],
)
def test_an_unreadable_lake_is_named_in_one_line(lake: Lake, spoil, use) -> None:
    lake.append("numbers", numbers(1), batch="first")
    spoil(Path(lake.url) / "numbers")
    with pytest.raises(InputError, match=r"^table numbers in the lake .* can't be used: [^\n]+$"):
        use(Lake(lake.url))


def test_a_version_that_is_not_there_is_named_in_one_line(lake: Lake) -> None:
    lake.append("numbers", numbers(1), batch="first")
    with pytest.raises(InputError, match=r"^table numbers in the lake .* can't be used: [^\n]+$"):
        lake.read("numbers", NUMBERS, version=1)


def release(number: int, version: int = 7, **change: object) -> Release:
    card = {
        "number": number,
        "version": version,
        "run_id": "run",
        "released": NOON,
        "reason": "promoted",
        "trained_until": NOON,
        "task": Task.BINARY,
        "features": {"x": False},
        "classes": (),
        "threshold": 0.2,
        "reference": {"x": 1.0},
        "metrics": {"auc": 0.7},
        "parameters": {"seed": 0},
        "tables": {"orders": 3},
        "golden": GoldenRequests(requests=[{"id": 1}], features=[{"x": 1.0}], predictions=[0.5]),
        "onnx": b"\x00model\xff",
    }
    return Release.model_validate(card | change)


def test_without_releases_there_is_no_champion(lake: Lake) -> None:
    releases = Releases(lake)
    assert (releases.champion(), releases.newest(3), releases.run_ids()) == (None, [], set())


def test_the_newest_release_serves_and_comes_back_byte_for_byte(lake: Lake) -> None:
    releases = Releases(lake)
    made = [release(1, 3), release(2, 4), release(3, 3, reason="rolled back", threshold=None)]
    assert [releases.append(each) for each in (made[0], made[2], made[1])] == [True, True, True]
    assert releases.champion() == made[2]
    assert releases.newest(2) == [made[2], made[1]]
    assert releases.newest(9) == made[::-1]
    assert releases.run_ids() == {made[0].run_id}


def test_a_release_number_that_is_taken_changes_nothing(lake: Lake) -> None:
    releases = Releases(lake)
    assert releases.append(release(1, 3)) is True
    assert releases.append(release(1, 4)) is False
    assert [each.version for each in releases.newest(2)] == [3]


def test_a_release_whose_row_is_gone_can_be_appended_again(lake: Lake) -> None:
    releases = Releases(lake)
    assert releases.append(release(1, 3))
    deltalake.DeltaTable(lake.address("releases")).delete("number = 1")
    assert releases.champion() is None
    assert releases.append(release(1, 4, released=NOON + timedelta(hours=1)))
    assert [each.version for each in releases.newest(2)] == [4]


@pytest.mark.parametrize("record", ["{", "{}"])
def test_a_broken_record_is_an_input_error_that_names_the_release(lake: Lake, record: str) -> None:
    broken = rows_of([release(7, 3)]).with_columns(record=pl.lit(record))
    lake.append("releases", broken, batch="broken")
    with pytest.raises(InputError, match=r"^release 7 in the table releases is broken: [^\n]+; see docs/runbook\.md$"):
        Releases(lake).champion()


def test_a_model_that_is_no_onnx_is_bad_input() -> None:
    with pytest.raises(InputError, match=r"^the model is not a valid ONNX model: [^\n]+; see docs/runbook\.md$"):
        release(1).predictor.predict(pl.DataFrame({"x": [1.0]}))


def test_a_release_stands_in_the_lake_with_number_version_time_model_and_card(lake: Lake) -> None:
    Releases(lake).append(release(5, 9))
    (row,) = lake.read("releases", {}).collect().to_dicts()
    assert (row["number"], row["version"], row["released"], row["onnx"]) == (5, 9, NOON, b"\x00model\xff")
    assert set(row) == {"number", "version", "released", "onnx", "record"}
    assert "model" not in row["record"]
    assert "onnx" not in repr(release(5))


def test_a_binary_answer_is_a_probability_and_a_decision_from_the_threshold_on() -> None:
    answers = release(1).prediction_frame(np.array([0.19, 0.2, 0.21]))
    assert answers.to_dict(as_series=False) == {"probability": [0.19, 0.2, 0.21], "decision": [False, True, True]}
    assert release(1, threshold=None).prediction_frame(np.array([0.49, 0.5]))["decision"].to_list() == [False, True]


def test_a_multiclass_answer_is_the_likeliest_class_and_a_probability_a_class() -> None:
    several = release(1, task=Task.MULTICLASS, classes=("cat", "dog"))
    answers = several.prediction_frame(np.array([[0.7, 0.3], [0.1, 0.9]]))
    assert answers.to_dict(as_series=False) == {
        "prediction": ["cat", "dog"],
        "probability_cat": [0.7, 0.1],
        "probability_dog": [0.3, 0.9],
    }


def test_an_answer_of_a_regression_is_the_value() -> None:
    answers = release(1, task=Task.REGRESSION).prediction_frame(np.array([1.5, -2.0]))
    assert answers.to_dict(as_series=False) == {"prediction": [1.5, -2.0]}


PACKAGE = provenance_module.__name__.partition(".")[0]


class Parameters(BaseModel, extra="forbid"):
    depth: int = 3
    seed: int = 0


class Guest(Table):
    table: ClassVar = "guests"

    id: Annotated[int, Key()]
    name: Annotated[str | None, Personal()] = None


class Bill(Table):
    table: ClassVar = "bills"

    id: Annotated[int, Key()]
    paid: Annotated[datetime, AvailableAt()]
    amount: Annotated[float, Target()]
    tip: Annotated[float | None, Excluded("comes later")] = None


def made(*tables: type[Table], features: tuple[str, ...] = ("id",)) -> Problem:
    return Problem(
        entity=tables[0],
        tables=tables,
        features=features,
        lookback=timedelta(0),
        build=lambda rows, _: rows,
        collect=lambda *_: [],
        model_spec=lambda: ModelSpec(Parameters, lambda *_: None, lambda *_: pytest.fail("nothing is exported")),
    )


@pytest.fixture(scope="module", autouse=True)
def no_settings_of_the_user() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.upper().startswith(("ML_", "MLFLOW_", "GIT_")):
                patch.delenv(name)
        yield


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project's folder."""
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "params.toml").write_text("depth = 5\n")
    return tmp_path


def test_settings_have_defaults(root: Path) -> None:
    settings = load_settings(root)
    assert settings.model_dump() == {
        "lake": "data/lake",
        "inbox": Path("data/inbox"),
        "archive": Path("data/archive"),
        "quarantine": Path("data/quarantine"),
        "reports": Path("reports"),
        "table_history_days": 365,
        "tracking": "mlruns",
        "webhook": None,
        "clock": "wall",
        "start": None,
        "now": None,
        "tables": {},
        "log_format": "text",
        "serve_api_key": None,
        "serve_cors_origins": [],
        "serve_root_path": None,
        "serve_access_log": False,
        "serve_max_rows": 10_000,
        "serve_max_body_bytes": 5_000_000,
        "serve_max_queued_rows": 50_000,
        "serve_max_age_days": 7,
        "serve_refresh_seconds": 5,
        "serve_log_flush_seconds": 10,
    }


def test_the_environment_comes_before_dotenv_before_the_file_before_the_default(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, dotenv = root / "config" / "settings.toml", root / ".env"
    assert load_settings(root).lake == "data/lake"
    file.write_text('lake = "from the file"\ntracking = "from the file"\nclock = "data"\n')
    assert load_settings(root).lake == "from the file"
    dotenv.write_text("ML_LAKE=from dotenv\nML_TRACKING=from dotenv\n")
    assert load_settings(root).lake == "from dotenv"
    monkeypatch.setenv("ML_LAKE", "from the environment")
    settings = load_settings(root)
    assert (settings.lake, settings.tracking, settings.clock) == ("from the environment", "from dotenv", "data")


def test_only_an_opened_project_sets_what_else_dotenv_has_in_the_environment(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", os.environ | {"AWS_SECRET_ACCESS_KEY": "ours"})
    monkeypatch.chdir(root)
    (root / ".env").write_text("AWS_SECRET_ACCESS_KEY=theirs\nMLFLOW_USER=theirs\nAWS_REGION=\nML_LAKE=lake\n")
    before = dict(os.environ)
    assert load_settings(root).lake == "lake"
    assert open_workspace(PROBLEM).settings.lake == "lake"
    assert os.environ == before, "settings are only read"
    assert open_project(PROBLEM).settings.lake == "lake"
    assert os.environ == before | {"MLFLOW_USER": "theirs"}, "the environment comes first, and settings stay out"


def test_settings_are_those_of_the_project_wherever_one_is(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = root / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / ".env").write_text("ML_LAKE=of another project\n")
    monkeypatch.chdir(elsewhere)
    assert load_settings(root).lake == "data/lake"


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("config/settings.toml", b'laek = "x"', "laek is unknown: did you mean lake?"),
        ("config/settings.toml", b'clock = "sun"', "clock: Input should be 'wall' or 'data'"),
        ("config/settings.toml", b'laek = "x"\nclock = "sun"', "clock: [^;]+; laek is unknown"),
        ("config/settings.toml", b"lake = = 1", "line 1"),
        ("config/settings.toml", b'lake = "\xfc"', "utf-8"),
        (".env", b"ML_LAEK=x", "laek is unknown: did you mean lake?"),
        (".env", b"ML_CLOCK=sun", "clock: "),
        (".env", b"ML_LAKE=\xfc", "utf-8"),
        (".env", b"ML_LAKE=", "lake: String should have at least 1 character"),
        (".env", b'ML_TABLES={"a":', "tables"),
    ],
)
def test_a_setting_that_is_wrong_is_named_in_one_line(root: Path, file: str, content: bytes, reason: str) -> None:
    (root / file).write_bytes(content)
    with pytest.raises(InputError, match=rf"^settings \(ML_\.\.\. [^\n]*\): [^\n]*{reason}[^\n]*$"):
        load_settings(root)


@pytest.mark.parametrize("variable", ["ML_LAEK", "ml_lake_"])
def test_an_unknown_setting_in_the_environment_names_the_nearest(
    root: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "x")
    with pytest.raises(InputError, match=rf"^settings: {variable.upper()} is unknown: did you mean ML_LAKE\?$"):
        load_settings(root)


def test_files_may_begin_with_a_byte_order_mark(root: Path) -> None:
    for name, text in (
        ("config/settings.toml", 'clock = "data"'),
        (".env", "ML_LAKE=elsewhere"),
        ("config/x.toml", "depth = 3"),
    ):
        (root / name).write_text(text, encoding="utf-8-sig")
    assert (load_settings(root).clock, load_settings(root).lake) == ("data", "elsewhere")
    assert load_config(root / "config" / "x.toml", Parameters).depth == 3


def test_a_nested_error_is_told_with_its_innermost_cause() -> None:
    nested = "Generic S3 error\n  \x1b[31m↳\x1b[0m Error performing GET\n   \x1b[31m↳\x1b[0m 403 Forbidden: denied\n"
    assert summarize(OSError(nested)) == "Generic S3 error: 403 Forbidden: denied"
    assert summarize(OSError("one\ntwo")) == "one"
    assert summarize(KeyError()) == "KeyError"


def test_a_wrong_setting_in_the_environment_is_named_in_one_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ML_CLOCK", "sun")
    with pytest.raises(InputError, match=r"^settings [^\n]*clock: [^\n]*$"):
        load_settings(root)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"deep = 1", "deep is unknown: did you mean depth?"),
        (b'depth = "x"', "depth: Input should be a valid integer"),
        (b"depth = ", "Invalid value"),
        (b'depth = "\xfc"', "utf-8"),
    ],
)
def test_a_configuration_that_is_wrong_is_named_in_one_line(root: Path, content: bytes, reason: str) -> None:
    path = root / "config" / "params.toml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"^[^\n]*params\.toml: [^\n]*" + reason + r"[^\n]*$"):
        load_config(path, Parameters)


def test_a_wrong_key_is_named_with_where_it_stands(root: Path) -> None:
    path = root / "config" / "acceptance.toml"
    path.write_text("[window]\ndays = 0\n")
    with pytest.raises(InputError, match=r"acceptance\.toml: window\.days: Input should be greater than 0$"):
        load_config(path, Acceptance)


def test_a_configuration_that_is_not_there_gives_the_defaults(root: Path) -> None:
    assert load_config(root / "config" / "none.toml", Parameters) == Parameters()
    assert load_config(root / "config" / "none.toml", Acceptance).model_dump() == {
        "decision": {"cost_false_positive": 1.0, "cost_false_negative": 1.0},
        "window": {"days": 14, "share": 0.2, "min_rows": 20},
        "at_least": {},
        "at_most": {},
        "confidence": 0.95,
        "slices": {"columns": (), "min_rows": 100, "at_least": {}, "at_most": {}},
        "fairness": {"columns": (), "min_rows": 100, "max_gap": {}},
        "smoke_test": {"enabled": True, "max_latency_ms": 250, "replay_rows": 500},
        "retrain": {
            "every_days": 28,
            "window_days": 7,
            "windows": 4,
            "min_breached_windows": 2,
            "training_window_days": (0,),
        },
        "monitor": {"max_model_age_days": None, "max_table_age_days": None, "max_psi": 0.25},
        "budget": {"microseconds": 20, "bytes": 16},
        "leaks": {"allow": ()},
    }


@pytest.mark.parametrize(
    ("model", "key", "good", "bad"),
    [
        (DecisionCosts, "cost_false_positive", 0.001, 0),
        (DecisionCosts, "cost_false_negative", 0.001, 0),
        (Window, "days", 1, 0),
        (Window, "share", 0.001, 0),
        (Window, "share", 0.999, 1),
        (Window, "min_rows", 2, 1),
        (Slices, "min_rows", 2, 1),
        (Retrain, "every_days", 0.001, 0),
        (Acceptance, "confidence", 0, -0.001),
        (Acceptance, "confidence", 1, 1.001),
    ],
)
def test_a_value_of_the_gate_lies_within_its_limits(
    root: Path, model: type[BaseModel], key: str, good: float, bad: float
) -> None:
    path = root / "config" / "acceptance.toml"
    path.write_text(f"{key} = {good}\n")
    assert getattr(load_config(path, model), key) == good
    path.write_text(f"{key} = {bad}\n")
    with pytest.raises(InputError, match=key):
        load_config(path, model)


@pytest.mark.parametrize(("cost_false_positive", "miss", "threshold"), [(1, 4, 0.2), (1, 1, 0.5), (3, 1, 0.75)])
def test_the_threshold_follows_from_what_wrong_decisions_cost(
    cost_false_positive: float, miss: float, threshold: float
) -> None:
    assert DecisionCosts(cost_false_positive=cost_false_positive, cost_false_negative=miss).threshold == threshold


def test_the_projects_folder_is_the_nearest_one_with_parameters(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = root / "a" / "b"
    inner.mkdir(parents=True)
    for folder in (root, inner):
        monkeypatch.chdir(folder)
        assert project_root() == root
    (root / "a" / "config").mkdir()
    assert project_root() == root, "a config folder without parameters is another program's"
    (root / "a" / "config" / "params.toml").touch()
    assert project_root() == root / "a"


def test_outside_of_a_project_the_message_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"^no config/params\.toml in [^\n]+ or above: run this inside the project's"):
        project_root()


def test_a_workspace_puts_relative_paths_into_the_projects_folder_and_leaves_addresses(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = open_workspace(made(Guest, Bill), root=root)
    assert local.path(local.settings.reports) == root / "reports"
    assert local.lake.url == str(root / "data" / "lake")
    assert (local.registry.address, local.registry.model) == (str(root / "mlruns"), PACKAGE)
    monkeypatch.setenv("ML_LAKE", "s3://bucket/lake")
    monkeypatch.setenv("ML_TRACKING", "https://mlflow.example")
    remote = open_workspace(made(Guest, Bill), root=root)
    assert (remote.lake.url, remote.registry.address) == ("s3://bucket/lake", "https://mlflow.example")


def test_a_workspace_is_in_the_project_of_the_current_directory(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    workspace = open_workspace(PROBLEM)
    assert (workspace.root, workspace.problem) == (root, PROBLEM)


def test_a_workspace_reads_what_the_project_configures(root: Path) -> None:
    (root / "config" / "acceptance.toml").write_text("[at_least]\nauc = 0.7\n")
    workspace = open_workspace(made(Guest, Bill), root=root)
    assert workspace.parameters == Parameters(depth=5)
    assert workspace.acceptance == Acceptance(at_least={"auc": 0.7})
    assert workspace.releases.champion() is None


def test_two_commands_that_write_do_not_work_at_the_same_time(root: Path) -> None:
    first, second = (open_workspace(made(Guest, Bill), root=root) for _ in range(2))
    with (
        first.exclusive_lock(),
        pytest.raises(InputError, match=r"^another command .* running and holds the lock .*\.lock: try"),
        second.exclusive_lock(),
    ):
        pytest.fail("both are running")
    with second.exclusive_lock():
        pass


def test_a_command_that_fails_lets_the_next_one_work(root: Path) -> None:
    workspace = open_workspace(made(Guest, Bill), root=root)
    with pytest.raises(Rejected), workspace.exclusive_lock():
        raise Rejected("no")
    with workspace.exclusive_lock():
        pass


def test_now_is_what_is_given_or_what_the_clock_says(root: Path) -> None:
    workspace = open_workspace(made(Guest, Bill), root=root)
    data = dataclasses.replace(workspace, settings=workspace.settings.model_copy(update={"clock": "data"}))
    assert workspace.now(NOON) == NOON
    assert data.now(NOON) == NOON
    for each in (workspace, data):
        before = datetime.now(UTC)
        assert before <= each.now() <= datetime.now(UTC), "without data the clock on the wall is all there is"
    bills = {"id": [1], "paid": [NOON], "amount": [9.5], "tip": [1.0], "_ingested_at": [NOON], "_batch": ["1"]}
    workspace.lake.append("bills", pl.DataFrame(bills), batch="1")
    assert data.now() == NOON
    assert workspace.now() > NOON


def test_a_problem_knows_its_subject_its_labels_and_its_task() -> None:
    problem = made(Guest, Bill)
    assert (problem.schema.name, problem.labels.name, problem.target.name) == ("guests", "bills", "amount")
    assert problem.task == Task.REGRESSION
    assert list(problem.schemas) == ["guests", "bills"]


@pytest.mark.parametrize("name", ["collections", "predictions", "releases"])
def test_a_table_with_a_name_that_the_machinery_needs_is_refused(name: str) -> None:
    class Taken(Guest):
        table: ClassVar = name

    with pytest.raises(InputError, match=f"^table names {name} are reserved"):
        made(Taken, Bill)


@pytest.mark.parametrize(("features", "named"), [(("id", "name"), "name"), (("tip", "id", "name"), "name, tip")])
def test_a_feature_that_is_personal_or_forbidden_is_refused_in_any_table(features: tuple[str, ...], named: str) -> None:
    with pytest.raises(InputError, match=f"^features {named} are personal or excluded"):
        made(Guest, Bill, features=features)


def test_the_projects_own_problem_brings_its_model_when_asked() -> None:
    model_spec = PROBLEM.model_spec()
    assert "seed" in model_spec.parameters.model_fields
    assert callable(model_spec.estimator)
    assert all(hook is None or callable(hook) for hook in (model_spec.export, model_spec.augment))


@pytest.fixture(scope="module")
def address(no_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A registry's folder for these tests, each of which has a model of its own in it."""
    return str(shutil.copytree(no_runs, tmp_path_factory.mktemp("tracking") / "mlruns"))


@pytest.fixture
def registry(address: str, request: pytest.FixtureRequest) -> Registry:
    return Registry(address, request.node.name)


def status(registry: Registry, run_id: str) -> str:
    with registry.reopen(run_id) as run:
        return str(run.client.get_run(run_id).info.status)


def registered(registry: Registry, content: bytes = b"model") -> Version:
    with registry.run("train", {}, {}) as run:
        run.log_artifact("model.onnx", content)
    return registry.register(run.id, "model.onnx")


def test_a_database_that_was_being_made_when_its_process_was_killed_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def half(client: MlflowClient, **_: int) -> None:
        Path(client.tracking_uri.partition(":///")[2]).write_bytes(b"half of it")
        raise Killed

    registry = Registry(str(tmp_path / "mlruns"), "m")
    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, "search_experiments", half)
        with pytest.raises(Killed):
            registry.versions()
    assert registry.versions() == []
    assert sorted(path.name for path in (tmp_path / "mlruns").iterdir()) == ["mlflow.db", "mlflow.lock"]


@pytest.mark.slow
def test_processes_at_the_same_time_make_one_database(tmp_path: Path) -> None:
    program = f"from {PACKAGE}.core.store.registry import Registry; Registry('mlruns', 'm').versions()"
    made = [subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path) for _ in range(3)]
    assert [process.wait() for process in made] == [0, 0, 0]
    assert Registry(str(tmp_path / "mlruns"), "m").runs() == []


def test_a_folder_that_was_moved_goes_on_and_leaves_nothing_where_it_was(
    tracked, tmp_path: Path, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    Registry(address, "another").versions()
    old = tmp_path / "old"
    shutil.copytree(address, old, ignore=shutil.ignore_patterns("artifacts"))
    first = registered(Registry(str(old), "m"))
    moved = Registry(str(old.rename(tmp_path / "new")), "m")
    with moved.reopen(first.run_id) as run:
        run.log({"auc": 0.7})
        run.log_artifact("later.txt", b"later")
    assert (
        f"later.txt is not logged with run {first.run_id[:8]}: its artifact folder in MLflow was moved" in caplog.text
    )
    second = registered(moved, b"second")
    assert (second.number, moved.version(2), moved.version(1)) == (2, second, first)
    assert tracked.read(moved, second.run_id, "model.onnx") == b"second"
    assert {run.id: run.metrics for run in moved.runs()} == {first.run_id: {"auc": 0.7}, second.run_id: {}}
    with pytest.raises(InputError, match=r"^MLflow at [^\n]+ failed: [^\n]+$"):
        tracked.read(moved, first.run_id, "model.onnx")
    assert not old.exists()


def test_a_registry_without_a_model_names_none(registry: Registry) -> None:
    assert registry.version_by_alias("champion") is None
    assert registry.version(1) is None


def test_a_run_keeps_parameters_tags_metrics_and_files(tracked, registry: Registry, address: str) -> None:
    with registry.run("train", {"depth": 3, "base_rate": 0.5}, {"commit": "abc"}) as run:
        run.log({"auc": 0.7})
        run.log({"linear.auc": 0.6, "linear.cost": 60.0})
        run.log_artifact("card.json", b"{}\xff")
        assert status(registry, run.id) == "RUNNING"
    assert status(registry, run.id) == "FINISHED"
    assert tracked.metrics(registry, run.id) == {"auc": 0.7, "linear.auc": 0.6, "linear.cost": 60.0}
    tags = tracked.tags(registry, run.id)
    assert (tags["commit"], tags["kind"]) == ("abc", "train")
    assert tracked.read(registry, run.id, "card.json") == b"{}\xff"
    with registry.reopen(run.id) as again:
        found = again.client.get_run(run.id)
        assert found.data.params == {"depth": "3", "base_rate": "0.5"}
        assert found.info.run_name == "train"
    assert list(Path(address, "artifacts").rglob("card.json")), "files lie beside the SQLite file"


def test_a_run_whose_work_fails_ends_as_failed_and_the_failure_goes_on(registry: Registry) -> None:
    with pytest.raises(Rejected, match="no"), registry.run("train", {}, {}) as run:
        raise Rejected("no")
    assert status(registry, run.id) == "FAILED"


def test_runs_of_a_model_share_an_experiment_of_its_name(registry: Registry) -> None:
    experiments = set()
    for kind in ("train", "explore"):
        with registry.run(kind, {}, {}) as run:
            info = run.client.get_run(run.id).info
            experiments.add(run.client.get_experiment(info.experiment_id).name)
    assert experiments == {registry.model}


def test_runs_beyond_the_first_thousand_are_found(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    search = MlflowClient.search_runs

    def watched(*given: Any, **named: Any) -> Any:
        asked.append(named["max_results"])
        return search(*given, **named)

    with registry.run("train", {}, {}):
        pass
    monkeypatch.setattr(MlflowClient, "search_runs", watched)
    assert len(registry.runs()) == 1
    assert asked == [50_000], "as many as MLflow gives at once"


def test_a_run_that_ended_can_be_added_to(tracked, registry: Registry) -> None:
    with registry.run("train", {}, {}) as run:
        pass
    with registry.reopen(run.id) as again:
        again.log_artifact("later.txt", b"later")
        again.log({"auc": 0.9})
    assert tracked.read(registry, run.id, "later.txt") == b"later"
    assert tracked.metrics(registry, run.id) == {"auc": 0.9}
    assert status(registry, run.id) == "FINISHED"


def test_versions_are_numbered_and_know_their_run(tracked, registry: Registry) -> None:
    first, second = registered(registry), registered(registry)
    assert (first.number, second.number) == (1, 2)
    assert first.run_id != second.run_id
    assert (registry.version(1), registry.version(2), registry.version(3)) == (first, second, None)
    assert tracked.read(registry, first.run_id, "model.onnx") == b"model"


def test_an_alias_names_the_version_that_it_was_moved_to_last(registry: Registry) -> None:
    first, second = registered(registry), registered(registry)
    assert registry.version_by_alias("champion") is None
    registry.set_alias("champion", 1)
    registry.set_alias("challenger", 2)
    assert (registry.version_by_alias("champion"), registry.version_by_alias("challenger")) == (first, second)
    registry.set_alias("champion", 2)
    assert registry.version_by_alias("champion") == second


def test_a_run_is_registered_once(registry: Registry) -> None:
    first = registered(registry)
    assert registry.register(first.run_id, "model.onnx") == first
    assert registry.versions() == [first]


def test_a_verdict_is_kept_with_its_version(tracked, registry: Registry) -> None:
    first, second = registered(registry), registered(registry)
    registry.tag(first, {"verdict": "rejected", "reasons": "auc"})
    assert (
        tracked.version_tags(registry, first).get("verdict"),
        tracked.version_tags(registry, second).get("verdict"),
    ) == (
        "rejected",
        None,
    )


@pytest.mark.parametrize(
    "ask",
    [
        lambda registry: registry.register("no such run", "model.onnx"),
        lambda registry: registry.set_alias("champion", 99),
    ],
    ids=["register", "move"],
)
def test_what_is_not_in_the_registry_is_named_in_one_line(address: str, ask) -> None:
    with pytest.raises(InputError, match=r"^MLflow at [^\n]+ failed: [^\n]+; see the setting ML_TRACKING$"):
        ask(Registry(address, "nothing"))


def test_a_file_that_was_not_kept_is_named_in_one_line(tracked, registry: Registry) -> None:
    with registry.run("train", {}, {}) as run:
        pass
    with pytest.raises(InputError, match=r"^MLflow at [^\n]+ failed: [^\n]*none\.txt[^\n]*$"):
        tracked.read(registry, run.id, "none.txt")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://user:pass@host:5432/runs", "postgresql://user:***@host:5432/runs"),
        ("http://user:p@ss:w0rd@host", "http://user:***@host"),
        ("user:pw@host/db", "user:***@host/db"),
        ("s3://bucket/a:b, http://host:5000", "s3://bucket/a:b, http://host:5000"),
        ("C:\\me@work\\mlruns", "C:\\me@work\\mlruns"),
    ],
)
def test_passwords_in_addresses_are_not_shown(text: str, shown: str) -> None:
    assert redact_passwords(text) == shown


def test_a_port_that_is_no_number_is_named_in_one_line() -> None:
    line = r"^ML_TRACKING http://user:\*\*\*@host:abc is not a valid address: Port could not be cast [^\n]+'abc'$"
    with pytest.raises(InputError, match=line):
        Registry("http://user:pass@host:abc", "nothing").versions()


def test_a_server_that_does_not_answer_is_named_in_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"^MLflow at http://127\.0\.0\.1:{port} failed: [^\n]+$"):
            Registry(f"http://127.0.0.1:{port}", "model").version_by_alias("champion")


def test_a_folder_that_cannot_be_made_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "mlruns").write_text("a file")
    with pytest.raises(InputError, match=r"^MLflow[^\n]+mlruns[^\n]+$"):
        Registry(str(tmp_path / "mlruns"), "model").version_by_alias("champion")


def test_the_address_decides_whatever_mlflow_would_take_from_the_environment(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "http://127.0.0.1:1")
    version = registered(registry)
    registry.set_alias("champion", version.number)
    assert registry.version_by_alias("champion") == version


PARAMETERS = "# how fast\nlearning_rate = 0.1\n"
MODEL_SOURCE = '''"""A model."""

LIMIT = 0.5  # of a probability


def decide(probability: float) -> bool:
    """Whether to alert."""
    return probability >= LIMIT
'''


@pytest.fixture
def package(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of a few files in place of the project's, with parameters."""
    package = root / "src" / PACKAGE
    for name in (
        "cli.py",
        "core/store/lake.py",
        "shared/model.py",
        "shared/collect.py",
        "shared/extensions.py",
        "production/train.py",
        "production/monitor.py",
        "research/experiments/idea.py",
        "research/reports/model.py",
    ):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(MODEL_SOURCE, encoding="utf-8")
    (root / "config" / "params.toml").write_text(PARAMETERS, encoding="utf-8")
    monkeypatch.setattr(provenance_module, "SOURCE", package)
    return package


@pytest.mark.parametrize("name", ["shared/model.py", "core/store/lake.py", "production/train.py"])
def test_the_hash_of_the_code_changes_with_what_makes_a_model(root: Path, package: Path, name: str) -> None:
    before = code_hash(root)
    (package / name).write_text(MODEL_SOURCE.replace("0.5", "0.6"), encoding="utf-8")
    assert code_hash(root) != before
    (package / name).unlink()
    assert code_hash(root) != before
    (package / name).write_text(MODEL_SOURCE, encoding="utf-8", newline="\r\n")
    assert code_hash(root) == before, "the ends of lines are Git's"


@pytest.mark.parametrize(
    "name",
    [
        "cli.py",
        "shared/collect.py",
        "shared/extensions.py",
        "production/monitor.py",
        "research/experiments/idea.py",
        "research/reports/model.py",
    ],
)
def test_the_hash_of_the_code_stays_with_what_makes_none(root: Path, package: Path, name: str) -> None:
    before = code_hash(root)
    (package / name).write_text("x = 1\n", encoding="utf-8")
    (package / "research" / "experiments" / "new.py").touch()
    assert code_hash(root) == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""A model."""', '"""Another docstring,\n\nof two paragraphs."""'),
        ('    """Whether to alert."""\n', ""),
        ("  # of a probability", "  # ä # and another"),
        ("    return", "    # why\n\n    return"),
        ("\n\n\ndef", "\n\ndef"),
    ],
    ids=["docstring", "no docstring", "comment", "comment in a line of its own", "blank lines"],
)
def test_comments_docstrings_and_blank_lines_change_nothing(root: Path, package: Path, old: str, new: str) -> None:
    before = code_hash(root)
    assert old in MODEL_SOURCE
    (package / "shared" / "model.py").write_text(MODEL_SOURCE.replace(old, new), encoding="utf-8")
    assert code_hash(root) == before


def test_parameters_count_and_their_comments_do_not(root: Path, package: Path) -> None:
    assert package.is_dir()
    before = code_hash(root)
    (root / "config" / "params.toml").write_text("learning_rate = 0.1", encoding="utf-8")
    assert code_hash(root) == before
    (root / "config" / "params.toml").write_text("learning_rate = 0.2", encoding="utf-8")
    assert code_hash(root) != before


@pytest.fixture
def repository(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit and a lock."""
    if shutil.which("git") is None:
        pytest.skip("there is no Git")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    (root / "uv.lock").write_bytes(b"locked\n")
    me = ["-c", "user.name=me", "-c", "user.email=me@example.org"]
    for command in (["init", "--quiet"], ["add", "."], [*me, "commit", "--quiet", "--message=first"]):
        subprocess.run(["git", *command], cwd=root, check=True)
    return root


def test_a_run_is_made_of_a_commit_a_lock_and_code(repository: Path) -> None:
    made_of = provenance(repository, tables={"flights": 3}, as_of=NOON)
    head = (repository / ".git" / "HEAD").read_text().split()[1]
    assert made_of == {
        "commit": (repository / ".git" / head).read_text().strip(),
        "dirty": "false",
        "code": code_hash(repository),
        "lock": hashlib.sha256(b"locked\n").hexdigest(),
        "as_of": NOON.isoformat(),
        "tables": '{"flights": 3}',
        "command": "[]",
    }


def test_a_run_of_a_script_of_the_project_has_its_command(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = repository / "research" / "idea.py"
    script.parent.mkdir()
    script.touch()
    monkeypatch.setattr(sys, "argv", [str(script), "--fast"])
    assert provenance(repository, tables={}, as_of=NOON)["command"] == '["research/idea.py", "--fast"]'
    assert provenance(repository, tables={}, as_of=NOON, command=["-m", "x"])["command"] == '["-m", "x"]'


def test_a_tree_that_differs_from_its_commit_is_dirty(repository: Path) -> None:
    (repository / "notes.txt").touch()
    assert provenance(repository, tables={"flights": 3}, as_of=NOON)["dirty"] == "false", "no model is made of notes"
    (repository / "pyproject.toml").touch()
    assert provenance(repository, tables={"flights": 3}, as_of=NOON)["dirty"] == "true"
    assert changed_files(repository) == ["pyproject.toml"]


@pytest.mark.parametrize("name", ["shared/collect.py", "research/experiments/idea.py", "research/reports/model.py"])
def test_what_makes_no_model_need_not_be_committed_for_one(package: Path, repository: Path, name: str) -> None:
    def dirty(files: Sequence[str] = ALL_FILES) -> str:
        return provenance(repository, tables={"flights": 3}, as_of=NOON, files=files)["dirty"]

    (package / name).write_text("x = 1\n", encoding="utf-8")
    assert changed_files(repository) == []
    assert dirty(MODEL_FILES) == "false"
    assert dirty() == "true", "an experiment can't be made again from its commit"
    (package / "shared" / "model.py").write_text("x = 1\n", encoding="utf-8")
    assert changed_files(repository) == [f"src/{PACKAGE}/shared/model.py"]
    assert dirty(MODEL_FILES) == "true"


@pytest.mark.parametrize("way", ["no untracked files", "excluded", "ignored by the user", "ignored by the project"])
def test_a_module_that_git_is_told_to_hide_is_not_committed(
    package: Path, repository: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    (package / "shared" / "extra.py").write_text("x = 1\n", encoding="utf-8")
    lines = {"no untracked files": "[status]\nshowUntrackedFiles = no\n", "ignored by the user": "[core]\n"}
    if way in lines:
        (repository.parent / "ignored").write_text("extra.py\n", encoding="utf-8")
        settings = repository.parent / "settings"
        ignored = f"excludesFile = {(repository.parent / 'ignored').as_posix()}\n"
        settings.write_text(lines[way] + ignored * (way == "ignored by the user"), encoding="utf-8")
        monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    elif way == "excluded":
        (repository / ".git" / "info" / "exclude").write_text("extra.py\n", encoding="utf-8")
    else:
        (package / "shared" / ".gitignore").write_text("extra.py\n", encoding="utf-8")
    assert changed_files(repository) == [f"src/{PACKAGE}/shared/extra.py"]
    assert provenance(repository, tables={}, as_of=NOON)["dirty"] == "true"


@pytest.mark.parametrize("mark", ["--assume-unchanged", "--skip-worktree"])
def test_a_changed_file_that_is_marked_as_unchanged_is_changed(package: Path, repository: Path, mark: str) -> None:
    name = f"src/{PACKAGE}/shared/model.py"
    subprocess.run(["git", "update-index", mark, name], cwd=repository, check=True)
    assert changed_files(repository) == []
    (package / "shared" / "model.py").write_text("x = 1\n", encoding="utf-8")
    assert changed_files(repository) == [name]
    marked = subprocess.run(["git", "ls-files", "-v", name], cwd=repository, capture_output=True, text=True, check=True)
    assert marked.stdout[0] in "hS", "the user's own index stays as it was"


def test_code_behind_a_link_is_not_committed(package: Path, repository: Path, tmp_path: Path) -> None:
    (tmp_path / "project").symlink_to(repository, target_is_directory=True)
    (package / "shared" / "again.py").symlink_to("model.py")
    subprocess.run(["git", "add", "--all"], cwd=repository, check=True)
    commit = ["git", "-c", "user.name=me", "-c", "user.email=me@example.org", "commit", "--quiet", "--message=link"]
    subprocess.run(commit, cwd=repository, check=True)
    assert changed_files(tmp_path / "project") == []
    (repository.parent / "lent.py").write_text("x = 1\n", encoding="utf-8")
    (package / "shared" / "lent.py").symlink_to(repository.parent / "lent.py")
    subprocess.run(["git", "add", "--all"], cwd=repository, check=True)
    subprocess.run(commit, cwd=repository, check=True)
    assert changed_files(tmp_path / "project") == [f"src/{PACKAGE}/shared/lent.py"]
    (package / "shared" / "lent.py").unlink()
    assert changed_files(tmp_path / "project") == [f"src/{PACKAGE}/shared/lent.py"]


def test_where_git_refuses_nothing_is_clean(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    (reason,) = changed_files(repository)
    assert reason.startswith("src and config (Git says: fatal: detected dubious ownership")
    monkeypatch.delenv("GIT_TEST_ASSUME_DIFFERENT_OWNER")
    (repository / ".git" / "config").write_text("[core", encoding="utf-8")
    (reason,) = changed_files(repository)
    assert reason.startswith("src and config (Git says: fatal: bad config line")
    monkeypatch.setenv("PATH", "nowhere")
    assert changed_files(repository) == ["src and config (Git says: git can't be started: No such file or directory)"]


def test_the_repository_of_a_git_hook_is_not_the_projects(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = provenance(repository, tables={}, as_of=NOON)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    assert provenance(repository, tables={}, as_of=NOON) == before
    assert before["dirty"] == "false"


@pytest.mark.parametrize("path", [None, "nowhere"], ids=["no repository", "no Git"])
def test_without_git_there_is_no_commit(root: Path, monkeypatch: pytest.MonkeyPatch, path: str | None) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(root.parent))
    if path:
        monkeypatch.setenv("PATH", str(root / path))
    made_of = provenance(root, tables={}, as_of=NOON)
    assert (made_of["commit"], made_of["dirty"], made_of["lock"]) == ("", "false", "")


# Tidy tables


def test_many_small_files_become_few_and_old_versions_can_still_be_read(lake: Lake) -> None:
    for n in range(15):
        lake.append("orders", pl.DataFrame({"id": [n]}), batch=str(n))
    left = Path(lake.url, "orders", "left.parquet")  # by a killed append, and no commit tells of it
    pl.DataFrame({"id": [99]}).write_parquet(left)
    os.utime(left, (0, 0))
    lake.maintain()
    table = deltalake.DeltaTable(f"{lake.url}/orders")
    assert len(table.file_uris()) == 1
    assert not left.exists()
    assert table.metadata().configuration == {"delta.logRetentionDuration": "interval 365 days"}, "as the files"
    assert sorted(lake.read("orders", {}).collect()["id"]) == list(range(15))
    assert sorted(lake.read("orders", {}, version=2).collect()["id"]) == [0, 1, 2]
    assert lake.has("orders", "3"), "batches are still known"
    version = lake.version("orders")
    lake.maintain()
    assert lake.version("orders") == version, "nothing is left to do"


def test_a_few_files_stay_as_they_are(lake: Lake) -> None:
    for n in range(14):
        lake.append("orders", pl.DataFrame({"id": [n]}), batch=str(n))
    lake.maintain()
    assert lake.version("orders") == 13


def test_commits_are_kept_as_long_as_is_said_and_of_busy_tables_for_a_week(lake: Lake) -> None:
    deltalake.write_deltalake(f"{lake.url}/old", numbers(1))  # of a lake from before
    lake.append("numbers", numbers(1), batch="first")
    brief = dataclasses.replace(lake, history=timedelta(days=40))
    for table in ("old", "numbers"):
        brief.version(table)
    brief.maintain(others=["old"])
    kept = {t: deltalake.DeltaTable(f"{lake.url}/{t}").metadata().configuration for t in ("old", "numbers")}
    assert [days["delta.logRetentionDuration"] for days in kept.values()] == ["interval 7 days", "interval 40 days"]


def test_files_become_few_however_many_batches_come_at_once(lake: Lake) -> None:
    for n in range(60):
        lake.append("orders", pl.DataFrame({"id": [n]}), batch=str(n))
        if n % 5 == 0:
            lake.maintain()
    assert len(deltalake.DeltaTable(f"{lake.url}/orders").file_uris()) < 20
