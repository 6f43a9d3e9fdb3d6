"""Yours: raw rows -> features, as of the time of prediction.

The same `build` is used in research, training, batch prediction and the service.
"""

from collections.abc import Mapping
from datetime import timedelta

import narwhals as nw

from {{cookiecutter.__package_name}}.core.contracts.schema import Frame
from {{cookiecutter.__package_name}}.core.features import windows

WEATHER = ("temperature", "dew_point", "humidity", "wind_speed", "wind_gust", "precipitation", "pressure", "visibility")
WINDOW = timedelta(hours=3)
LOOKBACK = timedelta(hours=6)  # no feature looks further back

FEATURES = (
    *("local_minute", "weekday", "day_of_year", "carrier", "destination", "distance"),
    *WEATHER,
    *("delay_mean", "delay_count", "carrier_delay_mean", "carrier_delay_count"),
)


def build(rows: Frame, history: Mapping[str, Frame]) -> Frame:
    """Add the features to flights.

    Args:
        rows: Flights with `_predicted_at`, the time of prediction.
        history: The tables by name.
    """
    return rows.pipe(calendar).pipe(weather, history["weather"]).pipe(delays, history["departures"])


def calendar(flights: Frame) -> Frame:
    """Add weekday (Monday is 1, Sunday 0 on every engine) and day of the year, both local."""
    date = nw.col("local_date").dt
    return flights.with_columns(weekday=date.weekday() % 7, day_of_year=date.ordinal_day())


def weather(flights: Frame, observations: Frame) -> Frame:
    """Add the latest observation of the weather."""
    return windows.latest(flights, observations, when="observed", within=LOOKBACK, values=WEATHER)


def delays(flights: Frame, departures: Frame) -> Frame:
    """Add count and mean delay, in minutes, of the airport's and of the carrier's latest departures."""
    sums = {"delay_sum": nw.col("delay"), "delay_count": nw.lit(1)}
    carrier_sums = {f"carrier_{name}": value for name, value in sums.items()}
    return (
        flights.pipe(windows.trailing, departures, when="departed", window=WINDOW, sums=sums)
        .pipe(windows.trailing, departures, when="departed", window=WINDOW, sums=carrier_sums, by=["carrier"])
        .with_columns(
            delay_mean=mean("delay_sum", "delay_count"),
            carrier_delay_mean=mean("carrier_delay_sum", "carrier_delay_count"),
        )
    )


def mean(total: str, count: str) -> nw.Expr:
    """The mean of `count` values that sum to `total`; missing where there is none."""
    return nw.when(nw.col(count) > 0).then(nw.col(total) / nw.col(count))
