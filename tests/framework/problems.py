"""The tiny problem that the framework's tests stand on: three small tables, made up by a seeded generator.

Which parcels will be late? A parcel is predicted two hours before it is due, from what it is, the latest observation
of the traffic, and the delays of the hours before; whether it was late is known hours after. It is written as the user
of a project would write it; a champion learns enough to pass the gate within a second.
"""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import narwhals as nw
import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from my_ml_project.core.contracts.schema import (
    AvailableAt,
    Category,
    EventTime,
    Excluded,
    Frame,
    Key,
    Personal,
    Table,
    Target,
)
from my_ml_project.core.features import windows
from my_ml_project.core.models.search_space import Search
from my_ml_project.core.problem import ModelSpec, Problem

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

# --- contract

COURIERS = ("bike", "truck", "van")
KILOMETRES = {"Aston": 12, "Brook": 30, "Caster": 55, "Dale": 80}


class Parcel(Table):
    """A parcel that is under way, known a day ahead."""

    table: ClassVar = "parcels"
    rules: ClassVar = {
        "distance belongs to city": nw.concat_str("city", nw.col("distance").cast(nw.String), separator=" ").is_in(
            [f"{city} {distance}" for city, distance in KILOMETRES.items()]
        )
        | ~nw.col("city").is_in(list(KILOMETRES)),
        "ordered is not after due": nw.col("ordered") <= nw.col("due").dt.date(),
    }

    parcel: Annotated[int, Field(gt=0), Key()]
    due: Annotated[datetime, EventTime(lead=timedelta(hours=2))]
    ordered: date
    courier: Annotated[str, Category(COURIERS, open=True)]
    city: Annotated[str, Field(examples=["Aston", "Dale"]), Category(tuple(KILOMETRES), open=True)]
    distance: Annotated[int, Field(gt=0, lt=1000, examples=[12, 80])]
    weight: Annotated[float | None, Field(gt=0)]
    sender: Annotated[str, Personal()]
    refunded: Annotated[bool, Excluded("is decided after the parcel was late")]


class Traffic(Table):
    """The roads in the half hour before."""

    table: ClassVar = "traffic"
    rules: ClassVar = {"speed is that of a road": (nw.col("speed") > 0) | (nw.col("delay") > 0)}

    observed: Annotated[datetime, Key(), AvailableAt()]
    speed: Annotated[float, Field(ge=0, lt=150)]
    rain: Annotated[float | None, Field(ge=0)]
    temperature: Annotated[float, Field(gt=-50, lt=60)]
    delay: Annotated[int, Field(ge=0, lt=1000)]


class Arrival(Table):
    """What became of a parcel."""

    table: ClassVar = "arrivals"

    parcel: Annotated[int, Field(gt=0), Key()]
    known: Annotated[datetime, AvailableAt()]
    late: Annotated[bool, Target()]


# --- features

FEATURES = (
    *("hour", "weekday", "courier", "city", "distance", "weight"),
    *("speed", "rain", "temperature", "delay_mean", "delay_count"),
)


def build(parcels: Frame, history: Mapping[str, Frame]) -> Frame:
    """Add the features to parcels."""
    traffic, due, window = history["traffic"], nw.col("due").dt, timedelta(hours=3)
    sums = {"delay_sum": nw.col("delay"), "delay_count": nw.lit(1)}
    latest = ("speed", "rain", "temperature")
    return (
        parcels.with_columns(hour=due.hour(), weekday=due.weekday())
        .pipe(windows.latest, traffic, when="observed", within=LOOKBACK, values=latest)
        .pipe(windows.trailing, traffic, when="observed", window=window, sums=sums)
        .with_columns(delay_mean=nw.when(nw.col("delay_count") > 0).then(nw.col("delay_sum") / nw.col("delay_count")))
    )


LOOKBACK = timedelta(hours=6)

# --- model


class Parameters(BaseModel):
    """What `config/params.toml` holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trees: Annotated[int, Search(5, 40)] = 20
    seed: int = 0


def estimator(parameters: Parameters, categories: list[str]) -> "Pipeline":
    """Boosted trees, each on some of the features, so that the seed matters."""
    # Here, since the service runs without scikit-learn.
    from sklearn.compose import make_column_transformer  # noqa: PLC0415
    from sklearn.ensemble import HistGradientBoostingClassifier  # noqa: PLC0415
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415
    from sklearn.preprocessing import OneHotEncoder  # noqa: PLC0415

    encode = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), categories), remainder="passthrough"
    )
    trees = HistGradientBoostingClassifier(
        learning_rate=0.15,
        max_iter=parameters.trees,
        min_samples_leaf=20,
        max_features=0.8,
        early_stopping=False,
        random_state=parameters.seed,
    )
    return make_pipeline(encode, trees)


def model_spec() -> ModelSpec:
    """How the model is made."""
    return ModelSpec(Parameters, estimator)


# --- batches

FIRST = datetime(2024, 3, 1, tzinfo=UTC)
START = datetime(2024, 4, 1, tzinfo=UTC)  # when the champion of the fixture `trained` was promoted
END = datetime(2024, 5, 15, tzinfo=UTC)  # of all that can be collected
AHEAD = timedelta(days=1)  # a parcel is known this long before it is due
AVAILABLE_AT = {"parcels": pl.col("due") - AHEAD, "traffic": pl.col("observed"), "arrivals": pl.col("known")}
HALF_HOUR = timedelta(minutes=30)


@cache
def source() -> dict[str, pl.DataFrame]:
    """All rows that there will ever be, by table: one of parcels and traffic each half hour."""
    rng, n = np.random.default_rng(0), int((END - FIRST) / HALF_HOUR)
    times = pl.datetime_range(FIRST, END, HALF_HOUR, time_unit="us", closed="left", eager=True)
    hour, days = times.dt.hour().to_numpy(), np.arange(n) / 48
    jam = np.isin(hour % 12, (5, 6, 7)) | (rng.random(n) < 0.1)
    rain = np.where(rng.random(n) < 0.3, rng.uniform(1, 9, n), 0.0)
    traffic = pl.DataFrame(
        {
            "observed": times,
            "speed": np.where(jam, rng.uniform(5, 25, n), rng.uniform(35, 70, n)).round(1),
            "rain": rain.round(1),
            "temperature": (4 + days / 4 + rng.normal(0, 2, n)).round(1),
            "delay": np.where(jam, rng.integers(20, 60, n), rng.integers(0, 10, n)),
        }
    ).with_columns(rain=pl.when(pl.int_range(n) % 20 > 0).then("rain"))
    courier, city = rng.choice(COURIERS, n, p=(0.5, 0.1, 0.4)), rng.choice(list(KILOMETRES), n)
    parcels = pl.DataFrame(
        {
            "parcel": np.arange(1, n + 1),
            "due": times,
            "ordered": (times - timedelta(days=3)).dt.date(),
            "courier": courier,
            "city": city,
            "distance": [KILOMETRES[name] for name in city],
            "weight": rng.uniform(0.1, 20, n).round(2),
            "sender": [f"sender {i % 97}" for i in range(n)],
        }
    )
    earlier = np.roll(np.arange(n), 4)  # the traffic by which a parcel is predicted
    trouble = np.select(
        [courier == "bike", courier == "van"], [rain[earlier] > 0, jam[earlier]], parcels["weight"].to_numpy() > 15
    )
    late = rng.random(n) < np.where(trouble, 0.85, 0.1)
    known = times + pl.Series(rng.integers(10, 300, n)).cast(pl.Duration("us")) * 60_000_000
    return {
        "parcels": parcels.with_columns(
            weight=pl.when(pl.int_range(n) % 10 > 0).then("weight"), refunded=pl.Series(late)
        ),
        "traffic": traffic,
        "arrivals": pl.DataFrame({"parcel": parcels["parcel"], "known": known, "late": late}),
    }


def arrived(table: str, until: datetime, since: datetime | None = None) -> pl.DataFrame:
    """The rows of a table that became known in (since, until]."""
    due = AVAILABLE_AT[table] <= until
    return source()[table].filter(due if since is None else due & (AVAILABLE_AT[table] > since))


def collect(root: Path, since: datetime | None, until: datetime, inbox: Path) -> list[Path]:  # noqa: ARG001 - the seam's
    """Bring what arrived in (since, until] into the inbox: a file for each table that has rows."""
    return [
        _write(rows, inbox / table / f"until-{until:%Y%m%dT%H%M%S%f}.parquet")
        for table in AVAILABLE_AT
        if len(rows := arrived(table, until, since))
    ]


def _write(rows: pl.DataFrame, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    rows.write_parquet(draft)
    return draft.replace(path)


# --- the problem and its configuration

PROBLEM = Problem(
    entity=Parcel,
    tables=(Parcel, Traffic, Arrival),
    features=FEATURES,
    lookback=LOOKBACK,
    build=build,
    collect=collect,
    model_spec=model_spec,
)
CONFIG = {
    "params.toml": "trees = 20\nseed = 0\n",
    "settings.toml": 'clock = "data"\n',
    "acceptance.toml": """\
[decision]
cost_false_positive = 1.0
cost_false_negative = 4.0
[window]
days = 7
min_rows = 30
[at_least]
auc = 0.65
[at_most]
log_loss = 0.7
calibration_error = 0.15
[slices]
columns = ["courier"]
min_rows = 30
at_least = { auc = 0.55 }
[fairness]
columns = ["courier"]
min_rows = 30
max_gap = { auc = 0.5 }
[retrain]
every_days = 28
[monitor]
max_model_age_days = 112
max_table_age_days = 3
""",
}
PAGES = {
    "model-card.md": """\
# Model card

What the champion is.

<!-- filled in: details -->

<!-- filled in: features -->

<!-- filled in: parameters -->

How well it does, in our own words.

<!-- filled in: evidence -->

<!-- filled in: quality -->

<!-- filled in: slices -->

What to mind.
""",
    "data-sheet.md": """\
# Data sheet

What the data are.

<!-- filled in: tables -->

What is predicted.

<!-- filled in: labels -->

Who keeps them.
""",
}


def write_project(folder: Path) -> Path:
    """Write the configuration and pages of a project with the tiny problem."""
    for name, files in (("config", CONFIG), ("docs", PAGES)):
        (folder / name).mkdir(parents=True)
        for file, text in files.items():
            (folder / name / file).write_text(text, encoding="utf-8")
    return folder
