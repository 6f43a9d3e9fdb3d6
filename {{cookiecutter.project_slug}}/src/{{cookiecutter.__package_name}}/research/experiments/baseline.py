# %% [markdown]
# # Baselines
# How much of the quality is the model's? Beside it stand one that knows only how the target is distributed, and a
# linear one. And how much is the split's? Where rows have a time, half of the newest window is predicted twice: by
# models that know the time before the window and nothing else, as in production, and by models that also know the other
# half, drawn at random from the same days, as after a random split.

# %%
import numpy as np
import polars as pl

from {{cookiecutter.__package_name}}.core import plots
from {{cookiecutter.__package_name}}.core.models import evaluation, training
from {{cookiecutter.__package_name}}.research.experiment import start
from {{cookiecutter.__package_name}}.shared import PROBLEM

experiment = start(PROBLEM, "baseline")
problem, decision = experiment.problem, experiment.workspace.acceptance.decision
before, held = experiment.split(experiment.rows())

# %% The same rows asked after a split by time and after a random one
asked = np.random.default_rng(0).random(len(held)) < 0.5
usual = "by time" if problem.schema.event_time else "by chance"
splits = {usual: before}
if problem.schema.event_time:
    held, beside = held.filter(asked), held.filter(~asked)
    splits["random"] = pl.concat([before, beside])

# %% Three models for each
found, losses = [], {}
for split, known in experiment.each(splits.items()):
    answers = {"model": experiment.answers(problem, known, held)}
    classes = evaluation.classes_of(problem, known)
    for name, prediction in training.baselines(problem, known, held, seed=0).items():
        answers[name] = evaluation.answers(problem, held, prediction, classes)
    for name in ("dummy", "linear", "model"):
        losses[split, name] = evaluation.losses(answers[name])
        measured = evaluation.metrics(answers[name], decision)
        found.append({"split": split, "model": name, "loss": losses[split, name].mean(), **measured})
table = pl.DataFrame(found)

# %% What is the model worth, and by how much does a random split flatter it?
worth = experiment.effect(losses[usual, "model"], losses[usual, "linear"], held)
metrics = {f"{row['split'].split()[-1]}.{row['model']}": row["loss"] for row in found}
metrics |= {"gain": worth.mean, "gain_lower": worth.lower}
finding = f"beside the linear model, the project's lowers the loss by {worth}"
if "random" in splits:
    flattered = experiment.effect(losses["random", "model"], losses[usual, "model"], held)
    metrics |= {"flattered": flattered.mean, "flattered_lower": flattered.lower}
    surely = "surely" if flattered.lower > 0 else "not proven to be"
    finding += f"\na random split flatters it by {flattered}: {surely} more than it can do"

# %% A plot
figure = plots.figure(8, 4.5)
axes = figure.subplots()
places, width = np.arange(3), 0.8 / len(splits)
for number, split in enumerate(splits):
    values = [losses[split, name].mean() for name in ("dummy", "linear", "model")]
    bars = axes.bar(places + (number - (len(splits) - 1) / 2) * width, values, width, label=split)
    axes.bar_label(bars, fmt="{:.4g}", padding=2)
axes.set_xticks(places, ["dummy", "linear", "model"])
axes.set(title=f"mean loss on {len(held)} rows of the newest window (less is better)", ylabel="loss")
axes.margins(y=0.12)
axes.legend(title="split", loc="upper right")

# %% Log it as a tracked run
experiment.log(finding, metrics, table=table, figure=figure)
