"""The profile of a table: for each column its name, type, range and role in the problem."""

import keyword
import math
import re
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import numpy as np
import polars as pl
from pydantic import BaseModel, create_model

from {{cookiecutter.__package_name}}.core.contracts.schema import Table, Task, schema_of
from {{cookiecutter.__package_name}}.core.contracts.translation import Translation
from {{cookiecutter.__package_name}}.core.errors import InputError
from {{cookiecutter.__package_name}}.core.models.leaks import find_leaks
from {{cookiecutter.__package_name}}.core.problem import PREDICTION_COLUMNS
from {{cookiecutter.__package_name}}.research.init.source import Source, time_formats

MAX_LEVELS = 20  # of a category that is listed in the contract
MAX_CLASSES = 10  # different whole numbers that are classes, not quantities
MIN_ROWS = 50  # labelled rows
MAX_NUMBER = float(np.finfo(np.float32).max)
UNIQUE_SHARE = 0.5  # of different values, from which text is no category
TAKEN = {*PREDICTION_COLUMNS, *dir(BaseModel), *dir(Table), "table", "dt", "bool", "int", "float", "str"}
WRITTEN_OUT = str.maketrans({"ß": "ss", "%": " percent "})
PERSONAL = re.compile(
    r"(^|_)(e_?mail|phone|telephone|mobile|fax|(first|last|full|sur|user|nick|maiden)_?name|ssn|iban|passport|street"
    r"|social_security|credit_card|ip_?address|date_of_birth|birth_?(date|day)|dob|vorname|nachname|geburtsdatum)($|_)"
)
CONTENT = (r"^[^@\s]+@[^@\s]+\.[a-z]+$", r"^\+\d[\d ()/-]{7,}$")  # an e-mail address, a telephone number
ID = re.compile(r"(^|_)(id|key|uuid|guid|nr|no)$")
POSITIVE = (
    "1",
    "1.0",
    "true",
    "yes",
    "y",
    "t",
    "ja",
    "oui",
    "on",
    "positive",
    "up",
    "success",
    "case",
    "m",
    "malignant",
)


@dataclass
class Profile:
    """A column.

    Attributes:
        source: Its name in the source.
        name: Its name in the contract.
        kind: Its type.
        values: Its values in this type.
        role: `key`, `time`, `available`, `target`, `personal` or `excluded`; a feature has none.
        reason: Why it is excluded.
        levels: The values of a category; empty if they are many.
        is_many: Whether it is a category of many values.
        is_key: Whether it is part of the key.
        leak: What it does that looks like a leak.
        words: The words for true and false of a binary target, unless they are just that.
    """

    source: str
    name: str
    kind: type
    values: pl.Series
    role: str = ""
    reason: str = ""
    levels: tuple[str, ...] = ()
    is_many: bool = False
    is_key: bool = False
    leak: str = ""
    words: tuple[str, ...] = ()

    @property
    def null_share(self) -> float:
        """The share of missing values."""
        return self.values.null_count() / max(1, len(self.values))

    def exclude(self, reason: str) -> None:
        """Keep it out of the features, unless it has a role."""
        if not self.role:
            self.role, self.reason = "excluded", reason

    def limits(self) -> dict[str, float]:
        """Wide limits of a number, which catch another unit but no new record."""
        low, high = self.values.min(), self.values.max()
        if self.kind not in {int, float} or not isinstance(low, int | float) or not isinstance(high, int | float):
            return {}
        bound = 10 ** (math.floor(math.log10(max(abs(low), abs(high)) or 1)) + 2)
        return {"ge": 0 if low >= 0 else -bound, "le": bound} if bound < 10**18 else {}


@dataclass(frozen=True)
class Request:
    """What the user asked for; columns by their names in the source."""

    target: str
    time: str | None = None
    key: tuple[str, ...] = ()
    task: Task | None = None
    exclude: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    available_at: str | None = None


def identifier(name: str, taken: Collection[str], position: int = 0) -> str:
    """A name as a Python identifier in ASCII, in lower case, that is not taken."""
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.translate(WRITTEN_OUT))
    plain = unicodedata.normalize("NFKD", split).encode("ascii", "ignore").decode().lower()
    plain = re.sub(r"[^a-z0-9]+", "_", plain).strip("_") or f"column_{position + 1}"
    plain = f"n_{plain}" if plain[0].isdigit() else plain
    plain = f"{plain}_" if keyword.iskeyword(plain) or keyword.issoftkeyword(plain) or plain in TAKEN else plain
    number = 2
    unique = plain
    while unique in taken:
        unique, number = f"{plain}_{number}", number + 1
    return unique


def profile(source: Source, request: Request) -> list[Profile]:
    """The columns of a source with their roles.

    Raises:
        InputError: A column that was named doesn't exist, or can't be what it was named for.
    """
    asked = (request.target, *filter(None, (request.time, request.available_at)), *request.key)
    asked += request.exclude + request.keep
    if unknown := [name for name in asked if name not in source.kinds]:
        raise InputError(f"there is no column {unknown[0]!r}: columns are {', '.join(map(repr, source.kinds))}")
    for name in filter(None, (request.time, request.available_at)):
        _make_time(source, name)
    names: dict[str, str] = {}
    for position, name in enumerate(source.kinds):
        names[name] = identifier(name, names.values(), position)
    _make_target(source, request)
    typed = translation(source, names, row_model(source, names))(source.rows)
    columns = [Profile(name, names[name], source.kinds[name], typed[names[name]]) for name in source.kinds]
    _assign_roles(columns, request)
    _exclude_leaks(columns, request)
    target = next(column for column in columns if column.role == "target")
    words = source.words.get(target.source, ())
    target.words = words if words != ("true", "false") else ()
    return columns


def row_model(source: Source, names: Mapping[str, str]) -> type[Table]:
    """A table with the columns of a source."""
    fields: dict[str, Any] = {names[name]: (kind | None, ...) for name, kind in source.kinds.items()}
    return create_model("Row", __base__=Table, **fields)


def translation(source: Source, names: Mapping[str, str], table: type[Table]) -> Translation:
    """The translation of a source, by the names of the contract."""
    return Translation(
        table=table,
        names={name: names[name] for name in names if name != names[name]},
        dropped=tuple(name for name in source.rows.columns if name not in names),
        missing=source.missing,
        decimal=source.decimal,
        thousands=source.thousands,
        dates={names[name]: formats for name, formats in source.dates.items()},
        words={names[name]: words for name, words in source.words.items() if names[name] != schema_of(table).target},
    )


def _make_time(source: Source, name: str) -> None:
    """Make a column a time, also one of years or of seconds."""
    values = source.rows[name]
    if source.kinds[name] in {int, float}:
        formats = next(iter(time_formats(values)), None)
        if formats is None:
            raise InputError(
                f"{name!r} is no time: its values are numbers such as {values.drop_nulls().head(1).item()}"
            )
        source.dates[name] = formats
    elif source.kinds[name] not in {date, datetime}:
        raise InputError(
            f"{name!r} is no time, or of an unknown format: a value is {values.drop_nulls().head(1).to_list()}"
        )
    source.kinds[name] = datetime


def _make_target(source: Source, request: Request) -> None:
    """Give the target the type of its task, which is inferred if it was not asked for."""
    name, kind = request.target, source.kinds[request.target]
    values = source.rows[name].cast(pl.String).str.strip_chars()
    values = values.filter(~values.is_in(["", "NaN", *source.missing])).drop_nulls()
    levels = sorted(values.unique())
    if len(values) < MIN_ROWS:
        raise InputError(f"{name!r} has {len(values)} values: at least {MIN_ROWS} labelled rows are needed")
    if len(levels) == 1:
        raise InputError(f"{name!r} is {levels[0]!r} in every row: there is nothing to predict")
    whole = kind is int or (kind is float and values.str.contains(r"^-?\d+(\.0*)?$").all())
    task = Task(request.task) if request.task else None  # click's choice is a string
    if task is None:
        if len(levels) == 2:
            task = Task.BINARY
        elif kind is str or (whole and len(levels) <= MAX_CLASSES):
            task = Task.MULTICLASS
        else:
            task = Task.REGRESSION
    if task is Task.BINARY and len(levels) != 2:
        raise InputError(f"{name!r} has {len(levels)} different values, a binary target two: use another --task")
    if task is Task.REGRESSION and kind not in {int, float}:
        raise InputError(f"{name!r} is no number, such as {levels[0]!r}: use another --task")
    if task is Task.MULTICLASS and (len(levels) > len(values) / 5 or len(levels) > 100):
        raise InputError(f"{name!r} has {len(levels)} different values in {len(values)} rows: too many for classes")
    if task is Task.BINARY and kind is not bool:
        yes = next(
            (level for level in levels if level.lower() in POSITIVE), values.value_counts().sort("count", name)[name][0]
        )
        source.words[name] = yes, next(level for level in levels if level != yes)
    source.kinds[name] = {Task.BINARY: bool, Task.MULTICLASS: str, Task.REGRESSION: kind}[task]


def _assign_roles(columns: list[Profile], request: Request) -> None:
    by_source = {column.source: column for column in columns}
    by_source[request.target].role = "target"
    for name in request.exclude:
        by_source[name].exclude("is left out by request")
    for role, named in (("time", [request.time]), ("available", [request.available_at]), ("key", request.key)):
        for column in (by_source[name] for name in named if name):
            column.role = role
    _assign_key(columns)
    for column in columns:
        _assign_role(column)
    target = by_source[request.target]
    if target.kind is str:
        target.levels = tuple(target.values.drop_nulls().unique().sort())


def _assign_key(columns: list[Profile]) -> None:
    """Make the key unique, with the time if rows repeat it; without one, take a unique column named like one."""
    key = [column for column in columns if column.role == "key"]
    if not key:
        key = [column for column in columns if not column.role and ID.search(column.name) and _is_unique([column])][:1]
    elif not _is_unique(key):
        key += [column for column in columns if column.role == "time"]
        if not _is_unique(key):
            names = " and ".join(repr(column.source) for column in key)
            raise InputError(
                f"{names} repeat or are missing in some rows, hence are no key: leave out --key, or add --time"
            )
    for column in key:
        column.role = column.role or "key"
        column.is_key = True


def _is_unique(columns: list[Profile]) -> bool:
    values = pl.DataFrame([column.values for column in columns])
    return all(column.kind in {int, str, datetime} for column in columns) and not (
        values.is_duplicated().any() or sum(values.null_count().row(0))
    )


def _assign_role(column: Profile) -> None:
    """Exclude a column that can't be a feature, and list the levels of a category."""
    values = column.values.drop_nulls()
    different = values.n_unique()
    if column.role in {"target", "time", "available"} or (column.is_key and different == len(values)):
        return
    if PERSONAL.search(column.name) or (column.kind is str and any(_mostly(values, pattern) for pattern in CONTENT)):
        column.role = column.role or "personal"
    elif not different:
        column.exclude("is always missing")
    elif different == 1 and not column.values.null_count():
        column.exclude(f"is always {values[0]}")
    elif column.kind is float and (values.abs() > MAX_NUMBER).any():
        column.exclude("has numbers that are too large for a model")
    elif column.kind is int and different == len(column.values) and _counts(values):
        column.exclude("numbers the rows")
    elif column.kind is str and different > max(MAX_LEVELS, UNIQUE_SHARE * len(values)):
        column.exclude("has another value in nearly every row")
    elif column.kind is str:
        column.is_many = different > MAX_LEVELS
        column.levels = () if column.is_many else tuple(values.unique().sort())


def _exclude_leaks(columns: list[Profile], request: Request) -> None:
    """Exclude the features that look like leaks, unless they are to be kept."""
    target = next(column.values for column in columns if column.role == "target")
    time = next((column.values for column in columns if column.role == "time"), None)
    labelled = target.is_not_null()
    features = pl.DataFrame([column.values.filter(labelled) for column in columns if not column.role])
    found = find_leaks(features, target.filter(labelled), time.filter(labelled) if time is not None else None)
    for column in columns:
        column.leak = found.get(column.name, "")
        if column.leak and column.source not in request.keep:
            column.exclude(column.leak)


def _mostly(values: pl.Series, pattern: str) -> bool:
    return len(values) > 0 and values.str.contains(f"(?i){pattern}").sum() > UNIQUE_SHARE * len(values)


def _counts(values: pl.Series) -> bool:
    """Whether numbers count on from row to row."""
    return bool((values.diff().drop_nulls() == 1).all())
