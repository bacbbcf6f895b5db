"""Lists the remote files that match a glob pattern. Any error of the store is raised, so that no file is missed silently."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import translate
from typing import Any

from pipeline.core.errors import SourceError

_MAGIC = re.compile(r"[*?\[]")
_ANY_DEPTH = "**"
_NO_BUCKET = "specified bucket does not exist"
"""What S3 says."""
Details = Mapping[str, Any]


def matching(connection: Any, pattern: str, *, by_prefix: bool) -> Iterator[tuple[str, Details]]:
    """Yield the paths of the files that match a pattern, with what the store says about each.

    `*`, `?` and `[a-z]` match within a folder's name or a file's name, `**` any number of folders; a name that begins
    with a dot is matched only by a pattern that does too. With `by_prefix`, the store filters names by their beginning.
    """
    wildcard = _MAGIC.search(pattern)
    if wildcard is None:
        yield from _file(connection, pattern)
        return
    folder, slash, rest = pattern[: wildcard.start()].rpartition("/")
    segments = (rest + pattern[wildcard.start() :]).split("/")
    yield from _below(_Walk(connection, by_prefix), folder or slash, [each for each in segments if each])


@dataclass(frozen=True)
class _Walk:
    connection: Any
    by_prefix: bool


def _below(walk: _Walk, folder: str, segments: list[str]) -> Iterator[tuple[str, Details]]:
    """Yield the files below a folder that match the rest of a pattern."""
    first, *rest = segments
    if first == _ANY_DEPTH:
        yield from _below(walk, folder, rest or ["*"])
        for path, details in _entries(walk.connection, folder, ""):
            if details["type"] == "directory" and not _name(path).startswith("."):
                yield from _below(walk, path, segments)
    elif not _MAGIC.search(first):
        path = f"{folder.rstrip('/')}/{first}"
        yield from _below(walk, path, rest) if rest else _file(walk.connection, path)
    else:
        for path, details in _matches(walk, folder, first):
            if not rest:
                yield from [(path, details)] if details["type"] == "file" else _file(walk.connection, path, details)
            elif details["type"] == "directory":
                yield from _below(walk, path, rest)


def _matches(walk: _Walk, folder: str, segment: str) -> Iterator[tuple[str, Details]]:
    matches, wildcard = re.compile(translate(segment)).match, _MAGIC.search(segment)
    prefix = segment[: wildcard.start()] if wildcard and walk.by_prefix else ""
    for path, details in _entries(walk.connection, folder, prefix):
        name = _name(path)
        if matches(name) and not (name.startswith(".") and not segment.startswith(".")):
            yield path, details


def _entries(connection: Any, folder: str, prefix: str) -> list[tuple[str, Details]]:
    """Return the files and folders directly in a folder whose names begin with a prefix, sorted; none if it does not exist.

    Raises `SourceError` if there is no such bucket, because its files are not known to be gone.
    """
    try:
        if prefix:
            entries = connection.find(folder, maxdepth=1, withdirs=True, detail=True, prefix=prefix).values()
        else:
            entries = connection.ls(folder or "/", detail=True)
    except FileNotFoundError as error:
        _require_bucket(error, folder)
        return []
    here = folder.strip("/")
    listed = {str(each["name"]).rstrip("/"): each for each in entries}
    return sorted((path, each) for path, each in listed.items() if path.strip("/") != here)


def _file(connection: Any, path: str, listed: Details | None = None) -> Iterator[tuple[str, Details]]:
    """Yield a path if it is a file, or a link to one; `listed` is what a listing said about it."""
    if listed is not None and listed["type"] == "directory":
        return
    try:
        details: Details = connection.info(path)
    except FileNotFoundError as error:
        _require_bucket(error, path)
        return
    if details["type"] == "file":
        yield path, details


def _require_bucket(error: FileNotFoundError, path: str) -> None:
    """Raise `SourceError` if a file does not exist because there is no such bucket."""
    if _NO_BUCKET in str(error):
        raise missing_bucket("bucket", path.partition("/")[0]) from error


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def missing_bucket(kind: str, name: str) -> SourceError:
    """Return the error for a bucket, or a container, that does not exist."""
    return SourceError(
        f"the {kind} does not exist",
        got=repr(name),
        do=f"check the name of the {kind}, and whose credentials these are",
    )
