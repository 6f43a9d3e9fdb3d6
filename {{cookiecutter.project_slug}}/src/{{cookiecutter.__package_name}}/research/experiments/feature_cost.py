# %% [markdown]
# # What each feature costs
# The processor's time to compute it alone, beside the rows themselves, and its bytes in the training set, for each row
# and against `[budget]` of `config/acceptance.toml`. Features are lazy: only what the asked one needs is computed.
# Features that share work cost less together than the sum of what each costs alone.

# %%
from time import process_time

import narwhals as nw
import polars as pl

from {{cookiecutter.__package_name}}.core import datasets, plots
from {{cookiecutter.__package_name}}.core.contracts.schema import AT
from {{cookiecutter.__package_name}}.research.experiment import start
from {{cookiecutter.__package_name}}.shared import PROBLEM

experiment = start(PROBLEM, "feature cost")
problem, budget = experiment.problem, experiment.workspace.acceptance.budget
rows = experiment.rows()
raw = rows.select(name for name in (*problem.schema.names, AT) if name in rows.columns).lazy()
history = datasets.known(problem, experiment.workspace.lake, as_of=experiment.as_of)


# %% The least of some tries: what comes on top of it is the computer's doing
def seconds(*names: str) -> float:
    tries = []
    for _ in range(1 if experiment.fast else 5):
        begin = process_time()
        problem.build(nw.from_native(raw), history).select(AT, *dict.fromkeys(names)).collect(backend="polars")
        tries.append(process_time() - begin)
    return min(tries)


seconds(*problem.features)  # what is needed once only is not counted
base = seconds()
spent = {name: max(0.0, seconds(name) - base) for name in experiment.each(problem.features)}
together = max(0.0, seconds(*problem.features) - base)

# %% Against the budget
size = {name: rows[name].rechunk().estimated_size() for name in problem.features}
million = 1_000_000 / len(rows)


def judged(name: str) -> str:
    over = {
        "seconds": spent[name] * million > budget.microseconds,
        "bytes": size[name] / len(rows) > budget.bytes,
    }
    return ", ".join(f"{what} over the budget" for what, found in over.items() if found) or "within"


ordered = sorted(problem.features, key=lambda name: -spent[name])
verdicts = {name: judged(name) for name in ordered}
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
finding = f"{len(over)} of {len(ordered)} features are over the budget: {', '.join(over) or 'none'}"
finding += f"\nall together take {together:.2f} s for {len(rows)} rows, and {sum(size.values()) / 1e6:.1f} MB"

# %% A plot
figure = plots.figure(10, 1.5 + 0.3 * len(ordered))
left, right = figure.subplots(1, 2, sharey=True)
names = ordered[::-1]
for axes, values, limit, title in (
    (left, [spent[name] * million for name in names], budget.microseconds, "microseconds of the processor"),
    (right, [size[name] / len(rows) for name in names], budget.bytes, "bytes in the training set"),
):
    axes.barh(names, values, color=["tab:red" if value > limit else "tab:blue" for value in values])
    axes.axvline(limit, color="black", linestyle=":", label="budget")
    axes.set(title=f"{title}, a row")
right.legend(loc="lower right")

# %% Log it as a tracked run: bytes are the same on every computer, seconds are not
metrics = {f"bytes.{name}": float(size[name]) for name in problem.features} | {"rows": float(len(rows))}
tags = {f"seconds.{name}": f"{spent[name]:.4f}" for name in problem.features}
experiment.log(finding, metrics, table=table, figure=figure, tags=tags)
