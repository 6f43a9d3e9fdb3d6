"""What views made, kept for as long as a page may ask for it again."""

from collections.abc import Callable
from functools import wraps
from threading import RLock
from typing import ParamSpec, TypeVar

from {{cookiecutter.__package_name}}.shared.workspace import Workspace

MOST = 32  # of each view, the newest
P = ParamSpec("P")
R = TypeVar("R")


def kept(view: Callable[P, R]) -> Callable[P, R]:
    """A view that is made once of the same things; who asks for it meanwhile, in another thread, waits for it.

    Text and numbers are the same when they are equal, all else when it is one object; a workspace must have its tables
    pinned, or it changes.
    """
    lock, made = RLock(), dict[object, tuple[R, object]]()

    @wraps(view)
    def ask(*args: P.args, **options: P.kwargs) -> R:
        things = (*args, *options.values())
        if any(isinstance(thing, Workspace) and not thing.settings.tables for thing in things):
            return view(*args, **options)
        key = (*options, *(thing if isinstance(thing, str | int | float) else id(thing) for thing in things))
        with lock:
            if key not in made:
                made[key] = view(*args, **options), things  # which are held: no other object has their id
            if len(made) > MOST:
                made.pop(next(iter(made)))
            return made[key][0]

    return ask
