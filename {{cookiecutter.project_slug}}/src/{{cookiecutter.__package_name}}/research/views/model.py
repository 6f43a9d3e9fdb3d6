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
from {{cookiecutter.__package_name}}.core.contracts.schema import PREDICTED_AT, TARGET, Personal, Task
from {{cookiecutter.__package_name}}.core.contracts.validation import parse_keys
from {{cookiecutter.__package_name}}.core.errors import InputError
from {{cookiecutter.__package_name}}.core.models import evaluation
from {{cookiecutter.__package_name}}.core.models.evaluation import Predictions, by_slice, cost, losses, metrics
from {{cookiecutter.__package_name}}.core.models.importance import partial_dependence, permutation_importance
from {{cookiecutter.__package_name}}.core.store import predictions
from {{cookiecutter.__package_name}}.core.store.releases import Release, contributions
from {{cookiecutter.__package_name}}.core.store.request_log import logged_requests
from {{cookiecutter.__package_name}}.core.workspace import Workspace

MAX_RELEASES = 1000  # maximum number of releases
SERVED_PERIOD = timedelta(days=28)
LONG = timedelta(days=200)  # from which months are shown in place of weeks
ALL = "_all"  # a column with one value, so that all rows are a slice
SLICES = 8  # largest slices of a column that are plotted
SHOWN = 4  # features with a plot of partial dependence
SOME = 1500  # rows for permutation importance, for speed


@dataclass(frozen=True)
class ScoredRows:
    """Labelled rows without personal columns, with out-of-sample predictions.

    Attributes:
        champion: The champion.
        rows: The rows with their features.
        predictions: The prediction of each row.
    """

    champion: Release
    rows: pl.DataFrame
    predictions: Predictions


def champion_predictions(workspace: Workspace) -> ScoredRows:
    """The champion's predictions for its holdout and for all newer labels."""
    return _answered(workspace, workspace.releases.newest(1))


def deployed_predictions(workspace: Workspace) -> ScoredRows:
    """The predictions of the deployed version at each time, from the holdout of the first release on."""
    releases = workspace.releases.newest(MAX_RELEASES)
    same = [release for release in releases if release.classes == releases[0].classes]
    return _answered(workspace, [r for r in same if set(r.features) <= set(workspace.problem.features)][::-1])


def _answered(workspace: Workspace, releases: Sequence[Release]) -> ScoredRows:
    problem, first, now = workspace.problem, releases[0], workspace.now()
    rows = workspace.candidates.read(first.run_id).holdout.drop("_linear", "_dummy")
    since = datasets.labelled_since(problem, workspace.lake, first, now=now, back=now - first.trained_until)
    if len(since):
        answer = predictions.predict_as_deployed(since, [(release.released, release.predictor) for release in releases])
        rows = pl.concat([rows, since.with_columns(pl.Series("_model", answer))], how="diagonal_relaxed")
    classes = releases[-1].classes
    personal = {name for schema in problem.schemas.values() for name in schema.columns_with_role(Personal)}
    labelled = evaluation.labelled_predictions(problem, rows, rows["_model"].to_numpy(), classes)
    return ScoredRows(releases[-1], rows.drop("_model", *personal, strict=False), labelled)


def summary(workspace: Workspace, found: ScoredRows) -> pl.DataFrame:
    """The champion's metrics on labelled rows, compared with its training and the baselines."""
    problem, decision = workspace.problem, workspace.acceptance.decision
    candidate = workspace.candidates.read(found.champion.run_id)
    measured = {f"version {found.champion.version}, {len(found.rows)} rows": metrics(found.predictions, decision)}
    for name in ("model", "linear", "dummy"):
        figures = metrics(candidate.holdout_predictions(problem, name), decision)
        measured[f"{name} in training, {len(candidate.holdout)} rows"] = figures
    return pl.DataFrame([{"": name} | figures for name, figures in measured.items()], infer_schema_length=None)


def metric_names(workspace: Workspace, found: ScoredRows) -> list[str]:
    """The names of the metrics, the main one of the task first."""
    names = list(metrics(found.predictions, workspace.acceptance.decision))
    first = {Task.BINARY: "auc", Task.MULTICLASS: "accuracy", Task.REGRESSION: "rmse"}[found.predictions.task]
    return sorted(names, key=lambda name: name != first)


def quality(workspace: Workspace, found: ScoredRows, measure: str) -> Figure:
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
        axes.set(ylabel=measure, xlabel="time of prediction")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return drawn


def over_time(workspace: Workspace, found: ScoredRows, measure: str) -> pl.DataFrame:
    """A metric by week, or by month of long lives, of all rows and of slices; without those that have few rows."""
    rows, acceptance = found.rows.with_columns(pl.lit("rows").alias(ALL)), workspace.acceptance
    slices = [ALL, *(name for name in acceptance.slices.columns if name in rows.columns)]
    at = rows[PREDICTED_AT]
    periods = at.dt.truncate("1mo" if at[-1] - at[0] > LONG else "1w").dt.date()
    table: list[tuple[object, ...]] = []
    for period in periods.unique().sort():
        mine = periods == period
        labelled, some = found.predictions[mine.to_numpy()], rows.filter(mine)
        parts = by_slice(labelled, some, slices, acceptance.decision, at_least=acceptance.window.min_rows)
        table += [(period, part.column, part.value, part.rows, part.metrics.get(measure)) for part in parts]
    columns = ["period", "column", "value", "rows", measure]
    return pl.DataFrame(table, columns, orient="row").drop_nulls()


def served_metrics(workspace: Workspace, found: ScoredRows) -> pl.DataFrame | str:
    """The metrics of the champion's upcoming and served predictions of the last weeks."""
    champion, now, problem = found.champion, workspace.now(), workspace.problem
    if not problem.schema.key:
        return "Rows have no key: served predictions can't be joined with labels."
    made = {"upcoming predictions": predictions.upcoming_predictions(problem, workspace.lake, champion)}
    requested = logged_requests(problem, workspace.lake, now=now, back=SERVED_PERIOD)
    if len(requested) and set(problem.schema.key) <= set(requested.columns):
        made["served predictions"] = predictions.served_predictions(problem, champion, requested)
    table = []
    for name, labelled in made.items():
        rows = predictions.join_labels(problem, workspace.lake, labelled, now=now, back=SERVED_PERIOD)
        if len(rows):
            worth = evaluation.labelled_predictions(
                problem, rows, predictions.model_output(champion, rows), champion.classes
            )
            table.append({"": name, "labels": len(rows)} | metrics(worth, workspace.acceptance.decision))
    if not table:
        return f"No labels in the last {SERVED_PERIOD.days} days for predictions of version {champion.version}."
    return pl.DataFrame(table, infer_schema_length=None)


def importance(workspace: Workspace, found: ScoredRows) -> dict[str, float]:
    """The permutation importance of features, largest first."""
    champion, some = found.champion, found.rows.sample(min(SOME, len(found.rows)), seed=0)
    return permutation_importance(workspace.problem, champion.predictor, some, champion.classes)


def overview(workspace: Workspace, found: ScoredRows, importance: dict[str, float]) -> Figure:
    """The overview of the champion."""
    return plots.overview(importance, {"model": found.predictions}, workspace.acceptance.decision)


def at_threshold(workspace: Workspace, found: ScoredRows, threshold: float) -> str:
    """The cost, precision and recall of decisions at a threshold, compared with the threshold in use."""
    labelled, decision = found.predictions, workspace.acceptance.decision
    if labelled.task is not Task.BINARY:
        return f"Only decisions between yes and no have a threshold: it doesn't apply to a {labelled.task}."
    alert, happened = labelled.prediction >= threshold, labelled.target == 1
    right = int((alert & happened).sum())
    price, recall = cost(labelled, decision, threshold=threshold), right / max(int(happened.sum()), 1)
    return (
        f"At threshold **{threshold:.2f}**, the cost is **{price:.1f}** per 100 rows: {alert.mean():.0%} are positive, "
        f"precision {right / max(int(alert.sum()), 1):.0%}, recall {recall:.0%}. "
        f"The threshold in use, {decision.threshold:.2f}, costs {cost(labelled, decision):.1f}."
    )


def partial_dependence_plot(found: ScoredRows, importance: dict[str, float]) -> Figure:
    """The partial dependence of the prediction on the most important features."""
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


def largest_losses(workspace: Workspace, found: ScoredRows, *, most: int = 10) -> pl.DataFrame:
    """The rows with the largest loss, with their most influential features."""
    order = np.argsort(-losses(found.predictions), kind="stable")[:most]
    rows = found.rows[order]
    shown = [name for name in workspace.problem.schema.loggable.key if name in rows.columns]
    answer = found.champion.prediction_frame(found.predictions.prediction[order])
    moved = contributions(found.champion, rows[:1])
    features = sorted(found.champion.features, key=lambda name: -abs(moved[name]))[:5]
    return rows.select(*shown, pl.col(PREDICTED_AT).alias("predicted at")).with_columns(
        *answer.iter_columns(),
        rows[TARGET].alias("label"),
        pl.Series("loss", losses(found.predictions)[order]),
        *(rows[name] for name in features if name not in shown),
    )


def contributions_of(workspace: Workspace, found: ScoredRows, key: str = "") -> pl.DataFrame | str:
    """The contribution of each feature to the prediction of one row. Default: the row with the largest loss.

    Args:
        workspace: The workspace.
        found: The predicted rows.
        key: The key; the values of several columns are joined by `/`.
    """
    names = workspace.problem.schema.key
    row = found.rows.clear() if key else found.rows[int(losses(found.predictions).argmax())]
    if key and not (names and set(names) <= set(found.rows.columns)):
        return "Rows have no key."
    if key:
        with suppress(InputError):  # no row can have it
            row = found.rows.join(parse_keys(workspace.problem.schema, (key,)), on=names, how="semi")
        if row.is_empty():
            return f"No row with `{escape('/'.join(names))}` `{escape(key)}` is labelled and predicted."
    moved = sorted(contributions(found.champion, row).items(), key=lambda item: -abs(item[1]))
    return pl.DataFrame(
        {
            "feature": [name for name, _ in moved],
            "value": [_short(row[name].item()) for name, _ in moved],
            "typical": [_short(found.champion.reference[name]) for name, _ in moved],
            "contribution": [by for _, by in moved],
        }
    )


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
