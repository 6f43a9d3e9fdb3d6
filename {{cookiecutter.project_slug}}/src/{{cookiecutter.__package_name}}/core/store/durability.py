"""Tables in local folders and power losses: commits are flushed to the disk, and damaged files are found."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from {{cookiecutter.__package_name}}.core.errors import flush


def flush_commits(table: Path, versions: range) -> None:
    """Flush commits of a table to the disk: their data files first, then checkpoints, commits and folders."""
    log = table / "_delta_log"
    commits = [commit for version in versions if (commit := log / f"{version:020}.json").is_file()]
    checkpoints = [log / f"{version:020}.checkpoint.parquet" for version in versions]
    created = (table.parent, table.parent.parent) if 0 in versions else ()
    for path in (*_sizes(commits, table), table, *checkpoints, *commits, log, *created):
        if path.exists():
            flush(path)


def torn_commit(table: Path) -> Path | None:
    """The first commit after the last checkpoint that is empty or cut off; Delta Lake reads over empty ones."""
    return next((commit for commit in _commits(table) if not _actions(commit)), None)


def incomplete_file(table: Path) -> Path | None:
    """The first file that is gone or has lost bytes: the last checkpoint, or a data file added after it."""
    commits, (checkpoint, checkpoint_size) = list(_commits(table)), _last_checkpoint(table)
    if checkpoint_size is not None and checkpoint.is_file() and not _has_size(checkpoint, checkpoint_size):
        return checkpoint
    found = next((path for path, size in _sizes(commits, table).items() if not _has_size(path, size)), None)
    changed = found and commits != list(_commits(table))  # by another process, which may have deleted the file
    return incomplete_file(table) if changed else found


def _commits(table: Path) -> Iterator[Path]:
    """The commits after the last checkpoint."""
    checkpoint, _ = _last_checkpoint(table)
    version = int(checkpoint.name.partition(".")[0]) + 1
    while (commit := checkpoint.with_name(f"{version:020}.json")).is_file():
        yield commit
        version += 1


def _last_checkpoint(table: Path) -> tuple[Path, int | None]:
    """The last checkpoint, with the version -1 if there is none, and its size if that is known."""
    log = table / "_delta_log"
    try:
        hint = json.loads((log / "_last_checkpoint").read_bytes())
        return log / f"{hint['version']:020}.checkpoint.parquet", hint.get("sizeInBytes")
    except (OSError, ValueError, KeyError, TypeError):
        return log / f"{-1:020}.checkpoint.parquet", None


def _actions(commit: Path) -> list[dict[str, Any]]:
    """The actions of a commit; empty if it is torn."""
    try:
        return [json.loads(line) for line in commit.read_bytes().splitlines()]
    except FileNotFoundError:  # another process has just deleted the history
        return [{}]
    except ValueError:
        return []


def _sizes(commits: list[Path], table: Path) -> dict[Path, int]:
    """The data files that commits add and don't remove again, with their sizes."""
    sizes: dict[Path, int] = {}
    for action in (action for commit in commits for action in _actions(commit)):
        if added := action.get("add"):
            sizes[table / unquote(added["path"])] = added["size"]
        elif removed := action.get("remove"):
            sizes.pop(table / unquote(removed["path"]), None)
    return sizes


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size
