"""Model card and data sheet: templates in docs/, which each release fills in.

The filled pages are in the reports folder and logged with the run of the release; docs/ is never changed.
"""

import json
import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import polars as pl
from polars.exceptions import PolarsError

from {{cookiecutter.__package_name}}.core.contracts.schema import (
    AVAILABLE_AT,
    BATCH,
    PREDICTED_AT,
    TARGET,
    Personal,
    Task,
)
from {{cookiecutter.__package_name}}.core.errors import InputError, write_file
from {{cookiecutter.__package_name}}.core.models.evaluation import by_slice
from {{cookiecutter.__package_name}}.core.store.candidates import Candidate
from {{cookiecutter.__package_name}}.core.store.releases import Release
from {{cookiecutter.__package_name}}.core.workspace import Workspace

log = logging.getLogger(__name__)

MODELS = ("model", "linear", "dummy")
PAGES = ("model-card.md", "data-sheet.md")
COUNTS = ("table", "version", "rows", "batches", "from", "to", "most missing", "personal columns")
MARK = re.compile(r"^<!-- filled in: (\w+) -->$", re.MULTILINE)


def fill(workspace: Workspace, release: Release, candidate: Candidate) -> list[str]:
    """Fill in the existing pages for a release.

    Returns:
        The paths of the pages, relative to the project's folder.
    """
    pages = [page for page in (workspace.root / "docs" / name for name in PAGES) if page.is_file()]
    parts = _parts(workspace, release, candidate) if pages else {}
    return [write_report(workspace, release.run_id, page.name, _filled(page, parts).encode()) for page in pages]


def write_report(workspace: Workspace, run_id: str, name: str, content: bytes) -> str:
    """Write a file to the reports folder and log it with a run; return its path relative to the project's folder."""
    path = workspace.settings.reports / name
    write_file(workspace.path(path), content)
    with workspace.registry.reopen(run_id) as run:
        run.log_artifact(name, content)
    return path.as_posix()


def _filled(page: Path, parts: Mapping[str, str]) -> str:
    text = page.read_text(encoding="utf-8")
    if unknown := [mark for mark in MARK.findall(text) if mark not in parts]:
        log.warning(
            "cards     docs/%s: unknown placeholders %s; known are %s", page.name, ", ".join(unknown), ", ".join(parts)
        )
    return MARK.sub(lambda mark: parts.get(mark[1], mark[0]), text)


def _parts(workspace: Workspace, release: Release, candidate: Candidate) -> dict[str, str]:
    """The content of each placeholder."""
    tables = [name for name in workspace.problem.schemas if name in release.tables]
    parameters = {name: str(value) for name, value in release.parameters.items()}
    return {
        "details": _details(workspace, release, candidate),
        "quality": _quality(candidate.metrics),
        "slices": _slices(workspace, candidate),
        "evidence": _evidence(candidate),
        "parameters": _table(("parameter", "value"), parameters.items()),
        "features": ", ".join(f"`{name}`" for name in release.features),
        "tables": _table(COUNTS, (_counts(workspace, name, release.tables[name]) for name in tables)),
        "labels": _labels(workspace, candidate.holdout),
    }


def _details(workspace: Workspace, release: Release, candidate: Candidate) -> str:
    target = f"`{workspace.problem.target.name}` of `{workspace.problem.labels.name}` ({release.task})"
    target += f": the probability of {release.words[0]}, not {release.words[1]}" if release.words else ""
    changed = " with uncommitted changes" if candidate.dirty else ""
    facts = {
        "predicts": target,
        "version": f"{release.version}, {release.reason} {release.released:%Y-%m-%d %H:%M} UTC",
        "trained on": f"labels available by {release.trained_until:%Y-%m-%d %H:%M} UTC",
        "threshold": "" if release.threshold is None else f"{release.threshold:.4f}",
        "code": f"commit {candidate.commit or 'unknown'}{changed}, lock {candidate.lock[:12] or 'unknown'}",
        "run": release.run_id,
    }
    return _table(("", ""), ((name, fact) for name, fact in facts.items() if fact))


def _quality(metrics: Mapping[str, float]) -> str:
    names = sorted(name for name in metrics if f"dummy.{name}" in metrics)
    rows = ((name, metrics[name], *(metrics[f"{model}.{name}"] for model in MODELS[1:])) for name in names)
    return _table(("", *MODELS), rows)


def _slices(workspace: Workspace, candidate: Candidate) -> str:
    acceptance, rows = workspace.acceptance, candidate.holdout
    columns = [
        name
        for name in dict.fromkeys((*acceptance.slices.columns, *acceptance.fairness.columns))
        if name in rows.columns
    ]
    found = by_slice(
        candidate.holdout_predictions(workspace.problem),
        rows,
        columns,
        acceptance.decision,
        at_least=acceptance.slices.min_rows,
    )
    if not found:
        return "`config/acceptance.toml` names no slices, or no slice has enough rows."
    names = sorted({name for part in found for name in part.metrics})
    lines = ((f"{part.column} {part.value}", part.rows, *map(part.metrics.get, names)) for part in found)
    return _table(("slice", "rows", *names), lines)


def _evidence(candidate: Candidate) -> str:
    metrics = candidate.metrics
    first, last = candidate.holdout.select(first=pl.col(PREDICTED_AT).min(), last=pl.col(PREDICTED_AT).max()).row(0)
    return (
        f"{metrics['window_rows']:.0f} rows predicted from {first:%Y-%m-%d} to {last:%Y-%m-%d}; the "
        f"{metrics['rows']:.0f} training rows are older. The model was then refitted on all rows."
    )


def _counts(workspace: Workspace, table: str, version: int) -> tuple[object, ...]:
    """Counts of a table version; of values only the first and last time."""
    schema = workspace.problem.schemas[table]
    time = pl.col(schema.time) if schema.time else pl.lit(None, dtype=pl.Datetime)
    counts = pl.len().alias("rows"), pl.col(BATCH).n_unique()
    edges = time.min().dt.strftime("%Y-%m-%d").alias("from"), time.max().dt.strftime("%Y-%m-%d").alias("to")
    try:
        rows = workspace.lake.scan(schema, version=version)
        counted = rows.select(*counts, *edges).collect().row(0)
        missing = rows.select(pl.col(schema.names).is_null().mean()).collect().row(0, named=True)
    except (InputError, PolarsError, OSError):
        return (f"`{table}`", version, "is no longer readable", *[""] * (len(COUNTS) - 3))
    worst = max(missing, key=lambda name: missing[name] or 0)
    most_missing = f"`{worst}`, {missing[worst]:.1%}" if missing[worst] else ""
    personal = ", ".join(f"`{name}`" for name in schema.columns_with_role(Personal))
    return (f"`{table}`", version, *counted, most_missing, personal)


def _labels(workspace: Workspace, rows: pl.DataFrame) -> str:
    """The distribution and the delay of labels on the newest window."""
    hours = (rows[AVAILABLE_AT] - rows[PREDICTED_AT]).dt.total_seconds().to_numpy() / 3600
    came = f"A label is known {np.median(hours):.1f} hours after the prediction (median), at most {hours.max():.1f}."
    if workspace.problem.task is Task.REGRESSION:
        values = rows[TARGET].to_numpy()
        return f"{values.mean():.4g} on average, from {values.min():.4g} to {values.max():.4g}. {came}"
    shares, words = rows[TARGET].value_counts(normalize=True).sort(TARGET), workspace.problem.words
    named = ((words[not value] if words else json.dumps(value), n) for value, n in shares.rows())
    table = _table((workspace.problem.target.name, "share"), named)
    return f"{table}\n\n{came}"


def _table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table in Markdown."""
    head = list(head)
    lines = [head, ["--"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(value)
