"""Batches on their way into the lake: what goes in, what is kept in quarantine, and what an interruption leaves."""

import dataclasses
import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import narwhals as nw
import polars as pl
import pytest
from pydantic import BaseModel, Field

from my_ml_project.core.contracts.schema import (
    AvailableAt,
    Category,
    EventTime,
    Key,
    Nulls,
    Table,
    Target,
)
from my_ml_project.core.errors import InputError
from my_ml_project.core.problem import ModelSpec, Problem
from my_ml_project.core.store import files as store_files
from my_ml_project.core.store.batch_context import read_context
from my_ml_project.core.store.lake import Lake
from my_ml_project.core.workspace import Workspace
from my_ml_project.production.ingest import Batch, IngestReport, check, ingest, ingest_inbox

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


class Order(Table):
    """An order in a shop."""

    table: ClassVar = "orders"
    rules: ClassVar = {"paid is not below price": nw.col("paid") >= nw.col("price")}

    shop: Annotated[str, Category(("north",), open=True), Key()]
    id: Annotated[int, Field(gt=0), Key()]
    placed: Annotated[datetime, EventTime()]
    price: Annotated[float, Field(ge=0)]
    paid: float
    note: Annotated[str | None, Nulls(at_most=0.5)] = None


class Delivery(Table):
    """Whether it came in time."""

    table: ClassVar = "deliveries"

    shop: Annotated[str, Key()]
    id: Annotated[int, Key()]
    known: Annotated[datetime, AvailableAt()]
    late: Annotated[bool, Target()]


class Click(Table):
    """A click has no identity."""

    table: ClassVar = "clicks"

    page: str


class Opening(Table):
    """When a shop opens; without a shop, all of them."""

    table: ClassVar = "openings"

    opens: Annotated[datetime, Key()]
    shop: Annotated[str | None, Key()]
    doors: int


class Parameters(BaseModel):
    seed: int = 0


SHOP = Problem(
    entity=Order,
    tables=(Order, Delivery, Click),
    features=("price",),
    lookback=timedelta(0),
    build=lambda rows, _: rows,
    collect=lambda *_: [],
    model_spec=lambda: ModelSpec(Parameters, lambda *_: None, lambda *_: pytest.fail("nothing is trained here")),
)


@pytest.fixture
def shop(empty: Workspace) -> Workspace:
    return dataclasses.replace(empty, problem=SHOP)


def orders(first: int = 1, last: int = 100, **change: Any) -> pl.DataFrame:
    """Orders by number; a change is the column's new value in the first row."""
    ids = list(range(first, last + 1))
    rows = pl.DataFrame(
        {
            "shop": ["north"] * len(ids),
            "id": ids,
            "placed": [NOON + timedelta(minutes=n) for n in ids],
            "price": [n / 2 for n in ids],
            "paid": [n / 2 for n in ids],
            "note": ["thanks"] * len(ids),
        }
    )
    head = pl.int_range(pl.len()) == 0
    return rows.with_columns(pl.when(head).then(pl.lit(v)).otherwise(pl.col(k)).alias(k) for k, v in change.items())


def put(workspace: Workspace, name: str, rows: pl.DataFrame | bytes) -> Path:
    """A file in the inbox."""
    return write(workspace.path(workspace.settings.inbox) / name, rows)


def write(path: Path, rows: pl.DataFrame | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(rows, bytes):
        path.write_bytes(rows)
    elif path.suffix.lower() == ".csv":
        rows.write_csv(path)
    else:
        rows.write_parquet(path)
    return path


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, with its content."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def inbox(workspace: Workspace) -> list[str]:
    return sorted(files(workspace.path(workspace.settings.inbox)))


def archive(workspace: Workspace) -> dict[str, bytes]:
    return files(workspace.path(workspace.settings.archive))


def stored(workspace: Workspace, table: str = "orders") -> pl.DataFrame:
    return workspace.lake.scan(workspace.problem.schemas[table]).collect()


def ids(workspace: Workspace) -> list[int]:
    return sorted(stored(workspace)["id"].to_list())


def quarantine(workspace: Workspace, batch: Batch) -> dict[str, bytes]:
    """What was kept of a batch, beside the reasons; these are the batch itself, as it was returned."""
    assert batch.quarantine is not None
    assert batch.quarantine == f"data/quarantine/{batch.table}/{Path(batch.name).stem}-{batch.id[:8]}"
    kept = files(workspace.path(batch.quarantine))
    assert json.loads(kept.pop("reasons.json")) == json.loads(
        json.dumps(dataclasses.asdict(batch) | {"ingested_at": NOON.isoformat()})
    )
    return kept


def only(done: IngestReport) -> Batch:
    (batch,) = done.batches
    return batch


def identity(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# What goes in


def test_a_clean_file_goes_in_whole_and_moves_to_the_archive(shop: Workspace) -> None:
    content = put(shop, "orders/may.parquet", orders()).read_bytes()
    done = ingest(shop, now=NOON)
    assert only(done) == Batch("orders", "may.parquet", identity(content), accepted=100, counts={})
    assert done.ok
    assert only(done).ok
    rows = stored(shop)
    assert rows.select(orders().columns).sort("id").equals(orders())
    assert rows["_ingested_at"].unique().to_list() == [NOON]
    assert rows["_batch"].unique().to_list() == [identity(content)]
    assert inbox(shop) == []
    assert archive(shop) == {f"orders/may-{identity(content)[:8]}.parquet": content}
    assert not shop.path("data/quarantine").exists()


def test_without_a_time_rows_arrive_now(shop: Workspace, tmp_path: Path) -> None:
    before = datetime.now(UTC)
    ingest(shop, write(tmp_path / "may.parquet", orders()), table="orders")
    (arrived,) = stored(shop)["_ingested_at"].unique()
    assert before <= arrived <= datetime.now(UTC)


def test_a_file_given_by_name_stays_where_it_is(shop: Workspace, tmp_path: Path) -> None:
    put(shop, "orders/other.parquet", orders(201, 210))
    file = write(tmp_path / "may.parquet", orders())
    assert only(ingest(shop, file, now=NOON)).accepted == 100
    assert file.is_file()
    assert archive(shop) == {}
    assert inbox(shop) == ["orders/other.parquet"], "the inbox is left alone"
    assert ids(shop) == list(range(1, 101))


def test_text_in_csv_that_looks_like_a_number_stays_text(shop: Workspace, tmp_path: Path) -> None:
    rows = orders(1, 9).with_columns(shop=pl.lit("007"))
    assert only(ingest(shop, write(tmp_path / "may.csv", rows), now=NOON)).accepted == 9
    assert stored(shop)["shop"].unique().to_list() == ["007"]


@pytest.mark.parametrize("suffix", [".csv", ".CSV", ".PARQUET"])
def test_csv_and_parquet_are_the_same_rows(shop: Workspace, tmp_path: Path, suffix: str) -> None:
    rows = orders(note=None)
    first = only(ingest(shop, write(tmp_path / f"may{suffix}", rows), now=NOON))
    assert (first.table, first.accepted) == ("orders", 100)
    assert stored(shop).select(rows.columns).sort("id").equals(rows)
    second = only(ingest(shop, write(tmp_path / "may.parquet", rows.reverse()), now=NOON))
    assert (second.accepted, second.duplicates, second.invalid) == (0, 100, 0)


def test_the_inbox_is_taken_in_the_order_of_its_names(shop: Workspace) -> None:
    for name, first in (("orders/b", 101), ("orders/a", 201), ("clicks/c", 0)):
        put(shop, f"{name}.parquet", orders(first, first + 9) if first else pl.DataFrame({"page": ["home"]}))
    done = ingest_inbox(shop, now=NOON)
    assert [batch.name for batch in done.batches] == ["c.parquet", "a.parquet", "b.parquet"]
    versions = [shop.lake.scan(SHOP.schemas["orders"], version=n).collect()["id"].min() for n in (0, 1)]
    assert versions == [201, 101]


def test_hidden_files_and_drafts_stay_in_the_inbox(shop: Workspace) -> None:
    names = [
        *("orders/.hidden.parquet", "orders/draft.part", "orders/draft.parquet.part", "orders/copy.parquet.filepart"),
        *("orders/_SUCCESS", "orders/_committed_1", "orders/_temporary/0/part.parquet", "orders/.part.parquet.crc"),
        *("orders/Thumbs.db", "orders/desktop.ini", "orders/~$orders.csv", "orders/may.csv~", "orders/.DS_Store"),
    ]
    for name in names:
        put(shop, name, orders())
    done = ingest(shop, now=NOON)
    assert done == IngestReport(())
    assert done.ok
    assert str(done) == "the inbox is empty"
    assert inbox(shop) == sorted(names)


def test_links_in_the_inbox_are_followed(shop: Workspace, tmp_path: Path) -> None:
    share = tmp_path / "share"
    share.mkdir()
    orders(1, 10).write_parquet(share / "may.parquet")
    orders(11, 20).write_parquet(tmp_path / "june.parquet")
    inbox_folder = shop.path("data/inbox")
    inbox_folder.mkdir(parents=True)
    (inbox_folder / "orders").symlink_to(share, target_is_directory=True)
    (share / "june.parquet").symlink_to(tmp_path / "june.parquet")
    (share / "again").symlink_to(share, target_is_directory=True)  # a circle
    assert ingest(shop, now=NOON).ok
    assert ids(shop) == list(range(1, 21))
    assert (tmp_path / "june.parquet").is_file()
    assert all(not path.is_symlink() for path in shop.path("data/archive").rglob("*"))
    assert ingest(shop, now=NOON).batches == ()


def test_a_link_to_nothing_is_named(shop: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(shop, "orders/may.parquet", orders(1, 10))
    link = shop.path("data/inbox/orders/june.parquet")
    link.symlink_to(tmp_path / "gone.parquet")
    assert ingest(shop, now=NOON).ok
    assert f"{link} is skipped: it is a broken link or no file" in caplog.text
    assert ids(shop) == list(range(1, 11))


def test_a_folder_of_spark_is_a_batch_a_file(shop: Workspace) -> None:
    for n in range(3):
        put(shop, f"orders/may.parquet/day={n}/part-0000{n}-c000.snappy.parquet", orders(10 * n + 1, 10 * n + 10))
    put(shop, "orders/may.parquet/_SUCCESS", b"")
    done = ingest(shop, now=NOON)
    assert done.ok, str(done)
    assert ids(shop) == list(range(1, 31))


def test_an_inbox_that_is_not_there_is_empty(shop: Workspace) -> None:
    before = files(shop.root)
    assert ingest(shop, now=NOON).batches == ()
    assert files(shop.root) == before


# Rows and batches that violate the contract


def test_rejected_rows_are_kept_with_their_rules_and_the_rest_goes_in(shop: Workspace) -> None:
    rows = orders(1, 200, price=-1.0, paid=-2.0)
    content = put(shop, "orders/may.parquet", rows).read_bytes()
    done = ingest(shop, now=NOON)
    batch = only(done)
    assert (batch.accepted, batch.invalid, batch.duplicates, batch.rejected) == (199, 1, 0, ())
    assert batch.counts == {"paid is not below price": 1, "price >= 0": 1}
    assert not batch.ok
    assert done.ok, "no batch was refused as a whole"
    assert ids(shop) == list(range(2, 201))
    kept = quarantine(shop, batch)
    assert set(kept) == {"invalid.parquet"}
    rejected = pl.read_parquet(kept["invalid.parquet"])
    assert rejected.drop("_violations").equals(rows.head(1))
    assert rejected["_violations"].to_list() == [["price >= 0", "paid is not below price"]]
    assert archive(shop) == {f"orders/may-{batch.id[:8]}.parquet": content}, "it is in the lake but for a row"
    assert inbox(shop) == []


REJECTED: dict[str, tuple[pl.DataFrame, str, int]] = {
    "a column is missing": (orders().drop("paid"), "column paid is missing", 0),
    "a column is unknown": (orders().with_columns(colour=pl.lit("red")), "column colour is unknown", 0),
    "there are no rows": (orders().clear(), "it has no rows", 0),
    "too many rows are bad": (orders(1, 99, price=-1.0), "1 of 99 rows violate a rule (at most 1%)", 1),
    "too much is missing": (
        orders().with_columns(note=pl.when(pl.col("id") > 50).then("note").otherwise(None)).head(99),
        "note is missing in 50.5% of rows (at most 50.0%)",
        0,
    ),
}


@pytest.mark.parametrize("case", REJECTED)
def test_of_a_breached_batch_nothing_goes_in_and_the_file_is_kept_whole(shop: Workspace, case: str) -> None:
    rows, reason, invalid = REJECTED[case]
    content = put(shop, "orders/may.parquet", rows).read_bytes()
    done = ingest(shop, now=NOON)
    batch = only(done)
    assert (batch.rejected, batch.invalid) == ((reason,), invalid)
    assert not batch.ok
    assert not done.ok
    assert shop.lake.version("orders") == -1
    kept = quarantine(shop, batch)
    assert kept.pop("may.parquet") == content
    assert all(pl.read_parquet(rest)["price"].to_list() == [-1.0] * invalid for rest in kept.values())
    assert inbox(shop) == []
    assert archive(shop) == {}


def test_a_breached_file_given_by_name_is_kept_too_and_stays(shop: Workspace, tmp_path: Path) -> None:
    file = write(tmp_path / "may.csv", b"shop,id,placed,price,paid,note\nnorth,one,2024-05-01,1,1,\n")
    done = ingest(shop, file, now=NOON)
    assert not done.ok
    assert only(done).rejected == ("column id has 1 values that are no int, as 'one'",)
    assert quarantine(shop, only(done)) == {"may.csv": file.read_bytes()}


def test_a_breached_file_can_be_sent_again_from_quarantine(shop: Workspace) -> None:
    content = put(shop, "orders/may.parquet", orders().drop("note")).read_bytes()
    first = only(ingest(shop, now=NOON))
    kept = shop.path(first.quarantine or "") / "may.parquet"
    assert only(ingest(shop, kept, table="orders", now=NOON)) == first
    assert quarantine(shop, first) == {"may.parquet": content}


def test_a_key_of_another_type_is_a_breach_like_any_column(shop: Workspace) -> None:
    put(shop, "orders/a.parquet", orders(1, 50))
    ingest(shop, now=NOON)
    for name, key in {
        "text": pl.col("id").cast(pl.String) + "x",
        "list": pl.concat_list("id"),
        "float": pl.col("id") + 0.5,
        "null": pl.lit(None),
    }.items():
        put(shop, f"orders/{name}.parquet", orders().with_columns(id=key))
    done = ingest(shop, now=NOON)
    assert sorted(batch.name for batch in done.batches if batch.rejected) == [
        "float.parquet",
        "list.parquet",
        "null.parquet",
        "text.parquet",
    ]
    assert all(reason.startswith("column id is ") for batch in done.batches for reason in batch.rejected)
    assert ids(shop) == list(range(1, 51))


def test_a_corrected_batch_goes_in_later(shop: Workspace) -> None:
    put(shop, "orders/may.parquet", orders(price=-1.0, paid=-1.0).drop("note"))
    assert not ingest(shop, now=NOON).ok
    put(shop, "orders/may.parquet", orders(price=-1.0, paid=-1.0))
    assert only(ingest(shop, now=NOON)).invalid == 1
    put(shop, "orders/may.parquet", orders())
    batch = only(ingest(shop, now=NOON))
    assert batch.ok
    assert (batch.accepted, batch.duplicates) == (1, 99)
    assert ids(shop) == list(range(1, 101))


# The same again


def test_a_file_that_comes_again_changes_nothing(shop: Workspace) -> None:
    content = put(shop, "orders/may.parquet", orders()).read_bytes()
    ingest(shop, now=NOON)
    again = put(shop, "orders/again.parquet", orders())
    assert again.read_bytes() == content
    batch = only(ingest(shop, now=NOON + timedelta(days=1)))
    assert batch == Batch("orders", "again.parquet", identity(content), seen=True)
    assert batch.ok
    assert shop.lake.version("orders") == 0
    assert stored(shop)["_ingested_at"].unique().to_list() == [NOON]
    assert inbox(shop) == []
    assert set(archive(shop)) == {f"orders/{stem}-{identity(content)[:8]}.parquet" for stem in ("may", "again")}


def test_rows_that_come_again_in_another_file_are_repeats(shop: Workspace) -> None:
    put(shop, "orders/may.parquet", orders(1, 60))
    ingest(shop, now=NOON)
    put(shop, "orders/more.parquet", orders(41, 80))
    batch = only(ingest(shop, now=NOON))
    assert (batch.seen, batch.accepted, batch.duplicates, batch.invalid) == (False, 20, 20, 0)
    assert batch.ok
    assert ids(shop) == list(range(1, 81))


def test_a_batch_of_nothing_but_repeats_makes_no_version(shop: Workspace) -> None:
    put(shop, "orders/may.parquet", orders(1, 60))
    ingest(shop, now=NOON)
    put(shop, "orders/part.parquet", orders(11, 20))
    batch = only(ingest(shop, now=NOON))
    assert (batch.accepted, batch.duplicates) == (0, 10)
    assert shop.lake.version("orders") == 0
    assert inbox(shop) == []
    assert len(archive(shop)) == 2


def test_a_repeat_is_found_in_whichever_batch_it_came(shop: Workspace) -> None:
    for n, first in enumerate((1, 101, 201)):
        put(shop, f"orders/{n}.parquet", orders(first, first + 99))
    ingest(shop, now=NOON)
    ends = pl.concat([orders(1, 1), orders(150, 150), orders(300, 301)])
    put(shop, "orders/ends.parquet", ends)
    batch = only(ingest(shop, now=NOON))
    assert (batch.accepted, batch.duplicates, batch.invalid) == (1, 3, 0)
    assert ids(shop) == list(range(1, 302))


@pytest.mark.parametrize("number", [101, 150, 200])
def test_a_row_that_contradicts_a_stored_one_is_rejected(shop: Workspace, number: int) -> None:
    for n, first in enumerate((1, 101, 201)):
        put(shop, f"orders/{n}.parquet", orders(first, first + 99))
    ingest(shop, now=NOON)
    others = orders(301, 399).with_columns(shop=pl.lit("south"))
    put(shop, "orders/late.parquet", pl.concat([orders(number, number, paid=1000.0), others]))
    batch = only(ingest(shop, now=NOON))
    assert (batch.accepted, batch.invalid, batch.counts) == (99, 1, {"key is unique": 1})
    assert stored(shop).filter(pl.col("id") == number)["paid"].to_list() == [number / 2]


def test_the_whole_key_counts_not_a_part_of_it(shop: Workspace) -> None:
    put(shop, "orders/north.parquet", orders(1, 10))
    put(shop, "orders/south.parquet", orders(1, 10).with_columns(shop=pl.lit("south")))
    north, south = ingest(shop, now=NOON).batches
    assert (north.warnings, south.warnings) == ((), ("shop has a new value 'south'",))
    assert (south.accepted, south.duplicates, south.invalid) == (10, 0, 0)


def test_a_missing_part_of_a_key_is_a_part_like_any_other(empty: Workspace) -> None:
    shop = dataclasses.replace(empty, problem=dataclasses.replace(SHOP, tables=(*SHOP.tables, Opening)))
    shops = pl.Series(["north", None, "south"], dtype=pl.String)
    openings = pl.DataFrame({"opens": NOON, "shop": shops, "doors": 1})
    put(shop, "openings/a.parquet", openings)
    put(shop, "openings/b.parquet", openings.filter(shops.is_null()))
    put(shop, "openings/c.parquet", openings.reverse())
    put(shop, "openings/d.parquet", openings.with_columns(doors=2))
    found = ingest(shop, now=NOON).batches
    assert [(batch.accepted, batch.duplicates, batch.invalid) for batch in found] == [
        (3, 0, 0),
        (0, 1, 0),
        (0, 3, 0),
        (0, 0, 3),
    ]
    assert len(stored(shop, "openings")) == 3


def deliveries(first: int, last: int, *, days: int = 1) -> pl.DataFrame:
    """What became of orders, known so many days after them."""
    known = pl.col("placed") + timedelta(days=days)
    return orders(first, last).select("shop", "id", known=known, late=pl.col("id") % 2 == 0)


@pytest.mark.parametrize(
    ("first", "last", "notes"),
    [(1, 100, ()), (6, 105, ()), (7, 106, ("6 of 100 keys are of no row in orders",)), (101, 101, ("1 of 1",))],
)
def test_labels_of_no_row_are_noted_where_they_are_more_than_a_few(
    shop: Workspace, tmp_path: Path, first: int, last: int, notes: tuple[str, ...]
) -> None:
    ingest(shop, write(tmp_path / "orders.parquet", orders()), now=NOON)
    file, later = write(tmp_path / "labels.parquet", deliveries(first, last)), NOON + timedelta(days=9)
    found = check(shop, file, now=later)
    assert (found.accepted, found.ok) == (last - first + 1, True)
    assert [note.startswith(expected) for note, expected in zip(found.warnings, notes, strict=True)] == [True] * len(
        notes
    )
    assert only(ingest(shop, file, now=later)).warnings == found.warnings
    assert len(stored(shop, "deliveries")) == found.accepted


def test_labels_whose_key_is_shifted_in_one_column_are_noted(shop: Workspace, tmp_path: Path) -> None:
    ingest(shop, write(tmp_path / "orders.parquet", orders()), now=NOON)
    file = write(tmp_path / "labels.csv", deliveries(1, 100).with_columns(shop=pl.lit("south")))
    found = check(shop, file, now=NOON + timedelta(days=9))
    assert str(found) == "deliveries/labels.csv: 100 rows; 100 of 100 keys are of no row in orders"


def test_labels_are_taken_after_the_rows_that_came_with_them(shop: Workspace) -> None:
    put(shop, "deliveries/a.parquet", deliveries(1, 100))
    put(shop, "orders/b.parquet", orders())
    done = ingest(shop, now=NOON + timedelta(days=9))
    assert [(batch.table, batch.warnings) for batch in done.batches] == [("orders", ()), ("deliveries", ())]


def test_labels_that_are_known_before_their_row_is_predicted_are_rejected(shop: Workspace, tmp_path: Path) -> None:
    ingest(shop, write(tmp_path / "orders.parquet", orders()), now=NOON)
    early = pl.when(pl.col("id").is_in([7, 101])).then(NOON).otherwise("known")
    file = write(tmp_path / "labels.parquet", deliveries(1, 101).with_columns(known=early))
    batch = only(ingest(shop, file, now=NOON + timedelta(days=9)))
    assert (batch.accepted, batch.counts) == (100, {"known is not before its row is predicted": 1})
    kept = pl.read_parquet(shop.path(batch.quarantine or "") / "invalid.parquet")
    assert kept["id"].to_list() == [7]
    assert 101 in stored(shop, "deliveries")["id"], "its row may come, and be of any time"
    all_early = write(tmp_path / "more.parquet", deliveries(1, 100, days=-1))
    assert check(shop, all_early, now=NOON).rejected == ("100 of 100 rows violate a rule (at most 1%)",)


def test_the_lake_is_read_once_and_only_near_keys_and_days(shop: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [orders(n, n + 99).with_columns(placed=NOON - timedelta(weeks=n)) for n in (1, 101, 201)]
    for n, rows in enumerate(parts):
        put(shop, f"orders/{n}.parquet", rows)
    ingest(shop, now=NOON)
    reads: list[list[pl.DataFrame]] = []
    collect_all = pl.collect_all

    def watched(frames: list[pl.LazyFrame]) -> list[pl.DataFrame]:
        reads.append(collect_all(frames))
        return reads[-1]

    with monkeypatch.context() as patched:
        patched.setattr(pl, "collect_all", watched)
        put(shop, "orders/x.parquet", parts[1][19:40])
        assert only(ingest(shop, now=NOON)).duplicates == 21
    ((rows, entities),) = reads
    assert (rows["id"].min(), rows["id"].max(), len(entities)) == (101, 200, 0)


def test_rows_without_identity_are_never_repeats(shop: Workspace) -> None:
    put(shop, "clicks/a.parquet", pl.DataFrame({"page": ["home", "home"]}))
    put(shop, "clicks/b.parquet", pl.DataFrame({"page": ["home"]}))
    done = ingest(shop, now=NOON)
    assert [(batch.accepted, batch.duplicates) for batch in done.batches] == [(2, 0), (1, 0)]
    assert len(stored(shop, "clicks")) == 3


def test_files_of_one_name_are_both_in_the_archive(shop: Workspace) -> None:
    contents = []
    for first in (1, 11):
        contents.append(put(shop, "orders/may.parquet", orders(first, first + 9)).read_bytes())
        ingest(shop, now=NOON)
    assert archive(shop) == {f"orders/may-{identity(content)[:8]}.parquet": content for content in contents}
    assert len(archive(shop)) == 2


# Files that no one can use


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.parquet", b"", "can't be read as parquet: "),
        ("empty.csv", b"", "can't be read as csv: "),
        ("cut.parquet", b"PAR1 and no more", "can't be read as parquet: "),
        ("text.parquet", b"shop,id\nnorth,1\n", "can't be read as parquet: "),
        ("ragged.csv", b"shop,id\nnorth,1,2,3\n", "can't be read as csv: "),
        ("notes.txt", b"hello", "ends in '.txt': batches are .csv, .tsv"),
        ("nothing", b"hello", "ends in '': batches are .csv, .tsv"),
    ],
)
def test_a_file_that_is_no_batch_goes_to_quarantine_and_the_others_go_in(
    shop: Workspace, name: str, content: bytes, reason: str
) -> None:
    put(shop, f"orders/{name}", content)
    put(shop, "orders/a.parquet", orders(1, 10))
    put(shop, "orders/z.parquet", orders(11, 20))
    done = ingest(shop, now=NOON)
    assert not done.ok
    assert len(done.batches) == 3
    (bad,) = (batch for batch in done.batches if not batch.ok)
    assert (bad.table, bad.name, bad.id, bad.accepted) == ("orders", name, identity(content), 0)
    assert reason in bad.rejected[0]
    assert str(shop.path("data/inbox/orders") / name) in bad.rejected[0]
    assert "\n" not in bad.rejected[0]
    assert quarantine(shop, bad) == {name: content}
    assert ids(shop) == list(range(1, 21))
    assert inbox(shop) == []
    assert len(archive(shop)) == 2


@pytest.mark.parametrize("suffix", store_files.READABLE)
def test_a_file_is_read_whatever_its_name(tmp_path: Path, suffix: str) -> None:
    rows, path = orders(1, 5), tmp_path / "a [b]" / f"c [1]{suffix}"
    path.parent.mkdir()
    separator = "\t" if suffix == ".tsv" else ","
    write: dict[str, Callable[[Path], object]] = {".parquet": rows.write_parquet}
    write |= dict.fromkeys((".arrow", ".feather"), rows.write_ipc)
    write |= dict.fromkeys((".jsonl", ".ndjson"), rows.write_ndjson)
    write.get(suffix, partial(rows.write_csv, separator=separator))(path)
    assert len(store_files.read_file(path)[1]) == 5
    assert [len(chunk) for chunk in store_files.chunks(path, 3)] == [3, 2]


def test_a_file_that_crashes_its_reader_goes_to_quarantine(shop: Workspace, tmp_path: Path) -> None:
    """Some damages make Polars panic or allocate more memory than there is, which ends its process."""
    path = tmp_path / "orders.parquet"
    orders(1, 300).write_parquet(path, compression="snappy", row_group_size=50)
    good = path.read_bytes()
    for seed in range(5000):
        bad, rng = bytearray(good), random.Random(seed)  # noqa: S311 - damage
        for _ in range(rng.randint(1, 3)):
            bad[rng.randrange(len(bad))] = rng.randrange(256)
        path.write_bytes(bad)
        if store_files.binary_damage(path) == "it crashes its reader":
            break
    put(shop, "orders/bad.parquet", bytes(bad))
    with pytest.raises(InputError, match=r"can't be read as parquet: .+; write it again"):  # the first of its damages
        list(store_files.chunks(path, 10))
    put(shop, "orders/good.parquet", good)
    done = ingest(shop, now=NOON)
    assert [batch.ok for batch in done.batches] == [False, True]
    assert "can't be read as parquet: " in done.batches[0].rejected[0]
    assert (inbox(shop), ids(shop)) == ([], list(range(1, 301)))


def test_a_time_that_python_cannot_hold_is_a_violation(shop: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "orders.parquet"
    late = pl.lit(2**60).cast(pl.Datetime("us", "UTC"))
    orders(1, 100).with_columns(placed=pl.when(pl.col("id") == 3).then(late).otherwise("placed")).write_parquet(path)
    (reason,) = check(shop, path, table="orders", now=NOON).rejected
    assert reason.startswith("column placed has values too large for Datetime")


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".arrow"])
@pytest.mark.parametrize("seeds", [range(150), pytest.param(range(150, 5000), marks=pytest.mark.slow)], ids=len)
def test_whatever_bytes_are_damaged_the_file_is_read_or_refused(
    shop: Workspace, tmp_path: Path, suffix: str, seeds: range
) -> None:
    path, rows = tmp_path / f"orders{suffix}", orders(1, 100)
    write: dict[str, Callable[[Path], object]] = {".csv": rows.write_csv, ".parquet": rows.write_parquet}
    write.get(suffix, rows.write_ipc)(path)
    good, outcomes = path.read_bytes(), Counter[str]()
    for seed in seeds:
        path.write_bytes(damage(good, random.Random(seed)))  # noqa: S311 - damage
        try:
            outcomes[str(check(shop, path, table="orders", now=NOON).ok)] += 1
        except InputError:
            outcomes["unreadable"] += 1
    assert outcomes["unreadable"] > len(seeds) / 10
    assert outcomes["True"] + outcomes["False"] > 0


def damage(content: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, the end cut off, or some bytes taken out."""
    bad, at = bytearray(content), rng.randrange(len(content))
    match rng.randrange(3):
        case 0:
            for _ in range(rng.randrange(1, 20)):
                bad[rng.randrange(len(bad))] = rng.randrange(256)
        case 1:
            del bad[at:]
        case _:
            del bad[at : at + rng.randrange(1, 50)]
    return bytes(bad)


def test_blank_text_is_missing_however_it_is_written(shop: Workspace, tmp_path: Path) -> None:
    blanks = ["", " ", "\t", None]
    rows = orders(1, 8).with_columns(pl.Series("note", [*blanks, "x", "y", " z ", "a b"]))
    rows.write_parquet(tmp_path / "a.parquet")
    rows.write_csv(tmp_path / "a.csv", quote_style="always")
    for name in ("a.parquet", "a.csv"):
        assert ingest(shop, tmp_path / name, table="orders", now=NOON).batches[0].duplicates == 8 * (name == "a.csv")
    stored = shop.lake.scan(SHOP.schemas["orders"]).sort("id").collect()["note"].to_list()
    assert stored == [None] * 4 + ["x", "y", " z ", "a b"]


def test_an_empty_cell_in_quotes_is_missing_in_a_column_of_numbers_too(shop: Workspace, tmp_path: Path) -> None:
    (tmp_path / "openings.csv").write_text(
        '"shop","id","placed","price","paid","note"\n' + '"north","1","2024-05-01T08:00:00Z","","3.0",""\n'
    )
    batch = check(shop, tmp_path / "openings.csv", table="orders", now=NOON)
    assert "price is not null (1)" in str(batch)


def test_blank_lines_at_the_end_of_a_csv_are_no_rows(shop: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "orders.csv"
    path.write_text(orders(1, 10).write_csv() + "\n\n\r\n", encoding="utf-8")
    assert check(shop, path, table="orders", now=NOON).accepted == 10


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("Unnamed: 0", "column Unnamed: 0 is an index of pandas: write the file with index=False"),
        ("__index_level_0__", "column __index_level_0__ is an index of pandas: write the file with index=False"),
        ("price", "column price occurs more than once"),
        ("\ufeff", ""),
    ],
)
def test_columns_that_tools_add_are_named_for_what_they_are(
    shop: Workspace, tmp_path: Path, header: str, reason: str
) -> None:
    path, lines = tmp_path / "orders.csv", orders(1, 10).write_csv().splitlines()
    more = [f"{line},{n or header}" for n, line in enumerate(lines)] if reason else lines
    path.write_text(header * (not reason) + "\n".join(more), encoding="utf-8")
    batch = check(shop, path, table="orders", now=NOON)
    assert batch.rejected == ((reason,) if reason else ())


def test_a_categorical_of_pandas_is_text(shop: Workspace, tmp_path: Path) -> None:
    rows = orders(1, 10).with_columns(
        pl.col("shop").cast(pl.Categorical), pl.lit("x").cast(pl.Enum(["x"])).alias("note")
    )
    rows.write_parquet(tmp_path / "orders.parquet")
    assert ingest(shop, tmp_path / "orders.parquet", now=NOON).ok
    assert shop.lake.scan(SHOP.schemas["orders"]).collect()["shop"].unique().to_list() == ["north"]


def test_a_truncated_file_goes_to_quarantine(shop: Workspace) -> None:
    content = put(shop, "orders/may.parquet", orders()).read_bytes()[:-20]
    put(shop, "orders/may.parquet", content)
    done = ingest(shop, now=NOON)
    assert not done.ok
    assert only(done).rejected[0].endswith("; write it again")
    assert quarantine(shop, only(done)) == {"may.parquet": content}


def test_a_file_that_may_not_be_read_does_not_keep_the_others_out(
    shop: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = put(shop, "orders/locked.parquet", orders(1, 10))
    put(shop, "orders/open.parquet", orders(11, 20))
    read = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path == locked:
            raise PermissionError(13, "Permission denied")
        return read(path)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", refuse)
        done = ingest(shop, now=NOON)
    assert not done.ok
    assert ids(shop) == list(range(11, 21))
    (bad,) = (batch for batch in done.batches if not batch.ok)
    assert bad.rejected == (f"{locked} can't be read: Permission denied",)
    assert bad.id == identity(b"locked.parquet"), "its name stands in for what is in it"
    assert set(quarantine(shop, bad)) == {"locked.parquet"}
    assert inbox(shop) == []


@pytest.mark.parametrize("name", ["invalid.parquet", "reasons.json", "Reasons.json"])
def test_a_breached_file_is_kept_whole_whatever_its_name(shop: Workspace, name: str) -> None:
    content = put(shop, f"orders/{name}", orders(1, 99, price=-1.0)).read_bytes()
    batch = only(ingest(shop, now=NOON))
    kept = quarantine(shop, batch)
    assert kept[f"batch-{name}"] == content
    if name == "invalid.parquet":
        assert pl.read_parquet(kept[name])["_violations"].to_list() == [["price >= 0"]]


# Whose rows they are


def test_a_file_in_no_folder_is_recognised_by_its_columns(shop: Workspace) -> None:
    put(shop, "may.parquet", orders())
    put(shop, "pages.csv", pl.DataFrame({"page": ["home"]}))
    put(shop, "unheard/of/june.parquet", orders(101, 200).with_columns(note=pl.lit("thanks")))
    done = ingest(shop, now=NOON)
    assert [batch.table for batch in done.batches] == ["orders", "clicks", "orders"]
    assert done.ok
    assert inbox(shop) == []
    assert ids(shop) == list(range(1, 201))


@pytest.mark.parametrize("folder", ["unheard", "inbox"])
def test_a_file_of_no_table_goes_to_quarantine(shop: Workspace, folder: str) -> None:
    name = "may.parquet" if folder == "inbox" else f"{folder}/may.parquet"
    file = put(shop, name, orders().drop("note"))
    content = file.read_bytes()
    done = ingest(shop, now=NOON)
    assert not done.ok
    assert only(done).table == folder
    expected = f"{file} has the columns of 0 tables: name one with --table (orders, deliveries, clicks)"
    assert only(done).rejected == (expected,)
    assert quarantine(shop, only(done)) == {"may.parquet": content}


def test_the_columns_of_two_tables_are_not_enough(shop: Workspace, tmp_path: Path) -> None:
    file = write(tmp_path / "may.parquet", orders().with_columns(page=pl.lit("home")))
    for command in (check, ingest):
        with pytest.raises(
            InputError, match=r"columns of 2 tables: name one with --table \(orders, deliveries, clicks\)"
        ):
            command(shop, file)
    assert check(shop, file, table="orders").rejected == ("column page is unknown",)


def test_a_table_that_is_named_comes_before_the_folder(shop: Workspace, tmp_path: Path) -> None:
    file = write(tmp_path / "clicks" / "may.parquet", orders())
    assert check(shop, file).table == "clicks"
    assert not check(shop, file).ok
    for batch in (check(shop, file, table="orders"), only(ingest(shop, file, table="orders", now=NOON))):
        assert (batch.table, batch.accepted) == ("orders", 100)


def test_the_only_table_takes_every_file(shop: Workspace, tmp_path: Path) -> None:
    problem = dataclasses.replace(SHOP, entity=Delivery, tables=(Delivery,))
    file = write(tmp_path / "may.parquet", deliveries(1, 3).drop("late"))
    assert check(dataclasses.replace(shop, problem=problem), file).rejected == ("column late is missing",)


def test_a_table_that_there_is_not_is_bad_input(shop: Workspace, tmp_path: Path) -> None:
    file = write(tmp_path / "orders" / "may.parquet", orders())
    for command in (check, ingest):
        with pytest.raises(InputError, match="there is no table 'order': tables are orders, deliveries, clicks"):
            command(shop, file, table="order")
    assert shop.lake.version("orders") == -1


def test_a_file_given_by_name_that_is_no_batch_is_bad_input(shop: Workspace, tmp_path: Path) -> None:
    missing, folder = tmp_path / "missing.parquet", tmp_path
    text = write(tmp_path / "notes.txt", b"hello")
    broken = write(tmp_path / "broken.parquet", b"hello")
    before = files(tmp_path)
    for command in (check, ingest):
        for file, reason in {
            missing: "can't be read: No such file or directory",
            folder: "can't be read: ",
            text: "ends in '.txt': batches are .csv, .tsv",
            broken: "can't be read as parquet: ",
        }.items():
            with pytest.raises(InputError) as caught:
                command(shop, file)
            assert str(caught.value).startswith(f"{file} {reason}")
    assert files(tmp_path) == before


# check


def test_check_writes_nothing(shop: Workspace, tmp_path: Path) -> None:
    put(shop, "orders/a.parquet", orders(1, 50))
    ingest(shop, now=NOON)
    put(shop, "orders/waits.parquet", orders(51, 60))
    mixed = write(tmp_path / "mixed.parquet", orders(50, 249, price=-1.0).with_columns(shop=pl.lit("south")))
    repeats = write(tmp_path / "repeats.csv", orders(41, 60))
    breached = write(tmp_path / "breached.parquet", orders().drop("note"))
    before = files(tmp_path), {path for path in tmp_path.rglob("*") if path.is_dir()}
    found = check(shop, mixed)
    assert (found.accepted, found.invalid, found.counts, found.quarantine) == (199, 1, {"price >= 0": 1}, None)
    assert (found.table, found.name, found.id) == ("orders", "mixed.parquet", identity(mixed.read_bytes()))
    assert found.warnings == ("shop has a new value 'south'",)
    found = check(shop, repeats, table="orders")
    assert (found.accepted, found.duplicates, found.ok) == (10, 10, True)
    found = check(shop, breached, table="orders")
    assert (found.rejected, found.quarantine, found.ok) == (("column note is missing",), None, False)
    assert (files(tmp_path), {path for path in tmp_path.rglob("*") if path.is_dir()}) == before


# Interruptions


def test_what_was_appended_before_an_interruption_is_not_appended_again(
    shop: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(shop, "orders/may.parquet", orders(1, 200, price=-1.0))
    with monkeypatch.context() as patched:
        patched.setattr(Path, "mkdir", _killed_at("archive", Path.mkdir))
        with pytest.raises(KeyboardInterrupt):
            ingest(shop, now=NOON)
    assert inbox(shop) == ["orders/may.parquet"]
    assert ids(shop) == list(range(2, 201))
    kept = files(shop.path("data/quarantine"))
    assert len(kept) == 2
    batch = only(ingest(shop, now=NOON + timedelta(days=1)))
    assert batch.seen
    assert shop.lake.version("orders") == 0
    assert files(shop.path("data/quarantine")) == kept
    assert inbox(shop) == []
    assert set(archive(shop)) == {f"orders/may-{batch.id[:8]}.parquet"}


def _killed_at(word: str, does: Any) -> Any:
    def dies(path: Path, *args: Any, **kwargs: Any) -> None:
        if word in path.parts:
            raise KeyboardInterrupt
        does(path, *args, **kwargs)

    return dies


@pytest.mark.parametrize(
    "failure",
    [
        KeyboardInterrupt(),
        InputError("the lake takes no commit: try again"),
    ],
)
def test_a_batch_that_could_not_be_appended_stays_in_the_inbox(
    shop: Workspace, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    put(shop, "orders/may.parquet", orders())

    def fail(*_: Any, **__: Any) -> bool:
        raise failure

    with monkeypatch.context() as patched:
        patched.setattr(Lake, "append", fail)
        with pytest.raises(type(failure)):
            ingest(shop, now=NOON)
    assert inbox(shop) == ["orders/may.parquet"]
    assert shop.lake.version("orders") == -1
    assert stored(shop).is_empty()
    assert archive(shop) == {}
    assert not shop.path("data/quarantine").exists()
    assert only(ingest(shop, now=NOON)).accepted == 100
    assert ids(shop) == list(range(1, 101))


def test_a_lake_that_can_not_be_used_leaves_the_inbox_as_it_is(shop: Workspace) -> None:
    put(shop, "orders/may.parquet", orders())
    shop.path("data/lake").write_text("no folder", encoding="utf-8")
    before = files(shop.root)
    with pytest.raises(InputError, match=r"table orders in the lake .* can't be used"):
        ingest(shop, now=NOON)
    assert files(shop.root) == before


# Archive and lake


def test_an_archived_batch_that_the_lake_lacks_is_named_until_it_is_ingested_again(shop: Workspace) -> None:
    for first in (1, 101, 201):
        put(shop, f"orders/{first}.parquet", orders(first, first + 99))
    assert ingest(shop, now=NOON).lost == ()
    commit = shop.path("data/lake/orders/_delta_log") / f"{2:020}.json"
    commit.write_bytes(b"")
    again = dataclasses.replace(shop)
    with pytest.raises(InputError, match=r"a power loss has torn its commit .* and call run"):
        ingest(again, now=NOON)
    commit.unlink()
    again = dataclasses.replace(shop)
    (archived,) = shop.path("data/archive/orders").glob("201-*.parquet")
    line = (
        f"1 archived batches of orders are not in the lake, such as {archived}: "
        f"move them to {shop.path('data/inbox/orders')} and call run"
    )
    done = ingest(again, now=NOON)
    assert (done.batches, done.lost, done.ok, str(done)) == ((), (line,), False, line)
    archived.rename(shop.path("data/inbox/orders") / archived.name)
    assert ingest(again, now=NOON).ok
    assert ids(again) == list(range(1, 301))


def test_batches_without_rows_of_their_own_are_not_missing_from_the_lake(shop: Workspace) -> None:
    put(shop, "orders/may.parquet", orders(1, 100))
    put(shop, "orders/more.parquet", orders(1, 50))  # duplicates
    put(shop, "clicks/pages.parquet", pl.DataFrame({"page": ["home"]}))
    assert [ingest(shop, now=NOON).lost for _ in range(2)] == [(), ()]
    (archived,) = shop.path("data/archive/orders").glob("more-*.parquet")
    archived.write_bytes(b"")  # nobody knows what was in it
    assert "1 archived batches of orders are not in the lake" in ingest(shop, now=NOON).lost[0]


# In words


@pytest.mark.parametrize(
    ("batch", "line"),
    [
        (Batch("orders", "may.csv", "1", seen=True), "orders/may.csv: ingested before, nothing to do"),
        (Batch("orders", "may.csv", "1", accepted=3), "orders/may.csv: 3 rows"),
        (
            Batch("orders", "may.csv", "1", accepted=3, duplicates=2, warnings=("shop has a new value 'x'",)),
            "orders/may.csv: 3 rows; 2 duplicates; shop has a new value 'x'",
        ),
        (
            Batch("orders", "may.csv", "1", accepted=3, invalid=2, counts={"id > 0": 1, "price >= 0": 2}),
            "orders/may.csv: 3 rows; 2 violate the contract: id > 0 (1), price >= 0 (2)",
        ),
        (
            Batch("orders", "may.csv", "1", accepted=3, invalid=1, counts={"id > 0": 1}, quarantine="q/may-1"),
            "orders/may.csv: 3 rows; 1 violate the contract: id > 0 (1); quarantined in q/may-1",
        ),
        (
            Batch("orders", "may.csv", "1", rejected=("it is late", "it is wrong"), counts={"id > 0": 9}),
            "orders/may.csv violates the contract: it is late; it is wrong; id > 0 (9)",
        ),
        (
            Batch("orders", "may.csv", "1", rejected=("it is late",), quarantine="q/may-1"),
            "orders/may.csv violates the contract: it is late; quarantined in q/may-1",
        ),
    ],
)
def test_a_batch_is_one_line(batch: Batch, line: str) -> None:
    assert str(batch) == line
    assert str(IngestReport((batch, batch))) == f"{line}\n{line}"


def test_batches_are_fine_while_none_is_refused_as_a_whole() -> None:
    fine, partly = Batch("orders", "a.csv", "1", accepted=1), Batch("orders", "b.csv", "2", accepted=1, invalid=1)
    refused = Batch("orders", "c.csv", "3", rejected=("it has no rows",))
    assert [batch.ok for batch in (fine, partly, refused)] == [True, False, False]
    assert [IngestReport(batches).ok for batches in ((fine, partly), (fine, refused, partly))] == [True, False]


# Versions of the contract, and the weeks before


def test_each_row_has_the_version_of_the_contract_that_it_kept(
    shop: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(shop, "orders/may.parquet", orders(1, 10))
    ingest(shop, now=NOON)
    monkeypatch.setattr(Order, "version", 2)
    put(shop, "orders/june.parquet", orders(11, 20))
    ingest(shop, now=NOON)
    rows = shop.lake.scan(shop.problem.schema).sort("id").collect()
    assert rows["_contract"].to_list() == [1] * 10 + [2] * 10


def test_a_column_that_the_contract_gains_is_missing_in_the_rows_from_before(shop: Workspace) -> None:
    class Wider(Order):
        colour: str | None = None

    put(shop, "orders/may.parquet", orders(1, 10))
    ingest(shop, now=NOON)
    wider = dataclasses.replace(shop, problem=dataclasses.replace(SHOP, entity=Wider, tables=(Wider, Delivery, Click)))
    assert wider.lake.scan(wider.problem.schema).collect()["colour"].to_list() == [None] * 10
    put(wider, "orders/june.parquet", orders(11, 20).with_columns(colour=pl.lit("red")))
    assert only(ingest(wider, now=NOON)).accepted == 10
    rows = wider.lake.scan(wider.problem.schema).sort("id").collect()
    assert rows["colour"].to_list() == [None] * 10 + ["red"] * 10


def test_a_batch_is_held_against_the_same_days_of_four_weeks_before(shop: Workspace) -> None:
    for week in (5, 4, 2):
        rows = orders(1000 * week, 1000 * week + 19).with_columns(placed=NOON - timedelta(weeks=week))
        put(shop, f"orders/{week}.parquet", rows)
    ingest(shop, now=NOON)
    stuck = orders(1, 20).with_columns(placed=NOON, price=pl.lit(1.0), paid=pl.lit(1.0))
    (batch,) = ingest(shop, put(shop, "orders/now.parquet", stuck), now=NOON).batches
    reason = "is 1.0 in every row: it does not vary, as it did in the weeks before"
    assert batch.rejected == (f"price {reason}", f"paid {reason}")
    assert [len(days) for days in read_context(shop.lake, SHOP, SHOP.schema, stuck).days] == [0, 0, 20, 0, 20]
    assert read_context(shop.lake, SHOP, SHOP.schemas["clicks"], pl.DataFrame({"page": ["home"]})).days == []
