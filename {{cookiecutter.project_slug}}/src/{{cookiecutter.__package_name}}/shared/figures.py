"""How a model does, drawn: what it looks at, calibration, receiver operating characteristic, cost, errors."""

from collections.abc import Iterable
from io import BytesIO

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from {{cookiecutter.__package_name}}.shared.evaluation import Answers, calibration, cost
from {{cookiecutter.__package_name}}.shared.schema import Task
from {{cookiecutter.__package_name}}.shared.settings import Decision

BARS = 12
THRESHOLDS = np.linspace(0.01, 0.99, 99)
ABOVE = 0.4  # inches for a title
LABEL = FontProperties(size=10)
POINTS = 72  # an inch
rcParams["text.parse_math"] = False  # labels are data: $5 is five dollars


def figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches that asks for no window."""
    empty = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(empty)
    return empty


def png(drawn: Figure) -> bytes:
    """A figure as a picture; the same figure gives the same bytes."""
    content = BytesIO()
    drawn.savefig(content, dpi=100, metadata={"Software": None})
    return content.getvalue()


def panels(
    size: tuple[float, float],
    shape: tuple[int, int] = (1, 1),
    *,
    left: float = 0.8,
    right: float = 0.4,
    below: float = 0.6,
    share: bool = False,
) -> tuple[Figure, list[Axes]]:
    """A figure and its panels row by row, with room for labels by hand: measuring it takes longer than drawing.

    Labels have a third of the width on each side and half of the height at most: beyond that they are cut.

    Args:
        size: Width and height, in inches, as the room is.
        shape: How many rows of panels, and panels in each.
        left: Room for the labels of y.
        right: Room for what stands there.
        below: Room for the labels of x.
        share: Whether panels below each other have the same x, and those beside each other the same y.
    """
    (width, height), (rows, columns) = size, shape
    left, right, below = min(left, width / 3), min(right, width / 3), min(below, height / 2)
    over, beside = (0.35, 0.2) if share else (ABOVE + below, left + right)
    tall = (height - below - ABOVE - over * (rows - 1)) / rows
    broad = (width - left - right - beside * (columns - 1)) / columns
    room = {"left": left / width, "right": 1 - right / width, "bottom": below / height, "top": 1 - ABOVE / height}
    room |= {"hspace": over / tall, "wspace": beside / broad}
    empty = Figure(figsize=size)
    FigureCanvasAgg(empty)
    axes = empty.subplots(*shape, squeeze=False, sharex=share and "col", sharey=share and "row", gridspec_kw=room)
    return empty, list(axes.ravel())


def wide(labels: Iterable[str]) -> float:
    """How many inches the longest of some labels takes."""
    points = (text_to_path.get_text_width_height_descent(label, LABEL, ismath=False)[0] for label in labels)
    return max(points, default=0.0) / POINTS


def overview(importance: dict[str, float], answers: dict[str, Answers], decision: Decision) -> Figure:
    """How the model of these answers does, on one page; for a binary task, beside the others."""
    drawn, model = figure(11, 8), answers["model"]
    axes = drawn.subplots(2, 2).ravel()
    draw_importance(axes[0], importance)
    if model.task is Task.BINARY:
        draw_calibration(axes[1], model)
        draw_roc(axes[2], answers)
        draw_threshold(axes[3], model, decision)
    else:
        draw_errors(axes[1], axes[2], model)
        axes[3].set_axis_off()
    return drawn


def draw_importance(axes: Axes, values: dict[str, float]) -> None:
    """Bars of the features that matter most, the largest on top."""
    names = list(values)[:BARS][::-1]
    axes.barh(names, [values[name] for name in names])
    axes.set(title="what the model looks at", xlabel="loss gained when shuffled")


def draw_calibration(axes: Axes, answers: Answers) -> None:
    """The observed over the predicted rate."""
    table = calibration(answers)
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    axes.plot(table["predicted"], table["observed"], marker="o")
    axes.set(title="calibration", xlabel="predicted probability", ylabel="observed rate")


def draw_roc(axes: Axes, models: dict[str, Answers]) -> None:
    """True over false alerts of each model."""
    from sklearn import metrics as sk  # noqa: PLC0415 - takes a second: pages without it are waited for

    for name, answers in models.items():
        false, true, _ = sk.roc_curve(answers.target, answers.prediction)
        axes.plot(false, true, label=f"{name}, area {sk.auc(false, true):.3f}")
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    axes.set(
        title="receiver operating characteristic",
        xlabel="false alerts among what did not happen",
        ylabel="alerts among what happened",
    )
    axes.legend()


def draw_threshold(axes: Axes, answers: Answers, decision: Decision) -> None:
    """What decisions cost by their threshold."""
    axes.plot(THRESHOLDS, [cost(answers, decision, threshold=float(threshold)) for threshold in THRESHOLDS])
    axes.axvline(decision.threshold, color="grey", linewidth=0.8)
    axes.set(title="cost of decisions", xlabel="threshold (line: in use)", ylabel="cost per 100 rows")


def draw_errors(first: Axes, second: Axes, answers: Answers) -> None:
    """Predictions beside what came true, and how far off or how sure they are."""
    if answers.task is Task.REGRESSION:
        first.scatter(answers.prediction, answers.target, s=4, rasterized=True)
        first.set(title="predicted and true", xlabel="predicted", ylabel="true")
        second.hist(answers.prediction - answers.target, bins=40)
        second.set(title="errors", xlabel="predicted less true", ylabel="rows")
    else:
        from sklearn import metrics as sk  # noqa: PLC0415

        first.imshow(sk.confusion_matrix(answers.target, answers.prediction.argmax(axis=1)))
        first.set(title="confusion", xlabel="predicted class", ylabel="true class")
        second.hist(answers.prediction.max(axis=1), bins=40)
        second.set(title="confidence", xlabel="probability of the likeliest class", ylabel="rows")
