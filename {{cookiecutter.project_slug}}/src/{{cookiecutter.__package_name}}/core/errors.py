"""Errors that end a command with one line, and helpers for messages and files."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

DRAFT = re.compile(r"\..+\.[0-9a-f]{32}\.part")  # the names of drafts, which a killed process leaves
COLOR, NESTED = re.compile(r"\x1b\[\d*m"), "↳"  # in the messages of deltalake
MESSAGE = re.compile("<Message>([^<]+)")  # in what an object storage answers


class InputError(Exception):
    """The command can't run with this input or environment: exit status 2."""


class Rejected(Exception):
    """The command ran and its result is negative, or a person must act: exit status 1."""


class NothingYet(Rejected):
    """The lake or the registry has nothing of the kind that the command needs.

    Args:
        missing: What there is none of, such as `champion`.
    """

    def __init__(self, missing: str) -> None:
        super().__init__(f"there is no {missing} yet: call run, or set ML_LAKE and ML_TRACKING to the team's")


def summarize(error: BaseException) -> str:
    """The message of an error in one line, with the innermost cause of a nested one; its class if it has no message."""
    first, *more = (COLOR.sub("", str(error)).strip() or type(error).__name__).splitlines()
    causes = [line.strip().removeprefix(NESTED).strip() for line in more if line.strip().startswith(NESTED)]
    answer = [cause for cause in causes if re.match(r"[45]\d\d ", cause)]  # the causes after it are its body
    return ": ".join([first, *(answer or causes)[-1:], *MESSAGE.findall("\n".join(more))[:1]])


def root_cause(error: BaseException) -> BaseException:
    """The innermost cause of an error of the system or the network; of another error, the error itself."""
    chain = [error]
    while cause := chain[-1].__cause__ or (None if chain[-1].__suppress_context__ else chain[-1].__context__):
        chain.append(cause)
    return chain[-1] if any(isinstance(one, OSError) for one in chain) else error


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A draft beside a file, with a name of its own; it takes the file's place once it is written, or is deleted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.absolute().with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        yield draft
        flush(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file, whole or not at all; text as UTF-8."""
    with atomic_write(path) as draft:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)


def flush(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk. Windows has no names to flush."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
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
