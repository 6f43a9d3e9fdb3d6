"""Runs, models and their aliases, in MLflow: SQLite in a folder, or any server by its address.

MLflow is the record for people, through its public client. What production needs is in the lake: challengers and
verdicts in `candidates`, what serves in `releases`.
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
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from {{cookiecutter.__package_name}}.core.errors import BadInput, masked, require_port, whole

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment
    from mlflow.entities import Run as MlflowRun
    from mlflow.entities.model_registry import ModelVersion

log = logging.getLogger(__name__)

CHAMPION, CHALLENGER = "champion", "challenger"
ARTIFACTS = "artifacts"
MOST_RUNS = 50_000  # at a time, as MLflow lets one ask for; it gives 1,000 where nothing is said
QUIET = {
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


@dataclass(frozen=True)
class Run:
    """A tracked run while it works.

    Attributes:
        id: Its own.
        client: Of MLflow.
        artifacts: Whether files can be logged: not where the folder with the earlier ones was moved.
    """

    id: str
    client: "MlflowClient"
    artifacts: bool = True

    def log(self, metrics: Mapping[str, float]) -> None:
        """Log metrics, all at once: one by one each takes a transaction of its own."""
        from mlflow.entities import Metric  # noqa: PLC0415 - takes seconds

        now = int(datetime.now(UTC).timestamp() * 1000)
        self.client.log_batch(self.id, [Metric(name, value, now, 0) for name, value in metrics.items()])

    def log_artifact(self, name: str, content: bytes) -> None:
        """Log a file."""
        if not self.artifacts:
            log.warning("runs      %s is not kept with run %s: its folder in MLflow was moved", name, self.id[:8])
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, name)
            path.write_bytes(content)
            self.client.log_artifact(self.id, str(path))


@dataclass(frozen=True)
class Version:
    """A registered version of the model."""

    number: int
    run_id: str


@dataclass(frozen=True)
class RunInfo:
    """A run as it was tracked.

    Attributes:
        id: Its own.
        started: When.
        status: How it ended.
        tags: What it was made of: kind, command, commit, tables.
        metrics: What it measured.
    """

    id: str
    started: datetime
    status: str
    tags: dict[str, str]
    metrics: dict[str, float]


class Registry:
    """The runs and versions of one model.

    Args:
        address: A folder, in which SQLite file and artefacts are made, or the address of an MLflow server.
        model: The name of experiment and registered model.
    """

    def __init__(self, address: str, model: str) -> None:
        self.address, self.model = address, model

    @contextmanager
    def run(self, kind: str, parameters: Mapping[str, object], tags: Mapping[str, str]) -> Iterator[Run]:
        """A tracked run of this kind; it ends as failed where the work raises."""
        with self._client() as client:
            from mlflow.entities import Param  # noqa: PLC0415 - takes seconds

            run_id = client.create_run(self._experiment(client), run_name=kind, tags={"kind": kind, **tags}).info.run_id
            client.log_batch(run_id, params=[Param(name, str(value)) for name, value in parameters.items()])
            try:
                yield Run(run_id, client)
            except BaseException:
                client.set_terminated(run_id, "FAILED")
                raise
            client.set_terminated(run_id)

    def register(self, run_id: str, file: str) -> Version:
        """Register a run's file as the next version of the model; a run has one version, however often it is asked."""
        with self._client() as client:
            registered = client.search_model_versions(f"name = '{self.model}' and run_id = '{run_id}'")
            if registered:
                return _version(registered[0])
            if not client.search_registered_models(f"name = '{self.model}'"):
                client.create_registered_model(self.model)
            source = f"{client.get_run(run_id).info.artifact_uri}/{file}"
            return _version(client.create_model_version(self.model, source=source, run_id=run_id))

    def version_by_alias(self, alias: str) -> Version | None:
        """The version that an alias names, if any."""
        with self._client() as client:
            models = client.search_registered_models(f"name = '{self.model}'")
        named = models[0].aliases.get(alias) if models else None
        return self.version(int(named)) if named else None

    def version(self, number: int) -> Version | None:
        """The version of this number, if there is one."""
        return next((version for version in self.versions() if version.number == number), None)

    def runs(self) -> list[RunInfo]:
        """All tracked runs, the newest first."""
        with self._client() as client:
            return [
                RunInfo(
                    run.info.run_id,
                    datetime.fromtimestamp(run.info.start_time / 1000, UTC),
                    run.info.status,
                    {name: value for name, value in run.data.tags.items() if not name.startswith("mlflow.")},
                    dict(run.data.metrics),
                )
                for run in self._search(client)
            ]

    def versions(self) -> list[Version]:
        """All registered versions."""
        with self._client() as client:
            return [_version(found) for found in client.search_model_versions(f"name = '{self.model}'")]

    def close_left_runs(self) -> None:
        """Mark trainings that a killed process left as killed; only where no other process trains."""
        left = "attributes.status = 'RUNNING' and tags.kind = 'train'"
        with self._client() as client:
            for run in self._search(client, left):
                client.set_terminated(run.info.run_id, "KILLED")

    def set_alias(self, alias: str, version: int) -> None:
        """Let an alias name this version."""
        with self._client() as client:
            client.set_registered_model_alias(self.model, alias, str(version))

    def tag(self, version: Version, tags: Mapping[str, str]) -> None:
        """Set tags of a version."""
        with self._client() as client:
            for name, value in tags.items():
                client.set_model_version_tag(self.model, str(version.number), name, value)

    @contextmanager
    def reopen(self, run_id: str) -> Iterator[Run]:
        """A run that ended, to add to it."""
        with self._client() as client:
            uri = str(client.get_run(run_id).info.artifact_uri)
            yield Run(run_id, client, artifacts=self._artifacts is None or uri.startswith(self._artifacts))

    @contextmanager
    def _client(self) -> Iterator["MlflowClient"]:
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        import mlflow  # noqa: PLC0415 - takes seconds: only commands that track pay for it
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
            lines = (line for line in str(error).splitlines() if line and not line.startswith("(raised as a result of"))
            reason = next(lines, type(error).__name__)[:200]
            what = masked(f"MLflow at {self.address} does not do it: {reason}")
            raise BadInput(f"{what}; see the setting ML_TRACKING") from error

    @cached_property
    def _uri(self) -> str:
        if "://" in self.address:
            require_port(self.address, "ML_TRACKING")
            return self.address
        try:
            Path(self.address).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"MLflow at {self.address}: its folder can't be made: {error.strerror}") from error
        file = Path(self.address, "mlflow.db")
        if not file.exists():
            self._make(file)
        return f"sqlite:///{file.as_posix()}"

    def _make(self, file: Path) -> None:
        """Make the database beside its place: who is killed meanwhile leaves none that is half made."""
        import mlflow  # noqa: PLC0415 - takes seconds

        with FileLock(file.with_suffix(".lock")), tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            if file.exists():
                return
            draft = Path(folder, file.name)
            mlflow.MlflowClient(f"sqlite:///{draft.as_posix()}").search_experiments(max_results=1)  # makes the tables
            with whole(file) as part:  # copied, since the client has the draft open
                shutil.copyfile(draft, part)

    @cached_property
    def _artifacts(self) -> str | None:
        """Where new files of runs are; none where a server decides."""
        return None if "://" in self.address else Path(self.address, ARTIFACTS).absolute().as_uri()

    def _experiment(self, client: "MlflowClient") -> str:
        """The experiment of new runs: another one in a folder that was moved, whose files MLflow seeks where it was."""
        experiments = self._experiments(client)
        for experiment in experiments:
            if self._artifacts in (None, experiment.artifact_location):
                return str(experiment.experiment_id)
        name = f"{self.model}-{len(experiments) + 1}" if experiments else self.model
        return client.create_experiment(name, artifact_location=self._artifacts)

    def _experiments(self, client: "MlflowClient") -> list["Experiment"]:
        """The model's experiments, the first first."""
        ours = re.compile(rf"{re.escape(self.model)}(-\d+)?")
        found = client.search_experiments(filter_string=f"name LIKE '{self.model}%'", order_by=["creation_time ASC"])
        return [experiment for experiment in found if ours.fullmatch(experiment.name)]

    def _search(self, client: "MlflowClient", filter_string: str = "") -> list["MlflowRun"]:
        """The tracked runs that fit, the newest first."""
        ids = [str(experiment.experiment_id) for experiment in self._experiments(client)]
        newest = ["attributes.start_time DESC"]
        return client.search_runs(ids, filter_string, max_results=MOST_RUNS, order_by=newest)


def _version(found: "ModelVersion") -> Version:
    return Version(int(found.version), str(found.run_id))
