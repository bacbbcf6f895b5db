"""Fetches in spools that nobody reads any more: those whose last file is older than `KEPT`.

A run that planned a fetch has read it, or fetches again. Only folders that are named as fetches are considered, so the
logs of messages, which are the source of truth, stay. The fetches of definitions that have changed since, or are no
longer there, are found as well.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import Any

from fsspec.core import url_to_fs

from pipeline.core.clients import is_unavailable, message_of
from pipeline.core.errors import Place, SourceError, SourceUnavailableError

KEPT = timedelta(days=3)
"""How long a fetch is kept after its last file was written."""
_FETCH = re.compile(r"\d{8}T\d{6}-[0-9a-f]{8}")


def old_fetches(location: str, now: datetime, kept: timedelta = KEPT) -> dict[str, int]:
    """Return the files of old fetches anywhere below a folder or a URI, with their sizes in bytes, in order.

    Raises `SourceError` if they cannot be listed.
    """
    listed: dict[str, dict[str, Any]] = {}
    with _errors(location), suppress(FileNotFoundError):
        filesystem, root = url_to_fs(location)
        filesystem.invalidate_cache(root)
        listed = filesystem.find(root, detail=True)
    fetches: dict[str, dict[str, Any]] = defaultdict(dict)
    for path, facts in listed.items():
        folder = PurePosixPath(path).parent
        if _FETCH.fullmatch(folder.name):
            fetches[str(folder)][path] = facts
    sizes: dict[str, int] = {}
    for files in fetches.values():
        if max(_modified(filesystem, path, facts) for path, facts in files.items()) < now - kept:
            sizes |= {path: int(facts["size"] or 0) for path, facts in files.items()}
    return dict(sorted(sizes.items()))


def remove_old_fetches(location: str, now: datetime, kept: timedelta = KEPT) -> dict[str, int]:
    """Remove old fetches; return what was removed. Raises `SourceError` if they cannot be listed or removed."""
    files = old_fetches(location, now, kept)
    filesystem, _ = url_to_fs(location)
    for folder in sorted({str(PurePosixPath(path).parent) for path in files}):
        with _errors(location), suppress(FileNotFoundError):  # another process removes it
            filesystem.rm(folder, recursive=True)
    return files


def _modified(filesystem: Any, path: str, facts: dict[str, Any]) -> datetime:
    """Return when a file was written, from its listing if that says it."""
    at = facts.get("LastModified", facts.get("last_modified", facts.get("mtime")))
    if isinstance(at, int | float):
        return datetime.fromtimestamp(at, UTC)
    if not isinstance(at, datetime):
        at = filesystem.modified(path)
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


@contextmanager
def _errors(location: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the clients of object stores have their own exceptions
        kind = SourceUnavailableError if is_unavailable(error) else SourceError
        raise kind(
            "the old fetches of a spool cannot be removed",
            got=message_of(error),
            do="check spool= and its permissions",
            place=Place(location),
        ) from error
