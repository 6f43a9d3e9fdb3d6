"""Erase rows of the entity: record their keys, then delete the rows.

Deleted are rows with the key in every table and its old versions; in files of the inbox, the archive, quarantine,
reports and `data/source`; in golden requests and holdouts; and all simulations, which can be repeated. Files that can't
be checked are named. Not covered are models trained on the rows, and copies elsewhere.
"""

import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click
import polars as pl

from {{cookiecutter.__package_name}}.core.contracts.validation import parse_keys
from {{cookiecutter.__package_name}}.core.errors import DRAFT, InputError, Rejected
from {{cookiecutter.__package_name}}.core.problem import RESERVED, Problem
from {{cookiecutter.__package_name}}.core.store import candidates, erasures, releases, request_log
from {{cookiecutter.__package_name}}.core.store.files import READABLE
from {{cookiecutter.__package_name}}.core.store.lake import Lake
from {{cookiecutter.__package_name}}.core.store.predictions import PREDICTIONS
from {{cookiecutter.__package_name}}.core.store.releases import RELEASES
from {{cookiecutter.__package_name}}.core.workspace import SIMULATIONS, SOURCE, Workspace
from {{cookiecutter.__package_name}}.production.erasure import deletion
from {{cookiecutter.__package_name}}.production.ingest import REASONS, SKIPPED

log = logging.getLogger(__name__)

ALL = 1_000_000  # releases
PAGES, PICTURES = (".html", ".json", ".md"), (".png", ".svg")  # the kinds of other files that the framework writes


@dataclass(frozen=True)
class ErasureReport:
    """The result of an erasure.

    Attributes:
        keys: The number of keys.
        tables: The number of deleted rows by table.
        files: The files from which rows were removed.
        unchecked: The files that may still have the rows, and why.
        candidates: The number of challengers from whose holdout rows were removed.
        champion: The version of the champion, which may have been trained on the rows.
    """

    keys: int
    tables: dict[str, int]
    files: tuple[str, ...]
    unchecked: tuple[str, ...]
    candidates: int
    champion: int | None

    @property
    def ok(self) -> bool:
        """Whether all files were checked."""
        return not self.unchecked

    def __str__(self) -> str:
        """The result and the next step, as text."""
        tables = ", ".join(f"{name} {rows}" for name, rows in self.tables.items()) or "none"
        lines = [
            f"{self.keys} keys are recorded as erased; new rows with these keys will be dropped",
            f"rows deleted: {tables}; {len(self.files)} files and {self.candidates} challengers were rewritten",
        ]
        if self.champion is not None and self.tables:
            lines.append(f"version {self.champion} may have been trained on them: train and promote another version")
        return "\n".join((*lines, *self.unchecked))


def confirm(keys: tuple[str, ...]) -> None:
    """Ask whether to erase.

    Raises:
        Rejected: The answer is no, or there is nobody to ask.
    """
    try:
        confirmed = click.confirm(f"Erase {', '.join(keys)}? This can't be undone.", err=True)
    except click.Abort:
        confirmed = False
    if not confirmed:
        raise Rejected("not confirmed, so nothing was erased: --yes confirms")


def erase(workspace: Workspace, keys: tuple[str, ...]) -> ErasureReport:
    """Erase rows of the entity by key; the call can be repeated after an interruption.

    Args:
        workspace: The workspace.
        keys: The keys; the values of a key with several columns are joined by `/`.

    Raises:
        InputError: The entity has no key, or a key is invalid, or no table has it.
    """
    schema, lake = workspace.problem.schema, workspace.lake
    gone = parse_keys(schema, keys)
    _require_known(lake, workspace.problem, gone)
    deletion.record(lake, gone)
    for name, columns in _tables(workspace.problem).items():
        deletion.invalidate(lake, name, columns, gone)
    names = (*workspace.problem.schemas, *sorted(RESERVED - {erasures.ERASURES}))
    tables = {name: deletion.delete(lake, name, gone) for name in names}
    champion = workspace.releases.champion()
    _forget_examples(workspace, gone)
    shutil.rmtree(workspace.path(SIMULATIONS), ignore_errors=True)
    changed, unchecked = _rewrite_files(workspace, gone)
    return ErasureReport(
        keys=len(gone),
        tables={name: rows for name, rows in tables.items() if rows},
        files=tuple(changed),
        unchecked=tuple(unchecked),
        candidates=_forget_holdout(workspace, gone),
        champion=champion.version if champion else None,
    )


def _require_known(lake: Lake, problem: Problem, keys: pl.DataFrame) -> None:
    """Check that each key is in a table, or was erased before."""
    unknown, dtypes = keys.lazy(), {name: problem.schema.dtypes[name] for name in keys.columns}
    for table in (*problem.schemas, *sorted(RESERVED)):
        rows = lake.read(table, dtypes).select(keys.columns)
        unknown = unknown.join(rows, on=keys.columns, how="anti")
    if first := unknown.collect().rows()[:1]:
        raise InputError(f"no table has the key {'/'.join(map(str, first[0]))}: nothing is erased")


def _tables(problem: Problem) -> Mapping[str, Mapping[str, pl.DataType]]:
    """The tables with rows of the entity, and columns to create them with."""
    key = {name: problem.schema.dtypes[name] for name in problem.schema.key}
    own = {name: schema.dtypes for name, schema in problem.schemas.items()}
    logged = {request_log.REQUESTS: request_log.columns(problem), PREDICTIONS: key, "annotations": key}
    return own | logged | {RELEASES: releases.COLUMNS, candidates.CANDIDATES: candidates.COLUMNS}


def _forget_examples(workspace: Workspace, gone: pl.DataFrame) -> None:
    """Remove the rows from the golden requests of releases."""

    def rows() -> pl.DataFrame | None:
        before = workspace.releases.newest(ALL)
        after = [release.without(gone) for release in before]
        return releases.rows_of(after) if after != before else None

    deletion.replace(workspace.lake, RELEASES, rows)


def _forget_holdout(workspace: Workspace, gone: pl.DataFrame) -> int:
    """Remove the rows from the holdouts of challengers; return the number of changed challengers."""
    changed = 0

    def rows() -> pl.DataFrame | None:
        nonlocal changed
        before = workspace.candidates.all()
        after = [one.without(gone) for one in before]
        changed = sum(len(new.holdout) < len(old.holdout) for new, old in zip(after, before, strict=True))
        return candidates.rows_of(after) if changed else None

    deletion.replace(workspace.lake, candidates.CANDIDATES, rows)
    return changed


def _rewrite_files(workspace: Workspace, gone: pl.DataFrame) -> tuple[list[str], list[str]]:
    """Remove the rows from files; return the changed files, and why others may still have the rows."""
    settings, changed, unchecked = workspace.settings, [], []
    for folder in (settings.inbox, settings.archive, settings.quarantine, settings.reports, SOURCE):
        for path in sorted(file for file in workspace.path(folder).rglob("*") if file.is_file()):
            try:
                if _purge(path, workspace.problem, gone):
                    inside = path.is_relative_to(workspace.root)
                    changed.append((path.relative_to(workspace.root) if inside else path).as_posix())
            except InputError as error:
                unchecked.append(str(error))
    moved = sorted(workspace.path(SOURCE).parent.glob("before-init-*"))
    return changed, unchecked + [f"{path} has the data from before init: delete it" for path in moved]


def _purge(path: Path, problem: Problem, gone: pl.DataFrame) -> bool:
    """Remove the rows from a file, or delete the draft of a killed process; return whether the file changed.

    Raises:
        InputError: The file may have the rows, but is none of a batch.
    """
    suffix = path.suffix.lower()
    if DRAFT.fullmatch(path.name):
        path.unlink()
        return True
    if suffix in READABLE:
        return erasures.purge(path, problem, gone)
    if suffix in PAGES and path.name != REASONS:
        text = path.read_text(encoding="utf-8", errors="replace")
        for key in gone.iter_rows():
            if all(re.search(rf"(?<!\w){re.escape(str(value))}(?!\w)", text) for value in key):
                raise InputError(f"{path} contains {'/'.join(map(str, key))}: delete it")
    elif suffix not in {*PAGES, *PICTURES} and not path.name.startswith(SKIPPED):
        raise InputError(f"{path} can't be searched for erased rows: delete it")
    return False
