"""A picture of a challenger on the newest window, for people: how good, where from, and at what threshold."""

import json
from io import BytesIO

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn import metrics as sk

from {{cookiecutter.__package_name}}.production.train import CANDIDATE, EVIDENCE
from {{cookiecutter.__package_name}}.shared import training
from {{cookiecutter.__package_name}}.shared.evaluation import Answers, calibration, cost, losses
from {{cookiecutter.__package_name}}.shared.predictor import Predictor, text_features
from {{cookiecutter.__package_name}}.shared.problem import Problem
from {{cookiecutter.__package_name}}.shared.registry import Version
from {{cookiecutter.__package_name}}.shared.schema import Task
from {{cookiecutter.__package_name}}.shared.settings import Decision
from {{cookiecutter.__package_name}}.shared.workspace import Workspace

ROWS = 5000  # on which the importance of features is measured
BARS = 12


def draw(workspace: Workspace, version: Version) -> str:
    """Draw a challenger into the folder of reports and beside its run.

    Returns:
        The picture's path, from the project's folder.
    """
    problem, registry = workspace.problem, workspace.registry
    rows = pl.read_parquet(BytesIO(registry.read(version.run_id, EVIDENCE)))
    classes = json.loads(registry.tags(version.run_id)["classes"])
    model = Predictor(registry.read(version.run_id, CANDIDATE), text_features(problem, rows), problem.task)
    answers = training.answers(problem, rows, model.predict(rows), classes)
    figure = Figure(figsize=(11, 8), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"version {version.number} on the {len(rows)} rows of the newest window")
    axes = figure.subplots(2, 2).ravel()
    _importance(axes[0], importance(problem, model, rows, classes))
    if problem.task is Task.BINARY:
        _calibration(axes[1], answers)
        _roc(axes[2], {name: training.evidence(problem, rows, name, classes) for name in ("model", "linear")})
        _threshold(axes[3], answers, workspace.acceptance.decision)
    else:
        _errors(axes[1:], answers)
    content = BytesIO()
    figure.savefig(content, dpi=100, metadata={"Software": None})
    path = workspace.settings.reports / f"version-{version.number}.png"
    workspace.path(path).parent.mkdir(parents=True, exist_ok=True)
    workspace.path(path).write_bytes(content.getvalue())
    with registry.resumed(version.run_id) as run:
        run.keep("picture.png", content.getvalue())
    return path.as_posix()


def importance(problem: Problem, model: Predictor, rows: pl.DataFrame, classes: list[str]) -> dict[str, float]:
    """By how much the mean loss grows when a feature's values are shuffled (Breiman, 2001), the largest first."""
    some = rows.sample(min(ROWS, len(rows)), seed=0)
    base = losses(training.answers(problem, some, model.predict(some), classes)).mean()
    grown = {}
    for name in problem.features:
        shuffled = some.with_columns(some[name].shuffle(seed=1))
        grown[name] = float(losses(training.answers(problem, shuffled, model.predict(shuffled), classes)).mean() - base)
    return dict(sorted(grown.items(), key=lambda item: -item[1]))


def _importance(axes: Axes, values: dict[str, float]) -> None:
    names = list(values)[:BARS][::-1]
    axes.barh(names, [values[name] for name in names])
    axes.set(title="what the model looks at", xlabel="loss gained when shuffled")


def _calibration(axes: Axes, answers: Answers) -> None:
    table = calibration(answers)
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    axes.plot(table["predicted"], table["observed"], marker="o")
    axes.set(title="calibration", xlabel="predicted probability", ylabel="observed rate")


def _roc(axes: Axes, models: dict[str, Answers]) -> None:
    for name, answers in models.items():
        false, true, _ = sk.roc_curve(answers.target, answers.prediction)
        axes.plot(false, true, label=f"{name}, area {sk.auc(false, true):.3f}")
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    axes.set(title="ROC", xlabel="false alerts among what did not happen", ylabel="alerts among what happened")
    axes.legend()


def _threshold(axes: Axes, answers: Answers, decision: Decision) -> None:
    thresholds = np.linspace(0.01, 0.99, 99)
    costs = [cost(answers, decision, threshold=float(threshold)) for threshold in thresholds]
    axes.plot(thresholds, costs)
    axes.axvline(decision.threshold, color="grey", linewidth=0.8)
    axes.set(title="cost of decisions", xlabel="threshold (line: in use)", ylabel="cost per 100 rows")


def _errors(axes: np.ndarray, answers: Answers) -> None:
    if answers.task is Task.REGRESSION:
        axes[0].scatter(answers.prediction, answers.target, s=4)
        axes[0].set(title="predicted and true", xlabel="predicted", ylabel="true")
        axes[1].hist(answers.prediction - answers.target, bins=40)
        axes[1].set(title="errors", xlabel="predicted less true", ylabel="rows")
    else:
        table = sk.confusion_matrix(answers.target, answers.prediction.argmax(axis=1))
        axes[0].imshow(table)
        axes[0].set(title="confusion", xlabel="predicted class", ylabel="true class")
        axes[1].hist(answers.prediction.max(axis=1), bins=40)
        axes[1].set(title="confidence", xlabel="probability of the likeliest class", ylabel="rows")
    axes[2].set_axis_off()
