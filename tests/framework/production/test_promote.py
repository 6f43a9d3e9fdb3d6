"""The only door to the champion: what is released, what moves nothing, what a kill leaves, and the way back."""

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from my_ml_project.core import datasets
from my_ml_project.core.contracts.schema import AVAILABLE_AT, TARGET
from my_ml_project.core.errors import InputError, Rejected
from my_ml_project.core.models import training
from my_ml_project.core.store.registry import CHALLENGER, CHAMPION, Version
from my_ml_project.core.store.releases import MODEL_FILE, GoldenRequests, Release
from my_ml_project.core.workspace import Workspace
from my_ml_project.production import lifecycle, model_card
from my_ml_project.production import promote as promote_module
from my_ml_project.production.predict import features_for, predict_rows
from my_ml_project.production.promote import promote, publish, repair_registry, rollback
from problems import START

MARCH = datetime(2024, 3, 20, tzinfo=UTC)
NOW = datetime(2024, 4, 2, 12, tzinfo=UTC)
METRICS = {"auc": 0.75, "linear.auc": 0.7, "rows": 1000.0, "window_rows": 3000.0}
OTHER = {"seed": 3}


def serving(workspace: Workspace) -> Release:
    release = workspace.releases.champion()
    assert release is not None
    return release


def alias(workspace: Workspace) -> int | None:
    """The version that MLflow calls champion."""
    found = workspace.registry.version_by_alias(CHAMPION)
    return found.number if found else None


def challenge(workspace: Workspace, **changes: Any) -> Version:
    """Register a challenger of another model whose evidence convinces the gate."""
    registry = workspace.registry
    champion = registry.version_by_alias(CHAMPION)
    assert champion is not None
    candidate = workspace.candidates.read(champion.run_id)
    truth = pl.col(TARGET).cast(pl.Float64)
    rows = candidate.holdout.with_columns(
        pl.col(AVAILABLE_AT).dt.offset_by("60d"), _model=0.1 + 0.8 * truth, _linear=pl.lit(0.4), _dummy=pl.lit(0.5)
    )
    with registry.run("train", {}, {}) as run:
        made = {"run_id": run.id, "trained": datetime.now(UTC), "holdout": rows, "metrics": METRICS}
        made["parameters"] = candidate.parameters | OTHER
        workspace.candidates.append(candidate.model_copy(update=made | changes))
    version = registry.register(run.id, MODEL_FILE)
    registry.set_alias(CHALLENGER, version.number)
    return version


class Snapshot:
    """What must not move: the alias, the table of releases, and what serves."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.before = self._now()

    def _now(self) -> tuple[object, ...]:
        release = serving(self.workspace)
        alias = self.workspace.registry.version_by_alias(CHAMPION)
        return alias, self.workspace.lake.version("releases"), release.number, release.onnx

    def is_as_before(self) -> bool:
        return self._now() == self.before


def kept_beside(tracked, workspace: Workspace, version: Version, name: str) -> bytes | None:
    try:
        content: bytes = tracked.read(workspace.registry, version.run_id, name)
    except (InputError, FileNotFoundError):
        return None
    return content


# --- promotion


def test_a_challenger_that_passes_is_refitted_on_everything_and_serves(tracked, trained: Workspace) -> None:
    version = challenge(trained, as_of=MARCH)
    whole = datasets.training_set(trained.problem, trained.lake, as_of=MARCH)
    done = promote(trained, now=NOW)
    release = serving(trained)

    assert done.ok
    assert (done.release, done.rows, done.verdict.version) == (2, len(whole), 2)
    assert trained.registry.version_by_alias(CHAMPION) == version
    assert (release.number, release.version, release.run_id) == (2, 2, version.run_id)
    assert (release.released, release.reason, release.trained_until) == (NOW, "promoted", MARCH)
    assert release.task == trained.problem.task
    assert release.classes == ()
    assert release.threshold == pytest.approx(1 / (1 + 4))
    assert list(release.features) == list(trained.problem.features)
    assert {name for name, text in release.features.items() if text} == {"courier", "city"}
    assert release.metrics == METRICS
    assert release.parameters == trained.parameters.model_dump() | OTHER
    assert release.tables == datasets.table_versions(trained.problem, trained.lake)
    assert str(done).splitlines()[-1] == f"version 2 is champion, refitted on {len(whole)} rows"

    parameters = trained.parameters.model_copy(update=OTHER)
    again = training.fit(trained.problem, parameters, whole, parity_rows=whole.head(100))
    assert release.onnx == again.onnx
    assert kept_beside(tracked, trained, version, MODEL_FILE) == release.onnx


def test_a_refit_reads_the_versions_of_the_tables_that_training_read(trained: Workspace) -> None:
    lifecycle.collect_and_ingest(trained, NOW)
    tables = datasets.table_versions(trained.problem, trained.lake) | {"arrivals": 0}
    challenge(trained, as_of=NOW, tables=tables)
    done = promote(trained, now=NOW)
    assert done.rows == len(datasets.training_set(trained.problem, trained.lake, as_of=NOW, versions=tables))
    assert done.rows < len(datasets.training_set(trained.problem, trained.lake, as_of=NOW))
    assert serving(trained).tables == tables


def test_golden_requests_are_the_newest_rows_with_what_the_pipeline_answers(trained: Workspace) -> None:
    release = serving(trained)
    newest = datasets.training_set(trained.problem, trained.lake, as_of=START).tail(20)
    golden = release.golden
    assert [row["parcel"] for row in golden.requests] == newest["parcel"].to_list()
    assert {tuple(row) for row in golden.requests} == {tuple(trained.problem.schema.request.loggable.names)}
    features = pl.DataFrame(golden.features, schema=newest.select(list(release.features)).schema, strict=False)
    assert features.equals(newest.select(list(release.features)), null_equal=True)
    assert np.allclose(release.predictor.predict(newest), golden.predictions, rtol=0, atol=1e-6)
    assert len(set(golden.predictions)) > 10


def test_a_typical_row_has_the_median_numbers_and_the_most_frequent_texts(trained: Workspace) -> None:
    rows = datasets.training_set(trained.problem, trained.lake, as_of=START)
    reference = serving(trained).reference
    assert list(reference) == list(trained.problem.features)
    assert reference["distance"] == rows["distance"].median()
    assert reference["courier"] == rows["courier"].value_counts(sort=True)["courier"][0]


def test_a_refused_challenger_moves_nothing(tracked, trained: Workspace) -> None:
    (trained.root / "config" / "acceptance.toml").write_text("[at_least]\nauc = 1.5\n")
    version, state = challenge(trained), Snapshot(trained)
    done = promote(trained, now=NOW)
    assert (done.ok, done.release, done.rows) == (False, None, 0)
    assert str(done) == str(done.verdict)
    assert state.is_as_before()
    assert kept_beside(tracked, trained, version, MODEL_FILE) is None


def test_a_version_can_be_named(trained: Workspace) -> None:
    challenge(trained)
    third, state = challenge(trained), Snapshot(trained)
    with pytest.raises(InputError, match="there is no version 9"):
        promote(trained, version=9)
    assert state.is_as_before()
    assert promote(trained, version=2, now=NOW).release == 2
    assert serving(trained).version == 2
    assert trained.registry.version_by_alias(CHALLENGER) == third


def test_code_that_has_changed_since_training_is_refused(trained: Workspace) -> None:
    challenge(trained, code="of yesterday")
    state = Snapshot(trained)
    with pytest.raises(Rejected, match="the code has changed since version 2 was trained: train again"):
        promote(trained, now=NOW)
    assert state.is_as_before()


def test_an_export_that_answers_its_golden_requests_otherwise_is_refused(
    tracked, trained: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    version, state = challenge(trained), Snapshot(trained)
    golden = promote_module._golden

    def other(workspace: Workspace, rows: pl.DataFrame, answers: np.ndarray, as_of: datetime) -> GoldenRequests:
        return golden(workspace, rows, answers + 0.01, as_of)

    monkeypatch.setattr(promote_module, "_golden", other)
    with pytest.raises(Rejected, match=r"version 2 differs by 0\.01 from its golden predictions: it must not serve"):
        promote(trained, now=NOW)
    assert state.is_as_before()
    assert kept_beside(tracked, trained, version, MODEL_FILE) is None


def test_features_that_are_others_when_served_are_refused_and_named(
    tracked, trained: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    version, state = challenge(trained), Snapshot(trained)

    def skewed(*given: Any, **named: Any) -> pl.DataFrame:
        first = pl.int_range(pl.len()) == 0
        return features_for(*given, **named).with_columns(
            distance=pl.col("distance") + pl.when(first).then(1).otherwise(0)
        )

    monkeypatch.setattr(promote_module, "features_for", skewed)
    with pytest.raises(Rejected, match="training-serving skew: distance of a request differ from those of training"):
        promote(trained, now=NOW)
    assert state.is_as_before()
    assert kept_beside(tracked, trained, version, MODEL_FILE) is None


# --- interruptions


class Killed(BaseException):
    """The process ends here."""


def killed(*_: object, **__: object) -> None:
    raise Killed


def test_a_promotion_cut_between_row_and_alias_is_repaired(
    tracked, trained: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = challenge(trained)
    with monkeypatch.context() as cut:
        cut.setattr(promote_module, "sync_registry", killed)
        with pytest.raises(Killed):
            promote(trained, now=NOW)
    assert serving(trained).version == 2, "the row decides"
    assert alias(trained) == 1
    rows = trained.lake.version("releases")
    repair_registry(trained)
    assert alias(trained) == 2
    assert kept_beside(tracked, trained, version, MODEL_FILE) == serving(trained).onnx
    assert "version | 2, promoted" in (trained.root / "reports" / "model-card.md").read_text(encoding="utf-8")
    monkeypatch.setattr(promote_module, "sync_registry", killed)
    repair_registry(trained)  # there is nothing left to do
    assert trained.lake.version("releases") == rows


def test_the_alias_moves_last_so_that_all_else_is_done_again(
    trained: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    challenge(trained)
    with monkeypatch.context() as cut:
        cut.setattr(model_card, "fill", killed)
        with pytest.raises(Killed):
            promote(trained, now=NOW)
    assert (serving(trained).version, alias(trained)) == (2, 1)
    lifecycle.run(trained, now=NOW)
    assert alias(trained) == 2


def test_nothing_is_repaired_where_alias_and_row_agree_or_there_is_neither(
    trained: Workspace, empty_registry: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promote_module, "sync_registry", killed)
    state = Snapshot(trained)
    repair_registry(trained)
    assert state.is_as_before()
    repair_registry(empty_registry)
    assert empty_registry.releases.champion() is None


@pytest.fixture
def empty_registry(trained: Workspace, no_runs: Path) -> Workspace:
    """A workspace beside the trained one, in which nothing has run."""
    shutil.copytree(no_runs, trained.root / "other" / "mlruns")
    elsewhere = trained.settings.model_copy(update={"lake": "other/lake", "tracking": "other/mlruns"})
    return Workspace(trained.root, elsewhere, trained.problem)


@pytest.mark.parametrize("step", ["evaluate", "_refit", "record"])
def test_of_two_promotions_at_once_one_wins(trained: Workspace, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    challenge(trained)
    do = getattr(promote_module, step)

    def overtaken(*given: Any, **named: Any) -> object:
        result, champion = do(*given, **named), serving(trained)
        assert trained.releases.append(champion.model_copy(update={"number": champion.number + 1, "version": 9}))
        return result

    monkeypatch.setattr(promote_module, step, overtaken)
    with pytest.raises(Rejected, match="version 2 is not released because of a concurrent release; try again"):
        promote(trained, now=NOW)
    assert (serving(trained).version, alias(trained)) == (9, 1)


@pytest.mark.slow
def test_of_two_processes_that_release_at_once_one_is_told(trained: Workspace) -> None:
    challenge(trained)
    other = shutil.copytree(trained.root, trained.root.parent / "other")
    shared = {"ML_LAKE": str(trained.root / "data" / "lake"), "ML_TRACKING": str(trained.root / "mlruns")}
    environment = os.environ | shared | {"PYTHONPATH": str(Path(__file__).parents[1])}

    def at_once(*commands: tuple[str, ...]) -> list[int]:
        lines = [[sys.executable, "-m", "console", *command] for command in commands]
        places = zip(lines, (trained.root, other), strict=True)
        running = [subprocess.Popen(line, cwd=folder, env=environment) for line, folder in places]
        status = [process.wait() for process in running]
        assert alias(trained) == serving(trained).version
        return sorted(status)

    promotion, rollback = ("promote", "--dirty"), ("rollback",)
    assert at_once(promotion, promotion) == [0, 1]
    assert (serving(trained).number, serving(trained).version) == (2, 2)
    assert at_once(rollback, rollback) == [0, 1]
    assert (serving(trained).number, serving(trained).version) == (3, 1)
    challenge(trained)
    status = at_once(promotion, rollback)
    assert (serving(trained).number, serving(trained).version, status) == (4, 3, [0, 1])


def test_what_serves_needs_no_mlflow_that_answers(trained: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    promoted(trained)
    nowhere = trained.settings.model_copy(update={"tracking": "http://127.0.0.1:1"})
    assert rollback(Workspace(trained.root, nowhere, trained.problem), now=NOW).version == 1
    assert (
        "version 1 serves; MLflow will be updated by the next run: MLflow at http://127.0.0.1:1 failed" in caplog.text
    )
    assert (serving(trained).version, alias(trained)) == (1, 2)
    repair_registry(trained)
    assert alias(trained) == 1


# --- the way back


def promoted(workspace: Workspace, **changes: Any) -> Release:
    """Let a next version serve, without the work of fitting it."""
    version, champion = challenge(workspace), serving(workspace)
    own = {"number": champion.number + 1, "version": version.number, "run_id": version.run_id, "reason": "promoted"}
    publish(workspace, champion.model_copy(update=own | changes))
    return serving(workspace)


def test_after_a_rollback_the_model_is_the_same_to_the_byte_and_so_are_its_answers(trained: Workspace) -> None:
    asked = trained.lake.scan(trained.problem.schema).select(trained.problem.schema.names).tail(200).collect()
    before = serving(trained)
    answers = predict_rows(trained, before, asked, now=NOW)
    challenge(trained)
    assert promote(trained, now=NOW).ok
    assert serving(trained).onnx != before.onnx
    assert not predict_rows(trained, serving(trained), asked, now=NOW).equals(answers)

    back = rollback(trained, now=NOW)
    release = serving(trained)
    assert (back.version, back.release, str(back)) == (1, 3, "version 1 is champion again")
    assert (release.number, release.version, release.reason, release.released) == (3, 1, "rolled back", NOW)
    assert release.onnx == before.onnx
    assert predict_rows(trained, release, asked, now=NOW).equals(answers)
    assert alias(trained) == 1

    state = Snapshot(trained)
    with pytest.raises(Rejected, match="there is no previous version to roll back to"):
        rollback(trained, now=NOW)
    assert state.is_as_before()


def test_what_is_rolled_back_step_by_step_ends_at_the_first(trained: Workspace) -> None:
    promoted(trained)
    promoted(trained)
    assert serving(trained).version == 3
    assert [rollback(trained, now=NOW).version for _ in range(2)] == [2, 1]
    assert [release.version for release in trained.releases.newest(9)] == [1, 2, 3, 2, 1]
    assert promoted(trained).version == 4
    assert rollback(trained, now=NOW).version == 1, "the version that served before, not one that was taken back"


def test_without_a_time_a_rollback_is_now(trained: Workspace) -> None:
    promoted(trained)
    rollback(trained)
    assert serving(trained).released == datasets.newest_label(trained.problem, trained.lake)


def test_there_is_nothing_to_go_back_to_in_a_new_project(empty: Workspace) -> None:
    shutil.rmtree(empty.root / "mlruns")
    with pytest.raises(Rejected, match=r"there is no champion yet: call run, or set ML_LAKE and ML_TRACKING"):
        rollback(empty)
    assert not (empty.root / "mlruns").exists()


def test_a_release_that_no_longer_answers_as_it_did_is_not_gone_back_to(trained: Workspace) -> None:
    golden = serving(trained).golden
    wrong = golden.model_copy(update={"predictions": [answer + 0.01 for answer in golden.predictions]})
    promoted(trained, golden=wrong)
    promoted(trained, golden=golden)
    state = Snapshot(trained)
    with pytest.raises(Rejected, match=r"version 2 differs by 0\.01"):
        rollback(trained, now=NOW)
    assert state.is_as_before()


def test_the_next_run_keeps_what_was_rolled_back(trained: Workspace) -> None:
    promoted(trained)
    rollback(trained, now=NOW)
    state = Snapshot(trained)
    done = lifecycle.run(trained, now=NOW)
    assert (done.champion, done.trained, done.promoted) == (1, None, None)
    assert state.is_as_before()
