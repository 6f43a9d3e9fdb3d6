"""Several machines on one lake: whatever comes between two commits, nothing is lost and nothing is doubled."""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, ClassVar
from unittest import mock

import deltalake
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from my_ml_project.core.contracts.schema import AvailableAt, EventTime, Key, Table, Target, Task
from my_ml_project.core.problem import ModelSpec, Problem
from my_ml_project.core.settings import Settings
from my_ml_project.core.store import decisions
from my_ml_project.core.store.releases import GoldenRequests, Release
from my_ml_project.core.workspace import Workspace
from my_ml_project.production.erasure.erase import erase
from my_ml_project.production.ingest import IngestReport, ingest_inbox

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
ERASED_AT = 45


class Order(Table):
    """An order."""

    table: ClassVar = "orders"

    id: Annotated[int, Key()]
    placed: Annotated[datetime, EventTime()]
    price: float


class Delivery(Table):
    """Whether it came in time."""

    table: ClassVar = "deliveries"

    id: Annotated[int, Key()]
    delivered: Annotated[datetime, AvailableAt()]
    late: Annotated[bool, Target()]


class Parameters(BaseModel):
    seed: int = 0


SHOP = Problem(
    entity=Order,
    tables=(Order, Delivery),
    features=("price",),
    lookback=timedelta(0),
    build=lambda rows, _: rows,
    collect=lambda *_: [],
    model_spec=lambda: ModelSpec(Parameters, lambda *_: None),
)


def machine(root: Path, name: str) -> Workspace:
    """A machine with an inbox of its own on the lake of all."""
    folders = ("inbox", "archive", "quarantine", "reports", "tracking")
    places: dict[str, Any] = {folder: str(root / name / folder) for folder in folders}
    (root / name).mkdir(parents=True, exist_ok=True)
    return Workspace(root / name, Settings(lake=str(root / "lake"), **places), SHOP)


def put(workspace: Workspace, table: str, name: str, rows: pl.DataFrame) -> None:
    path = workspace.path(workspace.settings.inbox) / table / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows.write_parquet(path)


def orders(first: int, last: int, *, price: float = 1.0) -> pl.DataFrame:
    ids = list(range(first, last + 1))
    placed = [NOON + timedelta(minutes=n) for n in ids]
    return pl.DataFrame({"id": ids, "placed": placed, "price": [price] * len(ids)})


def deliveries(first: int, last: int) -> pl.DataFrame:
    ids = list(range(first, last + 1))
    delivered = [NOON + timedelta(days=1, minutes=n) for n in ids]
    return pl.DataFrame({"id": ids, "delivered": delivered, "late": [n % 2 == 0 for n in ids]})


def ingest_orders(first: int, last: int, price: float = 1.0) -> Callable[[Workspace], object]:
    def work(workspace: Workspace) -> IngestReport:
        put(workspace, "orders", f"orders-{first}-{price}", orders(first, last, price=price))
        return ingest_inbox(workspace, now=NOON + timedelta(days=3))

    return work


def ingest_deliveries(first: int, last: int) -> Callable[[Workspace], object]:
    def work(workspace: Workspace) -> IngestReport:
        put(workspace, "deliveries", f"deliveries-{first}", deliveries(first, last))
        return ingest_inbox(workspace, now=NOON + timedelta(days=3))

    return work


def decide(workspace: Workspace) -> None:
    row = dict.fromkeys(decisions.COLUMNS) | {"at": NOON, "batches": len(decisions.read(workspace.lake))}
    decisions.append(workspace.lake, row | {"decision": workspace.root.name})


OPERATIONS: dict[str, Callable[[Workspace], object]] = {
    "a batch": ingest_orders(1, 60),
    "the same batch": ingest_orders(1, 60),
    "a batch that overlaps": ingest_orders(41, 100),
    "a batch that overlaps and differs": ingest_orders(50, 100, 2.0),
    "labels": ingest_deliveries(1, 60),
    "labels that overlap": ingest_deliveries(30, 90),
    "an erasure": lambda workspace: erase(workspace, (str(ERASED_AT),)),
    "a decision": decide,
    "tidying": lambda workspace: workspace.lake.maintain(),
}


class Interruptions:
    """Work that is done just before commits: by the number of the commit, counted over all machines."""

    def __init__(self, before: dict[int, Callable[[], object]]) -> None:
        self.before, self.commits = before, 0

    def reach(self) -> None:
        self.commits += 1
        if work := self.before.pop(self.commits - 1, None):
            work()

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Meet every way in which the product commits to a table."""
        write, properties = deltalake.write_deltalake, deltalake.table.TableAlterer.set_table_properties
        merge, compact = deltalake.table.TableMerger.execute, deltalake.table.TableOptimizer.compact

        def meet(commit: Callable[..., Any]) -> Callable[..., Any]:
            def met(*args: Any, **options: Any) -> Any:
                self.reach()
                return commit(*args, **options)

            return met

        with (
            mock.patch.object(deltalake, "write_deltalake", meet(write)),
            mock.patch.object(deltalake.table.TableAlterer, "set_table_properties", meet(properties)),
            mock.patch.object(deltalake.table.TableMerger, "execute", meet(merge)),
            mock.patch.object(deltalake.table.TableOptimizer, "compact", meet(compact)),
        ):
            yield


IDS = {
    "a batch": range(1, 61),
    "the same batch": range(1, 61),
    "a batch that overlaps": range(41, 101),
    "a batch that overlaps and differs": range(50, 101),
    "labels": range(1, 61),
    "labels that overlap": range(30, 91),
}


def rejected(result: object) -> bool:
    """Whether a batch was rejected as a whole: its rows then lie in quarantine."""
    return isinstance(result, IngestReport) and not result.ok


def check(root: Path, done: list[tuple[str, object]]) -> None:
    """Nothing is lost, nothing is doubled, and what was erased is gone."""
    workspace = machine(root, "reader")
    names = [name for name, result in done if not rejected(result)]
    gone = {ERASED_AT} if "an erasure" in names else set()
    for table, kind in (("orders", "batch"), ("deliveries", "labels")):
        rows = workspace.lake.read(table, {"id": pl.Int64()}).select("id").collect()
        expected = {number for name in names if kind in name for number in IDS[name]} - gone
        assert sorted(rows["id"]) == sorted(expected), table
    made = decisions.read(workspace.lake)["decision"].to_list()
    assert len(made) == len(set(made)) == names.count("a decision")
    assert len(names) == len(done) or "a batch that overlaps and differs" in dict(done), "a batch was rejected"


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(st.sampled_from(sorted(OPERATIONS)), min_size=2, max_size=3),
    commits=st.tuples(st.integers(0, 6), st.integers(0, 9)),
    there=st.booleans(),
)
def test_writers_that_come_between_each_others_commits_lose_and_double_nothing(
    names: list[str], commits: tuple[int, int], *, there: bool
) -> None:
    with TemporaryDirectory() as folder:
        root, done = Path(folder), list[tuple[str, object]]()

        def work(name: str, number: int) -> None:
            done.append((name, OPERATIONS[name](machine(root, f"machine-{number}"))))

        if there:
            work("a batch", 0)
        others = enumerate(names[1:], start=2)
        later: dict[int, Callable[[], object]] = {
            commit: partial(work, name, n) for commit, (n, name) in zip(commits, others, strict=False)
        }
        with Interruptions(later)():
            work(names[0], 1)
            while later:  # no commit came before which it was due
                later.pop(min(later))()
        check(root, done)


def test_the_first_batch_of_a_table_is_appended_once_by_two_machines_that_start_at_once(tmp_path: Path) -> None:
    one, two = machine(tmp_path, "one"), machine(tmp_path, "two")
    first = ingest_orders(1, 60)
    with Interruptions({0: lambda: first(two)})():
        first(one)
    check(tmp_path, [("a batch", None)])


def test_a_batch_is_validated_again_where_another_was_appended_meanwhile(tmp_path: Path) -> None:
    one, two = machine(tmp_path, "one"), machine(tmp_path, "two")
    ingest_orders(1, 10)(one)
    with Interruptions({0: lambda: ingest_orders(50, 100, 2.0)(two)})():
        report = ingest_orders(41, 100)(one)
    assert rejected(report)
    assert sorted(one.lake.scan(SHOP.schema).collect()["id"]) == [*range(1, 11), *range(50, 101)]


def release(number: int, version: int) -> Release:
    return Release(
        number=number,
        version=version,
        run_id=f"run-{version}",
        released=NOON,
        reason="promoted",
        trained_until=NOON,
        task=Task.BINARY,
        features={"price": False},
        classes=(),
        threshold=0.5,
        reference={"price": 1.0},
        metrics={},
        parameters={},
        tables={},
        golden=GoldenRequests(requests=[], features=[], predictions=[]),
        onnx=b"model",
    )


@pytest.mark.parametrize("before", [0, 1])
def test_of_two_promotions_at_once_one_wins_whatever_else_is_committed(tmp_path: Path, before: int) -> None:
    one, two = machine(tmp_path, "one"), machine(tmp_path, "two")
    for number in range(1, before + 1):
        assert one.releases.append(release(number, number))
    won: list[bool] = []

    def other() -> None:
        if before:  # a commit of another kind comes between
            table = deltalake.DeltaTable(two.lake.address("releases"))
            table.alter.set_table_properties({"delta.logRetentionDuration": "interval 30 days"})
        won.append(two.releases.append(release(before + 1, 8)))

    with Interruptions({0: other})():
        won.append(one.releases.append(release(before + 1, 9)))
    assert sorted(won) == [False, True]
    assert [found.number for found in one.releases.newest(9)] == list(range(before + 1, 0, -1))


@pytest.mark.slow
def test_processes_that_write_at_the_same_time_lose_and_double_nothing(tmp_path: Path) -> None:
    names = ["a batch", "the same batch", "a batch that overlaps", "labels", "labels that overlap", "a decision"]
    for turn in range(5):
        root = tmp_path / str(turn)
        line = [sys.executable, __file__, str(root)]
        running = [subprocess.Popen([*line, str(n), name]) for n, name in enumerate(names)]
        assert [process.wait() for process in running] == [0] * len(names)
        check(root, [(name, None) for name in names])


if __name__ == "__main__":
    OPERATIONS[sys.argv[3]](machine(Path(sys.argv[1]), f"machine-{sys.argv[2]}"))
