"""Copies of remote files in temporary files, which this process shares: a file that is inferred, divided and read comes once.

Copies that nobody uses are removed, oldest first, if there are more of them than a limit.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.core import scratch

KEPT_BYTES = 512 << 20
"""The limit of copies that nobody uses; the newest one is kept even if it is larger."""


@dataclass
class _Copy:
    path: str
    closing: ExitStack
    lock: threading.Lock = field(default_factory=threading.Lock)
    users: int = 0
    is_complete: bool = False
    size_bytes: int = 0


class Downloads:
    """Copies by key. A key must change whenever the content does."""

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        """Start without copies."""
        self._kept_bytes = kept_bytes
        self._copies: dict[Hashable, _Copy] = {}
        self._lock = threading.Lock()
        self._pid = os.getpid()

    @contextmanager
    def copy(self, key: Hashable, download: Callable[[str], None]) -> Iterator[str]:
        """Yield the path of a copy; `download` writes it if there is none. Concurrent callers wait for one download."""
        copy = self._taken(key)
        try:
            with copy.lock:
                if not copy.is_complete:
                    download(copy.path)
                    copy.size_bytes = Path(copy.path).stat().st_blocks * 512  # a sparse file is smaller than its size
                    copy.is_complete = True
            yield copy.path
        finally:
            self._leave(key, copy)

    def has(self, key: Hashable) -> bool:
        """Return whether there is a complete copy."""
        with self._lock:
            return self._pid == os.getpid() and key in self._copies and self._copies[key].is_complete

    def _taken(self, key: Hashable) -> _Copy:
        with self._lock:
            if self._pid != os.getpid():  # a forked child has its own folder
                self._copies, self._pid = {}, os.getpid()
            copy = self._copies.pop(key, None) or _new_copy()
            self._copies[key] = copy  # the newest is last
            copy.users += 1
            return copy

    def _leave(self, key: Hashable, copy: _Copy) -> None:
        with self._lock:
            copy.users -= 1
            if not copy.is_complete and not copy.users and self._copies.get(key) is copy:
                del self._copies[key]
                copy.closing.close()
            unused = {old: each.size_bytes for old, each in self._copies.items() if not each.users}
            for old in list(unused)[:-1]:
                if sum(unused.values()) <= self._kept_bytes:
                    break
                del unused[old]
                self._copies.pop(old).closing.close()


def _new_copy() -> _Copy:
    closing = ExitStack()
    folder = closing.enter_context(scratch.folder("download"))
    return _Copy(str(Path(folder) / "source"), closing)


DOWNLOADS = Downloads()
"""The copies of this process."""
