"""The monitor: what it says of data, age, drift and live quality, and when a person must act."""

import dataclasses
import json
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from my_ml_project.core import datasets
from my_ml_project.core.acceptance import Acceptance
from my_ml_project.core.contracts.schema import AVAILABLE_AT
from my_ml_project.core.errors import Rejected
from my_ml_project.core.models import evaluation
from my_ml_project.core.models.evaluation import metrics
from my_ml_project.core.parts import Alert, Severity
from my_ml_project.core.workspace import Workspace
from my_ml_project.production import lifecycle
from my_ml_project.production.ingest import ingest_file
from my_ml_project.production.monitor import (
    Health,
    QualityWindow,
    limits_breached,
    live_quality,
    monitor,
)
from my_ml_project.production.predict import champion
from problems import START

Command = Callable[..., subprocess.CompletedProcess[str]]
DAY = timedelta(days=1)
LATER = START + 14 * DAY


@pytest.fixture
def later(trained: Workspace) -> Workspace:
    """The trained project two weeks on: what arrived is in the lake."""
    lifecycle.collect_and_ingest(trained, LATER)
    return trained


def asking(workspace: Workspace, **change: object) -> Workspace:
    """The same with another configuration of the gate and the monitor."""
    changed = dataclasses.replace(workspace)
    asked = Acceptance.model_validate(workspace.acceptance.model_dump() | change)
    object.__setattr__(changed, "acceptance", asked)
    return changed


def found(health: Health) -> dict[str, Alert]:
    return {finding.name: finding for finding in health.alerts}


def test_a_fresh_project_raises_no_alarm(trained: Workspace) -> None:
    health = monitor(trained, now=START)
    assert health.ok, str(health)
    assert health.critical == []
    assert (found(health)["live quality"].severity, health.periods) == (Severity.OK, ())
    assert found(health)["contract of parcels"].severity is Severity.OK


def test_where_nothing_serves_a_person_must_act(empty: Workspace) -> None:
    with pytest.raises(Rejected, match="there is no champion yet: call run, or set ML_LAKE and ML_TRACKING"):
        monitor(empty, now=START)
    lifecycle.collect_and_ingest(empty, START)
    health = monitor(empty, now=START)
    assert not health.ok
    assert [finding.name for finding in health.critical if "table" not in finding.name] == ["champion"]
    assert "critical champion: there is no champion: call run" in str(health)


def test_live_quality_is_the_champions_on_labels_that_came_after_its_training(later: Workspace) -> None:
    release = champion(later)
    periods = live_quality(later, release, now=LATER, windows=4)
    assert [period.until for period in periods] == [START + 7 * DAY, LATER]
    rows = datasets.training_set(later.problem, later.lake, as_of=LATER)
    for period in periods:
        part = rows.filter(pl.col(AVAILABLE_AT) > period.until - 7 * DAY, pl.col(AVAILABLE_AT) <= period.until)
        answers = evaluation.labelled_predictions(later.problem, part, release.predictor.predict(part), release.classes)
        assert period.rows == len(part) > 300
        assert period.online == pytest.approx(metrics(answers, later.acceptance.decision))
        assert (period.offline, period.version) == (release.metrics, 1)


def test_labels_since_a_time_have_the_features_that_they_have_among_all(later: Workspace) -> None:
    everything = datasets.training_set(later.problem, later.lake, as_of=LATER)
    for since in (START, LATER - timedelta(hours=12)):
        rows = datasets.training_set(later.problem, later.lake, as_of=LATER, since=since)
        assert rows.equals(everything.filter(pl.col(AVAILABLE_AT) > since))
        assert len(rows) > 5


def test_limits_that_a_window_misses_are_named(later: Workspace) -> None:
    strict = asking(later, at_least={"auc": 0.99}, at_most={"log_loss": 0.01})
    periods = live_quality(strict, champion(strict), now=LATER, windows=4)
    assert [len(period.breached) for period in periods] == [2, 2]
    quality = found(monitor(strict, now=LATER))["live quality"]
    assert quality.severity is Severity.CRITICAL
    assert "auc at least 0.99: " in quality.detail
    assert found(monitor(later, now=LATER))["live quality"].severity is not Severity.CRITICAL


@pytest.mark.parametrize(
    ("broken", "expected"),
    [([1, 0, 0, 1], True), ([1, 1, 1, 0], False), ([0, 0, 0, 1], False), ([1, 1], True), ([1], False), ([], False)],
)
def test_limits_have_broken_when_the_latest_window_and_enough_others_miss_them(
    trained: Workspace, broken: list[int], *, expected: bool
) -> None:
    periods = tuple(
        QualityWindow(LATER - 7 * n * DAY, 1, 100, {}, {}, ("NO",) * bad)
        for n, bad in reversed(list(enumerate(reversed(broken))))
    )
    assert limits_breached(trained, periods, now=LATER) is expected
    assert not limits_breached(trained, periods, now=LATER + DAY), "the latest window has too few labels"


def test_one_bad_window_alone_is_a_warning(later: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    from my_ml_project.production import monitor as module  # noqa: PLC0415 - named like its function

    bad = QualityWindow(LATER, 1, 100, {"auc": 0.5}, {"auc": 0.7}, ("FAIL  auc at least 0.65: 0.5000",))
    monkeypatch.setattr(module, "live_quality", lambda *_, **__: (dataclasses.replace(bad, breached=()), bad))
    health = monitor(later, now=LATER, full=False)
    assert found(health)["live quality"].severity is Severity.WARNING
    assert health.ok
    assert "version 1, 100 rows: auc 0.5 (training 0.7)" in str(health)


@pytest.mark.parametrize(("days", "state"), [(14, Severity.OK), (13.9, Severity.CRITICAL)])
def test_a_champion_older_than_the_measured_limit_is_stale(later: Workspace, days: float, state: Severity) -> None:
    aged = asking(later, monitor={"max_model_age_days": days})
    assert found(monitor(aged, now=LATER, full=False))["age"].severity is state


def test_a_table_that_has_gone_silent_is_an_alarm(trained: Workspace) -> None:
    quiet = asking(trained, monitor={"max_table_age_days": 3})
    assert found(monitor(quiet, now=START, full=False))["table traffic"].severity is Severity.OK
    silent = found(monitor(quiet, now=START + 4 * DAY, full=False))
    assert {name: silent[f"table {name}"].severity for name in ("traffic", "traffic")}
    assert silent["table traffic"].detail.endswith("days old (at most 3)")


def test_a_breached_batch_is_an_alarm_until_its_folder_is_deleted(trained: Workspace) -> None:
    file = trained.path("bad.parquet")
    pl.DataFrame({"parcel": [1]}).write_parquet(file)
    batch = ingest_file(trained, file, now=START, table="arrivals")
    trained = asking(trained, monitor={})
    (alarm,) = monitor(trained, now=START + 27 * DAY, full=False).critical
    assert alarm.name == "batch arrivals/bad.parquet"
    assert alarm.detail.endswith(f"correct the file, then delete {batch.quarantine}")
    assert monitor(trained, now=START + 28 * DAY, full=False).ok
    trained.path(batch.quarantine or "").joinpath("reasons.json").unlink()
    assert monitor(trained, now=START, full=False).ok


def test_a_breached_batch_is_an_alarm_also_where_the_clock_is_that_of_the_data(trained: Workspace) -> None:
    file = trained.path("bad.parquet")
    pl.DataFrame({"parcel": [1]}).write_parquet(file)
    ingest_file(trained, file, now=datetime.now(UTC), table="arrivals")
    assert "batch arrivals/bad.parquet" in found(monitor(trained, now=START, full=False))


def test_before_the_first_labels_there_is_no_drift(trained: Workspace) -> None:
    drift = found(monitor(trained, now=datetime(2024, 2, 1, tzinfo=UTC)))["drift"]
    assert (drift.severity, drift.detail) == (Severity.OK, "too few labels since the champion's training")


@pytest.mark.parametrize("content", ["{", "{}", "[]"])
def test_reasons_that_can_not_be_read_are_an_alarm_that_names_the_folder(trained: Workspace, content: str) -> None:
    folder = trained.path(trained.settings.quarantine) / "traffic" / "half"
    folder.mkdir(parents=True)
    (folder / "reasons.json").write_text(content)
    (alarm,) = monitor(trained, now=START, full=False).critical
    assert (alarm.name, alarm.detail) == ("batch half", f"reasons.json is not readable: delete {folder}")


def test_a_champion_that_answers_otherwise_than_it_was_trained_to_is_an_alarm_and_predicts_nothing(
    trained: Workspace,
) -> None:
    release = champion(trained)
    assert found(monitor(trained, now=START))["golden requests"].severity is Severity.OK
    golden = release.golden.model_copy(update={"predictions": [answer + 0.5 for answer in release.golden.predictions]})
    trained.releases.append(release.model_copy(update={"number": 2, "golden": golden}))
    alarm = found(monitor(trained, now=START))["golden requests"]
    assert alarm.severity is Severity.CRITICAL
    assert alarm.detail.startswith(
        "version 1 differs by 0.5 from its golden predictions: it must not serve: call rollback"
    )
    with pytest.raises(Rejected, match="it must not serve"):
        champion(trained)


def test_rows_of_the_lake_that_no_longer_keep_the_contract_are_an_alarm(
    trained: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    import narwhals as nw  # noqa: PLC0415

    monkeypatch.setattr(trained.problem.schemas["traffic"].model, "rules", {"it is warm": nw.col("temperature") > 60})
    health = found(monitor(trained, now=START))
    assert (health["contract of traffic"].severity, health["contract of traffic"].detail) == (
        Severity.CRITICAL,
        "newest rows violate it is warm",
    )


def test_a_batch_without_harm_leaves_drift_a_warning(later: Workspace) -> None:
    health = monitor(later, now=LATER)
    assert found(health)["drift"].severity is Severity.WARNING, "April is warmer than March"
    assert "temperature" in found(health)["drift"].detail
    assert found(monitor(asking(later, monitor={"max_psi": 1e9}), now=LATER))["drift"].detail == "no drift"
    assert found(monitor(later, now=START))["drift"].detail.startswith("too few labels")


def test_slices_are_looked_at_in_live_quality(later: Workspace) -> None:
    slices = {"columns": ["courier"], "min_rows": 50, "at_least": {"auc": 0.99}}
    bad = found(monitor(asking(later, slices=slices), now=LATER))["courier van"]
    assert (bad.severity, bad.detail[:23]) == (Severity.WARNING, "FAIL  auc at least 0.99")
    good = found(monitor(asking(later, slices=slices | {"at_least": {"auc": 0.01}}), now=LATER))["courier van"]
    assert good.severity is Severity.OK


def _spoil(workspace: Workspace) -> None:
    file = workspace.path("bad.parquet")
    pl.DataFrame({"parcel": [1]}).write_parquet(file)
    ingest_file(workspace, file, now=START, table="arrivals")


@pytest.mark.parametrize(("spoil", "status"), [(lambda _: None, 0), (_spoil, 1)])
def test_the_command_ends_with_one_where_something_must_be_done(
    trained: Workspace, command: Command, spoil: Callable[[Workspace], None], status: int
) -> None:
    spoil(trained)
    done = command("monitor", "--json", "--now", f"{START:%Y-%m-%d}")
    assert done.returncode == status, done.stderr
    states = {finding["severity"] for finding in json.loads(done.stdout)["alerts"]}
    assert ("critical" in states) == bool(status)
