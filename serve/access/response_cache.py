"""Responses in the memory of a process, by what decides them: the caller's rights, the request, and the versions of its tables.

Nothing is invalidated: a new version of a table, and a changed policy, are other keys.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

_GHOSTS = 16_384
MOST_ENTRY_BYTES = 1 << 20
SHARED_ROUTES = frozenset({"graphql", "metrics", "odata", "query", "tables"})
"""The endpoints whose responses replicas share."""

Key = tuple[str, ...]


@dataclass(frozen=True)
class CachedResponse:
    """A response, and the identities of the versions that it was made of; without any, it stays as it is."""

    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    etag: str
    versions: tuple[tuple[str, str], ...]
    facts: tuple[tuple[str, object], ...] = ()
    """What the audit log records of it."""


class ResponseCache:
    """At most so many bytes of responses, the least recently used removed first. Thread-safe: each server of a replica has a thread.

    A response is kept when it is asked for the second time, so that requests that never come again keep nothing out.
    """

    def __init__(self, most_bytes: int) -> None:
        """Create an empty cache; with 0 bytes, it keeps nothing."""
        self._most_bytes = most_bytes
        self._bytes = 0
        self._entries: OrderedDict[Key, CachedResponse] = OrderedDict()
        self._seen: OrderedDict[Key, None] = OrderedDict()
        self._lock = threading.Lock()
        self.hits = self.misses = 0

    def get(self, key: Key) -> CachedResponse | None:
        """Return the response of a key, whose versions may be old."""
        with self._lock:
            found = self._entries.get(key)
            if found is not None:
                self._entries.move_to_end(key)
            return found

    def put(self, key: Key, response: CachedResponse, *, is_known: bool = False) -> bool:
        """Keep a response, if it was asked for before, as `is_known` says, and is not too large; return whether it is kept."""
        size = _size(key, response)
        if size > min(MOST_ENTRY_BYTES, self._most_bytes):
            return False
        with self._lock:
            if not is_known and key not in self._seen and key not in self._entries:
                self._seen[key] = None
                if len(self._seen) > _GHOSTS:
                    self._seen.popitem(last=False)
                return False
            self._remove(key)
            self._entries[key] = response
            self._bytes += size
            while self._bytes > self._most_bytes:
                self._remove(next(iter(self._entries)))
        return True

    @property
    def size_bytes(self) -> int:
        """How many bytes it keeps."""
        return self._bytes

    def _remove(self, key: Key) -> None:
        old = self._entries.pop(key, None)
        if old is not None:
            self._bytes -= _size(key, old)


def _size(key: Key, response: CachedResponse) -> int:
    return len(response.body) + sum(len(part) for part in key) + 512
