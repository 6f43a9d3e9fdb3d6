"""From the inbox to predictions: run, predict, explain, status, and where they live."""

import dataclasses
import json
import logging
import os
import re
import shutil
import subprocess
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, ClassVar, cast

import numpy as np
import polars as pl
import pytest
from pydantic import BaseModel

from my_ml_project.core import datasets
from my_ml_project.core.contracts.schema import (
    BATCH,
    CONTRACT,
    INGESTED_AT,
    PREDICTED_AT,
    EventTime,
    Key,
    Personal,
    Table,
    Target,
    schema_of,
)
from my_ml_project.core.contracts.validation import parse_keys
from my_ml_project.core.errors import InputError, Rejected
from my_ml_project.core.problem import ModelSpec, Problem
from my_ml_project.core.store.candidates import Candidates
from my_ml_project.core.store.lake import Lake
from my_ml_project.core.store.registry import CHALLENGER, CHAMPION
from my_ml_project.core.store.releases import Release, Releases, contributions
from my_ml_project.core.workspace import Workspace, open_workspace
from my_ml_project.production import explain as explain_module
from my_ml_project.production import lifecycle
from my_ml_project.production.explain import explain
from my_ml_project.production.gate import gate
from my_ml_project.production.predict import (
    champion,
    features_for,
    predict,
    predict_rows,
    predict_upcoming,
)
from my_ml_project.production.status import status
from my_ml_project.production.train import train
from problems import AHEAD, AVAILABLE_AT, START, arrived, source

DUE = START + timedelta(days=28)
INSTANT = timedelta(microseconds=1)
FEBRUARY = datetime(2024, 2, 1, tzinfo=UTC)


def march() -> pl.DataFrame:
    """Parcels of March."""
    return arrived("parcels", START - AHEAD)


def tables(workspace: Workspace) -> dict[str, int]:
    names = [*workspace.problem.schemas, "collections", "predictions", "releases"]
    return {name: workspace.lake.version(name) for name in names}


def rows_of(workspace: Workspace, table: str) -> pl.DataFrame:
    return workspace.lake.read(table, {}).collect()


# run


def test_a_first_run_goes_from_the_inbox_to_a_champion_that_predicts(trained: Workspace) -> None:
    release = champion(trained)
    assert (release.version, release.number, release.reason, release.released) == (1, 1, "promoted", START)
    assert trained.registry.version_by_alias(CHAMPION) == trained.registry.version_by_alias(CHALLENGER)
    assert release.metrics["auc"] > 0.65
    assert (trained.root / "reports" / "version-1.png").read_bytes().startswith(b"\x89PNG")
    for table in AVAILABLE_AT:
        assert len(rows_of(trained, table)) == len(arrived(table, START)) > 0
    ahead = source()["parcels"].filter(pl.col("due").is_between(START, START + AHEAD, closed="right"))
    predicted = rows_of(trained, "predictions")
    assert predicted.columns == ["parcel", "due", "probability", "decision", "version", "predicted_at"]
    assert predicted["parcel"].to_list() == ahead.sort("due", "parcel")["parcel"].to_list()
    assert set(predicted["version"]) == {1}
    assert set(predicted["predicted_at"]) == {START}
    assert not [path for path in (trained.root / "data" / "inbox").rglob("*") if path.is_file()]


def test_a_second_run_changes_nothing(trained: Workspace) -> None:
    before = tables(trained)
    done = lifecycle.run(trained, now=START)
    assert tables(trained) == before
    assert (done.trained, done.promoted, done.plot_file, done.predicted) == (None, None, None, 0)
    assert (done.as_of, done.champion, done.next_due, done.ingested.batches) == (START, 1, DUE, ())
    assert done.ok
    assert trained.registry.version(2) is None
    assert str(done).splitlines() == [
        "ingested 0 batches, 0 rows",
        "challenger: not due, 0 days after the last training",
        "predicted 0 upcoming rows, in the table predictions",
        "champion: version 1",
        "next challenger: from 2024-04-29",
    ]


def test_without_labels_nothing_is_trained_and_that_is_no_error(
    empty: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Workspace) -> None:
        raise LookupError

    monkeypatch.setattr(lifecycle, "repair_registry", refuse)
    shutil.rmtree(empty.root / "mlruns")
    first = source()["arrivals"]["known"].min()
    assert isinstance(first, datetime)
    done = lifecycle.run(empty, now=first - INSTANT)
    assert done.ok
    assert (done.as_of, done.trained, done.champion, done.next_due, done.predicted) == (None, None, None, None, 0)
    assert str(done).splitlines()[-2:] == ["champion: none", "next challenger: with the next labels"]
    assert len(rows_of(empty, "parcels")) > 0
    assert not (empty.root / "mlruns").exists()
    with pytest.raises(LookupError):
        lifecycle.run(empty, now=first)


def test_what_was_collected_is_on_the_disk_before_that_is_recorded(
    trained: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power loss the next run collects it again, or finds it whole."""
    events: list[str] = []
    append = Lake.append

    def noted(lake: Lake, table: str, *rest: Any, **options: Any) -> bool:
        events.append(table)
        return append(lake, table, *rest, **options)

    monkeypatch.setattr(lifecycle, "flush", lambda path: events.append(path.name))
    monkeypatch.setattr(Lake, "append", noted)
    lifecycle.collect_and_ingest(trained, START + timedelta(hours=6))
    collected = events[: events.index("collections")]
    assert {*trained.problem.schemas} <= {*collected}, "the folders of the files"
    assert len([name for name in collected if name.endswith(".parquet")]) == len(trained.problem.schemas)


def test_what_arrived_since_is_collected_once(trained: Workspace) -> None:
    later = START + timedelta(hours=6)
    done = lifecycle.run(trained, now=later)
    for table in AVAILABLE_AT:
        assert len(rows_of(trained, table)) == len(arrived(table, later))
    rows = sum(len(arrived(table, later, since=START)) for table in AVAILABLE_AT)
    assert sum(batch.accepted for batch in done.ingested.batches) == rows > 0
    assert str(done).startswith(
        f"ingested {len(done.ingested.batches)} batches, {rows} rows\n"
        "challenger: not due, 0 days after the last training\n"
    )
    predicted = rows_of(trained, "predictions")
    assert len(predicted.filter(predicted_at=later)) == done.predicted > 0
    assert predicted["parcel"].is_unique().all()
    before = trained.lake.version("collections")
    lifecycle.run(trained, now=later - INSTANT)
    assert trained.lake.version("collections") == before
    lifecycle.run(trained, now=later + INSTANT)
    assert trained.lake.version("collections") == before + 1


def test_a_run_builds_the_training_set_once_and_reads_no_challenger_back(
    empty: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = datasets.training_set
    versions: list[object] = []

    def counted(*given: Any, **named: Any) -> pl.DataFrame:
        versions.append(named.get("versions"))
        return built(*given, **named)

    monkeypatch.setattr(datasets, "training_set", counted)
    monkeypatch.setattr(Candidates, "read", lambda *_: pytest.fail("it is at hand"))
    assert lifecycle.run(empty, now=START).champion == 1
    assert len([each for each in versions if each]) == 1, "the others are the monitor's"


def test_a_broken_batch_goes_to_quarantine_and_the_rest_of_the_run_is_done(trained: Workspace) -> None:
    inbox = trained.root / "data" / "inbox" / "traffic"
    inbox.mkdir(parents=True, exist_ok=True)
    (inbox / "broken.parquet").write_bytes(b"no parquet")
    done = lifecycle.run(trained, now=START)
    assert not done.ok
    assert (done.champion, done.as_of) == (1, START)
    assert "\n  traffic/broken.parquet violates the contract: " in str(done)
    assert len([line for line in str(done).splitlines() if line.startswith("  ")]) == 1
    assert not lifecycle.run(trained, now=START).ok, "it still lies in quarantine"
    shutil.rmtree(trained.root / "data" / "quarantine")
    assert lifecycle.run(trained, now=START).ok


def test_a_run_shows_the_notes_of_what_it_took(trained: Workspace) -> None:
    inbox = trained.root / "data" / "inbox" / "arrivals"
    inbox.mkdir(parents=True, exist_ok=True)
    known = START - timedelta(hours=1)
    pl.DataFrame({"parcel": [90_000_001], "known": [known], "late": [True]}).write_parquet(inbox / "own.parquet")
    done = lifecycle.run(trained, now=START)
    assert "\n  arrivals/own.parquet: 1 rows; 1 of 1 keys are of no row in parcels\n" in str(done)
    assert done.ok


# predict


def test_where_no_challenger_can_be_trained_the_champion_goes_on_predicting(
    trained: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise Rejected("too few labels")

    monkeypatch.setattr(lifecycle, "train", refuse)
    done = lifecycle.run(trained, now=DUE)
    assert (done.champion, done.trained, done.ok) == (1, None, False)
    assert done.predicted > 0
    assert "challenger: due, 28 days after the last training, but too few labels" in str(done).splitlines()
    shutil.rmtree(trained.root / "data" / "lake" / "releases")
    monkeypatch.setattr(lifecycle, "_retrain", refuse)
    with pytest.raises(Rejected, match="too few labels"):
        lifecycle.run(dataclasses.replace(trained), now=DUE + timedelta(days=1))


def test_there_is_nothing_to_predict_or_explain_by_without_a_champion(empty: Workspace) -> None:
    file = empty.root / "parcels.parquet"
    for work in (lambda: predict(empty, file), lambda: explain(empty, "1"), lambda: champion(empty)):
        with pytest.raises(Rejected, match="there is no champion yet: call run"):
            work()
    assert not (empty.root / "reports").exists()


def test_rows_are_predicted_ahead_once_for_each_version(trained: Workspace) -> None:
    before = rows_of(trained, "predictions")
    assert predict_upcoming(trained, now=START) == 0
    release = champion(trained)
    trained.releases.append(release.model_copy(update={"number": 2, "version": 2}))
    assert predict_upcoming(trained, now=START) == len(before)
    assert predict_upcoming(trained, now=START) == 0
    after = rows_of(trained, "predictions")
    ours = after.filter(version=2)
    assert len(after) == 2 * len(before)
    assert ours.drop("version").equals(before.drop("version"))


def test_as_many_other_rows_at_the_same_time_are_predicted_too(trained: Workspace) -> None:
    april = source()["parcels"].filter(pl.col("due") > START + timedelta(days=2))
    for part in (april[:5], april[5:10]):  # two schedules come at the same time by the clock of the data
        trained.lake.append(
            "parcels",
            part.with_columns(
                pl.lit(START).alias(INGESTED_AT), pl.lit("b").alias(BATCH), pl.lit(1, dtype=pl.Int64).alias(CONTRACT)
            ),
            batch=str(part["parcel"][0]),
        )
        assert predict_upcoming(trained, now=START) == 5
    legs = set(rows_of(trained, "predictions")["parcel"])
    assert set(april[:10]["parcel"]) <= legs
    assert predict_upcoming(trained, now=START) == 0


def test_only_rows_after_now_without_an_outcome_are_predicted_ahead(trained: Workspace) -> None:
    before = rows_of(trained, "predictions")
    trained.releases.append(champion(trained).model_copy(update={"number": 2, "version": 2}))
    now, known = before["due"][20], before["parcel"][-1]
    outcome = pl.DataFrame(
        {"parcel": [known], "known": [START], "late": [True], INGESTED_AT: [START], BATCH: ["x"], CONTRACT: [1]},
        schema=rows_of(trained, "arrivals").schema,
    )
    trained.lake.append("arrivals", outcome, batch="x")
    expected = before.filter(pl.col("due") > now, pl.col("parcel") != known)["parcel"].to_list()
    assert predict_upcoming(trained, now=now) == len(expected)
    assert 0 < len(expected) < len(before) - 20
    assert rows_of(trained, "predictions").filter(version=2)["parcel"].to_list() == expected


def test_a_champion_whose_feature_is_no_longer_given_says_which(trained: Workspace) -> None:
    honest = trained.problem.build
    problem = dataclasses.replace(
        trained.problem,
        features=tuple(name for name in trained.problem.features if name != "weekday"),
        build=lambda rows, history: honest(rows, history).drop("weekday"),
    )
    file = trained.root / "parcels.parquet"
    march().write_parquet(file)
    with pytest.raises(
        InputError, match=r"^features\.build no longer returns weekday, which version 1 needs: keep them"
    ):
        predict(dataclasses.replace(trained, problem=problem), file)


def test_a_row_predicted_before_its_time_knows_what_is_known_now_and_no_more(trained: Workspace) -> None:
    early = datetime(2024, 3, 20, 12, tzinfo=UTC)
    state = {name: Path("earlier", name) for name in ("inbox", "archive", "quarantine")}
    settings = trained.settings.model_copy(update={"lake": "earlier/lake", **state})
    earlier = dataclasses.replace(trained, settings=settings)
    lifecycle.collect_and_ingest(earlier, early)
    parcels = source()["parcels"]
    near = parcels.filter(pl.col("due").is_between(early - timedelta(hours=2), early + timedelta(hours=8)))
    built = features_for(trained, near, now=early)
    ready = near["due"] - timedelta(hours=2)
    assert built[PREDICTED_AT].to_list() == [min(at, early) for at in ready]
    assert 0 < (ready < early).sum() < len(near)
    assert built.equals(features_for(earlier, near, now=early))
    assert not built.equals(features_for(trained, near, now=early + timedelta(hours=6)))


def test_predictions_are_those_of_the_training_path_row_by_row(trained: Workspace) -> None:
    release, problem = champion(trained), trained.problem
    known = datasets.training_set(problem, trained.lake, as_of=START)
    some = known.sample(150, seed=3, shuffle=True)
    requests = some.select(problem.schema.loggable.names)
    answers = predict_rows(trained, release, requests, now=START)
    features = features_for(trained, requests, now=START).select(problem.features)
    assert features.equals(some.select(problem.features))
    expected = release.predictor.predict(some)
    assert answers["probability"].to_list() == expected.tolist()
    assert answers.select(requests.columns).equals(requests)
    assert answers["decision"].to_list() == (expected >= 0.2).tolist()
    assert 0 < answers["decision"].sum() < len(some)
    assert set(answers["version"]) == {1}


def test_parquet_and_csv_give_equal_answers_in_the_order_of_their_rows(trained: Workspace) -> None:
    rows = march().sample(40, seed=1, shuffle=True)
    rows.write_parquet("some.parquet")
    rows.write_csv("some.csv")
    first = predict(trained, Path("some.parquet"), now=START)
    second = predict(trained, Path("some.csv"), out=Path("new/folder/answers.parquet"), now=START)
    third = predict(trained, Path("some.csv"), now=START)
    default = trained.root / "reports"
    assert (first.rows, first.invalid, first.version, first.ok) == (40, 0, 1, True)
    assert first.out == (default / "some-predicted.parquet").as_posix()
    assert third.out == (default / "some-predicted.csv").as_posix()
    assert str(second) == "40 rows predicted by version 1 -> new/folder/answers.parquet"
    answers = pl.read_parquet(first.out)
    assert answers["parcel"].to_list() == rows["parcel"].to_list()
    assert answers.columns == [*rows.drop("sender").columns, "error", "probability", "decision", "version"]
    assert answers["error"].null_count() == 40
    assert answers["probability"].null_count() == 0
    assert answers.equals(pl.read_parquet(second.out))
    written = pl.read_csv(third.out)
    assert written["parcel"].to_list() == rows["parcel"].to_list()
    assert written["probability"].to_list() == pytest.approx(answers["probability"].to_list(), abs=1e-6)
    expected = predict_rows(trained, champion(trained), rows, now=START)
    assert answers["probability"].to_list() == expected["probability"].to_list()
    assert not list(Path.cwd().rglob("*.part"))


def test_the_ending_says_the_format_in_capitals_too(trained: Workspace) -> None:
    rows = march().head(3)
    rows.write_csv("some.CSV")
    done = predict(trained, Path("some.CSV"), now=START)
    assert done.out.endswith("/some-predicted.CSV")
    assert pl.read_csv(done.out)["parcel"].to_list() == rows["parcel"].to_list()


def test_rows_that_break_the_contract_get_their_reasons_and_no_answer(trained: Workspace) -> None:
    rows = march().head(6).with_row_index()
    bent = rows.with_columns(
        distance=pl.when(pl.col("index") == 1).then(1).when(pl.col("index") == 4).then(7000).otherwise("distance"),
    ).drop("index")
    bent.write_csv("bent.csv")
    done = predict(trained, Path("bent.csv"), out=Path("out.parquet"), now=START)
    assert (done.rows, done.invalid, done.ok) == (4, 2, False)
    assert str(done).endswith("-> out.parquet; 2 rows violate the contract and have an error instead")
    answers = pl.read_parquet("out.parquet")
    assert answers["parcel"].to_list() == rows["parcel"].to_list()
    reasons = answers["error"].to_list()
    assert [reason is None for reason in reasons] == [True, False, True, True, False, True]
    assert reasons[1] == "distance belongs to city"
    assert len(reasons[4].split("; ")) == 2
    assert "distance belongs to city" in reasons[4].split("; ")
    for column in ("probability", "decision", "version"):
        assert [value is None for value in answers[column]] == [False, True, False, False, True, False]
    clean = predict_rows(trained, champion(trained), rows.drop("index"), now=START)["probability"]
    assert [answers["probability"][i] for i in (0, 2, 3, 5)] == [clean[i] for i in (0, 2, 3, 5)]


def test_a_file_of_broken_rows_alone_has_reasons_alone(trained: Workspace) -> None:
    rows = march().head(2).with_columns(distance=pl.lit(1, pl.Int16))
    rows.write_parquet("bent.parquet")
    done = predict(trained, Path("bent.parquet"), out=Path("out.csv"), now=START)
    assert (done.rows, done.invalid, done.ok) == (0, 2, False)
    answers = pl.read_csv("out.csv")
    assert answers.columns == [*rows.drop("sender").columns, "error", "probability", "decision", "version"]
    assert answers["error"].null_count() == 0
    assert answers["probability"].null_count() == len(rows)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda rows: rows.drop("courier"), "column courier is missing"),
        (lambda rows: rows.with_columns(late=True), "column late is unknown"),
        (lambda rows: rows.with_columns(distance=pl.lit("far")), "column distance "),
        (lambda rows: rows.head(0), "it has no rows"),
    ],
    ids=["missing", "unknown", "type", "empty"],
)
@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_a_file_with_other_columns_is_bad_input(trained: Workspace, change: Any, reason: str, ending: str) -> None:
    rows = change(march().head(3))
    file = Path(f"other.{ending}")
    rows.write_parquet(file) if ending == "parquet" else rows.write_csv(file)
    with pytest.raises(InputError, match=f"^other.{ending} violates the contract of parcels: {reason}"):
        predict(trained, file, out=Path("out.parquet"), now=START)
    assert not Path("out.parquet").exists()


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_answers_that_can_not_be_written_are_bad_input_and_leave_nothing(trained: Workspace, ending: str) -> None:
    file = Path("some.parquet")
    march().head(3).write_parquet(file)
    Path("taken").write_text("a file")
    Path(f"folder.{ending}").mkdir()
    before = sorted(Path.cwd().rglob("*"))
    for out in (Path(f"taken/answers.{ending}"), Path(f"folder.{ending}")):
        with pytest.raises(InputError, match=f"^{out.as_posix()} can't be written: "):
            predict(trained, file, out=out, now=START)
    assert sorted(Path.cwd().rglob("*")) == before
    assert Path("taken").read_text() == "a file"


def test_a_file_that_is_not_there_is_bad_input(trained: Workspace) -> None:
    with pytest.raises(InputError, match=r"^missing\.csv can't be read: "):
        predict(trained, Path("missing.csv"))


# explain


def test_a_row_is_taken_through_every_stage(trained: Workspace) -> None:
    known = datasets.training_set(trained.problem, trained.lake, as_of=START)
    row = known.row(-5, named=True)
    told = explain(trained, str(row["parcel"]), now=START)
    parcel = source()["parcels"].filter(parcel=row["parcel"]).drop("sender")
    assert told.raw == json.loads(parcel.write_json())[0]
    assert (told.violations, told.version) == ((), 1)
    assert told.predicted_at == (parcel["due"].item() - timedelta(hours=2)).isoformat()
    assert told.features == json.loads(known.select(trained.problem.features).write_json())[-5]
    probability = champion(trained).predictor.predict(known[-5])[0]
    assert told.prediction == {"probability": pytest.approx(probability), "decision": bool(probability >= 0.2)}
    assert told.outcome is row["_target"]
    lines = str(told).splitlines()
    assert [line[:14].strip() for line in lines] == [
        "raw",
        "contract",
        "predicted at",
        "features",
        "prediction",
        "contributions",
        "outcome",
    ]
    assert lines[1] == "contract      no violations"
    assert lines[2] == f"predicted at  {told.predicted_at}"
    assert (
        lines[4] == f"prediction    probability {probability:.4g}, decision {told.prediction['decision']} (version 1)"
    )
    assert lines[6] == f"outcome       {told.outcome}"
    moved = [abs(float(pair.split()[1])) for pair in lines[5][14:].split(", ")]
    assert moved == sorted(moved, reverse=True)
    assert len(moved) == len(trained.problem.features)
    first = max(told.contributions, key=lambda name: abs(told.contributions[name]))
    assert lines[5].startswith(f"contributions {first} {told.contributions[first]:+.4f}")


def test_outcomes_are_told_where_they_are_known(trained: Workspace) -> None:
    known = rows_of(trained, "arrivals")
    for late in (True, False):
        assert explain(trained, str(known.filter(late=late)["parcel"][-1]), now=START).outcome is late
    ahead = explain(trained, str(rows_of(trained, "predictions")["parcel"][-1]), now=START)
    assert ahead.outcome is None
    assert ahead.predicted_at == START.isoformat()
    assert str(ahead).endswith("outcome       not available yet")


def test_a_contribution_is_by_how_much_a_typical_value_moves_the_prediction(trained: Workspace) -> None:
    release = champion(trained)
    row = datasets.training_set(trained.problem, trained.lake, as_of=START)[-5]
    base = release.predictor.predict(row)[0]
    found = contributions(release, row)
    assert list(found) == list(release.features)
    for name, text in release.features.items():
        other = row.with_columns(pl.lit(release.reference[name], pl.String if text else pl.Float32).alias(name))
        assert found[name] == pytest.approx(base - release.predictor.predict(other)[0], abs=1e-6)
    assert max(map(abs, found.values())) > 0.001


def test_of_many_classes_a_contribution_is_to_the_likeliest() -> None:
    def three(rows: pl.DataFrame) -> np.ndarray:
        return np.array([[0.1, 0.9 - share, share] for share in rows["x"].to_list()])

    release = SimpleNamespace(
        features={"x": False}, reference={"x": 0.05}, predictor=SimpleNamespace(predict=three), version=1
    )
    found = contributions(cast(Release, release), pl.DataFrame({"x": [0.25]}))
    assert found == {"x": pytest.approx(-0.2)}


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("99999999", "parcels has no row with parcel 99999999$"),
        ("-1", "parcels has no row with parcel -1$"),
        ("none", "parcels has no row with such a key: column parcel has 1 values that are no int, as 'none'$"),
    ],
)
def test_a_key_that_no_row_has_is_bad_input(trained: Workspace, key: str, reason: str) -> None:
    with pytest.raises(InputError, match=f"^{reason}"):
        explain(trained, key)


class Parameters(BaseModel):
    seed: int = 0


class Bill(Table):
    """Two columns are its key, and the label is its own."""

    table: ClassVar = "bills"

    house: Annotated[str, Key()]
    seat: Annotated[int, Key()]
    guest: Annotated[str, Personal()]
    hours: float
    amount: Annotated[float | None, Target()]


class Day(Table):
    """Its key is not stored as it is typed."""

    table: ClassVar = "days"

    day: Annotated[date, Key()]
    hours: float
    open: Annotated[bool, Target()]


class Scrap(Table):
    """Has a time and no key."""

    table: ClassVar = "scraps"

    at: Annotated[datetime, EventTime()]
    amount: Annotated[float, Target()]


class Contract(Table):
    """Has a number of several parts."""

    table: ClassVar = "contracts"

    number: Annotated[str, Key()]


def test_values_of_keys_may_hold_what_stands_between_them() -> None:
    assert parse_keys(schema_of(Contract), ("K/1/2", "K")).rows() == [("K/1/2",), ("K",)]
    assert parse_keys(schema_of(Bill), (r"the inn\/bar/2", "inn/1")).rows() == [("the inn/bar", 2), ("inn", 1)]


def tenfold(version: int) -> SimpleNamespace:
    """A release that says ten times the hours."""
    return SimpleNamespace(
        features={"hours": False},
        reference={"hours": 1.0},
        predictor=SimpleNamespace(predict=lambda frame: 10 * frame["hours"].to_numpy()),
        prediction_frame=lambda predictions: pl.DataFrame({"prediction": predictions}),
        version=version,
    )


def with_problem(workspace: Workspace, table: type[Table]) -> Workspace:
    problem = Problem(
        entity=table,
        tables=(table,),
        features=("hours",),
        lookback=timedelta(0),
        build=lambda rows, _: rows,
        collect=lambda *_: [],
        model_spec=lambda: ModelSpec(Parameters, lambda *_: None, lambda *_: pytest.fail("nothing is exported")),
    )
    return dataclasses.replace(workspace, problem=problem)


def test_a_row_is_found_by_a_key_of_two_columns_and_shown_without_what_is_personal(
    empty: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    bills = with_problem(empty, Bill)
    rows = {
        "house": ["inn", "inn", "bar"],
        "seat": [1, 2, 2],
        "guest": ["Ann", "Bob", "Eve"],
        "hours": [1.0, 2.0, 3.0],
        "amount": [10.0, 20.0, None],
        INGESTED_AT: [START] * 3,
        BATCH: ["x"] * 3,
    }
    empty.lake.append("bills", pl.DataFrame(rows).with_columns(pl.col("hours").cast(pl.Float64)), batch="x")
    monkeypatch.setattr(explain_module, "champion", lambda _: tenfold(7))
    told = explain(bills, "inn/2", now=START)
    assert told.raw == {"house": "inn", "seat": 2, "hours": 2.0}
    assert (told.prediction, told.contributions, told.outcome, told.version) == (
        {"prediction": 20.0},
        {"hours": 10.0},
        20.0,
        7,
    )
    assert told.predicted_at == START.isoformat()
    assert "prediction    prediction 20 (version 7)" in str(told)
    assert explain(bills, "bar/2", now=START).outcome is None
    with pytest.raises(InputError, match=r"^the key of bills is house/seat, not 'inn'$"):
        explain(bills, "inn")
    with pytest.raises(InputError, match=r"^bills has no row with house/seat bar/1$"):
        explain(bills, "bar/1")
    assert predict_upcoming(bills, now=START) == 0


@pytest.mark.parametrize("key", ["2024-05-01", "2024-05-02", "someday"])
def test_a_row_is_found_by_a_key_that_is_a_date(empty: Workspace, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    days = with_problem(empty, Day)
    rows = {"day": [date(2024, 5, 1)], "hours": [2.0], "open": [True], INGESTED_AT: [START], BATCH: ["x"]}
    empty.lake.append("days", pl.DataFrame(rows), batch="x")
    monkeypatch.setattr(explain_module, "champion", lambda _: tenfold(1))
    if key == "2024-05-01":
        assert explain(days, key, now=START).raw == {"day": key, "hours": 2.0}
    else:
        with pytest.raises(InputError, match=f"^days has no row with (day {key}|such a key: .*'{key}')$"):
            explain(days, key, now=START)


def test_rows_without_a_key_are_neither_explained_nor_predicted_ahead(
    trained: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    scraps = with_problem(trained, Scrap)
    with pytest.raises(
        InputError, match=r"^rows of scraps have no key: mark a column of shared/contract\.py as Key\(\)"
    ):
        explain(scraps, "1")
    assert predict_upcoming(scraps, now=START) == 0
    parcels = trained.problem
    for lost in ("key", "event_time"):
        with monkeypatch.context() as patch:
            patch.setattr(type(parcels.schema), lost, property(lambda _: None))
            assert predict_upcoming(trained, now=START - timedelta(days=1)) == 0


# status


def test_before_the_first_run_the_status_says_to_run(empty: Workspace) -> None:
    now = status(empty)
    assert (now.champion, now.trained_until, now.labels_until, now.metrics, now.next) == (None, None, None, {}, "run")
    assert now.batches == {"parcels": 0, "traffic": 0, "arrivals": 0}
    assert str(now).splitlines() == [
        "predicts   arrivals.late (binary)",
        "champion   none",
        "labels     until no labels yet",
        "batches    parcels 0, traffic 0, arrivals 0",
        "tables in  data/lake",
        "runs in    mlruns",
        "next       run",
    ]
    assert not (empty.root / "data" / "lake").exists()


def test_the_status_tells_champion_data_and_what_is_next(trained: Workspace) -> None:
    traffic = trained.lake.open("traffic")
    assert traffic is not None
    traffic.optimize.compact()  # a commit that is no batch
    release, now = champion(trained), status(trained)
    labels = arrived("arrivals", START)["known"].max()
    assert isinstance(labels, datetime)
    assert (now.champion, now.trained_until, now.labels_until) == (1, START, labels)
    assert now.metrics == {name: release.metrics[name] for name in ("auc", "log_loss", "cost")}
    assert now.batches == {"parcels": 1, "traffic": 1, "arrivals": 1}
    assert now.next.startswith("run when new batches have arrived")
    lines = str(now).splitlines()
    figures = f"auc {now.metrics['auc']:.4g}, log_loss {now.metrics['log_loss']:.4g}, cost {now.metrics['cost']:.4g}"
    assert lines[1] == f"champion   version 1, trained on labels until 2024-04-01: {figures}"
    assert lines[2] == f"labels     until {labels:%Y-%m-%d %H:%M} UTC"
    assert lines[3] == "batches    parcels 1, traffic 1, arrivals 1"


def test_status_and_run_name_what_changed_since_the_champion_and_what_to_do(
    empty: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    me = ["git", "-c", "user.name=me", "-c", "user.email=me@example.org", "-c", "core.autocrlf=false"]
    for line in (["init", "--quiet"], ["add", "config"], ["commit", "--quiet", "--message", "first"]):
        subprocess.run([*me, *line], cwd=empty.root, check=True)
    assert lifecycle.run(empty, now=START).champion == 1
    assert (status(empty).changes, status(empty).challenger) == ("", "")
    (empty.root / "config" / "params.toml").write_text("trees = 21 # more\n", encoding="utf-8")
    again = open_workspace(empty.problem, root=empty.root)
    told = "config/params.toml changed since version 1 was trained: commit, then call train and promote"
    assert f"changes    {told}" in str(status(again)).splitlines()
    assert str(lifecycle.run(again, now=START)).splitlines()[-1] == told
    assert lifecycle.run(again, now=DUE).decision.needs_attention
    assert str(lifecycle.run(again, now=DUE)).count("params.toml") == 1, "the decision says so already"
    train(again, as_of=DUE)
    assert status(again).changes == "", "it is in a challenger"


def test_the_status_names_the_newest_challenger_and_why_it_is_rejected(trained: Workspace) -> None:
    train(trained, as_of=START)
    newest = trained.candidates.newest()
    assert newest
    start = f"run {newest.run_id[:8]}, trained on labels until 2024-04-01, "
    assert status(trained).challenger == f"{start}is not evaluated: call gate"
    gate(trained)
    reason = "better than champion, version 1: 0 labels are newer than the champion: too few to compare"
    assert f"challenger {start}is rejected: {reason}" in str(status(trained)).splitlines()
    shutil.rmtree(trained.root / "mlruns")
    assert status(open_workspace(trained.problem, root=trained.root)).challenger.startswith(start)


def test_a_challenger_that_passed_and_is_not_released_is_named(trained: Workspace) -> None:
    made = train(trained)
    trained.candidates.append_verdict(made.run_id, passed=True, reasons="pass  auc: 1", release_failure="")
    assert status(trained).challenger.endswith("passed the gate and is not released: call promote")


def test_progress_and_report_of_a_run_say_nothing_twice(empty: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    report = str(lifecycle.run(empty, now=START)).splitlines()
    progress = [record.getMessage() for record in caplog.records]
    assert [line.split()[0] for line in progress] == [
        *("collect", "ingest", "monitor", "train", "train", "gate", "promote", "predict")
    ]
    numbers = [set(re.findall(r"\d{2,}", "\n".join(lines[1:]))) for lines in (progress, report)]
    assert numbers[0] & numbers[1] == set()
    assert len({*progress, *report}) == len(progress) + len(report)


@pytest.mark.parametrize(
    ("lake", "tracking", "told"),
    [
        ("s3://team/lake", "mlruns", "the lake s3://team/lake is shared, but MLflow in {root}/mlruns is not: set"),
        (
            "data/lake",
            "http://me:pass@mlflow:5000",
            "MLflow at http://me:***@mlflow:5000 is shared, but the lake {root}",
        ),
        ("s3://team/lake", "http://mlflow:5000", ""),
        ("data/lake", "mlruns", ""),
        ("data/lake", "sqlite:///{root}/mlruns/mlflow.db", ""),
    ],
)
def test_a_shared_lake_with_an_mlflow_of_this_machine_is_named(
    trained: Workspace, monkeypatch: pytest.MonkeyPatch, lake: str, tracking: str, told: str
) -> None:
    monkeypatch.setattr(Candidates, "newest", lambda _: None)  # the shared lake is not there
    monkeypatch.setattr(Releases, "champion", lambda _: None)
    places = {"lake": lake, "tracking": tracking.format(root=trained.root.as_posix())}
    own = dataclasses.replace(trained, settings=trained.settings.model_copy(update=places))
    found = own.mismatch().replace("\\", "/")
    assert found.startswith(told.format(root=trained.root.as_posix())) if told else found == ""


def test_an_mlflow_that_is_not_that_of_the_lake_is_named_by_status_and_run(
    trained: Workspace, no_runs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(trained.root / "mlruns")
    run = champion(trained).run_id
    told = (
        f"MLflow at {trained.root / 'mlruns'} has no run {run}, which is in the lake {trained.root / 'data' / 'lake'}: "
        "set ML_TRACKING or ML_LAKE to the one that belongs to the other"
    )
    assert f"mismatch   {told}" in str(status(trained)).splitlines()
    assert not (trained.root / "mlruns").exists()
    shutil.copytree(no_runs, trained.root / "mlruns")
    assert trained.mismatch() == told
    caplog.clear()
    assert lifecycle.run(trained, now=START).champion == 1
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        f"run       {told}"
    ]


def test_a_challenger_of_another_machines_mlflow_is_not_resumed(trained: Workspace) -> None:
    newest = trained.candidates.newest()
    assert newest
    left = trained.candidates.read(newest.run_id).model_copy(
        update={"run_id": "of another machine", "trained": datetime.now(UTC)}
    )
    trained.candidates.append(left)
    done = lifecycle.run(trained, now=START)
    assert (done.trained, done.promoted, done.champion) == (None, None, 1)
    assert "has no run of another machine, which is in the lake" in trained.mismatch()


# workspace


def test_now_is_what_is_given_or_what_the_clock_says(trained: Workspace) -> None:
    assert trained.settings.clock == "data"
    assert trained.now(FEBRUARY) == FEBRUARY
    assert trained.now() == rows_of(trained, "arrivals")["known"].max()
    wall = dataclasses.replace(trained, settings=trained.settings.model_copy(update={"clock": "wall"}))
    before = datetime.now(UTC)
    assert before <= wall.now() <= datetime.now(UTC)
    assert wall.now(FEBRUARY) == FEBRUARY


def test_without_labels_the_clock_of_the_data_is_the_wall(empty: Workspace) -> None:
    before = datetime.now(UTC)
    assert before <= empty.now() <= datetime.now(UTC)


def test_time_passes_by_now_alone_where_the_data_are_of_the_past(empty: Workspace) -> None:
    past = dataclasses.replace(empty, settings=empty.settings.model_copy(update={"start": START}))
    first = lifecycle.run(past, dirty=True)
    assert str(first).endswith(": let time pass with run --now 2024-04-29")
    assert lifecycle.run(past, dirty=True).ingested.batches == ()
    week = START + timedelta(days=7)
    assert lifecycle.run(past, now=week, dirty=True).ingested.batches
    assert rows_of(past, "arrivals").filter(pl.col("known") > week).is_empty()
    assert lifecycle.run(past, dirty=True).ingested.batches == ()


def test_one_command_that_writes_at_a_time(empty: Workspace) -> None:
    other = dataclasses.replace(empty)
    with empty.exclusive_lock():
        lock = empty.root / "data" / ".lock"
        with (
            pytest.raises(
                InputError, match=r"another command of this project is running and holds the lock .*: try again"
            ) as told,
            other.exclusive_lock(),
        ):
            pytest.fail("two at a time")
        assert str(lock) in str(told.value)
    with other.exclusive_lock():
        pass
