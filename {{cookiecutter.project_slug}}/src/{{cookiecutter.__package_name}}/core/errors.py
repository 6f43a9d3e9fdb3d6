"""The errors that end a command with one line, and helpers for messages and files that all layers need."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4


class BadInput(Exception):
    """The command, its input or its surroundings can't work as they are: exit status 2."""


class Refused(Exception):
    """The command worked and the answer is no, or a person must act: exit status 1."""


def first_line(error: BaseException) -> str:
    """What an error says, in one line: its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A draft beside a file, with a name of its own; it takes the file's place once it is written, or is deleted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.absolute().with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def masked(text: str) -> str:
    """A text without the passwords of addresses in it."""
    return re.sub(r"(?<=[^/:\s]):[^/\\\s]+@", ":***@", text)


def require_port(address: str, name: str) -> None:
    """Hold an address to a port that is a number, for which libraries give a traceback.

    Raises:
        BadInput: It is none.
    """
    try:
        _ = urlsplit(address).port
    except ValueError as error:
        raise BadInput(f"{name} {masked(address)} can't be an address: {error}") from error
