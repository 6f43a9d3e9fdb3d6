"""A contract's schema, and what is derived from it: request model, data dictionary, sample rows."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Optional

import narwhals as nw
import polars as pl
import pytest
from narwhals.exceptions import ColumnNotFoundError
from pydantic import Field, ValidationError, create_model

from my_ml_project.core.contracts import sample_data
from my_ml_project.core.contracts.data_dictionary import (
    data_dictionary,
    write_data_dictionary,
)
from my_ml_project.core.contracts.schema import (
    AvailableAt,
    Category,
    EventTime,
    Excluded,
    Key,
    Nulls,
    Personal,
    Table,
    Target,
    Task,
    schema_of,
    task_of,
)
from my_ml_project.core.errors import InputError
from my_ml_project.production.service.request_model import row_model
from my_ml_project.shared import contract

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


class Parcel(Table):
    """A parcel
    on its way."""

    table: ClassVar = "parcels"
    rules: ClassVar = {"paid is not below weight": nw.col("paid") >= nw.col("weight")}

    id: Annotated[int, Key(), Personal()]
    sent: Annotated[datetime, EventTime(lead=timedelta(hours=1))]
    day: date
    size: Annotated[str, Category(("S", "M", "L"))]
    city: Annotated[str | None, Category(("Bern",), open=True), Field(description="where to")]
    weight: Annotated[float, Field(gt=0, le=30, description="kilograms")]
    paid: Annotated[int, Field(ge=30, lt=60)]
    name: Annotated[str | None, Personal(), Nulls(at_most=0.25)] = None
    route: Annotated[str | None, Excluded("decided later")] = None
    lost: Annotated[bool | None, Target()]


class Scan(Table):
    """Seen at a station."""

    table: ClassVar = "scans"

    station: Annotated[str, Key()]
    seen: Annotated[datetime, Key(), AvailableAt()]


class Reading(Table):
    """Has neither time nor key."""

    table: ClassVar = "readings"

    value: Annotated[float | None, Target()]


PARCEL: dict[str, Any] = {
    "id": 1,
    "sent": NOON,
    "day": NOON.date(),
    "size": "S",
    "city": "Bern",
    "weight": 2.5,
    "paid": 30,
    "name": "Ada",
    "route": "north",
    "lost": False,
}


def test_columns_keep_the_order_of_their_fields_and_have_the_lakes_types() -> None:
    assert schema_of(Parcel).dtypes == {
        "id": pl.Int64,
        "sent": pl.Datetime("us", "UTC"),
        "day": pl.Date,
        "size": pl.String,
        "city": pl.String,
        "weight": pl.Float64,
        "paid": pl.Int64,
        "name": pl.String,
        "route": pl.String,
        "lost": pl.Boolean,
    }
    assert schema_of(Parcel).names == list(PARCEL)


def test_a_column_may_be_missing_where_its_type_says_so() -> None:
    optional = [column.name for column in schema_of(Parcel).columns if column.optional]
    assert optional == ["city", "name", "route", "lost"]


def test_roles_are_read_from_the_annotations() -> None:
    parcel, scan, reading = schema_of(Parcel), schema_of(Scan), schema_of(Reading)
    assert (parcel.name, parcel.key, parcel.event_time, parcel.target) == ("parcels", ["id"], "sent", "lost")
    assert (scan.key, scan.event_time, scan.target) == (["station", "seen"], None, None)
    assert (reading.key, reading.event_time, reading.target) == ([], None, "value")
    assert (parcel.lead, scan.lead) == (timedelta(hours=1), timedelta(0))


def test_features_never_see_personal_and_forbidden_columns_but_keys() -> None:
    assert sorted(schema_of(Parcel).excluded_columns) == ["name", "route"]
    assert schema_of(Scan).excluded_columns == []


def test_a_request_has_every_column_but_the_target() -> None:
    parcel = schema_of(Parcel)
    assert parcel.request.names == [name for name in parcel.names if name != "lost"]
    assert (parcel.request.target, parcel.request.name) == (None, "parcels")


@pytest.mark.parametrize(
    ("table", "predicted", "known"),
    [
        (Parcel, NOON - timedelta(hours=1), NOON - timedelta(hours=1)),
        (Scan, NOON + timedelta(hours=9), NOON + timedelta(hours=5)),
        (Reading, NOON + timedelta(hours=9), NOON + timedelta(hours=9)),
    ],
)
def test_a_row_is_predicted_before_its_event_or_at_arrival_and_known_as_declared(
    table: type[Table], predicted: datetime, known: datetime
) -> None:
    arrived = NOON + timedelta(hours=9)
    rows = nw.from_native(pl.DataFrame([{"sent": NOON, "seen": NOON + timedelta(hours=5), "_ingested_at": arrived}]))
    schema = schema_of(table)
    found = rows.select(predicted=schema.predicted_at, known=schema.available_at)
    assert found.row(0) == (predicted, known)


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ({"id": None}, ["id is not null"]),
        ({"size": "XL"}, ["size is a known category"]),
        ({"weight": 0.0}, ["weight > 0"]),
        ({"weight": 30.001, "paid": 31}, ["weight <= 30"]),
        ({"weight": float("-inf")}, ["weight > 0", "weight is finite"]),
        ({"paid": 29}, ["paid >= 30"]),
        ({"paid": 60}, ["paid < 60"]),
        ({"weight": 30.0, "paid": 30}, []),
        ({"weight": 0.001, "paid": 59}, []),
        ({"size": "L", "city": "Rome"}, []),
        ({"city": None, "name": None, "route": None, "lost": None}, []),
    ],
)
def test_a_value_breaks_exactly_the_conditions_that_it_does_not_meet(change: dict[str, Any], broken: list[str]) -> None:
    schema = schema_of(Parcel)
    rows = nw.from_native(pl.DataFrame([PARCEL | change], schema=schema.dtypes))
    (kept,) = rows.select(**schema.conditions()).rows(named=True)
    assert [name for name, value in kept.items() if value is False] == broken


def test_rules_across_columns_come_last() -> None:
    schema = schema_of(Parcel)
    assert list(schema.conditions())[-1] == "paid is not below weight"
    rows = nw.from_native(pl.DataFrame({"paid": [30, 30], "weight": [30.0, 30.5]}))
    kept = rows.select(kept=schema.conditions()["paid is not below weight"])
    assert kept["kept"].to_list() == [True, False]


def test_rules_that_need_a_column_that_is_left_out_are_not_asked() -> None:
    schema = schema_of(Parcel)
    light = schema.without(["weight"])
    assert light.names == [name for name in schema.names if name != "weight"]
    assert list(light.conditions()) == [
        name
        for name in schema.conditions()
        if name not in {"paid is not below weight", *schema.column("weight").conditions()}
    ]
    assert "paid is not below weight" in schema.without(["name", "lost"]).conditions()


def test_a_rule_that_names_no_column_of_its_table_stays_an_error() -> None:
    class Odd(Table):
        table: ClassVar = "odd"
        rules: ClassVar = {"b is not null": ~nw.col("b").is_null()}

        a: int

    with pytest.raises(ColumnNotFoundError, match="b"):
        nw.from_native(pl.DataFrame({"a": [1]})).select(**schema_of(Odd).conditions())


@pytest.mark.parametrize("kind", [bytes, int | str, list[int], Literal["a", "b"]])
def test_a_type_that_the_lake_does_not_store_is_named(kind: Any) -> None:
    odd = create_model("Odd", __base__=Table, blob=(kind, ...))
    line = r"^column blob of shared/contract\.py is of [^\n]+: use one of bool, int, float, str, date, datetime$"
    with pytest.raises(InputError, match=line):
        schema_of(odd)


@pytest.mark.parametrize(
    ("kind", "limit"), [(str, {"min_length": 3}), (str, {"pattern": "^a"}), (int, {"multiple_of": 5})]
)
def test_a_limit_that_no_row_is_held_to_is_named(kind: Any, limit: dict[str, Any]) -> None:
    odd = create_model("Odd", __base__=Table, code=(kind, Field(**limit)))
    with pytest.raises(InputError, match=r"^column code of shared/contract\.py has [^\n]+, which is not supported: "):
        schema_of(odd)


@pytest.mark.parametrize("kind", [int | None, Optional[int]])  # noqa: UP045 - as people write it
def test_a_column_that_may_be_missing_is_of_the_type_that_is_left(kind: Any) -> None:
    (column,) = schema_of(create_model("Even", __base__=Table, count=(kind, ...))).columns
    assert (column.kind, column.optional) == (int, True)


def test_a_table_class_refuses_unknown_fields_and_numbers_that_are_not_finite() -> None:
    assert Parcel.model_validate(PARCEL).paid == 30
    assert Reading.model_validate({"value": 1e300}).value == 1e300
    with pytest.raises(ValidationError):
        Parcel.model_validate(PARCEL | {"colour": "red"})
    for number in (float("inf"), float("-inf"), float("nan")):
        with pytest.raises(ValidationError):
            Reading.model_validate({"value": number})


def test_the_targets_type_says_what_the_task_is() -> None:
    class Answer(Table):
        table: ClassVar = "answers"

        yes: bool
        word: str | None
        number: int
        amount: float

    tasks = [task_of(column) for column in schema_of(Answer).columns]
    assert list(Task) == ["binary", "multiclass", "regression"], "as releases keep them"
    assert tasks == [Task.BINARY, Task.MULTICLASS, Task.REGRESSION, Task.REGRESSION]


def test_the_request_model_takes_a_row_without_its_target_and_nothing_else() -> None:
    model = row_model(Parcel)
    row = {name: value for name, value in PARCEL.items() if name != "lost"}
    assert model.model_validate(row).model_dump() == row
    assert model.__name__ == "ParcelRequest"
    assert model.model_validate({k: v for k, v in row.items() if k != "name"}).model_dump()["name"] is None
    for wrong in (PARCEL, row | {"paid": 60}, row | {"weight": float("nan")}, {"id": 1}):
        with pytest.raises(ValidationError):
            model.model_validate(wrong)


def test_the_data_dictionary_has_a_row_a_column_with_role_limits_and_meaning() -> None:
    lines = data_dictionary((Parcel, Scan)).splitlines()
    assert lines[:5] == [
        "## parcels",
        "",
        "A parcel on its way.",
        "",
        "| column | type | role | limits | meaning |",
    ]
    assert "| `id` | int | key, personal | is not null |  |" in lines
    assert "| `sent` | datetime | event time | is not null |  |" in lines
    assert "| `city` | str |  |  | where to |" in lines
    assert "| `weight` | float |  | is not null; > 0; ≤ 30; is finite | kilograms |" in lines
    assert "| `name` | str | personal | at most 25% missing |  |" in lines
    assert "| `lost` | bool | target |  |  |" in lines
    assert lines[lines.index("Rules:") :][:4] == ["Rules:", "", "- paid is not below weight", ""]
    assert lines[lines.index("## scans") :] == [
        "## scans",
        "",
        "Seen at a station.",
        "",
        "| column | type | role | limits | meaning |",
        "| -- | -- | -- | -- | -- |",
        "| `station` | str | key | is not null |  |",
        "| `seen` | datetime | key, available at | is not null |  |",
    ]
    assert lines[lines.index("Rules:") - 1] == ""


def test_the_data_dictionary_is_written_as_a_page(tmp_path: Path) -> None:
    path = tmp_path / "docs" / "dictionary.md"
    assert str(write_data_dictionary((Parcel, Scan), path)) == f"parcels, scans in {path}"
    text = path.read_bytes().decode()
    assert text.startswith("# Data dictionary\n\nWritten from `shared/contract.py`; do not edit.\n\n## ")
    assert text.endswith(data_dictionary((Parcel, Scan)))
    assert "\r" not in text


def test_sample_rows_keep_the_contract_and_are_the_same_for_the_same_seed() -> None:
    rows = sample_data.sample(Parcel, 200)
    assert dict(rows.schema) == schema_of(Parcel).dtypes
    assert len(rows) == 200
    assert rows["weight"].is_between(0, 30, closed="right").all()
    assert rows["paid"].is_between(30, 59).all()
    assert rows["paid"].min() == 31
    assert rows["paid"].max() == 59
    assert set(rows["size"]) == {"S", "M", "L"}
    assert rows["lost"].n_unique() == 2
    assert rows["name"].to_list() == [f"name {i}" for i in range(200)]
    assert rows["id"].to_list() == list(range(1, 201))
    assert rows["day"][:2].to_list() == [date(2024, 1, 1), date(2024, 1, 2)]
    assert rows["sent"][1] - rows["sent"][0] == timedelta(hours=1)
    assert rows.equals(sample_data.sample(Parcel, 200))
    assert not rows.equals(sample_data.sample(Parcel, 200, seed=1))


def test_examples_are_taken_in_turn_together_so_that_they_can_keep_rules() -> None:
    class Pair(Table):
        table: ClassVar = "pairs"
        rules: ClassVar = {"right is left doubled": nw.col("right") == nw.col("left") * 2}

        left: Annotated[int, Field(examples=[1, 2, 3])]
        right: Annotated[int, Field(examples=[2, 4, 6])]

    assert sample_data.sample(Pair, 5).rows() == [(1, 2), (2, 4), (3, 6), (1, 2), (2, 4)]


def test_sample_rows_that_break_a_rule_all_the_same_are_left_out() -> None:
    class Range(Table):
        table: ClassVar = "ranges"
        rules: ClassVar = {"low is below high": nw.col("low") < nw.col("high")}

        low: float
        high: float

    rows = sample_data.sample(Range, 200)
    assert 50 < len(rows) < 150
    assert (rows["low"] < rows["high"]).all()


def test_sample_values_lie_between_limits_that_are_no_whole_numbers() -> None:
    class Ratio(Table):
        table: ClassVar = "ratios"

        share: Annotated[float, Field(ge=0.0, le=1.0)]
        below: Annotated[float, Field(lt=-0.5)]

    assert len(sample_data.sample(Ratio, 50)) == 50


def test_sample_values_with_an_open_end_lie_within_a_thousand() -> None:
    class Open(Table):
        table: ClassVar = "open"

        up: Annotated[int, Field(ge=500)]
        down: Annotated[int, Field(lt=-500)]
        one: Annotated[int, Field(gt=6, lt=8)]

    rows = sample_data.sample(Open, 1100)
    assert [(rows[name].min(), rows[name].max()) for name in rows.columns] == [(501, 1499), (-1499, -501), (7, 7)]
    assert len(rows) == 1100


def test_every_table_of_the_projects_contract_has_sample_rows() -> None:
    for table in contract.TABLES:
        rows = sample_data.sample(table, 20)
        assert len(rows) > 1
        assert list(rows.columns) == schema_of(table).names


class Trip(Table):
    table: ClassVar = "trips"
    max_span: ClassVar = timedelta(days=3)

    id: Annotated[int, Field(ge=0), Key()]
    leaves: Annotated[datetime, EventTime(lead=timedelta(hours=1))]
    town: str
    bags: int | None
    seat: Annotated[int | None, Nulls(at_most=0.01)]


class Arrival(Table):
    table: ClassVar = "arrivals"

    id: Annotated[int, Field(ge=0), Key()]
    known: Annotated[datetime, AvailableAt()]
    late: Annotated[bool, Target()]


class Rain(Table):
    table: ClassVar = "rain"

    hour: Annotated[datetime, Key(), AvailableAt()]
    town: str
    fell: float


def test_sample_rows_of_several_tables_belong_together() -> None:
    tables = sample_data.sample_tables(Trip, (Rain, Trip, Arrival), 100)
    trips, arrivals, rain = tables["trips"], tables["arrivals"], tables["rain"]
    assert {name: dict(rows.schema) for name, rows in tables.items()} == {
        table.table: schema_of(table).dtypes for table in (Trip, Arrival, Rain)
    }
    assert 50 < len(trips) < 100, "those within the span"
    assert trips["bags"].null_count() == pytest.approx(len(trips) / 10, abs=1)
    assert trips["seat"].null_count() == 0, "a tenth is more than may be missing"
    joined = trips.join(arrivals, on="id")
    assert len(joined) == len(trips) == len(arrivals)
    assert (joined["known"] == joined["leaves"]).all()
    assert set(rain["town"]) <= set(trips["town"])
    assert rain["hour"].is_unique().all()
    ahead = rain.join(trips, on="town").select(pl.col("leaves") - pl.col("hour")).to_series()
    assert ahead.is_between(timedelta(hours=1), timedelta(hours=3.5)).all()
    assert tables["rain"].equals(sample_data.sample_tables(Trip, (Rain, Trip, Arrival), 100)["rain"])


def test_sample_classes_are_three_where_the_contract_names_none() -> None:
    class Guess(Table):
        table: ClassVar = "guesses"

        answer: Annotated[str, Target()]

    assert sample_data.sample(Guess, 30)["answer"].n_unique() == 3


@pytest.mark.parametrize("name", ["copy", "json", "schema", "dict", "version", "rules", "_x", "model_dump"])
def test_a_column_whose_name_is_taken_is_refused_in_one_line(name: str) -> None:
    columns = {"__annotations__": {"max_span": ClassVar[timedelta], name: int}, "__module__": __name__}
    with pytest.raises(
        InputError, match=rf"^a column of Planted can't be called {name}, a name that pydantic or Table"
    ):
        type(Table)("Planted", (Table,), columns)  # type: ignore[misc]
