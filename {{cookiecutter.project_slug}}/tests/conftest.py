"""What the tests share: projects of sample rows, whatever the contract, with a gate that lets any better model pass.

Sample rows teach nothing: no limit is set, and each model counts as better than what it is compared with.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}  # each worker has a core of its own

import narwhals as nw
import polars as pl
import pytest
from click.testing import CliRunner

from {{cookiecutter.__package_name}} import cli
from {{cookiecutter.__package_name}}.core.contracts.sample_data import sample_tables
from {{cookiecutter.__package_name}}.core.models.evaluation import PairedComparison
from {{cookiecutter.__package_name}}.core.store.registry import Registry
from {{cookiecutter.__package_name}}.core.workspace import Workspace, open_workspace
from {{cookiecutter.__package_name}}.production import gate
from {{cookiecutter.__package_name}}.production.ingest import ingest
from {{cookiecutter.__package_name}}.production.promote import promote
from {{cookiecutter.__package_name}}.production.train import train
from {{cookiecutter.__package_name}}.shared import PROBLEM

ROOT = Path(__file__).parents[1]
ROWS, PARTS = 500, 3
DAY = timedelta(days=1)
BEGINNING = datetime(2024, 1, 1, tzinfo=UTC)
ACCEPTANCE = "[window]\ndays = 1\nmin_rows = 2\n[smoke_test]\nenabled = false\n"

Tables = dict[str, pl.DataFrame]
Arrivals = list[tuple[datetime, Tables]]


@pytest.fixture(scope="session", autouse=True)
def _own_settings_and_lenient_gate() -> Iterator[None]:
    """Keep the user's settings out, and let every model be better than what it is compared with."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("ML_", "MLFLOW_", "OPTUNA_")):
                patch.delenv(name)
        patch.setattr(gate, "compare_losses", lambda ours, *_, **__: PairedComparison(1.0, 1.0, 1.0, len(ours)))
        yield


@pytest.fixture(scope="session")
def arrivals() -> Arrivals:
    """Sample rows in the order in which they become known: a time, and the rows of each table since the one before."""
    tables = sample_tables(PROBLEM.entity, PROBLEM.tables, ROWS)
    short = [name for name, rows in tables.items() if len(rows) < PARTS]
    assert not short, f"sample rows of {short} break their rules: give the fields `examples` that keep them"
    known = {name: _available_at(name, rows) for name, rows in tables.items()}
    labelled = sorted(known[PROBLEM.labels.name])
    moments: list[datetime] = [labelled[len(labelled) * part // PARTS - 1] for part in range(1, PARTS)]
    moments.append(max(time for times in known.values() for time in times))
    edges = zip([datetime.min.replace(tzinfo=UTC), *moments], moments, strict=False)
    return [
        (
            until,
            {name: rows.filter(known[name].is_between(since, until, closed="right")) for name, rows in tables.items()},
        )
        for since, until in edges
    ]


def _available_at(name: str, rows: pl.DataFrame) -> pl.Series:
    """When each row of a table became known; the rows of a table without a time arrive day by day."""
    schema = PROBLEM.schemas[name]
    if schema.time:
        known: pl.Series = nw.from_native(rows).select(known=schema.available_at)["known"].to_native()
        return known
    part = pl.int_range(len(rows), eager=True) * PARTS // len(rows)
    return pl.select(BEGINNING + part * pl.lit(DAY)).to_series()


@pytest.fixture(scope="session")
def no_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry in which nothing has run: making one takes seconds."""
    folder = tmp_path_factory.mktemp("registry") / "mlruns"
    Registry(str(folder), "none").versions()
    return folder


@pytest.fixture
def workspace(tmp_path: Path, no_runs: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A project in which nothing has arrived yet, in the current directory."""
    found = _project(tmp_path / "project", no_runs)
    monkeypatch.chdir(found.root)
    return found


def _project(folder: Path, no_runs: Path) -> Workspace:
    (folder / "config").mkdir(parents=True)
    shutil.copy(ROOT / "config" / "params.toml", folder / "config")
    (folder / "config" / "acceptance.toml").write_text(ACCEPTANCE, encoding="utf-8")
    (folder / "config" / "settings.toml").write_text('clock = "data"\n', encoding="utf-8")
    shutil.copytree(no_runs, folder / "mlruns")
    return open_workspace(PROBLEM, root=folder)


def _deliver(workspace: Workspace, arrivals: Arrivals) -> None:
    """Ingest arrivals, each at its time."""
    for moment, tables in arrivals:
        for name, rows in tables.items():
            if len(rows):
                rows.write_parquet(workspace.path(workspace.settings.inbox) / name / "rows.parquet", mkdir=True)
        report = ingest(workspace, now=moment)
        assert all(batch.ok for batch in report.batches), str(report)


@pytest.fixture
def deliver() -> Callable[[Workspace, Arrivals], None]:
    """Ingest arrivals, each at its time: `deliver(workspace, arrivals[:2])`."""
    return _deliver


@pytest.fixture(scope="session")
def champion(tmp_path_factory: pytest.TempPathFactory, no_runs: Path, arrivals: Arrivals) -> Workspace:
    """A project with all rows and a champion, version 1, to read from."""
    found = _project(tmp_path_factory.mktemp("champion") / "project", no_runs)
    _deliver(found, arrivals)
    train(found)
    promoted = promote(found)
    assert promoted.ok, str(promoted)
    return found


@pytest.fixture
def command() -> Callable[..., tuple[int, Any]]:
    """The console script, in the current directory: `command("ingest", file)` gives exit status and what it printed."""

    def run(*arguments: object) -> tuple[int, Any]:
        done = CliRunner().invoke(cli.cli, [*map(str, arguments), "--json"])
        if isinstance(done.exception, Exception):
            raise done.exception
        return done.exit_code, json.loads(done.stdout)

    return run
