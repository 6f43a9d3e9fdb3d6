"""Yours: the model: quality, calibration, cost by threshold, partial dependence, single rows."""

import marimo

__generated_with = "0.25.2"
app = marimo.App(app_title="Model", width="medium")

with app.setup:
    import marimo as mo

    from {{cookiecutter.__package_name}}.research.views import html, model
    from {{cookiecutter.__package_name}}.shared import PROBLEM


@app.cell
def opened():
    workspace = html.open_pinned(PROBLEM)
    return (workspace,)


@app.cell
def title(workspace):
    html.header("Model", workspace)
    return


@app.cell
def summary(workspace):
    champion = model.champion_predictions(workspace)
    html.section("", model.summary(workspace, champion))
    return (champion,)


@app.cell
def deployed_predictions(workspace):
    served = model.deployed_predictions(workspace)
    names = model.metric_names(workspace, served)
    metric = mo.ui.dropdown(names, value=names[0], label="metric")
    return metric, served


@app.cell
def quality(metric, served, workspace):
    html.section("Quality over time, by slice", metric, model.quality(workspace, served, metric.value))
    return


@app.cell
def served_predictions(champion, workspace):
    html.section("Served predictions", model.served_metrics(workspace, champion))
    return


@app.cell
def overview(champion, workspace):
    importance = model.importance(workspace, champion)
    html.section("Quality of the champion", model.overview(workspace, champion, importance))
    return (importance,)


@app.cell
def slider(workspace):
    used = workspace.acceptance.decision.threshold
    threshold = mo.ui.slider(0.01, 0.99, 0.01, value=round(used, 2), label="threshold", show_value=True)
    return (threshold,)


@app.cell
def cost(champion, threshold, workspace):
    html.section("Threshold and cost", threshold, model.at_threshold(workspace, champion, threshold.value))
    return


@app.cell
def effects(champion, importance):
    html.section("Partial dependence", model.partial_dependence_plot(champion, importance))
    return


@app.cell
def worst(champion, workspace):
    key = mo.ui.text(label="key of a row", placeholder="the largest loss")
    html.section("Single rows", "Rows with the largest loss:", model.largest_losses(workspace, champion))
    return (key,)


@app.cell
def case(champion, key, workspace):
    row = f"the row {key.value}" if key.value else "the row with the largest loss"
    explanation = f"Contribution of each feature to the prediction of {row}, relative to the reference value:"
    html.section("", key, explanation, model.contributions_of(workspace, champion, key.value))
    return


if __name__ == "__main__":
    app.run()
