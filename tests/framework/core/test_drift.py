"""The stability index: as by hand, and the same day by day as at once."""

import numpy as np
import polars as pl
import pytest

from my_ml_project.core.models.drift import psi, rolling_psi


def test_the_stability_index_is_as_by_hand() -> None:
    same = pl.Series([float(n) for n in range(100)])
    assert psi(same, same) == pytest.approx(0)
    assert psi(pl.Series(["a", "a", "b", "b"]), pl.Series(["a", "a", "a", "b"])) == pytest.approx(
        0.25 * np.log(1.5) - 0.25 * np.log(0.5)
    )
    upper = same.filter(same >= 50)
    halves = 5 * (0.2 - 0.1) * np.log(2) + 5 * (1e-4 - 0.1) * np.log(1e-4 / 0.1)
    assert psi(same, upper) == pytest.approx(halves, rel=0.01)
    missing = pl.Series([None] * 100, dtype=pl.Float64)
    assert psi(same, missing) > 1, "missing values are the last tenth"
    assert psi(missing, missing) == pytest.approx(0)
    assert psi(missing, same) > 1, "what is there now, and never was before, has moved"


def test_the_index_of_a_day_is_that_of_the_days_up_to_it() -> None:
    rng = np.random.default_rng(0)
    reference, values = pl.Series(rng.normal(0, 1, 500)), pl.Series(rng.normal(0.5, 1, 300))
    day = np.repeat([0, 1, 4], 100)
    found = rolling_psi(reference, values, day, days=2)
    assert found[[0, 1, 2, 4]] == pytest.approx(
        [psi(reference, values[part]) for part in (slice(100), slice(200), slice(100, 200), slice(200, 300))]
    )
    assert np.isnan(found[3]), "two days without a row"


def test_a_category_that_is_new_is_a_move_too() -> None:
    assert psi(pl.Series(["a", "b"] * 50), pl.Series(["a", "b", "c", None] * 25)) > 1
