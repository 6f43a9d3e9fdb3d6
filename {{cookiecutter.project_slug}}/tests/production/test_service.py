"""The service gives the features and answers of the batch path, on sample rows of the project's own problem."""

import subprocess
import sys
from dataclasses import replace

import polars as pl
from polars.testing import assert_frame_equal

from {{cookiecutter.__package_name}}.core.workspace import Workspace
from {{cookiecutter.__package_name}}.production.predict import features_for, predict_rows
from {{cookiecutter.__package_name}}.production.service import app, serve
from {{cookiecutter.__package_name}}.production.service.serving_model import ServingModel
from {{cookiecutter.__package_name}}.shared import PROBLEM

HEAVY = {"sklearn", "onnx", "skl2onnx", "mlflow", "matplotlib"}


def test_the_service_gives_the_features_and_answers_of_the_batch_path(champion: Workspace) -> None:
    release, now = champion.releases.champion(), champion.now()
    assert release
    rows = champion.lake.scan(PROBLEM.schema).select(PROBLEM.schema.request.names).collect()
    expected = features_for(champion, rows, now=now).select(PROBLEM.features)
    far = replace(champion, settings=champion.settings.model_copy(update={"serve_max_age_days": 400}))
    serving = ServingModel(far, release, now=now)
    answered = [serving.predict(some, now=now) for some in (rows.head(1), rows[1:])]
    assert not any(violation for some in answered for violation in some.violations)
    found = pl.concat([some.rows for some in answered]).select(PROBLEM.features)
    assert_frame_equal(found, expected, rel_tol=0, abs_tol=1e-9)
    predictions = pl.concat([some.predictions for some in answered])
    batch = predict_rows(champion, release, rows, now=now)
    assert_frame_equal(predictions, batch.select(predictions.columns), rel_tol=1e-5, abs_tol=1e-6)  # 32 bits


def test_the_service_loads_no_library_of_training() -> None:
    program = f"import sys; import {app.__name__}, {serve.__name__}; print(sorted(set(sys.modules) & {HEAVY}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.strip() == "[]"
