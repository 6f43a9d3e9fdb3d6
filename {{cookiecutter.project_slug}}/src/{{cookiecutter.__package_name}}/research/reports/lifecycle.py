"""Yours: the life cycle, which versions served, what was decided and why, and how old everything is."""

import marimo

__generated_with = "0.25.2"
app = marimo.App(app_title="Life cycle", width="medium")

with app.setup:
    import marimo as mo

    from {{cookiecutter.__package_name}}.research.views import lifecycle, page
    from {{cookiecutter.__package_name}}.shared.user_problem import PROBLEM


@app.cell
def opened():
    workspace = page.open_pinned(PROBLEM)
    return (workspace,)


@app.cell
def title(workspace):
    mo.vstack([mo.md("# Life cycle"), page.header(workspace)])
    return


@app.cell
def versions(workspace):
    mo.vstack(
        [
            mo.md("## Versions"),
            page.show(lifecycle.timeline(workspace), alt="the version that served, over time"),
            page.show(lifecycle.versions(workspace)),
        ]
    )
    return


@app.cell
def ages(workspace):
    mo.vstack([mo.md("## Staleness"), page.show(lifecycle.ages(workspace))])
    return


@app.cell
def decided(workspace):
    mo.vstack([mo.md("## Decisions"), page.show(lifecycle.decided(workspace))])
    return


if __name__ == "__main__":
    app.run()
