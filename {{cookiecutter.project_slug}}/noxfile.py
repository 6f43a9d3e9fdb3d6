#!/usr/bin/env -S uv run --script
# /// script
# dependencies = ["nox>=2026.1"]
# ///
"""The project's checks: `uv run nox` runs lint, types and tests, `uv run nox -s NAME` one of them.

Every session works in the one environment, .venv, which `uv run` keeps equal to uv.lock.
"""

from importlib.metadata import version
from pathlib import Path

import nox

nox.needs_version = ">=2026.1"
nox.options.default_venv_backend = "none"


def uv(session: nox.Session, *arguments: str) -> None:
    """Run a command in the project's environment, with the arguments after `--` added."""
    session.run("uv", "run", *arguments, *session.posargs)


@nox.session(default=False)
def setup(session: nox.Session) -> None:
    """Prepare a fresh clone: the environment, and the checks that run at each commit."""
    session.run("uv", "sync")
    session.run("uv", "run", "pre-commit", "install")


@nox.session
def lint(session: nox.Session) -> None:
    """Check format, style, spelling, dependencies and the borders between the parts."""
    uv(session, "pre-commit", "run", "--all-files", "--show-diff-on-failure")


@nox.session
def types(session: nox.Session) -> None:
    """Check types with mypy."""
    uv(session, "mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests on all cores."""
    uv(session, "pytest", "--numprocesses=auto")


@nox.session(default=False)
def mlflow(session: nox.Session) -> None:
    """Show the tracked runs in MLflow's interface, in an environment of its own; `-- --port 5001` picks a port."""
    package = nox.project.load_toml("pyproject.toml")["project"]["name"].replace("-", "_")
    ask = f"from {package}.core.settings import load_settings as s, project_root as r; print(s(r()).tracking)"
    tracking = str(session.run("uv", "run", "python", "-c", ask, silent=True)).splitlines()[-1]
    if tracking.startswith("http"):
        session.error(f"the setting ML_TRACKING is an MLflow server: open {tracking}")
    database = Path(tracking, "mlflow.db")
    if "://" not in tracking and not database.is_file():
        session.error(f"there is no run in {tracking} yet: call run or an experiment")
    store = tracking if "://" in tracking else f"sqlite:///{database.as_posix()}"
    line = ["uv", "run", "--no-project", f"--with=mlflow=={version('mlflow-skinny')}", "mlflow", "server"]
    line += ["--backend-store-uri", store, "--workers", "1"]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    session.run(*line, *session.posargs, env=quiet)


@nox.session(default=False)
def update(session: nox.Session) -> None:
    """Merge the template's newest release and run the tests; `-- --to v1.2.3` or `-- --profile full` says to what."""
    session.run("uv", "run", "--frozen", "python", "tools/update.py", *session.posargs)
    if session.run("git", "status", "--porcelain", silent=True):
        session.run("uv", "run", "pytest", "--numprocesses=auto")


if __name__ == "__main__":
    nox.main()
