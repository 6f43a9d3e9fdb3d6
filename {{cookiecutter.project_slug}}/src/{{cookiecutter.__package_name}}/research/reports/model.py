"""Yours: the model: quality over time by slice, calibration, cost by threshold, effects of features, single cases."""

import marimo

__generated_with = "0.25.2"
app = marimo.App(app_title="Model", width="medium")

with app.setup:
    import marimo as mo

    from {{cookiecutter.__package_name}}.research.views import answers, model, page
    from {{cookiecutter.__package_name}}.shared.user_problem import PROBLEM


@app.cell
def opened():
    workspace = page.open_pinned(PROBLEM)
    return (workspace,)


@app.cell
def title(workspace):
    mo.vstack([mo.md("# Model"), page.header(workspace)])
    return


@app.cell
def answered(workspace):
    champion = model.by_champion(workspace)
    return (champion,)


@app.cell
def summary(champion, workspace):
    page.show(model.summary(workspace, champion))
    return


@app.cell
def measured(champion, workspace):
    names = model.measures(workspace, champion)
    measure = mo.ui.dropdown(names, value=names[0], label="metric")
    return (measure,)


@app.cell
def in_service(workspace):
    served = model.in_service(workspace)
    return (served,)


@app.cell
def quality(measure, served, workspace):
    mo.vstack(
        [
            mo.md("## Quality over time, by slice"),
            measure,
            page.show(model.quality(workspace, served, measure.value), alt=f"{measure.value} over time, by slice"),
        ]
    )
    return


@app.cell
def given(champion, workspace):
    mo.vstack([mo.md("## Answers that were given"), page.show(model.given(workspace, champion))])
    return


@app.cell
def calibration(champion):
    mo.vstack([mo.md("## Calibration"), page.show(answers.calibration(champion), alt="observed over predicted")])
    return


@app.cell
def slider(workspace):
    used = workspace.acceptance.decision.threshold
    threshold = mo.ui.slider(0.01, 0.99, 0.01, value=round(used, 2), label="threshold", show_value=True)
    return (threshold,)


@app.cell
def cost(champion, threshold, workspace):
    mo.vstack(
        [
            mo.md("## Threshold and cost"),
            threshold,
            page.show(answers.in_words(workspace, champion, threshold.value)),
        ]
    )
    return


@app.cell
def costs(champion, workspace):
    mo.vstack(
        [
            page.show(answers.costs(workspace, champion), alt="cost of decisions by threshold"),
            page.show(answers.thresholds(workspace, champion)),
        ]
    )
    return


@app.cell
def effects(champion, workspace):
    values = answers.importance(workspace, champion)
    mo.vstack(
        [
            mo.md("## Effects of features"),
            page.show(answers.matters(values), alt="loss gained when a feature is shuffled"),
            page.show(answers.moves(champion, values), alt="mean prediction by the value of a feature"),
        ]
    )
    return


@app.cell
def worst(champion, workspace):
    mo.vstack([mo.md("## Single cases"), mo.md("Answered worst:"), page.show(model.worst(workspace, champion))])
    return


@app.cell
def asked():
    key = mo.ui.text(label="key of a row", placeholder="the worst")
    return (key,)


@app.cell
def case(champion, key, workspace):
    mo.vstack(
        [
            key,
            mo.md(f"What moved the answer to {key.value or 'the worst'}, against a typical value of each feature:"),
            page.show(model.case(workspace, champion, key.value)),
        ]
    )
    return


if __name__ == "__main__":
    app.run()
