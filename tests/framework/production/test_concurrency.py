"""Several machines on one lake: whatever comes between two commits, nothing is lost and nothing is doubled."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Annotated, Any, ClassVar
from unittest import mock
from urllib.request import Request, urlopen
from uuid import uuid4

import deltalake
import onnx
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from my_ml_project.core.contracts.schema import AvailableAt, EventTime, Key, Table, Target, Task
from my_ml_project.core.errors import InputError, Rejected
from my_ml_project.core.problem import ModelSpec, Problem
from my_ml_project.core.settings import Settings
from my_ml_project.core.store import decisions
from my_ml_project.core.store.candidates import Candidate
from my_ml_project.core.store.lake import Lake
from my_ml_project.core.store.registry import Run
from my_ml_project.core.store.releases import GoldenRequests, Release
from my_ml_project.core.workspace import Workspace
from my_ml_project.production.erasure.erase import erase
from my_ml_project.production.ingest import IngestReport, ingest_inbox
from my_ml_project.production.predict import predict_upcoming
from my_ml_project.production.promote import publish, rollback
from my_ml_project.production.service.request_log_writer import LoggedBatch, RequestLogWriter
from my_ml_project.production.service.serving_model import PredictionBatch
from my_ml_project.research.labels import import_annotations

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


class Tracking:
    """What promotions need of MLflow, in memory: runs that take any file, and an alias."""

    def __init__(self) -> None:
        self.champion = 1

    @contextlib.contextmanager
    def reopen(self, run_id: str) -> Iterator[Run]:
        yield Run(run_id, mock.Mock())

    def set_alias(self, _: str, version: int) -> None:
        self.champion = version


def machine(root: Path, name: str, lake: str = "", tracking: Tracking | None = None) -> Workspace:
    """A machine with an inbox of its own on the lake of all."""
    folders = ("inbox", "archive", "quarantine", "reports", "tracking")
    places: dict[str, Any] = {folder: str(root / name / folder) for folder in folders}
    (root / name).mkdir(parents=True, exist_ok=True)
    workspace = Workspace(root / name, Settings(lake=lake or str(root / "lake"), **places), SHOP)
    vars(workspace)["registry"] = tracking or Tracking()
    return workspace


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


def model() -> bytes:
    """An ONNX model: the higher the price, the more likely late."""
    price, late = (onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [None, 1]) for n in ("price", "late"))
    graph = onnx.helper.make_graph([onnx.helper.make_node("Sigmoid", ["price"], ["late"])], "model", [price], [late])
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    return bytes(made.SerializeToString())


def candidate(version: int, holdout: pl.DataFrame) -> Candidate:
    return Candidate(
        run_id=f"run-{version}",
        trained=NOON,
        as_of=NOON,
        tables={},
        commit="",
        dirty=False,
        code="",
        lock="",
        parameters={},
        features={"price": False},
        classes=(),
        training_window_days=0,
        metrics={},
        onnx=model(),
        holdout=holdout,
    )


def release(number: int, version: int, rows: pl.DataFrame) -> Release:
    """A release with rows as golden requests."""
    made = Release(
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
        onnx=model(),
    )
    requests, features = rows.select("id", "price").to_dicts(), rows.select("price").to_dicts()
    golden = GoldenRequests(requests=requests, features=features, predictions=list(made.predictor.predict(rows)))
    return made.model_copy(update={"golden": golden})


def promote(workspace: Workspace, version: int | None = None) -> bool:
    """Release a challenger that was trained on the orders of the lake; whether no other release came between."""
    champion, rows = workspace.releases.champion(), workspace.lake.scan(SHOP.schema).select(SHOP.schema.names).collect()
    version = version or uuid4().int % 10**9
    trained = candidate(version, rows)
    workspace.candidates.append(trained)
    try:
        publish(workspace, release(champion.number + 1 if champion else 1, version, rows), trained)
    except Rejected:
        return False
    return True


def roll_back(workspace: Workspace) -> bool:
    try:
        rollback(workspace, now=NOON)
    except Rejected:
        return False
    return True


def erase_one(workspace: Workspace) -> bool:
    """Erase an order; whether a table had it."""
    try:
        erase(workspace, (str(ERASED_AT),))
    except InputError:  # no table has the key yet
        return False
    return True


def log_requests(workspace: Workspace) -> None:
    """Log requests about some orders, as the service does."""
    rows, champion = orders(40, 50), workspace.releases.champion()
    served: Any = SimpleNamespace(release=champion, versions={})
    ids = [(workspace.root.name, n, True) for n in range(len(rows))]
    writer = RequestLogWriter(workspace, max_rows=100)
    writer.add(LoggedBatch(ids, rows, PredictionBatch(rows, rows.select("price")), served, NOON))
    assert writer.flush() == len(rows)


def annotate(workspace: Workspace) -> None:
    """Store annotations of some orders, as `labels import` does."""
    given = {"late": True, "_annotator": workspace.root.name, "_created": NOON, "_agreement": 1.0, "_annotators": 1}
    rows = orders(40, 50).select("id", *(pl.lit(value).alias(name) for name, value in given.items()))
    import_annotations._store(workspace, rows)


OPERATIONS: dict[str, Callable[[Workspace], object]] = {
    "a batch": ingest_orders(1, 60),
    "the same batch": ingest_orders(1, 60),
    "a batch that overlaps": ingest_orders(41, 100),
    "a batch that overlaps and differs": ingest_orders(50, 100, 2.0),
    "labels": ingest_deliveries(1, 60),
    "labels that overlap": ingest_deliveries(30, 90),
    "an erasure": erase_one,
    "a decision": decide,
    "predictions": lambda workspace: predict_upcoming(workspace, now=NOON),
    "requests": log_requests,
    "annotations": annotate,
    "a promotion": promote,
    "a rollback": roll_back,
    "tidying": lambda workspace: workspace.lake.maintain(),
}


class Interruptions:
    """Work that is done just before commits and aliases: by their number, counted over all machines."""

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
            mock.patch.object(Tracking, "set_alias", meet(Tracking.set_alias)),
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


def check(workspace: Workspace, done: list[tuple[str, object]]) -> None:
    """Nothing is lost, nothing is doubled, and what was erased is gone."""
    check_releases(workspace, done)
    done = [(name, result) for name, result in done if result is not False]
    lake, names = workspace.lake, [name for name, result in done if not rejected(result)]
    gone = {ERASED_AT} if "an erasure" in names else set()

    def ids(table: str) -> list[int]:
        return sorted(lake.read(table, {"id": pl.Int64()}).select("id").collect()["id"])

    for table, kind in (("orders", "batch"), ("deliveries", "labels")):
        expected = {number for name in names if kind in name for number in IDS[name]} - gone
        assert ids(table) == sorted(expected), table
    for table in ("requests", "annotations"):
        assert ids(table) == sorted([*({*range(40, 51)} - gone)] * names.count(table)), table
    made = decisions.read(lake)["decision"].to_list()
    assert len(made) == len(set(made)) == names.count("a decision")
    assert len(names) == len(done) or "a batch that overlaps and differs" in dict(done), "a batch was rejected"
    check_predictions(workspace, gone)
    examples = [row["id"] for one in workspace.releases.newest(9) for row in one.golden.requests]
    holdouts = [one.holdout["id"].to_list() for one in workspace.candidates.all()]
    assert not gone & {*examples, *(number for holdout in holdouts for number in holdout)}


def check_releases(workspace: Workspace, done: list[tuple[str, object]]) -> None:
    """Whoever was told that it released has its row, and the alias is of the newest."""
    releases = workspace.releases.newest(9)
    won = sum(result is True for name, result in done if name in {"a promotion", "a rollback"})
    assert [one.number for one in releases] == list(range(1 + won, 0, -1))
    assert won or "a promotion" not in dict(done), "each of the promotions was told that another came between"
    assert vars(workspace)["registry"].champion == releases[0].version


def check_predictions(workspace: Workspace, gone: set[int]) -> None:
    """Each order without a label is predicted once by the champion; none is predicted twice by a version."""
    predict_upcoming(workspace, now=NOON)
    made = workspace.lake.read("predictions", {"id": pl.Int64(), "version": pl.Int32()}).collect()
    assert not made.select("id", "version").is_duplicated().any()
    assert not gone & {*made["id"]}
    champion = workspace.releases.champion()
    assert champion
    unlabelled = workspace.lake.scan(SHOP.schema).join(workspace.lake.scan(SHOP.labels), on="id", how="anti").collect()
    assert {*unlabelled["id"]} <= {*made.filter(pl.col("version") == champion.version)["id"]}


def interleave(lake: str, names: list[str], commits: tuple[int, int], *, there: bool) -> None:
    """Let machines do operations, the first of them interrupted by the others before these commits, and check."""
    with TemporaryDirectory() as folder:
        tracking, done = Tracking(), list[tuple[str, object]]()
        new = partial(machine, Path(folder), lake=lake, tracking=tracking)

        def work(name: str, number: int) -> None:
            done.append((name, OPERATIONS[name](new(f"machine-{number}"))))

        assert promote(new("machine-0"), 1)
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
        check(new("reader"), done)


def explore(examples: int, lake: Callable[[], str]) -> None:
    """Interleave two or three operations in many ways, on a new lake each."""

    @settings(max_examples=examples, deadline=None, derandomize=True)
    @given(
        names=st.lists(st.sampled_from(sorted(OPERATIONS)), min_size=2, max_size=3),
        commits=st.tuples(st.integers(0, 6), st.integers(0, 9)),
        there=st.booleans(),
    )
    def explored(names: list[str], commits: tuple[int, int], *, there: bool) -> None:
        interleave(lake(), names, commits, there=there)

    explored()


@pytest.mark.parametrize("examples", [25, pytest.param(400, marks=pytest.mark.slow)])
def test_writers_that_come_between_each_others_commits_lose_and_double_nothing(examples: int) -> None:
    explore(examples, lambda: "")


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_a_row_that_is_erased_before_a_commit_is_not_in_it(name: str) -> None:
    for commit in range(3):
        interleave("", [name, "an erasure"], (commit, 0), there=True)


SERVER = """
import logging
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app))  # one request at a time
print(server.port, flush=True)
server.serve_forever()
"""


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The URL of a bucket of a server of S3: a process, since deltalake waits with the interpreter's lock."""
    with (
        subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as server,
        pytest.MonkeyPatch.context() as patched,
    ):
        assert server.stdout
        address = f"http://127.0.0.1:{server.stdout.readline().strip()}"
        secrets = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
        for name in (name for name in os.environ if name.startswith("AWS_")):
            patched.delenv(name)
        for name, value in (secrets | {"AWS_ENDPOINT_URL": address, "AWS_ALLOW_HTTP": "true"}).items():
            patched.setenv(name, value)
        for name in ("NO_PROXY", "no_proxy"):
            patched.setenv(name, "127.0.0.1")
        urlopen(Request(f"{address}/lakes", method="PUT")).close()  # noqa: S310 - of this machine
        yield "s3://lakes"
        server.terminate()


@pytest.mark.parametrize("examples", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_so_do_writers_to_object_storage(bucket: str, examples: int) -> None:
    explore(examples, lambda: f"{bucket}/{uuid4()}")


def test_of_two_commits_to_object_storage_one_fails_whatever_the_environment_says(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, once = pl.DataFrame({"n": [1]}), deltalake.CommitProperties(max_commit_retries=0)
    monkeypatch.setenv("AWS_S3_ALLOW_UNSAFE_RENAME", "true")
    lake = Lake(f"{bucket}/{uuid4()}")
    assert lake.append("numbers", rows, batch="one")
    first, second = (deltalake.DeltaTable(lake.address("numbers")) for _ in range(2))
    deltalake.write_deltalake(first, rows, mode="append", commit_properties=once)
    with pytest.raises(deltalake.exceptions.CommitFailedError):
        deltalake.write_deltalake(second, rows, mode="append", commit_properties=once)
    monkeypatch.setenv("AWS_CONDITIONAL_PUT", "disabled")
    with pytest.raises(InputError, match="conditional put is disabled"):
        Lake(lake.url).append("others", rows, batch="two")


def test_the_first_batch_of_a_table_is_appended_once_by_two_machines_that_start_at_once(tmp_path: Path) -> None:
    one, two = machine(tmp_path, "one"), machine(tmp_path, "two")
    first = ingest_orders(1, 60)
    with Interruptions({0: lambda: first(two)})():
        first(one)
    assert sorted(one.lake.scan(SHOP.schema).collect()["id"]) == [*range(1, 61)]


def test_a_batch_is_validated_again_where_another_was_appended_meanwhile(tmp_path: Path) -> None:
    one, two = machine(tmp_path, "one"), machine(tmp_path, "two")
    ingest_orders(1, 10)(one)
    with Interruptions({0: lambda: ingest_orders(50, 100, 2.0)(two)})():
        report = ingest_orders(41, 100)(one)
    assert rejected(report)
    assert sorted(one.lake.scan(SHOP.schema).collect()["id"]) == [*range(1, 11), *range(50, 101)]


@pytest.mark.parametrize("before", [0, 1])
def test_of_two_promotions_at_once_one_wins_whatever_else_is_committed(tmp_path: Path, before: int) -> None:
    one, two = machine(tmp_path, "one"), machine(tmp_path, "two")
    for number in range(1, before + 1):
        assert one.releases.append(release(number, number, orders(1, 2)))
    won: list[bool] = []

    def other() -> None:
        if before:  # a commit of another kind comes between
            table = deltalake.DeltaTable(two.lake.address("releases"))
            table.alter.set_table_properties({"delta.logRetentionDuration": "interval 30 days"})
        won.append(two.releases.append(release(before + 1, 8, orders(1, 2))))

    with Interruptions({0: other})():
        won.append(one.releases.append(release(before + 1, 9, orders(1, 2))))
    assert sorted(won) == [False, True]
    assert [found.number for found in one.releases.newest(9)] == list(range(before + 1, 0, -1))


@pytest.mark.slow
def test_processes_that_write_at_the_same_time_lose_and_double_nothing(tmp_path: Path) -> None:
    alone = {"an erasure", "tidying", "a rollback", "a batch that overlaps and differs"}
    names = [*(name for name in OPERATIONS if name not in alone), "a promotion"]
    for turn in range(4):
        root, tracking = tmp_path / str(turn), Tracking()
        assert promote(machine(root, "first"), 1)
        line = [sys.executable, __file__, str(root)]
        running = [subprocess.Popen([*line, str(n), name]) for n, name in enumerate(names)]
        status = [process.wait() for process in running]
        done: list[tuple[str, object]] = [(name, found == 0) for name, found in zip(names, status, strict=True)]
        assert {name for name, ok in done if not ok} <= {"a promotion"}
        workspace = machine(root, "reader", tracking=tracking)
        champion = workspace.releases.champion()
        assert champion
        tracking.champion = champion.version  # each process had aliases of its own
        check(workspace, done)


if __name__ == "__main__":
    done = OPERATIONS[sys.argv[3]](machine(Path(sys.argv[1]), f"machine-{sys.argv[2]}"))
    sys.exit(done is False)
