"""Yours: the life cycle: versions, decisions and ages."""

import marimo

__generated_with = "0.25.2"
app = marimo.App(app_title="Life cycle", width="medium")

with app.setup:
    from {{cookiecutter.__package_name}}.research.views import html, lifecycle
    from {{cookiecutter.__package_name}}.shared import PROBLEM


@app.cell
def opened():
    workspace = html.open_pinned(PROBLEM)
    return (workspace,)


@app.cell
def title(workspace):
    html.header("Life cycle", workspace)
    return


@app.cell
def versions(workspace):
    html.section("Versions", lifecycle.timeline(workspace), lifecycle.versions(workspace))
    return


@app.cell
def ages(workspace):
    html.section("Staleness", lifecycle.ages(workspace))
    return


@app.cell
def decided(workspace):
    html.section("Decisions", lifecycle.recent_decisions(workspace))
    return


if __name__ == "__main__":
    app.run()
