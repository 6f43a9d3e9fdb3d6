# %% [markdown]
# Cost of features
# The processor time of each feature and its bytes in the training set, per row, compared with `[budget]` in
# `config/acceptance.toml`. Features are lazy: only what the feature needs is computed. Features that share work cost
# less together than separately.

# %%
from time import process_time

import narwhals as nw
import polars as pl

from {{cookiecutter.__package_name}}.core import datasets, plots
from {{cookiecutter.__package_name}}.core.contracts.schema import PREDICTED_AT
from {{cookiecutter.__package_name}}.research.experiment import start
from {{cookiecutter.__package_name}}.shared import PROBLEM

experiment = start(PROBLEM, "feature cost")
problem, budget = experiment.problem, experiment.workspace.acceptance.budget
rows = experiment.rows()
raw = rows.select(name for name in (*problem.schema.names, PREDICTED_AT) if name in rows.columns).lazy()
history = datasets.history_as_of(problem, experiment.workspace.lake, as_of=experiment.as_of)


# %% The minimum of several measurements
def seconds(*names: str) -> float:
    tries = []
    for _ in range(1 if experiment.fast else 5):
        begin = process_time()
        problem.build(nw.from_native(raw), history).select(PREDICTED_AT, *dict.fromkeys(names)).collect(
            backend="polars"
        )
        tries.append(process_time() - begin)
    return min(tries)


seconds(*problem.features)  # warm-up
base = seconds()
spent = {name: max(0.0, seconds(name) - base) for name in experiment.progress(problem.features)}
together = max(0.0, seconds(*problem.features) - base)

# %% Compare with the budget
size = {name: rows[name].rechunk().estimated_size() for name in problem.features}
million = 1_000_000 / len(rows)


def verdict_on(name: str) -> str:
    over = {
        "seconds": spent[name] * million > budget.microseconds,
        "bytes": size[name] / len(rows) > budget.bytes,
    }
    return ", ".join(f"{what} over budget" for what, found in over.items() if found) or "within"


ordered = sorted(problem.features, key=lambda name: -spent[name])
verdicts = {name: verdict_on(name) for name in ordered}
table = pl.DataFrame(
    {
        "feature": name,
        "seconds": spent[name],
        "microseconds a row": spent[name] * million,
        "bytes": size[name],
        "bytes a row": size[name] / len(rows),
        "budget": verdicts[name],
    }
    for name in ordered
)
over = [name for name in ordered if verdicts[name] != "within"]
finding = f"{len(over)} of {len(ordered)} features are over budget: {', '.join(over) or 'none'}"
finding += f"\nin total {together:.2f} s for {len(rows)} rows, and {sum(size.values()) / 1e6:.1f} MB"

# %% A plot
figure = plots.figure(10, 1.5 + 0.3 * len(ordered))
left, right = figure.subplots(1, 2, sharey=True)
names = ordered[::-1]
for axes, values, limit, title in (
    (left, [spent[name] * million for name in names], budget.microseconds, "microseconds of the processor"),
    (right, [size[name] / len(rows) for name in names], budget.bytes, "bytes maximum size in the training set"),
):
    axes.barh(names, values, color=["tab:red" if value > limit else "tab:blue" for value in values])
    axes.axvline(limit, color="black", linestyle=":", label="budget")
    axes.set(title=f"{title}, a row")
right.legend(loc="lower right")

# %% Log a tracked run; seconds depend on the machine, hence they are tags
metrics = {f"bytes.{name}": float(size[name]) for name in problem.features} | {"rows": float(len(rows))}
tags = {f"seconds.{name}": f"{spent[name]:.4f}" for name in problem.features}
experiment.log(finding, metrics, table=table, figure=figure, tags=tags)
