"""Errors that end a command with one line, and helpers for messages and files."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4


class InputError(Exception):
    """The command can't run with this input or environment: exit status 2."""


class Rejected(Exception):
    """The command ran and its result is negative, or a person must act: exit status 1."""


def summarize(error: BaseException) -> str:
    """The message of an error in one line; its class if the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A draft beside a file, with a name of its own; it takes the file's place once it is written, or is deleted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.absolute().with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk. Windows has no names to flush."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def redact_passwords(text: str) -> str:
    """A text with the passwords of its URLs redacted."""
    return re.sub(r"(?<=[^/:\s]):[^/\\\s]+@", ":***@", text)


def validate_port(address: str, name: str) -> None:
    """Validate the port of an address.

    Raises:
        InputError: The port is not a number.
    """
    try:
        _ = urlsplit(address).port
    except ValueError as error:
        raise InputError(f"{name} {redact_passwords(address)} is not a valid address: {error}") from error
