"""Model card and data sheet: pages of docs/ that people write, in which a release fills in the figures.

The filled pages are in the folder of reports and beside the release's run; docs/ itself is never written.
"""

import json
import logging
import re
from collections.abc import Iterable

import numpy as np
import polars as pl
from polars.exceptions import PolarsError

from {{cookiecutter.__package_name}}.core.contracts.schema import (
    AT,
    BATCH,
    KNOWN,
    TARGET,
    Personal,
    Schema,
    Task,
)
from {{cookiecutter.__package_name}}.core.errors import BadInput
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
    """Fill in the pages for a release; one that is not there is not filled in.

    Returns:
        The filled pages, from the project's folder.
    """
    pages = [workspace.root / "docs" / name for name in PAGES]
    texts = {page.name: page.read_text(encoding="utf-8") for page in pages if page.is_file()}
    if not texts:
        return []
    parts = _parts(workspace, release, candidate)
    filled, folder = {name: _filled(name, text, parts) for name, text in texts.items()}, workspace.settings.reports
    workspace.path(folder).mkdir(parents=True, exist_ok=True)
    with workspace.registry.reopen(release.run_id) as run:
        for name, text in filled.items():
            workspace.path(folder / name).write_text(text, encoding="utf-8", newline="\n")
            run.log_artifact(name, text.encode())
    return [(folder / name).as_posix() for name in filled]


def _filled(name: str, text: str, parts: dict[str, str]) -> str:
    if unknown := [mark for mark in MARK.findall(text) if mark not in parts]:
        log.warning("cards     docs/%s asks for %s; there is %s", name, ", ".join(unknown), ", ".join(parts))
    return MARK.sub(lambda mark: parts.get(mark[1], mark[0]), text)


def _parts(workspace: Workspace, release: Release, candidate: Candidate) -> dict[str, str]:
    """What a page can ask for, by name."""
    rows, metrics = candidate.holdout, candidate.metrics
    return {
        "details": _details(workspace, release, candidate),
        "quality": _quality(metrics),
        "slices": _slices(workspace, candidate),
        "evidence": _evidence(rows, metrics),
        "parameters": _table(("parameter", "value"), release.parameters.items()),
        "features": ", ".join(f"`{name}`" for name in release.features),
        "tables": _tables(workspace, release),
        "labels": _labels(workspace, rows),
    }


def _details(workspace: Workspace, release: Release, candidate: Candidate) -> str:
    target = f"`{workspace.problem.target.name}` of `{workspace.problem.labels.name}` ({release.task})"
    changed = " and changes that are in no commit" if candidate.dirty else ""
    facts = {
        "predicts": target,
        "version": f"{release.version}, {release.reason} {release.released:%Y-%m-%d %H:%M} UTC",
        "has seen": f"labels that were known by {release.trained_until:%Y-%m-%d %H:%M} UTC",
        "decides": "" if release.threshold is None else f"from a probability of {release.threshold:.4f}",
        "made of": f"commit {candidate.commit or 'unknown'}{changed}, lock {candidate.lock[:12] or 'unknown'}",
        "run": release.run_id,
    }
    return _table(("", ""), ((name, fact) for name, fact in facts.items() if fact))


def _quality(metrics: dict[str, float]) -> str:
    names = [name for name in metrics if f"dummy.{name}" in metrics]
    rows = ((name, *(f"{metrics[_of(model, name)]:.4f}" for model in MODELS)) for name in sorted(names))
    return _table(("", *MODELS), rows)


def _of(model: str, metric: str) -> str:
    return metric if model == MODELS[0] else f"{model}.{metric}"


def _slices(workspace: Workspace, candidate: Candidate) -> str:
    ask, rows = workspace.acceptance, candidate.holdout
    columns = [name for name in dict.fromkeys((*ask.slices.columns, *ask.groups.columns)) if name in rows.columns]
    found = by_slice(candidate.answers(workspace.problem), rows, columns, ask.decision, at_least=ask.slices.rows)
    if not found:
        return "No slices are named in `config/acceptance.toml`, or none has enough rows."
    names = sorted({name for part in found for name in part.metrics})
    values = ((*(f"{part.metrics[name]:.4f}" if name in part.metrics else "" for name in names),) for part in found)
    heads = ((f"{part.column} {part.value}", part.rows) for part in found)
    return _table(("slice", "rows", *names), ((*head, *value) for head, value in zip(heads, values, strict=True)))


def _evidence(rows: pl.DataFrame, metrics: dict[str, float]) -> str:
    first, last = rows.select(pl.col(AT).min().alias("first"), pl.col(AT).max().alias("last")).row(0)
    return (
        f"{metrics['window_rows']:.0f} rows that were predicted from {first:%Y-%m-%d} to {last:%Y-%m-%d}; the "
        f"{metrics['rows']:.0f} rows of training came before. Once it had passed, the model was fitted on all of them."
    )


def _tables(workspace: Workspace, release: Release) -> str:
    return _table(
        COUNTS,
        (
            _of_table(workspace, schema, release.tables[name])
            for name, schema in workspace.problem.schemas.items()
            if name in release.tables
        ),
    )


def _of_table(workspace: Workspace, schema: Schema, version: int) -> tuple[object, ...]:
    """Counts alone: no value of a row but the first and last time; none where the version is gone."""
    try:
        return _counted(workspace, schema, version)
    except (BadInput, PolarsError, OSError):
        return (f"`{schema.name}`", version, "can't be read any more", *[""] * (len(COUNTS) - 3))


def _counted(workspace: Workspace, schema: Schema, version: int) -> tuple[object, ...]:
    rows = workspace.lake.scan(schema, version=version)
    missing = {name: share for name, share in _missing(rows, schema).items() if share}
    worst = max(missing, key=lambda name: missing[name], default=None)
    times = ("", "")
    if schema.time:
        edges = rows.select(first=pl.col(schema.time).min(), last=pl.col(schema.time).max()).collect()
        times = tuple(edges.select(pl.all().dt.strftime("%Y-%m-%d")).row(0))
    return (
        f"`{schema.name}`",
        version,
        rows.select(pl.len()).collect().item(),
        rows.select(pl.col(BATCH).n_unique()).collect().item(),
        *times,
        f"`{worst}`, {missing[worst]:.1%}" if worst else "",
        ", ".join(f"`{name}`" for name in schema.having(Personal)),
    )


def _missing(rows: pl.LazyFrame, schema: Schema) -> dict[str, float]:
    return rows.select(pl.col(schema.names).is_null().mean()).collect().row(0, named=True)


def _labels(workspace: Workspace, rows: pl.DataFrame) -> str:
    """How the target is spread and when it becomes known, on the newest window."""
    hours = (rows[KNOWN] - rows[AT]).dt.total_seconds().to_numpy() / 3600
    came = (
        f"A label becomes known {np.median(hours):.1f} hours after the prediction (median), {hours.max():.1f} at most."
    )
    if workspace.problem.task is Task.REGRESSION:
        values = rows[TARGET].to_numpy()
        return f"{values.mean():.4g} on average, from {values.min():.4g} to {values.max():.4g}. {came}"
    shares = rows[TARGET].value_counts(normalize=True).sort(TARGET)
    table = _table((workspace.problem.target.name, "share"), ((json.dumps(v), f"{s:.4f}") for v, s in shares.rows()))
    return f"{table}\n\n{came}"


def _table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    head = list(head)
    lines = [head, ["--"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)
