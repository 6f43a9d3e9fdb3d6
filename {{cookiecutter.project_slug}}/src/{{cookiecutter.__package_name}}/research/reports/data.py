"""Yours: the data, how much comes, what is missing, and what has moved since the champion was trained."""

import marimo

__generated_with = "0.25.2"
app = marimo.App(app_title="Data", width="medium")

with app.setup:
    import marimo as mo

    from {{cookiecutter.__package_name}}.research.views import data, page
    from {{cookiecutter.__package_name}}.shared.user_problem import PROBLEM


@app.cell
def opened():
    workspace = page.open_pinned(PROBLEM)
    return (workspace,)


@app.cell
def title(workspace):
    mo.vstack([mo.md("# Data"), page.header(workspace)])
    return


@app.cell
def volume(workspace):
    mo.vstack([mo.md("## Rows by day"), page.show(data.volume(workspace), alt="rows a day of each table")])
    return


@app.cell
def nulls(workspace):
    mo.vstack(
        [mo.md("## Missing values by day"), page.show(data.nulls(workspace), alt="share of missing values by day")]
    )
    return


@app.cell
def stability(workspace):
    index = data.stability(workspace)
    return (index,)


@app.cell
def drift(index, workspace):
    mo.vstack(
        [
            mo.md("## Drift by day"),
            mo.md(
                f"Each feature's last {data.RECENT} days against the rows that the champion was trained on, those "
                "before the line; population stability index."
            ),
            page.show(data.drift(workspace, index), alt="stability index of each feature by day"),
            page.show(data.moved(workspace, index)),
        ]
    )
    return


if __name__ == "__main__":
    app.run()
