"""The window, the time features and the questions of `init` follow the times of a table."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from my_ml_project.core.contracts.schema import Task
from my_ml_project.core.errors import InputError
from my_ml_project.research.init import generate, write
from my_ml_project.research.init.profile import Profile

START = datetime(2020, 1, 1, tzinfo=UTC)


def times(*moments: datetime) -> pl.Series:
    return pl.Series("when", moments, dtype=pl.Datetime("us", "UTC"))


def in_window(series: pl.Series) -> float:
    newest = pl.col("when") > pl.col("when").max() - timedelta(days=write.window_days(series))
    return float(series.to_frame().select(newest.mean()).item())


HOURLY = times(*(START + timedelta(hours=hour) for hour in range(2400)))
MONTHLY = times(*(datetime(2000 + month // 12, month % 12 + 1, 1, tzinfo=UTC) for month in range(240)))
YEARLY = times(*(datetime(1990 + number % 20, 1, 1, tzinfo=UTC) for number in range(400)))
GAPS = times(*(START + timedelta(days=day + 500 * (day > 100)) for day in range(200)))
UNEVEN = times(*[START] * 90, *[START + timedelta(days=1)] * 10, *[START + timedelta(days=2)] * 2)


@pytest.mark.parametrize("series", [HOURLY, MONTHLY, YEARLY, GAPS], ids=["hourly", "monthly", "yearly", "gaps"])
def test_the_window_has_the_newest_fifth_of_the_rows(series: pl.Series) -> None:
    assert in_window(series) == pytest.approx(0.2, abs=0.02)


def test_the_window_has_enough_rows_where_few_are_new() -> None:
    assert in_window(UNEVEN) * len(UNEVEN) == pytest.approx(12)


def test_times_of_one_day_have_no_window() -> None:
    with pytest.raises(InputError, match=r"'when' has no day .* leave out --time"):
        write.window_days(times(*(START + timedelta(minutes=minute) for minute in range(200))))


def columns(series: pl.Series, role: str) -> list[Profile]:
    target = Profile("y", "y", float, pl.Series("y", range(len(series)), dtype=pl.Float64), role="target")
    kind = datetime if isinstance(series.dtype, pl.Datetime) else int
    return [Profile(series.name, series.name, kind, series, role=role), target]


def test_rows_without_a_time_don_t_count() -> None:
    gaps = pl.concat([MONTHLY, pl.Series(MONTHLY.name, [None] * len(MONTHLY), dtype=MONTHLY.dtype)])
    assert write.window_days(gaps) == write.window_days(MONTHLY)


@pytest.mark.parametrize(("series", "days"), [(HOURLY, (28, 7)), (MONTHLY, (31, 31)), (YEARLY, (365, 365))])
def test_a_challenger_is_due_no_more_often_than_rows_arrive(series: pl.Series, days: tuple[int, int]) -> None:
    text = write.acceptance(columns(series, "time"), Task.REGRESSION, 99, 1.0, 2.0)
    assert f"every_days = {days[0]}\nwindow_days = {days[1]}\n" in text


def test_features_have_the_trend_and_the_season_of_a_time() -> None:
    text = write.features(columns(MONTHLY, "time"))
    assert "when_decimal_year" in text
    assert "when_days_from_midsummer" in text
    assert "when_decimal_year" not in write.features(columns(times(START, START), "time"))


def questions(values: Sequence[int]) -> str:
    return "\n".join(generate._questions(columns(pl.Series("x", values), "")))


def test_years_and_sorted_numbers_are_asked_about() -> None:
    assert "is 'x' the time of a row's event? Then add --time 'x'" in questions([1959, 1961, 1960])
    assert "is 'x', which sorts the rows, a time?" in questions([1, 3, 8, 20])
    assert "--time" not in questions([3, 1, 8, 2])
