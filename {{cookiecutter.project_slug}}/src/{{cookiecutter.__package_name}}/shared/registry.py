"""Runs, models and their aliases, in MLflow: SQLite in a folder, or any server by its address.

Only training, gate and research come here: what serves is a row of the table `releases`.
"""

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from {{cookiecutter.__package_name}}.shared import BadInput, masked, require_port

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION, CHALLENGER = "champion", "challenger"
ARTIFACTS = "artifacts"
PLACES = (  # in which MLflow keeps where files are
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
MOST_RUNS = 50_000  # at a time, as MLflow lets one ask for; it gives 1,000 where nothing is said
UNKNOWN = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # what MLflow says to another name of model, of alias
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
    """A tracked run while it works."""

    id: str
    client: "MlflowClient"

    def log(self, metrics: Mapping[str, float], prefix: str = "") -> None:
        """Log metrics, all at once: one by one each takes a transaction of its own."""
        from mlflow.entities import Metric  # noqa: PLC0415 - takes seconds

        now = int(datetime.now(UTC).timestamp() * 1000)
        self.client.log_batch(self.id, [Metric(f"{prefix}{name}", value, now, 0) for name, value in metrics.items()])

    def keep(self, name: str, content: bytes) -> None:
        """Keep a file beside the run."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, name)
            path.write_bytes(content)
            self.client.log_artifact(self.id, str(path))

    def tag(self, tags: Mapping[str, str]) -> None:
        """Set tags."""
        from mlflow.entities import RunTag  # noqa: PLC0415 - takes seconds

        self.client.log_batch(self.id, tags=[RunTag(name, value) for name, value in tags.items()])


@dataclass(frozen=True)
class Version:
    """A registered version of the model."""

    number: int
    run_id: str


@dataclass(frozen=True)
class Tracked:
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
            run = client.create_run(self._experiment(client), run_name=kind, tags={"kind": kind, **tags})
            from mlflow.entities import Param  # noqa: PLC0415 - takes seconds

            params = [Param(name, str(value)) for name, value in parameters.items()]
            client.log_batch(run.info.run_id, params=params)
        try:
            with self._client() as client:
                yield Run(run.info.run_id, client)
        except BaseException:
            with self._client() as client:
                client.set_terminated(run.info.run_id, "FAILED")
            raise
        with self._client() as client:
            client.set_terminated(run.info.run_id)

    def register(self, run: Run, file: str) -> Version:
        """Register a run's file as the next version of the model."""
        if not run.client.search_registered_models(f"name = '{self.model}'"):
            run.client.create_registered_model(self.model)
        source = f"{run.client.get_run(run.id).info.artifact_uri}/{file}"
        return _version(run.client.create_model_version(self.model, source=source, run_id=run.id))

    def aliased(self, alias: str) -> Version | None:
        """The version that an alias names, if any."""
        with self._client() as client:
            from mlflow import MlflowException  # noqa: PLC0415 - takes seconds

            try:
                return _version(client.get_model_version_by_alias(self.model, alias))
            except MlflowException as error:
                if error.error_code in UNKNOWN:
                    return None
                raise

    def version(self, number: int) -> Version | None:
        """The version of this number, if there is one."""
        return next((version for version in self._versions() if version.number == number), None)

    def runs(self) -> list[Tracked]:
        """All tracked runs, the newest first."""
        with self._client() as client:
            newest = ["attributes.start_time DESC"]
            found = client.search_runs([self._experiment(client)], order_by=newest, max_results=MOST_RUNS)
            return [
                Tracked(
                    run.info.run_id,
                    datetime.fromtimestamp(run.info.start_time / 1000, UTC),
                    run.info.status,
                    {name: value for name, value in run.data.tags.items() if not name.startswith("mlflow.")},
                    dict(run.data.metrics),
                )
                for run in found
            ]

    def newest(self) -> Version | None:
        """The version that was registered last, if any."""
        return max(self._versions(), key=lambda version: version.number, default=None)

    def close_left_runs(self) -> None:
        """Mark trainings that a killed process left as killed; only where no other process trains."""
        left = "attributes.status = 'RUNNING' and tags.kind = 'train'"
        with self._client() as client:
            for run in client.search_runs([self._experiment(client)], left):
                client.set_terminated(run.info.run_id, "KILLED")

    def move(self, alias: str, version: int) -> None:
        """Let an alias name this version."""
        with self._client() as client:
            client.set_registered_model_alias(self.model, alias, str(version))

    def tag(self, version: Version, tags: Mapping[str, str]) -> None:
        """Set tags of a version."""
        with self._client() as client:
            for name, value in tags.items():
                client.set_model_version_tag(self.model, str(version.number), name, value)

    def said(self, version: Version) -> dict[str, str]:
        """What gate and canary said of a version, its tags: `verdict` and others; none where they were not asked."""
        with self._client() as client:
            return dict(client.get_model_version(self.model, str(version.number)).tags)

    def tags(self, run_id: str) -> dict[str, str]:
        """The tags of a run."""
        with self._client() as client:
            return dict(client.get_run(run_id).data.tags)

    def metrics(self, run_id: str) -> dict[str, float]:
        """The metrics of a run."""
        with self._client() as client:
            return dict(client.get_run(run_id).data.metrics)

    def read(self, run_id: str, name: str) -> bytes:
        """A file that was kept beside a run."""
        at_hand = Path(self.address, ARTIFACTS, run_id, ARTIFACTS, name)  # as MLflow lays them out; it takes seconds
        if at_hand.is_file():
            return at_hand.read_bytes()
        with self._client() as client, tempfile.TemporaryDirectory() as folder:
            return Path(client.download_artifacts(run_id, name, folder)).read_bytes()

    def kept(self, run_id: str) -> list[str]:
        """The names of the files that were kept beside a run."""
        with self._client() as client:
            return sorted(found.path for found in client.list_artifacts(run_id))

    @contextmanager
    def resumed(self, run_id: str) -> Iterator[Run]:
        """A run that ended, to add to it."""
        with self._client() as client:
            yield Run(run_id, client)

    def _versions(self) -> list[Version]:
        with self._client() as client:
            return [_version(found) for found in client.search_model_versions(f"name = '{self.model}'")]

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
        self._follow(file)
        return f"sqlite:///{file.as_posix()}"

    def _make(self, file: Path) -> None:
        """Make the database beside its place: who is killed meanwhile leaves none that is half made."""
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # noqa: PLC0415 - takes seconds

        draft = file.parent / "making" / file.name
        with FileLock(file.with_suffix(".lock")):
            if file.exists():
                return
            shutil.rmtree(draft.parent, ignore_errors=True)
            draft.parent.mkdir()
            store = SqlAlchemyStore(f"sqlite:///{draft.as_posix()}", self._artifacts())  # type: ignore[no-untyped-call]
            store.engine.dispose()
            draft.replace(file)
            draft.parent.rmdir()

    def _follow(self, file: Path) -> None:
        """Let a folder that was moved or copied keep its files in itself: MLflow knows them by where they were."""
        with closing(sqlite3.connect(file)) as db, db:
            found = db.execute("SELECT artifact_location FROM experiments WHERE name = ?", (self.model,)).fetchone()
            if found is None or found[0] == self._artifacts():
                return
            for table, column in PLACES:
                change = f"UPDATE {table} SET {column} = replace({column}, ?, ?)"  # noqa: S608 - names from above
                db.execute(change, (found[0], self._artifacts()))

    def _artifacts(self) -> str:
        return Path(self.address, ARTIFACTS).absolute().as_uri()

    def _experiment(self, client: "MlflowClient") -> str:
        if found := client.get_experiment_by_name(self.model):
            return str(found.experiment_id)
        local = "://" not in self.address
        return client.create_experiment(self.model, artifact_location=self._artifacts() if local else None)


def _version(found: "ModelVersion") -> Version:
    return Version(int(found.version), str(found.run_id))


def provenance(
    root: Path, *, tables: Mapping[str, int], as_of: datetime, command: list[str] | None = None
) -> dict[str, str]:
    """Which code, tables and time a run is made of, and the command that makes it again.

    Args:
        root: The project's folder.
        tables: The versions of the tables.
        as_of: What was known by then was used.
        command: What Python is given; without it, the script that runs.
    """
    lock = root / "uv.lock"
    return {
        "as_of": as_of.isoformat(),
        "tables": json.dumps(tables),
        "command": json.dumps(command or _script(root)),
        "commit": _git(root, "rev-parse", "HEAD"),
        "dirty": json.dumps(bool(changed_files(root))),
        "code": code_hash(),
        "lock": hashlib.sha256(lock.read_bytes()).hexdigest() if lock.is_file() else "",
    }


def _script(root: Path) -> list[str]:
    """The script of the project that runs; empty where cells run one by one."""
    script = Path(sys.argv[0]).resolve()
    kernel = script.is_relative_to(Path(sys.prefix).resolve())  # which runs cells, from the project's own .venv
    inside = script.is_file() and script.is_relative_to(root.resolve()) and not kernel
    return [script.relative_to(root.resolve()).as_posix(), *sys.argv[1:]] if inside else []


def changed_files(root: Path) -> list[str]:
    """What a model is made of and differs from the last commit: code, configuration, lock; empty without Git."""
    lines = _git(root, "status", "--porcelain", "--", "src", "config", "pyproject.toml", "uv.lock").splitlines()
    return [line.split(maxsplit=1)[-1] for line in lines]


def code_hash() -> str:
    """A hash of the package's source, whatever Git says of it."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)  # noqa: S603, S607
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
