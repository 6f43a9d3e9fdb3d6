"""A stream of events gives the same features whichever way it is computed, and in whatever order it arrives."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar

import narwhals as nw
import onnx
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from polars import selectors as cs

from my_ml_project.core import datasets
from my_ml_project.core.contracts.schema import AvailableAt, EventTime, Frame, Key, Table, Target
from my_ml_project.core.errors import Rejected
from my_ml_project.core.features import windows
from my_ml_project.core.problem import Problem
from my_ml_project.core.settings import Settings
from my_ml_project.core.store.releases import Release
from my_ml_project.core.workspace import Workspace
from my_ml_project.production.ingest import ingest_file
from my_ml_project.production.service.serving_model import ServingModel

NEW_YORK = "America/New_York"
SPRING, AUTUMN = datetime(2024, 3, 10, 7, tzinfo=UTC), datetime(2024, 11, 3, 6, tzinfo=UTC)  # its clock changes
HOUR, QUARTER = timedelta(hours=1), timedelta(minutes=15)
BEGINNING, END = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 12, 1, tzinfo=UTC)

Row = dict[str, Any]


class Order(Table):
    """What is predicted, half an hour before it is due."""

    table: ClassVar = "orders"

    id: Annotated[int, Key()]
    due: Annotated[datetime, EventTime(lead=2 * QUARTER)]
    shop: str | None


class Delay(Table):
    """How late an order was."""

    table: ClassVar = "delays"

    id: Annotated[int, Key()]
    known: Annotated[datetime, AvailableAt()]
    minutes: Annotated[float, Target()]


class Sale(Table):
    """An event; several may happen at once."""

    table: ClassVar = "sales"

    id: Annotated[int, Key()]
    seen: Annotated[datetime, AvailableAt()]
    shop: str | None
    amount: int | None


class Price(Table):
    """What holds in a shop from a moment on."""

    table: ClassVar = "prices"

    since: Annotated[datetime, Key(), AvailableAt()]
    shop: Annotated[str | None, Key()]
    price: int | None
    word: str | None


def build(rows: Frame, history: Mapping[str, Frame]) -> Frame:
    sums = {"amount": nw.col("amount"), "sales": nw.lit(1)}
    ours = {f"shop_{name}": value for name, value in sums.items()}
    return (
        rows.with_columns(hour=nw.col("due").dt.convert_time_zone(NEW_YORK).dt.hour())
        .pipe(windows.trailing, history["sales"], when="seen", window=HOUR, sums=sums)
        .pipe(windows.trailing, history["sales"], when="seen", window=HOUR, sums=ours, by=["shop"])
        .pipe(windows.trailing, history["prices"], when="since", window=HOUR, sums={"prices": nw.lit(1)})
        .pipe(windows.latest, history["prices"], when="since", within=2 * HOUR, values=["price", "word"], by=["shop"])
        .with_columns(mean=nw.when(nw.col("sales") > 0).then(nw.col("amount") / nw.col("sales")))
    )


NUMBERS = ("hour", "amount", "sales", "shop_amount", "shop_sales", "prices")
PROBLEM = Problem(
    entity=Order,
    tables=(Order, Delay, Sale, Price),
    features=(*NUMBERS, "price", "word", "mean"),
    lookback=2 * HOUR,
    build=build,
    collect=lambda *_: [],
    model_spec=lambda: pytest.fail("its model is made by hand"),
)


def slow(order: Row, sales: Sequence[Row], prices: Sequence[Row]) -> Row:
    """The features of an order in plain Python."""
    at, shop = order["due"] - 2 * QUARTER, order["shop"]
    recent = [sale for sale in sales if at - HOUR < sale["seen"] <= at]
    ours = [sale for sale in recent if shop is not None and sale["shop"] == shop]
    theirs = [price for price in prices if shop is not None and price["shop"] == shop]
    valid = [price for price in theirs if at - 2 * HOUR < price["since"] <= at]
    newest = max(valid, key=lambda each: each["since"], default={"price": None, "word": None})
    amount, behind = total(recent), 4 if SPRING <= order["due"] < AUTUMN else 5  # New York, of UTC
    return {
        "hour": (order["due"] - behind * HOUR).hour,
        "amount": amount,
        "sales": len(recent),
        "shop_amount": total(ours),
        "shop_sales": len(ours),
        "prices": len([each for each in prices if at - HOUR < each["since"] <= at]),
        "price": newest["price"],
        "word": newest["word"],
        "mean": amount / len(recent) if recent else None,
    }


def total(sales: Sequence[Row]) -> int:
    return sum(sale["amount"] or 0 for sale in sales)


# --- streams


@dataclass(frozen=True)
class Batch:
    """Rows of a table in a file of some form."""

    table: str
    rows: list[Row]
    form: str

    def write(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        frame = pl.DataFrame(self.rows, schema=PROBLEM.schemas[self.table].dtypes)
        if self.form == "csv":
            frame.write_csv(path.with_suffix(".csv"))
            return path.with_suffix(".csv")
        frame.with_columns(cs.datetime().dt.convert_time_zone(self.form)).write_parquet(path.with_suffix(".parquet"))
        return path.with_suffix(".parquet")


@dataclass(frozen=True)
class Stream:
    """What happened, the batches in which it arrives, and a moment between two increments."""

    orders: list[Row]
    sales: list[Row]
    prices: list[Row]
    batches: list[Batch]
    cut: datetime


# Around the changes of the clock, close enough to meet, with months of nothing in between.
MOMENTS = st.builds(lambda day, n: day + n * QUARTER, st.sampled_from([SPRING, AUTUMN]), st.integers(-4, 5))
SHOPS = st.sampled_from(["a", "b", None])
ORDERS = st.lists(st.fixed_dictionaries({"due": MOMENTS, "shop": SHOPS, "known": MOMENTS}), min_size=3, max_size=8)
SALES = st.lists(
    st.fixed_dictionaries({"seen": MOMENTS, "shop": SHOPS, "amount": st.integers(-5, 5) | st.none()}), max_size=24
)
PRICES = st.lists(
    st.fixed_dictionaries(
        {"since": MOMENTS, "shop": SHOPS, "price": st.integers(0, 5) | st.none(), "word": st.sampled_from(["x", None])}
    ),
    max_size=12,
    unique_by=lambda row: (row["since"], row["shop"]),
)


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    """Events that arrive late, in more than one batch, and in batches that are sent twice, in any order."""
    orders, sales = ([{"id": i + 1, **row} for i, row in enumerate(draw(rows))] for rows in (ORDERS, SALES))
    prices = draw(PRICES)
    delays = [{"id": row["id"], "known": max(row["known"], row["due"]), "minutes": 1.0} for row in orders]
    asked = [{name: row[name] for name in Order.model_fields} for row in orders]
    tables = {"orders": asked, "delays": delays, "sales": sales, "prices": prices}
    batches = [batch for table, rows in tables.items() for batch in draw(parted(table, rows))]
    again = draw(st.lists(st.sampled_from(batches), max_size=2))
    return Stream(asked, sales, prices, draw(st.permutations([*batches, *again])), draw(MOMENTS))


@st.composite
def parted(draw: st.DrawFn, table: str, rows: list[Row]) -> list[Batch]:
    """Rows in one or two batches; some are in both."""
    into = [draw(st.sampled_from([{0}, {1}, {0, 1}])) for _ in rows]
    parts = [[row for row, those in zip(rows, into, strict=True) if part in those] for part in (0, 1)]
    return [Batch(table, part, draw(st.sampled_from(["UTC", NEW_YORK, "csv"]))) for part in parts if part]


# --- ways


def model() -> Release:
    """A release whose model adds the numbers that never are missing."""
    shape = {name: onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 1]) for name in (*NUMBERS, "sum")}
    add = onnx.helper.make_node("Sum", list(NUMBERS), ["sum"])
    graph = onnx.helper.make_graph([add], "model", [shape[name] for name in NUMBERS], [shape["sum"]])
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    served: Row = {"task": PROBLEM.task, "features": dict.fromkeys(NUMBERS, False), "onnx": made.SerializeToString()}
    return Release.model_construct(**served)


def by_increments(workspace: Workspace, cut: datetime) -> Iterator[pl.DataFrame]:
    for since, until in ((BEGINNING, cut), (cut, END)):
        try:
            yield datasets.training_set(PROBLEM, workspace.lake, as_of=until, since=since)
        except Rejected:  # no label became known in between
            continue


def features_of(parts: Iterator[pl.DataFrame] | Sequence[pl.DataFrame]) -> dict[int, Row]:
    """The features by the order's id; none may be there twice."""
    rows = [row for part in parts for row in part.iter_rows(named=True)]
    found = {row["id"]: {name: row[name] for name in PROBLEM.features} for row in rows}
    assert len(found) == len(rows)
    return found


def every_way_is_the_slow_one(stream: Stream, root: Path) -> None:
    workspace = Workspace(root, Settings(serve_max_age_days=400), PROBLEM)
    for n, batch in enumerate(stream.batches):
        taken = ingest_file(workspace, batch.write(root / batch.table / str(n)), now=END)
        assert taken.ok, str(taken)
    serving = ServingModel(workspace, model(), now=END)
    asked = pl.DataFrame(stream.orders, schema=PROBLEM.schema.dtypes)
    full = datasets.training_set(PROBLEM, workspace.lake, as_of=END)
    one_by_one = [serving.predict(row, now=END) for row in asked.iter_slices(1)]
    together = serving.predict(asked, now=END)

    expected = {order["id"]: slow(order, stream.sales, stream.prices) for order in stream.orders}
    assert features_of([full]) == expected
    assert features_of(by_increments(workspace, stream.cut)) == expected
    assert features_of([together.rows]) == expected
    assert features_of([answered.rows for answered in one_by_one]) == expected
    sums = [float(sum(row[name] for name in NUMBERS)) for row in expected.values()]
    assert together.predictions["prediction"].to_list() == sums
    assert pl.concat([answered.predictions for answered in one_by_one])["prediction"].to_list() == sums


@settings(deadline=None, max_examples=10)
@given(stream=streams())
def test_a_stream_gives_the_same_features_every_way(stream: Stream, tmp_path_factory: pytest.TempPathFactory) -> None:
    every_way_is_the_slow_one(stream, tmp_path_factory.mktemp("stream"))


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(stream=streams())
def test_many_streams_give_the_same_features_every_way(
    stream: Stream, tmp_path_factory: pytest.TempPathFactory
) -> None:
    every_way_is_the_slow_one(stream, tmp_path_factory.mktemp("stream"))
