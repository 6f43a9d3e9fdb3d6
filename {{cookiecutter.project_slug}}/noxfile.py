#!/usr/bin/env -S uv run --script
# /// script
# dependencies = ["nox>=2026.1"]
# ///
"""The project's checks: `uv run nox` runs lint, types and tests, `uv run nox -s NAME` one of them.

Every session works in the one environment, .venv, which `uv run` keeps equal to uv.lock.
"""

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
def update(session: nox.Session) -> None:
    """Merge the template's newest release and run the tests; `-- --to v1.2.3` or `-- --profile full` says to what."""
    session.run("uv", "run", "--frozen", "python", "tools/update.py", *session.posargs)
    if session.run("git", "status", "--porcelain", silent=True):
        session.run("uv", "run", "pytest", "--numprocesses=auto")


if __name__ == "__main__":
    nox.main()
