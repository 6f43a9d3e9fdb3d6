"""Answers that were given: what the monitor says of them, and the smoke test of a release."""

import dataclasses
from datetime import UTC, datetime, timedelta

import numpy as np
import onnx
import polars as pl
import pytest
from onnx import TensorProto, helper

from my_ml_project.core.acceptance import Acceptance
from my_ml_project.core.parts import Alert, Check, Severity
from my_ml_project.core.store import predictions
from my_ml_project.core.store import request_log as request_table
from my_ml_project.core.store.releases import Release
from my_ml_project.core.workspace import Workspace
from my_ml_project.production import gate, lifecycle, promote
from my_ml_project.production.monitor import monitor
from my_ml_project.production.predict import champion
from my_ml_project.production.service import logged_requests, smoke_test
from my_ml_project.production.service.request_log_writer import LoggedBatch, RequestLogWriter
from my_ml_project.production.service.serving_model import ServingModel
from my_ml_project.production.service.smoke_test import checks
from problems import START

DAY = timedelta(days=1)


def asking(workspace: Workspace, **change: object) -> Workspace:
    """The same with another configuration of the gate and the monitor."""
    changed = dataclasses.replace(workspace)
    asked = Acceptance.model_validate(workspace.acceptance.model_dump() | change)
    object.__setattr__(changed, "acceptance", asked)
    return changed


def parcels(workspace: Workspace, *, since: datetime, until: datetime) -> pl.DataFrame:
    """Parcels of the lake by when they are due."""
    schema = workspace.problem.schema
    rows = workspace.lake.scan(schema).filter(pl.col("due") > since, pl.col("due") <= until)
    return rows.select(schema.names).sort("due", "parcel").collect()


def serve(workspace: Workspace, rows: pl.DataFrame, *, now: datetime) -> None:
    """Answer rows as the service does, and keep the answers."""
    log = RequestLogWriter(workspace, max_rows=100_000)
    model = ServingModel(workspace, champion(workspace), now=now)
    predicted = model.predict(rows, now=now)
    ids = [(f"request {i}", 0, not rules) for i, rules in enumerate(predicted.violations)]
    log.add(LoggedBatch(ids, rows, predicted, model, now))
    assert log.flush() == len(rows)


def found(workspace: Workspace, now: datetime) -> dict[str, Alert]:
    return {finding.name: finding for finding in logged_requests.alerts(workspace, champion(workspace), now=now)}


def rewritten(workspace: Workspace, *columns: pl.Expr) -> None:
    """Change what the log of requests says, as a fault would."""
    rows = workspace.lake.read("requests", {}).with_columns(*columns).collect()
    workspace.lake.append(
        "requests", rows.with_columns(_served_at=pl.col("_served_at") + timedelta(minutes=1)), batch="fault"
    )


# --- ahead of the outcome


def test_what_was_predicted_ahead_is_held_against_its_labels(trained: Workspace) -> None:
    made = trained.lake.read("predictions", {}).collect()
    assert "upcoming predictions" not in [finding.name for finding in monitor(trained, now=START).alerts]
    lifecycle.collect_and_ingest(trained, START + 2 * DAY)
    findings = monitor(trained, now=START + 2 * DAY).alerts
    (finding,) = (finding for finding in findings if finding.name == "upcoming predictions")
    known = trained.lake.scan(trained.problem.labels).filter(pl.col("known") <= START + 2 * DAY).collect()
    came = made.join(known, on="parcel")
    assert finding.detail.endswith(f"({len(came)} labels)")
    assert 0 < (came["decision"] == came["late"]).sum() < len(came)


# --- requests


@pytest.fixture
def asked(trained: Workspace) -> Workspace:
    """The trained project two days on, in which the service was asked for a day's parcels when they were due."""
    lifecycle.collect_and_ingest(trained, START + 2 * DAY)
    for hour in range(0, 24, 4):
        due = START + timedelta(hours=hour + 2)
        rows = parcels(trained, since=due, until=due + timedelta(hours=4))
        if not rows.is_empty():
            serve(trained, rows, now=START + timedelta(hours=hour + 4))
    return trained


def test_requests_keep_the_contract_and_have_the_features_of_training(asked: Workspace) -> None:
    findings = found(asked, START + DAY)
    rows = asked.lake.read("requests", {}).collect()
    assert len(rows) > 40
    assert {name: findings[name].severity for name in ("contract of requests", "training-serving skew")} == {
        "contract of requests": Severity.OK,
        "training-serving skew": Severity.OK,
    }
    assert findings["contract of requests"].detail == f"{len(rows)} rows are valid"
    assert findings["training-serving skew"].detail == f"features of {len(rows)} requests equal those of training"


def test_a_feature_that_was_served_otherwise_is_an_alarm_that_names_it(asked: Workspace) -> None:
    rewritten(asked, pl.col("_features").str.replace(r'"speed":[\d.]+', '"speed":1.5'))
    finding = found(asked, START + DAY)["training-serving skew"]
    assert (finding.severity, finding.detail) == (Severity.CRITICAL, "speed of requests differ from those of training")


def test_versions_of_tables_that_are_gone_are_said_not_to_be_looked_at(asked: Workspace) -> None:
    rewritten(asked, pl.lit('{"parcels": 999}').alias("_tables"))
    finding = found(asked, START + DAY)["training-serving skew"]
    assert finding.severity is Severity.OK
    assert finding.detail.endswith("can't be recomputed: their table versions are gone")


def test_files_of_tables_that_are_gone_are_said_not_to_be_looked_at(asked: Workspace) -> None:
    again = dataclasses.replace(asked)  # reads the tables anew
    for file in (asked.root / "data" / "lake" / "traffic").glob("*.parquet"):
        file.unlink()
    rows = request_table.logged_requests(again.problem, again.lake, now=START + DAY, back=DAY).sort("_served_at")
    finding = logged_requests._skew(again, champion(again), rows)
    assert finding.detail.endswith("can't be recomputed: their table versions are gone")


def test_requests_that_break_the_contract_are_an_alarm_where_they_are_many(asked: Workspace) -> None:
    rewritten(asked, pl.lit(-5).alias("distance"))
    finding = found(asked, START + 2 * DAY)["contract of requests"]
    rows = len(asked.lake.read("requests", {}).collect())
    assert finding.severity is Severity.CRITICAL
    assert finding.detail.startswith(f"{rows // 2} of {rows} rows violate distance > 0")


def test_a_request_that_breaks_a_rule_is_kept_without_an_answer(trained: Workspace) -> None:
    rows = parcels(trained, since=START, until=START + DAY).head(3)
    serve(trained, rows.with_columns(distance=pl.Series([1, *rows["distance"][1:]])), now=START)
    kept = trained.lake.read("requests", {}).sort("_row_number").collect()
    assert kept["_prediction"].is_null().to_list() == [True, False, False]
    assert kept["distance"].to_list() == [1, *rows["distance"][1:]]
    assert found(trained, START + DAY)["contract of requests"].severity is Severity.CRITICAL


def test_what_was_answered_is_held_against_labels_that_came_later(asked: Workspace) -> None:
    later = START + 2 * DAY
    assert "served quality" not in found(asked, START + timedelta(hours=14)), "few labels have come by then"
    assert found(asked, later)["served quality"].severity is Severity.OK
    strict = asking(asked, at_least={"auc": 0.99})
    finding = found(strict, later)["served quality"]
    assert finding.severity is Severity.CRITICAL
    assert finding.detail.startswith("FAIL  auc at least 0.99: 0.")


def test_answers_of_a_version_that_serves_no_more_are_not_the_champions(asked: Workspace) -> None:
    rewritten(asked, pl.lit(9, dtype=pl.Int64).alias("_version"))
    rows = request_table.logged_requests(asked.problem, asked.lake, now=START + 2 * DAY, back=3 * DAY)
    own = predictions.served_predictions(asked.problem, champion(asked), rows).collect()
    assert set(own["_version"]) == {1}
    assert len(own) == len(rows) / 2


def test_an_answer_that_was_turned_round_shows_in_the_quality(asked: Workspace) -> None:
    def auc() -> float:
        unlimited = asking(asked, at_least={}, at_most={})
        return float(found(unlimited, START + 2 * DAY)["served quality"].detail.partition("auc ")[2].split(" ")[0])

    before = auc()
    said = pl.col("_prediction").str.json_decode(pl.Struct({"probability": pl.Float64, "decision": pl.Boolean}))
    probability = (1 - said.struct.field("probability")).alias("probability")
    rewritten(asked, pl.struct(probability, said.struct.field("decision")).struct.json_encode().alias("_prediction"))
    assert auc() == pytest.approx(1 - before, abs=1e-3)


# --- smoke test


def by_name(checks: tuple[Check, ...]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_a_sound_candidate_answers_as_recorded_in_time_and_what_was_asked_lately(asked: Workspace) -> None:
    release = champion(asked)
    kept = asked.lake.version("requests")
    answers = by_name(checks(asked, release, now=START + DAY))
    assert all(check.passed for check in answers.values()), answers
    assert set(answers) == {"golden requests", "latency", "replay"}
    assert answers["golden requests"].detail.startswith("20 predictions, largest difference ")
    assert answers["replay"].detail.endswith("recent requests predicted; mean change 0")
    assert asked.lake.version("requests") == kept, "it is not logged"


def test_a_candidate_that_is_slow_or_answers_otherwise_than_its_record_is_refused(trained: Workspace) -> None:
    release = champion(trained)
    first, *others = release.golden.requests
    golden = release.golden.model_copy(update={"requests": [first | {"courier": "truck"}, *others]})
    assert first["courier"] != "truck"
    strict = asking(trained, smoke_test={"max_latency_ms": 0.001})
    answers = by_name(checks(strict, release.model_copy(update={"golden": golden}), now=release.trained_until))
    assert {name for name, check in answers.items() if not check.passed} == {
        "golden requests",
        "latency",
    }
    assert answers["golden requests"].detail.startswith("features courier")
    assert answers["latency"].detail.endswith("ms per request (at most 0.001)")
    assert answers["replay"].detail == "no recent requests"


def test_requests_that_were_late_when_they_were_asked_are_answered_by_a_candidate_too(
    trained: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ML_SERVE_MAX_ROWS", "5")
    rows = parcels(trained, since=START - 6 * DAY, until=START - 5 * DAY)
    serve(trained, rows, now=START)
    answers = by_name(checks(trained, champion(trained), now=START + 6 * DAY))
    assert answers["replay"].detail.startswith(f"{len(rows)} recent requests predicted")
    assert all(check.passed for check in answers.values()), answers


def without_numbers(release: Release) -> bytes:
    """A model with the release's inputs that answers with nothing but NaN."""
    kinds = {True: TensorProto.STRING, False: TensorProto.FLOAT}
    inputs = [helper.make_tensor_value_info(name, kinds[text], [None, 1]) for name, text in release.features.items()]
    number = next(name for name, text in release.features.items() if not text)
    nan = helper.make_tensor("nan", TensorProto.FLOAT, [1, 2], [float("nan")] * 2)
    output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 2])
    graph = helper.make_graph(
        [helper.make_node("Mul", [number, "nan"], ["probabilities"])], "nan", inputs, [output], [nan]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    serialized: bytes = model.SerializeToString()
    return serialized


def test_a_candidate_that_gives_no_numbers_is_refused(trained: Workspace) -> None:
    release = champion(trained)
    broken = Release.read(release.model_dump_json(), without_numbers(release))
    assert np.isnan(broken.predictor.predict(pl.DataFrame(release.golden.features))).all()
    (check,) = checks(trained, broken, now=release.trained_until)
    assert (check.name, check.passed) == ("smoke test", False)
    assert check.detail.startswith("status 503")


def test_a_candidate_whose_server_does_not_start_is_refused(trained: Workspace) -> None:
    unreadable = champion(trained).model_copy(update={"metrics": {"auc": float("inf")}})
    (check,) = checks(trained, unreadable, now=START)
    assert (check.name, check.passed) == ("smoke test", False)
    assert check.detail.startswith("no response: ")


def test_a_smoke_test_that_is_switched_off_asks_nothing(trained: Workspace) -> None:
    assert checks(asking(trained, smoke_test={"enabled": False}), champion(trained), now=START) == ()


def test_what_the_smoke_test_refuses_is_not_released_and_not_tried_again(
    tracked, trained: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = Check("latency", passed=False, detail="1000 ms per request (at most 250)")
    monkeypatch.setattr(smoke_test, "checks", lambda *_, **__: (refused,))
    candidate = trained.candidates.read(champion(trained).run_id)
    with trained.registry.run("train", {}, {}) as run:
        trained.candidates.append(candidate.model_copy(update={"run_id": run.id, "trained": datetime.now(UTC)}))
    trained.registry.set_alias("challenger", trained.registry.register(run.id, "model.onnx").number)
    monkeypatch.setattr(gate, "_checks", lambda *_, **__: ())
    before = champion(trained)
    done = promote.promote(trained, now=START + DAY)
    assert not done.ok
    assert "FAIL  latency: 1000 ms per request (at most 250)" in str(done)
    assert champion(trained) == before
    newest = trained.registry.versions()[0]
    assert newest is not None
    assert tracked.version_tags(trained.registry, newest)["verdict"] == "rejected"
    again = gate.gate(trained)
    assert str(again).splitlines() == [
        "version 2 is rejected",
        "  FAIL  release checks of the last promotion: latency: 1000 ms per request (at most 250)",
    ]
    assert tracked.version_tags(trained.registry, newest)["verdict"] == "rejected", "no run takes it up"
    monkeypatch.setattr(smoke_test, "checks", lambda *_, **__: ())
    assert promote.promote(trained, now=START + DAY).ok, "asked again, it may pass"
    assert gate.gate(trained, version=2).ok
