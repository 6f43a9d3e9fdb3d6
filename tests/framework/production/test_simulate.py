"""The past played again: three policies on the same rows, in a workspace of their own."""

import dataclasses
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from my_ml_project.core import datasets
from my_ml_project.core.contracts.schema import PREDICTED_AT
from my_ml_project.core.errors import InputError, Rejected
from my_ml_project.core.store.predictions import predict_as_deployed
from my_ml_project.core.workspace import Workspace
from my_ml_project.production import lifecycle
from my_ml_project.production.simulation import simulate
from my_ml_project.production.simulation.simulate import SimulationResult
from problems import START

FROM, TO = datetime(2024, 3, 20, tzinfo=UTC), datetime(2024, 3, 26, tzinfo=UTC)
CONFIG = "[decision]\ncost_false_negative = 4\n[retrain]\nevery_days = 3\n[window]\ndays = 7\n"


@pytest.fixture
def quick(trained: Workspace) -> Workspace:
    """The trained project with models of which two are tried in a week."""
    (trained.root / "config" / "params.toml").write_text("seed = 3\n")
    (trained.root / "config" / "acceptance.toml").write_text(CONFIG)
    return trained


def state(workspace: Workspace) -> dict[str, int]:
    return {name: workspace.lake.version(name) for name in (*workspace.problem.schemas, "releases", "decisions")}


def test_days_are_replayed_compared_and_gone_on_with(quick: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    before = state(quick)
    half = simulate.simulate(quick, start=FROM, end=FROM + timedelta(days=4))
    moments: list[datetime] = []
    run = lifecycle.run_due

    def watched(own: Workspace, *, now: datetime, **options: bool) -> lifecycle.RunReport:
        moments.append(now)
        return run(own, now=now, **options)

    monkeypatch.setattr(lifecycle, "run_due", watched)
    found = simulate.simulate(quick, start=FROM, end=TO)
    assert moments == [FROM + timedelta(days=n) for n in range(5, 7)], "what was replayed is not replayed again"
    assert state(quick) == before, "the project's own tables stay as they are"
    assert isinstance(found, SimulationResult)
    assert (half.total.rows, found.total.rows) == tuple(
        len(datasets.training_set(quick.problem, quick.lake, as_of=end).filter(pl.col(PREDICTED_AT) > FROM))
        for end in (FROM + timedelta(days=4), TO)
    )
    assert found.challengers == 2
    assert [month.name for month in found.months] == ["2024-03"]
    total = found.total.metrics
    assert list(total) == ["static", "periodic", "gated"]
    assert total["static"] != total["periodic"]
    assert found.saved_share == pytest.approx(1 - total["gated"]["cost"] / total["static"]["cost"])
    assert f"gated costs {found.saved_share:.1%} less than static" in str(found)
    assert "plot: reports/simulation-20240320-20240326.png" in str(found)
    assert Path(found.plot).read_bytes().startswith(b"\x89PNG")
    results = json.loads(Path(found.plot).with_suffix(".json").read_text(encoding="utf-8"))
    assert (results["challengers"], len(results["verdicts"])) == (2, 3), "with the first"
    assert all(each["verdict"].startswith("version ") for each in results["verdicts"])


def test_each_row_is_answered_by_what_served_when_it_was_predicted(trained: Workspace) -> None:
    rows = datasets.training_set(trained.problem, trained.lake, as_of=FROM).tail(30)
    first, second = rows[PREDICTED_AT][10], rows[PREDICTED_AT][20]

    class Constant:
        def __init__(self, value: float) -> None:
            self.value = value

        def predict(self, some: pl.DataFrame) -> np.ndarray:
            return np.full(len(some), self.value)

    turns = [(first, Constant(0.1)), (second, Constant(0.2))]
    answers = predict_as_deployed(rows, turns)  # type: ignore[arg-type]
    expected = np.where(rows[PREDICTED_AT].to_numpy() > np.datetime64(second.replace(tzinfo=None)), 0.2, 0.1)
    assert answers.tolist() == expected.tolist()
    assert 0 < (expected == 0.2).sum() < 20


def test_another_configuration_is_replayed_anew(quick: Workspace) -> None:
    before = simulate._workspace(quick, FROM).settings.lake
    assert simulate._workspace(quick, FROM).settings.lake == before
    (quick.root / "config" / "params.toml").write_text("seed = 4\n")
    assert simulate._workspace(dataclasses.replace(quick), FROM).settings.lake != before


def test_without_labels_there_is_nothing_to_replay(empty: Workspace) -> None:
    with pytest.raises(Rejected, match=r"^there is no label in table arrivals yet: call run, or set ML_LAKE and"):
        simulate.simulate(empty)


def test_what_is_replayed_lies_within_the_labels(quick: Workspace) -> None:
    for start, end in ((FROM, FROM), (START, START + timedelta(days=10))):
        with pytest.raises(InputError, match="the lake has labels from 2024-03-01 to 2024-0"):
            simulate.simulate(quick, start=start, end=end)
