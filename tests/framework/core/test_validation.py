"""Batches against a contract: what is accepted, what is rejected and for which rules, what breaches a batch whole."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from io import BytesIO
from typing import Annotated, Any, ClassVar

import narwhals as nw
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from my_ml_project.core.contracts import validation
from my_ml_project.core.contracts.schema import (
    AvailableAt,
    Category,
    EventTime,
    Key,
    Nulls,
    Table,
    Target,
    schema_of,
)

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
BROKEN = "_violations"


class Order(Table):
    """An order in a shop."""

    table: ClassVar = "orders"
    rules: ClassVar = {
        "paid is not below price": nw.col("paid") >= nw.col("price"),
        "only gifts are free": (nw.col("price") > 0) | nw.col("gift"),
    }

    id: Annotated[int, Key()]
    shop: Annotated[str, Key(), Category(("north", "south"))]
    placed: datetime
    day: date | None = None
    price: Annotated[float, Field(ge=0, lt=100)]
    paid: float | None = None
    kind: Annotated[str | None, Category(("book",), open=True)] = None
    note: Annotated[str | None, Nulls(at_most=0.5)] = None
    gift: bool = False


class Click(Table):
    """A click has no identity."""

    table: ClassVar = "clicks"

    page: str


ORDERS, CLICKS = schema_of(Order), schema_of(Click)
NOTHING = pl.DataFrame(schema=ORDERS.dtypes)


def order(number: int = 1, **change: Any) -> dict[str, Any]:
    row = {"id": number, "shop": "north", "placed": NOON, "day": NOON.date(), "price": 2.5, "paid": 2.5}
    return row | {"kind": "book", "note": "thanks", "gift": False} | change


def orders(*rows: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=ORDERS.dtypes)


def validate(*rows: dict[str, Any], stored: pl.DataFrame = NOTHING) -> validation.BatchReport:
    return validation.validate(orders(*rows), ORDERS, context=validation.Context(stored))


def breach(batch: pl.DataFrame) -> tuple[str, ...]:
    with pytest.raises(validation.ContractViolation) as caught:
        validation.conform(batch, ORDERS)
    assert str(caught.value) == "; ".join(caught.value.reasons)
    return caught.value.reasons


def test_every_reason_why_columns_do_not_conform_is_given_at_once() -> None:
    batch = orders(order()).drop("note", "day").with_columns(colour=pl.lit("red"), price=pl.lit("2.5"))
    assert breach(batch) == (
        "column day is missing",
        "column note is missing",
        "column colour is unknown",
        "column price is String, not Float64",
    )


def test_an_empty_batch_is_a_breach() -> None:
    assert breach(NOTHING) == ("it has no rows",)


@pytest.mark.parametrize(
    ("name", "values", "dtype"),
    [
        ("id", ["1"], pl.String),
        ("id", [1.0], pl.Float64),
        ("id", [True], pl.Boolean),
        ("id", [None], pl.Null),
        ("price", ["2.5"], pl.String),
        ("price", [True], pl.Boolean),
        ("shop", [1], pl.Int64),
        ("gift", [1], pl.Int64),
        ("placed", [NOON.date()], pl.Date),
        ("placed", ["2024-05-01"], pl.String),
        ("day", [NOON], pl.Datetime("us", "UTC")),
    ],
)
def test_another_type_is_a_breach(name: str, values: list[Any], dtype: pl.DataType) -> None:
    batch = orders(order()).with_columns(pl.Series(name, values, dtype=dtype))
    assert breach(batch) == (f"column {name} is {batch[name].dtype}, not {ORDERS.dtypes[name]}",)


@pytest.mark.parametrize(
    ("name", "stored", "expected"),
    [
        ("id", pl.Series([7], dtype=pl.Int8), 7),
        ("id", pl.Series([7], dtype=pl.UInt64), 7),
        ("price", pl.Series([7], dtype=pl.Int16), 7.0),
        ("price", pl.Series([0.5], dtype=pl.Float32), 0.5),
        ("paid", pl.Series([None], dtype=pl.Null), None),
        ("placed", pl.Series([datetime(2024, 5, 1, 12)], dtype=pl.Datetime("ms")), NOON),  # noqa: DTZ001 - naive
        (
            "placed",
            pl.Series([NOON.astimezone(timezone(timedelta(hours=2)))], dtype=pl.Datetime("ns", "Europe/Zurich")),
            NOON,
        ),
    ],
)
def test_numbers_and_times_may_be_stored_otherwise(name: str, stored: pl.Series, expected: object) -> None:
    batch = orders(order()).with_columns(stored.alias(name))
    conforming = validation.conform(batch.select(reversed(batch.columns)), ORDERS)
    assert dict(conforming.schema) == ORDERS.dtypes
    assert conforming.columns == ORDERS.names
    assert conforming[name].to_list() == [expected]


def test_a_number_too_large_for_the_lake_is_a_breach() -> None:
    batch = orders(order()).with_columns(id=pl.Series([2**63], dtype=pl.UInt64))
    assert len(breach(batch)) == 1


def read_csv(text: str) -> pl.DataFrame:
    return pl.read_csv(BytesIO(text.encode()), infer_schema=False)


HEAD = "id,shop,placed,day,price,paid,kind,note,gift\n"


@pytest.mark.parametrize("placed", ["2024-05-01 12:00:00", "2024-05-01T12:00:00Z", "2024-05-01T14:00:00+02:00"])
@pytest.mark.parametrize("gift", ["true", "TRUE", "1"])
def test_text_from_csv_is_read_in_the_contracts_types(placed: str, gift: str) -> None:
    batch = read_csv(f"{HEAD}1,north,{placed},2024-05-01,2.5,,book,,{gift}\n")
    typed = validation.parse(batch, ORDERS)
    assert typed.equals(orders(order(paid=None, note=None, gift=True)))
    assert validation.parse(batch.with_columns(gift=pl.lit("False")), ORDERS)["gift"].to_list() == [False]
    assert validation.parse(batch.with_columns(gift=pl.lit("0")), ORDERS)["gift"].to_list() == [False]


@pytest.mark.parametrize("placed", ["04/03/2024 12:00", "25.10.2024 12:00"])
def test_a_date_whose_order_must_be_guessed_is_not_read(placed: str) -> None:
    with pytest.raises(
        validation.ContractViolation, match=f"column placed has 1 values that are no datetime, as '{placed}'"
    ):
        validation.parse(read_csv(f"{HEAD}1,north,{placed},2024-05-01,2.5,,book,,1\n"), ORDERS)


def test_columns_that_are_missing_or_unknown_in_csv_are_left_to_the_check_of_columns() -> None:
    typed = validation.parse(read_csv("id,colour\n1,red\n"), ORDERS)
    assert typed.to_dicts() == [{"id": 1, "colour": "red"}]


def test_values_that_cannot_be_read_are_counted_and_shown() -> None:
    batch = read_csv(
        HEAD + "x,north,2024-05-01 12:00:00,2024-05-01,2.5,2.5,book,,yes\n1.5,north,soon,May,cheap,2,book,,no\n"
    )
    with pytest.raises(validation.ContractViolation) as caught:
        validation.parse(batch, ORDERS)
    assert caught.value.reasons == (
        "column day has 1 values that are no date, as 'May'",
        "column gift has 2 values that are no bool, as 'yes'",
        "column id has 2 values that are no int, as 'x'",
        "column placed has 1 values that are no datetime, as 'soon'",
        "column price has 1 values that are no float, as 'cheap'",
    )


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ({}, []),
        ({"price": 0.0}, ["only gifts are free"]),
        ({"price": 0.0, "gift": True}, []),
        ({"price": -1.0, "gift": True}, ["price >= 0"]),
        ({"price": 100.0, "paid": 100.0}, ["price < 100"]),
        ({"paid": 2.0}, ["paid is not below price"]),
        ({"paid": None}, []),
        ({"shop": "west"}, ["shop is a known category"]),
        ({"shop": None}, ["shop is not null"]),
        ({"placed": None}, ["placed is not null"]),
        ({"kind": "pen"}, []),
        ({"id": None, "shop": "west", "paid": 1.0}, ["id is not null", "shop is a known category", BROKEN]),
        ({"paid": float("inf")}, ["paid is finite"]),
    ],
)
def test_a_row_is_rejected_with_the_rules_that_it_breaks(change: dict[str, Any], broken: list[str]) -> None:
    expected = ["paid is not below price" if rule == BROKEN else rule for rule in broken]
    report = validate(order(1) | change, *(order(100 + i) for i in range(3)))
    assert len(report.valid) == (4 if not broken else 3)
    assert report.invalid[BROKEN].to_list() == ([expected] if broken else [])
    assert report.counts == dict.fromkeys(sorted(expected), 1)
    assert dict(report.valid.schema) == ORDERS.dtypes


def test_a_table_without_any_rule_has_no_invalid_row() -> None:
    class Note(Table):
        table: ClassVar = "notes"

        text: str | None

    rows = pl.DataFrame({"text": ["a", None]})
    assert validation.with_violations(rows, schema_of(Note))[BROKEN].to_list() == [[], []]
    assert validation.with_violations(rows.lazy(), schema_of(Note)).collect()[BROKEN].to_list() == [[], []]


def test_rows_that_break_a_rule_are_counted_rule_by_rule() -> None:
    report = validate(order(1, price=0.0), order(2, price=0.0, shop="west"), order(3))
    assert report.counts == {"only gifts are free": 2, "shop is a known category": 1}
    assert validate(order()).counts == {}


def test_a_row_like_a_stored_one_is_a_repeat_missing_values_included() -> None:
    stored = orders(order(1, note=None), order(2))
    report = validate(order(1, note=None), order(2), order(3), stored=stored)
    assert (report.duplicates, report.valid["id"].to_list(), len(report.invalid)) == (2, [3], 0)


def test_a_row_twice_in_a_batch_is_accepted_once() -> None:
    report = validate(order(1), order(1), order(2), order(1))
    assert (report.duplicates, report.valid["id"].to_list(), len(report.invalid)) == (2, [1, 2], 0)


def test_a_row_with_the_key_of_another_stored_one_is_rejected() -> None:
    report = validate(order(1, price=2.0), order(2), stored=orders(order(1)))
    assert report.invalid.select("id", BROKEN).rows() == [(1, ["key is unique"])]
    assert report.valid["id"].to_list() == [2]


def test_rows_of_a_batch_that_share_a_key_and_differ_are_rejected_together_since_none_is_surely_right() -> None:
    report = validate(order(1, price=2.0), order(1, price=1.0), order(2))
    assert report.invalid.select("id", BROKEN).rows() == [(1, ["key is unique"]), (1, ["key is unique"])]
    assert report.valid["id"].to_list() == [2]


def test_a_key_is_all_of_its_columns() -> None:
    report = validate(order(1), order(1, shop="south"), stored=orders(order(2, shop="south"), order(2)))
    assert (len(report.valid), len(report.invalid), report.duplicates) == (2, 0, 0)


def test_the_rule_of_the_key_comes_after_the_rows_own() -> None:
    report = validate(order(1, paid=1.0), order(2), stored=orders(order(1)))
    assert report.invalid[BROKEN].to_list() == [["paid is not below price", "key is unique"]]


def test_rows_without_identity_are_neither_repeats_nor_clashes() -> None:
    clicks = pl.DataFrame({"page": ["home", "home"]})
    report = validation.validate(clicks, CLICKS, context=validation.Context(clicks))
    assert (len(report.valid), report.duplicates, len(report.invalid), report.rejected) == (2, 0, 0, ())


@pytest.mark.parametrize(("rows", "bad", "breached"), [(100, 1, False), (100, 2, True), (99, 1, True), (200, 2, False)])
def test_more_than_one_bad_row_in_a_hundred_breaches_the_batch(rows: int, bad: int, *, breached: bool) -> None:
    report = validate(*(order(i, price=0.0 if i < bad else 1.0) for i in range(rows)))
    expected = (f"{bad} of {rows} rows violate a rule (at most 1%)",) if breached else ()
    assert (report.rejected, len(report.invalid), len(report.valid)) == (expected, bad, rows - bad)


@pytest.mark.parametrize(("missing", "breached"), [(4, False), (5, True)])
def test_more_missing_values_than_the_contract_allows_breach_the_batch(missing: int, *, breached: bool) -> None:
    report = validate(*(order(i, note=None if i < missing else "thanks") for i in range(8)))
    assert report.rejected == (("note is missing in 62.5% of rows (at most 50.0%)",) if breached else ())


def test_a_share_of_missing_values_is_taken_of_all_rows_repeats_included() -> None:
    rows = [order(i, note=None if i < 2 else "thanks") for i in range(4)]
    assert validate(*rows, stored=orders(*rows[2:])).rejected == ()


def test_a_new_value_of_a_category_that_grows_is_let_in_with_a_note() -> None:
    report = validate(order(1, kind="pen"), order(2, kind="cup"), order(3, kind="pen"), order(4, kind=None), order(5))
    assert report.warnings == ("kind has a new value 'cup'", "kind has a new value 'pen'")
    assert len(report.valid) == 5


SAMPLES = st.fixed_dictionaries(
    {
        "id": st.integers(1, 4) | st.none(),
        "shop": st.sampled_from(["north", "south", "west"]),
        "price": st.sampled_from([0.0, 1.0, 2.0]),
        "paid": st.sampled_from([None, 1.0]),
        "gift": st.booleans(),
    }
).map(lambda change: order() | change)


@settings(deadline=None, max_examples=60)
@given(st.lists(SAMPLES, min_size=1, max_size=10), st.lists(SAMPLES, max_size=5), st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing_and_no_row_is_lost(
    rows: list[dict[str, Any]], before: list[dict[str, Any]], random: Any
) -> None:
    stored = validate(*before).valid if before else NOTHING
    shuffled = random.sample(rows, len(rows))
    first, second = validate(*rows, stored=stored), validate(*shuffled, stored=stored)
    assert Counter(first.valid.rows()) == Counter(second.valid.rows())
    assert Counter(map(str, first.invalid.rows())) == Counter(map(str, second.invalid.rows()))
    assert (first.duplicates, first.counts, first.rejected) == (second.duplicates, second.counts, second.rejected)
    assert len(first.valid) + len(first.invalid) + first.duplicates == len(rows)
    lake = pl.concat([stored, first.valid])
    assert lake.select("id", "shop").is_duplicated().sum() == 0
    assert validate(*rows, stored=lake).valid.is_empty()


# Beside the weeks before


class Reading(Table):
    """A reading of a meter, known a while after."""

    table: ClassVar = "readings"
    max_span: ClassVar = timedelta(days=2)
    min_volume: ClassVar = 0.5

    meter: Annotated[int, Key()]
    at: Annotated[datetime, AvailableAt()]
    value: float
    note: str | None = None
    kind: Annotated[str, Category(("gas",), open=True)] = "gas"


READINGS = schema_of(Reading)


def readings(n: int = 20, **change: Any) -> pl.DataFrame:
    rows = {"meter": list(range(n)), "at": [NOON] * n, "value": [float(i) for i in range(n)], "note": ["a"] * n}
    return pl.DataFrame(rows | {"kind": ["gas"] * n} | change, schema=READINGS.dtypes)


def a_day(n: int) -> pl.DataFrame:
    """Readings that lie half a day apart."""
    return readings(n, at=[NOON - timedelta(hours=12)] + [NOON] * (n - 1))


def beside(batch: pl.DataFrame, *days: pl.DataFrame, now: datetime | None = None) -> validation.BatchReport:
    return validation.validate(batch, READINGS, context=validation.Context(readings(0), days), now=now)


@pytest.mark.parametrize(("rows", "breached"), [(19, True), (20, False)])
def test_a_batch_with_less_than_half_of_the_fullest_week_is_breached(rows: int, *, breached: bool) -> None:
    report = beside(a_day(rows), readings(0), readings(40), readings(30))
    expected = (f"{rows} rows, where the weeks before have up to 40 (at least 50% of them)",)
    assert report.rejected == (expected if breached else ())


def test_rows_that_the_lake_has_of_the_same_days_count_too() -> None:
    assert beside(a_day(5), readings(15), readings(40)).rejected == ()
    assert beside(a_day(5), readings(14), readings(40)).rejected != ()


def test_some_hours_tell_nothing_of_volume() -> None:
    hours = readings(5, at=[NOON - timedelta(hours=12) + timedelta(microseconds=1)] + [NOON] * 4)
    assert beside(hours, readings(0), readings(40)).rejected == ()


def test_without_weeks_before_or_with_few_rows_in_them_nothing_is_compared() -> None:
    assert beside(a_day(2)).rejected == ()
    assert beside(a_day(2), readings(0)).rejected == ()
    assert beside(a_day(2), readings(0), readings(11)).rejected == ()
    assert beside(a_day(2), readings(0), readings(12)).rejected != ()


@pytest.mark.parametrize(("missing", "breached"), [(15, False), (17, True)])
def test_many_more_missing_values_than_in_any_week_before_breach_the_batch(missing: int, *, breached: bool) -> None:
    batch = readings(note=[None] * missing + ["a"] * (20 - missing))
    usual = readings(note=[None] * 2 + ["a"] * 18)
    report = beside(batch, readings(0), usual, readings())
    expected = ("note is missing in 85% of rows, in the weeks before in at most 10%",)
    assert report.rejected == (expected if breached else ())


def test_a_value_that_sticks_breaches_the_batch_where_it_varied_before() -> None:
    stuck, five, four = (readings(value=[float(i % n) for i in range(20)]) for n in (1, 5, 4))
    assert beside(stuck, readings(0), five, readings()).rejected == (
        "value is 0.0 in every row: it does not vary, as it did in the weeks before",
    )
    assert beside(stuck, readings(0), four, readings()).rejected == ()
    assert beside(four, readings(0), five, readings()).rejected == ()
    assert beside(stuck.head(11), readings(0), readings()).rejected == ()


class Answer(Table):
    """Whether something was late, as one learns a while after."""

    table: ClassVar = "answers"

    number: Annotated[int, Key()]
    at: Annotated[datetime, AvailableAt()]
    late: Annotated[bool | None, Target()]


@pytest.mark.parametrize(
    ("batch", "weeks", "note"),
    [
        ([False] * 49, ["10", "1000"], "late is False in all 49 rows, in the weeks before in at most 75%"),
        ([False] * 48, ["10", "1000"], None),
        ([False] * 19, ["10"], None),
        ([None] * 30 + [False] * 20, ["10"], "late is False in all 20 rows, in the weeks before in at most 50%"),
        ([True] + [False] * 99, ["10"], None),
        ([False] * 100, ["10", "0"], None),
        ([False] * 100, [], None),
        ([False] * 100, [""], None),
        ([None] * 11, ["10"], None),
        ([True] * 11, ["0"], None),
        ([True] * 12, ["0"], "late is True in all 12 rows, in the weeks before in at most 0%"),
    ],
)
def test_a_target_that_is_the_same_in_every_row_is_said_where_that_is_no_chance(
    batch: list[bool | None], weeks: list[str], note: str | None
) -> None:
    schema = schema_of(Answer)

    def answers(late: Sequence[bool | None]) -> pl.DataFrame:
        return pl.DataFrame({"number": range(len(late)), "at": NOON, "late": late}, schema=schema.dtypes)

    before = [answers([letter == "1" for letter in week] * 20) for week in weeks]
    report = validation.validate(
        answers(batch), schema, context=validation.Context(answers([]), [answers([]), *before])
    )
    assert (report.rejected, report.warnings) == ((), (note,) if note else ())


@pytest.mark.parametrize(("new", "rows", "breached"), [(1, 20, False), (2, 20, True), (11, 11, False), (12, 12, True)])
def test_a_new_category_in_many_rows_breaches_the_batch(new: int, rows: int, *, breached: bool) -> None:
    report = beside(readings(rows, kind=["oil"] * new + ["gas"] * (rows - new)))
    expected = (f"kind is new in {new / rows:.1%} of rows (at most 5%)",)
    assert (report.rejected, report.warnings) == (expected if breached else (), ("kind has a new value 'oil'",))


def test_a_row_that_is_known_before_it_happens_is_rejected() -> None:
    instant = timedelta(microseconds=1)
    batch = readings(200, at=[NOON + instant] + [NOON] * 199)
    report = beside(batch, now=NOON)
    assert (report.counts, report.rejected) == ({"at is not in the future": 1}, ())
    assert beside(batch, now=NOON + instant).counts == {}
    assert beside(batch).counts == {}


def test_a_row_that_is_long_overdue_is_rejected() -> None:
    instant = timedelta(microseconds=1)
    old = [NOON - timedelta(days=2) - instant, NOON - timedelta(days=2)]
    report = beside(readings(200, at=old + [NOON] * 198))
    assert (report.counts, report.invalid["meter"].to_list()) == (
        {"at is within 2 days of the batch's newest": 1},
        [0],
    )


def test_an_event_is_not_known_before_it_happens_only_where_the_contract_says_when_it_was_known() -> None:
    class Visit(Table):
        table: ClassVar = "visits"

        at: Annotated[datetime, EventTime()]

    rows, context = pl.DataFrame({"at": [NOON]}, schema=schema_of(Visit).dtypes), validation.Context(pl.DataFrame())
    assert validation.validate(rows, schema_of(Visit), context=context, now=NOON - timedelta(days=1)).counts == {}


# Erased rows, and labels without a row


def test_erased_rows_are_dropped_before_anything_is_counted() -> None:
    erased = orders(order(1), order(2)).select("id", "shop")
    batch = orders(order(1, price=-1.0), order(2), order(3))
    report = validation.validate(batch, ORDERS, context=validation.Context(NOTHING, erased=erased))
    assert (report.valid["id"].to_list(), len(report.invalid), report.duplicates) == ([3], 0, 0)
    report = validation.validate(batch.head(2), ORDERS, context=validation.Context(NOTHING, erased=erased))
    assert (report.valid.is_empty(), report.rejected, report.counts) == (True, (), {})
    assert report.warnings == ("all of its rows were erased",)
    clicks = pl.DataFrame({"page": ["home"]})
    report = validation.validate(clicks, CLICKS, context=validation.Context(clicks.clear(), erased=erased))
    assert len(report.valid) == 1, "a table without the key has no erased rows"


@pytest.mark.parametrize(("found", "warned"), [(19, False), (18, True)])
def test_more_than_one_label_in_twenty_without_a_row_is_a_warning(found: int, *, warned: bool) -> None:
    schema = schema_of(Answer)
    labels = pl.DataFrame({"number": range(20), "at": NOON, "late": [True, False] * 10}, schema=schema.dtypes)
    entities = labels.head(found).select("number", pl.lit(NOON).cast(pl.Datetime("us", "UTC")).alias("_predicted_at"))
    context = validation.Context(labels.clear(), entities=entities, entity_table="questions")
    report = validation.validate(labels, schema, context=context)
    assert len(report.valid) == 20
    assert report.warnings == (("2 of 20 keys are of no row in questions",) if warned else ())


def test_a_label_from_before_its_row_is_predicted_is_invalid() -> None:
    schema = schema_of(Answer)
    labels = pl.DataFrame({"number": [1, 2, 3], "at": NOON, "late": [True, True, None]}, schema=schema.dtypes)
    instant = timedelta(microseconds=1)
    times = pl.Series("_predicted_at", [NOON, NOON + instant, NOON + instant], dtype=pl.Datetime("us", "UTC"))
    context = validation.Context(labels.clear(), entities=labels.select("number", times), entity_table="questions")
    report = validation.validate(labels, schema, context=context)
    assert report.invalid.select("number", BROKEN).rows() == [(2, ["at is not before its row is predicted"])]
