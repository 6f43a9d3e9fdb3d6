"""Pictures of a model: what is drawn is what was measured."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from my_ml_project.core import plots
from my_ml_project.core.acceptance import DecisionCosts
from my_ml_project.core.contracts.schema import Task
from my_ml_project.core.models.evaluation import Predictions


@pytest.fixture
def axes() -> Any:
    return Figure().subplots(1, 3)


@pytest.mark.parametrize("name", ["m" * 20, "$5 or $\\frac$"])
def test_labels_are_no_formulas_and_have_room(name: str) -> None:
    drawn = plots.figure(24, 8)
    panels = list(drawn.subplots(1, 3))
    for panel in panels:
        plots.draw_importance(panel, {name: 1.0, "b": 2.0})
        panel.plot([0, 1], [0, 1], label=name)
    panels[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    assert plots.png(drawn).startswith(b"\x89PNG")
    shown = [text for text in drawn.findobj(Text) if text.get_text() == name]
    assert len(shown) == 3 * 2 + 1
    assert not any(text.get_parse_math() for text in shown)
    assert rcParams["text.parse_math"], "of other figures"
    edges = drawn.get_tightbbox()
    assert (edges.x0 > 0, edges.y0 > 0, edges.x1 < 24, edges.y1 < 8) == (True, True, True, True)
    boxes = [box for panel in panels if (box := panel.get_tightbbox())]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))


def line(drawn: Axes, number: int = 0) -> Any:
    return np.asarray(drawn.get_lines()[number].get_xydata()).tolist()


def test_the_largest_bars_are_shown_the_largest_on_top(axes: Any) -> None:
    values = {f"feature {n}": float(20 - n) for n in range(15)}
    plots.draw_importance(axes[0], values)
    assert [bar.get_width() for bar in axes[0].patches] == list(range(9, 21))
    assert [label.get_text() for label in axes[0].get_yticklabels()] == list(values)[11::-1]


def test_calibration_is_the_observed_over_the_predicted_rate(axes: Any) -> None:
    target = np.array([0.0, 0, 0, 1, 1, 0, 1, 1, 1, 1])
    plots.draw_calibration(axes[0], Predictions(Task.BINARY, target, np.linspace(0.05, 0.95, 10)))
    assert np.allclose(line(axes[0], 1), np.column_stack([np.linspace(0.05, 0.95, 10), target]))


def test_true_alerts_are_over_false_ones_for_each_model(axes: Any) -> None:
    target = np.array([0.0, 0.0, 1.0])
    models = {
        "model": Predictions(Task.BINARY, target, np.array([0.1, 0.2, 0.9])),
        "linear": Predictions(Task.BINARY, target, np.array([0.9, 0.1, 0.5])),
    }
    plots.draw_roc(axes[0], models)
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == ["model, AUC 1.000", "linear, AUC 0.500"]
    assert line(axes[0], 1) == [[0.0, 0.0], [0.5, 0.0], [0.5, 1.0], [1.0, 1.0]]


def test_the_threshold_in_use_is_marked_on_the_cost_of_all(axes: Any) -> None:
    answers = Predictions(Task.BINARY, np.array([0.0, 1.0]), np.array([0.3, 0.6]))
    plots.draw_threshold(axes[0], answers, DecisionCosts(cost_false_positive=1, cost_false_negative=4))
    costs = {round(at, 2): cost for at, cost in line(axes[0])}
    assert (costs[0.01], costs[0.29], costs[0.45], costs[0.99]) == (50.0, 50.0, 0.0, 200.0)
    assert [at for at, _ in line(axes[0], 1)] == pytest.approx([0.2, 0.2])


def test_a_regression_is_shown_by_its_errors(axes: Any) -> None:
    plots.draw_errors(axes[0], axes[1], Predictions(Task.REGRESSION, np.array([1.0, 2.0]), np.array([1.5, 4.0])))
    assert axes[0].collections[0].get_offsets().tolist() == [[1.5, 1.0], [4.0, 2.0]]
    edges = [bar.get_x() for bar in axes[1].patches]
    assert (min(edges), sum(bar.get_height() for bar in axes[1].patches)) == (0.5, 2)


def test_a_class_is_shown_by_what_it_is_taken_for(axes: Any) -> None:
    prediction = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1]])
    plots.draw_errors(axes[0], axes[1], Predictions(Task.MULTICLASS, np.array([0.0, 1.0, 1.0]), prediction))
    assert axes[0].get_images()[0].get_array().tolist() == [[1, 0], [1, 1]]
    assert (axes[0].get_xlabel(), axes[0].get_ylabel()) == ("predicted class", "true class")
    assert min(bar.get_x() for bar in axes[1].patches) == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("answers", "titles"),
    [
        (
            Predictions(Task.BINARY, np.array([0.0, 1.0]), np.array([0.3, 0.6])),
            ["Calibration", "ROC curve", "Expected cost by threshold"],
        ),
        (
            Predictions(Task.REGRESSION, np.array([1.0, 2.0]), np.array([1.5, 4.0])),
            ["Predicted and true values", "Errors", ""],
        ),
    ],
    ids=["binary", "regression"],
)
def test_an_overview_has_what_the_task_asks_for(answers: Predictions, titles: list[str]) -> None:
    drawn = plots.overview({"age": 1.0}, {"model": answers, "linear": answers}, DecisionCosts())
    assert [axes.get_title() for axes in drawn.axes] == ["Permutation importance", *titles]
