"""Files of object stores on the local disk: those that were not used for the longest time are removed.

A key identifies a content, which never changes: the location of a file with its ETag, or with its size if it is a file of
rows of a table. An entry begins with a digest of its content, so a damaged one is found when it is read, and removed. Entries
are moved to their place when they are complete; several processes may use one folder.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.core import scratch
from pipeline.core.logs import logger
from pipeline.core.processes import machine

log = logger(__name__)
FORMAT_VERSION = 1
"""Part of the digest: entries of another version count as damaged."""
_DIGEST_BYTES = 32
_DRAFT = "draft-"
_DRAFT_S = 3600.0
"""The age of a draft whose process has ended."""
_SLACK = 16
"""A process counts what is stored after it has added this part of the limit."""
_LEFT = 0.9
"""The part of the limit that is left when entries are removed."""


class DiskCache:
    """A folder of contents by key, of a limited size. Thread-safe; errors of the disk are logged, and nothing is cached then."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """Use a folder, which is created when the first content is stored."""
        self.folder = folder
        self.max_bytes = max_bytes
        self._uncounted = max_bytes
        self._lock = threading.Lock()
        self._has_failed = False

    def get(self, key: str) -> bytes | None:
        """Return a content, or `None` if it is not here or damaged."""
        path = self._path(key)
        try:
            entry = path.read_bytes()
            if _digest(entry[_DIGEST_BYTES:]) == entry[:_DIGEST_BYTES]:
                os.utime(path)
                return entry[_DIGEST_BYTES:]
            log.warning("removed a damaged file of the cache", path=str(path))
            path.unlink(missing_ok=True)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._failed(error)
        return None

    def put(self, key: str, content: bytes) -> None:
        """Store a content, unless it is larger than a part of the limit."""
        size = len(content) + _DIGEST_BYTES
        if size > self.max_bytes // _SLACK:
            return
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle, draft = tempfile.mkstemp(prefix=_DRAFT, dir=path.parent)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(_digest(content) + content)
                os.replace(draft, path)  # noqa: PTH105 - of a path as text
            except BaseException:
                with suppress(OSError):
                    os.unlink(draft)  # noqa: PTH108 - likewise
                raise
            self._count(size)
        except OSError as error:
            self._failed(error)

    def _count(self, added: int) -> None:
        with self._lock:
            self._uncounted += added
            if self._uncounted <= self.max_bytes // _SLACK:
                return
            self._uncounted = 0
            self._shrink()

    def _shrink(self) -> None:
        """Remove the entries that were used least recently, if all together are larger than the limit."""
        entries = []
        for folder in os.scandir(self.folder):
            for entry in os.scandir(folder.path) if folder.is_dir() else ():
                with suppress(FileNotFoundError):  # another process has removed it
                    found = entry.stat()
                    if not entry.name.startswith(_DRAFT):
                        entries.append((found.st_mtime, found.st_size, entry.path))
                    elif time.time() - found.st_mtime > _DRAFT_S:
                        Path(entry.path).unlink(missing_ok=True)
        total = sum(size for _, size, _ in entries)
        if total <= self.max_bytes:
            return
        for _, size, path in sorted(entries):
            Path(path).unlink(missing_ok=True)
            total -= size
            if total <= _LEFT * self.max_bytes:
                return

    def _path(self, key: str) -> Path:
        name = hashlib.sha256(key.encode()).hexdigest()
        return self.folder / name[:2] / name[2:]

    def _failed(self, error: OSError) -> None:
        if not self._has_failed:
            log.warning("files of the lake cannot be cached", folder=str(self.folder), error=str(error))
        self._has_failed = True


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES, person=b"headwater %d" % FORMAT_VERSION).digest()


_here: list[DiskCache] = []


def use_cache(folder: Path, max_bytes: int) -> None:
    """Let this process cache files in a folder from now on; with 0 bytes, not at all."""
    _here[:] = [DiskCache(folder, max_bytes)] if max_bytes else []


@dataclass(frozen=True)
class CacheAddress:
    """The cache of a process, for those that work for it on any machine."""

    folder: Path
    max_bytes: int
    machine: str

    def use(self) -> None:
        """Let this process use the cache, or on another machine, a folder of the same limit beside its temporary files."""
        is_here = bool(self.machine) and self.machine == machine()
        folder = self.folder if is_here else scratch.base() / "cache"
        cache = cache_here()
        if cache is None or (cache.folder, cache.max_bytes) != (folder, self.max_bytes):
            use_cache(folder, self.max_bytes)


def address_here() -> CacheAddress | None:
    """Return the address of the cache of this process; `None` if it has none."""
    cache = cache_here()
    return None if cache is None else CacheAddress(cache.folder.absolute(), cache.max_bytes, machine())


def cache_here() -> DiskCache | None:
    """Return the cache of this process; `None` if it has none."""
    return _here[0] if _here else None
