"""Writes the record of every request: who, what, how many rows, and why it was allowed. Never values, and no keys."""

from __future__ import annotations

import logging
import threading
import uuid
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.governance.audit_records import FIRST, sealed

_LOG = logging.getLogger("headwater.serve")
_EVERY_S = 0.5
_MOST_WAITING = 100_000


class AuditLog:
    """Writes records from a thread of its own. If they cannot be written, `is_writable` is false until they can again."""

    def __init__(self, folder: Path) -> None:
        """Create the log. Nothing is written until there is a record."""
        self._folder = folder
        self._replica = uuid.uuid4().hex[:8]
        self._waiting: deque[Mapping[str, Any]] = deque()
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._file: Path | None = None
        self._last = FIRST
        self.is_writable = True
        """Whether the last records were written. A server refuses requests that it cannot record."""

    def add(self, record: Mapping[str, Any]) -> None:
        """Let a record be written soon; never waits. If too many wait, the log is not writable."""
        if self._thread is None:
            with self._starting:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="audit log", daemon=True)
                    self._thread.start()
        if len(self._waiting) < _MOST_WAITING:
            self._waiting.append(record)
        else:
            self.is_writable = False

    def close(self) -> None:
        """Write what waits, and end the thread."""
        self._end.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        records: list[Mapping[str, Any]] = []
        is_last = False
        while not is_last:
            is_last = self._end.wait(_EVERY_S)
            while (
                self._waiting and len(records) < _MOST_WAITING
            ):  # while none can be written, some are kept, and no more
                records.append(self._waiting.popleft())
            if records and self._write(records):
                records = []

    def _write(self, records: list[Mapping[str, Any]]) -> bool:
        now = datetime.now(UTC)
        file, last = self._file, self._last
        if file is None or file.parent.name != f"{now:%Y-%m-%d}":
            file, last = self._folder / f"{now:%Y-%m-%d}" / f"{now:%H%M%S%f}-{self._replica}.jsonl", FIRST
        lines = []
        for record in records:
            line, last = sealed(record, last)
            lines.append(line)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            _append(file, "".join(lines).encode())
        except OSError as error:
            if self.is_writable:
                _LOG.error("the audit log cannot be written: %s", error)
            self.is_writable = False
            return False
        self._file, self._last, self.is_writable = file, last, True
        return True


def _append(file: Path, content: bytes) -> None:
    """Append to a file; if that fails, it is as before."""
    with file.open("ab", buffering=0) as sink:
        end = sink.tell()
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[sink.write(rest) :]  # a full disk takes a part before it refuses the rest
        except OSError:
            sink.truncate(end)
            raise
