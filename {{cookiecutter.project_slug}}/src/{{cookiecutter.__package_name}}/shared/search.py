"""Where `tune` looks for a parameter: said beside it, as `Annotated[float, Search(0.01, 0.3, log=True)]`."""

from dataclasses import dataclass, replace
from math import inf
from typing import get_args

from pydantic import BaseModel

from {{cookiecutter.__package_name}}.shared import BadInput


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
    """What is said beside each parameter that has something said; others stay as they are.

    Raises:
        BadInput: There is nothing to try in what is said.
    """
    return {
        name: _typed(name, said, field.annotation)
        for name, field in parameters.model_fields.items()
        for said in field.metadata
        if isinstance(said, Search | Choice)
    }


def _typed(name: str, said: Search | Choice, annotation: object) -> Search | Choice:
    """The ends of a number in the parameter's own type: of a whole number, whole numbers are tried."""
    kind = int if int in (annotation, *get_args(annotation)) else float
    if way := _way_out(said, kind):
        raise BadInput(f"{name} can't be searched by {said} in shared/model.py: {way}")
    return said if isinstance(said, Choice) else replace(said, low=kind(said.low), high=kind(said.high))


def _way_out(said: Search | Choice, kind: type[float]) -> str | None:
    """What to change where there is nothing to try."""
    if isinstance(said, Choice):
        return None if type(said.values) in {tuple, list} and said.values else "list values, as Choice((0.1, 0.2))"
    if not -inf < said.low <= said.high < inf:
        return "give two finite numbers, the lower first"
    if said.log and kind(said.low) <= 0:
        return "give a low end above 0, or leave out log"
    return None
