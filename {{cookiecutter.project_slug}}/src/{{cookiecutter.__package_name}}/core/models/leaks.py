"""Leaks: columns that give the target away, since they are known only after it or are computed from it."""

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl
import polars.selectors as cs
from numpy.typing import NDArray

MAX_SKILL = 0.9  # of one column alone: 1 - loss / loss of the prior
MAX_R2 = 0.999  # of a weighted sum of numbers and times
MAX_ROWS = 4000  # a sample with a fixed seed, which bounds the time
MAX_LEAVES, FOLDS = 64, 3
MAX_TERMS, ROWS_A_TERM, MAX_NULLS = 100, 5, 0.2  # of a sum

Floats = NDArray[np.float64]
Folds = Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]


def find_leaks(columns: pl.DataFrame, target: pl.Series, time: pl.Series | None = None) -> dict[str, str]:
    """The columns that look like leaks, each with what it does.

    Args:
        columns: Numbers, booleans, texts, dates and times.
        target: The labels without nulls: numbers in regression, else booleans or classes.
        time: The times of the rows' events, if rows have one; folds then go forward.
    """
    if not columns.width:
        return {}
    found = dict.fromkeys(_later(columns, time), f"is never before {time.name}") if time is not None else {}
    order = time.arg_sort().to_numpy() if time is not None else np.arange(len(target))
    if len(order) > MAX_ROWS:
        order = order[np.sort(np.random.default_rng(0).choice(len(order), MAX_ROWS, replace=False))]
    columns, target = columns[order], target[order]
    folds = _folds(len(target), forward=time is not None)
    labels = _labels(target)
    for values in columns:
        if (skill := _skill(values, labels, folds)) >= MAX_SKILL:
            found.setdefault(values.name, f"predicts {target.name} alone with a skill of {skill:.2f}")
    summands = columns.with_columns(time[order]) if time is not None else columns
    terms = _terms(summands, target, folds) if target.dtype.is_numeric() else []
    for name in set(terms) & set(columns.columns):
        others = " and ".join(other for other in terms if other != name)
        found.setdefault(name, f"gives {target.name} in a weighted sum" + (f" with {others}" if others else ""))
    return found


def _later(columns: pl.DataFrame, time: pl.Series) -> Iterator[str]:
    """The times that are never before the row's event and sometimes after it; a date is compared by day."""
    for values in columns.select(cs.date() | cs.datetime()):
        by_day = pl.Date in (values.dtype, time.dtype)
        kind = pl.Date() if by_day else pl.Datetime("us", "UTC")
        after = (values.cast(kind) - time.cast(kind)).drop_nulls().dt.total_microseconds()
        if len(after) and (after >= 0).all() and (after > 0).any():
            yield values.name


def _folds(n: int, *, forward: bool) -> Folds:
    from sklearn.model_selection import KFold, TimeSeriesSplit  # noqa: PLC0415 - takes a second to import

    splits = TimeSeriesSplit(FOLDS) if forward else KFold(FOLDS, shuffle=True, random_state=0)
    return list(splits.split(np.arange(n))) if n > FOLDS else []


def _labels(target: pl.Series) -> Floats:
    """A column for each class, or the ranks of numbers, which no outlier dominates."""
    if target.dtype.is_numeric():
        return (target.rank() / len(target)).to_numpy().reshape(-1, 1)
    return target.cast(pl.String).to_dummies().to_numpy().astype(np.float64)


def _skill(values: pl.Series, labels: Floats, folds: Folds) -> float:
    """1 - loss / loss of the prior, for log loss or the absolute error of ranks."""
    loss = prior = 0.0
    for train, test in folds:
        one, other = _losses(_groups(values, labels, train), labels, train, test)
        loss, prior = loss + one, prior + other
        if loss > prior / 2:  # most columns end here
            break
    return 1 - loss / prior if prior > 0 else 0.0


def _groups(values: pl.Series, labels: Floats, train: NDArray[np.int64]) -> NDArray[np.int64]:
    """The group of each row: its text, or its leaf of a small tree."""
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor  # noqa: PLC0415 - takes a second to import

    if not (values.dtype.is_numeric() or values.dtype.is_temporal() or values.dtype == pl.Boolean):
        return values.cast(pl.String).fill_null("").rank("dense").to_numpy().astype(np.int64)
    plain = values.fill_nan(None) if values.dtype.is_float() else values
    ranks = plain.rank("dense").cast(pl.Float64).to_numpy().reshape(-1, 1)  # a tree sees 32 bits of a time
    if labels.shape[1] == 1:
        tree = DecisionTreeRegressor(max_leaf_nodes=MAX_LEAVES, random_state=0).fit(ranks[train], labels[train, 0])
    else:
        tree = DecisionTreeClassifier(max_leaf_nodes=MAX_LEAVES, random_state=0)
        tree.fit(ranks[train], labels[train].argmax(axis=1))
    return np.asarray(tree.apply(ranks), dtype=np.int64)


def _losses(
    groups: NDArray[np.int64], labels: Floats, train: NDArray[np.int64], test: NDArray[np.int64]
) -> tuple[float, float]:
    """The losses of the groups' means, and of the mean of all, on the test rows."""
    regression, n = labels.shape[1] == 1, groups.max() + 1
    weight = 1e-9 if regression else 0.5  # of the prior in each group, in rows
    prior = labels[train].mean(axis=0)
    sums = np.column_stack([np.bincount(groups[train], each, n) for each in labels[train].T])
    means = (sums + weight * prior) / (np.bincount(groups[train], minlength=n)[:, None] + weight)
    return _loss(means[groups[test]], labels[test]), _loss(np.tile(prior, (len(test), 1)), labels[test])


def _loss(prediction: Floats, labels: Floats) -> float:
    if labels.shape[1] == 1:
        return float(np.abs(prediction - labels).sum())
    return float(-np.log(np.clip((prediction * labels).sum(axis=1), 1e-9, None)).sum())


def _terms(columns: pl.DataFrame, target: pl.Series, folds: Folds) -> list[str]:
    """The numbers and times whose weighted sum is the target; empty if there are none."""
    chosen = columns.select((cs.numeric() | cs.date() | cs.datetime()).to_physical().cast(pl.Float64))
    if not folds or not chosen.width:
        return []
    x, y = chosen.to_numpy().copy(), target.cast(pl.Float64).to_numpy()
    x[~np.isfinite(x)] = np.nan
    usable = np.flatnonzero(np.isnan(x).mean(axis=0) <= MAX_NULLS)
    if not len(usable):
        return []
    with np.errstate(all="ignore"):  # numbers near the largest, and constants
        x, y = _scaled(x[:, usable]), _scaled(y)
        near = np.abs(np.nan_to_num(x).T @ y)
    is_time = np.array([columns.schema[chosen.columns[i]].is_temporal() for i in usable])
    first = np.lexsort((-near, ~is_time))
    first = first[np.isfinite(near[first])][:MAX_TERMS]
    names, x = [chosen.columns[i] for i in usable[first]], x[:, first]
    weights, r2 = _fit(x, y, folds)
    if r2 <= MAX_R2:
        return []
    kept = list(range(len(names)))
    for i in np.argsort(np.abs(weights)):
        rest = [each for each in kept if each != i]
        if rest and _fit(x[:, rest], y, folds)[1] > MAX_R2:
            kept = rest
    return [names[i] for i in kept]


def _scaled(values: Floats) -> Floats:
    return np.asarray((values - np.nanmean(values, axis=0)) / np.nanstd(values, axis=0), dtype=np.float64)


def _fit(x: Floats, y: Floats, folds: Folds) -> tuple[Floats, float]:
    """The weights of a sum, fitted to the training rows of the last fold, and R2 on its test rows."""
    complete = np.flatnonzero(np.isfinite(x).all(axis=1) & np.isfinite(y))
    train, test = (np.intersect1d(rows, complete) for rows in folds[-1])
    if len(train) < ROWS_A_TERM * x.shape[1] or len(test) < ROWS_A_TERM or not y[test].var():
        return np.zeros(x.shape[1]), 0.0
    ones = np.column_stack([x, np.ones(len(x))])
    weights = np.asarray(np.linalg.lstsq(ones[train], y[train])[0], dtype=np.float64)
    return weights[:-1], float(1 - np.square(y[test] - ones[test] @ weights).mean() / y[test].var())
