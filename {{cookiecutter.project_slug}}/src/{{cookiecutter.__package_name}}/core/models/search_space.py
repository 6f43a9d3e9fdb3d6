"""Search spaces of parameters, as annotations: `Annotated[float, Search(0.01, 0.3, log=True)]`."""

from dataclasses import dataclass, replace
from math import inf
from typing import get_args

from pydantic import BaseModel

from {{cookiecutter.__package_name}}.core.errors import InputError


@dataclass(frozen=True)
class Search:
    """A number from low to high, inclusive; with `log`, sampled on a logarithmic scale."""

    low: float
    high: float
    log: bool = False

    def contains(self, value: object) -> bool:
        """Whether the value is searched."""
        return isinstance(value, int | float) and self.low <= value <= self.high


@dataclass(frozen=True)
class Choice:
    """One of these values."""

    values: tuple[str | float | bool, ...]

    def contains(self, value: object) -> bool:
        """Whether the value is searched."""
        return value in self.values


Space = dict[str, Search | Choice]


def space_of(parameters: type[BaseModel]) -> Space:
    """The search space: the annotation of each parameter that has one; the others are not searched.

    Raises:
        InputError: An annotation leaves nothing to search.
    """
    return {
        name: _typed(name, where, field.annotation)
        for name, field in parameters.model_fields.items()
        for where in field.metadata
        if isinstance(where, Search | Choice)
    }


def _typed(name: str, where: Search | Choice, annotation: object) -> Search | Choice:
    """The range of a number in the parameter's own type: of an integer, integers are searched."""
    kind = int if int in (annotation, *get_args(annotation)) else float
    if hint := _invalid(where, kind):
        raise InputError(f"{name} can't be searched by {where} in shared/model.py: {hint}")
    return where if isinstance(where, Choice) else replace(where, low=kind(where.low), high=kind(where.high))


def _invalid(where: Search | Choice, kind: type[float]) -> str | None:
    """What to change where there is nothing to search."""
    if isinstance(where, Choice):
        return None if type(where.values) in {tuple, list} and where.values else "list values, as Choice((0.1, 0.2))"
    if not -inf < where.low <= where.high < inf:
        return "give two finite numbers, the lower first"
    if where.log and kind(where.low) <= 0:
        return "give a low end above 0, or leave out log"
    return None
