"""Yours: the life cycle, which versions served, what was decided and why, and how old everything is."""

import marimo

__generated_with = "0.25.2"
app = marimo.App(app_title="Life cycle", width="medium")

with app.setup:
    from {{cookiecutter.__package_name}}.research.views import lifecycle, page
    from {{cookiecutter.__package_name}}.shared import PROBLEM


@app.cell
def opened():
    workspace = page.open_pinned(PROBLEM)
    return (workspace,)


@app.cell
def title(workspace):
    page.header("Life cycle", workspace)
    return


@app.cell
def versions(workspace):
    page.section("Versions", lifecycle.timeline(workspace), lifecycle.versions(workspace))
    return


@app.cell
def ages(workspace):
    page.section("Staleness", lifecycle.ages(workspace))
    return


@app.cell
def decided(workspace):
    page.section("Decisions", lifecycle.decided(workspace))
    return


if __name__ == "__main__":
    app.run()
