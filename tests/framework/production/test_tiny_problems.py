"""Other problems, made up here, through the same machinery: what it does, it does from their contract."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar

import narwhals as nw
import numpy as np
import polars as pl
import pytest
from pydantic import BaseModel, Field, create_model
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from starlette.testclient import TestClient

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
from my_ml_project.core.errors import InputError, Rejected
from my_ml_project.core.models import onnx
from my_ml_project.core.problem import ModelSpec, Problem
from my_ml_project.core.settings import load_settings
from my_ml_project.core.workspace import Workspace
from my_ml_project.production import lifecycle
from my_ml_project.production.explain import explain
from my_ml_project.production.gate import gate
from my_ml_project.production.ingest import ingest
from my_ml_project.production.monitor import monitor
from my_ml_project.production.predict import predict
from my_ml_project.production.promote import promote
from my_ml_project.production.service.app import create_app
from my_ml_project.production.status import status
from my_ml_project.production.train import train
from my_ml_project.research.views import model
from my_ml_project.research.views.report import names

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
OVENS = ("gas", "stone", "wood")


# --- a model for all of them


class Parameters(BaseModel):
    """What `config/params.toml` holds."""

    trees: int = 20
    seed: int = 0


def estimator(parameters: Parameters, categories: list[str], kind: type) -> Any:
    encode = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), categories), remainder="passthrough"
    )
    trees = kind(max_iter=parameters.trees, min_samples_leaf=5, early_stopping=False, random_state=parameters.seed)
    return make_pipeline(encode, trees)


def model_spec(kind: type) -> Callable[[], ModelSpec]:
    return lambda: ModelSpec(Parameters, lambda parameters, names: estimator(parameters, names, kind))


# --- a regression without time, key or late label


class Loaf(Table):
    """A loaf, and what it weighs."""

    table: ClassVar = "loaves"

    flour: Annotated[float, Field(gt=0)]
    water: Annotated[float | None, Field(gt=0)]
    oven: Annotated[str, Category(OVENS)]
    weight: Annotated[float, Field(gt=0), Target()]


def loaves(n: int = 300, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    flour, water, oven = rng.uniform(1, 9, n), rng.uniform(1, 9, n), rng.choice(OVENS, n)
    weight = 10 + flour * np.where(oven == "wood", water, 2) + rng.normal(0, 0.5, n)
    rows = pl.DataFrame({"flour": flour, "water": water, "oven": oven, "weight": weight})
    return rows.with_columns(water=pl.when(pl.int_range(n) % 10 > 0).then("water"))


def wetness(rows: Frame, _: Mapping[str, Frame]) -> Frame:
    return rows.with_columns(wetness=nw.col("water") / nw.col("flour"))


BAKERY = Problem(
    entity=Loaf,
    tables=(Loaf,),
    features=("flour", "water", "oven", "wetness"),
    lookback=timedelta(0),
    build=wetness,
    collect=lambda *_: [],
    model_spec=model_spec(HistGradientBoostingRegressor),
)
ASKS_OF_LOAVES = """
[window]
share = 0.3
min_rows = 30
[at_most]
rmse = 10.0
[at_least]
r2 = 0.8
[slices]
columns = ["oven"]
min_rows = 10
at_most = { rmse = 15.0 }
"""


@pytest.fixture
def tmp_path(tmp_path: Path, no_runs: Path) -> Path:
    """A folder of the test's own, with a registry in which nothing has run."""
    shutil.copytree(no_runs, tmp_path / "mlruns")
    return tmp_path


def opened(folder: Path, problem: Problem, acceptance: str = "", params: str = "trees = 60") -> Workspace:
    (folder / "config").mkdir(exist_ok=True)
    (folder / "config" / "acceptance.toml").write_text(acceptance, encoding="utf-8")
    (folder / "config" / "params.toml").write_text(params, encoding="utf-8")
    return Workspace(root=folder, settings=load_settings(folder), problem=problem)


def ingested(workspace: Workspace, rows: pl.DataFrame, table: str, now: datetime = NOW) -> None:
    path = workspace.root / f"{table}.parquet"
    rows.write_parquet(path)
    (batch,) = ingest(workspace, path, now=now).batches
    assert (batch.table, batch.accepted, batch.ok) == (table, len(rows), True), str(batch)


def test_a_regression_without_time_or_key_goes_from_a_file_to_predictions(tmp_path: Path) -> None:
    workspace = opened(tmp_path, BAKERY, ASKS_OF_LOAVES)
    ingested(workspace, loaves(), "loaves")
    trained = train(workspace, as_of=NOW)
    assert trained.metrics["rows"] + trained.metrics["window_rows"] == 300
    assert 60 < trained.metrics["window_rows"] < 120
    sizes = {"parity", "rows", "window_rows"}
    assert {name for name in trained.metrics if "." not in name} == {"rmse", "mae", "bias", "r2"} | sizes
    verdict = gate(workspace)
    asked = {check.name: check.passed for check in verdict.checks}
    assert verdict.ok, str(verdict)
    assert {"rmse at most 10.0", "r2 at least 0.8", "better than dummy", "not worse than linear"} <= set(asked)
    assert sum(check.is_slice for check in verdict.checks) == len(OVENS)
    promoted = promote(workspace, now=NOW)
    assert (promoted.ok, promoted.release, promoted.rows) == (True, 1, 300)

    new = loaves(50, seed=1)
    new.drop("weight").write_parquet(tmp_path / "new.parquet")
    answer = predict(workspace, tmp_path / "new.parquet", out=tmp_path / "answers.parquet", now=NOW)
    answers = pl.read_parquet(tmp_path / "answers.parquet")
    assert (answer.rows, answer.invalid, answer.version) == (50, 0, 1)
    assert answers.columns == ["flour", "water", "oven", "error", "prediction", "version"]
    assert answers["error"].null_count() == 50
    assert answers.drop("error", "prediction", "version").equals(new.drop("weight"))
    assert float(np.abs(answers["prediction"].to_numpy() - new["weight"].to_numpy()).mean()) < 5

    now = status(workspace)
    assert (now.predicts, now.task, now.champion) == ("loaves.weight", "regression", 1)
    assert (now.labels_until, now.trained_until, now.batches) == (NOW, NOW, {"loaves": 1})
    assert set(now.metrics) == {"rmse", "mae"}
    champion = workspace.releases.champion()
    assert champion
    assert (champion.threshold, champion.classes, champion.parameters) == (None, (), {"trees": 60, "seed": 0})
    with pytest.raises(InputError, match="rows of loaves have no key"):
        explain(workspace, "1", now=NOW)


def test_reports_of_a_regression_without_time_say_what_does_not_apply(
    tmp_path: Path, shown: Callable[[str, Workspace], str]
) -> None:
    workspace = opened(tmp_path, BAKERY, ASKS_OF_LOAVES)
    ingested(workspace, loaves(), "loaves")
    assert train(workspace, as_of=NOW).version == 1
    assert promote(workspace, now=NOW).ok
    pages = {name: shown(name, workspace.pinned()) for name in ("data", "model")}
    assert "Drift doesn't apply: rows have no event time." in pages["data"]
    assert "loaves.water" in pages["data"], "a tenth is missing"
    assert "it doesn't apply to a regression" in pages["model"]
    assert "Rows have no key" in pages["model"]
    assert "oven wood" in pages["model"], "a slice of config/acceptance.toml"


def test_a_regression_that_is_no_better_than_asked_is_refused(tmp_path: Path) -> None:
    workspace = opened(tmp_path, BAKERY, "[at_most]\nrmse = 0.001")
    ingested(workspace, loaves(), "loaves")
    train(workspace, as_of=NOW)
    promoted = promote(workspace, now=NOW)
    assert [check.name for check in promoted.verdict.checks if not check.passed] == ["rmse at most 0.001"]
    assert promoted.release is None
    assert workspace.releases.champion() is None


def test_run_takes_a_regression_from_its_source_to_a_champion_with_a_picture(tmp_path: Path) -> None:
    asked = []

    def collect(root: Path, since: datetime | None, until: datetime, inbox: Path) -> list[Path]:
        asked.append((root, since, until))
        path = inbox / "loaves" / f"{until:%Y%m%d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        loaves(seed=len(asked)).write_parquet(path)
        return [path]

    workspace = opened(tmp_path, dataclasses.replace(BAKERY, collect=collect), ASKS_OF_LOAVES)
    done = lifecycle.run(workspace, now=NOW)
    assert (done.ok, done.champion, done.predicted) == (True, 1, 0)
    assert [batch.accepted for batch in done.ingested.batches] == [300]
    assert done.plot_file == "reports/version-1.png"
    assert (tmp_path / done.plot_file).read_bytes().startswith(b"\x89PNG")
    later = lifecycle.run(workspace, now=NOW + DAY)
    assert (later.champion, later.trained, later.plot_file) == (1, None, None)
    assert asked == [(tmp_path, None, NOW), (tmp_path, NOW, NOW + DAY)]
    assert status(workspace).batches == {"loaves": 2}


ODD = 1234.5  # what no row has but those that are made up


def judged(folder: Path, no_runs: Path, problem: Problem) -> tuple[Workspace, pl.DataFrame]:
    """A promoted challenger, and the evidence by which it was judged."""
    shutil.copytree(no_runs, folder / "mlruns")
    workspace = opened(folder, problem, "[window]\nshare = 0.3\nmin_rows = 30\n[at_most]\nrmse = 100.0")
    ingested(workspace, loaves(), "loaves")
    tried = train(workspace, as_of=NOW)
    assert promote(workspace, now=NOW).ok
    return workspace, workspace.candidates.read(tried.run_id).holdout


def test_augmentation_sees_the_rows_of_training_and_no_row_that_judges_is_seen_or_changed(
    tmp_path: Path, no_runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[pl.DataFrame] = []
    drawn: list[float] = []
    checked: list[pl.DataFrame] = []
    parity = onnx.parity

    def augment(_: Parameters, rows: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
        seen.append(rows)
        drawn.append(rng.random())
        return pl.concat([rows, rows.with_columns(flour=pl.lit(ODD), _target=pl.lit(50.0))])

    def watched(problem: Problem, pipeline: Any, predictor: Any, rows: pl.DataFrame) -> float:
        checked.append(rows)
        return parity(problem, pipeline, predictor, rows)

    monkeypatch.setattr(onnx, "parity", watched)
    plain, augmented = tmp_path / "plain", tmp_path / "augmented"
    plain.mkdir()
    augmented.mkdir()
    made = dataclasses.replace(BAKERY.model_spec(), augment=augment)
    one, expected = judged(plain, no_runs, BAKERY)
    other, evidence = judged(augmented, no_runs, dataclasses.replace(BAKERY, model_spec=lambda: made))
    names = ["flour", "water", "oven", "wetness", "_target", "_dummy", "_linear"]
    assert evidence.select(names).equals(expected.select(names)), "window and baselines are as they were"
    assert not evidence["_model"].equals(expected["_model"]), "and the model is another"
    assert [len(rows) for rows in seen] == [300 - len(evidence), 300], "training, then the refit"
    assert seen[0].join(evidence, on=["flour", "oven", "_target"], how="semi").is_empty()
    assert [rows.equals(same) for rows, same in zip(checked[2:], checked[:2], strict=True)] == [True, True]
    first, second = one.releases.champion(), other.releases.champion()
    assert first
    assert second
    assert (second.reference, second.golden.requests) == (first.reference, first.golden.requests)
    assert second.golden.features == first.golden.features
    assert str(ODD) not in second.model_dump_json()
    assert drawn == [np.random.default_rng(0).random()] * 2, "seeded by the parameters' seed"


# --- a binary problem with a key, a person and what must not decide

PEOPLE = 300


class Loan(Table):
    """A loan that is asked for."""

    table: ClassVar = "loans"

    loan: Annotated[int, Field(ge=0), Key()]
    begins: Annotated[datetime, EventTime()]
    person: Annotated[str, Personal()]
    origin: Annotated[str, Excluded("the law")]
    income: Annotated[float, Field(gt=0)]
    years: Annotated[int, Field(gt=0)]


class Repayment(Table):
    """How a loan ended."""

    table: ClassVar = "repayments"

    loan: Annotated[int, Field(ge=0), Key()]
    ended: Annotated[datetime, AvailableAt()]
    clerk: Annotated[str, Personal()]
    repaid: Annotated[bool, Target()]


CLOSED = ("person", "origin", "clerk")  # their values begin with their names
LENDING = Problem(
    entity=Loan,
    tables=(Loan, Repayment),
    features=("income", "years"),
    lookback=timedelta(0),
    build=lambda rows, _: rows,
    collect=lambda *_: [],
    model_spec=model_spec(HistGradientBoostingClassifier),
)


def loans() -> tuple[pl.DataFrame, pl.DataFrame]:
    """A loan an hour, of which the newest are still to begin at `NOW`, and how those of the past ended."""
    rng, number = np.random.default_rng(0), np.arange(PEOPLE)
    income, years = rng.uniform(1, 9, PEOPLE), rng.integers(1, 9, PEOPLE)
    begins = [NOW + timedelta(hours=int(n) - PEOPLE + 20) for n in number]
    asked = pl.DataFrame(
        {
            "loan": number,
            "begins": begins,
            "person": [f"person {n}" for n in number],
            "origin": [f"origin {n % 7}" for n in number],
            "income": income,
            "years": years,
        }
    )
    ended = pl.DataFrame(
        {
            "loan": number,
            "ended": [begin + timedelta(hours=1) for begin in begins],
            "clerk": [f"clerk {n % 3}" for n in number],
            "repaid": (income > 5) ^ (years > 4),
        }
    )
    return asked, ended.filter(pl.col("ended") <= NOW)


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory, no_runs: Path) -> Workspace:
    """A champion for loans."""
    folder = tmp_path_factory.mktemp("bank")
    shutil.copytree(no_runs, folder / "mlruns")
    workspace = opened(folder, LENDING, "[window]\ndays = 4\n[smoke_test]\nenabled = false")
    asked, ended = loans()
    ingested(workspace, asked, "loans")
    ingested(workspace, ended, "repayments")
    done = lifecycle.run(workspace, now=NOW)
    assert done.champion == 1, str(done)
    assert 15 <= done.predicted <= 20
    return workspace


class Dated(Loan):
    """A loan is known by its number and its beginning."""

    begins: Annotated[datetime, EventTime(), Key()]


class Ended(Repayment):
    """So is what came of it."""

    begins: Annotated[datetime, Key()]


def test_a_key_may_hold_the_time_of_the_event(tmp_path: Path) -> None:
    problem = dataclasses.replace(LENDING, entity=Dated, tables=(Dated, Ended))
    workspace = opened(tmp_path, problem, "[window]\ndays = 4\n[smoke_test]\nenabled = false")
    asked, ended = loans()
    ingested(workspace, asked, "loans")
    ingested(workspace, ended.join(asked.select("loan", "begins"), on="loan"), "repayments")
    done = lifecycle.run(workspace, now=NOW)
    assert 15 <= done.predicted <= 20
    predicted = workspace.lake.read("predictions", {}).collect()
    assert predicted.columns[:2] == ["loan", "begins"]
    found = model.champion_predictions(workspace)
    first = found.rows.row(0, named=True)
    key = f"{first['loan']}/{first['begins']:%Y-%m-%dT%H:%M:%SZ}"
    explain(workspace, key, now=NOW)
    assert not isinstance(model.contributions_of(workspace, found, key), str), "the report finds what explain finds"


def test_a_label_that_is_known_before_its_row_is_named_by_train(tmp_path: Path) -> None:
    workspace = opened(tmp_path, LENDING, "[window]\ndays = 4")
    asked, ended = loans()
    early = pl.when(pl.col("loan") == 7).then(pl.col("ended") - timedelta(hours=2)).otherwise("ended")
    ingested(workspace, ended.with_columns(ended=early), "repayments")  # before its row, which can't be seen yet
    ingested(workspace, asked, "loans")
    line = r"^1 labels of repayments are available before their prediction, such as that of 7: correct the rows, or "
    with pytest.raises(Rejected, match=line):
        train(workspace, as_of=NOW)


def test_data_that_ended_long_before_the_clock_say_so(tmp_path: Path) -> None:
    workspace = opened(tmp_path, LENDING, "[window]\ndays = 4")
    for rows, table in zip(loans(), ("loans", "repayments"), strict=True):
        ingested(workspace, rows, table)
    line = r'^\d+ labelled rows .*: the newest label is of 2024-05-01 12:00: set clock = "data" in config/settings.toml'
    with pytest.raises(Rejected, match=line):
        train(workspace, as_of=NOW + 30 * DAY)


def assert_nothing_closed(content: str) -> None:
    assert [name for name in CLOSED if name in content] == []


def test_personal_and_forbidden_columns_are_in_the_lake_and_not_in_the_evidence(bank: Workspace) -> None:
    stored = bank.lake.scan(bank.problem.schema).collect()
    assert {"person", "origin"} < set(stored.columns)
    tried = bank.registry.version_by_alias("challenger")
    assert tried
    evidence = bank.candidates.read(tried.run_id).holdout
    assert {"loan", "income", "years", "_model"} < set(evidence.columns)
    assert_nothing_closed(evidence.write_json())


def test_personal_and_forbidden_columns_are_not_in_a_release(tracked, bank: Workspace) -> None:
    release = bank.releases.champion()
    assert release
    assert list(release.features) == ["income", "years"]
    assert len(release.golden.requests) == 20
    assert {"loan", "begins", "income", "years"} == set(release.golden.requests[0])
    assert_nothing_closed(release.model_dump_json())
    assert_nothing_closed(str(tracked.tags(bank.registry, release.run_id)))
    assert_nothing_closed(release.model_dump_json())


def test_personal_and_forbidden_columns_are_not_in_the_predictions(bank: Workspace) -> None:
    schema = {"loan": pl.Int64(), "probability": pl.Float64()}
    predictions = bank.lake.read("predictions", schema).collect()
    assert 15 <= len(predictions) <= 20
    assert predictions["probability"].is_between(0, 1).all()
    assert_nothing_closed(predictions.drop("predicted_at", "begins").write_json() + str(predictions.columns))


def test_a_request_may_leave_out_what_features_never_see(bank: Workspace) -> None:
    asked = {"loan": 1000, "begins": (NOW + timedelta(hours=9)).isoformat(), "income": 2.0, "years": 3}
    with TestClient(create_app(bank, now=NOW)) as client:
        given = [client.post("/predict", json={"rows": [asked | more]}) for more in ({}, {"person": "person x"})]
        assert [(reply.status_code, reply.json()["rows"]) for reply in given] == [(200, given[0].json()["rows"])] * 2
        del asked["income"]
        assert client.post("/predict", json={"rows": [asked]}).status_code == 422


@pytest.mark.parametrize("name", ["probability", "error", "decision"])
def test_columns_and_features_are_not_named_like_answers(name: str) -> None:
    named = create_model("Named", __base__=Loan, **{name: (float, ...)})  # type: ignore[call-overload]
    line = rf"^column names {name} are reserved by the framework: rename them in shared/contract\.py$"
    with pytest.raises(InputError, match=line):
        dataclasses.replace(LENDING, features=("income", name))
    with pytest.raises(InputError, match=line):
        dataclasses.replace(LENDING, entity=named, tables=(named, Repayment))


class Unlabelled(Table):
    """A loan of which nothing is asked."""

    table: ClassVar = "loans"

    loan: Annotated[int, Key()]


class Keyless(Table):
    """A loan that no repayment can be of."""

    table: ClassVar = "loans"

    loan: int


@pytest.mark.parametrize(
    ("tables", "line"),
    [
        ((Unlabelled,), "no column of shared/contract.py is a Target(): mark one column"),
        ((Loaf, Repayment), "weight, repaid of shared/contract.py is a Target(): mark one column"),
        ((Keyless, Repayment), "labels are in repayments, which must have the key of the rows in loans: mark it"),
    ],
)
def test_tables_without_one_target_or_the_key_of_its_rows_are_refused(
    tables: tuple[type[Table], ...], line: str
) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(line)}"):
        dataclasses.replace(LENDING, entity=tables[0], tables=tables)


def test_a_row_is_explained_without_the_person(bank: Workspace) -> None:
    explained = explain(bank, "7", now=NOW)
    asked, ended = loans()
    assert (explained.outcome, explained.version) == (ended["repaid"][7], 1)
    assert explained.features == {"income": pytest.approx(asked["income"][7]), "years": asked["years"][7]}
    assert explained.prediction["decision"] == explained.outcome
    assert set(explained.contributions) == {"income", "years"}
    assert set(explained.raw) == {"loan", "begins", "origin", "income", "years"}
    shown = json.dumps(dataclasses.asdict(explained)) + str(explained)
    assert "origin 0" in shown
    assert not [name for name in ("person", "clerk") if name in shown]


def test_no_report_shows_a_closed_column(bank: Workspace, shown: Callable[[str, Workspace], str]) -> None:
    for name in names():
        page = shown(name, bank.pinned())
        assert "loans" in page
        assert_nothing_closed(page)


@pytest.mark.parametrize("name", ["person", "origin"])
def test_a_build_that_asks_for_a_closed_column_is_refused_with_a_line(tmp_path: Path, name: str) -> None:
    def build(rows: Frame, _: Mapping[str, Frame]) -> Frame:
        return rows.with_columns(length=nw.col(name).str.len_chars())

    asking = dataclasses.replace(LENDING, build=build, features=("income", "length"))
    workspace = opened(tmp_path, asking)
    for table, rows in zip(("loans", "repayments"), loans(), strict=True):
        ingested(workspace, rows, table)
    with pytest.raises(Rejected, match=rf"^features\.build uses a column that is not available [^\n]*{name}[^\n]*$"):
        train(workspace, as_of=NOW)
    assert workspace.registry.version_by_alias("challenger") is None


@pytest.mark.parametrize("name", CLOSED)
def test_a_closed_column_can_not_be_named_as_a_feature(name: str) -> None:
    with pytest.raises(InputError, match=rf"^features {name} are personal or excluded in shared/contract\.py$"):
        dataclasses.replace(LENDING, features=("income", name))


# --- a multiclass problem


class Bread(Table):
    """A loaf, and what kind it is."""

    table: ClassVar = "breads"

    flour: Annotated[float, Field(gt=0)]
    oven: Annotated[str, Category(OVENS)]
    kind: Annotated[str, Target()]


BREADS = Problem(
    entity=Bread,
    tables=(Bread,),
    features=("flour", "oven"),
    lookback=timedelta(0),
    build=lambda rows, _: rows,
    collect=lambda *_: [],
    model_spec=model_spec(HistGradientBoostingClassifier),
)


def breads(n: int = 300, seed: int = 0) -> pl.DataFrame:
    rows = loaves(n, seed).select("flour", "oven")
    light = pl.col("flour").is_between(3, 6)
    stone = pl.col("oven") == "stone"
    kind = pl.when(light).then(pl.lit("rye")).when(stone).then(pl.lit("spelt")).otherwise(pl.lit("barley"))
    return rows.with_columns(kind=kind)


def test_a_multiclass_problem_predicts_a_class_and_the_probability_of_each(tmp_path: Path) -> None:
    workspace = opened(tmp_path, BREADS, "[window]\nmin_rows = 30\n[at_least]\naccuracy = 0.8")
    ingested(workspace, breads(), "breads")
    done = lifecycle.run(workspace, now=NOW)
    assert done.champion == 1, str(done)
    assert done.plot_file
    assert (tmp_path / done.plot_file).read_bytes().startswith(b"\x89PNG")
    new = breads(40, seed=1)
    new.drop("kind").write_csv(tmp_path / "new.csv")
    predict(workspace, tmp_path / "new.csv", now=NOW)
    answers = pl.read_csv(tmp_path / "reports" / "new-predicted.csv")
    classes = ["barley", "rye", "spelt"]
    probabilities = answers.select(f"probability_{name}" for name in classes)
    assert answers.columns == ["flour", "oven", "error", "prediction", *probabilities.columns, "version"]
    assert probabilities.sum_horizontal().to_numpy() == pytest.approx(1, abs=1e-5)
    assert [classes[i] for i in probabilities.to_numpy().argmax(axis=1)] == answers["prediction"].to_list()
    assert (answers["prediction"] == new["kind"]).sum() > 32
    assert status(workspace).task == "multiclass"


class Order(Bread):
    """A loaf of a day, which has a number."""

    table: ClassVar = "orders"

    number: Annotated[int, Key()]
    baked: Annotated[datetime, EventTime()]
    kind: Annotated[str, Category(("barley", "rye", "spelt"), open=True), Target()]


def test_a_class_that_the_champion_never_learnt_is_named_by_the_monitor(tmp_path: Path) -> None:
    problem = dataclasses.replace(BREADS, entity=Order, tables=(Order,))
    workspace = opened(tmp_path, problem, "[window]\ndays = 4\nmin_rows = 30\n[smoke_test]\nenabled = false")
    numbered = pl.int_range(pl.len(), dtype=pl.Int64)
    rows = breads(400).with_columns(number=numbered, baked=NOW + timedelta(hours=1) * (numbered - 299))
    new = pl.when(pl.col("number") > 396).then(pl.lit("oat")).otherwise("kind")
    ingested(workspace, rows.head(300), "orders")
    assert lifecycle.run(workspace, now=NOW).champion == 1
    later = NOW + timedelta(hours=100)
    ingested(workspace, rows.tail(100).with_columns(kind=new), "orders", later)
    line = "warning  classes: 3 of 100 labels have classes that are unknown to version 1: oat"
    assert line in str(monitor(workspace, now=later)).splitlines()
    told = explain(workspace, "7", now=later)
    assert f" (to probability_{told.prediction['prediction']})\n" in str(told), "of which class contributions are"


class Asked(Table):
    """A loaf that is to be baked."""

    table: ClassVar = "asked"

    number: Annotated[int, Key()]
    baked: Annotated[datetime, EventTime()]
    flour: Annotated[float, Field(gt=0)]
    oven: Annotated[str, Category(OVENS)]


class Judged(Table):
    """What it was."""

    table: ClassVar = "judged"

    number: Annotated[int, Key()]
    tasted: Annotated[datetime, AvailableAt()]
    kind: Annotated[str, Target()]


def test_a_champion_with_other_classes_goes_on_predicting_ahead(tmp_path: Path) -> None:
    problem = dataclasses.replace(BREADS, entity=Asked, tables=(Asked, Judged))
    limits = "[window]\ndays = 4\nmin_rows = 30\n[retrain]\nevery_days = 8\n[smoke_test]\nenabled = false"
    workspace = opened(tmp_path, problem, limits)
    numbered = pl.int_range(pl.len(), dtype=pl.Int64)
    rows = breads(1000).with_columns(number=numbered, baked=NOW + timedelta(hours=1) * (numbered - 299))
    new = pl.when((pl.col("number") < 300) | (pl.col("oven") != "gas")).then("kind").otherwise(pl.lit("oat"))
    told = rows.with_columns(kind=new).select("number", "kind", tasted=pl.col("baked") + timedelta(minutes=1))
    ingested(workspace, rows.drop("kind"), "asked")
    ingested(workspace, told.filter(pl.col("tasted") <= NOW), "judged")
    assert (first := lifecycle.run(workspace, now=NOW)).champion == 1
    later = NOW + timedelta(hours=600)
    ingested(workspace, told.filter(pl.col("tasted").is_between(NOW, later, closed="right")), "judged", later)
    second = lifecycle.run(workspace, now=later)
    assert (second.champion, first.predicted > second.predicted > 0) == (2, True), str(second)
    made = workspace.lake.read("predictions", {}).collect()
    assert (made["probability_oat"].is_null() == (made["version"] == 1)).all()
    assert made["probability_rye"].null_count() == 0
