"""What a champion's predictions are worth and made of: quality, cost by threshold, effects of features."""

from matplotlib.figure import Figure

from {{cookiecutter.__package_name}}.core import plots
from {{cookiecutter.__package_name}}.core.contracts.schema import Task
from {{cookiecutter.__package_name}}.core.models.evaluation import cost
from {{cookiecutter.__package_name}}.core.models.importance import partial_dependence, permutation_importance
from {{cookiecutter.__package_name}}.core.workspace import Workspace
from {{cookiecutter.__package_name}}.research.views.model import Answered

SHOWN = 4  # features whose effect has a panel
SOME = 1500  # rows on which features are shuffled: a page is waited for


def importance(workspace: Workspace, found: Answered) -> dict[str, float]:
    """By how much the loss grows when a feature is shuffled, the largest first."""
    champion, some = found.champion, found.rows.sample(min(SOME, len(found.rows)), seed=0)
    return permutation_importance(workspace.problem, champion.predictor, some, champion.classes)


def overview(workspace: Workspace, found: Answered, importance: dict[str, float]) -> Figure:
    """The champion on one page, as `run` draws its challengers."""
    return plots.overview(importance, {"model": found.answers}, workspace.acceptance.decision)


def at_threshold(workspace: Workspace, found: Answered, threshold: float) -> str:
    """What decisions from a threshold on would have cost and caught, beside the threshold in use."""
    answers, decision = found.answers, workspace.acceptance.decision
    if answers.task is not Task.BINARY:
        return (
            f"Only yes-or-no questions have a threshold, and decisions that cost: it doesn't apply to a {answers.task}."
        )
    alert, happened = answers.prediction >= threshold, answers.target == 1
    right = int((alert & happened).sum())
    return (
        f"From **{threshold:.2f}** on, decisions cost **{cost(answers, decision, threshold=threshold):.1f}** per 100 "
        f"rows: {alert.mean():.0%} of rows alert, {right / max(int(alert.sum()), 1):.0%} of the alerts are right, and "
        f"{right / max(int(happened.sum()), 1):.0%} of what happens is caught. "
        f"In use is {decision.threshold:.2f}, which costs {cost(answers, decision):.1f}."
    )


def moves(found: Answered, importance: dict[str, float]) -> Figure:
    """Where the features that matter most move the mean prediction, of the likeliest class where there are many."""
    champion = found.champion
    effect = {name: partial_dependence(champion.predictor, found.rows, name) for name in list(importance)[:SHOWN]}
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
