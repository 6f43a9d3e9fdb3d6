"""Yours: the model: quality over time by slice, calibration, cost by threshold, effects of features, single cases."""

import marimo

__generated_with = "0.25.2"
app = marimo.App(app_title="Model", width="medium")

with app.setup:
    import marimo as mo

    from {{cookiecutter.__package_name}}.research.views import model, page
    from {{cookiecutter.__package_name}}.shared import PROBLEM


@app.cell
def opened():
    workspace = page.open_pinned(PROBLEM)
    return (workspace,)


@app.cell
def title(workspace):
    page.header("Model", workspace)
    return


@app.cell
def summary(workspace):
    champion = model.by_champion(workspace)
    page.section("", model.summary(workspace, champion))
    return (champion,)


@app.cell
def in_service(workspace):
    served = model.in_service(workspace)
    names = model.measures(workspace, served)
    metric = mo.ui.dropdown(names, value=names[0], label="metric")
    return metric, served


@app.cell
def quality(metric, served, workspace):
    page.section("Quality over time, by slice", metric, model.quality(workspace, served, metric.value))
    return


@app.cell
def given(champion, workspace):
    page.section("Served predictions", model.given(workspace, champion))
    return


@app.cell
def overview(champion, workspace):
    importance = model.importance(workspace, champion)
    page.section("Quality of the champion", model.overview(workspace, champion, importance))
    return (importance,)


@app.cell
def slider(workspace):
    used = workspace.acceptance.decision.threshold
    threshold = mo.ui.slider(0.01, 0.99, 0.01, value=round(used, 2), label="threshold", show_value=True)
    return (threshold,)


@app.cell
def cost(champion, threshold, workspace):
    page.section("Threshold and cost", threshold, model.at_threshold(workspace, champion, threshold.value))
    return


@app.cell
def effects(champion, importance):
    page.section("Effects of features", model.moves(champion, importance))
    return


@app.cell
def worst(champion, workspace):
    key = mo.ui.text(label="key of a row", placeholder="the largest loss")
    page.section("Single cases", "Rows with the largest loss:", model.worst(workspace, champion))
    return (key,)


@app.cell
def case(champion, key, workspace):
    row = f"the row {key.value}" if key.value else "the row with the largest loss"
    explanation = f"Contribution of each feature to the prediction of {row}, against a typical value of the feature:"
    page.section("", key, explanation, model.case(workspace, champion, key.value))
    return


if __name__ == "__main__":
    app.run()
