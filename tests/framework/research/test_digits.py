"""Labels and augmentation on handwritten digits, which scikit-learn brings along: what they are worth, measured."""

import dataclasses
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from pydantic import BaseModel, Field, create_model
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_digits
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC

from my_ml_project.core.contracts.schema import (
    AVAILABLE_AT,
    PREDICTED_AT,
    TARGET,
    AvailableAt,
    Category,
    EventTime,
    Key,
    Table,
    Target,
)
from my_ml_project.core.models import training
from my_ml_project.core.problem import ModelSpec, Problem
from my_ml_project.core.workspace import Workspace
from my_ml_project.production.gate import gate
from my_ml_project.production.ingest import ingest
from my_ml_project.production.promote import promote
from my_ml_project.production.train import train
from my_ml_project.research.labels import sampling

PIXELS = [f"pixel_{place}" for place in range(64)]
DIGITS = tuple("0123456789")
START = datetime(2024, 5, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


class Image(Table):
    """A handwritten digit, eight pixels by eight."""

    table: ClassVar = "images"

    image: Annotated[int, Field(ge=0), Key()]
    seen: Annotated[datetime, EventTime()]


class Reading(Table):
    """Which digit it is."""

    table: ClassVar = "readings"

    image: Annotated[int, Field(ge=0), Key()]
    read: Annotated[datetime, AvailableAt()]
    digit: Annotated[str, Category(DIGITS), Target()]


SHADE: Any = (float, Field(ge=0, le=1))
Pixels = create_model("Pixels", __base__=Image, **dict.fromkeys(PIXELS, SHADE))


class Parameters(BaseModel):
    """Of the model, and of the augmentation: whether each image is also shown moved by a pixel in each direction."""

    moved: bool = False
    seed: int = 0


def moved(rows: pl.DataFrame, down: int, right: int) -> pl.DataFrame:
    """The images moved by a pixel; what comes in is blank."""
    images = np.pad(rows.select(PIXELS).to_numpy().reshape(-1, 8, 8), ((0, 0), (1, 1), (1, 1)))
    part = images[:, 1 - down : 9 - down, 1 - right : 9 - right].reshape(-1, 64)
    return rows.with_columns(pl.Series(name, part[:, place]) for place, name in enumerate(PIXELS))


def all_moved(rows: pl.DataFrame) -> pl.DataFrame:
    return pl.concat([moved(rows, *step) for step in ((0, 1), (0, -1), (1, 0), (-1, 0))])


def augment(parameters: Parameters, rows: pl.DataFrame, _: np.random.Generator) -> pl.DataFrame:
    return pl.concat([rows, all_moved(rows)]) if parameters.moved else rows


def logistic_regression() -> Any:
    return LogisticRegression(C=10, max_iter=1000)


def support_vectors() -> Any:
    return CalibratedClassifierCV(SVC(gamma=0.25, C=10), ensemble=False, cv=3)


def problem(model: Callable[[], Any]) -> Problem:
    """Which digit is it? By a model that has not seen any."""

    def estimator(_: Parameters, __: list[str]) -> Any:
        blank = SimpleImputer(strategy="constant", fill_value=0, keep_empty_features=True)
        return make_pipeline(make_column_transformer((blank, PIXELS)), model())

    return Problem(
        entity=Pixels,
        tables=(Pixels, Reading),
        features=tuple(PIXELS),
        lookback=timedelta(0),
        build=lambda rows, _: rows,
        collect=lambda *_: [],
        model_spec=lambda: ModelSpec(Parameters, estimator, augment=augment),
    )


def images(seed: int) -> pl.DataFrame:
    """All images as a training set, in an order of their own: one a minute."""
    pixels, digit = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(digit))
    seen = [START + timedelta(minutes=n) for n in range(len(digit))]
    rows = pl.DataFrame(pixels[order] / 16, schema=PIXELS)
    target = pl.Series(digit[order]).cast(pl.String)
    return rows.with_columns(
        pl.Series("image", order),
        *(pl.Series(name, seen) for name in (PREDICTED_AT, AVAILABLE_AT)),
        target.alias(TARGET),
    )


def accuracy(prediction: NDArray[np.float64], rows: pl.DataFrame) -> float:
    return float((prediction.argmax(axis=1) == rows[TARGET].cast(pl.Int64).to_numpy()).mean())


# Labels


Asks = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def by_chance(found: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.random.default_rng(0).random(len(found))


def learned(asks: Asks, seed: int, *, most: int, step: int) -> float:
    """The accuracy on 500 images after so many labels, asked for step by step by what the labels before taught."""
    rows, digits = images(seed), problem(logistic_regression)
    test, pool, labelled = rows[:500], rows[530:], rows[500:530]
    while True:
        found = training.fitted_predictions(digits, Parameters(), labelled, pl.concat([test, pool]))
        if len(labelled) >= most:
            return accuracy(found[:500], test)
        chosen = sampling.highest(asks(found[500:]), step)
        labelled = pl.concat([labelled, pool[chosen]])
        pool = pool[np.setdiff1d(np.arange(len(pool)), chosen)]


@pytest.mark.slow
def test_150_labels_by_margin_teach_what_240_by_chance_do() -> None:
    chance, margin = [], []
    for seed in range(3):  # orders of the images: in a single one, either may be lucky by a point
        chance.append(learned(by_chance, seed, most=240, step=210))
        margin.append(learned(sampling.margin, seed, most=150, step=10))
    assert np.mean(margin) > np.mean(chance) > 0.9


# Augmentation


@pytest.mark.filterwarnings("ignore:Attribute .prob._. was deprecated:FutureWarning")  # skl2onnx reads it
def test_moved_images_are_read_by_support_vectors_that_were_shown_some() -> None:
    rows, digits = images(0), problem(support_vectors)
    few, test = rows[:100], rows[100:500]
    plain, shown = (
        training.fit(digits, Parameters(moved=moved), few, parity_rows=test).predictor for moved in (False, True)
    )
    strange = all_moved(test)
    assert accuracy(plain.predict(strange), strange) < 0.6
    assert accuracy(shown.predict(strange), strange) > 0.85
    assert accuracy(shown.predict(test), test) > accuracy(plain.predict(test), test) - 0.02


def arrived(workspace: Workspace, rows: pl.DataFrame) -> datetime:
    """Bring images and their labels in; the time of the newest label."""
    known = pl.col(AVAILABLE_AT) + HOUR
    for table, batch in {
        "images": rows.select("image", pl.col(PREDICTED_AT).alias("seen"), *PIXELS),
        "readings": rows.select("image", known.alias("read"), pl.col(TARGET).alias("digit")),
    }.items():
        path = workspace.root / f"{table}.parquet"
        batch.write_parquet(path)
        assert ingest(workspace, path, now=START + 999 * HOUR).ok
    newest = rows.select(known.max()).item()
    assert isinstance(newest, datetime)
    return newest


@pytest.mark.slow
def test_the_gate_refuses_moved_images_for_logistic_regression(
    tracked, opened: Callable[..., Workspace], no_runs: Path
) -> None:
    workspace = opened(problem(logistic_regression), "[window]\ndays = 5")
    shutil.copytree(no_runs, workspace.root / "mlruns")
    day = pl.int_range(pl.len()) // 60
    rows = images(0).with_columns(pl.col(PREDICTED_AT, AVAILABLE_AT) + day * timedelta(days=1))
    as_of = arrived(workspace, rows[:900])
    train(workspace, as_of=as_of)
    assert promote(workspace, now=as_of, dirty=True).release == 1
    as_of = arrived(workspace, rows[900:])
    train(workspace, as_of=as_of)
    plain = gate(workspace)
    (workspace.root / "config" / "params.toml").write_text("moved = true", encoding="utf-8")
    workspace = dataclasses.replace(workspace)  # reads its parameters again
    trained = train(workspace, as_of=as_of)
    shown = gate(workspace)
    assert tracked.tags(workspace.registry, trained.run_id)["parameters"] == '{"moved":true,"seed":0}'
    better = [
        next(check for check in verdict.checks if check.name == "better than champion, version 1")
        for verdict in (plain, shown)
    ]
    assert [check.passed for check in better] == [True, False]
    assert better[1].detail.startswith("loss lower by -0."), "and the reason is told"
    assert not shown.ok
