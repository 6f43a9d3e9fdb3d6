"""The problem as one value: what the framework works from."""

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
from {{cookiecutter.__package_name}}.core.errors import BadInput
from {{cookiecutter.__package_name}}.core.parts import Part

if TYPE_CHECKING:
    import onnx

RESERVED = frozenset({"annotations", "collections", "decisions", "erasures", "predictions", "releases", "requests"})
RESERVED |= {"candidates", "verdicts"}
ANSWERS = frozenset({"decision", "error", "made", "prediction", "probability", "version"})  # columns beside a row's own


@dataclass(frozen=True)
class Recipe:
    """How a model is made and leaves for production; see `model`.

    Attributes:
        parameters: The class that `config/params.toml` is read into; it has a `seed`.
        estimator: From parameters and the names of the features that are text, an estimator that has not seen data.
        export: From a fitted estimator and whether each feature is text, the same as ONNX: one input per feature, the
            prediction as last output. None converts what scikit-learn, LightGBM and XGBoost fit.
        augment: From parameters, the rows of a training set and a generator of the parameters' seed, the rows to fit on
            in their place: of the same columns, more of them or changed. None fits on the rows as they are.
    """

    parameters: type[BaseModel]
    estimator: Callable[[Any, list[str]], Any]
    export: Callable[[Any, dict[str, bool]], "onnx.ModelProto"] | None = None
    augment: Callable[[Any, pl.DataFrame, np.random.Generator], pl.DataFrame] | None = None


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is predicted, from what, and how.

    Attributes:
        subject: The table whose rows are predicted.
        tables: All tables, the subject among them.
        features: The names of the features that `build` adds or keeps.
        lookback: How far before a row's prediction features look.
        build: Adds the features to rows that have `_at`, from the tables' history.
        collect: From the project's folder, since, until and the inbox: brings what arrived in (since, until] into the
            inbox, in files that do not overlap, and returns them.
        recipe: Imports the model's module: called in training, never in serving.
        extensions: What the user adds to the framework.
    """

    subject: type[Table]
    tables: tuple[type[Table], ...]
    features: tuple[str, ...]
    lookback: timedelta
    build: Callable[[Frame, Mapping[str, Frame]], Frame]
    collect: Callable[[Path, datetime | None, datetime, Path], list[Path]]
    recipe: Callable[[], Recipe]
    extensions: Part = field(default_factory=Part)

    def __post_init__(self) -> None:
        """Refuse tables that can't be joined, names that the machinery needs, and features that must not be used."""
        targets = [name for schema in self.schemas.values() for name in schema.having(Target)]
        if len(targets) != 1:
            raise BadInput(f"{', '.join(targets) or 'no column'} of shared/contract.py is a Target(): mark one column")
        if self.labels.name != self.schema.name and (
            not self.schema.key or set(self.schema.key) - set(self.labels.names)
        ):
            msg = f"labels are in {self.labels.name}, which must have the key of the rows in {self.schema.name}"
            raise BadInput(f"{msg}: mark it with Key() there, and add its columns in shared/contract.py")
        tables, columns = {table.table for table in self.tables}, {*self.schema.names, *self.features}
        for what, taken in (("table", RESERVED & tables), ("column", ANSWERS & columns)):
            if taken:
                names = ", ".join(sorted(taken))
                raise BadInput(f"{what} names {names} are taken by the machinery: rename them in shared/contract.py")
        if closed := {name for schema in self.schemas.values() for name in schema.closed} & set(self.features):
            raise BadInput(f"features {', '.join(sorted(closed))} are personal or forbidden in shared/contract.py")

    @property
    def schema(self) -> Schema:
        """The schema of the subject."""
        return schema_of(self.subject)

    @property
    def schemas(self) -> dict[str, Schema]:
        """The schemas of all tables, by the table's name."""
        return {table.table: schema_of(table) for table in self.tables}

    @property
    def labels(self) -> Schema:
        """The schema of the table that holds the target: the subject, or one that shares its key."""
        return next(schema for schema in self.schemas.values() if schema.target)

    @property
    def target(self) -> Column:
        """What is predicted."""
        return next(column for column in self.labels.columns if column.role(Target))

    @property
    def task(self) -> Task:
        """What kind of answer the target asks for."""
        return task_of(self.target)
