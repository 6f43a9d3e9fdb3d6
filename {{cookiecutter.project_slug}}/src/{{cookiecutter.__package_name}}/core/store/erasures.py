"""The table `erasures`: the keys of erased rows of the entity.

Ingestion drops rows with these keys. `production/erasure` deletes the rows.
"""

import logging
from datetime import datetime
from pathlib import Path

import polars as pl

from {{cookiecutter.__package_name}}.core.contracts.schema import DTYPES, Schema
from {{cookiecutter.__package_name}}.core.contracts.validation import drop_rows, from_text
from {{cookiecutter.__package_name}}.core.errors import InputError
from {{cookiecutter.__package_name}}.core.problem import Problem
from {{cookiecutter.__package_name}}.core.store.files import overwrite, read_file
from {{cookiecutter.__package_name}}.core.store.lake import Lake

log = logging.getLogger(__name__)

ERASURES = "erasures"
ERASED_AT = "_erased_at"


def erased_keys(lake: Lake) -> pl.DataFrame:
    """The keys of erased rows of the entity; without columns if there are none."""
    return lake.read(ERASURES, {}).drop(ERASED_AT, strict=False).collect()


def drop_erased(lake: Lake, rows: pl.DataFrame) -> pl.DataFrame:
    """The rows that were not erased; all rows if they lack the key of the entity."""
    return drop_rows(rows, erased_keys(lake))


def since(lake: Lake, moment: datetime) -> int:
    """The number of keys erased after a time."""
    erased = lake.read(ERASURES, {ERASED_AT: DTYPES[datetime]}).filter(pl.col(ERASED_AT) > moment)
    return int(erased.select(pl.len()).collect().item())


def remove_erased(lake: Lake, problem: Problem, path: Path) -> None:
    """Remove erased rows from a file; one that can't be checked is logged."""
    if len(gone := erased_keys(lake)):
        try:
            purge(path, problem, gone)
        except InputError as error:
            log.warning("erase     %s", error)


def purge(path: Path, problem: Problem, gone: pl.DataFrame) -> bool:
    """Remove rows of the entity from a file of any table, or the file if none is left; return whether there were any.

    Raises:
        InputError: The file can't be checked: it can't be read, or its rows have no key.
    """
    key, (_, rows) = problem.schema.key, read_file(path)
    keyed = {name: schema for name, schema in problem.schemas.items() if set(key) <= set(schema.names)}
    named = [name for name in problem.schemas if name in path.parts[-3:-1]]  # by its folder
    left = pl.Series([True]).new_from_index(0, len(rows))
    for table in keyed.keys() & named if named else keyed:
        translated = problem.translated(table, rows)
        if set(key) <= set(translated.columns) and len(translated) == len(rows):
            left &= ~_has_key(translated.select(key), problem.schema, gone)
        elif named:
            raise InputError(f"{path} can't be checked for erased rows: it lacks {', '.join(key)}; delete it")
    if not left.any() and len(left):
        path.unlink()  # an archived file without rows would look like a lost batch
    elif not left.all():
        overwrite(path, rows.filter(left))
    return not left.all()


def _has_key(keys: pl.DataFrame, schema: Schema, gone: pl.DataFrame) -> pl.Series:
    """Which of the keys, in the types of the contract or as text, are among others."""
    for name in schema.key:
        column, is_text = schema.column(name), keys.schema[name] == pl.String
        keys = keys.with_columns(from_text(column) if is_text else pl.col(name).cast(column.dtype, strict=False))
    numbers = keys.with_row_index("_nth")
    return numbers["_nth"].is_in(numbers.join(gone, on=schema.key, how="semi")["_nth"].to_list())
