"""The model on rows whose labels are known: quality over time, effects of features, and single rows."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from html import escape

import numpy as np
import polars as pl
from matplotlib.figure import Figure

from {{cookiecutter.__package_name}}.core import datasets, plots
from {{cookiecutter.__package_name}}.core.contracts.schema import AT, TARGET, Personal, Task
from {{cookiecutter.__package_name}}.core.contracts.validation import keys_of
from {{cookiecutter.__package_name}}.core.errors import BadInput
from {{cookiecutter.__package_name}}.core.models import evaluation
from {{cookiecutter.__package_name}}.core.models.evaluation import Answers, by_slice, cost, losses, metrics
from {{cookiecutter.__package_name}}.core.models.importance import partial_dependence, permutation_importance
from {{cookiecutter.__package_name}}.core.store import predictions
from {{cookiecutter.__package_name}}.core.store.releases import Release, contributions
from {{cookiecutter.__package_name}}.core.store.request_log import logged_requests
from {{cookiecutter.__package_name}}.core.workspace import Workspace

MOST = 1000  # releases that are read
RECENT = timedelta(days=28)
LONG = timedelta(days=200)  # from which months are shown in place of weeks
ALL = "_all"  # a column with one value, so that all rows are a slice
SLICES = 8  # of a column, the largest, that have a line
SHOWN = 4  # features whose effect has a panel
SOME = 1500  # rows on which features are shuffled: a page is waited for


@dataclass(frozen=True)
class Answered:
    """Rows whose labels are known, without personal columns, and what was predicted for them before.

    Attributes:
        champion: What serves now.
        rows: With their features, in the order of their prediction.
        answers: Of each row.
    """

    champion: Release
    rows: pl.DataFrame
    answers: Answers


def by_champion(workspace: Workspace) -> Answered:
    """What the champion was measured on in training, and every label since, which it had not seen."""
    return _answered(workspace, workspace.releases.newest(1))


def in_service(workspace: Workspace) -> Answered:
    """What the first release was measured on, and every label since, answered by what served at the time."""
    releases = workspace.releases.newest(MOST)
    same = [release for release in releases if release.classes == releases[0].classes]
    return _answered(workspace, [r for r in same if set(r.features) <= set(workspace.problem.features)][::-1])


def _answered(workspace: Workspace, releases: Sequence[Release]) -> Answered:
    problem, first, now = workspace.problem, releases[0], workspace.now()
    rows = workspace.candidates.read(first.run_id).holdout.drop("_linear", "_dummy")
    since = datasets.labelled_since(problem, workspace.lake, first, now=now, back=now - first.trained_until)
    if len(since):
        answer = predictions.predict_as_deployed(since, [(release.released, release.predictor) for release in releases])
        rows = pl.concat([rows, since.with_columns(pl.Series("_model", answer))], how="diagonal_relaxed")
    classes = releases[-1].classes
    personal = {name for schema in problem.schemas.values() for name in schema.having(Personal)}
    answers = evaluation.answers(problem, rows, rows["_model"].to_numpy(), classes)
    return Answered(releases[-1], rows.drop("_model", *personal, strict=False), answers)


def summary(workspace: Workspace, found: Answered) -> pl.DataFrame:
    """The champion's metrics on rows it had not seen, beside those of its training and of two simpler models."""
    problem, decision = workspace.problem, workspace.acceptance.decision
    candidate = workspace.candidates.read(found.champion.run_id)
    measured = {f"version {found.champion.version}, {len(found.rows)} rows": metrics(found.answers, decision)}
    for name in ("model", "linear", "dummy"):
        figures = metrics(candidate.answers(problem, name), decision)
        measured[f"{name} in training, {len(candidate.holdout)} rows"] = figures
    return pl.DataFrame([{"": name} | figures for name, figures in measured.items()], infer_schema_length=None)


def measures(workspace: Workspace, found: Answered) -> list[str]:
    """The names of the metrics, first the one that limits or comparisons most often ask of such a task."""
    names = list(metrics(found.answers, workspace.acceptance.decision))
    first = {Task.BINARY: "auc", Task.MULTICLASS: "accuracy", Task.REGRESSION: "rmse"}[found.answers.task]
    return sorted(names, key=lambda name: name != first)


def quality(workspace: Workspace, found: Answered, measure: str) -> Figure:
    """A metric over time: of all rows, and of the largest slices of each column."""
    table = over_time(workspace, found, measure)
    everything = table.filter(pl.col("column") == ALL)
    columns = table["column"].unique(maintain_order=True).to_list()[1:] or [ALL]
    drawn = plots.figure(11, 3.2 * len(columns))
    panels = drawn.subplots(len(columns), squeeze=False)[:, 0]
    for axes, column in zip(panels, columns, strict=True):
        parts = table.filter(pl.col("column") == column, pl.col("column") != ALL)
        largest = parts.group_by("value").agg(pl.col("rows").sum()).sort("rows", "value", descending=True)
        for value in largest["value"].head(SLICES):
            part = parts.filter(pl.col("value") == value)
            axes.plot(part["period"], part[measure], marker=".", linewidth=1, label=f"{column} {value}")
        axes.plot(everything["period"], everything[measure], color="black", marker="o", linewidth=2, label="all rows")
        axes.set(ylabel=measure, xlabel="when predicted")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return drawn


def over_time(workspace: Workspace, found: Answered, measure: str) -> pl.DataFrame:
    """A metric by week, or by month of long lives, of all rows and of slices; without those that have few rows."""
    rows, ask = found.rows.with_columns(pl.lit("rows").alias(ALL)), workspace.acceptance
    slices = [ALL, *(name for name in ask.slices.columns if name in rows.columns)]
    at = rows[AT]
    periods = at.dt.truncate("1mo" if at[-1] - at[0] > LONG else "1w").dt.date()
    table: list[tuple[object, ...]] = []
    for period in periods.unique().sort():
        mine = periods == period
        answers, some = found.answers[mine.to_numpy()], rows.filter(mine)
        parts = by_slice(answers, some, slices, ask.decision, at_least=ask.window.rows)
        table += [(period, part.column, part.value, part.rows, part.metrics.get(measure)) for part in parts]
    columns = ["period", "column", "value", "rows", measure]
    return pl.DataFrame(table, columns, orient="row").drop_nulls()


def given(workspace: Workspace, found: Answered) -> pl.DataFrame | str:
    """What the champion's own answers of the last weeks, ahead of the outcome or by the service, were worth."""
    champion, now, problem = found.champion, workspace.now(), workspace.problem
    if not problem.schema.key:
        return "Rows have no key: answers that were given can't be held against labels that came later."
    made = {"predicted ahead": predictions.upcoming_predictions(problem, workspace.lake, champion)}
    asked = logged_requests(problem, workspace.lake, now=now, back=RECENT)
    if len(asked) and set(problem.schema.key) <= set(asked.columns):
        made["answered by the service"] = predictions.served_predictions(problem, champion, asked)
    table = []
    for name, answers in made.items():
        rows = predictions.join_labels(problem, workspace.lake, answers, now=now, back=RECENT)
        if len(rows):
            worth = evaluation.answers(problem, rows, predictions.model_output(champion, rows), champion.classes)
            table.append({"": name, "labels": len(rows)} | metrics(worth, workspace.acceptance.decision))
    if not table:
        return f"No label has come in the last {RECENT.days} days for an answer that version {champion.version} gave."
    return pl.DataFrame(table, infer_schema_length=None)


def importance(workspace: Workspace, found: Answered) -> dict[str, float]:
    """By how much the loss grows when a feature is shuffled, the largest first."""
    champion, some = found.champion, found.rows.sample(min(SOME, len(found.rows)), seed=0)
    return permutation_importance(workspace.problem, champion.predictor, some, champion.classes)


def overview(workspace: Workspace, found: Answered, importance: dict[str, float]) -> Figure:
    """The champion on one page, as `run` draws its challengers."""
    return plots.overview(importance, {"model": found.answers}, workspace.acceptance.decision)


def at_threshold(workspace: Workspace, found: Answered, threshold: float) -> str:
    """What decisions from a threshold on would have cost and caught, beside the threshold in use."""
    answers, decision = found.answers, workspace.acceptance.decision
    if answers.task is not Task.BINARY:
        return f"Only decisions between yes and no have a threshold: it doesn't apply to a {answers.task}."
    alert, happened = answers.prediction >= threshold, answers.target == 1
    right = int((alert & happened).sum())
    return (
        f"From **{threshold:.2f}** on, decisions cost **{cost(answers, decision, threshold=threshold):.1f}** per 100 "
        f"rows: {alert.mean():.0%} of rows alert, {right / max(int(alert.sum()), 1):.0%} of the alerts are right, and "
        f"{right / max(int(happened.sum()), 1):.0%} of what happens is caught. "
        f"In use is {decision.threshold:.2f}, which costs {cost(answers, decision):.1f}."
    )


def moves(found: Answered, importance: dict[str, float]) -> Figure:
    """Where the features that matter most move the mean prediction, of the likeliest class where there are many."""
    champion = found.champion
    effect = {name: partial_dependence(champion.predictor, found.rows, name) for name in list(importance)[:SHOWN]}
    drawn = plots.figure(11, 3.2)
    panels = drawn.subplots(1, len(effect), sharey=True, squeeze=False)[0]
    for axes, (name, (at, predicted)) in zip(panels, effect.items(), strict=True):
        lines = predicted.reshape(len(at), -1).T
        for label, line in zip(champion.classes or [""], lines, strict=True):
            axes.plot(at, line, "o" if champion.features[name] else "-", label=label)
        axes.set(title=name)
        axes.tick_params(axis="x", rotation=45 if champion.features[name] else 0)
    panels[0].set_ylabel("mean prediction")
    if champion.classes:
        panels[0].legend()
    return drawn


def worst(workspace: Workspace, found: Answered, *, most: int = 10) -> pl.DataFrame:
    """The rows that were answered worst, with the features that their answer hangs on most."""
    order = np.argsort(-losses(found.answers), kind="stable")[:most]
    rows = found.rows[order]
    shown = [name for name in workspace.problem.schema.public.key if name in rows.columns]
    answer = found.champion.answers(found.answers.prediction[order])
    moved = contributions(found.champion, rows[:1])
    features = sorted(found.champion.features, key=lambda name: -abs(moved[name]))[:5]
    return rows.select(*shown, pl.col(AT).alias("predicted at")).with_columns(
        *answer.iter_columns(),
        rows[TARGET].alias("came true"),
        pl.Series("loss", losses(found.answers)[order]),
        *(rows[name] for name in features if name not in shown),
    )


def case(workspace: Workspace, found: Answered, key: str = "") -> pl.DataFrame | str:
    """One row: by how much each feature moved its prediction; without a key, the row that was answered worst.

    Args:
        workspace: The workspace.
        found: The answered rows.
        key: The key's values, joined by `/` where it has several columns.
    """
    names = workspace.problem.schema.key
    row = found.rows.clear() if key else found.rows[int(losses(found.answers).argmax())]
    if key and not (names and set(names) <= set(found.rows.columns)):
        return "Rows have no key by which one could be found."
    if key:
        with suppress(BadInput):  # no row can have it
            row = found.rows.join(keys_of(workspace.problem.schema, (key,)), on=names, how="semi")
        if row.is_empty():
            return f"No row with `{escape('/'.join(names))}` `{escape(key)}` was answered and has its label."
    moved = sorted(contributions(found.champion, row).items(), key=lambda item: -abs(item[1]))
    return pl.DataFrame(
        {
            "feature": [name for name, _ in moved],
            "value": [_short(row[name].item()) for name, _ in moved],
            "typical": [_short(found.champion.reference[name]) for name, _ in moved],
            "moves the answer by": [by for _, by in moved],
        }
    )


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
