"""The table of labels: whether annotations can fill it, and its classes."""

import polars as pl

from {{cookiecutter.__package_name}}.core.contracts.schema import AvailableAt, Category, Personal, Schema
from {{cookiecutter.__package_name}}.core.errors import InputError
from {{cookiecutter.__package_name}}.core.problem import Problem
from {{cookiecutter.__package_name}}.core.workspace import Workspace


def validate_labels_table(problem: Problem) -> Schema:
    """The table of labels, if annotations can fill it.

    Raises:
        InputError: They can't.
    """
    entity, labels = problem.schema, problem.labels
    if not entity.key:
        msg = f"rows of {entity.name} have no key, by which a label finds its row"
        raise InputError(f"{msg}: mark their Key() in shared/contract.py, or give init a --key")
    if labels is entity and not problem.target.optional:
        msg = f"rows of {entity.name} come with their {problem.target.name}"
        raise InputError(f"{msg}: let it be missing, `| None`, in shared/contract.py")
    if personal := set(entity.key) & set(entity.columns_with_role(Personal)):
        msg = f"the key of {entity.name} is personal ({', '.join(sorted(personal))}) and must not leave in a task"
        raise InputError(f"{msg}: give its rows another Key() in shared/contract.py")
    made = {*labels.key, problem.target.name, annotated_at(problem), *copied(problem)}
    if missing := [column.name for column in labels.columns if column.name not in made and not column.optional]:
        msg = f"{labels.name} needs {', '.join(missing)}, which annotations don't have"
        raise InputError(f"{msg}: let it be missing, `| None`, in shared/contract.py")
    return labels


def annotated_at(problem: Problem) -> str | None:
    """The column of labels that gets the time of the annotation, or None."""
    return problem.labels.column_with_role(AvailableAt) if problem.labels is problem.schema else problem.labels.time


def copied(problem: Problem) -> list[str]:
    """The columns of labels that are copied from the row."""
    entity, labels = problem.schema, problem.labels
    made = {*labels.key, problem.target.name, annotated_at(problem)}
    return [name for name in labels.names if name not in made and entity.dtypes.get(name) == labels.dtypes[name]]


def classes(workspace: Workspace) -> list[str]:
    """The classes, from the contract or from existing labels; empty for a regression."""
    target, labels = workspace.problem.target, workspace.problem.labels
    if target.kind is bool:
        return [*(workspace.problem.words[::-1] or ("false", "true"))]
    if target.kind is not str:
        return []
    category = target.role(Category)
    named = list(category.values) if category else []
    if category and not category.open:
        return named
    used = workspace.lake.scan(labels).select(pl.col(target.name).unique().drop_nulls().sort()).collect().to_series()
    return named + [name for name in used if name not in named]
