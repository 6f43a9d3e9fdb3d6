"""The console script of a project with the tiny problem: `python -m console run`, with this folder on the path."""

from typing import TYPE_CHECKING

from my_ml_project import shared
from my_ml_project.cli import main
from problems import PROBLEM

if TYPE_CHECKING:
    from fastapi import FastAPI

shared.PROBLEM = PROBLEM


def make_app() -> "FastAPI":
    """The service of the project, for `uvicorn --factory console:make_app`."""
    from my_ml_project.app import app  # noqa: PLC0415 - it opens the project of the current folder

    return app


if __name__ == "__main__":
    main()
