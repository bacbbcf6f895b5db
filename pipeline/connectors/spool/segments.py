"""Segments of a spool: immutable files of JSON lines, in a local folder or an object store.

A plan writes its segments before any task reads them, so each task reads the same rows, also if it is repeated.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import fsspec

from pipeline.connectors.spool.old_fetches import KEPT, remove_old_fetches
from pipeline.core import scratch
from pipeline.core.clients import is_unavailable, message_of
from pipeline.core.clock import now
from pipeline.core.errors import Place, SourceError, SourceUnavailableError
from pipeline.core.splits import SourceObject, SourceSplit

SEGMENT_BYTES = 16 << 20
"""A segment ends with the page that exceeds this size."""
_ROWS, _REQUESTS = ".ndjson", ".requests"


@dataclass(frozen=True)
class Spool:
    """The segments of one source, below a folder or a URI of fsspec."""

    location: str

    @property
    def is_local(self) -> bool:
        """Whether the segments are in a local folder."""
        return "://" not in self.location

    def write(self, name: str, content: bytes) -> None:
        """Write a file at once; raise `SourceError` if that fails."""
        try:
            if self.is_local:
                path = Path(self.location) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
                draft.write_bytes(content)
                draft.replace(path)
            else:
                self._filesystem().pipe_file(f"{self.location}/{name}", content)
        except Exception as error:  # the clients of object stores have their own exceptions
            raise self._failed(f"cannot write the spool below {self.location}", error) from error

    @contextmanager
    def path(self, name: str) -> Iterator[str]:
        """Yield a local path of a file; raise `SourceError` if it does not exist on this machine, or cannot be read."""
        if self.is_local:
            path = Path(self.location) / name
            if not path.is_file():
                raise self._missing(name)
            yield str(path)
            return
        with scratch.folder("spool") as folder:
            copy = Path(folder) / "segment"
            copy.write_bytes(self._read(name))
            yield str(copy)

    def requests(self, split: SourceSplit) -> Sequence[tuple[int, str]]:
        """Return the requests of a segment: the number of rows before each, and its description."""
        with self.path(split.source_object.stamp + _REQUESTS) as path:
            return [(int(rows), str(request)) for rows, request in json.loads(Path(path).read_text(encoding="utf-8"))]

    def remove_old(self, kept: timedelta = KEPT) -> None:
        """Remove the segments of earlier plans, which were committed or repeated since; an object store keeps them."""
        if self.is_local:
            with suppress(SourceError):  # they are removed by another plan, or by `headwater lake maintain`
                remove_old_fetches(self.location, now(), kept)

    def _read(self, name: str) -> bytes:
        try:
            content: bytes = self._filesystem().cat_file(f"{self.location}/{name}")
        except FileNotFoundError as error:
            raise self._missing(name) from error
        except Exception as error:  # as above
            raise self._failed(f"cannot read the spool below {self.location}", error) from error
        return content

    def _missing(self, name: str) -> SourceError:
        return SourceError(
            "fetched rows are not in the spool",
            got=f"no {name} below {self.location}",
            do="run again to fetch them again; if tasks run on several machines, set spool= to a location that all can read",
        )

    def _failed(self, problem: str, error: Exception) -> SourceError:
        kind = SourceUnavailableError if not self.is_local and is_unavailable(error) else SourceError
        return kind(problem, got=message_of(error), do="check spool=, its space and permissions")

    def _filesystem(self) -> Any:
        return fsspec.filesystem(self.location.partition("://")[0])


@dataclass
class SegmentWriter:
    """Writes the rows of one fetch; each segment becomes a split of the plan."""

    spool: Spool
    uri: str
    position: int
    """The number of rows of the source that were read before."""
    segment_bytes: int = SEGMENT_BYTES
    splits: list[SourceSplit] = field(default_factory=list)
    _fetch: str = field(default_factory=lambda: f"{time.strftime('%Y%m%dT%H%M%S')}-{secrets.token_hex(4)}")
    _lines: list[bytes] = field(default_factory=list)
    _bytes: int = 0
    _requests: list[tuple[int, str]] = field(default_factory=list)

    @property
    def size_bytes(self) -> int:
        """The size of all rows so far."""
        return self._bytes + sum(split.size_bytes for split in self.splits)

    def add(self, lines: Sequence[bytes], request: str) -> None:
        """Add the rows of a response, each as one line of JSON without its end."""
        if not lines:
            return
        self._requests.append((len(self._lines), request))
        self._lines += lines
        self._bytes += sum(map(len, lines)) + len(lines)
        if self._bytes >= self.segment_bytes:
            self.end_segment()

    def end_segment(self) -> None:
        """Write the rows added so far, if any, as a segment."""
        if not self._lines:
            return
        stamp = f"{self._fetch}/{len(self.splits):06d}"
        self.spool.write(stamp + _ROWS, b"\n".join(self._lines) + b"\n")
        self.spool.write(stamp + _REQUESTS, json.dumps(self._requests).encode())
        begin, end = self.position, self.position + len(self._lines)
        self.splits.append(SourceSplit(SourceObject(self.uri, self._bytes, stamp), begin, end, first=begin + 1))
        self.position, self._lines, self._bytes, self._requests = end, [], 0, []


@contextmanager
def rows_of(spool: Spool, split: SourceSplit) -> Iterator[str]:
    """Yield a local path of a split's rows, one per line."""
    with spool.path(split.source_object.stamp + _ROWS) as path:
        yield path


def place_of(split: SourceSplit) -> Place:
    """Return where a split's rows come from, as shown in errors."""
    return Place(split.source_object.uri)
