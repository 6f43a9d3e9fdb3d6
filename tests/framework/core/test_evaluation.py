"""Losses, metrics, cost, calibration, slices and the bootstrap, against numbers worked out by hand."""

import math

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss, mean_absolute_error, r2_score, roc_auc_score

from my_ml_project.core.acceptance import DecisionCosts
from my_ml_project.core.contracts.schema import Task
from my_ml_project.core.models import evaluation
from my_ml_project.core.models.evaluation import (
    PairedComparison,
    Predictions,
    SliceMetrics,
    by_slice,
    calibration,
    compare_losses,
    cost,
    losses,
    metrics,
)

MISS_COSTS_4 = DecisionCosts(cost_false_positive=1, cost_false_negative=4)


def array(*values: float) -> NDArray[np.float64]:
    return np.array(values, dtype=np.float64)


def binary(target: list[float], prediction: list[float]) -> Predictions:
    return Predictions(Task.BINARY, array(*target), array(*prediction))


def regression(target: list[float], prediction: list[float]) -> Predictions:
    return Predictions(Task.REGRESSION, array(*target), array(*prediction))


THREE_CLASSES = Predictions(
    Task.MULTICLASS, array(0, 1, 2, 0), np.array([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.6, 0.2, 0.2], [0.3, 0.3, 0.4]])
)


@pytest.fixture
def many() -> Predictions:
    rng = np.random.default_rng(0)
    probability = rng.uniform(size=500)
    return Predictions(Task.BINARY, (rng.uniform(size=500) < probability**2).astype(np.float64), probability)


def test_a_loss_is_minus_the_log_of_what_was_given_to_the_truth() -> None:
    assert losses(binary([1, 0, 1], [0.8, 0.8, 0.5])) == pytest.approx([-math.log(0.8), -math.log(0.2), math.log(2)])
    assert losses(THREE_CLASSES) == pytest.approx(-np.log([0.5, 0.8, 0.2, 0.3]))


def test_a_certain_and_wrong_answer_costs_as_much_as_a_probability_of_one_in_ten_million() -> None:
    assert losses(binary([1, 0], [0, 1])) == pytest.approx([math.log(1e7)] * 2)
    assert losses(binary([1, 0], [1, 0])) == pytest.approx([0, 0])


def test_a_class_that_was_never_seen_was_given_nothing() -> None:
    unseen = Predictions(Task.MULTICLASS, array(-1, 0), np.array([[0.1, 0.9], [0.1, 0.9]]))
    assert losses(unseen) == pytest.approx([math.log(1e7), math.log(10)])
    assert metrics(unseen, MISS_COSTS_4)["accuracy"] == 0


def test_a_loss_of_a_regression_is_the_squared_error() -> None:
    assert losses(regression([1, 2, 3], [1.5, 2, 0])).tolist() == [0.25, 0, 9]


def test_metrics_of_a_binary_task_are_those_of_scikit_learn(many: Predictions) -> None:
    found = metrics(many, MISS_COSTS_4)
    assert found["auc"] == pytest.approx(roc_auc_score(many.target, many.prediction))
    assert found["log_loss"] == pytest.approx(log_loss(many.target, many.prediction))
    assert found["brier"] == pytest.approx(brier_score_loss(many.target, many.prediction))
    assert found["cost"] == pytest.approx(cost(many, MISS_COSTS_4))
    assert set(found) == {"log_loss", "brier", "calibration_error", "cost", "auc"}


@pytest.mark.parametrize("target", [[0.0, 0.0], [1.0, 1.0]])
def test_the_auc_is_left_out_where_there_is_one_class(target: list[float]) -> None:
    assert "auc" not in metrics(binary(target, [0.2, 0.4]), MISS_COSTS_4)


def test_metrics_of_a_multiclass_task_are_those_of_scikit_learn() -> None:
    best = THREE_CLASSES.prediction.argmax(axis=1)
    assert metrics(THREE_CLASSES, MISS_COSTS_4) == pytest.approx(
        {
            "log_loss": log_loss(THREE_CLASSES.target, THREE_CLASSES.prediction),
            "accuracy": accuracy_score(THREE_CLASSES.target, best),
        }
    )


def test_metrics_of_a_regression_are_those_of_scikit_learn() -> None:
    answers = regression([0.1, 0.2, 0.3, 0.6], [0.15, 0.2, 0.1, 0.5])
    assert metrics(answers, MISS_COSTS_4) == pytest.approx(
        {
            "rmse": math.sqrt((0.25 + 0 + 4 + 1) / 4) / 10,
            "mae": mean_absolute_error(answers.target, answers.prediction),
            "bias": (0.5 + 0 - 2 - 1) / 40,
            "r2": r2_score(answers.target, answers.prediction),
        }
    )


def test_the_r2_is_left_out_where_every_value_is_the_same() -> None:
    assert set(metrics(regression([2, 2], [1, 4]), MISS_COSTS_4)) == {"rmse", "mae", "bias"}


def test_an_alert_is_given_from_the_threshold_on_and_wrong_ones_cost() -> None:
    answers = binary([0, 0, 0, 1, 1], [0.1, 0.2, 0.3, 0.19, 0.2])  # two false alerts, one miss
    assert MISS_COSTS_4.threshold == pytest.approx(0.2)
    assert cost(answers, MISS_COSTS_4) == pytest.approx(100 * (2 * 1 + 1 * 4) / 5)
    assert cost(answers, DecisionCosts(cost_false_positive=3, cost_false_negative=2), threshold=0.25) == pytest.approx(
        100 * (1 * 3 + 2 * 2) / 5
    )
    assert cost(answers, MISS_COSTS_4, threshold=0.0) == pytest.approx(100 * 3 / 5)
    assert cost(answers, MISS_COSTS_4, threshold=1.0) == pytest.approx(100 * 2 * 4 / 5)


def test_the_threshold_that_follows_from_the_costs_is_the_cheapest_for_calibrated_probabilities() -> None:
    probability = np.repeat(np.arange(0.05, 1, 0.1), 1000)
    target = np.concatenate([np.arange(1000) < 1000 * p for p in np.arange(0.05, 1, 0.1)]).astype(np.float64)
    answers = Predictions(Task.BINARY, target, probability)
    costs = {threshold: cost(answers, MISS_COSTS_4, threshold=threshold) for threshold in np.arange(0, 1, 0.1)}
    assert cost(answers, MISS_COSTS_4) == pytest.approx(min(costs.values()))


def test_calibration_compares_rates_in_bins_of_equal_numbers_of_rows() -> None:
    answers = binary([1, 0, 1, 0, 1], [0.9, 0.1, 0.4, 0.2, 0.6])  # sorted: .1 .2 .4 | .6 .9
    assert calibration(answers, bins=2).drop("bin").to_dicts() == [
        pytest.approx({"predicted": 0.7 / 3, "observed": 1 / 3, "share": 0.6, "error": 0.1}),
        pytest.approx({"predicted": 0.75, "observed": 1.0, "share": 0.4, "error": 0.25}),
    ]
    assert metrics(binary([1.0] * 9 + [0.0], [0.7] * 10), MISS_COSTS_4)["calibration_error"] == pytest.approx(
        0.9 * 0.3 + 0.07
    )


def test_calibration_has_ten_bins_and_no_more_than_rows(many: Predictions) -> None:
    bins = calibration(many)
    assert bins["share"].to_list() == pytest.approx([0.1] * 10)
    assert bins["predicted"].is_sorted()
    assert calibration(binary([1, 0], [0.9, 0.1]))["share"].to_list() == [0.5, 0.5]


def test_a_well_calibrated_model_has_a_smaller_error_than_an_overconfident_one(many: Predictions) -> None:
    right = Predictions(Task.BINARY, many.target, many.prediction**2)
    assert metrics(right, MISS_COSTS_4)["calibration_error"] < 0.06
    assert metrics(many, MISS_COSTS_4)["calibration_error"] > 0.1


def test_slices_are_the_values_of_each_column_that_have_enough_rows() -> None:
    answers = binary([1, 0, 1, 0, 1, 0], [0.9, 0.1, 0.4, 0.6, 0.5, 0.5])
    rows = pl.DataFrame({"shop": ["b", "b", "a", "a", "c", None], "day": [2.0, 1.5, 2.0, 1.5, 1.5, 2.0]})
    found = by_slice(answers, rows, ["shop", "day"], MISS_COSTS_4, at_least=2)
    assert [(part.column, part.value, part.rows) for part in found] == [
        ("shop", "a", 2),
        ("shop", "b", 2),
        ("day", "1.5", 3),
        ("day", "2", 3),
    ]
    assert found[0].metrics == metrics(binary([1, 0], [0.4, 0.6]), MISS_COSTS_4)
    assert found[1] == SliceMetrics("shop", "b", 2, metrics(binary([1, 0], [0.9, 0.1]), MISS_COSTS_4))
    assert by_slice(answers, rows, ["shop"], MISS_COSTS_4, at_least=3) == []


def test_slices_of_a_multiclass_task_keep_all_classes() -> None:
    rows = pl.DataFrame({"open": [True, True, False, False]})
    closed, opened = by_slice(THREE_CLASSES, rows, ["open"], MISS_COSTS_4, at_least=1)
    assert (closed.value, opened.value) == ("False", "True")
    assert opened.metrics["accuracy"] == 1
    assert closed.metrics["accuracy"] == 0


def bound(gains: list[float], days: list[int], confidence: float, seed: int = 0) -> PairedComparison:
    theirs = array(*gains)
    return compare_losses(
        np.zeros(len(gains)), theirs, np.array(days), confidence=confidence, rng=np.random.default_rng(seed)
    )


@pytest.mark.parametrize(("confidence", "lower"), [(0.95, -1.0), (0.8, -1.0), (0.5, 0.5), (0.1, 1.0)])
def test_the_bound_is_the_lower_quantile_of_means_over_drawn_days(
    monkeypatch: pytest.MonkeyPatch, confidence: float, lower: float
) -> None:
    """Three rows gain 1 on one day, one loses 1 on the other: draws of two days have means of 1, 1/2 and -1."""
    monkeypatch.setattr(evaluation, "MIN_DAYS", 2)
    found = bound([1, 1, 1, -1], [7, 7, 7, 9], confidence)
    assert (found.mean, found.rows) == (0.5, 4)
    assert found.lower == pytest.approx(lower)


def test_the_bound_is_that_of_two_thousand_draws() -> None:
    rng = np.random.default_rng(5)
    days, gains = rng.integers(0, 9, size=60), rng.normal(size=60)
    draws = np.random.default_rng(3).multinomial(9, [1 / 9] * 9, size=2000)
    means = []
    for draw in draws:
        picked = [value for day, times in enumerate(draw) for value in gains[days == day] for _ in range(times)]
        means.append(sum(picked) / len(picked))
    found = bound(gains.tolist(), (days * 10).tolist(), 0.95, seed=3)
    assert found.lower == pytest.approx(np.quantile(means, 0.05))
    assert found.mean == pytest.approx(gains.mean())


def test_the_bounds_are_around_the_mean_and_few_days_are_drawn_by_row() -> None:
    gains = np.random.default_rng(1).normal(0.1, 1, size=200).tolist()
    found = bound(gains, list(range(200)), 0.95)
    assert found.lower < found.mean < found.upper
    for days in ([3] * 200, [day % 6 for day in range(200)]):
        assert bound(gains, days, 0.95) == found
    assert bound(gains, [day % 7 for day in range(200)], 0.95) != found


def test_days_are_drawn_not_rows_so_that_rows_of_a_day_count_as_one_piece_of_evidence() -> None:
    daily = np.random.default_rng(2).normal(0.2, 1, size=30)
    gains, days = np.repeat(daily, 50).tolist(), np.repeat(np.arange(30), 50).tolist()
    by_day, by_row = bound(gains, days, 0.95), bound(gains, list(range(1500)), 0.95)
    assert by_day.mean == by_row.mean
    assert by_day.mean - by_day.lower > 4 * (by_row.mean - by_row.lower)


def test_a_model_gains_nothing_over_itself_and_a_better_one_surely_does() -> None:
    rng, days = np.random.default_rng(4), np.repeat(np.arange(14), 20)
    theirs = rng.uniform(0.5, 1, size=280)
    same = compare_losses(theirs, theirs, days, confidence=0.95, rng=rng)
    assert (same.mean, same.lower) == (0, 0)
    better = compare_losses(theirs - 0.1, theirs, days, confidence=0.95, rng=rng)
    assert better.lower == pytest.approx(0.1)
    worse = compare_losses(theirs, theirs - 0.1, days, confidence=0.95, rng=rng)
    assert worse.mean == pytest.approx(-0.1)


def test_a_gain_reads_as_a_sentence() -> None:
    assert str(PairedComparison(0.01234, -0.005, 0.03, 280)) == "+0.0123 (from -0.0050 to +0.0300, 280 rows)"
