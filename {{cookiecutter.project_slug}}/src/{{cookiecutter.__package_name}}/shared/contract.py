"""Yours: the contract: tables, columns, limits and rules.

Which flights from LaGuardia will be late? A flight is predicted two hours before its scheduled departure, from its
schedule, the weather, and the delays of earlier flights.
"""

from datetime import UTC, date, datetime, timedelta
from typing import Annotated, ClassVar

import narwhals as nw
from pydantic import Field

from {{cookiecutter.__package_name}}.core.contracts.schema import (
    AvailableAt,
    Category,
    EventTime,
    Key,
    Table,
    Target,
)

CARRIERS = ("9E", "AA", "B6", "DL", "EV", "F9", "FL", "MQ", "OO", "UA", "US", "WN", "YV")
MILES = {
    code: int(miles)
    for code, _, miles in (
        pair.partition(":")
        for pair in """
ATL:762 AVL:599 BGR:378 BHM:866 BNA:764 BOS:184 BTV:258 BUF:292 BWI:185 CAE:617 CAK:397 CHO:305 CHS:641 CLE:419
CLT:544 CMH:479 CRW:444 CVG:585 DAY:549 DCA:214 DEN:1620 DFW:1389 DSM:1031 DTW:502 EYW:1207 FLL:1076 GRR:618 GSO:461
GSP:610 HOU:1428 IAD:229 IAH:1416 ILM:500 IND:660 JAX:833 LEX:604 MCI:1107 MCO:950 MDW:725 MEM:963 MHT:195 MIA:1096
MKE:738 MSN:812 MSP:1020 MSY:1183 MYR:563 OMA:1148 ORD:733 ORF:296 PBI:1035 PHL:96 PIT:335 PWM:269 RDU:431 RIC:292
ROC:254 RSW:1080 SAV:722 SBN:651 SDF:659 SRQ:1047 STL:888 SYR:198 TPA:1010 TVC:655 TYS:647 XNA:1147
""".split()
    )
}
SCHEDULED = [datetime(2013, 1, 14 + day, 14 + 2 * day, 30, tzinfo=UTC) for day in range(5)]  # of sample rows


def known_distance() -> nw.Expr:
    """Whether the distance matches the destination; new destinations may have any."""
    pair = nw.concat_str("destination", nw.col("distance").cast(nw.String), separator=":")
    return pair.is_in([f"{code}:{miles}" for code, miles in MILES.items()]) | ~nw.col("destination").is_in(list(MILES))


def new_york_clock() -> nw.Expr:
    """Whether the local minute is four (summer) or five hours (winter) behind UTC."""
    utc = nw.col("scheduled").dt.hour().cast(nw.Int64) * 60 + nw.col("scheduled").dt.minute().cast(nw.Int64)
    behind = (utc - nw.col("local_minute") + 1440) % 1440
    return behind.is_in([240, 300])


class Flight(Table):
    """A scheduled flight, which is predicted."""

    table: ClassVar = "flights"
    max_span: ClassVar = timedelta(days=33)  # a batch is at most a month
    min_volume: ClassVar = 0.535  # of the fullest week before; Thanksgiving has 0.536
    rules: ClassVar = {
        "distance belongs to destination": known_distance(),
        "local_minute is New York's": new_york_clock(),
    }

    leg: Annotated[int, Field(gt=0, description="identifies the flight"), Key()]
    scheduled: Annotated[
        datetime,
        Field(description="scheduled departure, UTC", examples=SCHEDULED),
        EventTime(lead=timedelta(hours=2)),
    ]
    local_date: Annotated[
        date, Field(description="its day in New York", examples=[moment.date() for moment in SCHEDULED])
    ]
    local_minute: Annotated[
        int,
        Field(ge=0, lt=1440, description="its minute of that day", examples=[570, 690, 810, 930, 1050]),
    ]
    carrier: Annotated[str, Field(description="airline"), Category(CARRIERS, open=True)]
    number: Annotated[int, Field(gt=0, lt=10000, description="flight number")]
    destination: Annotated[
        str, Field(description="airport", examples=["ATL", "ORD"]), Category(tuple(MILES), open=True)
    ]
    distance: Annotated[int, Field(gt=0, lt=6000, description="miles to the destination", examples=[762, 733])]


class Departure(Table):
    """A departed flight; cancelled flights don't depart."""

    table: ClassVar = "departures"
    max_span: ClassVar = timedelta(days=33)

    leg: Annotated[int, Field(gt=0, description="identifies the flight"), Key()]
    carrier: Annotated[str, Field(description="airline"), Category(CARRIERS, open=True)]
    departed: Annotated[datetime, Field(description="actual departure, UTC"), AvailableAt()]
    delay: Annotated[int, Field(gt=-120, lt=2880, description="minutes after schedule; negative is early")]


class Outcome(Table):
    """The outcome of a flight: late is an arrival delay of 15 minutes or more, cancelled or diverted."""

    table: ClassVar = "outcomes"
    max_span: ClassVar = timedelta(days=33)
    min_volume: ClassVar = 0.53

    leg: Annotated[int, Field(gt=0, description="identifies the flight"), Key()]
    known: Annotated[datetime, Field(description="when this was known, UTC"), AvailableAt()]
    late: Annotated[bool, Field(description="whether it was late"), Target()]


class Weather(Table):
    """The weather at LaGuardia in the hour before."""

    table: ClassVar = "weather"
    max_span: ClassVar = timedelta(days=33)
    min_volume: ClassVar = 0.8
    rules: ClassVar = {
        "dew_point is not above temperature": nw.col("dew_point") <= nw.col("temperature"),
        "wind_gust is not below wind_speed": nw.col("wind_gust") >= nw.col("wind_speed"),
    }

    observed: Annotated[datetime, Field(description="end of the hour, UTC"), Key(), AvailableAt()]
    temperature: Annotated[float, Field(gt=-30, lt=120, description="degrees Fahrenheit")]
    dew_point: Annotated[float, Field(gt=-50, lt=100, description="degrees Fahrenheit")]
    humidity: Annotated[float, Field(ge=0, le=100, description="relative, percent")]
    wind_speed: Annotated[float, Field(ge=0, lt=150, description="miles an hour")]
    wind_gust: Annotated[float | None, Field(ge=0, lt=200, description="miles an hour")]
    precipitation: Annotated[float, Field(ge=0, lt=10, description="inches in the hour")]
    pressure: Annotated[float | None, Field(gt=850, lt=1100, description="hectopascals at sea level")]
    visibility: Annotated[float, Field(ge=0, le=10, description="miles")]


ENTITY = Flight
TABLES = (Flight, Departure, Outcome, Weather)
