"""A durable log of records in a local folder, to which several processes append: lines in segments, with a lock.

    <folder>/id                                  identifies the log; another one if it was created again
    <folder>/00000000000000000000.ndjson         the records from number 0 on
    <folder>/00000000000000004711.ndjson         the records from number 4711 on

A record is durable when `append` returns. A line that was not completely written when a machine failed was not
acknowledged; it is removed before the next record is written.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.clients import message_of
from pipeline.core.durable import sync
from pipeline.core.errors import SourceError
from pipeline.core.sources import Extent

SEGMENT_BYTES = 16 << 20
_SUFFIX, _FEED = ".ndjson", b"\n"
_CHUNK_BYTES = 1 << 20
_AT, _SIZE, _META, _BODY = b'{"at":', b',"size":', b',"meta":', b',"body":'


@dataclass(frozen=True)
class RecordLog:
    """A log in one folder. Records are lines of JSON that begin with `{"at":`, the milliseconds since 1970."""

    folder: Path
    segment_bytes: int = SEGMENT_BYTES
    _counted: dict[Path, tuple[int, int]] = field(default_factory=dict, compare=False, repr=False)
    """For each segment: a size, and the number of complete lines up to it."""

    def append(self, records: Sequence[bytes], kept_s: float | None = None) -> int:
        """Append records, each one line without its end, and return the number of the first.

        Segments whose last record is older than `kept_s` are removed. Raises `SourceError` if the records are not on
        disk; some of them may be there.
        """
        with self.locked():
            return self.append_locked(records, kept_s)

    def append_locked(self, records: Sequence[bytes], kept_s: float | None = None) -> int:
        """Append records within `locked`; see `append`."""
        first, path = self._writable()
        if records:
            with path.open("ab") as file:
                file.write(b"".join(record + _FEED for record in records))
                file.flush()
                os.fsync(file.fileno())
        if kept_s is not None:
            self._remove_old(kept_s)
        return first

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Exclude all other writers; raise `SourceError` if the disk fails inside the context."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / "lock").open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as error:
            problem = f"records cannot be written below {self.folder}"
            raise SourceError(problem, got=message_of(error), do="check its space and permissions") from error

    def extent(self) -> Extent | None:
        """Return the numbers of the records that are on disk, `None` if the log does not exist."""
        segments = self.segments()
        if not segments:
            return None
        first, path = segments[-1]
        with path.open("rb") as file:
            os.fsync(file.fileno())  # what is read must not disappear if the machine fails
            count = self._lines_in(path)
        return Extent(segments[0][0], first + count, (self.folder / "id").read_text(encoding="utf-8"))

    def records(self, begin: int, end: int) -> list[bytes]:
        """Return the records with these numbers, without line ends; fewer if they do not exist."""
        found: list[bytes] = []
        segments = self.segments()
        ends = [first for first, _ in segments[1:]] + [1 << 62]
        for (first, path), after in zip(segments, ends, strict=True):
            if first >= end or after <= begin:
                continue
            lines = path.read_bytes().split(_FEED)[:-1]  # what follows the last line end is not complete
            found += lines[max(0, begin - first) : end - first]
        return found

    def number_at(self, moment_ms: int) -> int:
        """Return the number of the first record that was written at or after a time; the end if there is none."""
        segments = self.segments()
        earlier = [n for n, (_, path) in enumerate(segments) if _first_at(path) < moment_ms]
        for first, path in segments[max(earlier, default=0) :]:
            for number, line in enumerate(path.read_bytes().split(_FEED)[:-1]):
                if _at(line) >= moment_ms:
                    return first + number
        extent = self.extent()
        return 0 if extent is None else extent.end

    def segments(self) -> list[tuple[int, Path]]:
        """Return the segments in order, each with the number of its first record."""
        if not self.folder.is_dir():
            return []
        return sorted((int(path.stem), path) for path in self.folder.glob(f"*{_SUFFIX}") if path.stem.isdigit())

    def _writable(self) -> tuple[int, Path]:
        """Return the number of the next record and its segment, which ends with a complete record."""
        segments = self.segments()
        if not segments:
            return 0, self._created(0)
        first, path = segments[-1]
        size = _complete_bytes(path)
        if size < path.stat().st_size:
            os.truncate(path, size)
        count = self._lines_in(path)
        if size < self.segment_bytes:
            return first + count, path
        return first + count, self._created(first + count)

    def _lines_in(self, path: Path) -> int:
        """Return the number of complete lines of a segment, of which only new bytes are read."""
        size, count = self._counted.get(path, (0, 0))
        if path.stat().st_size < size:
            size, count = 0, 0  # it was created again
        with path.open("rb") as file:
            file.seek(size)
            while chunk := file.read(_CHUNK_BYTES):
                count += int(np.count_nonzero(np.frombuffer(chunk, np.uint8) == _FEED[0]))
                size += len(chunk)
        self._counted.clear()
        self._counted[path] = (size, count)
        return count

    def _created(self, first: int) -> Path:
        """Create a segment; the log gets its id before its first record."""
        identity = self.folder / "id"
        if not identity.exists():
            identity.write_text(secrets.token_hex(8), encoding="utf-8")
            sync(identity)
        path = self.folder / f"{first:020d}{_SUFFIX}"
        path.touch()
        sync(path)
        sync(self.folder)
        return path

    def _remove_old(self, kept_s: float) -> None:
        before = time.time() - kept_s
        for _, path in self.segments()[:-1]:
            if path.stat().st_mtime >= before:
                return
            path.unlink(missing_ok=True)


def _complete_bytes(path: Path) -> int:
    """Return the size of a file up to its last line end."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            begin = max(0, end - _CHUNK_BYTES)
            file.seek(begin)
            at = file.read(end - begin).rfind(_FEED)
            if at >= 0:
                return begin + at + 1
            end = begin
    return 0


def _first_at(path: Path) -> int:
    with path.open("rb") as file:
        return _at(file.readline())


def _at(line: bytes) -> int:
    text = line[len(_AT) : line.find(b",", len(_AT))] if line.startswith(_AT) else b""
    return int(text) if text.strip().isdigit() else 0


def record(at_ms: int, fields: Mapping[str, object], body: bytes) -> bytes:
    """Return a record: when it was written, its metadata, and its body, which is valid JSON on one line."""
    inner = json.dumps(fields, separators=(",", ":")).encode()
    return b'{"at":%d,"size":%d,"meta":%s,"body":%s}' % (at_ms, len(inner), inner, body)


def parts_of(line: bytes) -> tuple[int, Mapping[str, Any], bytes]:
    """Return when a record was written, its metadata, and its body."""
    at, size = _at(line), int(line[line.index(_SIZE) + len(_SIZE) : line.index(_META)])
    begin = line.index(_META) + len(_META)
    return at, json.loads(line[begin : begin + size]), line[begin + size + len(_BODY) : -1]
