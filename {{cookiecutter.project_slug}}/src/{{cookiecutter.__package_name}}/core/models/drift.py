"""Drift of features: the population stability index (PSI) between training data and recent data.

Source: Siddiqi, Credit Risk Scorecards (2006).
"""

import numpy as np
import polars as pl
from numpy.typing import NDArray

PSI_BINS = 10
MIN_SHARE = 1e-4  # minimum share of a bin, for a finite logarithm


def psi(reference: pl.Series, recent: pl.Series) -> float:
    """The PSI of two samples of a feature, over deciles of the first or over its categories."""
    return float(rolling_psi(reference, recent, np.zeros(len(recent), dtype=np.int64), days=1)[0])


def rolling_psi(reference: pl.Series, values: pl.Series, day: NDArray[np.int64], *, days: int) -> NDArray[np.float64]:
    """The PSI of the values up to each day against a reference.

    Args:
        reference: The values in the training data.
        values: The feature's values.
        day: The day of each, from 0 on.
        days: Length of the rolling window.

    Returns:
        Shape (days,): NaN where there are no values.
    """
    expected, bins = binned(reference, reference), binned(reference, values)
    most, last = int(max(expected.max(), bins.max())) + 1, int(day.max()) + 1
    counts = np.bincount(day * most + bins, minlength=last * most).reshape(last, most)
    sums = np.cumsum(np.vstack([np.zeros((1, most), dtype=np.int64), counts]), axis=0)
    before = np.maximum(np.arange(1, last + 1) - days, 0)
    return psi_from_counts(np.bincount(expected, minlength=most), sums[1:] - sums[before])


def binned(reference: pl.Series, values: pl.Series) -> NDArray[np.int64]:
    """The bin of each value: a decile or a category of the reference; missing and new values are in the last bin."""
    if not reference.dtype.is_numeric():
        names = reference.unique().sort()
        places = values.replace_strict(names, pl.int_range(len(names), eager=True), default=len(names))
        return places.to_numpy().astype(np.int64)
    known = reference.drop_nulls().to_numpy()
    parts = np.linspace(0, 1, PSI_BINS + 1)[1:-1]
    cuts = np.unique(np.quantile(known, parts)) if len(known) else np.array([np.finfo(np.float64).max])
    return np.searchsorted(cuts, values.fill_null(np.inf).to_numpy())


def psi_from_counts(expected: NDArray[np.int64], found: NDArray[np.int64]) -> NDArray[np.float64]:
    """The PSI of counts by bin, shape (bins,) and (..., bins); NaN without values."""
    with np.errstate(invalid="ignore"):
        shares = found / found.sum(axis=-1, keepdims=True)
    first, second = np.clip(expected / expected.sum(), MIN_SHARE, None), np.clip(shares, MIN_SHARE, None)
    found_index: NDArray[np.float64] = ((second - first) * np.log(second / first)).sum(axis=-1)
    return found_index
