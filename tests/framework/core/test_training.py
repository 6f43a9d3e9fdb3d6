"""Fit, export, predict, compare: on made-up problems of each task, with each trap on the way to ONNX."""

import ast
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar
from unittest.mock import Mock

import numpy as np
import onnx
import polars as pl
import pytest
from numpy.typing import NDArray
from pydantic import BaseModel
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, StandardScaler, TargetEncoder
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

import my_ml_project
from my_ml_project.core.acceptance import DecisionCosts
from my_ml_project.core.contracts.schema import EventTime, Table, Target, Task
from my_ml_project.core.errors import Rejected
from my_ml_project.core.models import evaluation, training
from my_ml_project.core.models import onnx as onnx_export
from my_ml_project.core.models.onnx import convert
from my_ml_project.core.models.predictor import (
    Predictor,
    model_inputs,
    predicted,
    text_features,
)
from my_ml_project.core.problem import ModelSpec, Problem
from my_ml_project.core.store.candidates import Candidate
from my_ml_project.core.store.releases import GoldenRequests, Release

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
SHOPS = ["east", "north", "south", "west"]
FEATURES = ("age", "shop", "spent")


class Parameters(BaseModel):
    """Of the models below."""

    seed: int = 0


class Returns(Table):
    """Whether a guest returns."""

    table: ClassVar = "guests"

    time: Annotated[datetime, EventTime()]
    returns: Annotated[bool, Target()]


class Orders(Table):
    """What a guest drinks; without a time."""

    table: ClassVar = "guests"

    drink: Annotated[str, Target()]


class Pays(Table):
    """How much a guest pays."""

    table: ClassVar = "guests"

    bill: Annotated[float, Target()]


def trees(_: Parameters, categories: list[str], kind: type = HistGradientBoostingClassifier) -> Any:
    encode = make_column_transformer((TargetEncoder(cv=KFold(5)), categories), remainder="passthrough")
    return make_pipeline(encode, kind(max_iter=20, random_state=0))


def regression_trees(parameters: Parameters, categories: list[str]) -> Any:
    return trees(parameters, categories, HistGradientBoostingRegressor)


def one_hot(_: Parameters, categories: list[str]) -> Any:
    encode = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), categories), remainder=SimpleImputer()
    )
    return make_pipeline(encode, LogisticRegression(max_iter=1000))


def native_categories(_: Parameters, categories: list[str]) -> Any:
    encode = make_column_transformer(
        (OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), categories), remainder="passthrough"
    )
    return make_pipeline(encode, HistGradientBoostingClassifier(max_iter=20, categorical_features=[0], random_state=0))


def own_function(_: Parameters, categories: list[str]) -> Any:
    numbers = FunctionTransformer(lambda values: values * 2)
    encode = make_column_transformer((TargetEncoder(cv=KFold(5)), categories), remainder=numbers)
    return make_pipeline(encode, HistGradientBoostingClassifier(max_iter=5))


def made(table: type[Table], estimator: Callable[[Any, list[str]], Any]) -> Problem:
    return Problem(
        entity=table,
        tables=(table,),
        features=FEATURES,
        lookback=timedelta(0),
        build=lambda rows, _: rows,
        collect=lambda *_: [],
        model_spec=lambda: ModelSpec(Parameters, estimator),
    )


BINARY, MULTICLASS, REGRESSION = made(Returns, trees), made(Orders, one_hot), made(Pays, regression_trees)


def guests(problem: Problem, n: int = 600, seed: int = 0) -> pl.DataFrame:
    """Guests of four shops, the ages of some not known; a training set."""
    rng = np.random.default_rng(seed)
    shop, age, spent = rng.integers(0, 4, n), rng.uniform(18, 80, n), rng.exponential(20, n)
    score = np.array([1.5, -1.5, 1.0, -1.0])[shop] + (age - 50) / 20 + spent / 40 + rng.normal(0, 0.3, n)
    targets: dict[Task, list[Any]] = {
        Task.BINARY: (score > 0).tolist(),
        Task.MULTICLASS: np.array(["tea", "water", "coffee"])[np.digitize(score, [-1, 1])].tolist(),
        Task.REGRESSION: (100 * score).tolist(),
    }
    rows = {"age": age, "shop": [SHOPS[i] for i in shop], "spent": spent, "_target": targets[problem.task]}
    known = pl.when(pl.Series(rng.uniform(size=n) > 0.1)).then(pl.col("age"))
    at = pl.lit(NOON) + pl.duration(hours=pl.int_range(n))
    return pl.DataFrame(rows).with_columns(
        known.cast(pl.Float32).alias("age"), pl.col("spent").cast(pl.Float32), _predicted_at=at
    )


def fit(problem: Problem) -> training.FittedModel:
    return training.fit(problem, Parameters(), guests(problem), parity_rows=guests(problem, 200, seed=1))


@pytest.fixture(scope="module")
def binary() -> training.FittedModel:
    return fit(BINARY)


@pytest.fixture(scope="module")
def multiclass() -> training.FittedModel:
    return fit(MULTICLASS)


@pytest.fixture(scope="module")
def regression() -> training.FittedModel:
    return fit(REGRESSION)


def test_a_binary_model_gives_the_probability_of_the_target(binary: training.FittedModel) -> None:
    new = guests(BINARY, 300, seed=2)
    probability = binary.predictor.predict(new)
    assert probability.shape == (300,)
    assert probability.dtype == np.float64
    assert roc_auc_score(new["_target"], probability) > 0.9
    assert np.allclose(probability, binary.pipeline.predict_proba(model_inputs(new, binary.predictor.features))[:, 1])
    assert binary.classes == ()


def test_an_export_computes_no_label_that_nobody_reads(
    binary: training.FittedModel, multiclass: training.FittedModel
) -> None:
    models = (onnx.load_from_string(fitted.onnx) for fitted in (binary, multiclass))
    steps, others = ([node.op_type for node in model.graph.node] for model in models)
    assert steps[-2:] == ["TreeEnsembleRegressor", "Sigmoid"]
    assert "LinearClassifier" in others


def test_a_multiclass_model_gives_a_probability_a_class_in_the_order_of_their_names(
    multiclass: training.FittedModel,
) -> None:
    new = guests(MULTICLASS, 300, seed=2)
    probability = multiclass.predictor.predict(new)
    assert multiclass.classes == ("coffee", "tea", "water")
    assert probability.shape == (300, 3)
    assert np.allclose(probability.sum(axis=1), 1, atol=1e-6)
    answers = evaluation.labelled_predictions(MULTICLASS, new, probability, multiclass.classes)
    assert evaluation.metrics(answers, DecisionCosts())["accuracy"] > 0.8


def test_a_regression_gives_a_value(regression: training.FittedModel) -> None:
    new = guests(REGRESSION, 300, seed=2)
    value = regression.predictor.predict(new)
    assert value.shape == (300,)
    answers = evaluation.labelled_predictions(REGRESSION, new, value, regression.classes)
    assert evaluation.metrics(answers, DecisionCosts())["r2"] > 0.8
    assert regression.classes == ()


@pytest.mark.parametrize(
    "change",
    [
        {"age": None, "spent": None},
        {"shop": "a shop never seen"},
        {"shop": None},
        {"shop": "", "age": None},
        {"spent": 1e30, "age": -1e30},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["binary", "multiclass", "regression"])
def test_the_exported_model_answers_like_the_pipeline_where_values_are_missing_or_never_seen(
    request: pytest.FixtureRequest, name: str, change: dict[str, Any]
) -> None:
    fitted, problem = request.getfixturevalue(name), {"binary": BINARY, "multiclass": MULTICLASS}.get(name, REGRESSION)
    rows = guests(problem, 50, seed=3)
    rows = rows.with_columns(pl.lit(value, dtype=rows.schema[column]).alias(column) for column, value in change.items())
    expected = predicted(problem.task, fitted.pipeline, model_inputs(rows, fitted.predictor.features))
    found = fitted.predictor.predict(rows)
    assert np.isfinite(found).all()
    assert np.allclose(found, expected, rtol=1e-5, atol=1e-6)


KINDS: dict[str, Callable[[], Any]] = {
    "decision tree": lambda: DecisionTreeClassifier(min_samples_leaf=5),
    "random forest": lambda: RandomForestClassifier(10, random_state=0),
    "extra trees": lambda: ExtraTreesClassifier(10, random_state=0),
    "gradient boosting": lambda: make_pipeline(SimpleImputer(), GradientBoostingClassifier(n_estimators=10)),
    "calibrated": lambda: CalibratedClassifierCV(HistGradientBoostingClassifier(max_iter=5), cv=2),
    "logistic regression": lambda: make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression()),
    "decision tree of values": lambda: DecisionTreeRegressor(min_samples_leaf=5),
    "random forest of values": lambda: RandomForestRegressor(10, random_state=0),
    "extra trees of values": lambda: ExtraTreesRegressor(10, random_state=0),
    "linear regression": lambda: make_pipeline(SimpleImputer(), LinearRegression()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_estimator_of_scikit_learn_is_exported_without_a_line_about_it(kind: str) -> None:
    def estimator(_: Parameters, categories: list[str]) -> Any:
        encode = make_column_transformer((TargetEncoder(cv=KFold(5)), categories), remainder="passthrough")
        return make_pipeline(encode, KINDS[kind]())

    assert fit(made(Pays if "values" in kind or "linear" in kind else Returns, estimator)).parity <= 1e-6


@pytest.mark.parametrize("first", np.linspace(1000, 2000, 5, dtype=np.float32).tolist())
@pytest.mark.parametrize(
    "trees",
    [
        HistGradientBoostingClassifier(max_iter=1, min_samples_leaf=1, learning_rate=1),
        HistGradientBoostingRegressor(max_iter=1, min_samples_leaf=1, learning_rate=1),
        DecisionTreeClassifier(),
        RandomForestRegressor(3, random_state=0),
    ],
    ids=lambda trees: type(trees).__name__,
)
def test_a_threshold_between_neighbouring_32_bit_numbers_keeps_them_apart(trees: Any, first: float) -> None:
    values = [np.float32(first)]
    while len(values) < 4:
        values.append(np.nextafter(values[-1], np.float32(np.inf)))
    rows = pl.DataFrame({"number": values * 50}, schema={"number": pl.Float32})
    trees = trees.fit(rows, np.arange(200) % 4 >= 2)
    exported = onnx_export.export(ModelSpec(Parameters, lambda *_: trees), trees, {"number": False})
    task = Task.BINARY if hasattr(trees, "classes_") else Task.REGRESSION
    found = Predictor(exported, {"number": False}, task).predict(rows)
    assert found == pytest.approx(predicted(task, trees, rows), abs=1e-6)
    assert len(set(found)) == 2


def test_trees_of_lightgbm_or_xgboost_need_a_converter_which_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> onnx.ModelProto:
        raise RuntimeError("no converter for <class 'lightgbm.sklearn.LGBMClassifier'>")

    monkeypatch.setattr(onnx_export, "find_spec", lambda _: None)
    with pytest.raises(Rejected, match=r"exported to ONNX: no converter [^\n]+; uv add --group train onnxmltools$"):
        onnx_export.export(ModelSpec(Parameters, trees, unknown), LogisticRegression(), {})


def test_one_row_is_answered_like_many(binary: training.FittedModel) -> None:
    rows = guests(BINARY, 5, seed=4)
    single = [binary.predictor.predict(rows[i])[0] for i in range(5)]
    assert single == binary.predictor.predict(rows).tolist()


def test_models_see_32_bit_floats_with_nan_for_missing_and_empty_text_for_missing() -> None:
    rows = pl.DataFrame({"age": [0.1, None], "shop": ["north", None], "spent": [True, False]})
    features = text_features(BINARY, rows)
    assert features == {"age": False, "shop": True, "spent": False}
    inputs = model_inputs(rows.with_columns(other=1), features)
    assert dict(inputs.schema) == {"age": pl.Float32, "shop": pl.String, "spent": pl.Float32}
    assert inputs["shop"].to_list() == ["north", ""]
    assert inputs["age"][0] == float(np.float32(0.1))
    assert inputs["age"].is_nan().to_list() == [False, True]
    assert inputs["spent"].to_list() == [1, 0]


class Seen(Exception):
    """What an estimator was given to fit."""


class Recorder:
    def fit(self, X: pl.DataFrame, y: NDArray[Any]) -> None:
        raise Seen(X, y)


def test_a_model_is_fitted_on_what_its_export_is_given_64_bit_features_included() -> None:
    def given(table: type[Table]) -> tuple[pl.DataFrame, list[Any]]:
        problem = made(table, lambda *_: Recorder())
        rows = guests(problem, 50).with_columns(pl.col("spent").cast(pl.Float64) + 0.1)
        with pytest.raises(Seen) as caught:
            training.fit(problem, Parameters(), rows, parity_rows=rows)
        X, y = caught.value.args
        assert X.equals(model_inputs(rows, {"age": False, "shop": True, "spent": False}))
        assert X.schema["spent"] == pl.Float32
        assert y.tolist() == rows["_target"].to_list()
        return X, y.tolist()

    assert [type(given(table)[1][0]) for table in (Returns, Orders, Pays)] == [int, str, float]


def test_the_trees_own_categories_are_refused_since_their_export_answers_otherwise() -> None:
    with pytest.raises(
        Rejected, match=r"^the exported model differs from the pipeline by 0\.\d+ \(at most 1e-05\): [^\n]+$"
    ):
        fit(made(Returns, native_categories))


def test_a_model_that_cannot_be_fitted_is_refused_with_the_reason() -> None:
    def unprepared(_: Parameters, __: list[str]) -> Any:
        return LogisticRegression()

    with pytest.raises(Rejected, match=r"^the model can't be fitted on these rows: [^\n]+; change shared/model\.py$"):
        fit(made(Returns, unprepared))


@pytest.mark.parametrize(
    ("error", "reason"),
    [(RuntimeError("too deep\nin"), "too deep"), (KeyError("leg"), "'leg'"), (TypeError(), "TypeError")],
)
def test_whatever_a_model_raises_is_one_line(error: Exception, reason: str) -> None:
    def raising(_: Parameters, __: list[str]) -> Any:
        raise error

    with pytest.raises(Rejected, match=f"^the model can't be fitted on these rows: {reason}; change shared/model.py$"):
        fit(made(Returns, raising))


def test_a_feature_that_no_row_has_is_named() -> None:
    rows = guests(BINARY).with_columns(age=pl.lit(None, pl.Float64))
    with pytest.raises(Rejected, match=r"^the model can't be fitted on these rows: [^\n]+; no row has age: drop it "):
        training.fit(BINARY, Parameters(), rows, parity_rows=rows)


def test_a_step_that_cannot_be_exported_is_named() -> None:
    with pytest.raises(
        Rejected, match=r"^the model \(ColumnTransformer -> Hist[^\n]*\) can't be exported to ONNX: [^\n]+$"
    ):
        fit(made(Returns, own_function))


def test_a_model_that_cannot_answer_where_a_category_was_never_seen_is_refused() -> None:
    def brittle(_: Parameters, categories: list[str]) -> Any:
        encode = make_column_transformer((OneHotEncoder(sparse_output=False), categories), remainder=SimpleImputer())
        return make_pipeline(encode, LogisticRegression(max_iter=1000))

    with pytest.raises(Rejected):
        fit(made(Returns, brittle))


@pytest.mark.parametrize(("error", "reason"), [(ValueError("no\nsuch"), "no"), (KeyError(), "KeyError")])
def test_the_reason_of_a_failed_export_is_one_line(error: Exception, reason: str) -> None:
    def broken(_: object, __: object) -> onnx.ModelProto:
        raise error

    model = LogisticRegression()
    with pytest.raises(
        Rejected, match=rf"^the model \(LogisticRegression\) can't be exported to ONNX: {reason}; change"
    ):
        onnx_export.export(ModelSpec(Parameters, trees, broken), model, {})


def test_the_bytes_of_a_model_do_not_depend_on_the_order_of_its_domains_or_a_name_made_up(
    binary: training.FittedModel,
) -> None:
    def exported(*, backwards: bool) -> bytes:
        def shuffled(pipeline: Any, features: dict[str, bool]) -> onnx.ModelProto:
            model = convert(pipeline, features)
            domains = sorted(model.opset_import, key=lambda opset: opset.domain, reverse=backwards)
            del model.opset_import[:]
            model.opset_import.extend(domains)
            model.graph.name = f"made up {backwards}"
            return model

        return onnx_export.export(ModelSpec(Parameters, trees, shuffled), binary.pipeline, binary.predictor.features)

    assert exported(backwards=True) == exported(backwards=False)
    model = onnx.load_from_string(exported(backwards=True))
    domains = [opset.domain for opset in model.opset_import]
    assert (len(domains), domains, model.graph.name) == (2, sorted(domains), "model")


def test_a_model_that_is_no_valid_onnx_is_not_given_away(binary: training.FittedModel) -> None:
    def spoiled(pipeline: Any, features: dict[str, bool]) -> onnx.ModelProto:
        model = convert(pipeline, features)
        del model.graph.output[:]
        model.graph.node[0].op_type = "NoSuchOperator"
        return model

    with pytest.raises(Rejected, match=r"^the model [^\n]+ NoSuchOperator [^\n]+; change shared.model.py$"):
        onnx_export.export(ModelSpec(Parameters, trees, spoiled), binary.pipeline, binary.predictor.features)


class Constant:
    """A model that predicts one number, or another where a feature is missing or never seen."""

    def __init__(self, usual: float = 0, *, missing: float = 0, unseen: float = 0, spread: float = 0) -> None:
        self.features = {"age": False, "shop": True, "spent": False}
        self.usual, self.missing, self.unseen, self.spread = usual, missing, unseen, spread

    def predict(self, rows: pl.DataFrame) -> NDArray[np.float64]:
        missing = rows["age"].is_null() | rows["age"].is_nan().fill_null(value=True)
        extra = np.where(missing, self.missing, 0) + np.where(rows["shop"].is_in(SHOPS), 0, self.unseen)
        return self.usual + extra + np.linspace(0, self.spread, len(rows))

    def predict_proba(self, rows: pl.DataFrame) -> NDArray[np.float64]:
        probability = self.predict(rows)
        return np.column_stack([1 - probability, probability])


def parity(problem: Problem, pipeline: Constant, exported: Constant) -> float:
    rows = guests(problem, 20).with_columns(pl.lit(30.0).cast(pl.Float32).alias("age"))
    return onnx_export.parity(problem, pipeline, exported, rows)  # type: ignore[arg-type]


@pytest.mark.parametrize("where", ["usual", "missing", "unseen"])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_difference_above_the_limit_is_refused_wherever_it_shows(where: str, sign: int) -> None:
    assert parity(BINARY, Constant(0), Constant(**{where: sign * 1e-5})) == pytest.approx(1e-5)
    with pytest.raises(Rejected, match=r"differs from the pipeline by 1\.1e-05 \(at most 1e-05\)"):
        parity(BINARY, Constant(0), Constant(**{where: sign * 1.1e-5}))


def test_a_model_that_predicts_no_number_is_refused() -> None:
    with pytest.raises(Rejected, match="by nan"):
        parity(BINARY, Constant(0.5), Constant(float("nan")))


def test_the_limit_of_a_regression_is_relative_to_the_spread_of_its_values() -> None:
    assert parity(REGRESSION, Constant(spread=1000), Constant(0.009, spread=1000)) == pytest.approx(9e-6)
    with pytest.raises(Rejected):
        parity(REGRESSION, Constant(spread=1000), Constant(0.011, spread=1000))
    assert parity(REGRESSION, Constant(1), Constant(1 + 9e-6)) == pytest.approx(9e-6)
    with pytest.raises(Rejected):
        parity(BINARY, Constant(spread=0.5), Constant(1.1e-5, spread=0.5))


@pytest.mark.parametrize("problem", [BINARY, MULTICLASS, REGRESSION], ids=lambda problem: problem.task)
def test_a_linear_baseline_is_better_than_one_that_knows_only_the_target(problem: Problem) -> None:
    rows, held = guests(problem), guests(problem, 300, seed=1)
    classes = evaluation.classes_of(problem, rows)
    baselines = training.baselines(problem, rows, held, seed=0)
    loss = {
        name: evaluation.losses(evaluation.labelled_predictions(problem, held, prediction, classes)).mean()
        for name, prediction in baselines.items()
    }
    assert loss["linear"] < 0.8 * loss["dummy"]
    assert len(np.unique(baselines["dummy"], axis=0)) == 1
    target = evaluation.labelled_predictions(problem, rows, np.zeros(len(rows)), classes).target
    shares = [(target == number).mean() for number in range(3)]
    assert baselines["dummy"][0] == pytest.approx(shares if problem.task is Task.MULTICLASS else target.mean())


def test_a_linear_baseline_copes_with_values_that_are_missing_or_never_seen() -> None:
    held = guests(BINARY, 20).with_columns(pl.lit(None, dtype=pl.Float32).alias("age"), shop=pl.lit("a new shop"))
    assert np.isfinite(training.baselines(BINARY, guests(BINARY), held, seed=0)["linear"]).all()


def test_that_a_value_is_missing_tells_a_linear_baseline_something() -> None:
    rows = guests(BINARY).with_columns(pl.col("age").is_null().alias("_target"), shop=pl.lit("north"))
    assert roc_auc_score(rows["_target"], training.baselines(BINARY, rows, rows, seed=0)["linear"]) == 1


def test_fifty_rows_make_a_category_to_a_linear_baseline() -> None:
    late = pl.int_range(pl.len()) // 50 % 2 == 0
    shop = pl.concat_str(pl.lit("shop "), pl.int_range(pl.len()) // 50)
    rows = guests(BINARY).with_columns(late.alias("_target"), shop=shop)
    assert roc_auc_score(rows["_target"], training.baselines(BINARY, rows, rows, seed=0)["linear"]) > 0.99


def test_rare_categories_are_one_to_a_linear_baseline() -> None:
    rows = guests(BINARY).with_columns(shop=pl.concat_str(pl.lit("shop "), pl.int_range(pl.len()) // 49))
    held = pl.concat([rows[:1], rows[300:301]]).with_columns(age=pl.lit(30, dtype=pl.Float32), spent=rows["spent"][0])
    first, other = training.baselines(BINARY, rows, held, seed=0)["linear"]
    assert first == pytest.approx(other)


def test_what_came_true_is_zero_or_one_the_number_of_the_class_or_the_value() -> None:
    def true(problem: Problem, values: list[Any], classes: tuple[str, ...] = ()) -> list[float]:
        rows = pl.DataFrame({"_target": values})
        found = evaluation.labelled_predictions(problem, rows, np.zeros(len(rows)), classes).target
        assert found.dtype == np.float64
        return [float(value) for value in found]

    assert true(BINARY, [True, False]) == [1, 0]
    assert true(MULTICLASS, ["b", "a", "never seen"], ("a", "b")) == [1, 0, -1]
    assert true(REGRESSION, [2.5, -1.0]) == [2.5, -1]


def test_evidence_is_read_from_the_column_of_the_model_also_where_it_has_a_value_a_class() -> None:
    rows = pl.DataFrame({"_target": ["b", "a"]}).with_columns(
        pl.Series("_model", np.array([[0.2, 0.8], [0.6, 0.4]])), pl.Series("_dummy", np.array([[0.5, 0.5]] * 2))
    )
    answers = Candidate.holdout_predictions(Mock(holdout=rows, classes=("a", "b")), MULTICLASS)
    assert (answers.task, answers.target.tolist()) == (Task.MULTICLASS, [1, 0])
    assert answers.prediction.tolist() == [[0.2, 0.8], [0.6, 0.4]]


def test_rows_of_a_utc_day_are_drawn_together_and_rows_without_a_time_in_two_thousand_blocks() -> None:
    at = pl.Series(
        "_predicted_at", [NOON, NOON + timedelta(hours=11.9), NOON + timedelta(hours=12), NOON - timedelta(hours=13)]
    )
    days = evaluation.clusters(BINARY, pl.DataFrame([at]))
    assert (days - days[0]).tolist() == [0, 0, 1, -1]
    blocks = evaluation.clusters(REGRESSION, pl.DataFrame({"_predicted_at": [NOON] * 4001}))
    assert blocks[[0, 1, 1999, 2000, 4000]].tolist() == [0, 1, 1999, 0, 0]


def release(problem: Problem, fitted: training.FittedModel, rows: pl.DataFrame, answers: Any) -> Release:
    return Release(
        number=1,
        version=7,
        run_id="run",
        released=NOON,
        reason="promoted",
        trained_until=NOON,
        task=problem.task,
        features=fitted.predictor.features,
        classes=fitted.classes,
        threshold=0.5,
        reference={},
        metrics={},
        parameters={},
        tables={},
        golden=GoldenRequests(requests=[], features=rows.select(FEATURES).to_dicts(), predictions=answers.tolist()),
        onnx=fitted.onnx,
    )


@pytest.mark.parametrize("name", ["binary", "multiclass", "regression"])
def test_a_release_answers_its_golden_requests_as_the_pipeline_did(request: pytest.FixtureRequest, name: str) -> None:
    fitted, problem = request.getfixturevalue(name), {"binary": BINARY, "multiclass": MULTICLASS}.get(name, REGRESSION)
    rows = guests(problem, 40, seed=6)
    assert rows["age"].null_count() > 0
    answers = predicted(problem.task, fitted.pipeline, model_inputs(rows, fitted.predictor.features))
    release(problem, fitted, rows, answers).check()
    one = np.zeros_like(answers)
    one.flat[3] = 1e-5 * (np.ptp(answers) if problem.task is Task.REGRESSION else 1)
    for little in (0.9, -0.9):
        release(problem, fitted, rows, answers + little * one).check()
    for much in (1.2, -1.2, float("nan")):
        with pytest.raises(
            Rejected, match=r"^version 7 differs by [^\n]+ from its golden predictions: it must not serve$"
        ):
            release(problem, fitted, rows, answers + much * one).check()


@pytest.mark.parametrize(("task", "spread"), [(Task.BINARY, 0.5), (Task.REGRESSION, 0), (Task.REGRESSION, 1)])
def test_a_golden_answer_may_differ_by_the_tolerance_and_no_more(
    binary: training.FittedModel, task: Task, spread: float
) -> None:
    rows = guests(BINARY, 20).with_columns(age=30)  # a number without a fraction, as JSON may have it

    def answering(difference: float) -> Release:
        answers = Constant(0, spread=spread).predict(rows)
        found = release(BINARY, binary, rows, answers).model_copy(update={"task": task})
        found.__dict__["predictor"] = Constant(difference, spread=spread)
        return found

    for little in (0, 1e-5, -1e-5) if spread == 0 else (0, 0.999e-5, -0.999e-5):
        answering(little).check()
    for much in (1.001e-5, -1.001e-5):
        with pytest.raises(Rejected):
            answering(much).check()


def test_a_predictor_is_the_same_from_the_bytes_alone(binary: training.FittedModel) -> None:
    rows = guests(BINARY, 30, seed=7)
    again = Predictor(binary.onnx, binary.predictor.features, Task.BINARY)
    assert again.predict(rows).tolist() == binary.predictor.predict(rows).tolist()


def test_fitting_again_gives_the_same_bytes(binary: training.FittedModel) -> None:
    assert fit(BINARY).onnx == binary.onnx


def test_no_pickle_is_loaded_anywhere() -> None:
    (folder,) = my_ml_project.__path__
    names = set()
    for path in Path(folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                module = getattr(node, "module", None)
                names |= {*(f"{module}.{alias.name}" if module else alias.name for alias in node.names)}
            elif isinstance(node, ast.Attribute):
                names |= {node.attr}
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                names |= {node.value}
    assert "sklearn.pipeline.make_pipeline" in names
    assert "onnxruntime" in names
    loaders = {
        "pickle",
        "cPickle",
        "dill",
        "cloudpickle",
        "joblib",
        "pyfunc",
        "load_model",
        "read_pickle",
        "allow_pickle",
    }
    assert {name for name in names if loaders & set(name.split("."))} == set()
