"""One project's problem and state, opened: what commands, experiments and tests are given."""

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
from {{cookiecutter.__package_name}}.core.errors import BadInput
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

MODEL = __name__.partition(".")[0]  # named like the package, in MLflow
REPLAYS = Path("data", "simulations")  # a folder for each, with a lake of its own


@dataclass(frozen=True)
class Workspace:
    """Where one problem lives.

    Attributes:
        root: The project's folder.
        settings: Where its state lives.
        problem: What is predicted.
    """

    root: Path
    settings: Settings
    problem: Problem

    def path(self, setting: Path | str) -> Path:
        """A path of the settings, from the project's folder."""
        return self.root / setting

    def _address(self, setting: str) -> str:
        return setting if "://" in setting else str(self.path(setting))

    @cached_property
    def lake(self) -> Lake:
        """The tables."""
        settings = self.settings
        return Lake(self._address(settings.lake), settings.tables, timedelta(days=settings.keep_days))

    @cached_property
    def releases(self) -> Releases:
        """What serves, and what served before."""
        return Releases(self.lake)

    @cached_property
    def candidates(self) -> Candidates:
        """Trained challengers, and the verdicts on them."""
        return Candidates(self.lake)

    @cached_property
    def registry(self) -> Registry:
        """Runs and versions."""
        return Registry(self._address(self.settings.tracking), MODEL)

    @cached_property
    def acceptance(self) -> Acceptance:
        """What the gate asks for."""
        return load_config(self.root / "config" / "acceptance.toml", Acceptance)

    @cached_property
    def parameters(self) -> Any:  # noqa: ANN401 - the problem's own class
        """The parameters of the model."""
        return load_config(self.root / "config" / "params.toml", self.problem.recipe().parameters)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts that are installed, and the user's extensions."""
        return (*installed(), self.problem.extensions)

    @contextmanager
    def alone(self, *, needed: bool = True) -> Iterator[None]:
        """Keep other commands that write from running at the same time, where that is needed.

        Raises:
            BadInput: One runs.
        """
        if not needed:
            yield
            return
        path = self.path("data") / ".lock"
        path.parent.mkdir(exist_ok=True)
        try:
            with FileLock(path, timeout=0):
                yield
        except Timeout as error:
            msg = f"another command of this project is at work and holds {path}: try again when it is done"
            raise BadInput(msg) from error

    def pinned(self) -> "Workspace":
        """The same with all tables in their versions of now: whatever reads it sees one state."""
        newest = {name: self.lake.version(name) for name in (*self.problem.schemas, *sorted(RESERVED))}
        tables = {name: version for name, version in newest.items() if version >= 0}
        return replace(self, settings=self.settings.model_copy(update={"tables": tables}))

    def now(self, given: datetime | None = None) -> datetime:
        """The given time, or what the setting `clock` says: the wall clock, or when the newest label became known."""
        if (moment := given or self.settings.now) is not None:
            return moment
        newest = datasets.newest(self.problem, self.lake) if self.settings.clock == "data" else None
        return newest or datetime.now(UTC)


def open_workspace(problem: Problem, *, root: Path | None = None) -> Workspace:
    """The workspace of a problem, by default in the project of the current directory."""
    folder = root or project_root()
    return Workspace(folder, load_settings(folder), problem)


def open_project(problem: Problem) -> Workspace:
    """The workspace of the current directory's project, with its `.env` loaded: for commands, experiments and reports.

    It changes the environment of the process, which `open_workspace` does not.
    """
    workspace = open_workspace(problem)
    load_dotenv(workspace.root)
    return workspace
