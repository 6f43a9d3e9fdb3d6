"""What is measured: the service on a copy of the lake, MLflow with the same pipeline, and what each is asked."""

import json
import os
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
from pydantic_core import to_json

from {{cookiecutter.__package_name}}.production.predict import champion, features_for
from {{cookiecutter.__package_name}}.shared import dataset, training
from {{cookiecutter.__package_name}}.shared.registry import QUIET
from {{cookiecutter.__package_name}}.shared.release import Release
from {{cookiecutter.__package_name}}.shared.schema import Task
from {{cookiecutter.__package_name}}.shared.user_problem import PROBLEM
from {{cookiecutter.__package_name}}.shared.workspace import MODEL, Workspace, open_workspace

from .load import HOST
from .servers import Server, Service

ROWS = 1000  # of a large request, and so many different ones are asked in turn
LARGE = 8  # large requests, each with the rows in another order
RAW, READY, MANY = "raw", "ready", "many"


def prepare(folder: Path) -> tuple[Service, Service]:
    """The service and MLflow, to be started; what they work on is in the folder.

    Raises:
        SystemExit: The lake is not in a folder, or has no rows that can be asked for.
    """
    workspace = copied(folder)
    release = champion(workspace)
    raw, ready = rows(workspace, release)
    large = [ready, *(ready.sample(fraction=1, shuffle=True, seed=n) for n in range(LARGE - 1))]
    save(workspace, release, folder / "model")
    ours = {
        RAW: ("/predict", [text({"rows": [row]}) for row in raw.to_dicts()]),
        READY: ("/predict/features", [text({"rows": [row]}) for row in ready.to_dicts()]),
        MANY: ("/predict/features", [text({"columns": each.to_dict(as_series=False)}) for each in large]),
    }
    split = {READY: [[row] for row in ready.rows()], MANY: [each.rows() for each in large]}
    theirs = {
        kind: ("/invocations", [text({"dataframe_split": {"columns": ready.columns, "data": data}}) for data in each])
        for kind, each in split.items()
    }
    mlflow_serve = ("mlflow", "models", "serve", "--env-manager", "local", "--model-uri", str(folder / "model"))
    address = ("--host", HOST, "--port")
    return (
        Service((deployed(folder), "-m", MODEL, "serve", *address), ours, folder / "service.log"),
        Service((sys.executable, "-m", *mlflow_serve, *address), theirs, folder / "mlflow.log"),
    )


def deployed(folder: Path) -> str:
    """The interpreter of an environment that has what serving needs and no more, as the image has."""
    environment = folder / "environment"
    settings = os.environ | {"UV_PROJECT_ENVIRONMENT": str(environment)}
    subprocess.run(["uv", "sync", "--locked", "--no-dev", "--quiet"], env=settings, check=True)
    return str(environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


def copied(folder: Path) -> Workspace:
    """The workspace on a copy of its lake, here and in the servers: what is asked here is no user's request."""
    workspace = open_workspace(PROBLEM)
    if "://" in workspace.settings.lake:
        sys.exit(f"the lake {workspace.settings.lake} is not in a folder: set ML_LAKE to one that is, and call `run`")
    champion(workspace)
    shutil.copytree(workspace.path(workspace.settings.lake), folder / "lake")
    os.environ.update(QUIET, MLFLOW_LOGGING_LEVEL="ERROR", ML_LAKE=str(folder / "lake"))
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a second start reads what the first compiled
    return open_workspace(PROBLEM)


def rows(workspace: Workspace, release: Release) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The newest rows of the subject that the service answers, and their features as numbers and text."""
    schema, now = workspace.problem.schema.request, workspace.now()
    found = workspace.lake.scan(schema).select(schema.names)
    if schema.event_time:
        oldest = now - timedelta(days=workspace.settings.serve_past_days)
        found = found.filter(pl.col(schema.event_time) > oldest).sort(schema.event_time)
    raw = found.tail(ROWS).collect()
    if raw.is_empty():
        sys.exit(
            f"no rows of {schema.name} are new enough to be asked for: set ML_CLOCK=data to take the newest for new"
        )
    raw = pl.concat([raw] * -(-ROWS // len(raw))).head(ROWS)
    ready = features_for(workspace, raw, now=now).select(
        pl.col(name).fill_null("") if is_text else pl.col(name).cast(pl.Float64)
        for name, is_text in release.features.items()
    )
    return raw, ready


def save(workspace: Workspace, release: Release, path: Path) -> None:
    """Fit the champion's pipeline once more, and save it as MLflow's scikit-learn flavour.

    It has no signature: against one MLflow would hold each request, and be slower.
    """
    from mlflow import sklearn  # noqa: PLC0415 - it looks at the environment when imported: no telemetry

    problem = workspace.problem
    known = dataset.training_set(problem, workspace.lake, as_of=release.trained_until, versions=release.tables)
    parameters = problem.recipe().parameters.model_validate(release.parameters)
    pipeline = training.fit(problem, parameters, known, check=known.tail(ROWS)).pipeline
    asked = "predict" if problem.task is Task.REGRESSION else "predict_proba"
    sklearn.save_model(pipeline, path, serialization_format="cloudpickle", pyfunc_predict_fn=asked, pip_requirements=[])


def require_same(ours: Server, theirs: Server) -> None:
    """Exit unless both answer the same: else there is nothing to compare.

    A number at the edge of a tree's branch may fall to either side of it, since ONNX has 32 bits.
    """
    said = json.loads(ours.load(MANY, 0, connections=1).body)["columns"]
    wanted = [values for name, values in said.items() if name.startswith("probability")] or [said["prediction"]]
    found = np.asarray(json.loads(theirs.load(MANY, 0, connections=1).body)["predictions"]).reshape(ROWS, -1)
    same = np.isclose(found[:, -len(wanted) :], np.column_stack(wanted), rtol=1e-3, atol=1e-3).all(axis=1)
    if same.mean() < 0.99:
        sys.exit(f"the service and MLflow answer {ROWS - same.sum()} of {ROWS} rows differently")


def text(content: object) -> str:
    """JSON."""
    return to_json(content).decode()
