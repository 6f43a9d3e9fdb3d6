"""The definition of the problem, from which the framework works."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from pydantic import BaseModel

from {{cookiecutter.__package_name}}.core.contracts.schema import (
    Column,
    Frame,
    Schema,
    Table,
    Target,
    Task,
    schema_of,
    task_of,
)
from {{cookiecutter.__package_name}}.core.errors import InputError
from {{cookiecutter.__package_name}}.core.parts import Part

if TYPE_CHECKING:
    import onnx

RESERVED = frozenset({"annotations", "collections", "decisions", "erasures", "predictions", "releases", "requests"})
RESERVED |= {"candidates", "verdicts"}
PREDICTION_COLUMNS = frozenset(
    {"decision", "error", "predicted_at", "prediction", "probability", "version"}
)  # reserved columns


@dataclass(frozen=True)
class ModelSpec:
    """How a model is created and exported; see `shared/model.py`.

    Attributes:
        parameters: The class of `config/params.toml`; it has a `seed`.
        estimator: Returns an unfitted estimator from parameters and the names of the text features.
        export: Converts a fitted estimator to ONNX, given whether each feature is text: one input per feature, the
            prediction as last output. None: the converter for scikit-learn, LightGBM and XGBoost.
        augment: Returns the augmented training rows, with the same columns, from parameters, training rows and a seeded
            generator. None: no augmentation.
    """

    parameters: type[BaseModel]
    estimator: Callable[[Any, list[str]], Any]
    export: Callable[[Any, dict[str, bool]], "onnx.ModelProto"] | None = None
    augment: Callable[[Any, pl.DataFrame, np.random.Generator], pl.DataFrame] | None = None


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is predicted, from which tables and features, and how.

    Attributes:
        entity: The table whose rows are predicted.
        tables: All tables, the entity included.
        features: The names of the features that `build` returns.
        lookback: How far before the time of prediction features look back.
        build: Adds the features to rows that have `_predicted_at`, from the history of the tables.
        collect: Called with the project's folder, since, until and the inbox: writes the rows that arrived in (since,
            until] to files in the inbox and returns their paths.
        model_spec: Returns the model specification; it is called in training, never in serving.
        read: Translates rows of a table's files and of requests into those of the contract; None: they are the same.
        extensions: What the user adds to the framework.
    """

    entity: type[Table]
    tables: tuple[type[Table], ...]
    features: tuple[str, ...]
    lookback: timedelta
    build: Callable[[Frame, Mapping[str, Frame]], Frame]
    collect: Callable[[Path, datetime | None, datetime, Path], list[Path]]
    model_spec: Callable[[], ModelSpec]
    extensions: Part = field(default_factory=Part)
    read: Callable[[str, pl.DataFrame], pl.DataFrame] | None = None

    def __post_init__(self) -> None:
        """Validate the target, the key of the labels, reserved names and excluded features."""
        targets = [name for schema in self.schemas.values() for name in schema.columns_with_role(Target)]
        if len(targets) != 1:
            raise InputError(
                f"{', '.join(targets) or 'no column'} of shared/contract.py is a Target(): mark one column"
            )
        if self.labels.name != self.schema.name and (
            not self.schema.key or set(self.schema.key) - set(self.labels.names)
        ):
            msg = f"labels are in {self.labels.name}, which must have the key of the rows in {self.schema.name}"
            raise InputError(f"{msg}: mark it with Key() there, and add its columns in shared/contract.py")
        tables, columns = {table.table for table in self.tables}, {*self.schema.names, *self.features}
        for what, reserved in (("table", RESERVED & tables), ("column", PREDICTION_COLUMNS & columns)):
            if reserved:
                names = ", ".join(sorted(reserved))
                raise InputError(
                    f"{what} names {names} are reserved by the framework: rename them in shared/contract.py"
                )
        if excluded := {name for schema in self.schemas.values() for name in schema.excluded_columns} & set(
            self.features
        ):
            raise InputError(f"features {', '.join(sorted(excluded))} are personal or excluded in shared/contract.py")

    def translated(self, table: str, rows: pl.DataFrame) -> pl.DataFrame:
        """Rows of a table's file or of requests, in the words of the contract."""
        return self.read(table, rows) if self.read else rows

    @property
    def translated_requests(self) -> Callable[[pl.DataFrame], pl.DataFrame] | None:
        """Translates rows of requests, which may have a label, into those of the contract, if they differ."""
        if not self.read:
            return None
        return lambda rows: self.translated(self.schema.name, rows).drop(self.schema.outcome_columns, strict=False)

    @property
    def schema(self) -> Schema:
        """The schema of the entity."""
        return schema_of(self.entity)

    @property
    def schemas(self) -> dict[str, Schema]:
        """The schemas of all tables, by the table's name."""
        return {table.table: schema_of(table) for table in self.tables}

    @property
    def labels(self) -> Schema:
        """The schema of the table with the target: the entity, or a table with the same key."""
        return next(schema for schema in self.schemas.values() if schema.target)

    @property
    def target(self) -> Column:
        """The column that is predicted."""
        return next(column for column in self.labels.columns if column.role(Target))

    @property
    def words(self) -> tuple[str, ...]:
        """The words for true and false of a binary target; empty if it has none of its own."""
        role = self.target.role(Target)
        return role.words if role and self.task is Task.BINARY else ()

    @property
    def task(self) -> Task:
        """The task that follows from the type of the target."""
        return task_of(self.target)
