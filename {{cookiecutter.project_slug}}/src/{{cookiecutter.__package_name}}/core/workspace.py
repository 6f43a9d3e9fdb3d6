"""An open project: its problem, settings, lake and registry."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from {{cookiecutter.__package_name}}.core import datasets
from {{cookiecutter.__package_name}}.core.acceptance import Acceptance
from {{cookiecutter.__package_name}}.core.errors import InputError, redact_passwords
from {{cookiecutter.__package_name}}.core.parts import Part, installed
from {{cookiecutter.__package_name}}.core.problem import RESERVED, Problem
from {{cookiecutter.__package_name}}.core.settings import (
    Settings,
    load_config,
    load_dotenv,
    load_settings,
    project_root,
)
from {{cookiecutter.__package_name}}.core.store.candidates import Candidates
from {{cookiecutter.__package_name}}.core.store.lake import Lake
from {{cookiecutter.__package_name}}.core.store.registry import Registry
from {{cookiecutter.__package_name}}.core.store.releases import Releases

MODEL_NAME = __name__.partition(".")[0]  # in MLflow
SOURCE = Path("data", "source")  # the files that init was given
SIMULATIONS = Path("data", "simulations")  # one folder per simulation, with its own lake


@dataclass(frozen=True)
class Workspace:
    """The problem and the state of one project.

    Attributes:
        root: The project's folder.
        settings: The settings.
        problem: What is predicted.
    """

    root: Path
    settings: Settings
    problem: Problem

    def path(self, setting: Path | str) -> Path:
        """The absolute path of a setting."""
        return self.root / setting

    def _address(self, setting: str) -> str:
        return setting if "://" in setting else str(self.path(setting))

    @cached_property
    def lake(self) -> Lake:
        """The tables."""
        settings = self.settings
        return Lake(self._address(settings.lake), settings.tables, timedelta(days=settings.table_history_days))

    @cached_property
    def releases(self) -> Releases:
        """The current and previous releases."""
        return Releases(self.lake)

    @cached_property
    def candidates(self) -> Candidates:
        """Trained challengers and their verdicts."""
        return Candidates(self.lake)

    @cached_property
    def registry(self) -> Registry:
        """The tracked runs and model versions."""
        return Registry(self._address(self.settings.tracking), MODEL_NAME)

    @cached_property
    def acceptance(self) -> Acceptance:
        """The acceptance criteria."""
        return load_config(self.root / "config" / "acceptance.toml", Acceptance)

    @cached_property
    def parameters(self) -> Any:  # noqa: ANN401 - the problem's own class
        """The parameters of the model."""
        return load_config(self.root / "config" / "params.toml", self.problem.model_spec().parameters)

    def mismatch(self, *, ask: bool = True) -> str:
        """Why lake and MLflow don't belong together, in one line; empty if they do.

        Args:
            ask: Whether to ask MLflow for the runs; it takes seconds to import and may not answer.

        Raises:
            InputError: MLflow is not available, or its URL has an unknown scheme.
        """
        lake, tracking = self.lake.url, redact_passwords(self.registry.address)
        shared, tracked = ("://" in url and not url.startswith(("file:", "sqlite:")) for url in (lake, tracking))
        if shared and not tracked:
            return f"the lake {lake} is shared, but MLflow in {tracking} is not: set ML_TRACKING to the team's server"
        if tracked and not shared:
            return f"MLflow at {tracking} is shared, but the lake {lake} is not: set ML_LAKE to the team's lake"
        for made in (self.candidates.newest(), self.releases.champion()):
            if made and (self.registry.is_empty or (ask and not self.registry.has_run(made.run_id))):
                missing = f"MLflow at {tracking} has no run {made.run_id}, which is in the lake {lake}"
                return f"{missing}: set ML_TRACKING or ML_LAKE to the one that belongs to the other"
        return ""

    @property
    def parts(self) -> tuple[Part, ...]:
        """The installed parts and the user's extensions."""
        return (*installed(), self.problem.extensions)

    @contextmanager
    def exclusive_lock(self) -> Iterator[None]:
        """Hold the lock of the project, which commands that write take.

        Raises:
            InputError: Another command holds it.
        """
        path = self.path("data") / ".lock"
        path.parent.mkdir(exist_ok=True)
        try:
            with FileLock(path, timeout=0):
                yield
        except Timeout as error:
            msg = (
                f"another command of this project is running and holds the lock {path}: try again when it has finished"
            )
            raise InputError(msg) from error

    def pinned(self) -> "Workspace":
        """The same workspace with all tables pinned to their current versions."""
        newest = {name: self.lake.version(name) for name in (*self.problem.schemas, *sorted(RESERVED))}
        tables = {name: version for name, version in newest.items() if version >= 0}
        return replace(self, settings=self.settings.model_copy(update={"tables": tables}))

    def now(self, given: datetime | None = None) -> datetime:
        """The given time, or by the setting `clock` the wall clock or the time of the newest label."""
        if (moment := given or self.settings.now) is not None:
            return moment
        newest = datasets.newest_label(self.problem, self.lake) if self.settings.clock == "data" else None
        return newest or datetime.now(UTC)


def open_workspace(problem: Problem, *, root: Path | None = None) -> Workspace:
    """Open the workspace of a problem, by default in the project of the current directory."""
    folder = root or project_root()
    return Workspace(folder, load_settings(folder), problem)


def open_project(problem: Problem) -> Workspace:
    """Open the project of the current directory and load its `.env`, for commands, experiments and reports.

    This changes the environment of the process; `open_workspace` doesn't.
    """
    workspace = open_workspace(problem)
    load_dotenv(workspace.root)
    return workspace
