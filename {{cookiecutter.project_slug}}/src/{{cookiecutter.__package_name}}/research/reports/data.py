"""Yours: the data: rows, missing values and drift."""

import marimo

__generated_with = "0.25.2"
app = marimo.App(app_title="Data", width="medium")

with app.setup:
    from {{cookiecutter.__package_name}}.research.views import data, html
    from {{cookiecutter.__package_name}}.shared import PROBLEM


@app.cell
def opened():
    workspace = html.open_pinned(PROBLEM)
    return (workspace,)


@app.cell
def title(workspace):
    html.header("Data", workspace)
    return


@app.cell
def row_counts(workspace):
    html.section("Rows by day", data.row_counts(workspace))
    return


@app.cell
def missing(workspace):
    html.section("Missing values by day", data.missing_values(workspace))
    return


@app.cell
def drift(workspace):
    html.section(
        "Drift by day",
        f"Population stability index of each feature: the last {data.DRIFT_DAYS} days against the champion's training "
        "rows, those before the line. Drift is a warning and starts no training.",
        data.drift(workspace),
    )
    return


if __name__ == "__main__":
    app.run()
