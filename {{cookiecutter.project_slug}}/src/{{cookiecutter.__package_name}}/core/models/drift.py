"""Whether a feature has moved: the population stability index between what a model was trained on and what came since.

Source: Siddiqi, Credit Risk Scorecards (2006).
"""

import numpy as np
import polars as pl
from numpy.typing import NDArray

BINS = 10
SMALLEST = 1e-4  # share of a bin, so that an empty one counts and its logarithm is finite


def stability(reference: pl.Series, recent: pl.Series) -> float:
    """The index between two samples of a feature, over tenths of the first or over its categories."""
    return float(trailing(reference, recent, np.zeros(len(recent), dtype=np.int64), days=1)[0])


def trailing(reference: pl.Series, values: pl.Series, day: NDArray[np.int64], *, days: int) -> NDArray[np.float64]:
    """The index of each day's newest values against a reference.

    Args:
        reference: What the model was trained on.
        values: The feature's values.
        day: The day of each, from 0 on.
        days: So many days up to a day count for it.

    Returns:
        Shape (days,): NaN where there are no values.
    """
    expected, bins = binned(reference, reference), binned(reference, values)
    most, last = int(max(expected.max(), bins.max())) + 1, int(day.max()) + 1
    counts = np.bincount(day * most + bins, minlength=last * most).reshape(last, most)
    sums = np.cumsum(np.vstack([np.zeros((1, most), dtype=np.int64), counts]), axis=0)
    before = np.maximum(np.arange(1, last + 1) - days, 0)
    return index(np.bincount(expected, minlength=most), sums[1:] - sums[before])


def binned(reference: pl.Series, values: pl.Series) -> NDArray[np.int64]:
    """The bin of each value: a tenth of the reference, missing values in the last; or a category, unseen ones last."""
    if not reference.dtype.is_numeric():
        names = reference.unique().sort()
        places = values.replace_strict(names, pl.int_range(len(names), eager=True), default=len(names))
        return places.to_numpy().astype(np.int64)
    known = reference.drop_nulls().to_numpy()
    parts = np.linspace(0, 1, BINS + 1)[1:-1]
    cuts = np.unique(np.quantile(known, parts)) if len(known) else np.array([np.finfo(np.float64).max])
    return np.searchsorted(cuts, values.fill_null(np.inf).to_numpy())


def index(expected: NDArray[np.int64], found: NDArray[np.int64]) -> NDArray[np.float64]:
    """The index between counts by bin, shape (bins,) and (..., bins); NaN where nothing was found."""
    with np.errstate(invalid="ignore"):
        shares = found / found.sum(axis=-1, keepdims=True)
    first, second = np.clip(expected / expected.sum(), SMALLEST, None), np.clip(shares, SMALLEST, None)
    found_index: NDArray[np.float64] = ((second - first) * np.log(second / first)).sum(axis=-1)
    return found_index
