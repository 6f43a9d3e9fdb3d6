"""Evaluation of predictions: losses, metrics, cost, calibration, slices and paired comparisons.

Arrays have one entry per row. Predictions are probabilities of the positive class for a binary task, one
column of probabilities per class for a multiclass task, and values for a regression.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from {{cookiecutter.__package_name}}.core.acceptance import DecisionCosts
from {{cookiecutter.__package_name}}.core.contracts.schema import PREDICTED_AT, TARGET, Task
from {{cookiecutter.__package_name}}.core.problem import Problem

Floats = NDArray[np.float64]
MIN_PROBABILITY = 1e-7  # lower bound in logarithms, since predictions are 32-bit floats
REPLICATES = 2000
MIN_DAYS = 7  # of a bootstrap over days
MAX_CLUSTERS = 2000  # in the bootstrap, if rows have no time
CALIBRATION_BINS = 10


@dataclass(frozen=True)
class Predictions:
    """Predictions with their true values.

    Attributes:
        task: The task.
        target: Shape (rows,): 0 or 1, the index of the class, or the value.
        prediction: Shape (rows,), or (rows, classes) for a multiclass task.
        custom: The user's own metrics.
    """

    task: Task
    target: Floats
    prediction: Floats
    custom: Mapping[str, Callable[["Predictions"], float]] = field(default_factory=dict)

    def __getitem__(self, rows: NDArray[np.bool_]) -> "Predictions":
        """The predictions of some rows."""
        return replace(self, target=self.target[rows], prediction=self.prediction[rows])


def labelled_predictions(
    problem: Problem, rows: pl.DataFrame, prediction: Floats, classes: Sequence[str]
) -> Predictions:
    """Predictions with the true values of labelled rows; a class that is not in `classes` is -1."""
    column = rows[TARGET]
    if problem.task is Task.MULTICLASS:
        column = column.replace_strict({name: i for i, name in enumerate(classes)}, default=-1, return_dtype=pl.Int64)
    return Predictions(problem.task, column.cast(pl.Float64).to_numpy(), prediction, problem.extensions.metrics)


def classes_of(problem: Problem, rows: pl.DataFrame) -> tuple[str, ...]:
    """The classes of a multiclass task, in the order of its probabilities; empty for other tasks."""
    return tuple(rows[TARGET].unique().sort()) if problem.task is Task.MULTICLASS else ()


def losses(predictions: Predictions) -> Floats:
    """The loss of each row: the negative log-likelihood, or the squared error."""
    target, prediction = predictions.target, predictions.prediction
    if predictions.task is Task.REGRESSION:
        squared: Floats = np.square(prediction - target)
        return squared
    if predictions.task is Task.BINARY:
        given = np.where(target == 1, prediction, 1 - prediction)
    else:
        given = np.where(target < 0, 0, prediction[np.arange(len(target)), target.astype(np.int64)])  # -1: never seen
    loss: Floats = -np.log(np.clip(given, MIN_PROBABILITY, None))
    return loss


def metrics(predictions: Predictions, decision: DecisionCosts) -> dict[str, float]:
    """The metrics of a task and the user's own, by name; AUC and R2 are omitted if all targets are equal."""
    own = {name: float(metric(predictions)) for name, metric in predictions.custom.items()}
    return _metrics_of_task(predictions, decision) | own


def _metrics_of_task(predictions: Predictions, decision: DecisionCosts) -> dict[str, float]:
    target, prediction = predictions.target, predictions.prediction
    loss = float(losses(predictions).mean())
    if predictions.task is Task.REGRESSION:
        absolute = float(np.abs(prediction - target).mean())
        found = {"rmse": loss**0.5, "mae": absolute, "bias": float((prediction - target).mean())}
        spread = float(np.square(target - target.mean()).mean())
        return found | ({"r2": 1 - loss / spread} if spread > 0 else {})
    if predictions.task is Task.MULTICLASS:
        return {"log_loss": loss, "accuracy": float((prediction.argmax(axis=1) == target).mean())}
    bins = calibration(predictions)
    found = {
        "log_loss": loss,
        "brier": float(np.square(prediction - target).mean()),
        "calibration_error": float(bins["error"].to_numpy() @ bins["share"].to_numpy()),
        "cost": cost(predictions, decision),
    }
    return found | ({"auc": auc(target, prediction)} if 0 < target.mean() < 1 else {})


def auc(target: Floats, prediction: Floats) -> float:
    """The area under the ROC curve.

    Source: Mann and Whitney, 1947.
    """
    ranks = pl.Series(prediction).rank("average").to_numpy()
    happened = target == 1
    count = int(happened.sum())
    return float((ranks[happened].sum() - count * (count + 1) / 2) / (count * (len(target) - count)))


def cost(predictions: Predictions, decision: DecisionCosts, *, threshold: float | None = None) -> float:
    """The cost of decisions per 100 rows of a binary task, at a threshold or at the optimal one."""
    return float(100 * costs(predictions, decision, threshold=threshold).mean())


def costs(predictions: Predictions, decision: DecisionCosts, *, threshold: float | None = None) -> Floats:
    """The cost of the decision on each row; for other tasks, the loss."""
    if predictions.task is not Task.BINARY:
        return losses(predictions)
    alert = predictions.prediction >= (decision.threshold if threshold is None else threshold)
    happened = predictions.target == 1
    price: Floats = (alert & ~happened) * decision.cost_false_positive + (
        ~alert & happened
    ) * decision.cost_false_negative
    return price


def calibration(predictions: Predictions, bins: int = CALIBRATION_BINS) -> pl.DataFrame:
    """Mean prediction and observed rate in equal-sized bins: `predicted`, `observed`, `share`, `error`."""
    rows = pl.DataFrame({"predicted": predictions.prediction, "observed": predictions.target})
    number = pl.int_range(pl.len()) * bins // pl.len()
    ordered = rows.sort("predicted", maintain_order=True).with_columns(bin=number)
    means = pl.col("predicted", "observed").mean()
    table = ordered.group_by("bin", maintain_order=True).agg(means, share=pl.len() / len(rows))
    return table.with_columns(error=(pl.col("predicted") - pl.col("observed")).abs())


@dataclass(frozen=True)
class SliceMetrics:
    """The metrics of one slice."""

    column: str
    value: str
    rows: int
    metrics: dict[str, float]


def by_slice(
    predictions: Predictions, rows: pl.DataFrame, columns: Sequence[str], decision: DecisionCosts, *, at_least: int
) -> list[SliceMetrics]:
    """The metrics of each slice with at least `at_least` rows; a slice is one value of a column."""
    found = []
    for column in columns:
        for value, n in rows[column].drop_nulls().value_counts().sort(column).iter_rows():
            if n >= at_least:
                part = predictions[(rows[column] == value).fill_null(value=False).to_numpy()]
                name = f"{value:g}" if isinstance(value, float) else str(value)
                found.append(SliceMetrics(column, name, n, metrics(part, decision)))
    return found


@dataclass(frozen=True)
class PairedComparison:
    """The difference in mean loss between two models on the same rows, with its confidence bounds."""

    mean: float
    lower: float
    upper: float
    rows: int

    def __str__(self) -> str:
        return f"{self.mean:+.4f} (from {self.lower:+.4f} to {self.upper:+.4f}, {self.rows} rows)"


def compare_losses(
    ours: Floats, theirs: Floats, days: NDArray[np.int64], *, confidence: float, rng: np.random.Generator
) -> PairedComparison:
    """Compare paired losses by a bootstrap over days; a positive difference means that ours are lower.

    Losses within a day are correlated. Days, not rows, are drawn with replacement (cluster bootstrap: Cameron, Gelbach,
    Miller, 2008). With fewer than `MIN_DAYS` days rows are drawn: a sample of one day would always be sure.

    Args:
        ours: Losses, shape (rows,).
        theirs: Losses of the same rows.
        days: The cluster of each row: its day.
        confidence: One-sided confidence level of each bound.
        rng: Random generator.
    """
    if len(np.unique(days)) < MIN_DAYS:
        days = np.arange(len(ours)) % MAX_CLUSTERS
    _, day = np.unique(days, return_inverse=True)
    totals, counts = np.bincount(day, weights=theirs - ours), np.bincount(day)
    weights = rng.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=REPLICATES)
    means = (weights @ totals) / (weights @ counts)
    lower, upper = map(float, np.quantile(means, (1 - confidence, confidence)))
    return PairedComparison(float((theirs - ours).mean()), lower, upper, len(ours))


def clusters(problem: Problem, rows: pl.DataFrame) -> NDArray[np.int64]:
    """The cluster of each row: its day, or its position modulo `MAX_CLUSTERS` if rows have no time."""
    if problem.schema.event_time:
        return rows[PREDICTED_AT].dt.epoch("d").cast(pl.Int64).to_numpy()
    return np.arange(len(rows)) % MAX_CLUSTERS
