# %% [markdown]
# Ablation
# Columns of noise are added to the features. Each feature is left out in turn, the model is fitted again, and the
# increase of its loss on the newest window is measured. Features no better than noise can be removed. Leave correlated
# features out together, as a group.

# %%
from dataclasses import replace

import numpy as np
import polars as pl

from {{cookiecutter.__package_name}}.core.models import evaluation
from {{cookiecutter.__package_name}}.core.models.evaluation import PairedComparison
from {{cookiecutter.__package_name}}.research.experiment import (
    effect_table,
    plot_loss_reductions,
    start,
)
from {{cookiecutter.__package_name}}.shared import PROBLEM, features

experiment = start(PROBLEM, "ablation")
rows, rng = experiment.rows(), np.random.default_rng(0)
noise = [f"noise_{number}" for number in range(1, 3 if experiment.fast else 6)]
rows = rows.with_columns(pl.Series(name, rng.normal(size=len(rows))) for name in noise)
problem = replace(experiment.problem, features=(*experiment.problem.features, *noise))
train, holdout = experiment.split(rows)

# %% Single features, and the groups that shared/features.py defines, such as WEATHER = ("wind", "rain")
own = experiment.problem.features
groups = {name: value for name, value in vars(features).items() if isinstance(value, tuple) and set(value) < set(own)}
columns = {name: (name,) for name in (*noise, *own[: 2 if experiment.fast else None])} | groups

# %% Leave each out
everything = evaluation.losses(experiment.holdout_predictions(problem, train, holdout))
effects: dict[str, PairedComparison] = {}
for name, left_out in experiment.progress(columns.items()):
    fewer = replace(problem, features=tuple(feature for feature in problem.features if feature not in left_out))
    losses = evaluation.losses(experiment.holdout_predictions(fewer, train, holdout))
    effects[name] = experiment.loss_reduction(everything, losses, holdout)

# %% Compare with noise
bar = max(0.0, *(effects[name].mean for name in noise))


def verdict(name: str, effect: PairedComparison) -> str:
    if name in noise:
        return "noise"
    if effect.upper < 0:
        return "harmful"
    return "useful" if effect.lower > bar else "no better than noise"


ordered = sorted(effects, key=lambda name: -effects[name].mean)
verdicts = {name: verdict(name, effects[name]) for name in ordered}
table = effect_table({name: effects[name] for name in ordered}, name="left out", label="loss increase")
table = table.with_columns(verdict=pl.Series(verdicts.values()))
useful = [name for name in ordered if verdicts[name] == "useful"]
finding = f"{len(useful)} of {len(columns) - len(noise)} are better than noise: {', '.join(useful) or 'none'}"

# %% A plot
figure, axes = plot_loss_reductions(
    {f"{name}, {verdicts[name]}": effects[name] for name in ordered},
    title="Ablation (dotted: noise)",
    label=f"increase of the mean loss on {len(holdout)} holdout rows",
)
axes.axvline(bar, color="black", linewidth=0.8, linestyle=":")

# %% Log a tracked run
metrics = {f"loss_reduction.{name}": effect.mean for name, effect in effects.items()}
metrics |= {f"loss_reduction_lower.{name}": effect.lower for name, effect in effects.items()}
experiment.log(finding, metrics | {"useful": len(useful)}, table=table, figure=figure)
