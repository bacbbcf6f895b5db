"""Where files are: a store lists the files that match its patterns, and provides their content as local paths."""

from __future__ import annotations

import contextlib
import functools
import glob
import itertools
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO, Literal, Protocol
from urllib.parse import unquote, urlsplit

import numpy as np

from pipeline.core.errors import Place, SourceError, few
from pipeline.core.splits import SourceObject

_CHECKED_BYTES = 64 << 20
"""Files up to this size have a checksum, so that copies are recognized. Larger files are recognized by their time."""
_SHOWN = 3
"""Number of paths in an error."""

IfNone = Literal["raise", "require folders", "accept"]
"""What happens if there are no files: an error; one only if a local folder does not exist either; or nothing."""

Ranges = tuple[tuple[int, int], ...]
"""Ranges of bytes with exclusive ends, in order."""


@dataclass(frozen=True)
class Wanted:
    """A file whose content is needed, or only some ranges of it."""

    source_object: SourceObject
    ranges: Ranges | None = None
    """`None` for the entire file."""


class FileStore(Protocol):
    """A place with files. A location identifies a file: it is the `uri` of its source object, and `_source` of its rows.

    The stamp of a source object is `SIZE-TIME` or `SIZE-ETAG-TIME`, with the time of the last change in nanoseconds.
    """

    def source_objects(self, if_none: IfNone = "raise") -> tuple[SourceObject, ...]:
        """Return the files ordered by location; raise `SourceError` if the store cannot list them, and see `IfNone`."""

    def recorded(self, locations: Iterable[str]) -> list[str]:
        """Return the current locations for those in a cursor."""

    def content(self, source_object: SourceObject) -> str:
        """Return a text that identifies the content of a file; empty if it is not known."""

    def size_bytes(self, location: str) -> int | None:
        """Return the current size of a file; `None` if it does not exist."""

    def copies(self, wanted: Sequence[Wanted]) -> AbstractContextManager[list[str]]:
        """Return local paths of files. Where ranges are wanted, the rest of the file may be zeros.

        A local file is not copied. Raises `SourceError` for a file that does not exist or changed after it was listed.
        """

    def open(self, source_object: SourceObject) -> AbstractContextManager[BinaryIO]:
        """Open a file for reading at any position, to read a small part of it."""


@dataclass(frozen=True)
class LocalFiles:
    """The local files that match paths or glob patterns; relative ones are resolved against the project's folder.

    A location is the resolved path of a file (without `.`, `..` and links to folders), relative to the project's folder
    if the file is inside it. So a pattern can be rewritten, and a project can be moved or copied, without new files.
    """

    patterns: tuple[str, ...]
    folder: str = "."

    def source_objects(self, if_none: IfNone = "raise") -> tuple[SourceObject, ...]:
        """See `FileStore.source_objects`."""
        real = functools.cache(os.path.realpath)
        objects: dict[str, SourceObject] = {}
        paths: list[str] = []
        for pattern in self.patterns:
            with _readable(f"the files of {pattern!r} cannot be listed", pattern):
                matching = self._paths(pattern)
                for path in matching:
                    with contextlib.suppress(FileNotFoundError):  # the file was removed in the meantime
                        stat = Path(path).stat()
                        if S_ISREG(stat.st_mode):
                            location, stamp = self._location(path, real), f"{stat.st_size}-{stat.st_mtime_ns}"
                            objects[location] = SourceObject(location, stat.st_size, stamp)
                paths += matching
        if not objects and if_none == "require folders":
            self._require_folders()
        elif not objects and if_none == "raise":
            raise no_files(self.patterns, few([_kind(path) for path in paths if os.path.lexists(path)], _SHOWN))
        return tuple(objects[location] for location in sorted(objects))

    def recorded(self, locations: Iterable[str]) -> list[str]:
        """Return the locations, with links to folders resolved again."""
        real = functools.cache(os.path.realpath)
        return [self._location(self.path(location), real) for location in locations]

    def path(self, location: str) -> str:
        """Return the path of a file at a location."""
        return str(Path(self.folder) / location)

    def content(self, source_object: SourceObject) -> str:
        """Return a checksum of a file's content; empty for a large or unreadable file."""
        if source_object.size_bytes > _CHECKED_BYTES:
            return ""
        try:
            return checksum(Path(self.path(source_object.uri)).read_bytes())
        except OSError:
            return ""

    def size_bytes(self, location: str) -> int | None:
        """Return the current size of a file; `None` if it does not exist."""
        path = Path(self.path(location))
        with _readable("the file cannot be read", location):
            return path.stat().st_size if path.is_file() else None

    @contextmanager
    def copies(self, wanted: Sequence[Wanted]) -> Iterator[list[str]]:
        """Return the paths of the files themselves."""
        yield [self.path(each.source_object.uri) for each in wanted]

    def open(self, source_object: SourceObject) -> AbstractContextManager[BinaryIO]:
        """Open a file."""
        return Path(self.path(source_object.uri)).open("rb")

    def _location(self, path: str, real: Callable[[str], str]) -> str:
        folder, _, name = path.rpartition(os.sep)
        full_path = real(folder or (os.sep if path.startswith(os.sep) else ".")).rstrip(os.sep) + os.sep + name
        return full_path.removeprefix(real(self.folder).rstrip(os.sep) + os.sep)

    def _paths(self, pattern: str) -> list[str]:
        pattern = _local(pattern)
        if (Path(self.folder) / pattern).is_file():
            return [self.path(pattern)]
        matches = glob.glob(pattern, root_dir=self.folder, recursive=True)  # noqa: PTH207 - accepts any path
        self._require_listable(pattern)
        return [self.path(each) for each in matches]

    def _require_folders(self) -> None:
        """Raise `SourceError` for a pattern whose folder does not exist: files were read before, so it may be on a disk that is missing."""
        for pattern in self.patterns:
            folder = Path(*_given(_local(pattern)))
            if not (self.folder / folder).is_dir():
                raise SourceError(
                    f"the folder of {pattern!r} does not exist",
                    got=f"no folder {folder}",
                    do="mount or restore it, or correct the path; if its files were removed for good, create the empty folder",
                    place=Place(pattern),
                )

    def _require_listable(self, pattern: str) -> None:
        """Raise `PermissionError` for a folder that cannot be listed, which `glob` takes for an empty one."""
        parts = Path(pattern).parent.parts
        fixed = _given(pattern)
        folders = {str(Path(self.folder, *fixed))}
        for number in range(len(fixed), len(parts)):
            inner = glob.glob(os.path.join(*parts[: number + 1], ""), root_dir=self.folder, recursive=True)  # noqa: PTH118, PTH207 - likewise
            folders.update(str(Path(self.folder, each)) for each in inner)
        for folder in sorted(folders):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # none, or removed in the meantime
                os.scandir(folder).close()


@contextmanager
def _readable(problem: str, location: str) -> Iterator[None]:
    """Translate errors of the file system."""
    try:
        yield
    except OSError as error:
        do = "give the user who runs this the right to read the folder and the folders above it"
        raise SourceError(problem, got=error.strerror or str(error), do=do, place=Place(location)) from error


def _given(pattern: str) -> list[str]:
    """Return the folders of a pattern before the first wildcard."""
    return list(itertools.takewhile(lambda part: not glob.has_magic(part), Path(pattern).parent.parts))


def _local(pattern: str) -> str:
    """Return the path of a pattern, which may be a `file://` URI."""
    return unquote(urlsplit(pattern, allow_fragments=False).path) if pattern.startswith("file://") else pattern


def is_remote(location: str) -> bool:
    """Return whether a path, a pattern or a location is a URI of a remote store."""
    return "://" in location and not location.startswith("file://")


def no_files(patterns: Sequence[str], others: str = "") -> SourceError:
    """Return the error for patterns that no file matches; `others` are matches that are not files."""
    shown = few(map(repr, patterns), _SHOWN)
    return SourceError(
        f"no file matches {shown}",
        got=others or None,
        do="check the path, or pass required=False if files arrive later",
        place=Place(patterns[0]),
    )


def empty_file(location: str) -> SourceError:
    """Return the error for a file without bytes, which has no header and no rows of any format."""
    do = (
        'remove the file, wait for files to be complete with files(…, settled="1 minute"), or set such files aside with '
        'source(…, unreadable="quarantine")'
    )
    return SourceError("the file is empty", got="0 bytes", do=do, place=Place(location))


def checksum(content: bytes) -> str:
    """Return the CRC-32 of bytes, which detects every change within 32 consecutive bits, combined with their sum.

    It has 64 bits and is several times as fast as a cryptographic hash. It detects edits, not forgeries.
    """
    words = np.frombuffer(content, np.uint32, len(content) // 4)
    total = (int(words.sum(dtype=np.uint64)) + sum(content[len(words) * 4 :])) & 0xFFFFFFFF
    return f"{zlib.crc32(content):08x}{total:08x}"


def _kind(path: str) -> str:
    """Return what a path is that is not a file, with its name."""
    kind = "folder" if Path(path).is_dir() else "broken link" if Path(path).is_symlink() else "special file"
    return f"the {kind} {Path(path).name}"
