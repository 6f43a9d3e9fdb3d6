"""Runs, model versions and aliases in MLflow: SQLite in a folder, or a server.

MLflow is used through its public client. Production needs only the lake, with the tables `candidates`,
`verdicts` and `releases`.
"""

import logging
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import entry_points
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING
from urllib.parse import quote

from filelock import FileLock

from {{cookiecutter.__package_name}}.core.errors import (
    InputError,
    atomic_write,
    redact_passwords,
    root_cause,
    validate_port,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment
    from mlflow.entities import Run as MlflowRun
    from mlflow.entities.model_registry import ModelVersion

log = logging.getLogger(__name__)

CHAMPION, CHALLENGER = "champion", "challenger"
ARTIFACTS, DATABASE = "artifacts", "mlflow.db"
SCHEMES = {"http", "https", "file", "databricks", "databricks-uc", "uc", "sqlite", "postgresql", "mysql", "mssql"}
MAX_RUNS = 50_000  # MLflow's maximum per search; its default is 1,000
MLFLOW_ENVIRONMENT = {
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


@dataclass(frozen=True)
class Run:
    """An active tracked run.

    Attributes:
        id: Its id.
        client: The MLflow client.
        artifacts: Whether artifacts can be logged; false if the run's artifact folder was moved.
    """

    id: str
    client: "MlflowClient"
    artifacts: bool = True

    def log(self, metrics: Mapping[str, float]) -> None:
        """Log metrics in one transaction."""
        from mlflow.entities import Metric  # noqa: PLC0415 - takes seconds to import

        now = int(datetime.now(UTC).timestamp() * 1000)
        self.client.log_batch(self.id, [Metric(name, value, now, 0) for name, value in metrics.items()])

    def log_artifact(self, name: str, content: bytes) -> None:
        """Log a file."""
        if not self.artifacts:
            log.warning(
                "runs      %s is not logged with run %s: its artifact folder in MLflow was moved", name, self.id[:8]
            )
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, name)
            path.write_bytes(content)
            self.client.log_artifact(self.id, str(path))


@dataclass(frozen=True)
class Version:
    """A registered model version."""

    number: int
    run_id: str


@dataclass(frozen=True)
class RunInfo:
    """A tracked run as MLflow recorded it, running or finished.

    Attributes:
        id: Its id.
        started: Start time.
        status: MLflow's status.
        tags: Its provenance: kind, command, commit, tables.
        parameters: Its parameters.
        metrics: Its metrics.
    """

    id: str
    started: datetime
    status: str
    tags: dict[str, str]
    parameters: dict[str, str]
    metrics: dict[str, float]


class Registry:
    """The runs and versions of one model.

    Args:
        address: A folder for the SQLite file and artifacts, or the URL of an MLflow server.
        model: The name of the experiment and the registered model.

    Raises:
        InputError: The URL has an unknown scheme.
    """

    def __init__(self, address: str, model: str) -> None:
        self.address, self.model = address, model
        scheme, is_url, _ = address.partition("://")
        plugins = (plugin.name for plugin in entry_points(group="mlflow.tracking_store"))
        if is_url and scheme.partition("+")[0] not in SCHEMES and scheme not in plugins:
            what = f"ML_TRACKING {redact_passwords(address)} has the unknown scheme {scheme}"
            raise InputError(f"{what}: a server has https://, a database postgresql+psycopg:// or the like")

    @contextmanager
    def run(self, kind: str, parameters: Mapping[str, object], tags: Mapping[str, str]) -> Iterator[Run]:
        """Start a tracked run of this kind; it is marked as failed if the block raises."""
        with self._client() as client:
            from mlflow.entities import Param  # noqa: PLC0415 - takes seconds to import

            run_id = client.create_run(self._experiment(client), run_name=kind, tags={"kind": kind, **tags}).info.run_id
            client.log_batch(run_id, params=[Param(name, str(value)) for name, value in parameters.items()])
            try:
                yield Run(run_id, client)
            except BaseException:
                client.set_terminated(run_id, "FAILED")
                raise
            client.set_terminated(run_id)

    def register(self, run_id: str, file: str) -> Version:
        """Register an artifact of a run as the next model version; idempotent per run."""
        with self._client() as client:
            registered = client.search_model_versions(f"name = '{self.model}' and run_id = '{run_id}'")
            if registered:
                return _version(registered[0])
            if not client.search_registered_models(f"name = '{self.model}'"):
                client.create_registered_model(self.model)
            source = f"{client.get_run(run_id).info.artifact_uri}/{file}"
            return _version(client.create_model_version(self.model, source=source, run_id=run_id))

    def version_by_alias(self, alias: str) -> Version | None:
        """The version with an alias, or None."""
        with self._client() as client:
            models = client.search_registered_models(f"name = '{self.model}'")
        named = models[0].aliases.get(alias) if models else None
        return self.version(int(named)) if named else None

    def version(self, number: int) -> Version | None:
        """The version with this number, or None."""
        return next((version for version in self.versions() if version.number == number), None)

    def runs(self) -> list[RunInfo]:
        """All tracked runs, newest first."""
        with self._client() as client:
            return [
                RunInfo(
                    run.info.run_id,
                    datetime.fromtimestamp(run.info.start_time / 1000, UTC),
                    run.info.status,
                    {name: value for name, value in run.data.tags.items() if not name.startswith("mlflow.")},
                    dict(run.data.params),
                    dict(run.data.metrics),
                )
                for run in self._search(client)
            ]

    @property
    def is_empty(self) -> bool:
        """Whether this is a folder without a database, and so without runs."""
        return self._artifacts is not None and not Path(self.address, DATABASE).exists()

    def has_run(self, run_id: str) -> bool:
        """Whether a run is tracked here; a folder without a database stays as it is."""
        if self.is_empty:
            return False
        with self._client() as client:
            return bool(self._search(client, f"attributes.run_id = '{run_id}'"))

    def versions(self) -> list[Version]:
        """All registered versions."""
        with self._client() as client:
            return [_version(found) for found in client.search_model_versions(f"name = '{self.model}'")]

    def close_left_runs(self) -> None:
        """Mark unfinished training runs of killed processes as killed; call it under the exclusive lock."""
        left = "attributes.status = 'RUNNING' and tags.kind = 'train'"
        with self._client() as client:
            for run in self._search(client, left):
                client.set_terminated(run.info.run_id, "KILLED")

    def set_alias(self, alias: str, version: int) -> None:
        """Set an alias to a version."""
        with self._client() as client:
            client.set_registered_model_alias(self.model, alias, str(version))

    def tag(self, version: Version, tags: Mapping[str, str]) -> None:
        """Set tags of a version."""
        with self._client() as client:
            for name, value in tags.items():
                client.set_model_version_tag(self.model, str(version.number), name, value)

    @contextmanager
    def reopen(self, run_id: str) -> Iterator[Run]:
        """Reopen a finished run to add metrics or artifacts."""
        with self._client() as client:
            uri = str(client.get_run(run_id).info.artifact_uri)
            yield Run(run_id, client, artifacts=self._artifacts is None or uri.startswith(self._artifacts))

    @contextmanager
    def _client(self) -> Iterator["MlflowClient"]:
        for name, value in MLFLOW_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        import mlflow  # noqa: PLC0415 - takes seconds to import
        import requests  # noqa: PLC0415
        import sqlalchemy.exc  # noqa: PLC0415

        try:
            yield mlflow.MlflowClient(self._uri, registry_uri=self._uri)
        except (
            mlflow.MlflowException,
            requests.RequestException,
            sqlalchemy.exc.SQLAlchemyError,
            sqlite3.Error,
        ) as error:
            cause = root_cause(error)
            lines = (line for line in str(cause).splitlines() if line and not line.startswith("(raised as a result of"))
            reason = shorten(next(lines, type(cause).__name__), 200, placeholder=" ...")
            what = redact_passwords(f"MLflow at {self.address} failed: {reason}")
            raise InputError(f"{what}; see the setting ML_TRACKING") from error

    @cached_property
    def _uri(self) -> str:
        if "://" in self.address:
            validate_port(self.address, "ML_TRACKING")
            return self.address
        try:
            Path(self.address).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"MLflow at {self.address}: its folder can't be created: {error.strerror}") from error
        file = Path(self.address, DATABASE)
        if not file.exists():
            self._create_database(file)
        elif not file.stat().st_size:
            raise InputError(f"{file} is empty, as after a power loss: restore it from a backup, or delete it")
        return _sqlite(file)

    def _create_database(self, file: Path) -> None:
        """Create the database in a temporary folder: a killed process never leaves a partial one."""
        import mlflow  # noqa: PLC0415 - takes seconds to import

        with FileLock(file.with_suffix(".lock")), tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            if file.exists():
                return
            draft = Path(folder, file.name)
            mlflow.MlflowClient(_sqlite(draft)).search_experiments(max_results=1)  # creates the tables
            with atomic_write(file) as part:  # copied, since the client has the file open
                shutil.copyfile(draft, part)

    @cached_property
    def _artifacts(self) -> str | None:
        """The location of new artifacts; None if a server decides."""
        return None if "://" in self.address else Path(self.address, ARTIFACTS).absolute().as_uri()

    def _experiment(self, client: "MlflowClient") -> str:
        """The experiment of new runs; a new one after the folder was moved, since MLflow stores absolute paths."""
        experiments = self._experiments(client)
        for experiment in experiments:
            if self._artifacts in (None, experiment.artifact_location):
                return str(experiment.experiment_id)
        name = f"{self.model}-{len(experiments) + 1}" if experiments else self.model
        return client.create_experiment(name, artifact_location=self._artifacts)

    def _experiments(self, client: "MlflowClient") -> list["Experiment"]:
        """The experiments of the model, oldest first."""
        ours = re.compile(rf"{re.escape(self.model)}(-\d+)?")
        found = client.search_experiments(filter_string=f"name LIKE '{self.model}%'", order_by=["creation_time ASC"])
        return [experiment for experiment in found if ours.fullmatch(experiment.name)]

    def _search(self, client: "MlflowClient", filter_string: str = "") -> list["MlflowRun"]:
        """The matching tracked runs, newest first."""
        ids = [str(experiment.experiment_id) for experiment in self._experiments(client)]
        newest = ["attributes.start_time DESC"]
        return client.search_runs(ids, filter_string, max_results=MAX_RUNS, order_by=newest)


def _sqlite(file: Path) -> str:
    """The URL of a SQLite file; with the name of its driver, since of others MLflow creates the quoted folders."""
    return f"sqlite+pysqlite:///{quote(file.as_posix(), safe='/: ')}"


def _version(found: "ModelVersion") -> Version:
    return Version(int(found.version), str(found.run_id))
