# %% [markdown]
# A new feature
# The current features and the same with one more are fitted on the same rows and compared on the same windows: the
# newest, which the gate uses, and some before it. If the feature helps, move it to `shared/features.py`: see
# `docs/from-idea-to-champion.md`.

# %%
from collections.abc import Mapping
from dataclasses import replace

import narwhals as nw
import numpy as np
import polars as pl

from {{cookiecutter.__package_name}}.core.contracts.schema import PREDICTED_AT, Frame
from {{cookiecutter.__package_name}}.core.features import windows
from {{cookiecutter.__package_name}}.core.models import evaluation
from {{cookiecutter.__package_name}}.research.experiment import effect_table, plot_loss_reductions, start
from {{cookiecutter.__package_name}}.shared import PROBLEM, features

# %% The idea: hours of rain delay flights
FEATURE = "rain"


def idea(flights: Frame, history: Mapping[str, Frame]) -> Frame:
    """Add the rain of the last hours, in hundredths of an inch."""
    rain = {FEATURE: (nw.col("precipitation") * 100).round()}
    return flights.pipe(windows.trailing, history["weather"], when="observed", window=features.LOOKBACK, sums=rain)


# %% The same rows, the same splits, the same parameters
def build(flights: Frame, history: Mapping[str, Frame]) -> Frame:
    return features.build(flights, history).pipe(idea, history)


experiment = start(PROBLEM, "new feature")
problems = {"champion": PROBLEM, "challenger": replace(PROBLEM, features=(*PROBLEM.features, FEATURE), build=build)}
rows = experiment.rows(problems["challenger"])
tried = list(experiment.windows(rows, 2 if experiment.fast else 6))
parts = [holdout for _, holdout in tried]
predictions = [
    {name: experiment.holdout_predictions(problem, train, holdout) for name, problem in problems.items()}
    for train, holdout in experiment.progress(tried)
]

# %% Compare losses by window
ours, theirs = ([evaluation.losses(each[name]) for each in predictions] for name in ("challenger", "champion"))
effects = {
    str(holdout[PREDICTED_AT].dt.date().min()): experiment.loss_reduction(new, old, holdout)
    for new, old, holdout in zip(ours, theirs, parts, strict=True)
}
better = experiment.loss_reduction(np.concatenate(ours), np.concatenate(theirs), pl.concat(parts))
finding = f"{FEATURE} lowers the loss by {better}: {'significant' if better.lower > 0 else 'not significant'}"

# %% A plot
figure, _ = plot_loss_reductions(
    effects | {"all": better},
    title=f"Loss reduction by {FEATURE}",
    label="reduction of the mean loss",
)

# %% Log a tracked run
decision = experiment.workspace.acceptance.decision
metrics = {
    f"{name}.{metric}": value
    for name, given in predictions[0].items()  # on the newest window
    for metric, value in evaluation.metrics(given, decision).items()
}
metrics |= {"loss_reduction": better.mean, "loss_reduction_lower": better.lower}
table = effect_table(effects, name="window from", label="lowers the loss by")
experiment.log(finding, metrics, table=table, figure=figure, tags={"feature": FEATURE})
