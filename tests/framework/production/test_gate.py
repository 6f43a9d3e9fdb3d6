"""A challenger on its way: trained with evidence, asked every question of the gate, refused with the reason."""

import dataclasses
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from my_ml_project.core import datasets
from my_ml_project.core.contracts.schema import AVAILABLE_AT, PREDICTED_AT, TARGET, Frame
from my_ml_project.core.errors import InputError, Rejected
from my_ml_project.core.models import training
from my_ml_project.core.parts import Check
from my_ml_project.core.store.provenance import code_hash
from my_ml_project.core.store.registry import CHALLENGER, CHAMPION, Version
from my_ml_project.core.store.releases import MODEL_FILE
from my_ml_project.core.workspace import Workspace
from my_ml_project.production import lifecycle
from my_ml_project.production import train as train_module
from my_ml_project.production.gate import Verdict, gate
from my_ml_project.production.train import train
from problems import START

LATER = timedelta(days=60)


def ask(workspace: Workspace, text: str) -> None:
    """Let the gate ask for this instead."""
    (workspace.root / "config" / "acceptance.toml").write_text(text)
    workspace.__dict__.pop("acceptance", None)


def evidence_of(workspace: Workspace, version: Version) -> pl.DataFrame:
    return workspace.candidates.read(version.run_id).holdout


def convincing(rows: pl.DataFrame) -> pl.DataFrame:
    """Evidence of a model that is right nine times out of ten on rows that the champion has not seen."""
    truth = pl.col(TARGET).cast(pl.Float64)
    return rows.with_columns(
        pl.col(AVAILABLE_AT) + LATER, _model=0.1 + 0.8 * truth, _linear=0.4 + 0.2 * truth, _dummy=pl.lit(0.5)
    )


def challenge(workspace: Workspace, rows: pl.DataFrame) -> Version:
    """Register a challenger with this evidence, else like the champion."""
    champion = workspace.registry.version_by_alias(CHAMPION)
    assert champion is not None
    candidate = workspace.candidates.read(champion.run_id)
    with workspace.registry.run("train", {}, {}) as run:
        changes = {"run_id": run.id, "trained": datetime.now(UTC), "holdout": rows}
        workspace.candidates.append(candidate.model_copy(update=changes))
    version = workspace.registry.register(run.id, MODEL_FILE)
    workspace.registry.set_alias(CHALLENGER, version.number)
    return version


@pytest.fixture
def rows(trained: Workspace) -> pl.DataFrame:
    """The evidence of a challenger that passes."""
    champion = trained.registry.version_by_alias(CHAMPION)
    assert champion is not None
    return convincing(evidence_of(trained, champion))


def refusals(verdict: Verdict) -> list[str]:
    return [check.name for check in verdict.checks if not check.passed]


def answer(verdict: Verdict, name: str) -> Check:
    (found,) = [check for check in verdict.checks if check.name == name]
    return found


# --- the gate


def test_a_convincing_challenger_passes_and_every_question_is_answered(
    tracked, trained: Workspace, rows: pl.DataFrame
) -> None:
    version = challenge(trained, rows)
    verdict = gate(trained)
    assert (verdict.version, verdict.ok) == (2, True)
    assert refusals(verdict) == []
    assert [check.name for check in verdict.checks if not check.is_slice] == [
        "predictions are numbers",
        "auc at least 0.65",
        "log_loss at most 0.7",
        "calibration_error at most 0.15",
        "better than dummy",
        "not worse than linear",
        "better than champion, version 1",
    ]
    parts = [check for check in verdict.checks if check.is_slice]
    assert {check.name.split()[0].strip(":") for check in parts} == {"courier"}
    assert tracked.version_tags(trained.registry, version).get("verdict") == "passed"
    assert gate(trained) == verdict, "asked again, it answers the same"
    assert gate(trained, version=2) == verdict


def test_the_answers_are_kept_with_the_version(tracked, trained: Workspace, rows: pl.DataFrame) -> None:
    ask(trained, "[at_least]\nauc = 1.5\n")
    version = challenge(trained, rows)
    verdict = gate(trained)
    assert tracked.version_tags(trained.registry, version).get("verdict") == "rejected"
    reasons = tracked.version_tags(trained.registry, version)["reasons"]
    assert reasons.splitlines() == [str(check) for check in verdict.checks]
    assert "FAIL  auc at least 1.5: 1.0000" in reasons
    kept = trained.lake.read("verdicts", {}).filter(run_id=version.run_id).collect()
    assert (kept["passed"].to_list(), kept["reasons"].to_list()) == ([False], [reasons])
    gate(trained)
    assert trained.lake.read("verdicts", {}).filter(run_id=version.run_id).collect().equals(kept), "said once"


@pytest.mark.parametrize(
    ("text", "name", "passed"),
    [
        ("[at_least]\nauc = 1.0", "auc at least 1.0", True),
        ("[at_least]\nauc = 1.01", "auc at least 1.01", False),
        ("[at_most]\ncost = 0.0", "cost at most 0.0", True),
        ("[at_most]\ncost = -0.01", "cost at most -0.01", False),
    ],
)
def test_a_limit_holds_up_to_itself(
    trained: Workspace, rows: pl.DataFrame, text: str, name: str, *, passed: bool
) -> None:
    ask(trained, text)
    challenge(trained, rows)
    assert refusals(gate(trained)) == ([] if passed else [name])


@pytest.mark.parametrize(
    "text", ["[at_least]\nbogus = 0.0", "[slices]\nat_most = { bogus = 9.0 }", "[fairness]\nmax_gap = { bogus = 9.0 }"]
)
def test_a_limit_on_a_metric_that_there_is_not_is_bad_input(trained: Workspace, rows: pl.DataFrame, text: str) -> None:
    ask(trained, text)
    challenge(trained, rows)
    with pytest.raises(
        InputError,
        match=r"acceptance.toml names unknown metrics bogus: the metrics of this task are auc, brier, ",
    ):
        gate(trained)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_prediction_that_is_no_number_is_refused(
    tracked, trained: Workspace, rows: pl.DataFrame, value: float
) -> None:
    spoilt = rows.with_columns(_model=pl.when(pl.int_range(pl.len()) == 7).then(value).otherwise("_model"))
    version = challenge(trained, spoilt)
    assert "predictions are numbers" in refusals(gate(trained))
    assert tracked.version_tags(trained.registry, version).get("verdict") == "rejected"


def test_a_dummy_that_is_as_good_is_enough_to_refuse(trained: Workspace, rows: pl.DataFrame) -> None:
    challenge(trained, rows.with_columns(_dummy=pl.col("_model")))
    verdict = gate(trained)
    assert refusals(verdict) == ["better than dummy"]
    assert answer(verdict, "better than dummy").detail.startswith("loss lower by +0.0000 (from +0.0000 to +0.0000, ")


def test_a_linear_model_may_be_as_good_and_not_clearly_better(trained: Workspace, rows: pl.DataFrame) -> None:
    challenge(trained, rows.with_columns(_linear=pl.col("_model")))
    verdict = gate(trained)
    assert verdict.ok
    assert answer(verdict, "not worse than linear").detail.endswith("; no better than linear")
    challenge(trained, rows.with_columns(_linear=pl.col("_target").cast(pl.Float64).clip(0.01, 0.99)))
    assert refusals(gate(trained)) == ["not worse than linear"]


def test_without_a_champion_nothing_is_compared_with_it(trained: Workspace, rows: pl.DataFrame) -> None:
    challenge(trained, rows)
    lake = trained.root / "data" / "lake"
    (lake / "releases").rename(lake / "gone")
    verdict = gate(trained)
    assert verdict.ok
    assert not [check for check in verdict.checks if "champion" in check.name]
    assert not any("champion" in check.name for check in verdict.checks)


def with_champions(workspace: Workspace, rows: pl.DataFrame) -> pl.DataFrame:
    """The challenger answers as the champion does."""
    champion = workspace.releases.champion()
    assert champion is not None
    return rows.with_columns(_model=champion.predictor.predict(rows))


CHAMPIONS = "better than champion, version 1"


def test_a_challenger_that_answers_as_the_champion_is_not_better(trained: Workspace, rows: pl.DataFrame) -> None:
    challenge(trained, with_champions(trained, rows).with_columns(_linear=0.5))
    verdict = gate(trained)
    assert refusals(verdict) == [CHAMPIONS]
    assert answer(verdict, CHAMPIONS).detail.startswith("loss lower by +0.0000 (from +0.0000 to +0.0000, ")
    figures = {"log_loss", "brier", "calibration_error", "cost", "auc"}
    assert figures <= set(answer(verdict, CHAMPIONS).detail.replace(",", "").split())


@pytest.mark.parametrize(("confidence", "passed"), [(0.95, False), (0.5, True)])
def test_to_be_better_by_one_lucky_day_is_not_enough(
    trained: Workspace, rows: pl.DataFrame, confidence: float, *, passed: bool
) -> None:
    ask(trained, f"confidence = {confidence}")
    lucky = pl.col(PREDICTED_AT).dt.date() == rows[PREDICTED_AT].dt.date().median()
    truth = pl.col(TARGET).cast(pl.Float64)
    rows = with_champions(trained, rows).with_columns(_linear=0.5)
    challenge(trained, rows.with_columns(_model=pl.when(lucky).then(0.01 + 0.98 * truth).otherwise("_model")))
    assert refusals(gate(trained)) == ([] if passed else [CHAMPIONS])


def fresh(n: int) -> pl.Expr:
    """Labels of which the last `n` are an instant newer than the champion, the others as old as it."""
    newest = pl.int_range(pl.len()) >= pl.len() - n
    return pl.when(newest).then(pl.lit(START + timedelta(microseconds=1))).otherwise(pl.lit(START)).alias(AVAILABLE_AT)


@pytest.mark.parametrize(("n", "passed"), [(49, False), (50, True)])
def test_only_enough_newer_labels_count(trained: Workspace, rows: pl.DataFrame, n: int, *, passed: bool) -> None:
    ask(trained, "[window]\nmin_rows = 50\n")
    challenge(trained, rows.with_columns(fresh(n).cast(rows.schema[AVAILABLE_AT])))
    verdict = gate(trained)
    assert refusals(verdict) == ([] if passed else [CHAMPIONS])
    detail = answer(verdict, CHAMPIONS).detail
    assert detail == f"{n} labels are newer than the champion: too few to compare" or f", {n} rows)" in detail


@pytest.mark.parametrize("good_on_newer", [True, False])
def test_the_champion_is_compared_on_newer_labels_alone(
    trained: Workspace, rows: pl.DataFrame, *, good_on_newer: bool
) -> None:
    ask(trained, "")
    newer = pl.int_range(pl.len()) >= pl.len() - 150
    good = newer if good_on_newer else ~newer
    bad = with_champions(trained, rows)["_model"] * 0.5 + 0.25  # a little worse than the champion
    mixed = rows.with_columns(fresh(150).cast(rows.schema[AVAILABLE_AT]), bad.alias("_bad"))
    mixed = mixed.with_columns(_model=pl.when(good).then("_model").otherwise("_bad")).drop("_bad")
    challenge(trained, mixed)
    assert answer(gate(trained), CHAMPIONS).passed is good_on_newer


def test_a_feature_of_the_champion_that_is_no_longer_built_is_named(trained: Workspace, rows: pl.DataFrame) -> None:
    challenge(trained, rows.drop("rain"))
    verdict = gate(trained)
    assert refusals(verdict) == [CHAMPIONS]
    assert answer(verdict, CHAMPIONS).detail == "features.build no longer returns its features rain: keep them"


@pytest.mark.parametrize(("more", "passed"), [(0, False), (1, True)])
def test_quality_holds_on_every_slice_that_is_large_enough(
    trained: Workspace, rows: pl.DataFrame, more: int, *, passed: bool
) -> None:
    (n,) = rows.filter(courier="truck").select(pl.len()).row(0)
    limits = "at_least.auc = 0.55\nat_most.log_loss = 1.0"
    ask(trained, f'confidence = 0.5\n[slices]\ncolumns = ["courier"]\nmin_rows = {n + more}\n{limits}\n')
    truth = pl.col(TARGET).cast(pl.Float64)
    wrong = rows.with_columns(_model=pl.when(courier="truck").then(0.65 - 0.3 * truth).otherwise("_model"))
    challenge(trained, wrong)
    verdict = gate(trained)
    expected = [f"courier truck ({n} rows), auc at least 0.55", f"courier truck ({n} rows), log_loss at most 1.0"]
    assert refusals(verdict) == ([] if passed else expected)
    assert all(check.is_slice == check.name.startswith("courier ") for check in verdict.checks)


def test_a_slice_of_a_column_that_there_is_not_is_bad_input(trained: Workspace, rows: pl.DataFrame) -> None:
    ask(trained, '[slices]\ncolumns = ["flavour"]\n')
    challenge(trained, rows)
    with pytest.raises(InputError, match=r"acceptance\.toml.*flavour"):
        gate(trained)


def test_there_must_be_a_challenger_of_that_version(empty: Workspace) -> None:
    with pytest.raises(Rejected, match="there is no challenger yet: call run, or set ML_LAKE and ML_TRACKING"):
        gate(empty)
    with pytest.raises(InputError, match="there is no version 7"):
        gate(empty, version=7)


def test_a_verdict_tells_its_reasons_first() -> None:
    checks = (
        Check("one", passed=True, detail="1"),
        Check("two", passed=False, detail="2"),
        Check("part one", passed=True, detail="3", is_slice=True),
        Check("part two", passed=False, detail="4", is_slice=True),
    )
    assert str(Verdict(2, checks)).splitlines() == [
        "version 2 is rejected",
        "  FAIL  two: 2",
        "  FAIL  part two: 4",
        "  pass  one: 1",
        "  1 of 2 slice checks passed",
    ]
    assert str(Verdict(3, checks[:1])).splitlines() == ["version 3 passes", "  pass  one: 1"]
    assert [Verdict(2, checks[:1]).ok, Verdict(2, checks[:2]).ok, Verdict(2, ()).ok] == [True, False, True]


# --- training


class FittedModel(Exception):
    """A model was to be fitted."""


@pytest.fixture
def no_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise FittedModel

    monkeypatch.setattr(training, "fit", refuse)


@pytest.fixture
def april(trained: Workspace) -> Workspace:
    """The project with the labels of another month, and another seed."""
    lifecycle.collect_and_ingest(trained, datetime(2024, 5, 1, tzinfo=UTC))
    (trained.root / "config" / "params.toml").write_text("seed = 3\n")
    return trained


def test_a_challenger_leaves_evidence_and_all_that_is_needed_to_do_it_again(tracked, april: Workspace) -> None:
    as_of = datetime(2024, 4, 20, tzinfo=UTC)
    made = train(april, as_of=as_of)
    registry = april.registry
    version = registry.version_by_alias(CHALLENGER)
    assert version == Version(made.version, made.run_id) == Version(2, made.run_id)
    champion = registry.version_by_alias(CHAMPION)
    assert champion is not None
    assert champion.number == 1
    assert april.lake.version("releases") == 0

    tables = datasets.table_versions(april.problem, april.lake)
    whole = datasets.training_set(april.problem, april.lake, as_of=as_of)
    kept = evidence_of(april, version)
    rows, window = made.metrics["rows"], made.metrics["window_rows"]
    assert rows + window == len(whole)
    assert window == len(kept) == whole.filter(pl.col(AVAILABLE_AT) > as_of - timedelta(days=7)).height
    assert kept.drop("_model", "_linear", "_dummy").equals(whole.tail(len(whole)).join(kept, on="parcel", how="semi"))
    assert kept["_dummy"].n_unique() == 1
    assert kept["_linear"].n_unique() > kept["_dummy"].n_unique()

    candidate = april.candidates.read(made.run_id)
    assert candidate.model_dump(exclude={"holdout"}) == made.candidate.model_dump(exclude={"holdout"})
    assert made.training_set.equals(whole)
    assert candidate.onnx == tracked.read(registry, version.run_id, MODEL_FILE)
    assert np.array_equal(candidate.predictor(april.problem).predict(kept), kept["_model"].to_numpy())
    assert (candidate.as_of, candidate.tables, candidate.classes) == (as_of, tables, ())
    assert list(candidate.features) == list(april.problem.features)
    assert candidate.parameters == april.parameters.model_dump()
    assert candidate.code == code_hash(april.root)
    newest = april.candidates.newest()
    assert newest is not None
    assert newest.run_id == made.run_id

    tags = tracked.tags(registry, version.run_id)
    assert tags["as_of"] == as_of.isoformat()
    assert json.loads(tags["tables"]) == tables
    assert json.loads(tags["parameters"]) == april.parameters.model_dump()
    logged = tracked.metrics(registry, version.run_id)
    assert candidate.metrics == logged == made.metrics
    assert 0 <= logged["parity"] <= 1e-5
    assert logged["auc"] > logged["dummy.auc"] == 0.5
    names = [name for name in logged if f"dummy.{name}" in logged]
    assert "auc" in names
    assert all(f"linear.{name}" in logged for name in names)

    shown = str(made).splitlines()
    assert shown[0].startswith(f"version 2, trained on {rows} rows as of 2024-04-20 00:00; on the {window} ")
    assert shown[1].split() == ["model", "dummy", "linear"]
    assert {line.split()[0] for line in shown[2:]} == set(names)


def test_without_a_time_a_challenger_is_trained_as_of_now(april: Workspace) -> None:
    newest = datasets.newest_label(april.problem, april.lake)
    assert newest is not None
    assert train(april).as_of == newest
    ask(april, "[window]\nmin_rows = 1000000\n")
    wall = dataclasses.replace(april, settings=april.settings.model_copy(update={"clock": "wall"}))
    with pytest.raises(Rejected, match=r"and 0 in it are too few \(at least 1000000 each\)"):
        train(wall)


@pytest.mark.usefixtures("no_fit")
def test_too_few_rows_are_refused_on_either_side_of_the_window(trained: Workspace) -> None:
    whole = datasets.training_set(trained.problem, trained.lake, as_of=START)
    before, held = datasets.split(trained.problem, whole, trained.acceptance.window, as_of=START)
    sizes = f"{len(before)} labelled rows before the newest window and {len(held)} in it"
    for need, refusal in ((len(held), FittedModel), (len(held) + 1, Rejected)):
        ask(trained, f"[window]\ndays = 7\nmin_rows = {need}\n")
        with pytest.raises(refusal) as refused:
            train(trained, as_of=START)
        assert refusal is FittedModel or sizes in str(refused.value)
    early = whole.select(pl.col(AVAILABLE_AT).min()).item() + timedelta(days=8)
    few, _ = datasets.split(trained.problem, whole, trained.acceptance.window, as_of=early)
    for need, refusal in ((len(few), FittedModel), (len(few) + 1, Rejected)):
        ask(trained, f"[window]\ndays = 7\nmin_rows = {need}\n")
        with pytest.raises(refusal):
            train(trained, as_of=early)


@pytest.mark.usefixtures("no_fit")
def test_a_planted_leak_is_refused_before_anything_is_fitted(trained: Workspace) -> None:
    honest = trained.problem.build

    def leaking(rows: Frame, history: Mapping[str, Frame]) -> Frame:
        late = history["arrivals"].select("parcel", leaked="late")
        return honest(rows, history).join(late, on="parcel", how="left").with_columns(distance="leaked").drop("leaked")

    problem = dataclasses.replace(trained.problem, build=leaking)
    with pytest.raises(Rejected, match="feature leakage: distance change when future rows"):
        train(dataclasses.replace(trained, problem=problem), as_of=START)
    assert trained.registry.version(2) is None
    with pytest.raises(FittedModel):
        train(trained, as_of=START)


def test_a_challenger_of_shuffled_labels_is_refused(trained: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def shuffled(*given: Any, **named: Any) -> tuple[pl.DataFrame, pl.DataFrame]:
        before, held = datasets.split(*given, **named)
        return before.with_columns(pl.col(TARGET).shuffle(seed=1)), held

    monkeypatch.setattr(train_module, "datasets", _Like(datasets, split=shuffled))
    train(trained, as_of=START)
    verdict = gate(trained)
    assert {"auc at least 0.65", "not worse than linear", CHAMPIONS} & set(refusals(verdict)) >= {"auc at least 0.65"}


class _Like:
    """A module, but for some of its functions."""

    def __init__(self, module: Any, **instead: Any) -> None:
        self._module = module
        self.__dict__.update(instead)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


# --- groups


@pytest.mark.parametrize(("gap", "passed"), [(0.05, True), (0.04, False)])
def test_a_group_that_is_served_much_worse_is_a_reason_to_refuse(
    trained: Workspace, rows: pl.DataFrame, gap: float, *, passed: bool
) -> None:
    unlucky = (pl.col("courier") == "van") & (pl.int_range(pl.len()).over("courier") % 20 == 0)
    worse = rows.with_columns(_model=pl.when(unlucky).then(1 - pl.col("_model")).otherwise("_model"))
    ask(trained, f'[fairness]\ncolumns = ["courier"]\nmin_rows = 50\n[fairness.max_gap]\nbrier = {gap}\n')
    challenge(trained, worse)
    verdict = gate(trained)
    (check,) = [check for check in verdict.checks if check.name.startswith("courier:")]
    assert (check.name, check.passed, check.is_slice) == (f"courier: brier differs by at most {gap}", passed, True)
    difference, low, high = (float(n) for n in re.findall(r"\d\.\d{4}", check.detail))
    assert difference == pytest.approx(high - low, abs=1e-4)
    assert low == pytest.approx(0.01, abs=1e-4)
    assert check.detail.endswith("(van)")


def test_one_group_alone_differs_from_none(trained: Workspace, rows: pl.DataFrame) -> None:
    ask(trained, '[fairness]\ncolumns = ["courier"]\nmin_rows = 100000\nmax_gap = { brier = 0.0 }\n')
    challenge(trained, rows)
    assert refusals(gate(trained)) == []


def test_a_group_of_a_column_that_there_is_not_is_bad_input(trained: Workspace, rows: pl.DataFrame) -> None:
    ask(trained, '[fairness]\ncolumns = ["bogus"]\n')
    challenge(trained, rows)
    with pytest.raises(InputError, match="names unknown columns bogus as slices: use a column or a feature"):
        gate(trained)


# --- lengths of training that compete


def test_of_several_lengths_the_one_that_does_best_before_the_window_is_taken(april: Workspace) -> None:
    ask(april, "[retrain]\ntraining_window_days = [1, 0]\n")
    trained = train(april, as_of=START)
    assert trained.candidate.training_window_days == 0
    ask(april, "[retrain]\ntraining_window_days = [10]\n")
    short = train(april, as_of=START)
    assert short.candidate.training_window_days == 10
    assert short.metrics["rows"] < trained.metrics["rows"]
    everything = datasets.training_set(april.problem, april.lake, as_of=START)
    before, _ = datasets.split(april.problem, everything, april.acceptance.window, as_of=START)
    newest = before[AVAILABLE_AT].max()
    assert isinstance(newest, datetime)
    assert short.metrics["rows"] == len(before.filter(pl.col(AVAILABLE_AT) > newest - timedelta(days=10)))
