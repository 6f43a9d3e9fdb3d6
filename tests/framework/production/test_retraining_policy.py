"""Whether a challenger is due and why, and what becomes of one that was refused or left."""

import dataclasses
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from my_ml_project.core.errors import Rejected
from my_ml_project.core.store import decisions
from my_ml_project.core.store.registry import CHALLENGER
from my_ml_project.core.workspace import Workspace
from my_ml_project.production import lifecycle
from my_ml_project.production import promote as promote_module
from my_ml_project.production import retraining_policy as decide_module
from my_ml_project.production.gate import Verdict
from my_ml_project.production.monitor import Health, QualityWindow
from my_ml_project.production.predict import champion
from my_ml_project.production.retraining_policy import decide
from my_ml_project.production.train import train
from problems import START

DUE = START + timedelta(days=28)
INSTANT = timedelta(microseconds=1)


class Asked(Exception):
    """A challenger was to be trained."""


def change_seed(workspace: Workspace) -> None:
    """Change the parameters, and with them a file that Git knows."""
    (workspace.root / "config" / "params.toml").write_text("seed = 3\n")


def ask_for(workspace: Workspace, auc: float) -> None:
    (workspace.root / "config" / "acceptance.toml").write_text(f"[at_least]\nauc = {auc}\n")
    workspace.__dict__.pop("acceptance", None)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[datetime]:
    """When challengers were to be trained; none is."""
    moments: list[datetime] = []

    def refuse(_: Workspace, *, as_of: datetime) -> None:
        moments.append(as_of)
        raise Asked

    monkeypatch.setattr(lifecycle, "train", refuse)
    return moments


def period(until: datetime, *broken: str) -> QualityWindow:
    return QualityWindow(until, 1, 1000, {}, {}, broken)


def health(moment: datetime, *periods: QualityWindow) -> Health:
    return Health(moment, (), periods)


def test_a_challenger_is_due_exactly_an_interval_after_the_last(trained: Workspace, asked: list[datetime]) -> None:
    (trained.root / "config" / "acceptance.toml").write_text("[retrain]\nevery_days = 28\n")  # whatever the quality
    done = lifecycle.run(trained, now=DUE - INSTANT)
    assert (done.trained, done.promoted, done.next_due) == (None, None, DUE)
    assert asked == []
    with pytest.raises(Asked):
        lifecycle.run(trained, now=DUE)
    assert asked == [DUE]


def test_the_interval_is_that_of_the_configuration(trained: Workspace, asked: list[datetime]) -> None:
    (trained.root / "config" / "acceptance.toml").write_text("[retrain]\nevery_days = 0.5\n")
    due = START + timedelta(hours=12)
    assert lifecycle.run(trained, now=due - INSTANT).next_due == due
    with pytest.raises(Asked):
        lifecycle.run(trained, now=due)
    assert asked == [due]


def test_by_the_clock_of_the_data_now_is_when_its_newest_label_became_known(
    trained: Workspace, asked: list[datetime]
) -> None:
    with pytest.raises(Asked):
        lifecycle.run(trained)
    assert asked == [trained.lake.read("arrivals", {}).collect()["known"].max()]
    until = trained.lake.read(lifecycle.COLLECTIONS, {}).collect()["until"].max()
    assert isinstance(until, datetime)
    assert timedelta(0) <= datetime.now(UTC) - until < timedelta(minutes=10)


def test_a_challenger_is_due_when_live_quality_broke_its_limits_twice_and_a_week_has_passed(trained: Workspace) -> None:
    for days, due in ((7, True), (6.9, False)):
        moment = START + timedelta(days=days)
        broken = health(moment, period(moment - timedelta(days=7), "NO"), period(moment, "NO"))
        decision = decide(trained, broken)
        assert decision.due is due
        assert ("breached its limits in 2 of 2 windows" in decision.reason) is due
    moment = START + timedelta(days=14)
    mended = health(moment, period(moment - timedelta(days=7), "NO"), period(moment))
    assert decide(trained, mended).reason == "not due, 14 days after the last training"


def test_a_refused_challenger_leaves_the_champion_and_is_not_tried_again_until_due(
    trained: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_seed(trained)
    ask_for(trained, auc=0.99)
    releases = trained.lake.version("releases")
    done = lifecycle.run(trained, now=DUE)
    assert done.trained is not None
    assert done.promoted is not None
    assert (done.trained.version, done.trained.as_of, done.promoted.verdict.version) == (2, DUE, 2)
    assert not done.promoted.ok
    assert not done.ok, "live quality misses its limit too, and no challenger mends it"
    assert (done.champion, done.plot_file, done.next_due) == (1, "reports/version-2.png", DUE + timedelta(days=28))
    assert "version 2 is rejected" in str(done)
    assert "plot: reports/version-2.png\n" in str(done)
    assert trained.lake.version("releases") == releases
    assert done.predicted > 0
    monkeypatch.setattr(lifecycle, "train", lambda *_, **__: pytest.fail("it was tried again"))
    ask_for(trained, auc=0.5)
    again = lifecycle.run(trained, now=DUE + timedelta(days=1))
    assert (again.trained, again.promoted, again.champion) == (None, None, 1)


def test_without_a_champion_a_refused_challenger_is_tried_again_with_newer_labels_only(
    trained: Workspace, asked: list[datetime]
) -> None:
    shutil.rmtree(trained.root / "data" / "lake" / "releases")
    ask_for(trained, auc=0.99)
    done = lifecycle.run(trained, now=START)
    assert done.promoted is not None
    assert not done.promoted.ok
    assert (done.champion, done.next_due, done.predicted) == (None, None, 0)
    assert not done.ok, "a person must act"
    words = "with the next labels, or when changed features, parameters or model are committed"
    assert str(done).endswith(f"champion: none\nnext challenger: {words}")
    again = lifecycle.run(trained, now=START)
    assert (again.trained, again.promoted, again.champion) == (None, None, None)
    assert asked == []
    lifecycle.run(trained, now=START + INSTANT)
    assert asked == [], "no label has become known since"
    with pytest.raises(Asked):
        lifecycle.run(trained, now=START + timedelta(days=1))
    assert asked == [START + timedelta(days=1)]


def test_a_rejected_challenger_is_followed_by_another_one_once_its_code_has_changed(
    trained: Workspace, asked: list[datetime]
) -> None:
    shutil.rmtree(trained.root / "data" / "lake" / "releases")
    ask_for(trained, auc=0.99)
    assert not lifecycle.run(trained, now=START).ok
    change_seed(trained)
    with pytest.raises(Asked):
        lifecycle.run(trained, now=START, dirty=True)
    assert asked == [START]


def test_a_registry_that_was_lost_is_said_and_nothing_is_trained(
    trained: Workspace, asked: list[datetime], no_runs: Path
) -> None:
    shutil.rmtree(trained.root / "mlruns")
    shutil.copytree(no_runs, trained.root / "mlruns")
    done = lifecycle.run(dataclasses.replace(trained), now=DUE)
    assert (done.ok, done.champion, asked) == (False, 1, [])
    assert done.decision.reason == (
        f"due, 28 days after the last training, but {trained.mismatch()}; if its runs are lost, train and promote to "
        "start over"
    )


def test_a_challenger_left_by_a_killed_run_is_taken_up_unless_the_code_changed(
    trained: Workspace, asked: list[datetime], monkeypatch: pytest.MonkeyPatch
) -> None:
    change_seed(trained)
    ask_for(trained, auc=0.99)
    left = train(trained, as_of=START + timedelta(hours=1))
    with monkeypatch.context() as patched:
        patched.setattr(decide_module, "code_hash", lambda _: "of another time")
        done = lifecycle.run(trained, now=START + timedelta(hours=2))
    assert (done.trained, done.promoted, done.plot_file) == (None, None, None)
    done = lifecycle.run(trained, now=START + timedelta(hours=2))
    assert f"the challenger of run {left.run_id[:8]} was trained but not evaluated: resuming with it" in str(done)
    assert done.promoted is not None
    assert (done.trained, done.plot_file, done.promoted.verdict.version) == (None, "reports/version-2.png", 2)
    assert not done.promoted.ok
    done = lifecycle.run(trained, now=START + timedelta(hours=2))
    assert (done.trained, done.promoted) == (None, None)
    assert asked == []


def test_a_challenger_that_passed_before_its_run_was_killed_is_still_released(
    tracked, trained: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = trained.registry.version_by_alias(CHALLENGER)
    assert version is not None
    assert tracked.version_tags(trained.registry, version).get("verdict") == "passed"
    shutil.rmtree(trained.root / "data" / "lake" / "releases")
    monkeypatch.setattr(lifecycle, "train", lambda *_, **__: pytest.fail("it is there already"))
    done = lifecycle.run(trained, now=START)
    assert (done.champion, done.trained) == (1, None)
    assert done.promoted is not None
    assert done.promoted.ok


@pytest.fixture
def committed(trained: Workspace) -> Workspace:
    """The trained project, with its configuration in a commit."""
    (trained.root / ".gitignore").write_text("data\nmlruns\nreports\n")
    for words in (
        ["init", "--quiet"],
        ["add", "--all"],
        ["-c", "user.name=T", "-c", "user.email=t@example.com", "commit", "--quiet", "--message", "Start"],
    ):
        subprocess.run(["git", *words], cwd=trained.root, check=True)
    return trained


def test_a_challenger_waits_for_files_to_be_committed(committed: Workspace, asked: list[datetime]) -> None:
    change_seed(committed)
    done = lifecycle.run(committed, now=DUE)
    assert not done.ok
    assert done.decision.needs_attention
    assert (
        "but config/params.toml differ from the last commit: commit them, or call run --dirty" in done.decision.reason
    )
    assert asked == []
    with pytest.raises(Asked):
        lifecycle.run(committed, now=DUE, dirty=True)


def test_a_version_from_files_that_differ_is_released_by_name_only(
    tracked, committed: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_seed(committed)
    version = train(committed, as_of=START + timedelta(hours=1)).version
    passes = Verdict(version, ())
    monkeypatch.setattr(promote_module, "evaluate", lambda *_, **__: passes)
    with pytest.raises(Rejected, match=f"^version {version} was trained from files that differ from the last commit: "):
        promote_module.promote(committed, version=version)
    assert champion(committed).version == 1
    assert not decide(committed, health(START)).unfinished_run, "run does not take it up either"
    assert promote_module.promote(committed, version=version, dirty=True).ok
    assert champion(committed).version == version
    assert tracked.tags(committed.registry, champion(committed).run_id)["dirty"] == "true"


def test_what_was_decided_is_kept_once(trained: Workspace) -> None:
    lifecycle.run(trained, now=START)
    rows = decisions.read(trained.lake).sort("batches", descending=True)
    assert rows["decision"].to_list() == ["due, there is no challenger yet", "not due, 0 days after the last training"]
    assert rows["trained"].to_list() == [1, None]
    assert rows["champion"].to_list() == [1, 1]
    assert rows["verdict"][0].startswith("version 1 passes\n")
    lifecycle.run(trained, now=START)
    assert len(decisions.read(trained.lake)) == 2
