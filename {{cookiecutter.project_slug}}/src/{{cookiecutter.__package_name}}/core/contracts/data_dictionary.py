"""The data dictionary: the tables of a contract in Markdown."""

import re
from dataclasses import dataclass
from pathlib import Path

from {{cookiecutter.__package_name}}.core.contracts.schema import (
    Column,
    Nulls,
    Role,
    Schema,
    Table,
    Target,
    schema_of,
)
from {{cookiecutter.__package_name}}.core.errors import write_file

HEAD = "# Data dictionary\n\nWritten from `shared/contract.py`; do not edit.\n\n"


@dataclass(frozen=True)
class DataDictionary:
    """A data dictionary that was written.

    Attributes:
        file: Its path.
        tables: The names of the tables in it.
    """

    file: str
    tables: tuple[str, ...]

    def __str__(self) -> str:
        return f"{', '.join(self.tables)} in {self.file}"


def write_data_dictionary(tables: tuple[type[Table], ...], path: Path) -> DataDictionary:
    """Write the tables' data dictionary as a page."""
    write_file(path, HEAD + data_dictionary(tables))
    return DataDictionary(str(path), tuple(table.table for table in tables))


def data_dictionary(tables: tuple[type[Table], ...]) -> str:
    """The tables in Markdown: a section a table, a row a column, its rules below."""
    return "\n".join(_section(schema_of(table)) for table in tables)


def _section(schema: Schema) -> str:
    rows = [
        f"| `{column.name}` | {column.kind.__name__} | {_roles(column)} | {_limits(column)} |"
        f" {column.field.description or ''} |"
        for column in schema.columns
    ]
    rules = [f"- {rule}" for rule in schema.model.rules]
    head = ["| column | type | role | limits | meaning |", "| -- | -- | -- | -- | -- |"]
    doc = re.sub(r"\s+", " ", schema.model.__doc__ or "").strip()
    parts = [f"## {schema.name}", "", doc, "", *head, *rows, ""]
    return "\n".join([*parts, "Rules:", "", *rules, ""] if rules else parts)


def _roles(column: Column) -> str:
    names = (type(role).__name__ for role in column.field.metadata if isinstance(role, Role))
    return ", ".join(re.sub(r"(?<!^)(?=[A-Z])", " ", name).lower() for name in names)


def _limits(column: Column) -> str:
    limits = [
        name.removeprefix(f"{column.name} ").replace("<=", "≤").replace(">=", "≥") for name in column.conditions()
    ]
    nulls, target = column.role(Nulls), column.role(Target)
    limits += [f"true is {target.positive}, false is {target.negative}"] if target and target.words else []
    return "; ".join([*limits, f"at most {nulls.at_most:.0%} missing"] if nulls else limits)
