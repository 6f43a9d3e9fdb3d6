"""The service as an application: `uvicorn {{cookiecutter.__package_name}}.app:app --workers 4`."""

from {{cookiecutter.__package_name}}.core.logs import set_log_format
from {{cookiecutter.__package_name}}.core.workspace import open_project
from {{cookiecutter.__package_name}}.production.service.app import create_app
from {{cookiecutter.__package_name}}.shared import PROBLEM

workspace = open_project(PROBLEM)
set_log_format(workspace.settings.log_format)
app = create_app(workspace)
