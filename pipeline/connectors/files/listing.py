"""Lists the files that match a pattern, identifies them by location, and determines which are new.

A location is the resolved path of a file (without `.`, `..` and links to folders), relative to the project's folder if
the file is inside it. So a pattern can be rewritten, and a project can be moved or copied, without new files.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import os
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from stat import S_ISREG
from urllib.parse import unquote, urlsplit

import numpy as np

from pipeline.core.cursors import Bound, Cursor, ReadPlan
from pipeline.core.errors import Place, SourceError, few, quantity
from pipeline.core.splits import SourceObject, SourceSplit

KIND = "files"
_CHECKED_BYTES = 64 << 20
"""Files up to this size have a checksum, so that copies are recognized. Larger files are recognized by their time."""
_AT_ONCE = 4
_SHOWN = 3
"""Number of paths in an error."""


@dataclass(frozen=True)
class Listing:
    """The files that match a path or a glob pattern; relative ones are resolved against the project's folder."""

    pattern: str
    folder: str = "."

    def source_objects(self) -> tuple[SourceObject, ...]:
        """Return the files ordered by location; raise `SourceError` if there are none."""
        real = functools.cache(os.path.realpath)
        objects: dict[str, SourceObject] = {}
        paths = self._paths()
        for path in paths:
            with contextlib.suppress(FileNotFoundError):  # the file was removed in the meantime
                stat = Path(path).stat()
                if S_ISREG(stat.st_mode):
                    location = self.location(path, real)
                    objects[location] = SourceObject(location, stat.st_size, f"{stat.st_size}-{stat.st_mtime_ns}")
        if not objects:
            others = few([_kind(path) for path in paths if os.path.lexists(path)], _SHOWN)
            problem = f"no file matches {self.pattern!r}"
            raise SourceError(problem, got=others or None, do="check the path", place=Place(self.pattern))
        return tuple(objects[location] for location in sorted(objects))

    def location(self, path: str, real: Callable[[str], str] = os.path.realpath) -> str:
        """Return the location of a file, as in the `_source` of its rows."""
        folder, _, name = path.rpartition(os.sep)
        full_path = real(folder or (os.sep if path.startswith(os.sep) else ".")).rstrip(os.sep) + os.sep + name
        return full_path.removeprefix(real(self.folder).rstrip(os.sep) + os.sep)

    def path(self, location: str) -> str:
        """Return the path of a file at a location."""
        return str(Path(self.folder) / location)

    def content(self, location: str, size_bytes: int) -> str:
        """Return a checksum of a file's content; empty for a large or unreadable file."""
        if size_bytes > _CHECKED_BYTES:
            return ""
        try:
            return checksum(Path(self.path(location)).read_bytes())
        except OSError:
            return ""

    def _paths(self) -> list[str]:
        pattern = self.pattern
        if pattern.startswith("file://"):
            pattern = unquote(urlsplit(pattern, allow_fragments=False).path)
        if (Path(self.folder) / pattern).is_file():
            return [self.path(pattern)]
        matches = glob.glob(pattern, root_dir=self.folder, recursive=True)  # noqa: PTH207 - accepts any path
        return [self.path(each) for each in matches]


def _kind(path: str) -> str:
    """Return what a path is that is not a file, with its name."""
    kind = "folder" if Path(path).is_dir() else "broken link" if Path(path).is_symlink() else "special file"
    return f"the {kind} {Path(path).name}"


def checksum(content: bytes) -> str:
    """Return the CRC-32 of bytes, which detects every change within 32 consecutive bits, combined with their sum.

    It has 64 bits and is several times as fast as a cryptographic hash. It detects edits, not forgeries.
    """
    words = np.frombuffer(content, np.uint32, len(content) // 4)
    total = (int(words.sum(dtype=np.uint64)) + sum(content[len(words) * 4 :])) & 0xFFFFFFFF
    return f"{zlib.crc32(content):08x}{total:08x}"


@dataclass(frozen=True)
class _ConsumedFiles:
    """A file as recorded in a cursor."""

    size_bytes: int
    time_ns: int
    content: str = ""

    @property
    def stamp(self) -> str:
        return f"{self.size_bytes}-{self.time_ns}"


def plan_files(listing: Listing, cursor: Cursor | None, bound: Bound) -> ReadPlan:
    """Plan the files that are not consumed yet.

    A file is unchanged if its size and time, or its size and content, are equal. A renamed file has the time and
    content of a file that no longer exists, and is not read again. If a file changed, all files are read again.
    """
    now = {source_object.uri: source_object for source_object in listing.source_objects()}
    known = {} if cursor is None else _known(listing, cursor)
    same, changed = _compared(listing, known, now)
    missing = {location: file for location, file in known.items() if location not in now}
    fresh = {location: _consumed(source_object) for location, source_object in now.items() if location not in known}
    renamed, alike = _match_missing(_with_checksums(listing, fresh), missing) if missing else ({}, {})
    taken, has_more = _limit(bound, {location: file for location, file in fresh.items() if location not in renamed})
    kept = {location: file for location, file in known.items() if location not in renamed.values()}
    consumed = {
        **kept,
        **same,
        **_with_checksums(listing, {**{location: fresh[location] for location in renamed}, **taken}),
    }
    return ReadPlan(
        splits=tuple(SourceSplit(now[location]) for location in taken),
        cursor=_cursor(consumed),
        new=f"{quantity(len(taken), 'new file')}{', more are left' * has_more}" if taken else "",
        changed=f"{changed[0].rpartition(os.sep)[2]} changed" if changed else "",
        lost=tuple(location for location in missing if location not in renamed.values()),
        is_later=not known or not taken or min(taken) > max(known),
        has_more=has_more,
        notes=(
            *(f"{new} is {old}, renamed" for new, old in renamed.items()),
            *(
                f"{new} has the content of {old}, which no longer exists: its rows are loaded again"
                for new, old in alike.items()
            ),
        ),
    )


def _compared(
    listing: Listing, known: Mapping[str, _ConsumedFiles], now: Mapping[str, SourceObject]
) -> tuple[dict[str, _ConsumedFiles], list[str]]:
    """Return the files whose time changed but not their content, and the locations of files that changed."""
    touched = {u: _consumed(now[u]) for u, file in known.items() if u in now and _consumed(now[u]).stamp != file.stamp}
    of_size = {u: f for u, f in touched.items() if known[u].content and known[u].size_bytes == f.size_bytes}
    same = {u: file for u, file in _with_checksums(listing, of_size).items() if file.content == known[u].content}
    return same, [location for location in touched if location not in same]


def _match_missing(
    fresh: Mapping[str, _ConsumedFiles], missing: Mapping[str, _ConsumedFiles]
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the new files that are renamed removed files, and those that only have the content of one."""
    by_file = {file: location for location, file in missing.items()}
    renamed = {location: old for location, file in fresh.items() if (old := by_file.pop(file, None)) is not None}
    by_content = {file.content: location for file, location in by_file.items() if file.content}
    return renamed, {
        location: by_content[file.content]
        for location, file in fresh.items()
        if location not in renamed and file.content in by_content
    }


def _limit(bound: Bound, files: Mapping[str, _ConsumedFiles]) -> tuple[dict[str, _ConsumedFiles], bool]:
    """Return the files within a limit, and whether there are more."""
    taken: dict[str, _ConsumedFiles] = {}
    size = 0
    for location, file in files.items():
        if bound.until is not None and file.time_ns > bound.until.timestamp() * 1e9:
            continue
        size += file.size_bytes
        if bound.size_bytes is not None and size > bound.size_bytes and taken:
            break
        taken[location] = file
    return taken, len(taken) < len(files)


def _with_checksums(listing: Listing, files: Mapping[str, _ConsumedFiles]) -> dict[str, _ConsumedFiles]:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        contents = pool.map(listing.content, files, (file.size_bytes for file in files.values()))
        return {u: replace(file, content=c) for (u, file), c in zip(files.items(), contents, strict=True)}


def _consumed(source_object: SourceObject) -> _ConsumedFiles:
    return _ConsumedFiles(source_object.size_bytes, int(source_object.stamp.rpartition("-")[2]))


def _known(listing: Listing, cursor: Cursor) -> dict[str, _ConsumedFiles]:
    files: Mapping[str, tuple[int, int, str]] = cursor.of_kind(KIND)["files"]
    real = functools.cache(os.path.realpath)
    return {listing.location(listing.path(u), real): _ConsumedFiles(*fields) for u, fields in files.items()}


def _cursor(files: Mapping[str, _ConsumedFiles]) -> Cursor:
    return Cursor(KIND, {"files": {u: [f.size_bytes, f.time_ns, f.content] for u, f in sorted(files.items())}})
