# %% [markdown]
# # A challenger of one's own
# Would another feature help? The champion's recipe and the same with one more feature are fitted on the same rows and
# compared on the same windows: the newest, on which the gate will judge, and some before it, since two weeks tell much
# of luck. If it is better, the feature moves into `shared/features.py`: see `docs/from-idea-to-champion.md`.

# %%
from collections.abc import Mapping
from dataclasses import replace

import narwhals as nw
import numpy as np
import polars as pl

from {{cookiecutter.__package_name}}.core.contracts.schema import AT, Frame
from {{cookiecutter.__package_name}}.core.features import windows
from {{cookiecutter.__package_name}}.core.models import evaluation
from {{cookiecutter.__package_name}}.research.experiment import effect_table, plot_effects, start
from {{cookiecutter.__package_name}}.shared import PROBLEM, features

# %% The idea: where it rained for hours, flights wait
FEATURE = "rain"


def idea(flights: Frame, history: Mapping[str, Frame]) -> Frame:
    """Add the rain of the last hours, in hundredths of an inch."""
    rain = {FEATURE: (nw.col("precipitation") * 100).round()}
    return flights.pipe(windows.trailing, history["weather"], when="observed", window=features.LOOKBACK, sums=rain)


# %% The same rows, the same splits, the same parameters
def build(flights: Frame, history: Mapping[str, Frame]) -> Frame:
    return features.build(flights, history).pipe(idea, history)


experiment = start(PROBLEM, "challenger")
recipes = {"champion": PROBLEM, "challenger": replace(PROBLEM, features=(*PROBLEM.features, FEATURE), build=build)}
rows = experiment.rows(recipes["challenger"])
tried = list(experiment.windows(rows, 2 if experiment.fast else 6))
parts = [held for _, held in tried]
answers = [
    {name: experiment.answers(problem, before, held) for name, problem in recipes.items()}
    for before, held in experiment.each(tried)
]

# %% Is it better, or is it luck?
ours, theirs = ([evaluation.losses(each[name]) for each in answers] for name in ("challenger", "champion"))
effects = {
    str(held[AT].dt.date().min()): experiment.effect(new, old, held)
    for new, old, held in zip(ours, theirs, parts, strict=True)
}
better = experiment.effect(np.concatenate(ours), np.concatenate(theirs), pl.concat(parts))
finding = f"{FEATURE} lowers the loss by {better}: {'better' if better.lower > 0 else 'not proven to be better'}"

# %% A plot
figure, _ = plot_effects(
    effects | {"all": better},
    title=f"what {FEATURE} does, window by window",
    label="mean loss lower by",
)

# %% Log it as a tracked run
decision = experiment.workspace.acceptance.decision
metrics = {
    f"{name}.{metric}": value
    for name, given in answers[0].items()  # on the newest window
    for metric, value in evaluation.metrics(given, decision).items()
}
metrics |= {"gain": better.mean, "gain_lower": better.lower}
table = effect_table(effects, name="window from", label="lowers the loss by")
experiment.log(finding, metrics, table=table, figure=figure, tags={"feature": FEATURE})
