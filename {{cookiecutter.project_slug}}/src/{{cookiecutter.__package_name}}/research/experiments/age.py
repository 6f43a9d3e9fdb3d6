# %% [markdown]
# # How models age
# A model is fitted as of each of some times, and answers all that comes later. Rows are then told apart by the age of
# the model that answers them, and on the same rows the old model is held against the freshest one. From which age on is
# it surely worse? An old model also knows less of the past: that is part of its age.

# %%
from datetime import timedelta
from math import ceil

import numpy as np
import polars as pl

from {{cookiecutter.__package_name}}.research.experiment import start
from {{cookiecutter.__package_name}}.shared import evaluation, figures
from {{cookiecutter.__package_name}}.shared.schema import AT, KNOWN
from {{cookiecutter.__package_name}}.shared.user_problem import PROBLEM

MOST = 12  # models

experiment = start(PROBLEM, "age")
problem, acceptance = experiment.problem, experiment.workspace.acceptance
if not problem.schema.event_time:
    reason = f"does not apply: rows of {problem.schema.name} have no time, so that models have no age"
    experiment.keep(reason, {}, table=pl.DataFrame({"age": [], "rows": []}))
    raise SystemExit(0)
rows = experiment.rows()

# %% Models as of some times: the first after a sixth of the time, then one for each interval of retraining
first, last = rows.select(pl.col(KNOWN).min(), pl.col(AT).max()).row(0)
begin = first + (last - first) / 6
every = max(timedelta(days=acceptance.retrain.every_days), (last - begin) / (3 if experiment.fast else MOST))
times = [begin + number * every for number in range(ceil((last - begin) / every))]
later = rows.filter(pl.col(AT) > begin)
period = np.minimum(((later[AT] - begin) / every).floor().to_numpy().astype(int), len(times) - 1)
losses, costs = np.full((2, len(times), len(later)), np.nan)
for number, time in experiment.each(list(enumerate(times))):
    asked = period >= number
    answers = experiment.answers(problem, rows.filter(pl.col(KNOWN) <= time), later.filter(asked))
    losses[number, asked] = evaluation.losses(answers)
    costs[number, asked] = 100 * evaluation.costs(answers, acceptance.decision)

# %% The same rows by models of each age and by fresh ones
found = []
for age in range(1, len(times)):
    mine = np.flatnonzero(period >= age)
    if len(mine) < acceptance.window.rows:
        break  # so few tell nothing, and of older models there are fewer still
    fresh, old = (losses[period[mine] - back, mine] for back in (0, age))
    dearer = costs[period[mine] - age, mine] - costs[period[mine], mine]
    worse = experiment.effect(fresh, old, later[mine])
    days = round(age * every / timedelta(days=1))
    found.append((days, len(mine), fresh.mean(), old.mean(), worse.mean, worse.lower, worse.upper, dearer.mean()))
names = ["age in days", "rows", "fresh loss", "old loss", "worse by", "at least", "at most", "cost per 100 rows"]
table = pl.DataFrame(found, schema=names, orient="row")
surely = table.filter(pl.col("at least") > 0)["age in days"]
finding = f"a model is surely worse than a fresh one {f'from {surely[0]} days on' if len(surely) else 'at no age'}"

# %% A picture
figure = figures.figure(8, 4.5)
axes = figure.subplots()
axes.fill_between(table["age in days"], table["at least"], table["at most"], alpha=0.2, linewidth=0)
axes.plot(table["age in days"], table["worse by"], marker="o")
axes.axhline(0, color="black", linewidth=0.8)
if len(surely):
    axes.axvline(surely[0], color="tab:red", linestyle=":", label=f"surely worse from {surely[0]} days on")
    axes.legend()
axes.set(
    title="loss of old models above that of fresh ones, on the same rows",
    xlabel="age in days",
    ylabel="mean loss above a fresh model's",
)

# %% Keep it as a tracked run
metrics = {f"worse.{days}": mean for days, mean in table.select("age in days", "worse by").iter_rows()}
metrics |= {"surely_worse_from": float(surely[0])} if len(surely) else {}
experiment.keep(finding, metrics, table=table, figure=figure)
