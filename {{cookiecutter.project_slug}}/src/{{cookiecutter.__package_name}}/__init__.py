"""One codebase from the first experiment to a continuously retrained service; see the README.

For notebooks: `from {{cookiecutter.__package_name}} import load_table, load_training_set`.
"""

from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl


def load_training_set(*, as_of: datetime | None = None) -> "pl.DataFrame":
    """All labelled rows with their features; `.to_pandas()` makes it a pandas frame.

    Args:
        as_of: Time as of which data are used. Default: now, by the setting `clock`.
    """
    from {{cookiecutter.__package_name}}.core import datasets
    from {{cookiecutter.__package_name}}.core.workspace import open_project
    from {{cookiecutter.__package_name}}.shared import PROBLEM

    workspace = open_project(PROBLEM)
    return datasets.training_set(PROBLEM, workspace.lake, as_of=workspace.now(as_of))


def load_table(name: str) -> "pl.DataFrame":
    """All rows of a table, without personal and excluded columns; the framework's own, such as `predictions`, too.

    Raises:
        InputError: There is no such table.
    """
    from {{cookiecutter.__package_name}}.core.errors import InputError
    from {{cookiecutter.__package_name}}.core.problem import RESERVED
    from {{cookiecutter.__package_name}}.core.workspace import open_project
    from {{cookiecutter.__package_name}}.shared import PROBLEM

    lake = open_project(PROBLEM).lake
    if schema := PROBLEM.schemas.get(name):
        return lake.scan(schema).drop(schema.excluded_columns).collect()
    if name in RESERVED:
        return lake.read(name, {}).collect()
    raise InputError(f"there is no table {name}: choose one of {', '.join([*PROBLEM.schemas, *sorted(RESERVED)])}")
