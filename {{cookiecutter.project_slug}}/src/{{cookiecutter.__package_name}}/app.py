"""The service as an application: `uvicorn {{cookiecutter.__package_name}}.app:app --workers 4`."""

from {{cookiecutter.__package_name}}.core.workspace import open_project
from {{cookiecutter.__package_name}}.production.service.app import create_app
from {{cookiecutter.__package_name}}.shared import PROBLEM

app = create_app(open_project(PROBLEM))
