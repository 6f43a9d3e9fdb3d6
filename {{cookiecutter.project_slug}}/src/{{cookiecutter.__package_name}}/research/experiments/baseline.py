# %% [markdown]
# # Baselines
# The model is compared with two baselines: the distribution of the target, and a linear model. If rows have a time, a
# split by time is compared with a random split. Half of the newest window is predicted twice: by models trained on
# earlier rows only, as in production, and by models trained on the other half of the window too.

# %%
import numpy as np
import polars as pl

from {{cookiecutter.__package_name}}.core import plots
from {{cookiecutter.__package_name}}.core.models import evaluation, training
from {{cookiecutter.__package_name}}.research.experiment import start
from {{cookiecutter.__package_name}}.shared import PROBLEM

experiment = start(PROBLEM, "baseline")
problem, decision = experiment.problem, experiment.workspace.acceptance.decision
train, holdout = experiment.split(experiment.rows())

# %% The same holdout after a split by time and after a random one
requested = np.random.default_rng(0).random(len(holdout)) < 0.5
usual = "by time" if problem.schema.event_time else "by chance"
splits = {usual: train}
if problem.schema.event_time:
    holdout, beside = holdout.filter(requested), holdout.filter(~requested)
    splits["random"] = pl.concat([train, beside])

# %% Three models for each
found, losses = [], {}
for split, known in experiment.progress(splits.items()):
    predictions = {"model": experiment.holdout_predictions(problem, known, holdout)}
    classes = evaluation.classes_of(problem, known)
    for name, prediction in training.baselines(problem, known, holdout, seed=0).items():
        predictions[name] = evaluation.labelled_predictions(problem, holdout, prediction, classes)
    for name in ("dummy", "linear", "model"):
        losses[split, name] = evaluation.losses(predictions[name])
        measured = evaluation.metrics(predictions[name], decision)
        found.append({"split": split, "model": name, "loss": losses[split, name].mean(), **measured})
table = pl.DataFrame(found)

# %% Improvement over the linear model, and bias of a random split
worth = experiment.loss_reduction(losses[usual, "model"], losses[usual, "linear"], holdout)
metrics = {f"{row['split'].split()[-1]}.{row['model']}": row["loss"] for row in found}
metrics |= {"loss_reduction": worth.mean, "loss_reduction_lower": worth.lower}
finding = f"the model lowers the loss of the linear one by {worth}"
if "random" in splits:
    flattered = experiment.loss_reduction(losses["random", "model"], losses[usual, "model"], holdout)
    metrics |= {"flattered": flattered.mean, "flattered_lower": flattered.lower}
    surely = "significantly" if flattered.lower > 0 else "not significantly"
    finding += f"\na random split underestimates the loss by {flattered}: {surely} biased"

# %% A plot
figure = plots.figure(8, 4.5)
axes = figure.subplots()
places, width = np.arange(3), 0.8 / len(splits)
for number, split in enumerate(splits):
    values = [losses[split, name].mean() for name in ("dummy", "linear", "model")]
    bars = axes.bar(places + (number - (len(splits) - 1) / 2) * width, values, width, label=split)
    axes.bar_label(bars, fmt="{:.4g}", padding=2)
axes.set_xticks(places, ["dummy", "linear", "model"])
axes.set(title=f"Mean loss on {len(holdout)} holdout rows (lower is better)", ylabel="loss")
axes.margins(y=0.12)
axes.legend(title="split", loc="upper right")

# %% Log a tracked run
experiment.log(finding, metrics, table=table, figure=figure)
