"""Where `tune` looks for a parameter: said beside it, as `Annotated[float, Search(0.01, 0.3, log=True)]`."""

from dataclasses import dataclass, replace
from typing import get_args

from pydantic import BaseModel


@dataclass(frozen=True)
class Search:
    """A number from one to another, both included; with `log`, each factor is as likely, not each difference."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Choice:
    """One of these values."""

    values: tuple[str | float | bool, ...]


Space = dict[str, Search | Choice]


def space_of(parameters: type[BaseModel]) -> Space:
    """What is said beside each parameter that has something said; others stay as they are."""
    return {
        name: _typed(said, field.annotation)
        for name, field in parameters.model_fields.items()
        for said in field.metadata
        if isinstance(said, Search | Choice)
    }


def _typed(said: Search | Choice, annotation: object) -> Search | Choice:
    """The ends of a number in the parameter's own type: of a whole number, whole numbers are tried."""
    if isinstance(said, Choice):
        return said
    kind = int if int in (annotation, *get_args(annotation)) else float
    return replace(said, low=kind(said.low), high=kind(said.high))
