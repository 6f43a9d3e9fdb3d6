"""The service as an application, for servers of your own: `uvicorn {{cookiecutter.__package_name}}.app:app --workers 4`."""

from {{cookiecutter.__package_name}}.core.workspace import open_project
from {{cookiecutter.__package_name}}.production.service.app import create_app
from {{cookiecutter.__package_name}}.shared import PROBLEM

app = create_app(open_project(PROBLEM))
