"""The life cycle of the project's own problem, on sample rows: nothing here knows a column.

From a batch to predictions and back, by the commands as people run them, and by the functions behind them.
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import narwhals as nw
import onnx
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from {{cookiecutter.__package_name}}.core import datasets
from {{cookiecutter.__package_name}}.core.contracts.schema import Frame
from {{cookiecutter.__package_name}}.core.errors import Rejected
from {{cookiecutter.__package_name}}.core.models import onnx as export
from {{cookiecutter.__package_name}}.core.models import training
from {{cookiecutter.__package_name}}.core.workspace import Workspace
from {{cookiecutter.__package_name}}.production.predict import predict_rows
from {{cookiecutter.__package_name}}.production.promote import promote
from {{cookiecutter.__package_name}}.production.train import train
from {{cookiecutter.__package_name}}.shared import PROBLEM

PACKAGE = training.__name__.partition(".")[0]
ENTITY = PROBLEM.schema


def asked(workspace: Workspace) -> pl.DataFrame:
    """The rows of the subject as one asks for their predictions."""
    return workspace.lake.scan(ENTITY).select(ENTITY.request.names).collect()


def answers(workspace: Workspace) -> pl.DataFrame:
    """What the champion answers to them."""
    release = workspace.releases.champion()
    assert release
    return predict_rows(workspace, release, asked(workspace), now=workspace.now())


def stored(workspace: Workspace, table: str) -> int:
    count = workspace.lake.scan(PROBLEM.schemas[table]).select(pl.len()).collect().item()
    assert isinstance(count, int)
    return count


# --- batches


@pytest.mark.parametrize("table", PROBLEM.schemas)
def test_a_batch_sent_twice_is_appended_once(table: str, workspace: Workspace, arrivals, command) -> None:
    moment, tables = arrivals[0]
    tables[table].write_parquet("batch.parquet")
    sent = ("ingest", "batch.parquet", "--table", table, "--now", f"{moment:%Y-%m-%dT%H:%M:%S.%f}")
    for seen in (False, True):
        status, said = command(*sent)
        assert (status, said["batches"][0]["seen"]) == (0, seen)
        assert stored(workspace, table) == len(tables[table])


@pytest.mark.parametrize("table", PROBLEM.schemas)
def test_a_batch_without_a_column_goes_to_quarantine_as_a_whole(
    table: str, workspace: Workspace, arrivals, command
) -> None:
    missing = PROBLEM.schemas[table].names[-1]
    arrivals[0][1][table].drop(missing).write_parquet("batch.parquet")
    status, said = command("ingest", "batch.parquet", "--table", table)
    (batch,) = said["batches"]
    assert (status, batch["rejected"]) == (1, [f"column {missing} is missing"])
    assert stored(workspace, table) == 0
    quarantine = workspace.root / batch["quarantine"]
    assert (quarantine / "batch.parquet").read_bytes() == Path("batch.parquet").read_bytes()
    assert json.loads((quarantine / "reasons.json").read_text(encoding="utf-8"))["rejected"] == batch["rejected"]


REQUIRED = {
    name: column.name
    for name, schema in PROBLEM.schemas.items()
    for column in reversed(schema.columns)
    if not column.optional
}  # the first of each table


@pytest.mark.parametrize(("table", "column"), REQUIRED.items())
def test_a_row_that_violates_a_rule_goes_to_quarantine_with_the_rule(
    table: str, column: str, workspace: Workspace, arrivals, command
) -> None:
    rows = pl.concat([tables[table] for _, tables in arrivals])
    broken = rows.with_columns(pl.when(pl.int_range(pl.len()) > 0).then(column).alias(column))
    broken.write_parquet("batch.parquet")
    _, said = command("ingest", "batch.parquet", "--table", table)
    (batch,) = said["batches"]
    assert batch["counts"] == {f"{column} is not null": 1}
    quarantined = pl.read_parquet(workspace.root / batch["quarantine"] / "invalid.parquet")
    assert quarantined["_violations"].to_list() == [[f"{column} is not null"]]
    assert stored(workspace, table) == (0 if batch["rejected"] else len(rows) - 1)


# --- models


def test_a_model_goes_from_training_to_predictions_by_commands(
    workspace: Workspace, arrivals, deliver, command
) -> None:
    deliver(workspace, arrivals)
    for name in ("train", "gate", "promote"):
        status, said = command(name)
        assert status == 0, said
    assert command("status")[1]["champion"] == 1
    rows = asked(workspace)
    rows.write_parquet("asked.parquet")
    status, said = command("predict", "asked.parquet", "--out", "answers.parquet")
    assert (status, said["rows"], said["invalid"], said["version"]) == (0, len(rows), 0, 1)
    predicted = pl.read_parquet("answers.parquet")
    numbers = predicted.select(pl.col(r"^prediction$|^probability.*$")).select(pl.selectors.numeric())
    assert len(predicted) == len(rows)
    assert numbers.select(pl.all().is_finite().all()).row(0) == (True,) * numbers.width


def test_a_rollback_gives_the_answers_of_the_version_before(workspace: Workspace, arrivals, deliver, command) -> None:
    deliver(workspace, arrivals[:2])
    train(workspace)
    promote(workspace)
    before = workspace.releases.champion()
    deliver(workspace, arrivals[2:])
    first = answers(workspace)
    train(workspace)
    assert promote(workspace).ok
    assert set(answers(workspace)["version"]) == {2}
    status, said = command("rollback")
    assert (status, said["version"]) == (0, 1)
    again = workspace.releases.champion()
    assert before
    assert again
    assert again.onnx == before.onnx
    assert answers(workspace).equals(first)


def spoiling(factor: float) -> Callable[[Any, dict[str, bool]], onnx.ModelProto]:
    """An export that multiplies the model's answers."""

    def exported(estimator: Any, features: dict[str, bool]) -> onnx.ModelProto:
        model = onnx.load_from_string(export.export(PROBLEM.model_spec(), estimator, features))
        answer = model.graph.output[-1]
        model.graph.initializer.append(
            onnx.helper.make_tensor("factor", answer.type.tensor_type.elem_type, [], [factor])
        )
        model.graph.node.append(onnx.helper.make_node("Mul", [answer.name, "factor"], ["spoilt"]))
        answer.name = "spoilt"
        return model

    return exported


def spoilt(workspace: Workspace, factor: float) -> Workspace:
    made = replace(PROBLEM.model_spec(), export=spoiling(factor))
    return replace(workspace, problem=replace(PROBLEM, model_spec=lambda: made))


def test_a_model_whose_export_differs_from_its_pipeline_is_refused(workspace: Workspace, arrivals, deliver) -> None:
    deliver(workspace, arrivals)
    with pytest.raises(Rejected, match="differ"):
        train(spoilt(workspace, 0.9))
    assert workspace.candidates.all() == []


def test_a_challenger_whose_answers_are_no_numbers_is_refused(
    workspace: Workspace, arrivals, deliver, command, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver(workspace, arrivals)
    with monkeypatch.context() as patch:
        patch.setattr(export, "parity", lambda *_: 0.0)
        train(spoilt(workspace, float("nan")))
    status, said = command("promote")
    assert status == 1
    assert [check["name"] for check in said["verdict"]["checks"] if not check["passed"]] == ["predictions are numbers"]
    assert workspace.releases.champion() is None


FIT_AND_HASH = """
import hashlib, sys
import polars as pl
from {package}.core.models import training
from {package}.shared import PROBLEM
from {package}.core.workspace import open_workspace
rows = pl.read_parquet(sys.argv[1])
fitted = training.fit(PROBLEM, open_workspace(PROBLEM).parameters, rows, parity_rows=rows)
print(hashlib.sha256(fitted.onnx).hexdigest())
"""


def test_another_process_makes_the_same_model_byte_for_byte(
    champion: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = datasets.training_set(PROBLEM, champion.lake, as_of=champion.now())
    rows.write_parquet(tmp_path / "rows.parquet")
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    monkeypatch.setenv("POLARS_MAX_THREADS", "2")
    line = [sys.executable, "-c", FIT_AND_HASH.format(package=PACKAGE), str(tmp_path / "rows.parquet")]
    other = subprocess.run(line, cwd=champion.root, capture_output=True, text=True, check=True).stdout.strip()
    fitted = training.fit(PROBLEM, champion.parameters, rows, parity_rows=rows)
    assert hashlib.sha256(fitted.onnx).hexdigest() == other
    release = champion.releases.champion()
    assert release
    assert release.onnx == fitted.onnx, "the champion is fitted on the same rows"


# --- the same features, whichever way


def compare(found: pl.DataFrame, expected: pl.DataFrame) -> None:
    names = list(dict.fromkeys([*datasets.row_key(PROBLEM, expected), *PROBLEM.features]))
    one, other = (rows.select(names).sort(names) for rows in (found, expected))
    assert_frame_equal(one, other, check_dtypes=False, rel_tol=0, abs_tol=1e-9)


def test_features_are_the_same_as_rows_arrive_and_all_at_once(
    workspace: Workspace, arrivals, deliver, champion: Workspace
) -> None:
    increments, since = [], None
    for arrival in arrivals:
        deliver(workspace, [arrival])
        increments.append(datasets.training_set(PROBLEM, workspace.lake, as_of=arrival[0], since=since))
        since = arrival[0]
    expected = datasets.training_set(PROBLEM, champion.lake, as_of=champion.now())
    assert min(map(len, increments)) > 0
    compare(pl.concat(increments), expected)


def test_another_engine_gives_the_same_features(champion: Workspace, tmp_path: Path) -> None:
    history = datasets.history_as_of(PROBLEM, champion.lake, as_of=champion.now())
    rows = datasets.as_requests(PROBLEM, asked(champion), now=champion.now())
    expected = datasets.with_features(PROBLEM, rows, history)
    with duckdb.connect(config={"threads": 1}) as database:
        database.execute("SET TimeZone = 'UTC'")

        def taken(name: str, frame: Frame) -> Frame:
            frame.collect(backend="polars").to_native().write_parquet(tmp_path / f"{name}.parquet")
            return nw.from_native(database.read_parquet(str(tmp_path / f"{name}.parquet")))

        there: Mapping[str, Frame] = {name: taken(name, frame) for name, frame in history.items()}
        PROBLEM.build(taken("_asked", rows), there).to_native().write_parquet(str(tmp_path / "built.parquet"))
    compare(pl.read_parquet(tmp_path / "built.parquet"), expected)
