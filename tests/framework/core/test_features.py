"""From events to rows with their features: what had happened by the time a row is predicted, and no more."""

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar
from unittest.mock import patch

import narwhals as nw
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from my_ml_project.core import datasets
from my_ml_project.core.acceptance import Window
from my_ml_project.core.contracts.schema import (
    TARGET,
    AvailableAt,
    EventTime,
    Excluded,
    Frame,
    Key,
    Personal,
    Table,
    Target,
    schema_of,
)
from my_ml_project.core.errors import Rejected
from my_ml_project.core.features import windows
from my_ml_project.core.problem import Problem
from my_ml_project.core.store.lake import Lake

START = datetime(2024, 1, 1, tzinfo=UTC)
TIME = pl.Datetime("us", "UTC")
ROWS = {"id": pl.Int64, "_predicted_at": TIME, "shop": pl.String, "till": pl.String}
EVENTS = {"seen": TIME, "shop": pl.String, "till": pl.String, "amount": pl.Int64, "word": pl.String}

Row = dict[str, Any]


def minute(n: float) -> datetime:
    return START + timedelta(minutes=n)


def asking(*times: float, shop: str | None = "a", till: str | None = "x") -> list[Row]:
    return [{"id": i, "_predicted_at": minute(time), "shop": shop, "till": till} for i, time in enumerate(times)]


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
        start = row["_predicted_at"] - timedelta(minutes=window)
        inside = [each for each in events if shares(row, each, by) and start < each["seen"] <= row["_predicted_at"]]
        found.append(row | {"total": sum(each["amount"] or 0 for each in inside), "count": len(inside)})
    return found


def slow_latest(rows: Sequence[Row], events: Sequence[Row], within: float, by: Sequence[str]) -> list[Row]:
    found = []
    for row in rows:
        start = row["_predicted_at"] - timedelta(minutes=within)
        inside = [each for each in events if shares(row, each, by) and start < each["seen"] <= row["_predicted_at"]]
        newest = max(inside, key=lambda each: each["seen"], default={"amount": None, "word": None})
        found.append(row | {name: newest[name] for name in ("amount", "word")})
    return found


@pytest.fixture(params=["polars", "another"], autouse=True)
def engine(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let the windows take Polars for Polars, or for an engine that has no as-of join of its own."""
    nw.from_native(pl.LazyFrame({"n": [1]})).filter(nw.col("n") > 0)  # Narwhals finds out once which engine it is
    with patch.object(nw.Implementation, "is_polars", lambda _: request.param == "polars"):
        yield


KEYS = st.sampled_from(["a", "b", None])
MINUTES = st.integers(0, 12)
ASKED = st.lists(
    st.fixed_dictionaries({"_predicted_at": MINUTES.map(minute), "shop": KEYS, "till": KEYS}), max_size=8
).map(lambda rows: [{"id": i, **row} for i, row in enumerate(rows)])
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


NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
TWO_HOURS = timedelta(hours=2)

Build = Callable[[Frame, Mapping[str, Frame]], Frame]


class Visit(Table):
    """A table that is booked; predicted an hour before."""

    table: ClassVar = "visits"

    id: Annotated[int, Key()]
    time: Annotated[datetime, EventTime(lead=timedelta(hours=1))]
    shop: str
    seats: int
    guest: Annotated[str | None, Personal()] = None


class Bill(Table):
    """What came of a visit."""

    table: ClassVar = "bills"

    id: Annotated[int, Key()]
    paid: Annotated[datetime, AvailableAt()]
    high: Annotated[bool | None, Target()]


class Rating(Table):
    """What guests say."""

    table: ClassVar = "ratings"

    given: Annotated[datetime, AvailableAt()]
    shop: str
    stars: int
    reason: Annotated[str | None, Excluded("written days later")] = None


class House(Table):
    """Has no time, no key, and its label beside it."""

    table: ClassVar = "houses"

    size: float
    price: Annotated[float | None, Target()]


class Meter(Table):
    """Has a time, and neither key nor label of its own; several read at once."""

    table: ClassVar = "meters"

    read: Annotated[datetime, EventTime()]
    level: int
    broken: Annotated[bool, Target()]


def hour(n: float) -> datetime:
    return NOON + timedelta(hours=n)


def stars_of_the_shop(rows: Frame, history: Mapping[str, Frame]) -> Frame:
    sums = {"stars": nw.col("stars"), "ratings": nw.lit(1)}
    return windows.trailing(rows, history["ratings"], when="given", window=TWO_HOURS, sums=sums, by=["shop"])


def made(
    build: Build = stars_of_the_shop, features: tuple[str, ...] = ("shop", "seats", "stars", "ratings")
) -> Problem:
    return Problem(
        entity=Visit,
        tables=(Visit, Bill, Rating),
        features=features,
        lookback=TWO_HOURS,
        build=build,
        collect=lambda *_: [],
        model_spec=lambda: pytest.fail("features need no model"),
    )


def without_labels_apart(table: type[Table], features: tuple[str, ...], build: Build = lambda rows, _: rows) -> Problem:
    return dataclasses.replace(made(build, features), entity=table, tables=(table,))


VISITS = made()
HOUSES = without_labels_apart(House, ("size",))
METERS = without_labels_apart(Meter, ("level",))


def put(lake: Lake, table: type[Table], *rows: Row, arrived: datetime = NOON) -> None:
    schema = schema_of(table)
    stamped = pl.DataFrame(rows, schema=schema.dtypes).with_columns(_ingested_at=arrived, _batch=pl.lit(str(arrived)))
    lake.append(schema.name, stamped, batch=f"{arrived} {lake.version(schema.name)}")


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Three visits: bills of the first two are known, of the third not yet."""
    lake = Lake(str(tmp_path))
    shops = {2: "south", 1: "north", 3: "north"}
    visits = [{"id": i, "time": hour(i), "shop": shop, "seats": 2 * i, "guest": "Ada"} for i, shop in shops.items()]
    put(lake, Visit, *visits)
    put(lake, Bill, {"id": 2, "paid": hour(4), "high": False}, {"id": 1, "paid": hour(3), "high": True})
    put(lake, Bill, {"id": 3, "paid": hour(7), "high": True})
    ratings = [(-2, "north", 1), (-1.5, "north", 2), (0, "north", 3), (1, "south", 5), (1.5, "north", 4)]
    put(lake, Rating, *({"given": hour(h), "shop": shop, "stars": stars, "reason": "x"} for h, shop, stars in ratings))
    return lake


@pytest.fixture
def houses(tmp_path: Path) -> Lake:
    lake = Lake(str(tmp_path))
    put(lake, House, *({"size": float(i), "price": None if i == 3 else 10.0 * i} for i in range(100, 0, -1)))
    put(lake, House, {"size": 0.5, "price": 5.0}, arrived=hour(1))
    return lake


def rows_of(history: datasets.History, table: str) -> pl.DataFrame:
    rows: pl.DataFrame = history[table].collect().to_native()
    return rows


def test_history_is_what_was_known_by_then(lake: Lake) -> None:
    history = datasets.history_as_of(VISITS, lake, as_of=hour(1))
    assert rows_of(history, "visits")["id"].sort().to_list() == [1, 2], "a visit is known an hour before, at the latest"
    assert rows_of(history, "ratings").height == 4, "a rating counts from the moment it is given"
    assert rows_of(history, "bills").is_empty()
    assert rows_of(datasets.history_as_of(VISITS, lake, as_of=hour(3)), "bills")["id"].to_list() == [1]


def test_history_has_no_personal_and_no_forbidden_columns(lake: Lake) -> None:
    history = datasets.history_as_of(VISITS, lake, as_of=hour(9))
    assert rows_of(history, "visits").columns == ["id", "time", "shop", "seats", "_ingested_at", "_batch", "_contract"]
    assert rows_of(history, "ratings").columns == ["given", "shop", "stars", "_ingested_at", "_batch", "_contract"]


def test_history_is_read_in_the_versions_that_are_asked_for(lake: Lake) -> None:
    before = datasets.table_versions(VISITS, lake)
    assert before == {"visits": 0, "bills": 1, "ratings": 0}
    put(lake, Rating, {"given": hour(1), "shop": "north", "stars": 1})
    assert datasets.table_versions(VISITS, lake)["ratings"] == 1
    old = datasets.history_as_of(VISITS, lake, as_of=hour(9), versions=before | {"bills": 0})
    assert (rows_of(old, "ratings").height, rows_of(old, "bills").height) == (5, 2)
    assert rows_of(datasets.history_as_of(VISITS, lake, as_of=hour(9)), "ratings").height == 6


def test_the_newest_label_says_how_far_the_data_go(lake: Lake, tmp_path: Path) -> None:
    assert datasets.newest_label(VISITS, lake) == hour(7)
    assert datasets.newest_label(VISITS, Lake(str(tmp_path / "empty"))) is None


def test_a_training_set_has_the_rows_whose_label_was_known_with_features_as_of_their_prediction(lake: Lake) -> None:
    rows = datasets.training_set(VISITS, lake, as_of=hour(4))
    assert rows.select("id", "_predicted_at", "_available_at", "_target", *VISITS.features).rows() == [
        (1, hour(0), hour(3), True, "north", 2.0, 5.0, 2.0),
        (2, hour(1), hour(4), False, "south", 4.0, 5.0, 1.0),
    ]
    assert "guest" not in rows.columns
    assert datasets.training_set(VISITS, lake, as_of=hour(7)).height == 3


def test_a_training_set_is_read_in_the_versions_that_are_asked_for(lake: Lake) -> None:
    rows = datasets.training_set(VISITS, lake, as_of=hour(7), versions={"visits": 0, "bills": 0, "ratings": -1})
    assert rows["id"].to_list() == [1, 2]
    assert rows["ratings"].to_list() == [0, 0]


def test_a_row_without_a_value_for_its_label_is_not_trained_on(lake: Lake) -> None:
    put(lake, Visit, {"id": 4, "time": hour(2), "shop": "north", "seats": 1})
    put(lake, Bill, {"id": 4, "paid": hour(3), "high": None})
    assert datasets.training_set(VISITS, lake, as_of=hour(9))["id"].to_list() == [1, 2, 3]


def test_rows_are_in_the_order_of_prediction_and_key_however_they_arrived(tmp_path: Path) -> None:
    sets = []
    for order in ([1, 2, 3], [3, 1, 2]):
        lake = Lake(str(tmp_path / f"from-{order[0]}"))
        for i in order:
            put(
                lake,
                Visit,
                {"id": i, "time": hour(-(i // 2)), "shop": "north", "seats": i},
                arrived=hour(order.index(i)),
            )
            put(lake, Bill, {"id": i, "paid": hour(i), "high": True}, arrived=hour(order.index(i)))
        sets.append(datasets.training_set(VISITS, lake, as_of=hour(9)).drop("_ingested_at", "_batch"))
    assert sets[0]["id"].to_list() == [2, 3, 1]
    assert sets[0].equals(sets[1])


def test_without_labels_there_is_no_training_set_and_the_message_says_what_is_missing(lake: Lake) -> None:
    with pytest.raises(Rejected, match=r"^no labelled rows as of 2024-05-01 14:59: ingest batches of bills first$"):
        datasets.training_set(VISITS, lake, as_of=hour(2.99))


def test_where_rows_have_no_time_arrival_stands_in_and_where_no_key_all_columns_order_them(houses: Lake) -> None:
    rows = datasets.training_set(HOUSES, houses, as_of=hour(1))
    assert rows["size"].to_list() == [*(float(i) for i in range(1, 101) if i != 3), 0.5]
    assert rows.select("_target", "_predicted_at", "_available_at").row(0) == (10.0, NOON, NOON)
    assert "price" not in rows.columns, "features can't take the label for a column of theirs"
    assert datasets.training_set(HOUSES, houses, as_of=NOON).height == 99
    assert datasets.newest_label(HOUSES, houses) == hour(1)


def test_a_build_that_asks_for_what_it_cannot_have_is_refused_by_name(lake: Lake) -> None:
    def personal(rows: Frame, _: Mapping[str, Frame]) -> Frame:
        return rows.with_columns(name=nw.col("guest").str.len_chars())

    with pytest.raises(Rejected, match=r"^features\.build uses a column that is not available .*guest[^\n]*$"):
        datasets.training_set(made(personal, ("name",)), lake, as_of=hour(9))


def test_a_build_that_does_not_keep_each_row_is_refused(lake: Lake) -> None:
    def some(rows: Frame, history: Mapping[str, Frame]) -> Frame:
        return stars_of_the_shop(rows, history).filter(nw.col("shop") == "north")

    with pytest.raises(
        Rejected, match=r"^features\.build returned 2 rows for 3: it must return each row exactly once$"
    ):
        datasets.training_set(made(some), lake, as_of=hour(9))


def test_a_build_that_does_not_give_its_features_is_refused_by_their_names(lake: Lake) -> None:
    with pytest.raises(Rejected, match=r"does not return tips, tax, which features\.FEATURES lists"):
        datasets.training_set(made(features=("shop", "tips", "tax")), lake, as_of=hour(9))


@pytest.mark.parametrize(
    ("now", "at"), [(hour(1), hour(1)), (hour(2), hour(2)), (hour(3), hour(2)), (hour(9), hour(2))]
)
def test_a_request_is_predicted_at_its_time_or_now_where_that_is_to_come(now: datetime, at: datetime) -> None:
    visit = {"id": 1, "time": hour(3), "shop": "north", "seats": 2, "guest": "Ada"}
    (row,) = datasets.as_requests(VISITS, pl.DataFrame([visit]), now=now).collect().rows(named=True)
    assert row == {"id": 1, "time": hour(3), "shop": "north", "seats": 2, "_predicted_at": at}


def test_a_request_without_a_time_is_predicted_now() -> None:
    asked = datasets.as_requests(HOUSES, pl.DataFrame({"size": [1.0]}), now=NOON).collect()
    assert asked.rows(named=True) == [{"size": 1.0, "_predicted_at": NOON}]
    assert asked.schema["_predicted_at"] == nw.Datetime("us", "UTC")


def test_recent_history_is_what_features_can_look_back_to(lake: Lake) -> None:
    history = datasets.history_as_of(VISITS, lake, as_of=hour(9))
    recent = datasets.lookback(VISITS, history, since=hour(2))
    assert rows_of(recent, "ratings")["given"].to_list() == [hour(1), hour(1.5)], "what is as old as lookback is not"
    assert rows_of(recent, "visits")["id"].sort().to_list() == [2, 3]
    assert set(recent) == {"visits", "bills", "ratings"}


def test_features_from_recent_history_are_those_from_all_of_it(lake: Lake) -> None:
    history = datasets.history_as_of(VISITS, lake, as_of=hour(9))
    visits = pl.DataFrame([{"id": 9, "time": hour(3), "shop": "north", "seats": 2, "guest": "Ada"}])
    asked = datasets.as_requests(VISITS, visits, now=hour(9))
    recent = datasets.lookback(VISITS, history, since=hour(2))
    assert datasets.with_features(VISITS, asked, recent).equals(datasets.with_features(VISITS, asked, history))


def test_the_newest_window_begins_after_its_first_moment(lake: Lake) -> None:
    rows = datasets.training_set(VISITS, lake, as_of=hour(7))
    before, held = datasets.split(VISITS, rows, Window(days=1), as_of=hour(3) + timedelta(days=1))
    assert (before["id"].to_list(), held["id"].to_list()) == ([1], [2, 3])


def test_where_rows_have_no_time_the_window_is_a_share_that_stays_the_same_whatever_arrives(houses: Lake) -> None:
    early = datasets.training_set(HOUSES, houses, as_of=NOON)
    before, held = datasets.split(HOUSES, early, Window(share=0.3), as_of=NOON)
    assert 20 <= len(held) <= 40
    assert sorted([*before["size"], *held["size"]]) == early["size"].to_list()
    later = datasets.training_set(HOUSES, houses, as_of=hour(1))
    _, again = datasets.split(HOUSES, later, Window(share=0.3), as_of=hour(1))
    assert set(held["size"]) == set(again["size"]) - {0.5}
    _, more = datasets.split(HOUSES, early, Window(share=0.9), as_of=NOON)
    assert set(held["size"]) < set(more["size"])
    assert len(more) > 80


def test_equal_rows_without_a_key_are_split_like_others() -> None:
    class Passenger(Table):
        table: ClassVar = "passengers"

        cabin: str
        saved: Annotated[bool, Target()]

    problem, share = without_labels_apart(Passenger, ("cabin",)), Window(share=0.5)
    kinds = [(cabin, saved) for cabin in "abc" for saved in (True, False)]
    rows = pl.DataFrame(kinds * 100, schema=["cabin", TARGET], orient="row")
    fewer, more = (datasets.split(problem, part, share, as_of=NOON)[1] for part in (rows[:300], rows))
    early, late = (Counter(holdout.rows()) for holdout in (fewer, more))
    assert all(35 <= late[kind] <= 65 for kind in kinds)
    assert all(15 <= early[kind] <= 35 for kind in kinds)
    assert all(early[kind] + 15 <= late[kind] <= early[kind] + 35 for kind in kinds), "rows that arrive later move none"


def test_the_share_of_a_row_with_a_key_follows_from_the_key_alone() -> None:
    class Part(Table):
        table: ClassVar = "parts"

        code: Annotated[str, Key()]
        weight: float
        good: Annotated[bool, Target()]

    problem = without_labels_apart(Part, ("weight",))
    codes = [f"part {i}" for i in range(50)]
    light, heavy = (pl.DataFrame({"code": codes, "weight": [weight] * 50}) for weight in (1.0, 2.0))
    kept = [
        datasets.split(problem, rows, Window(share=0.5), as_of=NOON)[1]["code"].to_list() for rows in (light, heavy)
    ]
    assert kept[0] == kept[1]
    assert 10 < len(kept[0]) < 40


def leaks(problem: Problem, lake: Lake) -> list[str]:
    """The features that are named as leaking."""
    rows = datasets.training_set(problem, lake, as_of=hour(9))
    try:
        datasets.validate_no_leakage(problem, rows, datasets.history_as_of(problem, lake, as_of=hour(9)))
    except Rejected as error:
        named = re.fullmatch(
            r"feature leakage: (.+) change when future rows and the row itself are removed from the history", str(error)
        )
        assert named
        return named[1].split(", ")
    return []


def test_features_that_know_no_more_than_was_known_leak_nothing(lake: Lake) -> None:
    assert leaks(VISITS, lake) == []


def bill_of_the_visit(rows: Frame, history: Mapping[str, Frame]) -> Frame:
    bills = history["bills"].select("id", spoiler=nw.col("high").cast(nw.Int64))
    return stars_of_the_shop(rows, history).join(bills, on="id", how="left")


def visits_of_the_day(rows: Frame, history: Mapping[str, Frame]) -> Frame:
    return (
        stars_of_the_shop(rows, history)
        .with_columns(spoiler=nw.lit(1))
        .join(history["visits"].group_by("shop").agg(booked=nw.len()), on="shop", how="left")
    )


def test_a_feature_that_uses_an_outcome_known_later_is_named(lake: Lake) -> None:
    assert leaks(made(bill_of_the_visit, (*VISITS.features, "spoiler")), lake) == ["spoiler"]


def test_a_feature_that_counts_rows_booked_later_is_named_and_a_constant_is_not(lake: Lake) -> None:
    assert leaks(made(visits_of_the_day, (*VISITS.features, "booked", "spoiler")), lake) == ["booked"]


DAY = timedelta(days=1)


def test_a_feature_that_sees_the_row_itself_is_named_and_one_that_sees_rows_before_is_not(lake: Lake) -> None:
    def seats_of_the_shop(rows: Frame, history: Mapping[str, Frame]) -> Frame:
        booked = history["visits"].select("shop", "seats", booked=nw.col("time") - timedelta(hours=1))
        own = windows.latest(
            rows, booked.rename({"seats": "own"}), when="booked", within=DAY, values=["own"], by=["shop"]
        )
        before = booked.select("shop", past=nw.col("seats"), booked=nw.col("booked") + timedelta(minutes=1))
        return windows.latest(own, before, when="booked", within=DAY, values=["past"], by=["shop"])

    assert leaks(made(seats_of_the_shop, ("seats", "own", "past")), lake) == ["own"]


def test_leaking_features_are_named_in_the_order_of_their_names(lake: Lake) -> None:
    def both(rows: Frame, history: Mapping[str, Frame]) -> Frame:
        return bill_of_the_visit(rows, history).with_columns(again=nw.col("spoiler") * 2)

    assert leaks(made(both, ("spoiler", "seats", "again")), lake) == ["again", "spoiler"]


@pytest.mark.parametrize(("samples", "found"), [(1, []), (2, []), (3, ["spoiler"]), (9, ["spoiler"])])
def test_more_samples_look_at_more_moments(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, samples: int, found: list[str]
) -> None:
    monkeypatch.setattr(datasets, "LEAK_SAMPLES", samples)

    def late_spoiler(rows: Frame, history: Mapping[str, Frame]) -> Frame:
        late = nw.col("time") > hour(2.5)  # the last of four moments
        return bill_of_the_visit(rows, history).with_columns(spoiler=nw.when(late).then(nw.col("spoiler")))

    put(lake, Visit, {"id": 4, "time": hour(2.5), "shop": "north", "seats": 1})
    put(lake, Bill, {"id": 4, "paid": hour(8), "high": True})
    assert leaks(made(late_spoiler, ("seats", "spoiler")), lake) == found


def test_features_are_computed_again_at_five_moments(tmp_path: Path) -> None:
    lake, calls = Lake(str(tmp_path)), []
    put(lake, Meter, *({"read": hour(i), "level": i, "broken": False} for i in range(10)))

    def counting(rows: Frame, _: Mapping[str, Frame]) -> Frame:
        calls.append(rows)
        return rows

    problem = without_labels_apart(Meter, ("level",), counting)
    rows, history = (
        datasets.training_set(problem, lake, as_of=hour(10)),
        datasets.history_as_of(problem, lake, as_of=hour(10)),
    )
    calls.clear()
    datasets.validate_no_leakage(problem, rows, history)
    assert len(calls) == 5


def test_where_rows_have_no_time_nothing_can_leak_in_time(houses: Lake) -> None:
    def spread(rows: Frame, history: Mapping[str, Frame]) -> Frame:
        return rows.join(history["houses"].select(all=nw.len()), how="cross")

    assert leaks(without_labels_apart(House, ("size", "all"), spread), houses) == []


def rows_at_their_time(lake: Lake) -> bool:
    """Whether rows whose event time has no lead are predicted at it."""
    rows = datasets.training_set(METERS, lake, as_of=hour(9))
    return bool((rows["_predicted_at"] == rows["read"]).all())


def test_rows_of_one_moment_without_a_key_are_not_taken_for_each_other(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    put(lake, Meter, *({"read": hour(i % 2), "level": i, "broken": i % 3 == 0} for i in range(40)))

    assert rows_at_their_time(lake)

    def backwards(rows: Frame, _: Mapping[str, Frame]) -> Frame:
        return rows.sort("level", descending=True)

    assert leaks(METERS, lake) == []
    assert leaks(without_labels_apart(Meter, ("level",), backwards), lake) == []
