# %% [markdown]
# # What each feature is worth
# Some columns of noise are put beside the features. Then each is left out in turn, noise too, the model is fitted
# again, and its loss on the newest window says what was lost. What is worth no more than noise may go: it costs, and
# helps only by luck. Features that tell the same hide each other: leave them out together, as a group.

# %%
from dataclasses import replace

import numpy as np
import polars as pl

from {{cookiecutter.__package_name}}.core.models import evaluation
from {{cookiecutter.__package_name}}.research.experiment import Effect, effect_table, plot_effects, start
from {{cookiecutter.__package_name}}.shared import PROBLEM, features

experiment = start(PROBLEM, "ablation")
rows, rng = experiment.rows(), np.random.default_rng(0)
noise = [f"noise_{number}" for number in range(1, 3 if experiment.fast else 6)]
rows = rows.with_columns(pl.Series(name, rng.normal(size=len(rows))) for name in noise)
problem = replace(experiment.problem, features=(*experiment.problem.features, *noise))
before, held = experiment.split(rows)

# %% Each feature alone, and each group that shared/features.py has a name for, like WEATHER = ("wind", "rain")
own = experiment.problem.features
groups = {name: value for name, value in vars(features).items() if isinstance(value, tuple) and set(value) < set(own)}
columns = {name: (name,) for name in (*noise, *own[: 2 if experiment.fast else None])} | groups

# %% Left out one after the other
everything = evaluation.losses(experiment.answers(problem, before, held))
effects: dict[str, Effect] = {}
for name, left_out in experiment.each(columns.items()):
    fewer = replace(problem, features=tuple(feature for feature in problem.features if feature not in left_out))
    losses = evaluation.losses(experiment.answers(fewer, before, held))
    effects[name] = experiment.effect(everything, losses, held)

# %% What is better than noise?
bar = max(0.0, *(effects[name].mean for name in noise))


def verdict(name: str, effect: Effect) -> str:
    if name in noise:
        return "the control"
    if effect.upper < 0:
        return "better without"
    return "useful" if effect.lower > bar else "no better than noise"


ordered = sorted(effects, key=lambda name: -effects[name].mean)
verdicts = {name: verdict(name, effects[name]) for name in ordered}
table = effect_table({name: effects[name] for name in ordered}, name="left out", label="loss grows by")
table = table.with_columns(verdict=pl.Series(verdicts.values()))
useful = [name for name in ordered if verdicts[name] == "useful"]
finding = (
    f"{len(useful)} of {len(columns) - len(noise)} are surely worth more than noise: {', '.join(useful) or 'none'}"
)

# %% A plot
figure, axes = plot_effects(
    {f"{name}, {verdicts[name]}": effects[name] for name in ordered},
    title="what the model loses without it (dotted: noise)",
    label=f"growth of the mean loss on {len(held)} rows of the newest window",
)
axes.axvline(bar, color="black", linewidth=0.8, linestyle=":")

# %% Log it as a tracked run
metrics = {f"gain.{name}": effect.mean for name, effect in effects.items()}
metrics |= {f"gain_lower.{name}": effect.lower for name, effect in effects.items()}
experiment.log(finding, metrics | {"useful": len(useful)}, table=table, figure=figure)
