"""From a challenger to a champion: training, the gate's questions, the one door, the way back, and the picture."""

import hashlib
import json
import shutil
import sqlite3
import subprocess
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import BytesIO
from types import SimpleNamespace
from typing import Annotated, Any, ClassVar, cast

import narwhals as nw
import numpy as np
import polars as pl
import pytest
from {{cookiecutter.__package_name}}.shared.errors import BadInput, Refused
from {{cookiecutter.__package_name}}.shared.predictor import Predictor
from matplotlib.figure import Figure

from {{cookiecutter.__package_name}}.production import gate, lifecycle, picture, predict, promote, train
from {{cookiecutter.__package_name}}.production.gate import Check, Verdict
from {{cookiecutter.__package_name}}.production.train import CANDIDATE, EVIDENCE, MODEL, Trained
from {{cookiecutter.__package_name}}.shared import dataset, training
from {{cookiecutter.__package_name}}.shared.evaluation import metrics
from {{cookiecutter.__package_name}}.shared.registry import CHALLENGER, CHAMPION, Version, code_hash
from {{cookiecutter.__package_name}}.shared.release import Release, Releases
from {{cookiecutter.__package_name}}.shared.schema import (
    AT,
    KNOWN,
    TARGET,
    EventTime,
    Frame,
    Table,
    Target,
    Task,
)
from {{cookiecutter.__package_name}}.shared.settings import Acceptance, Decision
from {{cookiecutter.__package_name}}.shared.workspace import Workspace, open_workspace

START = datetime(2013, 4, 1, tzinfo=UTC)  # when the champion of `trained` was promoted
LATER = datetime(2013, 6, 1, tzinfo=UTC)
WINDOW = timedelta(days=14)


def asking(workspace: Workspace, **parts: object) -> Workspace:
    """The same workspace, whose gate asks for this, and for nothing else."""
    asks = replace(workspace)
    vars(asks)["acceptance"] = Acceptance.model_validate(parts)
    return asks


def quicker(workspace: Workspace) -> Workspace:
    """The same workspace, whose model is small."""
    (workspace.root / "config" / "params.toml").write_text("max_iter = 20\nmin_samples_leaf = 50\nseed = 3\n")
    return open_workspace(workspace.problem, root=workspace.root)


def unpromoted(workspace: Workspace) -> Workspace:
    """The same project before its first promotion: version 1 is a challenger that passes."""
    shutil.rmtree(workspace.root / "data" / "lake" / "releases")
    with sqlite3.connect(workspace.root / "mlruns" / "mlflow.db") as db:
        db.execute("DELETE FROM registered_model_aliases WHERE alias = ?", (CHAMPION,))
    db.close()
    return open_workspace(workspace.problem, root=workspace.root)


def version_tags(workspace: Workspace, number: int) -> dict[str, str]:
    with sqlite3.connect(workspace.root / "mlruns" / "mlflow.db") as db:
        found = dict(db.execute("SELECT key, value FROM model_version_tags WHERE version = ?", (number,)))
    db.close()
    return found


def serving(workspace: Workspace) -> Release:
    champion = workspace.releases.champion()
    assert champion is not None
    return champion


def aliases(workspace: Workspace) -> tuple[int | None, int | None]:
    """The numbers of champion and challenger in the registry."""
    champion, challenger = (workspace.registry.aliased(alias) for alias in (CHAMPION, CHALLENGER))
    return champion and champion.number, challenger and challenger.number


def evidence_of(workspace: Workspace, number: int = 1) -> pl.DataFrame:
    version = workspace.registry.version(number)
    assert version is not None
    return pl.read_parquet(BytesIO(workspace.registry.read(version.run_id, EVIDENCE)))


def asked(workspace: Workspace, rows: pl.DataFrame, champion: Release | None = None) -> dict[str, Check]:
    """The gate's answers on rows of evidence, by the name of the question."""
    checks = tuple(gate._checks(workspace, rows, [], champion, seed=1))
    assert len({check.name for check in checks}) == len(checks)
    return {check.name: check for check in checks}


def made_up(days: int = 10, each: int = 12, **columns: object) -> pl.DataFrame:
    """Evidence in which one row of four came true: the model knows it well, the linear one a little."""
    n = days * each
    target = pl.Series(TARGET, [i % 4 == 0 for i in range(n)])
    rows = pl.DataFrame(
        {
            AT: [START + timedelta(days=i // each) for i in range(n)],
            KNOWN: [START + timedelta(days=i // each, hours=6) for i in range(n)],
            "carrier": ["AA"] * n,
        }
    )
    probabilities = {"_model": (0.9, 0.1), "_linear": (0.6, 0.2), "_dummy": (0.25, 0.25)}
    given = [pl.Series(name, [yes if t else no for t in target]) for name, (yes, no) in probabilities.items()]
    return rows.with_columns(target, *given).with_columns(pl.Series(name, value) for name, value in columns.items())


def second(workspace: Workspace, number: int = 2, **card: object) -> Release:
    """One more version in the registry, and its release; it differs from the champion's only by this."""
    champion = serving(workspace)
    with workspace.registry.run("train", {}, {"as_of": champion.trained_until.isoformat()}) as run:
        run.keep(MODEL, champion.onnx)
        update = {"number": number, "version": number, "run_id": run.id, "metrics": {"made_up": 1.0}} | card
        release = champion.model_copy(update=update)
        run.keep(promote.CARD, release.model_dump_json().encode())
        assert workspace.registry.register(run, MODEL).number == number
    return release


# Training


def test_a_challenger_is_registered_with_its_evidence_tags_and_metrics(trained, monkeypatch):
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(trained.root / "none"))
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", str(trained.root / "none"))
    (trained.root / "uv.lock").write_bytes(b"a lock")
    workspace = quicker(trained)

    def git(*line: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        done = subprocess.run(["git", *who, *line], cwd=trained.root, capture_output=True, text=True, check=True)  # noqa: S607
        return done.stdout.strip()

    git("init", "--quiet")
    git("add", "config", "uv.lock")
    git("commit", "--quiet", "--message", "all")
    as_of = datetime(2013, 2, 20, tzinfo=UTC)
    done = train.train(workspace, as_of=as_of)

    assert (done.version, done.as_of) == (2, as_of)
    assert aliases(workspace) == (1, 2)
    assert workspace.registry.version(2) == Version(2, done.run_id)
    assert serving(workspace).version == 1

    tags = workspace.registry.tags(done.run_id)
    assert tags["kind"] == "train"
    assert tags["commit"] == git("rev-parse", "HEAD")
    assert tags["dirty"] == "true"  # data and runs are not in this commit
    assert tags["code"] == code_hash()
    assert tags["lock"] == hashlib.sha256(b"a lock").hexdigest()
    assert datetime.fromisoformat(tags["as_of"]) == as_of
    assert json.loads(tags["tables"]) == {name: workspace.lake.version(name) for name in workspace.problem.schemas}
    assert json.loads(tags["features"]) == list(workspace.problem.features)
    assert json.loads(tags["classes"]) == []
    assert json.loads(tags["parameters"]) == workspace.parameters.model_dump()
    assert (json.loads(tags["parameters"])["max_iter"], json.loads(tags["parameters"])["seed"]) == (20, 3)

    rows = evidence_of(workspace, 2)
    labels = workspace.lake.scan(workspace.problem.labels).collect()
    known = labels.filter(pl.col("known") <= as_of)
    window = known.filter(pl.col("known") > as_of - WINDOW)
    assert 0 < len(window) < len(known) < len(labels)
    assert sorted(rows["leg"]) == sorted(window["leg"])
    assert (done.rows, done.window) == (len(known) - len(window), len(window))

    onnx = workspace.registry.read(done.run_id, CANDIDATE)
    assert workspace.registry.read(done.run_id, MODEL) == onnx
    model = Predictor(onnx, serving(workspace).features, Task.BINARY)
    assert rows["_model"].to_list() == pytest.approx(model.predict(rows), abs=1e-9)
    before = known.filter(pl.col("known") <= as_of - WINDOW)
    assert rows["_dummy"].to_list() == pytest.approx([before["late"].mean()] * len(rows))
    assert rows["_linear"].n_unique() > 100

    assert list(done.metrics) == list(train.MODELS)
    logged = workspace.registry.metrics(done.run_id)
    assert logged.pop("rows") == done.rows
    assert logged.pop("window_rows") == done.window
    assert logged.pop("parity") == pytest.approx(done.parity)
    assert done.parity < 1e-5
    names = {"model": "", "linear": "linear.", "dummy": "dummy."}
    assert logged == {
        f"{prefix}{name}": pytest.approx(value)
        for model_name, prefix in names.items()
        for name, value in done.metrics[model_name].items()
    }
    brier = float(np.square(rows["_linear"].to_numpy() - rows[TARGET].cast(pl.Float64).to_numpy()).mean())
    assert logged["linear.brier"] == pytest.approx(brier)
    assert logged["dummy.auc"] == pytest.approx(0.5)
    assert workspace.registry.verdict(Version(2, done.run_id)) is None


def test_labels_shuffled_in_training_are_blocked_and_the_reasons_named(trained, monkeypatch):
    honest = dataset.split

    def shuffled(*given: Any, **more: Any) -> tuple[pl.DataFrame, pl.DataFrame]:
        before, held = honest(*given, **more)
        return before.with_columns(pl.col(TARGET).shuffle(seed=7)), held

    monkeypatch.setattr(dataset, "split", shuffled)
    workspace = quicker(unpromoted(trained))
    train.train(workspace, as_of=START)
    done = promote.promote(workspace, now=START)
    assert not done.ok
    assert "auc at least 0.65" in {check.name for check in done.verdict.checks if not check.passed}
    assert version_tags(workspace, 2)["verdict"] == "refused"
    assert "NO   auc at least 0.65" in version_tags(workspace, 2)["reasons"]
    assert aliases(workspace) == (None, 2)
    assert workspace.releases.champion() is None


def test_too_few_rows_are_refused_and_nothing_is_registered(trained):
    with pytest.raises(
        Refused, match=r"^0 labelled rows before the newest window and \d+ in it are too few \(at least "
    ):
        train.train(trained, as_of=datetime(2013, 1, 9, tzinfo=UTC))
    assert aliases(trained) == (1, 1)
    assert trained.registry.version(2) is None


def test_a_window_counts_from_as_many_rows_as_asked_for_on_both_sides(trained):
    workspace = asking(trained, window={"rows": 50})
    enough, fewer = pl.DataFrame({"a": [0] * 50}), pl.DataFrame({"a": [0] * 49})
    train._require(workspace, enough, enough)
    with pytest.raises(Refused, match=r"^49 labelled rows before the newest window and 50 in it .*at least 50 each"):
        train._require(workspace, fewer, enough)
    with pytest.raises(Refused, match=r"^50 labelled rows before the newest window and 49 in it .*config/acceptance"):
        train._require(workspace, enough, fewer)


def test_a_planted_leak_is_refused_and_named(trained):
    honest = trained.problem.build

    def peeking(rows: Frame, history: Mapping[str, Frame]) -> Frame:
        outcomes = history["outcomes"].select("leg", spoiler=nw.col("late").cast(nw.Int64))
        return honest(rows, history).join(outcomes, on="leg", how="left")

    problem = replace(trained.problem, build=peeking, features=(*trained.problem.features, "spoiler"))
    message = r"^features know what was not known yet: spoiler change when the future is taken away$"
    with pytest.raises(Refused, match=message):
        train.train(replace(trained, problem=problem), as_of=datetime(2013, 2, 10, tzinfo=UTC))
    assert aliases(trained) == (1, 1)
    assert trained.registry.version(2) is None


def test_a_challenger_is_a_table_for_people():
    figures = {"model": {"auc": 0.75, "cost": 50.0}, "dummy": {"auc": 0.5}, "linear": {"auc": 0.65, "cost": 60.0}}
    lines = str(Trained(3, "a", START, 1000, 100, figures, 0.0)).splitlines()
    assert lines[0] == "version 3, trained on 1000 rows as of 2013-04-01 00:00; on the 100 rows of the newest window:"
    words = [line.split() for line in lines[1:]]
    assert words == [
        ["model", "dummy", "linear"],
        ["auc", "0.7500", "0.5000", "0.6500"],
        ["cost", "50.0000", "nan", "60.0000"],
    ]
    assert len({len(line) for line in lines[1:]}) == 1


# The gate's questions


def test_good_evidence_passes_every_question(trained):
    checks = asked(asking(trained, at_least={"auc": 0.9}, at_most={"log_loss": 0.2}), made_up())
    assert list(checks) == [
        "predictions are numbers",
        "auc at least 0.9",
        "log_loss at most 0.2",
        "better than dummy",
        "better than linear",
    ]
    assert all(check.passed for check in checks.values())
    assert checks["predictions are numbers"].detail == "120 rows"
    assert checks["auc at least 0.9"].detail == "1.0000"
    linear = checks["better than linear"].detail  # log(9/8) where nothing happened, log(9/6) where it did
    assert linear.startswith(f"loss lower by {0.75 * np.log(9 / 8) + 0.25 * np.log(9 / 6):+.4f} (at least +0.")


@pytest.mark.parametrize("metric", ["brier", "rate", "auc"])
def test_a_limit_is_met_at_equality_and_not_beyond(trained, metric):
    rows = made_up()
    exact = metrics(training.evidence(trained.problem, rows, "model", []), Decision())[metric]
    up, down = float(np.nextafter(exact, 2)), float(np.nextafter(exact, -1))

    def answers(**limits: object) -> list[bool]:
        found = asked(asking(trained, **limits), rows)
        return [check.passed for name, check in found.items() if name.startswith(metric)]

    assert answers(at_least={metric: exact}, at_most={metric: exact}) == [True, True]
    assert answers(at_least={metric: up}, at_most={metric: up}) == [False, True]
    assert answers(at_least={metric: down}, at_most={metric: down}) == [True, False]


def test_a_metric_that_the_rows_can_not_give_is_no_yes(trained):
    workspace = asking(trained, at_least={"auc": 0.1}, at_most={"auc": 1.0, "brier": 1.0})
    checks = asked(workspace, made_up(**{TARGET: [False] * 120}))  # auc needs both classes
    assert (checks["auc at least 0.1"].passed, checks["auc at least 0.1"].detail) == (False, "nan")
    assert (checks["auc at most 1.0"].passed, checks["auc at most 1.0"].detail) == (False, "nan")
    assert checks["brier at most 1.0"].passed


@pytest.mark.parametrize("baseline", ["dummy", "linear"])
def test_a_model_no_better_than_a_baseline_is_refused(trained, baseline):
    rows = made_up()
    other = {"dummy": "linear", "linear": "dummy"}[baseline]
    for prediction in (rows["_model"], [0.95 if t else 0.05 for t in rows[TARGET]]):  # as good, better
        checks = asked(asking(trained), rows.with_columns(pl.Series(f"_{baseline}", prediction)))
        assert not checks[f"better than {baseline}"].passed
        assert checks[f"better than {other}"].passed
    assert checks[f"better than {baseline}"].detail.startswith("loss lower by -0.05")


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_predictions_that_are_no_numbers_are_refused(trained, broken):
    rows = made_up()
    rows = rows.with_columns(pl.Series("_model", [*rows["_model"][:-1], broken]))
    checks = asked(asking(trained, at_least={"auc": 0.5}), rows)
    assert not checks["predictions are numbers"].passed


def test_slices_are_judged_from_their_size_on_and_named(trained):
    rows = made_up()
    groups = ["AA"] * 60 + ["B6"] * 40 + ["DL"] * 20
    turned = [1 - p if g != "AA" else p for p, g in zip(rows["_model"], groups, strict=True)]
    rows = rows.with_columns(pl.Series("carrier", groups), pl.Series("_model", turned))
    slices = {"columns": ["carrier"], "at_least": {"auc": 0.5}, "at_most": {"brier": 0.01 + 1e-9}}
    for smallest, judged in ((40, {"AA (60 rows)", "B6 (40 rows)"}), (41, {"AA (60 rows)"})):
        parts = {n: c for n, c in asked(asking(trained, slices=slices | {"rows": smallest}), rows).items() if c.part}
        assert {name.partition(", ")[0].removeprefix("carrier ") for name in parts} == judged
        assert len(parts) == 2 * len(judged)
    checks = asked(asking(trained, slices=slices | {"rows": 40}, at_least={"auc": 0.0}), rows)
    assert checks["carrier AA (60 rows), auc at least 0.5"].passed
    assert checks["carrier AA (60 rows), brier at most 0.010000001"].passed
    assert not checks["carrier B6 (40 rows), auc at least 0.5"].passed
    assert checks["carrier B6 (40 rows), auc at least 0.5"].detail == "0.0000"
    assert not checks["carrier B6 (40 rows), brier at most 0.010000001"].passed
    assert [name for name, check in checks.items() if check.part] == list(checks)[-4:]


def knowing(rows: pl.DataFrame, champion: Release) -> tuple[pl.DataFrame, np.ndarray]:
    """Evidence whose baselines are the champion's own answers, and these."""
    theirs = champion.predictor.predict(rows)
    return rows.with_columns(pl.Series("_dummy", theirs), pl.Series("_linear", theirs)), theirs


def test_only_labels_newer_than_the_champion_are_compared(trained):
    champion, rows = serving(trained), evidence_of(trained)
    times = rows[KNOWN].unique().sort()
    until = times[len(times) // 2]
    fresh = rows[KNOWN] > until
    n, older = fresh.sum(), champion.model_copy(update={"trained_until": until})
    assert (rows[KNOWN] == until).any()
    name = "better than champion, version 1"

    perfect = pl.when(TARGET).then(0.99).otherwise(0.01)
    stale = rows.with_columns(_model=pl.when(fresh).then(1 - perfect).otherwise(perfect))
    new = rows.with_columns(_model=pl.when(fresh).then(perfect).otherwise(1 - perfect))
    workspace = asking(trained, window={"rows": n})
    assert not asked(workspace, stale, older)[name].passed
    answer = asked(workspace, new, older)[name]
    assert answer.passed
    assert f"{n} rows); on these rows it has log_loss " in answer.detail
    theirs = training.answers(trained.problem, rows.filter(fresh), champion.predictor.predict(rows.filter(fresh)), [])
    assert f"brier {np.square(theirs.prediction - theirs.target).mean():.4f}" in answer.detail

    few = asked(asking(trained, window={"rows": n + 1}), new, older)[name]
    assert (few.passed, few.detail) == (False, f"{n} labels are newer than the champion: too few to compare")
    none = asked(asking(trained), new, champion)[name]
    assert (none.passed, none.detail) == (False, "0 labels are newer than the champion: too few to compare")


def test_a_challenger_must_be_better_than_the_champion_beyond_chance(trained):
    champion = serving(trained).model_copy(update={"trained_until": START - 2 * WINDOW})
    rows, theirs = knowing(evidence_of(trained), champion)
    name = "better than champion, version 1"

    same = asked(asking(trained), rows.with_columns(pl.Series("_model", theirs)), champion)
    assert not same[name].passed
    assert same[name].detail.startswith("loss lower by +0.0000 (at least +0.0000, ")

    day = rows[AT].dt.date()
    lucky = (day == day.mode().sort().first()).to_numpy()  # much better on one day, a little worse on all others
    truth = rows[TARGET].cast(pl.Float64).to_numpy()
    prediction = np.where(lucky, 0.98 * truth + 0.01, theirs + 0.003 * (1 - 2 * truth)).clip(0.001, 0.999)
    once = rows.with_columns(pl.Series("_model", prediction))
    checks = asked(asking(trained), once, champion)
    assert checks["better than dummy"].passed
    assert checks["better than linear"].passed
    assert not checks[name].passed
    assert "loss lower by +0." in checks[name].detail
    assert "(at least -0." in checks[name].detail
    assert asked(asking(trained, confidence=0.2), once, champion)[name].passed


def test_a_champion_whose_feature_is_no_longer_built_is_named(trained):
    champion = serving(trained).model_copy(update={"trained_until": START - 2 * WINDOW})
    rows = evidence_of(trained).drop("distance", "humidity")
    answer = asked(asking(trained), rows, champion)["better than champion, version 1"]
    assert not answer.passed
    assert answer.detail == "features.build no longer gives it distance, humidity: keep them"


def test_the_verdict_and_its_reasons_are_kept_with_the_version(trained):
    verdict = gate.judge(trained)
    assert (verdict.version, verdict.champion, verdict.ok) == (1, 1, False)
    assert [check.name for check in verdict.checks if not check.passed] == ["better than champion, version 1"]
    tags = version_tags(trained, 1)
    assert tags["verdict"] == "refused"
    assert tags["reasons"] == "\n".join(str(check) for check in verdict.checks)
    assert trained.registry.verdict(Version(1, "")) == "refused"

    workspace = unpromoted(trained)
    verdict = gate.judge(workspace, version=1)
    assert (verdict.version, verdict.champion, verdict.ok) == (1, None, True)
    tags = version_tags(workspace, 1)
    assert tags["verdict"] == "passed"
    assert "champion" not in tags["reasons"]
    assert gate.judge(workspace) == verdict  # the same answers whenever it is asked


def test_a_verdict_shows_its_noes_first_and_counts_its_slices():
    yes, no = Check("a", passed=True, detail="1"), Check("b", passed=False, detail="2")
    part, bad = Check("c", passed=True, detail="3", part=True), Check("d", passed=False, detail="4", part=True)
    assert (str(yes), str(no)) == ("yes  a: 1", "NO   b: 2")
    verdict = Verdict(7, None, (yes, no, part, bad))
    assert not verdict.ok
    assert str(verdict).splitlines() == [
        "version 7 is refused",
        "  NO   b: 2",
        "  NO   d: 4",
        "  yes  a: 1",
        "  1 of 2 answers on slices are yes",
    ]
    assert str(Verdict(7, 6, (yes,))).splitlines() == ["version 7 passes", "  yes  a: 1"]


def test_without_a_challenger_or_such_a_version_there_is_nothing_to_judge(empty, trained):
    for ask in (gate.judge, promote.promote):
        with pytest.raises(BadInput, match=r"^there is no challenger: train one first$"):
            ask(empty)
        with pytest.raises(BadInput, match=r"^there is no version 99$"):
            ask(trained, version=99)
    assert gate.challenger(trained) == trained.registry.version(1)
    later = second(trained)
    assert gate.challenger(trained).number == 1
    assert gate.challenger(trained, 2) == Version(2, later.run_id)


# The one door


def test_a_refused_challenger_moves_nothing(trained):
    run_id = serving(trained).run_id
    before = serving(trained), aliases(trained), trained.registry.read(run_id, MODEL), trained.lake.version("releases")
    done = promote.promote(trained, now=LATER)
    assert (done.ok, done.release, done.rows) == (False, None, 0)
    assert str(done) == str(done.verdict)
    after = serving(trained), aliases(trained), trained.registry.read(run_id, MODEL), trained.lake.version("releases")
    assert after == before


def test_what_passes_is_refitted_on_all_that_it_could_know_and_serves(trained):
    held = evidence_of(trained)
    workspace = unpromoted(trained)
    lifecycle.bring_in(workspace, LATER)  # what is newer than the challenger changes nothing
    done = promote.promote(workspace)
    release = serving(workspace)
    tags = workspace.registry.tags(release.run_id)

    assert (done.ok, done.release) == (True, 1)
    assert str(done).splitlines()[-1] == f"version 1 is champion, refitted on {done.rows} rows"
    assert (release.number, release.version, release.reason) == (1, 1, "promoted")
    assert release.released == dataset.newest(workspace.problem, workspace.lake)
    assert release.trained_until == START == datetime.fromisoformat(tags["as_of"])
    assert aliases(workspace) == (1, 1)
    assert workspace.registry.read(release.run_id, MODEL) == release.onnx
    assert workspace.registry.read(release.run_id, CANDIDATE) != release.onnx
    assert json.loads(workspace.registry.read(release.run_id, promote.CARD)) == json.loads(release.model_dump_json())

    labels = workspace.lake.scan(workspace.problem.labels).collect()
    assert done.rows == len(labels.filter(pl.col("known") <= START)) < len(labels)
    rows = dataset.training_set(workspace.problem, workspace.lake, as_of=START, versions=json.loads(tags["tables"]))
    assert release.tables == json.loads(tags["tables"])
    assert release.parameters == workspace.parameters.model_dump()
    assert release.metrics == workspace.registry.metrics(release.run_id)
    assert release.threshold == pytest.approx(0.2)
    assert (release.task, release.classes) == (Task.BINARY, ())
    assert list(release.features) == list(workspace.problem.features)
    assert [name for name, text in release.features.items() if text] == ["carrier", "destination"]
    assert release.reference["temperature"] == rows["temperature"].median()
    assert release.reference["carrier"] == rows["carrier"].value_counts().sort("count")["carrier"].last()
    assert set(release.reference) == set(release.features)

    golden = release.golden
    last = rows.tail(promote.GOLDEN)
    assert [row["leg"] for row in golden.requests] == last["leg"].to_list()
    assert len(golden.requests) == len(golden.features) == len(golden.answers) == 20
    assert set(golden.requests[0]) == set(workspace.problem.schema.names)
    online = predict.features_for(workspace, last.select(workspace.problem.schema.names), now=START)
    assert release.predictor.predict(online) == pytest.approx(golden.answers, abs=1e-6)
    release.check()

    def log_loss(onnx: bytes) -> float:
        prediction = Predictor(onnx, release.features, Task.BINARY).predict(held)
        truth = held[TARGET].to_numpy()
        return float(-np.log(np.where(truth, prediction, 1 - prediction)).mean())

    candidate = workspace.registry.read(release.run_id, CANDIDATE)
    assert log_loss(release.onnx) < log_loss(candidate)  # it has seen the window now


def test_code_that_changed_since_training_is_not_released(trained, monkeypatch):
    workspace = unpromoted(trained)
    monkeypatch.setattr(promote, "code_hash", lambda: "another")
    with pytest.raises(Refused, match=r"^the code has changed since version 1 was trained: train again$"):
        promote.promote(workspace, now=START)
    assert aliases(workspace) == (None, 1)
    assert workspace.releases.champion() is None


def test_training_serving_skew_is_named_and_nothing_moves(trained, monkeypatch):
    model = trained.registry.read(serving(trained).run_id, MODEL)
    workspace = unpromoted(trained)
    honest = predict.features_for

    def skewed(*given: Any, **more: Any) -> pl.DataFrame:
        first = pl.int_range(pl.len()) == 0
        lost = pl.when(~first).then("delay_count")
        return honest(*given, **more).with_columns(lost, humidity=pl.col("humidity") + pl.when(first).then(0.5))

    monkeypatch.setattr(promote, "features_for", skewed)
    message = r"^training-serving skew: humidity, delay_count of a request differ from those of training$"
    with pytest.raises(Refused, match=message):
        promote.promote(workspace, now=START)
    assert aliases(workspace) == (None, 1)
    assert workspace.releases.champion() is None
    assert workspace.registry.read(workspace.registry.aliased(CHALLENGER).run_id, MODEL) == model


def test_a_refit_that_fails_its_golden_requests_is_not_released(trained, monkeypatch):
    good = serving(trained)
    model = trained.registry.read(good.run_id, MODEL)
    wrong = good.golden.model_copy(update={"answers": [1 - answer for answer in good.golden.answers]})
    workspace = unpromoted(trained)
    release = good.model_copy(update={"golden": wrong, "onnx": good.onnx + b""})
    monkeypatch.setattr(promote, "_refitted", lambda *_, **__: (release, 1))
    with pytest.raises(Refused, match=r"^version 1 answers its golden requests with a difference of "):
        promote.promote(workspace, now=START)
    assert aliases(workspace) == (None, 1)
    assert workspace.releases.champion() is None
    assert workspace.registry.read(good.run_id, MODEL) == model


class Killed(BaseException):
    """The process ends here."""


def killed(*_: object) -> bool:
    raise Killed


def test_a_promotion_killed_between_alias_and_row_is_repaired_once(trained, monkeypatch):
    workspace = unpromoted(trained)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Releases, "append", killed)
        promote.promote(workspace, now=START)
    assert aliases(workspace) == (1, 1)
    assert workspace.releases.champion() is None

    assert promote.repair(workspace, now=LATER) == 1
    release = serving(workspace)
    assert (release.number, release.version, release.released, release.reason) == (1, 1, LATER, "promoted")
    assert release.trained_until == START
    assert release.onnx == workspace.registry.read(release.run_id, MODEL)
    release.check()
    assert promote.repair(workspace, now=LATER) is None
    assert workspace.lake.version("releases") == 0
    assert len(workspace.releases.newest(10)) == 1


def test_a_later_promotion_killed_between_alias_and_row_is_repaired_too(trained, monkeypatch):
    release = second(trained)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Releases, "append", killed)
        promote.publish(trained, release)
    assert aliases(trained) == (2, 1)
    assert serving(trained).version == 1
    assert promote.repair(trained, now=LATER) == 2
    repaired = serving(trained)
    assert (repaired.number, repaired.version, repaired.released) == (2, 2, LATER)
    assert repaired.metrics == {"made_up": 1.0}
    assert promote.repair(trained, now=LATER) is None
    assert [found.number for found in trained.releases.newest(10)] == [2, 1]


def test_there_is_nothing_to_repair_before_the_first_promotion(empty, trained):
    assert promote.repair(empty, now=LATER) is None
    workspace = unpromoted(trained)
    assert promote.repair(workspace, now=LATER) is None
    assert workspace.releases.champion() is None


# The way back


def test_a_better_challenger_takes_over_and_a_rollback_brings_the_old_champion_back_byte_for_byte(trained):
    first = serving(trained)
    lifecycle.bring_in(trained, LATER)
    challenger = train.train(trained, as_of=LATER)
    assert challenger.window == len(evidence_of(trained, 2))
    done = promote.promote(trained, now=LATER)
    assert done.ok, str(done)
    assert done.verdict.champion == 1
    new = serving(trained)
    assert (new.number, new.version, new.trained_until, done.release) == (2, 2, LATER, 2)
    assert aliases(trained) == (2, 2)
    assert new.onnx != first.onnx

    back = promote.rollback(trained, now=LATER + WINDOW)
    assert back == promote.RolledBack(version=1, release=3)
    assert str(back) == "version 1 is champion again"
    again = serving(trained)
    assert (again.number, again.version, again.reason) == (3, 1, "rolled back")
    assert again.released == LATER + WINDOW
    assert again.onnx == first.onnx
    same = {"number", "released", "reason", "onnx"}
    assert again.model_dump(exclude=same) == first.model_dump(exclude=same)
    rows = evidence_of(trained, 2)
    assert again.predictor.predict(rows).tolist() == first.predictor.predict(rows).tolist()
    assert aliases(trained) == (1, 2)
    assert promote.repair(trained, now=LATER) is None


def test_a_rollback_goes_one_version_back_each_time_and_ends_at_the_first(trained):
    for number in (2, 3):
        promote.publish(trained, second(trained, number))
    assert [promote.rollback(trained).version for _ in range(2)] == [2, 1]
    assert aliases(trained) == (1, 1)
    assert serving(trained).number == 5
    with pytest.raises(Refused, match=r"^there is no version before the champion's to go back to$"):
        promote.rollback(trained)
    assert (serving(trained).number, aliases(trained)) == (5, (1, 1))


def test_without_a_predecessor_there_is_no_way_back(empty, trained):
    for workspace in (empty, trained):
        with pytest.raises(Refused, match=r"^there is no version before the champion's to go back to$"):
            promote.rollback(workspace)
    assert (serving(trained).number, aliases(trained)) == (1, (1, 1))


def test_a_version_that_no_longer_answers_its_golden_requests_does_not_come_back(trained):
    wrong = serving(trained).golden.model_copy(update={"answers": [0.5] * 20})
    promote.publish(trained, second(trained, 2, golden=wrong))
    promote.publish(trained, second(trained, 3, golden=serving(trained).golden))
    with pytest.raises(Refused, match=r"^version 2 answers its golden requests"):
        promote.rollback(trained)
    assert (serving(trained).version, aliases(trained)) == (3, (3, 1))


# The picture


class Guest(Table):
    """Predicted in the pictures below."""

    table: ClassVar = "guests"
    time: Annotated[datetime, EventTime()]


class Drinks(Guest):
    """What a guest drinks."""

    drink: Annotated[str, Target()]


class Spends(Guest):
    """What a guest spends."""

    spent: Annotated[float, Target()]


class Returns(Guest):
    """Whether a guest returns."""

    returns: Annotated[bool, Target()]


class Knowing:
    """A model that looks at the feature `age` alone, and answers as its task asks."""

    def __init__(self, model: bytes, features: dict[str, bool], task: Task) -> None:
        assert (model, features) == (b"onnx", {"noise": False, "age": False})
        self.task = task

    def predict(self, rows: pl.DataFrame) -> np.ndarray:
        age = rows["age"].to_numpy()
        if self.task is Task.REGRESSION:
            return 10.0 * age
        likely = np.where(age == 1, 0.8, 0.1)
        return likely if self.task is Task.BINARY else np.stack([1 - likely, likely], axis=1)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are drawn."""
    drawn: list[Figure] = []
    canvas = picture.FigureCanvasAgg
    monkeypatch.setattr(picture, "FigureCanvasAgg", lambda figure: (drawn.append(figure), canvas(figure)))
    return drawn


def some_problem(trained: Workspace, table: type[Table]) -> Any:
    return replace(trained.problem, subject=table, tables=(table,), features=("noise", "age"))


def guests(target: list[object]) -> pl.DataFrame:
    """One guest in four is of age 1, and noise is noise."""
    n = len(target)
    ages, noise = [float(i % 4 == 0) for i in range(n)], [float(i * 7 % 5) for i in range(n)]
    rows = pl.DataFrame({"age": ages, "noise": noise, TARGET: target})
    return rows.with_columns(_linear=pl.lit(0.25) + pl.col("noise") / 100)


DRAWN = {
    Drinks: (
        ["beer", "wine"],
        ["wine" if i % 4 == 0 else "beer" for i in range(80)],
        ["what the model looks at", "confusion", "confidence", ""],
    ),
    Spends: (
        [],
        [10.0 * (i % 4 == 0) + i % 3 - 1 for i in range(80)],
        ["what the model looks at", "predicted and true", "errors", ""],
    ),
    Returns: (
        [],
        [i % 4 == 0 for i in range(80)],
        ["what the model looks at", "calibration", "ROC", "cost of decisions"],
    ),
}


@pytest.mark.parametrize("table", DRAWN)
def test_a_picture_fits_its_task(trained, table, figures, monkeypatch):
    classes, target, titles = DRAWN[table]
    rows, kept = guests(target), {}
    content = BytesIO()
    rows.write_parquet(content)
    files = {EVIDENCE: content.getvalue(), CANDIDATE: b"onnx"}
    registry = SimpleNamespace(
        read=lambda _, name: files[name],
        tags=lambda _: {"classes": json.dumps(classes)},
        resumed=lambda _: nullcontext(SimpleNamespace(keep=kept.__setitem__)),
    )
    problem = some_problem(trained, table)
    workspace = SimpleNamespace(
        problem=problem,
        registry=registry,
        settings=trained.settings,
        path=trained.path,
        acceptance=Acceptance(decision=Decision(miss=4)),
    )
    model = Knowing(b"onnx", {"noise": False, "age": False}, problem.task).predict(rows)
    if problem.task is Task.BINARY:
        workspace_rows = rows.with_columns(pl.Series("_model", model))
        content = BytesIO()
        workspace_rows.write_parquet(content)
        files[EVIDENCE] = content.getvalue()
    monkeypatch.setattr(picture, "Predictor", Knowing)
    path = picture.draw(cast(Workspace, workspace), Version(5, "a run"))
    assert path == "reports/version-5.png"
    assert (trained.root / path).read_bytes() == kept["picture.png"]
    assert kept["picture.png"].startswith(b"\x89PNG")

    (figure,) = figures
    assert figure.get_suptitle() == "version 5 on the 80 rows of the newest window"
    importance, one, two, three = figure.axes
    assert [axes.get_title() for axes in figure.axes] == titles
    assert [label.get_text() for label in importance.get_yticklabels()] == ["noise", "age"]  # the largest on top
    noise, age = importance.patches
    assert noise.get_width() == 0 < age.get_width()
    if problem.task is Task.MULTICLASS:
        assert one.images[0].get_array().tolist() == [[60, 0], [0, 20]]
        assert (one.get_xlabel(), one.get_ylabel()) == ("predicted class", "true class")
        heights = [patch.get_height() for patch in two.patches]
        assert (len(heights), heights[0], heights[-1]) == (40, 20, 60)  # 0.8, 0.9
    elif problem.task is Task.REGRESSION:
        points = one.collections[0].get_offsets().tolist()
        assert points == [[10.0 * (i % 4 == 0), target[i]] for i in range(80)]
        assert (one.get_xlabel(), one.get_ylabel()) == ("predicted", "true")
        heights = [patch.get_height() for patch in two.patches]
        assert (len(heights), heights[0], heights[-1]) == (40, 26, 27)  # predicted less true: -1 and 1
        assert (two.patches[0].get_x(), three.axison) == (-1.0, False)
    else:
        assert np.allclose(one.lines[1].get_xdata()[[0, -1]], [0.1, 0.8])
        assert np.allclose(one.lines[1].get_ydata()[[0, -1]], [0.0, 1.0])
        assert [text.get_text() for text in two.get_legend().get_texts()] == ["model, area 1.000", "linear, area 0.500"]
        assert two.lines[0].get_xdata()[[0, -1]].tolist() == [0, 1]
        assert two.lines[0].get_ydata().max() == 1
        costs, line = three.lines
        assert line.get_xdata() == pytest.approx([0.2, 0.2])
        assert (len(costs.get_xdata()), costs.get_xdata()[0], costs.get_xdata()[-1]) == (99, 0.01, 0.99)
        assert costs.get_ydata()[[0, 49, -1]].tolist() == pytest.approx(
            [75.0, 0.0, 100.0]
        )  # alerts for all, none missed


def test_the_picture_of_a_real_challenger_lies_in_the_reports_and_beside_its_run(trained, figures):
    version = trained.registry.version(1)
    path = picture.draw(trained, version)
    assert path == "reports/version-1.png"
    content = (trained.root / path).read_bytes()
    assert content.startswith(b"\x89PNG")
    assert trained.registry.read(version.run_id, "picture.png") == content
    (figure,) = figures
    importance, _, roc, _ = figure.axes
    assert len(importance.patches) == picture.BARS < len(trained.problem.features)
    widths = [patch.get_width() for patch in importance.patches]
    assert widths == sorted(widths)
    logged = trained.registry.metrics(version.run_id)
    legend = [text.get_text() for text in roc.get_legend().get_texts()]
    assert legend == [f"model, area {logged['auc']:.3f}", f"linear, area {logged['linear.auc']:.3f}"]


def test_what_matters_is_sorted_and_measured_on_a_sample(trained):
    target = [10.0 * (i % 4 == 0) for i in range(picture.ROWS + 100)]
    seen: list[int] = []

    class Watched(Knowing):
        def predict(self, rows: pl.DataFrame) -> np.ndarray:
            seen.append(len(rows))
            return super().predict(rows)

    model = cast(Predictor, Watched(b"onnx", {"noise": False, "age": False}, Task.REGRESSION))
    found = picture.importance(some_problem(trained, Spends), model, guests(target), [])
    assert list(found) == ["age", "noise"]
    assert found["noise"] == 0
    assert found["age"] == pytest.approx(100 * 2 * 0.25 * 0.75, rel=0.1)  # both of a shuffled pair, 100 each
    assert seen == [picture.ROWS] * 3
