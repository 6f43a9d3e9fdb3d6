"""Parts: optional folders of the framework, and the user's extensions in `shared/extensions.py`.

A part is a folder of `production` or `research` with a `PART` in its `__init__`; the rest of the project never imports
it. Its functions import their modules when they are called, so that `--help` is instant.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cache
from importlib import import_module  # noqa: TID251 - an import statement would require every part
from typing import TYPE_CHECKING

import click

from {{cookiecutter.__package_name}}.core import PACKAGE

if TYPE_CHECKING:
    from fastapi import FastAPI

    from {{cookiecutter.__package_name}}.core.models.evaluation import Predictions
    from {{cookiecutter.__package_name}}.core.store.candidates import Candidate
    from {{cookiecutter.__package_name}}.core.store.releases import Release
    from {{cookiecutter.__package_name}}.core.workspace import Workspace

FOLDERS = ("production", "research")


@dataclass(frozen=True)
class Check:
    """One check of the gate.

    Attributes:
        name: What is checked.
        passed: Whether it passed.
        detail: The values.
        is_slice: Whether it concerns a slice.
    """

    name: str
    passed: bool
    detail: str
    is_slice: bool = False

    def __str__(self) -> str:
        """One line of text."""
        return f"{'pass' if self.passed else 'FAIL'}  {self.name}: {self.detail}"


class Severity(StrEnum):
    """The severity of an alert."""

    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True)
class Alert:
    """One result of monitoring."""

    name: str
    severity: Severity
    detail: str

    def __str__(self) -> str:
        """One line of text."""
        return f"{self.severity:<8} {self.name}: {self.detail}"


@dataclass(frozen=True)
class Event:
    """An event on which a person must act.

    Attributes:
        project: The name of the project.
        subject: A summary.
        detail: The reasons, one per line.
        at: The time of the event.
    """

    project: str
    subject: str
    detail: str
    at: datetime


@dataclass(frozen=True, kw_only=True)
class Part:
    """The contributions of a part, all optional.

    Attributes:
        commands: Commands and groups of the command line; commands of a group that exists are added to it.
        metrics: Further metrics by name; `config/acceptance.toml` may set limits for them.
        gate_checks: Further checks of a challenger, after the gate's own.
        release_checks: Checks of the refitted model, before it is released.
        monitor_checks: Further checks of `monitor`; the last argument is the current time.
        notify: Called with an event when a person must act.
        configure_app: Called with the FastAPI application of the service, before it starts.
    """

    commands: tuple[click.Command, ...] = ()
    metrics: Mapping[str, Callable[[Predictions], float]] = field(default_factory=dict)
    gate_checks: tuple[Callable[[Workspace, Candidate], Iterable[Check]], ...] = ()
    release_checks: tuple[Callable[[Workspace, Release], Iterable[Check]], ...] = ()
    monitor_checks: tuple[Callable[[Workspace, Release, datetime], Iterable[Alert]], ...] = ()
    notify: Callable[[Event], None] | None = None
    configure_app: Callable[[FastAPI], None] | None = None


@cache
def installed() -> tuple[Part, ...]:
    """The parts of the framework that this project has."""
    found = []
    for folder in FOLDERS:
        package = import_module(f"{PACKAGE}.{folder}")
        names = sorted(module.name for module in pkgutil.iter_modules(package.__path__) if module.ispkg)
        modules = (import_module(f"{PACKAGE}.{folder}.{name}") for name in names)
        found += [part for part in (getattr(module, "PART", None) for module in modules) if isinstance(part, Part)]
    return tuple(found)
