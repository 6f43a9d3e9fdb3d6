"""Plots of a model: permutation importance, calibration, ROC curve, expected cost by threshold, errors."""

from io import BytesIO

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from {{cookiecutter.__package_name}}.core.acceptance import DecisionCosts
from {{cookiecutter.__package_name}}.core.contracts.schema import Task
from {{cookiecutter.__package_name}}.core.models.evaluation import Predictions, calibration, cost

BARS = 12
THRESHOLDS = np.linspace(0.01, 0.99, 99)


class CellFigure(Figure):
    """A figure without a window, which cells of notebooks and experiments show."""

    def _repr_png_(self) -> bytes:
        return png(self)


def figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches."""
    return CellFigure(figsize=(width, height), layout="constrained")


def png(drawn: Figure) -> bytes:
    """A figure as a PNG image; equal figures give equal bytes.

    Labels are not parsed as formulas: `$5` is five dollars.
    """
    for text in drawn.findobj(Text):
        text.set_parse_math(False)
    content = BytesIO()
    with rc_context({"text.parse_math": False}):  # for labels that are created on drawing
        drawn.savefig(content, dpi=100, metadata={"Software": None})
    return content.getvalue()


def overview(importance: dict[str, float], predictions: dict[str, Predictions], decision: DecisionCosts) -> Figure:
    """The overview of a model: importance, calibration, ROC curve and cost; for other tasks, importance and errors."""
    drawn, model = figure(11, 8), predictions["model"]
    axes = drawn.subplots(2, 2).ravel()
    draw_importance(axes[0], importance)
    if model.task is Task.BINARY:
        draw_calibration(axes[1], model)
        draw_roc(axes[2], predictions)
        draw_threshold(axes[3], model, decision)
    else:
        draw_errors(axes[1], axes[2], model)
        axes[3].set_axis_off()
    return drawn


def draw_importance(axes: Axes, values: dict[str, float]) -> None:
    """Bars of the most important features, largest first."""
    names = list(values)[:BARS][::-1]
    axes.barh(names, [values[name] for name in names])
    axes.set(title="Permutation importance", xlabel="increase in loss")


def draw_calibration(axes: Axes, predictions: Predictions) -> None:
    """The fraction of positives over the mean predicted probability."""
    table = calibration(predictions)
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    axes.plot(table["predicted"], table["observed"], marker="o")
    axes.set(title="Calibration", xlabel="mean predicted probability", ylabel="fraction of positives")


def draw_roc(axes: Axes, models: dict[str, Predictions]) -> None:
    """The ROC curve of each model."""
    from sklearn import metrics as sk  # noqa: PLC0415 - takes a second to import

    for name, predictions in models.items():
        false, true, _ = sk.roc_curve(predictions.target, predictions.prediction)
        axes.plot(false, true, label=f"{name}, AUC {sk.auc(false, true):.3f}")
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    axes.set(title="ROC curve", xlabel="false positive rate", ylabel="true positive rate")
    axes.legend()


def draw_threshold(axes: Axes, predictions: Predictions, decision: DecisionCosts) -> None:
    """The expected cost of decisions by their threshold."""
    axes.plot(THRESHOLDS, [cost(predictions, decision, threshold=float(threshold)) for threshold in THRESHOLDS])
    axes.axvline(decision.threshold, color="grey", linewidth=0.8)
    axes.set(title="Expected cost by threshold", xlabel="threshold (line: in use)", ylabel="cost per 100 rows")


def draw_errors(first: Axes, second: Axes, predictions: Predictions) -> None:
    """Predicted against true values and the errors; for classes, the confusion matrix and the confidence."""
    if predictions.task is Task.REGRESSION:
        first.scatter(predictions.prediction, predictions.target, s=4, rasterized=True)
        first.set(title="Predicted and true values", xlabel="predicted value", ylabel="true value")
        second.hist(predictions.prediction - predictions.target, bins=40)
        second.set(title="Errors", xlabel="predicted minus true value", ylabel="rows")
    else:
        from sklearn import metrics as sk  # noqa: PLC0415

        first.imshow(sk.confusion_matrix(predictions.target, predictions.prediction.argmax(axis=1)))
        first.set(title="Confusion matrix", xlabel="predicted class", ylabel="true class")
        second.hist(predictions.prediction.max(axis=1), bins=40)
        second.set(title="Confidence", xlabel="probability of the predicted class", ylabel="rows")
