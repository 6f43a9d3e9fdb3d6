#!/usr/bin/env -S uv run --script
# /// script
# dependencies = ["nox>=2026.1"]
# ///
"""The template's checks and its demonstration: `uvx nox` runs lint, types and tests, `uvx nox -s demo` shows a project.

Every session works in the one environment, .venv, which `uv run` keeps equal to uv.lock.
"""

import shutil
import tempfile
from pathlib import Path

import nox

nox.needs_version = ">=2026.1"
nox.options.default_venv_backend = "none"

HERE = Path(__file__).parent
PROJECT = HERE / "{{cookiecutter.project_slug}}"
SLUG = "my-ml-project"
FRAMEWORK = HERE / "tests" / "framework"
OWN = {"UV_PROJECT_ENVIRONMENT": "", "VIRTUAL_ENV": ""}  # the rendered project's own environment
RENDERED = HERE / ".cache" / "framework"  # the project in which the framework is tested


def uv(session: nox.Session, *arguments: str) -> None:
    """Run a command in the template's environment."""
    session.run("uv", "run", *arguments)


def bake(session: nox.Session, folder: Path, profile: str = "full") -> Path:
    """Make a project of a profile, and otherwise with the default answers, in a folder."""
    line = ["cookiecutter", str(HERE), "--no-input", "--default-config", "--output-dir", str(folder)]
    uv(session, *line, f"profile={profile}")
    return folder / SLUG


def framework_project(session: nox.Session) -> Path:
    """Render the project that the framework's tests run in, with their packages; its environment is kept."""
    project = RENDERED / SLUG
    project.mkdir(parents=True, exist_ok=True)
    for path in project.iterdir():
        if path.name != ".venv":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(bake(session, Path(folder)), project, dirs_exist_ok=True)
    packages = RENDERED / "requirements.txt"
    session.run("uv", "export", "--quiet", "--frozen", "--only-group", "framework", "--output-file", str(packages))
    session.run("uv", "sync", "--quiet", "--locked", "--inexact", "--directory", str(project), env=OWN)
    session.run("uv", "pip", "install", "--quiet", "--python", str(project / ".venv"), "-r", str(packages))
    return project


@nox.session(default=False)
def demo(session: nox.Session) -> None:
    """Make a project in demo/, install it, let it do what is due, and say where to look."""
    shutil.rmtree(HERE / "demo", ignore_errors=True)
    session.chdir(bake(session, HERE / "demo", "standard"))
    session.run("uv", "sync", "--quiet")
    session.run("uv", "run", SLUG, "run")
    session.log(f"Look around in demo/{SLUG}: README.md is the first hour with it, reports/ has what it drew.")


@nox.session
def lint(session: nox.Session) -> None:
    """Check format, style, spelling, schemas and workflows."""
    uv(session, "pre-commit", "run", "--all-files", "--show-diff-on-failure", *session.posargs)


@nox.session
def types(session: nox.Session) -> None:
    """Check types with mypy, those of the framework's tests beside the project that they test."""
    uv(session, "mypy", *session.posargs)
    project = framework_project(session)
    line = ["uv", "run", "--no-sync", "mypy", "--config-file", "pyproject.toml", str(FRAMEWORK)]
    line += ["--allow-untyped-defs", "--allow-incomplete-defs", "--allow-untyped-calls"]  # of fixtures
    session.chdir(project)
    session.run(*line, env=OWN | {"MYPYPATH": str(FRAMEWORK)})


@nox.session
def framework(session: nox.Session) -> None:
    """Run the framework's tests in a rendered project on all cores; they must reach most of its branches."""
    project = framework_project(session)
    line = ["uv", "run", "--no-sync", "pytest", f"--config-file={FRAMEWORK / 'pytest.toml'}", str(FRAMEWORK)]
    coverage = ["--cov", f"--cov-config={FRAMEWORK / 'coverage.toml'}", "--cov-report=term-missing:skip-covered"]
    session.chdir(project)
    session.run(*line, *(session.posargs or ["--numprocesses=auto", *coverage]), env=OWN)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the template's tests on all cores."""
    uv(session, "pytest", "--numprocesses=auto", *session.posargs)


@nox.session(default=False)
def docs(session: nox.Session) -> None:
    """Build the documentation; a broken link fails."""
    uv(session, "zensical", "build", "--clean", "--strict", *session.posargs)


@nox.session(default=False)
def size(session: nox.Session) -> None:
    """Count files and lines of code of a project of each profile; docs/explanation/decisions.md states them."""
    with tempfile.TemporaryDirectory() as folder:
        projects = [bake(session, Path(folder, profile), profile) for profile in ("minimal", "standard", "full")]
        uv(session, "python", "tools/size.py", *map(str, projects))


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Measure what users wait for, and write docs/reference/benchmarks.md."""
    uv(session, "python", "-m", "tools.benchmark", *session.posargs)


@nox.session(default=False)
def quality(session: nox.Session) -> None:
    """Compare the models that `init` generates from public tables, and write docs/reference/quality.md."""
    project = framework_project(session)
    packages = ("pandas", "statsmodels", "vega_datasets", "linearmodels", "causaldata", "palmerpenguins")
    tables = [word for package in (*packages, "bokeh-sampledata") for word in ("--with", package)]
    line = ["uv", "run", "--no-sync", *tables, "python", str(HERE / "tools" / "quality.py")]
    session.chdir(project)
    session.run(*line, str(project), *session.posargs, env=OWN)


@nox.session(default=False)
def reliability(session: nox.Session) -> None:
    """Plant faults, kills and spoiled challengers in a project, and write docs/reference/reliability.md."""
    uv(session, "python", "-m", "tools.reliability", str(framework_project(session)))


@nox.session(default=False)
def screenshots(session: nox.Session) -> None:
    """Picture the reports of a project that lived half a year, in docs/images; it needs Chromium."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        project = bake(session, Path(folder), "standard")
        session.run("uv", "sync", "--quiet", "--directory", str(project), env=OWN)
        uv(session, "python", "-m", "tools.screenshots", str(project))


@nox.session(default=False)
def record(session: nox.Session) -> None:
    """Record the first hour of a new project, in docs/images/first-minute.svg and docs/reference/instance.md."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        project = bake(session, Path(folder), "standard")
        session.run("uv", "sync", "--quiet", "--directory", str(project), env=OWN)
        uv(session, "python", "-m", "tools.record", str(project))


@nox.session(default=False)
def mutate(session: nox.Session) -> None:
    """Flip signs and comparisons of the framework, and see whether its tests notice."""
    uv(session, "python", "tools/mutate.py", str(framework_project(session)), *session.posargs)


@nox.session(default=False)
def lock(session: nox.Session) -> None:
    """Renew the lock that ships with the template; `-- --upgrade` takes the newest versions."""
    with tempfile.TemporaryDirectory() as folder:
        project = bake(session, Path(folder))
        session.run("uv", "lock", "--directory", str(project), *session.posargs)
        (PROJECT / "uv.lock").write_bytes((project / "uv.lock").read_bytes())


@nox.session(default=False)
def bump(session: nox.Session) -> None:
    """Take the newest actions, tools and packages, here and in the template folder."""
    uv(session, "python", "tools/bump.py")
    session.run("uv", "lock", "--upgrade")
    session.notify("lock", ["--upgrade"])


@nox.session(default=False)
def release(session: nox.Session) -> None:
    """Check that every older project can take a release, then tag and record it: `-- 1.2.3`."""
    uv(session, "python", "tools/release.py", *session.posargs)


@nox.session(name="format", default=False)
def format_project(session: nox.Session) -> None:
    """Fix and format the generated project's Python as rendered, and take it back into the template."""
    package = SLUG.replace("-", "_")
    with tempfile.TemporaryDirectory() as folder:
        project = bake(session, Path(folder))
        before = {path: path.read_text(encoding="utf-8") for path in project.rglob("*.py")}
        uv(session, "ruff", "check", "--fix", "--exit-zero", str(project))
        uv(session, "ruff", "format", str(project))
        after = {path: path.read_text(encoding="utf-8") for path in before}
        for path in (path for path in before if before[path] != after[path]):
            target = PROJECT / path.relative_to(project).as_posix().replace(package, "{{cookiecutter.__package_name}}")
            text = after[path].replace(package, "{{cookiecutter.__package_name}}")
            target.write_text(text, encoding="utf-8", newline="\n")
            session.log(f"changed {target.relative_to(HERE)}")


if __name__ == "__main__":
    nox.main()
