"""How good predictions are: losses, metrics, cost, calibration, slices, and whether one model beats another.

Arrays are one value a row; predictions are probabilities of the target for a binary task, one column a class for a
multiclass task, values for a regression.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from {{cookiecutter.__package_name}}.core.acceptance import Decision
from {{cookiecutter.__package_name}}.core.contracts.schema import AT, TARGET, Task
from {{cookiecutter.__package_name}}.core.problem import Problem

Floats = NDArray[np.float64]
SMALLEST = 1e-7  # of a probability in a logarithm: predictions are 32-bit floats
REPLICATES = 2000
BLOCKS = 2000  # of rows that a bootstrap draws, where rows have no day
BINS = 10


@dataclass(frozen=True)
class Answers:
    """Predictions and what came true.

    Attributes:
        task: The kind of answer.
        target: Shape (rows,): 0 or 1, the class's number, or the value.
        prediction: Shape (rows,), or (rows, classes) for a multiclass task.
        custom: The user's own metrics.
    """

    task: Task
    target: Floats
    prediction: Floats
    custom: Mapping[str, Callable[["Answers"], float]] = field(default_factory=dict)

    def __getitem__(self, rows: NDArray[np.bool_]) -> "Answers":
        """The answers of some rows."""
        return replace(self, target=self.target[rows], prediction=self.prediction[rows])


def answers(problem: Problem, rows: pl.DataFrame, prediction: Floats, classes: Sequence[str]) -> Answers:
    """Predictions beside what came true in labelled rows; a class that is none of `classes` is -1."""
    column = rows[TARGET]
    if problem.task is Task.MULTICLASS:
        column = column.replace_strict({name: i for i, name in enumerate(classes)}, default=-1, return_dtype=pl.Int64)
    return Answers(problem.task, column.cast(pl.Float64).to_numpy(), prediction, problem.extensions.metrics)


def classes_of(problem: Problem, rows: pl.DataFrame) -> tuple[str, ...]:
    """The classes of a multiclass task, in the order of its probabilities; empty for other tasks."""
    return tuple(rows[TARGET].unique().sort()) if problem.task is Task.MULTICLASS else ()


def losses(answers: Answers) -> Floats:
    """Each row's loss: minus the log of what was given to the truth (natural), or the squared error."""
    target, prediction = answers.target, answers.prediction
    if answers.task is Task.REGRESSION:
        squared: Floats = np.square(prediction - target)
        return squared
    if answers.task is Task.BINARY:
        given = np.where(target == 1, prediction, 1 - prediction)
    else:
        given = np.where(target < 0, 0, prediction[np.arange(len(target)), target.astype(np.int64)])  # -1: never seen
    loss: Floats = -np.log(np.clip(given, SMALLEST, None))
    return loss


def metrics(answers: Answers, decision: Decision) -> dict[str, float]:
    """The metrics of a task and the user's own, by name; those that need both classes are left out where one is."""
    own = {name: float(metric(answers)) for name, metric in answers.custom.items()}
    return _metrics_of_task(answers, decision) | own


def _metrics_of_task(answers: Answers, decision: Decision) -> dict[str, float]:
    target, prediction = answers.target, answers.prediction
    loss = float(losses(answers).mean())
    if answers.task is Task.REGRESSION:
        absolute = float(np.abs(prediction - target).mean())
        found = {"rmse": loss**0.5, "mae": absolute, "bias": float((prediction - target).mean())}
        spread = float(np.square(target - target.mean()).mean())
        return found | ({"r2": 1 - loss / spread} if spread > 0 else {})
    if answers.task is Task.MULTICLASS:
        return {"log_loss": loss, "accuracy": float((prediction.argmax(axis=1) == target).mean())}
    bins = calibration(answers)
    found = {
        "log_loss": loss,
        "brier": float(np.square(prediction - target).mean()),
        "calibration_error": float(bins["error"].to_numpy() @ bins["share"].to_numpy()),
        "cost": cost(answers, decision),
        "rate": float(target.mean()),
    }
    return found | ({"auc": auc(target, prediction)} if 0 < target.mean() < 1 else {})


def auc(target: Floats, prediction: Floats) -> float:
    """The share of pairs, one where it happened and one where not, that are in the right order; ties are half of one.

    Source: Mann and Whitney, 1947.
    """
    ranks = pl.Series(prediction).rank("average").to_numpy()
    happened = target == 1
    count = int(happened.sum())
    return float((ranks[happened].sum() - count * (count + 1) / 2) / (count * (len(target) - count)))


def cost(answers: Answers, decision: Decision, *, threshold: float | None = None) -> float:
    """What decisions by a threshold, without it the cheapest, cost per 100 rows of a binary task."""
    return float(100 * costs(answers, decision, threshold=threshold).mean())


def costs(answers: Answers, decision: Decision, *, threshold: float | None = None) -> Floats:
    """What the decision on each row costs; for a task without decisions, its loss."""
    if answers.task is not Task.BINARY:
        return losses(answers)
    alert = answers.prediction >= (decision.threshold if threshold is None else threshold)
    happened = answers.target == 1
    price: Floats = (alert & ~happened) * decision.false_alert + (~alert & happened) * decision.miss
    return price


def calibration(answers: Answers, bins: int = BINS) -> pl.DataFrame:
    """Predicted against observed rate in bins of equal numbers of rows: `predicted`, `observed`, `share`, `error`."""
    rows = pl.DataFrame({"predicted": answers.prediction, "observed": answers.target})
    number = pl.int_range(pl.len()) * bins // pl.len()
    ordered = rows.sort("predicted", maintain_order=True).with_columns(bin=number)
    means = pl.col("predicted", "observed").mean()
    table = ordered.group_by("bin", maintain_order=True).agg(means, share=pl.len() / len(rows))
    return table.with_columns(error=(pl.col("predicted") - pl.col("observed")).abs())


@dataclass(frozen=True)
class SliceMetrics:
    """Quality on one group of rows."""

    column: str
    value: str
    rows: int
    metrics: dict[str, float]


def by_slice(
    answers: Answers, rows: pl.DataFrame, columns: Sequence[str], decision: Decision, *, at_least: int
) -> list[SliceMetrics]:
    """Metrics for each value of each column that has enough rows."""
    found = []
    for column in columns:
        for value, n in rows[column].drop_nulls().value_counts().sort(column).iter_rows():
            if n >= at_least:
                part = answers[(rows[column] == value).fill_null(value=False).to_numpy()]
                name = f"{value:g}" if isinstance(value, float) else str(value)
                found.append(SliceMetrics(column, name, n, metrics(part, decision)))
    return found


@dataclass(frozen=True)
class Gain:
    """By how much the mean loss of one model is below another's: the mean, and a lower bound."""

    mean: float
    lower: float
    rows: int

    def __str__(self) -> str:
        return f"{self.mean:+.4f} (lower bound {self.lower:+.4f}, {self.rows} rows)"


def gain(ours: Floats, theirs: Floats, days: NDArray[np.int64], *, confidence: float, rng: np.random.Generator) -> Gain:
    """By how much our losses are lower than theirs, by a bootstrap over days.

    Rows of a day share its good and bad luck, so that days, not rows, are drawn with replacement (a cluster bootstrap:
    Cameron, Gelbach, Miller, 2008).

    Args:
        ours: Losses, shape (rows,).
        theirs: Losses of the same rows.
        days: The day of each row; where rows have no time, a number of its own.
        confidence: Of the lower bound, one-sided.
        rng: Draws the days.
    """
    _, day = np.unique(days, return_inverse=True)
    totals, counts = np.bincount(day, weights=theirs - ours), np.bincount(day)
    weights = rng.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=REPLICATES)
    means = (weights @ totals) / (weights @ counts)
    return Gain(float((theirs - ours).mean()), float(np.quantile(means, 1 - confidence)), len(ours))


def days(problem: Problem, rows: pl.DataFrame) -> NDArray[np.int64]:
    """The day of each row, or a block of rows where they have no time."""
    if problem.schema.event_time:
        return rows[AT].dt.epoch("d").cast(pl.Int64).to_numpy()
    return np.arange(len(rows)) % BLOCKS
