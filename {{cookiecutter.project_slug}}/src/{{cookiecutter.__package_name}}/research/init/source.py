"""The rows of a source, and how it writes missing values, numbers, dates, yes and no."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path

import polars as pl

from {{cookiecutter.__package_name}}.core.contracts.translation import EPOCH, parse_times, plain_numbers
from {{cookiecutter.__package_name}}.core.errors import InputError
from {{cookiecutter.__package_name}}.core.store.files import READABLE, read_file

MISSING = ("NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "#N/A", "?")  # in any column
MISSING_NUMBERS = ("-", "--", ".", "None", "none", "missing", "unknown")  # if the other values are numbers or dates
WORDS = {("yes", "no"), ("y", "n"), ("true", "false"), ("t", "f"), ("ja", "nein"), ("oui", "non"), ("on", "off")}
MARKS = ((".", ""), (".", ","), (",", ""), (",", "."), (",", " "), (".", " "), (".", "'"))  # decimal, thousands
DAYS = (
    *("%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%Y/%m/%d", "%d-%m-%Y", "%m-%d-%Y", "%d.%m.%y", "%m/%d/%y", "%d/%m/%y"),
    *("%d %b %Y", "%d-%b-%Y", "%b %d, %Y", "%d %B %Y", "%B %d, %Y", "%b %d %Y"),
)
CLOCKS = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p", ", %H:%M")
FORMATS = tuple(day + clock for day in DAYS for clock in CLOCKS)
ISO_DAY = r"^\d{4}-\d{2}-\d{2}$"
SAMPLE = 1000  # different values from which a format is guessed


@dataclass
class Source:
    """The rows of a source and how it writes them; see `Translation`.

    Attributes:
        files: The files.
        rows: Their rows; all columns of a CSV file are text.
        kinds: The type of each column, by its name in the source; columns that no contract can have are left out.
    """

    files: tuple[Path, ...]
    rows: pl.DataFrame
    kinds: dict[str, type] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    decimal: str = "."
    thousands: str = ""
    dates: dict[str, tuple[str, ...]] = field(default_factory=dict)
    words: dict[str, tuple[str, str]] = field(default_factory=dict)


def read_source(path: Path, *, missing: Sequence[str] = ()) -> Source:
    """The rows of a file or of all files in a folder.

    Args:
        path: The file or folder.
        missing: Texts that stand for a missing value, besides those that are found.

    Raises:
        InputError: A file can't be read, there is none, or the files differ in their columns.
    """
    files = (
        tuple(sorted(file for file in path.rglob("*") if file.suffix.lower() in READABLE)) if path.is_dir() else (path,)
    )
    if not files:
        raise InputError(f"{path} has no file that can be read: {', '.join(READABLE)}")
    frames = [read_file(file)[1] for file in files]
    if differ := next((i for i, frame in enumerate(frames) if set(frame.columns) != set(frames[0].columns)), None):
        names = ", ".join(sorted({*frames[0].columns} ^ {*frames[differ].columns}))
        raise InputError(f"{files[0].name} and {files[differ].name} differ in the columns {names}: give one table")
    rows = pl.concat(frames, how="diagonal_relaxed")
    rows = rows.drop(
        name for name, dtype in rows.schema.items() if dtype.is_nested() or dtype in {pl.Binary, pl.Object}
    )
    return _described(Source(files, rows), missing)


def _described(source: Source, missing: Sequence[str]) -> Source:
    """Find out how a source writes its values."""
    texts = {name: _levels(source.rows[name]) for name, dtype in source.rows.schema.items() if _is_text(dtype)}
    every = tuple(dict.fromkeys((*missing, *MISSING)))
    plain = {name: levels.filter(~levels.is_in(every)) for name, levels in texts.items()}
    bare = {name: levels.filter(~levels.is_in(MISSING_NUMBERS)) for name, levels in plain.items()}
    source.decimal, source.thousands = max(
        MARKS, key=lambda marks: sum(_are_numbers(each, *marks) for each in bare.values())
    )
    found = set[str]()
    for name, dtype in source.rows.schema.items():
        if name not in texts:
            source.kinds[name] = _kind_of(dtype)
            continue
        source.kinds[name] = str
        for levels in (plain[name], bare[name]):
            if len(levels) and (kind := _kind_of_text(source, name, levels)):
                source.kinds[name] = kind
                found |= set(texts[name]) - set(levels)
                break
        else:
            found |= set(texts[name]) - set(plain[name])
    source.missing = tuple(sorted(found))
    return source


def _is_text(dtype: pl.DataType) -> bool:
    return isinstance(dtype, pl.String | pl.Categorical | pl.Enum)


def _levels(values: pl.Series) -> pl.Series:
    levels = values.cast(pl.String).str.strip_chars().unique(maintain_order=True).drop_nulls()
    return levels.filter(levels != "")


def _kind_of(dtype: pl.DataType) -> type:
    if dtype == pl.Boolean:
        return bool
    if dtype.is_integer():
        return int
    if dtype.is_numeric():
        return float
    return date if dtype == pl.Date else datetime if isinstance(dtype, pl.Datetime) else str


def _kind_of_text(source: Source, name: str, levels: pl.Series) -> type | None:
    """The type of a text column other than text, by its different values; notes its words or formats."""
    pair = tuple(sorted(levels, key=str.lower, reverse=True)) if len(levels) == 2 else ()
    if tuple(map(str.lower, pair)) in WORDS or tuple(map(str.lower, pair[::-1])) in WORDS:
        yes, no = pair if tuple(map(str.lower, pair)) in WORDS else pair[::-1]
        source.words[name] = yes, no
        return bool
    if _are_numbers(levels, source.decimal, source.thousands):
        numbers = plain_numbers(levels, source.decimal, source.thousands)
        if levels.str.contains(r"^0\d").any():
            return None  # a code, such as a postal code
        return int if numbers.cast(pl.Int64, strict=False).null_count() == 0 else float
    if levels.str.contains(ISO_DAY).all():
        return date if parse_times(levels, ()).null_count() == 0 else None
    if formats := _formats(levels):
        source.dates |= {name: formats} if formats != ("",) else {}
        return datetime if any(mark in form for form in formats for mark in ("%H", "%I")) or formats == ("",) else date
    return None


def _are_numbers(levels: pl.Series, decimal: str, thousands: str) -> bool:
    """Whether all values are numbers with these marks, in groups of three digits if there are any."""
    point, group = re.escape(decimal), re.escape(thousands)
    whole = r"\d{1,3}(" + group + r"\d{3})+|\d+" if thousands else r"\d+"
    pattern = rf"^[$€£¥]?\s?[-+]?(({whole})({point}\d*)?|{point}\d+)([eE][-+]?\d+)?\s?[%€]?$"
    return len(levels) > 0 and bool(levels.str.contains(pattern).all())


def _formats(levels: pl.Series) -> tuple[str, ...]:
    """The formats of dates in text: one, or several where a column mixes them; empty if some are no dates."""
    if not levels.head(SAMPLE).str.contains(r"\d").all():
        return ()
    found: list[str] = []
    left = levels
    while len(left):
        fits = {form: _fits(left.head(SAMPLE), form) for form in ("", *FORMATS, "%Y-%m")}
        best = max(fits, key=lambda form: fits[form])
        parsed = parse_times(left, (best,))
        if parsed.null_count() == len(left):
            return ()
        found.append(best)
        left = left.filter(parsed.is_null())
    return tuple(found)


def _fits(levels: pl.Series, form: str) -> int:
    return len(levels) - parse_times(levels, (form,)).null_count()


def time_formats(values: pl.Series) -> Iterable[tuple[str, ...]]:
    """The formats that numbers in a column of times may have: a year, a day such as 20240531, or seconds since 1970."""
    numbers = values.drop_nulls().cast(pl.Int64, strict=False)
    if not len(numbers) or numbers.null_count():
        return
    if numbers.is_between(1800, 2200).all():
        yield ("%Y",)
    elif numbers.is_between(1800_01_01, 2200_12_31).all():
        yield ("%Y%m%d",)
    elif numbers.is_between(10**8, 10**10).all():
        yield (EPOCH,)
