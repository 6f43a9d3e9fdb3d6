# %% [markdown]
# # A challenger of one's own
# Would another feature help? The champion's recipe and the same with one more feature are fitted on the same rows and
# compared on the same newest window. If it is better, the feature moves into `shared/features.py`.

# %%
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

import narwhals as nw
import numpy as np

from {{cookiecutter.__package_name}}.shared import dataset, evaluation, features, training, windows
from {{cookiecutter.__package_name}}.shared.problem import PROBLEM
from {{cookiecutter.__package_name}}.shared.registry import provenance
from {{cookiecutter.__package_name}}.shared.schema import Frame
from {{cookiecutter.__package_name}}.shared.workspace import open_workspace

# %% The idea: the airport's delays of the last hour tell more than those of the last three
FEATURE = "last_hour_delay_mean"


def build(flights: Frame, history: Mapping[str, Frame]) -> Frame:
    """The project's features and one more."""
    sums = {"last_hour_sum": nw.col("delay"), "last_hour_count": nw.lit(1)}
    return (
        features.build(flights, history)
        .pipe(windows.trailing, history["departures"], when="departed", window=timedelta(hours=1), sums=sums)
        .with_columns(features.mean("last_hour_sum", "last_hour_count").alias(FEATURE))
    )


recipes = {"champion": PROBLEM, "challenger": replace(PROBLEM, features=(*PROBLEM.features, FEATURE), build=build)}

# %% The same rows, the same split, the same parameters
workspace = open_workspace()
as_of, decision = workspace.now(), workspace.acceptance.decision
losses, figures = {}, {}
for name, problem in recipes.items():
    rows = dataset.training_set(problem, workspace.lake, as_of=as_of)
    before, held = dataset.split(problem, rows, workspace.acceptance.window, as_of=as_of)
    fitted = training.fit(problem, workspace.parameters, before, check=held)
    answers = training.answers(problem, held, fitted.predictor.predict(held), fitted.classes)
    losses[name], figures[name] = evaluation.losses(answers), evaluation.metrics(answers, decision)
    print(name, {metric: round(value, 4) for metric, value in figures[name].items()})

# %% Is it better, or is it luck?
days = training.days(PROBLEM, held)
better = evaluation.gain(losses["challenger"], losses["champion"], days, confidence=0.95, rng=np.random.default_rng(0))
print(f"{FEATURE} lowers the loss by {better}:", "better" if better.lower > 0 else "not proven to be better")

# %% Keep it as a tracked run
made_of = provenance(workspace.root, tables=dataset.versions(PROBLEM, workspace.lake), as_of=as_of)
with workspace.registry.run("challenger", workspace.parameters.model_dump(), made_of) as run:
    for name, values in figures.items():
        run.log(values, prefix=f"{name}.")
    run.log({"gain": better.mean, "gain_lower": better.lower})
    run.tag({"feature": FEATURE})
print(f"run {run.id}")
