"""Versioned tables: each batch once, whoever sends it, and what was there as of a version or a time; and releases."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, ClassVar

import deltalake
import numpy as np
import polars as pl
import pytest
from deltalake.exceptions import CommitFailedError

from {{cookiecutter.__package_name}}.shared import BadInput
from {{cookiecutter.__package_name}}.shared.lake import Lake
from {{cookiecutter.__package_name}}.shared.release import Golden, Release, Releases
from {{cookiecutter.__package_name}}.shared.schema import Key, Table, Task, schema_of

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
NUMBERS: dict[str, pl.DataType] = {"n": pl.Int64()}


class Order(Table):
    """An order."""

    table: ClassVar = "orders"

    id: Annotated[int, Key()]


def numbers(*values: int) -> pl.DataFrame:
    return pl.DataFrame({"n": values})


def stored(lake: Lake, version: int | datetime | None = None) -> list[int]:
    return sorted(lake.read("numbers", NUMBERS, version=version).collect()["n"].to_list())


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


def test_a_table_is_read_as_of_the_time_of_a_commit(lake: Lake) -> None:
    for n in range(2):
        lake.append("numbers", numbers(n), batch=str(n))
    log = deltalake.DeltaTable(f"{lake.url}/numbers").history()
    second, first = (datetime.fromtimestamp(commit["timestamp"] / 1000, UTC) for commit in log)
    assert first < second
    assert [stored(lake, time) for time in (first, second)] == [[0], [0, 1]]
    assert stored(lake, first - timedelta(seconds=1)) == [], "before the first commit there were no rows"


def test_what_another_process_appends_is_seen(lake: Lake) -> None:
    other = Lake(lake.url)
    lake.append("numbers", numbers(1), batch="first")
    assert stored(other) == [1]
    lake.append("numbers", numbers(2), batch="second")
    assert stored(other) == [1, 2]
    assert other.version("numbers") == 1
    assert other.append("numbers", numbers(2), batch="second") is False


@pytest.mark.parametrize("folder", ["my project", "Übung", "50%", "a#b"])
def test_a_lake_may_lie_in_any_folder(tmp_path: Path, folder: str) -> None:
    lake = Lake(str(tmp_path / folder / "lake"))
    lake.append("numbers", numbers(1), batch="first")
    assert (stored(lake), stored(Lake(lake.url), 0)) == ([1], [1])


def test_a_table_that_does_not_exist_has_its_columns_and_no_rows(lake: Lake) -> None:
    empty = lake.scan(schema_of(Order)).collect()
    assert dict(empty.schema) == {"id": pl.Int64, "_arrived": pl.Datetime("us", "UTC"), "_batch": pl.String}
    assert empty.is_empty()
    assert lake.scan(schema_of(Order), version=3).collect().is_empty()
    assert not Path(lake.url).exists(), "looking makes no table"


def test_a_contracts_table_is_read_with_arrival_and_batch(lake: Lake) -> None:
    rows = pl.DataFrame({"id": [1], "_arrived": [NOON], "_batch": ["first"]})
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
        with pytest.raises(BadInput, match=r"table numbers in .* takes no commit: .*; try again$"):
            lake.append("numbers", numbers(1), batch="first")
    assert stored(lake) == ([1] if appended else [])


def test_rows_with_other_columns_are_refused_and_the_table_stays_as_it_is(lake: Lake) -> None:
    lake.append("numbers", numbers(1), batch="first")
    with pytest.raises(BadInput, match=r"^table numbers in the lake .* can't be used: [^\n]+$"):
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
    with pytest.raises(BadInput, match=r"^table numbers in the lake .* can't be used: [^\n]+$"):
        use(Lake(lake.url))


def test_a_version_that_is_not_there_is_named_in_one_line(lake: Lake) -> None:
    lake.append("numbers", numbers(1), batch="first")
    with pytest.raises(BadInput, match=r"^table numbers in the lake .* can't be used: [^\n]+$"):
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
        "golden": Golden(requests=[{"id": 1}], features=[{"x": 1.0}], answers=[0.5]),
        "onnx": b"\x00model\xff",
    }
    return Release.model_validate(card | change)


def test_without_releases_there_is_no_champion(lake: Lake) -> None:
    releases = Releases(lake)
    assert (releases.champion(), releases.newest(3), releases.versions()) == (None, [], set())


def test_the_newest_release_serves_and_comes_back_byte_for_byte(lake: Lake) -> None:
    releases = Releases(lake)
    made = [release(1, 3), release(2, 4), release(3, 3, reason="rolled back", threshold=None)]
    assert [releases.append(each) for each in (made[0], made[2], made[1])] == [True, True, True]
    assert releases.champion() == made[2]
    assert releases.newest(2) == [made[2], made[1]]
    assert releases.newest(9) == made[::-1]
    assert releases.versions() == {3, 4}


def test_a_release_number_that_is_taken_changes_nothing(lake: Lake) -> None:
    releases = Releases(lake)
    assert releases.append(release(1, 3)) is True
    assert releases.append(release(1, 4)) is False
    assert [each.version for each in releases.newest(2)] == [3]


def test_a_release_stands_in_the_lake_with_number_version_time_model_and_card(lake: Lake) -> None:
    Releases(lake).append(release(5, 9))
    (row,) = lake.read("releases", {}).collect().to_dicts()
    assert (row["number"], row["version"], row["released"], row["onnx"]) == (5, 9, NOON, b"\x00model\xff")
    assert set(row) == {"number", "version", "released", "onnx", "card"}
    assert "model" not in row["card"]
    assert "onnx" not in repr(release(5))


def test_a_binary_answer_is_a_probability_and_a_decision_from_the_threshold_on() -> None:
    answers = release(1).answers(np.array([0.19, 0.2, 0.21]))
    assert answers.to_dict(as_series=False) == {"probability": [0.19, 0.2, 0.21], "decision": [False, True, True]}
    assert release(1, threshold=None).answers(np.array([0.49, 0.5]))["decision"].to_list() == [False, True]


def test_a_multiclass_answer_is_the_likeliest_class_and_a_probability_a_class() -> None:
    several = release(1, task=Task.MULTICLASS, classes=("cat", "dog"))
    answers = several.answers(np.array([[0.7, 0.3], [0.1, 0.9]]))
    assert answers.to_dict(as_series=False) == {
        "prediction": ["cat", "dog"],
        "probability_cat": [0.7, 0.1],
        "probability_dog": [0.3, 0.9],
    }


def test_an_answer_of_a_regression_is_the_value() -> None:
    answers = release(1, task=Task.REGRESSION).answers(np.array([1.5, -2.0]))
    assert answers.to_dict(as_series=False) == {"prediction": [1.5, -2.0]}
