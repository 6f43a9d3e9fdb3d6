"""Rows of the subject taken out for good: recorded first, then deleted wherever the project keeps rows.

What is deleted: rows with the key in every table, from their past too; in files of the inbox, the archive, quarantine
and reports; in the examples of releases and the holdouts of challengers; replays as a whole, which can be made again.
What can't be: a model that has learnt from them, and what was copied elsewhere.
"""

import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import compress

import polars as pl

from {{cookiecutter.__package_name}}.core.contracts.schema import Schema
from {{cookiecutter.__package_name}}.core.contracts.validation import drop_rows, keys_of
from {{cookiecutter.__package_name}}.core.problem import RESERVED
from {{cookiecutter.__package_name}}.core.store import candidates, erasures
from {{cookiecutter.__package_name}}.core.store.releases import TABLE, Golden, Release, rows_of
from {{cookiecutter.__package_name}}.core.workspace import REPLAYS, Workspace
from {{cookiecutter.__package_name}}.production.erasure import deletion

log = logging.getLogger(__name__)

ALL = 1_000_000  # releases


@dataclass(frozen=True)
class Erased:
    """What was erased.

    Attributes:
        keys: How many were asked for.
        tables: Deleted rows, by table.
        files: Files that were written anew without them.
        candidates: Challengers whose holdout was written anew.
        champion: The version that serves and may have learnt from them.
    """

    keys: int
    tables: dict[str, int]
    files: tuple[str, ...]
    candidates: int
    champion: int | None

    def __str__(self) -> str:
        """What was done and what is left to do, for people."""
        tables = ", ".join(f"{name} {rows}" for name, rows in self.tables.items()) or "none"
        lines = [
            f"{self.keys} keys are recorded as erased; rows that come with them are left out from now on",
            f"rows deleted: {tables}; {len(self.files)} files and {self.candidates} challengers were written anew",
        ]
        if self.champion is not None and self.tables:
            lines.append(f"version {self.champion} may have learnt from them: train and promote another")
        return "\n".join(lines)


def erase(workspace: Workspace, keys: tuple[str, ...]) -> Erased:
    """Erase rows of the subject by key; where it was stopped, the same command goes on.

    Args:
        workspace: The workspace.
        keys: The keys' values, each joined by `/` where the key has several columns.

    Raises:
        BadInput: The subject has no key, or no key can be like this.
    """
    schema, lake = workspace.problem.schema, workspace.lake
    gone = keys_of(schema, keys)
    deletion.record(lake, schema, gone)
    for one in workspace.problem.schemas.values():
        deletion.create(lake, one)
    names = (*workspace.problem.schemas, *sorted(RESERVED - {erasures.TABLE}))
    tables = {name: deletion.delete(lake, name, gone) for name in names}
    champion = workspace.releases.champion()
    _forget_examples(workspace, gone)
    shutil.rmtree(workspace.path(REPLAYS), ignore_errors=True)
    return Erased(
        keys=len(gone),
        tables={name: rows for name, rows in tables.items() if rows},
        files=tuple(_rewritten(workspace, schema, gone)),
        candidates=_forget_holdout(workspace, gone),
        champion=champion.version if champion else None,
    )


def _forget_examples(workspace: Workspace, gone: pl.DataFrame) -> None:
    """Take the rows out of the golden requests of releases."""

    def rows() -> pl.DataFrame | None:
        releases = workspace.releases.newest(ALL)
        shorter = [_without_examples(release, gone) for release in releases]
        return rows_of(shorter) if shorter != releases else None

    deletion.replace(workspace.lake, TABLE, rows)


def _without_examples(release: Release, gone: pl.DataFrame) -> Release:
    keys, golden = json.loads(gone.write_json()), release.golden
    kept = [{name: row.get(name) for name in gone.columns} not in keys for row in golden.requests]
    columns = {name: list(compress(values, kept)) for name, values in golden.model_dump().items()}
    return release.model_copy(update={"golden": Golden.model_validate(columns)})


def _forget_holdout(workspace: Workspace, gone: pl.DataFrame) -> int:
    """Take the rows out of the holdouts of challengers; return of how many."""
    changed = 0

    def rows() -> pl.DataFrame | None:
        nonlocal changed
        before = workspace.candidates.all()
        after = [one.model_copy(update={"holdout": drop_rows(one.holdout, gone)}) for one in before]
        changed = sum(len(new.holdout) < len(old.holdout) for new, old in zip(after, before, strict=True))
        return candidates.rows_of(after) if changed else None

    deletion.replace(workspace.lake, candidates.TABLE, rows)
    return changed


def _rewritten(workspace: Workspace, schema: Schema, gone: pl.DataFrame) -> Iterator[str]:
    """Write files of rows anew without the rows; return those that had some."""
    settings = workspace.settings
    for folder in (settings.inbox, settings.archive, settings.quarantine, settings.reports):
        for path in sorted(workspace.path(folder).rglob("*")):
            if path.suffix.lower() in {".parquet", ".csv", ".part"} and erasures.purge(path, schema, gone):
                inside = path.is_relative_to(workspace.root)
                yield (path.relative_to(workspace.root) if inside else path).as_posix()
