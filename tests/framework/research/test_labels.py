"""Labels by people: which rows are asked for, what annotators see, and what becomes of their answers."""

import dataclasses
import json
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline

from my_ml_project.core import datasets
from my_ml_project.core.contracts.schema import (
    AVAILABLE_AT,
    AvailableAt,
    Category,
    EventTime,
    Excluded,
    Key,
    Personal,
    Table,
    Target,
    Task,
)
from my_ml_project.core.errors import InputError, Rejected
from my_ml_project.core.models import training
from my_ml_project.core.problem import ModelSpec, Problem
from my_ml_project.core.store.releases import GoldenRequests, Release
from my_ml_project.core.workspace import Workspace
from my_ml_project.production.erasure.erase import erase
from my_ml_project.production.ingest import ingest
from my_ml_project.research.labels import sampling
from my_ml_project.research.labels.export_tasks import export_tasks
from my_ml_project.research.labels.import_annotations import (
    ImportResult,
    _by_now,
    aggregate,
    import_annotations,
)

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
STATES = ("broken", "fine", "lost")
BEFORE, OTHERWISE = "rows were labelled before", "of them have a different annotation, and don't change"

# --- a subject, and three kinds of labels


class Parcel(Table):
    """A parcel that is sent."""

    table: ClassVar = "parcels"

    depot: Annotated[str, Key()]
    number: Annotated[int, Key()]
    sent: Annotated[datetime, EventTime()]
    weight: Annotated[float, Field(gt=0)]
    sender: Annotated[str, Personal()]
    origin: Annotated[str, Excluded("the law")]


class Damage(Table):
    """Whether it arrived damaged."""

    table: ClassVar = "damages"

    depot: Annotated[str, Key()]
    number: Annotated[int, Key()]
    seen: Annotated[datetime, AvailableAt()]
    weight: Annotated[float, Field(gt=0)]
    remark: str | None
    damaged: Annotated[bool, Target()]


class Severity(Table):
    """How it arrived."""

    table: ClassVar = "states"

    depot: Annotated[str, Key()]
    number: Annotated[int, Key()]
    seen: Annotated[datetime, AvailableAt()]
    state: Annotated[str, Category(STATES), Target()]


class Delay(Table):
    """How many days it took."""

    table: ClassVar = "delays"

    depot: Annotated[str, Key()]
    number: Annotated[int, Key()]
    seen: Annotated[datetime, AvailableAt()]
    days: Annotated[float, Field(ge=0), Target()]


class Parameters(BaseModel):
    seed: int = 0


def problem(labels: type[Table], kind: Callable[[], Any]) -> Problem:
    return Problem(
        entity=Parcel,
        tables=(Parcel, labels),
        features=("weight",),
        lookback=timedelta(0),
        build=lambda rows, _: rows,
        collect=lambda *_: [],
        model_spec=lambda: ModelSpec(Parameters, lambda *_: make_pipeline(SimpleImputer(), kind())),
    )


DAMAGES = problem(Damage, LogisticRegression)
PROBLEMS = {
    "binary": DAMAGES,
    "multiclass": problem(Severity, LogisticRegression),
    "regression": problem(Delay, LinearRegression),
}
PREDICTION_COLUMNS: dict[str, Sequence[str | float]] = {
    "binary": ("true", "false"),
    "multiclass": ("lost", "fine"),
    "regression": (2.5, 3),
}
PARCELS = 60
LABELLED = 30  # the first; the last ten are still to be sent


def parcels() -> pl.DataFrame:
    number = np.arange(PARCELS)
    return pl.DataFrame(
        {
            "depot": [f"depot {n % 2}" for n in number],
            "number": number,
            "sent": [NOW + (int(n) - 50) * HOUR for n in number],
            "weight": 1 + np.random.default_rng(0).permutation(PARCELS) / 10,
            "sender": [f"sender {n}" for n in number],
            "origin": [f"origin {n % 3}" for n in number],
        }
    )


def outcomes(problem: Problem) -> pl.DataFrame:
    weight, damp = pl.col("weight"), pl.col("number") % 7
    answers = {
        "damaged": weight + damp / 4 > 4,
        "state": pl.when(weight < 3)
        .then(pl.lit("fine"))
        .when(weight < 5)
        .then(pl.lit("lost"))
        .otherwise(pl.lit("broken")),
        "days": weight * 2 + damp / 9,
    }
    rows = parcels().head(LABELLED).with_columns(seen=pl.col("sent") + HOUR / 2, remark=pl.lit(None, dtype=pl.String))
    return rows.with_columns(**answers).select(problem.labels.names)


Ready = Callable[..., Workspace]


@pytest.fixture
def ready(opened: Callable[..., Workspace]) -> Ready:
    """A project of parcels, half of them labelled: `ready("binary", champion=False)`."""

    def make(kind: str = "binary", *, champion: bool = True) -> Workspace:
        workspace = opened(PROBLEMS[kind])
        for table, rows in {"parcels": parcels(), workspace.problem.labels.name: outcomes(workspace.problem)}.items():
            path = workspace.root / f"{table}.parquet"
            rows.write_parquet(path)
            assert ingest(workspace, path, now=NOW).ok
        if champion:
            release(workspace)
        return workspace

    return make


def release(workspace: Workspace) -> None:
    rows = datasets.training_set(workspace.problem, workspace.lake, as_of=NOW)
    fitted = training.fit(workspace.problem, Parameters(), rows, parity_rows=rows.with_columns(weight=pl.lit(2.0)))
    workspace.releases.append(
        Release(
            number=1,
            version=7,
            run_id="",
            released=NOW,
            reason="promoted",
            trained_until=NOW,
            task=workspace.problem.task,
            features=fitted.predictor.features,
            classes=fitted.classes,
            threshold=None,
            reference={},
            metrics={},
            parameters={},
            tables={},
            golden=GoldenRequests(requests=[], features=[], predictions=[]),
            onnx=fitted.onnx,
        )
    )


# --- what Label Studio makes of tasks

Made = dict[str, Any]


def annotated(answer: object, *, by: object = 1, hours: float = 1, number: int = 1, cancelled: bool = False) -> Made:
    """An annotation in an export as JSON."""
    name = "choices" if isinstance(answer, str) else "number"
    value = {"choices": [answer]} if isinstance(answer, str) else {"number": answer}
    result = {"from_name": "label", "to_name": "row", "type": name, "value": value, "id": "x", "origin": "manual"}
    return {
        "id": number,
        "completed_by": by,
        "created_at": (NOW + hours * HOUR).isoformat().replace("+00:00", "Z"),
        "updated_at": (NOW + hours * HOUR).isoformat(),
        "was_cancelled": cancelled,
        "ground_truth": False,
        "result": [] if answer is None else [result],
    }


def as_json(tasks: list[Made], *annotations: list[Made]) -> list[Made]:
    """Tasks as they are exported: their data, and what annotators said of each."""
    return [
        {"id": 100 + n, "data": task["data"], "annotations": made, "predictions": [], "total_annotations": len(made)}
        for n, (task, made) in enumerate(zip(tasks, annotations, strict=True))
    ]


def as_json_min(exported: list[Made]) -> list[Made]:
    """The same as JSON-MIN: an entry an annotation, without what was cancelled; the task's id overwrites a datum's."""
    return [
        task["data"]
        | {"id": task["id"]}
        | dict(minimal(made))
        | {"annotator": made["completed_by"], "annotation_id": made["id"], "created_at": made["created_at"]}
        | {"updated_at": made["updated_at"], "lead_time": 3.2}
        for task in exported
        for made in task["annotations"]
        if not made["was_cancelled"]
    ]


def minimal(made: Made) -> Iterator[tuple[str, object]]:
    """An answer as JSON-MIN has it: a single choice by itself, a number in a list."""
    for result in made["result"]:
        value = result["value"]
        yield result["from_name"], value["choices"][0] if "choices" in value else [value]


def tasks_of(workspace: Workspace, n: int = 50, strategy: str = "random") -> list[Made]:
    export_tasks(workspace, n=n, strategy=strategy, out=workspace.root / "labels.json", now=NOW)
    found: list[Made] = json.loads((workspace.root / "labels.json").read_text(encoding="utf-8"))
    return found


def brought(workspace: Workspace, content: object, name: str = "export.json") -> ImportResult:
    path = workspace.root / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return import_annotations(workspace, path)


def labels(workspace: Workspace) -> pl.DataFrame:
    schema = workspace.problem.labels
    return workspace.lake.scan(schema).select(schema.names).sort(schema.key).collect()


def kept(workspace: Workspace) -> pl.DataFrame:
    rows = workspace.lake.read("annotations", {"number": pl.Int64(), "annotator": pl.String()}).collect()
    return rows.sort("number", "annotator")


def state(workspace: Workspace) -> tuple[int, set[Path]]:
    """What an import could have changed."""
    return workspace.lake.version("annotations"), set(workspace.path(workspace.settings.inbox).rglob("*"))


# --- export


@pytest.mark.parametrize("kind", PROBLEMS)
def test_a_task_has_key_row_and_prediction_and_nothing_closed(ready: Ready, kind: str) -> None:
    workspace = ready(kind)
    tasks = tasks_of(workspace)
    assert len(tasks) == 21, "no labelled parcel, and none that is still to be sent"
    assert {int(task["data"]["key"]["number"]) for task in tasks} == set(range(30, 51))
    rows = {row["number"]: row for row in parcels().to_dicts()}
    champion = workspace.releases.champion()
    assert champion
    for task in tasks:
        key, shown = task["data"]["key"], task["data"]["row"]
        row = rows[int(key["number"])]
        assert key == {"depot": row["depot"], "number": str(row["number"])}
        assert set(shown) == {"depot", "number", "sent", "weight"}
        assert shown["weight"] == row["weight"]
        (prediction,) = task["predictions"]
        (result,) = prediction["result"]
        answer = champion.predictor.predict(pl.DataFrame({"weight": [row["weight"]]}))
        assert prediction["model_version"].endswith(" 7")
        assert (result["from_name"], result["to_name"]) == ("label", "row")
        if kind == "regression":
            assert result["type"] == "number"
            assert result["value"]["number"] == pytest.approx(answer[0])
            assert "score" not in prediction
        else:
            probabilities = sampling.class_probabilities(answer)[0]
            names = champion.classes or ("false", "true")
            assert result["type"] == "choices"
            assert result["value"] == {"choices": [names[int(probabilities.argmax())]]}
            assert prediction["score"] == pytest.approx(probabilities.max(), abs=1e-6)
    text = (workspace.root / "labels.json").read_text(encoding="utf-8")
    assert not [word for word in ("sender", "origin", "NaN") if word in text]


@pytest.mark.parametrize(
    ("kind", "classes"), [("binary", ["false", "true"]), ("multiclass", list(STATES)), ("regression", [])]
)
def test_the_interface_beside_the_tasks_has_the_classes(ready: Ready, kind: str, classes: list[str]) -> None:
    workspace = ready(kind)
    tasks_of(workspace, n=1)
    view = ET.parse(workspace.root / "labels.xml").getroot()  # noqa: S314 - written by us
    question, table, control = view
    assert question.get("value", "").startswith(workspace.problem.target.name)
    assert (table.tag, table.get("value")) == ("Table", "$row")
    assert (control.tag, control.get("name"), control.get("toName")) == (
        "Choices" if classes else "Number",
        "label",
        table.get("name"),
    )
    assert [choice.get("value") for choice in control] == classes


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_margin_asks_for_the_rows_whose_two_likeliest_classes_are_closest(ready: Ready, kind: str) -> None:
    workspace = ready(kind)
    champion = workspace.releases.champion()
    assert champion
    asked = [int(task["data"]["key"]["number"]) for task in tasks_of(workspace, n=5, strategy="margin")]
    pool = parcels()[LABELLED:51]
    likely = np.sort(sampling.class_probabilities(champion.predictor.predict(pool)), axis=1)
    margin = likely[:, -1] - likely[:, -2]
    assert asked == pool["number"].to_numpy()[np.argsort(margin)[:5]].tolist()


@pytest.mark.parametrize("kind", PROBLEMS)
@pytest.mark.parametrize("strategy", ["random", "disagreement"])
def test_the_same_state_gives_the_same_tasks_whatever_was_there(ready: Ready, kind: str, strategy: str) -> None:
    workspace = ready(kind)
    first = tasks_of(workspace, n=5, strategy=strategy)
    assert tasks_of(workspace, n=5, strategy=strategy) == first
    assert tasks_of(workspace, n=3, strategy=strategy) == first[:3]
    assert len({task["data"]["key"]["number"] for task in first}) == 5
    assert not list(workspace.root.glob("*.part"))


def test_random_needs_no_champion_and_the_others_say_so(ready: Ready) -> None:
    workspace = ready(champion=False)
    assert [task["predictions"] for task in tasks_of(workspace, n=3)] == [[], [], []]
    for strategy in ("margin", "disagreement"):
        with pytest.raises(Rejected, match=f"^there is no champion, which {strategy} needs, yet: call run, or set"):
            tasks_of(workspace, strategy=strategy)


def test_margin_does_not_apply_to_numbers(ready: Ready) -> None:
    workspace = ready("regression")
    with pytest.raises(InputError, match=r"^margin compares classes, and days is a number: use --strategy [^\n]+$"):
        tasks_of(workspace, strategy="margin")


def test_where_each_row_has_its_label_the_answer_is_no(ready: Ready) -> None:
    workspace = ready()
    with pytest.raises(Rejected, match=r"^no row of parcels is unlabelled: ingest more rows first$"):
        export_tasks(workspace, n=5, out=workspace.root / "labels.json", now=NOW - 40 * HOUR)
    assert not (workspace.root / "labels.json").exists()


def test_tasks_go_into_the_reports_by_default_and_into_json_only(ready: Ready) -> None:
    workspace = ready()
    done = export_tasks(workspace, n=2, now=NOW)
    assert (done.tasks, done.unlabelled) == (2, 21)
    assert Path(done.out) == workspace.root / "reports" / "labels.json"
    assert str(done).startswith("2 of 21 unlabelled rows, by margin -> ")
    with pytest.raises(InputError, match=r"labels\.csv ends in '\.csv': tasks are \.json"):
        export_tasks(workspace, n=2, out=workspace.root / "labels.csv", now=NOW)


def test_without_a_class_to_choose_from_nothing_is_asked(opened: Callable[..., Workspace]) -> None:
    class Free(Severity):
        table: ClassVar = "states"
        state: Annotated[str, Target()]

    workspace = opened(dataclasses.replace(PROBLEMS["multiclass"], tables=(Parcel, Free)))
    with pytest.raises(
        InputError, match=r"^no class of state is known yet: name them by Category\(\) in shared/contract"
    ):
        export_tasks(workspace, n=2, strategy="random", now=NOW)


# --- strategies


def test_a_committee_of_one_mind_disagrees_about_nothing_and_a_split_one_most() -> None:
    sure, split = np.array([0.9, 0.5, 0.1]), np.array([0.9, 0.5, 0.9])
    assert sampling.disagreement([sure, sure], Task.BINARY) == pytest.approx([0, 0, 0])
    assert sampling.disagreement([sure, split], Task.BINARY).argmax() == 2
    values = [np.array([1.0, 2.0]), np.array([1.0, 4.0])]
    assert sampling.disagreement(values, Task.REGRESSION).tolist() == [0, 1]
    three = [np.array([[0.8, 0.1, 0.1], [0.2, 0.2, 0.6]]), np.array([[0.1, 0.8, 0.1], [0.2, 0.2, 0.6]])]
    apart = 0.8 * np.log(0.8 / 0.45) + 0.1 * np.log(0.1 / 0.45)  # from the mean 0.45, 0.45, 0.1
    assert sampling.disagreement(three, Task.MULTICLASS) == pytest.approx([apart, 0])


def test_of_rows_worth_the_same_the_first_are_asked() -> None:
    assert sampling.highest(np.array([0.5, 1, 0.5, 1, 0.5]), 4).tolist() == [1, 3, 0, 2]


def test_a_committee_knows_every_class_though_one_is_rare(ready: Ready) -> None:
    workspace = ready("multiclass")
    rows = datasets.training_set(workspace.problem, workspace.lake, as_of=NOW)
    rare = pl.concat([rows.filter(pl.col("_target") != "lost"), rows.filter(pl.col("_target") == "lost").head(1)])
    rng = np.random.default_rng(0)
    predictions = sampling.committee(workspace.problem, Parameters(), rare, rows, rng=rng)
    assert [found.shape for found in predictions] == [(LABELLED, 3)] * sampling.MEMBERS
    assert not np.array_equal(predictions[0], predictions[1])


# --- import


@pytest.mark.parametrize("form", [as_json, as_json_min], ids=["JSON", "JSON-MIN"])
def test_corrected_answers_are_as_new_as_that_and_people_whose_accounts_are_deleted_stay_apart(
    ready: Ready, form: Callable[..., list[Made]]
) -> None:
    workspace = ready("binary")
    tasks = tasks_of(workspace, n=2)
    corrected = annotated("false", hours=1) | {"updated_at": (NOW + 5 * HOUR).isoformat()}
    gone = [annotated("true", by=None, number=number) for number in (7, 8)]
    said = as_json(tasks, [corrected], [annotated("false", by=2), *gone])
    exported = said if form is as_json else [*as_json_min(said), {"id": 9, **tasks[0]["data"]}]  # one was not answered
    done = brought(workspace, exported)
    assert (done.labels, done.annotations) == (2, 4)
    rows = {(str(row["number"]), row["annotator"]): row for row in kept(workspace).to_dicts()}
    first, second = (task["data"]["key"]["number"] for task in tasks)
    assert rows[first, "1"]["created"] == NOW + 5 * HOUR
    assert {who for number, who in rows if number == second} == {
        "2",
        "deleted, of annotation 7",
        "deleted, of annotation 8",
    }
    assert rows[second, "2"]["agreement"] == pytest.approx(2 / 3), "of the label that three chose"
    more = as_json(tasks, [corrected], [annotated("false", by=2), *gone, annotated("false", by=4, hours=6)])
    assert brought(workspace, more).annotations == 1, "a longer file adds what is new alone"


@pytest.mark.parametrize("kind", PROBLEMS)
@pytest.mark.parametrize("form", [as_json, as_json_min], ids=["JSON", "JSON-MIN"])
def test_answers_become_labels_with_annotator_time_and_agreement(
    ready: Ready, kind: str, form: Callable[..., list[Made]]
) -> None:
    workspace = ready(kind)
    tasks = tasks_of(workspace, n=2)
    one, other = PREDICTION_COLUMNS[kind]
    said = as_json(
        tasks,
        [annotated(one, by=1, hours=2), annotated(one, by=2, hours=3), annotated(other, by={"id": 3}, hours=9)],
        [annotated(other, by="ada@example.org", hours=1)],
    )
    before = labels(workspace)
    done = brought(workspace, said if form is as_json else as_json_min(said))
    assert (done.labels, set(done.left_out.values()), done.annotations) == (2, {0}, 4)
    assert done.batch
    batches = ingest(workspace, now=NOW + 24 * HOUR).batches
    assert [(batch.accepted, batch.ok) for batch in batches] == [(2, True)], str(batches)
    added = labels(workspace).join(before, on=["depot", "number"], how="anti")
    found = {(row["depot"], str(row["number"])): row for row in added.to_dicts()}
    rows = [found[tuple(task["data"]["key"].values())] for task in tasks]
    target = workspace.problem.target.name
    assert [str(row[target]).lower() for row in rows] == [
        str(one),
        str(float(other) if kind == "regression" else other),
    ]
    assert [row["seen"] for row in rows] == [NOW + 3 * HOUR, NOW + HOUR]
    if kind == "binary":
        weights = dict(parcels().select("number", "weight").iter_rows())
        assert [(row["weight"], row["remark"]) for row in rows] == [(weights[row["number"]], None) for row in rows]
    said_of = {
        (str(row["number"]), row["annotator"]): (row["created"], round(row["agreement"], 3), row["annotators"])
        for row in kept(workspace).to_dicts()
    }
    first, second = (task["data"]["key"]["number"] for task in tasks)
    assert said_of == {
        (first, "1"): (NOW + 2 * HOUR, 0.667, 3),
        (first, "2"): (NOW + 3 * HOUR, 0.667, 3),
        (first, "3"): (NOW + 9 * HOUR, 0.667, 3),
        (second, "ada@example.org"): (NOW + HOUR, 1, 1),
    }
    assert datasets.training_set(workspace.problem, workspace.lake, as_of=NOW + 4 * HOUR).shape[0] == LABELLED + 2


def test_an_import_is_idempotent_before_and_after_the_batch_is_taken_in(ready: Ready) -> None:
    workspace = ready()
    tasks = tasks_of(workspace, n=3)
    some = as_json(tasks[:2], [annotated("true")], [annotated("false")])
    first = brought(workspace, some)
    after = state(workspace)
    again = brought(workspace, as_json_min(some), name="other.json")
    assert (first.labels, again.labels, again.left_out[BEFORE], again.annotations) == (2, 0, 2, 0)
    assert state(workspace) == after
    assert str(again).startswith("no new label\n2 rows were labelled before")
    assert ingest(workspace, now=NOW + 24 * HOUR).ok
    taken = labels(workspace)
    more = as_json(
        tasks, [annotated("true"), annotated("true", by=2, hours=5)], [annotated("false")], [annotated("true")]
    )
    grown = brought(workspace, more)
    assert (grown.labels, grown.left_out[BEFORE], grown.left_out[OTHERWISE], grown.annotations) == (1, 2, 0, 2)
    assert ingest(workspace, now=NOW + 24 * HOUR).ok
    assert len(labels(workspace)) == len(taken) + 1
    assert labels(workspace).join(taken, on=taken.columns, how="semi", nulls_equal=True).equals(taken)
    assert brought(workspace, more).annotations == 0


def test_a_label_stays_though_annotators_change_their_mind(ready: Ready) -> None:
    workspace = ready()
    tasks = tasks_of(workspace, n=1)
    brought(workspace, as_json(tasks, [annotated("true")]))
    changed = brought(workspace, as_json(tasks, [annotated("true"), annotated("false", hours=2, number=2)]))
    assert (changed.labels, changed.annotations) == (0, 1)
    assert "1 rows were labelled before, 1 of them have a different annotation, and don't change" in str(changed)
    assert kept(workspace).sort("created")["label"].to_list() == ["true", "false"]


def test_what_does_not_count_is_told(ready: Ready) -> None:
    workspace = ready()
    tasks = tasks_of(workspace, n=5)
    done = brought(
        workspace,
        as_json(
            tasks,
            [annotated("true", cancelled=True), annotated(None, cancelled=True), annotated("false", by=2)],
            [annotated(None)],
            [annotated("true"), annotated("false", by=2)],
            [annotated("true", hours=-100)],
            [],
        ),
    )
    assert done.labels == 1
    told = "1 rows are tied, 1 rows were annotated before their time of prediction, 2 annotations were cancelled"
    assert f"{told}, 1 have no answer" in str(done)
    assert ingest(workspace, now=NOW + 24 * HOUR).batches[0].accepted == 1


def test_by_the_clock_of_the_data_a_label_is_known_since_its_now_at_the_latest(ready: Ready) -> None:
    wall = ready()
    data = dataclasses.replace(wall, settings=wall.settings.model_copy(update={"clock": "data"}))
    now = data.now()
    given = pl.DataFrame({AVAILABLE_AT: [now - HOUR, now, now + HOUR]}, schema={AVAILABLE_AT: pl.Datetime("us", "UTC")})
    assert _by_now(data, Path("a.json"), given)[AVAILABLE_AT].to_list() == [now - HOUR, now, now]
    assert _by_now(wall, Path("a.json"), given).equals(given)


def test_labels_from_the_future_are_refused(ready: Ready) -> None:
    workspace = ready()
    before, tasks = state(workspace), tasks_of(workspace, n=1)
    with pytest.raises(
        InputError, match=r"^[^\n]+: 1 labels are from the future, such as 2199-[^\n]+ UTC: correct the clock[^\n]+$"
    ):
        brought(
            workspace,
            as_json(tasks, [annotated("true") | dict.fromkeys(("created_at", "updated_at"), "2199-01-01T00:00:00Z")]),
        )
    assert state(workspace) == before


def test_answers_about_a_row_that_was_erased_are_left_out_and_its_annotations_are_erased(
    ready: Ready, no_runs: Path
) -> None:
    workspace = ready()
    shutil.copytree(no_runs, workspace.root / "mlruns")
    tasks = tasks_of(workspace, n=3)
    said = as_json(tasks, *([annotated("true")] for _ in tasks))
    assert brought(workspace, said[:1]).annotations == 1
    keys = ["/".join(task["data"]["key"].values()) for task in tasks]
    erase(workspace, (keys[0], keys[1]))
    assert kept(workspace).is_empty()
    done = brought(workspace, said)
    assert (done.labels, done.annotations) == (1, 1)
    assert "2 are about erased rows" in str(done)


def test_an_export_without_answers_changes_nothing(ready: Ready) -> None:
    workspace = ready()
    before = state(workspace)
    for content in ([], as_json(tasks_of(workspace, n=1), []), as_json(tasks_of(workspace, n=1), [annotated(None)])):
        assert brought(workspace, content).batch is None
    assert state(workspace) == before


KEY = {"depot": "depot 1", "number": "31"}
TASK = {"id": 5, "data": {"key": KEY, "row": {}}, "annotations": [annotated("true")]}
TWO = annotated("true")
TWO["result"][0]["value"]["choices"] = ["true", "false"]
OTHER = annotated("true")
OTHER["result"][0]["from_name"] = "sentiment"
BOX = annotated("true")
BOX["result"][0]["value"] = {"x": 1}


NO_JSON = " is no list of tasks of `labels export`: the file: Invalid JSON: .*; export it again .*, as JSON or JSON-MIN"


def task(**changes: object) -> Made:
    return TASK | {"data": {"key": KEY | changes.pop("key", {})}} | changes  # type: ignore[operator]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("{", NO_JSON),
        ("[" * 100_000, NO_JSON),
        ("{}", r" is no list of tasks of `labels export`: the file: Input should be a valid .*JSON-MIN"),
        (["a"], r" is no list of tasks of `labels export`: 0: .*; export it again"),
        ([{"text": "hello"}], r" is no list of tasks .*: 0\.data\.key: Field required; export it again"),
        ([{"id": 1, "data": {"text": "x"}, "annotations": []}], r" is no list .*: 0\.data\.key: Field required"),
        ([task(annotations=[{"result": []}])], r" is no list .*: 0\.annotations\.0\.completed_by: Field required"),
        ([task(annotations=[OTHER])], r": task 5 has the control 'sentiment', not 'label': set the project up with"),
        ([task(annotations=[TWO])], r": task 5 has 2 answers of one annotator, true, false: keep one"),
        (
            [task(annotations=[BOX])],
            r" violates the contract .* column damaged has 1 values that are no bool, as '{\"x\": 1}'",
        ),
        (
            [task(annotations=[annotated("maybe")])],
            r" violates the .* column damaged has 1 values that are no bool, as 'maybe'; correct it in Label Studio",
        ),
        (
            [task(key={"number": "999"})],
            r": task 5 refers to depot depot 1, number 999, which is not in parcels",
        ),
        (
            [task(key={"number": "many"})],
            r" violates the contract of damages: column number has 1 values that are no int",
        ),
        (
            [task(key={"town": "x"})],
            r": task 5 has the key depot, number, town, not depot, number: it belongs to another",
        ),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_file_that_is_no_export_is_one_line_and_writes_nothing(ready: Ready, content: object, line: str) -> None:
    workspace = ready(champion=False)
    before = state(workspace)
    with pytest.raises(InputError, match=rf"^\S+export\.json{line}[^\n]*$"):
        brought(workspace, content)
    good = task(key={"depot": "depot 0", "number": "30"})
    if isinstance(content, list):
        with pytest.raises(InputError):
            brought(workspace, [good, *content])
    assert state(workspace) == before
    assert brought(workspace, [good]).labels == 1


def test_a_number_that_breaks_the_contract_is_one_line(ready: Ready) -> None:
    workspace = ready("regression", champion=False)
    for answer, line in (
        (-1, "'-1', violates the contract of delays: days >= 0"),
        (float("nan"), "'NaN', violates the contract of delays: days"),
        ("soon", "violates the contract of delays: column days has 1 values that are no float, as 'soon'"),
    ):
        with pytest.raises(InputError, match=rf"{line}.*; correct it in Label Studio$"):
            brought(workspace, [task(annotations=[annotated(answer)])])


def test_a_class_that_is_new_is_let_in_where_the_contract_lets_classes_grow(ready: Ready) -> None:
    class Open(Severity):
        table: ClassVar = "states"
        state: Annotated[str, Category(STATES, open=True), Target()]

    workspace = ready("multiclass")
    said = [task(annotations=[annotated("burnt")])]
    with pytest.raises(InputError, match=r"'burnt', violates the contract of states: state "):
        brought(workspace, said)
    grows = dataclasses.replace(workspace, problem=dataclasses.replace(workspace.problem, tables=(Parcel, Open)))
    assert brought(grows, said).labels == 1


def test_a_missing_file_is_one_line(ready: Ready) -> None:
    workspace = ready(champion=False)
    with pytest.raises(InputError, match=r"none\.json can't be read: "):
        import_annotations(workspace, workspace.root / "none.json")


# --- problems that people can't label


class Loaf(Table):
    table: ClassVar = "loaves"

    flour: float
    weight: Annotated[float, Target()]


class Person(Parcel):
    table: ClassVar = "parcels"
    depot: Annotated[str, Key(), Personal()]


class Signed(Damage):
    table: ClassVar = "damages"
    clerk: str


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"entity": Loaf, "tables": (Loaf,), "features": ("flour",)},
            "rows of loaves have no key, by which a label finds its row",
        ),
        (
            {"entity": Person, "tables": (Person, Damage)},
            r"the key of parcels is personal \(depot\) and must not leave",
        ),
        (
            {"tables": (Parcel, Signed)},
            "damages needs clerk, which annotations don't have: let it be missing, `| None`",
        ),
    ],
)
def test_a_problem_that_people_can_not_label_says_why_and_what_to_change(
    opened: Callable[..., Workspace], changes: Made, line: str
) -> None:
    workspace = opened(dataclasses.replace(DAMAGES, **changes))
    with pytest.raises(
        InputError, match=rf"^{line.replace('|', '[|]')}[^\n]+shared/contract\.py(, or give init a --key)?$"
    ):
        export_tasks(workspace, n=1, strategy="random", now=NOW)
    with pytest.raises(InputError, match=rf"^{line.replace('|', '[|]')}"):
        brought(workspace, [])


# --- the rule


Annotation = tuple[int, str, datetime, str | float, str]
LABEL = ["row", "answer", "_label", AVAILABLE_AT, "_agreement", "_annotators"]


def said(answer: str | float, by: str = "a", hours: float = 0, number: str = "1", key: int = 1) -> Annotation:
    return key, by, NOW + hours * HOUR, answer, number


def decided(annotations: Sequence[Annotation]) -> pl.DataFrame:
    """The annotations that count, with what they decide."""
    dtype = pl.Float64() if any(isinstance(one[3], float) for one in annotations) else pl.String()
    schema = {"row": pl.Int64(), "_annotator": pl.String(), "_created": pl.Datetime("us", "UTC")}
    frame = pl.DataFrame(list(annotations), schema=schema | {"answer": dtype, "_id": pl.String()}, orient="row")
    return aggregate(frame, ["row"], "answer")


@pytest.mark.parametrize(
    ("annotations", "label", "agreement", "hours"),
    [
        ([said("x")], "x", 1, 0),
        ([said("x"), said("y", hours=1)], "y", 1, 1),
        ([said("x", number="9"), said("y", number="10")], "y", 1, 0),
        ([said("x"), said("y", by="b", hours=3)], None, 0.5, 3),
        ([said("x"), said("y", by="b", hours=3), said("x", by="c", hours=2)], "x", 2 / 3, 2),
        ([said("x"), said("y", by="b"), said("z", by="c")], None, 1 / 3, 0),
        ([said("x"), said("x", by="b"), said("y", by="b", hours=1)], None, 0.5, 1),
        ([said(1.0), said(9.0, by="b", hours=3), said(2.0, by="c", hours=1)], 2.0, 1 / 3, 1),
        ([said(1.0, hours=2), said(9.0, by="b", hours=3)], 1.0, 0.5, 2),
    ],
    ids=[
        "one answer",
        "the newest of one annotator",
        "two of the same moment",
        "a tie",
        "most",
        "a tie of three",
        "who changed the mind",
        "numbers",
        "two numbers",
    ],
)
def test_annotations_become_a_label_by_the_rule(
    annotations: list[Annotation], label: object, agreement: float, hours: float
) -> None:
    for order in (annotations, annotations[::-1]):
        for found in decided(order).to_dicts():
            assert (found["_label"], found[AVAILABLE_AT]) == (label, NOW + hours * HOUR)
            assert found["_agreement"] == pytest.approx(agreement)


@pytest.mark.parametrize("answers", [[True, True, False], [7, 3, 3]], ids=["yes or no", "whole numbers"])
def test_a_label_has_the_type_of_the_answers(answers: list[object]) -> None:
    frame = pl.DataFrame({"row": 1, "answer": answers, "_annotator": list("abc"), "_created": NOW, "_id": "1"})
    assert aggregate(frame, ["row"], "answer")["_label"].to_list() == [max(set(answers), key=answers.count)] * 3


MANY = st.lists(
    st.builds(
        said,
        answer=st.sampled_from(["x", "y", "z"]),
        by=st.sampled_from("abcd"),
        hours=st.integers(0, 5),
        number=st.integers(1, 12).map(str),
        key=st.integers(1, 3),
    ),
    max_size=20,
)


@settings(deadline=None)
@given(MANY, st.randoms(use_true_random=False))
def test_the_order_of_annotations_does_not_matter_and_twice_is_once(annotations: list[Annotation], random: Any) -> None:
    shuffled = annotations * 2
    random.shuffle(shuffled)
    assert decided(shuffled).select(LABEL).equals(decided(annotations).select(LABEL))


@settings(deadline=None)
@given(MANY)
def test_a_label_has_more_annotators_than_any_other_answer(annotations: list[Annotation]) -> None:
    for _, counted in decided(annotations).group_by("row"):
        answers, label = counted["answer"].to_list(), counted["_label"][0]
        votes = sorted((answers.count(answer) for answer in set(answers)), reverse=True)
        assert counted["_annotator"].n_unique() == len(answers) == counted["_annotators"][0]
        assert (label is None) == (votes[:1] == votes[1:2])
        assert counted["_agreement"].to_list() == [votes[0] / len(answers)] * len(answers)
        assert label is None or answers.count(label) == votes[0]
