"""Windows and as-of joins against a slow reference: what had happened by the time a row is predicted, and no more."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch

import narwhals as nw
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from {{cookiecutter.__package_name}}.shared import windows

START = datetime(2024, 1, 1, tzinfo=UTC)
TIME = pl.Datetime("us", "UTC")
ROWS = {"id": pl.Int64, "_at": TIME, "shop": pl.String, "till": pl.String}
EVENTS = {"seen": TIME, "shop": pl.String, "till": pl.String, "amount": pl.Int64, "word": pl.String}

Row = dict[str, Any]


def minute(n: float) -> datetime:
    return START + timedelta(minutes=n)


def asking(*times: float, shop: str | None = "a", till: str | None = "x") -> list[Row]:
    return [{"id": i, "_at": minute(time), "shop": shop, "till": till} for i, time in enumerate(times)]


def event(time: float, amount: int | None = 1, word: str | None = None, shop: str | None = "a") -> Row:
    return {"seen": minute(time), "shop": shop, "till": "x", "amount": amount, "word": word}


def lazy(rows: Sequence[Row], schema: Mapping[str, Any]) -> nw.LazyFrame[Any]:
    return nw.from_native(pl.LazyFrame(rows, schema=schema))


def collected(frame: nw.LazyFrame[Any]) -> list[Row]:
    native: pl.DataFrame = frame.collect(backend="polars").to_native()
    return native.sort("id").to_dicts()


def trailing(rows: Sequence[Row], events: Sequence[Row], window: float, by: Sequence[str] = ()) -> list[Row]:
    sums = {"total": nw.col("amount"), "count": nw.lit(1)}
    return collected(
        windows.trailing(
            lazy(rows, ROWS), lazy(events, EVENTS), when="seen", window=timedelta(minutes=window), sums=sums, by=by
        )
    )


def latest(rows: Sequence[Row], events: Sequence[Row], within: float, by: Sequence[str] = ()) -> list[Row]:
    values = ["amount", "word"]
    return collected(
        windows.latest(
            lazy(rows, ROWS), lazy(events, EVENTS), when="seen", within=timedelta(minutes=within), values=values, by=by
        )
    )


def shares(row: Row, happened: Row, by: Sequence[str]) -> bool:
    return all(row[name] is not None and row[name] == happened[name] for name in by)


def slow_trailing(rows: Sequence[Row], events: Sequence[Row], window: float, by: Sequence[str]) -> list[Row]:
    found = []
    for row in rows:
        start = row["_at"] - timedelta(minutes=window)
        inside = [each for each in events if shares(row, each, by) and start < each["seen"] <= row["_at"]]
        found.append(row | {"total": sum(each["amount"] or 0 for each in inside), "count": len(inside)})
    return found


def slow_latest(rows: Sequence[Row], events: Sequence[Row], within: float, by: Sequence[str]) -> list[Row]:
    found = []
    for row in rows:
        start = row["_at"] - timedelta(minutes=within)
        inside = [each for each in events if shares(row, each, by) and start < each["seen"] <= row["_at"]]
        newest = max(inside, key=lambda each: each["seen"], default={"amount": None, "word": None})
        found.append(row | {name: newest[name] for name in ("amount", "word")})
    return found


@pytest.fixture(params=["polars", "another"], autouse=True)
def engine(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let the windows take Polars for Polars, or for an engine that has no as-of join of its own."""
    with patch.object(nw.Implementation, "is_polars", lambda _: request.param == "polars"):
        yield


KEYS = st.sampled_from(["a", "b", None])
MINUTES = st.integers(0, 12)
ASKED = st.lists(st.fixed_dictionaries({"_at": MINUTES.map(minute), "shop": KEYS, "till": KEYS}), max_size=8).map(
    lambda rows: [{"id": i, **row} for i, row in enumerate(rows)]
)
HAPPENED = st.fixed_dictionaries(
    {
        "seen": MINUTES.map(minute),
        "shop": KEYS,
        "till": KEYS,
        "amount": st.integers(-5, 5) | st.none(),
        "word": st.sampled_from(["x", "y", None]),
    }
)
BY = st.sampled_from([(), ("shop",), ("shop", "till")])


PROPERTY = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@PROPERTY
@given(ASKED, st.lists(HAPPENED, max_size=12), st.integers(1, 8), BY)
def test_trailing_sums_equal_a_slow_loop(rows: list[Row], events: list[Row], window: int, by: tuple[str, ...]) -> None:
    assert trailing(rows, events, window, by) == slow_trailing(rows, events, window, by)


@PROPERTY
@given(ASKED, st.lists(HAPPENED, max_size=12), st.integers(1, 8), BY)
def test_latest_values_equal_a_slow_loop(rows: list[Row], events: list[Row], within: int, by: tuple[str, ...]) -> None:
    apart = list({(each["seen"], *(each[name] for name in by)): each for each in events}.values())
    assert latest(rows, apart, within, by) == slow_latest(rows, apart, within, by)


@pytest.mark.parametrize(("time", "counted"), [(-3, 0), (-2.999, 1), (0, 1), (0.001, 0)])
def test_a_window_is_open_at_its_start_and_closed_at_its_end(time: float, counted: int) -> None:
    (row,) = trailing(asking(10), [event(10 + time, 5)], 3)
    assert (row["count"], row["total"]) == (counted, 5 * counted)


@pytest.mark.parametrize(("time", "found"), [(-3, None), (-2.999, 7), (0, 7), (0.001, None)])
def test_an_event_is_latest_from_its_moment_until_it_is_too_old(time: float, found: int | None) -> None:
    (row,) = latest(asking(10), [event(10 + time, 7)], 3)
    assert row["amount"] == found


def test_the_newest_of_several_events_counts_even_where_its_values_are_missing() -> None:
    (row,) = latest(asking(10), [event(9, None, "new"), event(8, 4, "old")], 3)
    assert (row["amount"], row["word"]) == (None, "new")


def test_rows_that_ask_at_the_same_moment_get_the_same_answer_once() -> None:
    rows, events = asking(10, 10, 10), [event(9, 2), event(9.5, 3)]
    assert [row["total"] for row in trailing(rows, events, 3)] == [5, 5, 5]
    assert [row["amount"] for row in latest(rows, events, 3)] == [3, 3, 3]


def test_without_events_sums_are_zero_and_values_are_missing() -> None:
    (summed,), (joined,) = trailing(asking(10), [], 3, ["shop"]), latest(asking(10), [], 3, ["shop"])
    assert (summed["total"], summed["count"]) == (0, 0)
    assert (joined["amount"], joined["word"]) == (None, None)


def test_a_missing_key_shares_with_none_not_even_with_another_missing_one() -> None:
    rows, events = asking(10, shop=None), [event(9, 2, shop=None)]
    assert [row["count"] for row in trailing(rows, events, 3, ["shop"])] == [0]
    assert [row["amount"] for row in latest(rows, events, 3, ["shop"])] == [None]
    assert [row["count"] for row in trailing(rows, events, 3)] == [1]


def test_sums_are_integers_of_64_bits_and_the_rows_keep_their_columns() -> None:
    events = lazy([event(9, 2)], EVENTS).with_columns(nw.col("amount").cast(nw.Int8))
    added = windows.trailing(
        lazy(asking(10), ROWS), events, when="seen", window=timedelta(minutes=3), sums={"total": nw.col("amount")}
    )
    assert dict(added.collect_schema()) == dict(lazy([], ROWS).collect_schema()) | {"total": nw.Int64}


def test_small_integers_do_not_overflow() -> None:
    events = lazy([event(9, 100) for _ in range(3)], EVENTS).with_columns(nw.col("amount").cast(nw.Int8))
    added = windows.trailing(
        lazy(asking(10), ROWS), events, when="seen", window=timedelta(minutes=3), sums={"total": nw.col("amount")}
    )
    assert [row["total"] for row in collected(added)] == [300]
