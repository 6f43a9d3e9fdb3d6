"""What a champion's answers are worth and made of: calibration, cost by threshold, effects of features."""

import polars as pl
from matplotlib.figure import Figure

from {{cookiecutter.__package_name}}.core import plots
from {{cookiecutter.__package_name}}.core.acceptance import Decision
from {{cookiecutter.__package_name}}.core.contracts.schema import Task
from {{cookiecutter.__package_name}}.core.models.evaluation import cost
from {{cookiecutter.__package_name}}.core.models.importance import partial_dependence, permutation_importance
from {{cookiecutter.__package_name}}.core.workspace import Workspace
from {{cookiecutter.__package_name}}.research.views.model import Answered

SHOWN = 4  # features whose effect has a panel
SOME = 1500  # rows on which features are shuffled: a page is waited for
THRESHOLDS = [n / 20 for n in range(1, 20)]
NONE = "Only yes-or-no questions have a threshold, and decisions that cost: it doesn't apply to a {task}."


def calibration(found: Answered) -> Figure:
    """Observed over predicted rate and how often what is predicted; errors, for a task that is not binary."""
    drawn = plots.figure(11, 3.6)
    first, second = drawn.subplots(1, 2)
    if found.answers.task is not Task.BINARY:
        plots.draw_errors(first, second, found.answers)
        return drawn
    plots.draw_calibration(first, found.answers)
    second.hist(found.answers.prediction, bins=40, range=(0, 1))
    second.set(title="Predictions", xlabel="predicted probability", ylabel="rows")
    return drawn


def costs(workspace: Workspace, found: Answered) -> Figure | str:
    """What decisions cost by their threshold."""
    if found.answers.task is not Task.BINARY:
        return NONE.format(task=found.answers.task)
    drawn = plots.figure(11, 3.2)
    plots.draw_threshold(drawn.subplots(), found.answers, workspace.acceptance.decision)
    return drawn


def thresholds(workspace: Workspace, found: Answered) -> pl.DataFrame | str:
    """What alerts from a threshold on would cost and catch, by threshold."""
    if found.answers.task is not Task.BINARY:
        return ""
    return pl.DataFrame([at_threshold(workspace.acceptance.decision, found, threshold) for threshold in THRESHOLDS])


def in_words(workspace: Workspace, found: Answered, threshold: float) -> str:
    """One threshold beside the one in use."""
    if found.answers.task is not Task.BINARY:
        return ""
    decision = workspace.acceptance.decision
    here, used = (at_threshold(decision, found, each) for each in (threshold, decision.threshold))
    return (
        f"From **{threshold:.2f}** on, decisions cost **{here['cost per 100 rows']:.1f}** per 100 rows: "
        f"{here['alerts']:.0%} of rows alert, {here['right']:.0%} of the alerts are right, and "
        f"{here['caught']:.0%} of what happens is caught. "
        f"In use is {decision.threshold:.2f}, which costs {used['cost per 100 rows']:.1f}."
    )


def at_threshold(decision: Decision, found: Answered, threshold: float) -> dict[str, float]:
    """What alerts from a threshold on would have cost and caught."""
    alert, happened = found.answers.prediction >= threshold, found.answers.target == 1
    right = int((alert & happened).sum())
    return {
        "threshold": threshold,
        "cost per 100 rows": cost(found.answers, decision, threshold=threshold),
        "alerts": float(alert.mean()),
        "right": right / max(int(alert.sum()), 1),
        "caught": right / max(int(happened.sum()), 1),
    }


def importance(workspace: Workspace, found: Answered) -> dict[str, float]:
    """By how much the loss grows when a feature is shuffled, the largest first."""
    champion, some = found.champion, found.rows.sample(min(SOME, len(found.rows)), seed=0)
    return permutation_importance(workspace.problem, champion.predictor, some, champion.classes)


def matters(values: dict[str, float]) -> Figure:
    """The features that matter most."""
    drawn = plots.figure(11, 1 + 0.28 * min(len(values), plots.BARS))
    plots.draw_importance(drawn.subplots(), values)
    return drawn


def moves(found: Answered, values: dict[str, float]) -> Figure:
    """Where the features that matter most move the mean prediction, of the likeliest class where there are many."""
    champion = found.champion
    effect = {name: partial_dependence(champion.predictor, found.rows, name) for name in list(values)[:SHOWN]}
    drawn = plots.figure(11, 3.2)
    panels = drawn.subplots(1, len(effect), sharey=True, squeeze=False)[0]
    for axes, (name, (at, predicted)) in zip(panels, effect.items(), strict=True):
        lines = predicted.reshape(len(at), -1).T
        for label, line in zip(champion.classes or [""], lines, strict=True):
            axes.plot(at, line, "o" if champion.features[name] else "-", label=label)
        axes.set(title=name)
        axes.tick_params(axis="x", rotation=45 if champion.features[name] else 0)
    panels[0].set_ylabel("mean prediction")
    if champion.classes:
        panels[0].legend()
    return drawn
