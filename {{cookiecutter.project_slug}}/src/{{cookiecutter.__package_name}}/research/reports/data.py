"""Yours: the data, how much comes, what is missing, and what has moved since the champion was trained."""

import marimo

__generated_with = "0.25.2"
app = marimo.App(app_title="Data", width="medium")

with app.setup:
    from {{cookiecutter.__package_name}}.research.views import data, page
    from {{cookiecutter.__package_name}}.shared import PROBLEM


@app.cell
def opened():
    workspace = page.open_pinned(PROBLEM)
    return (workspace,)


@app.cell
def title(workspace):
    page.header("Data", workspace)
    return


@app.cell
def volume(workspace):
    page.section("Rows by day", data.volume(workspace))
    return


@app.cell
def missing(workspace):
    page.section("Missing values by day", data.nulls(workspace))
    return


@app.cell
def drift(workspace):
    page.section(
        "Drift by day",
        f"Population stability index of each feature: the last {data.RECENT} days against the champion's training "
        "rows, those before the line. Drift alone is a warning and starts no training: labelled performance decides.",
        data.drift(workspace),
    )
    return


if __name__ == "__main__":
    app.run()
