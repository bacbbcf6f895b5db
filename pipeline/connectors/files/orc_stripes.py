"""The schema and the stripes of ORC files, read by other processes; a damaged file ends such a process, not this one."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow as pa

_PROGRAM = str(Path(__file__).with_name("orc_process.py"))
_HEAD_BYTES = 9
_KEPT = 2
"""The number of processes that wait for the next file."""


@dataclass(frozen=True)
class _Reader:
    """A running process with its ends of the pipes."""

    process: subprocess.Popen[bytes]
    requests: IO[bytes]
    answers: IO[bytes]

    @classmethod
    def started(cls) -> _Reader:
        """Start a process; it ends when its input is closed."""
        process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-P", _PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        if process.stdin is None or process.stdout is None:
            raise OSError("a process has no pipes")
        return cls(process, process.stdin, process.stdout)

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            self.process.kill()
        for pipe in (self.requests, self.answers):
            with contextlib.suppress(OSError):
                pipe.close()
        self.process.wait()


class ReaderProcesses:
    """The idle processes of this process."""

    def __init__(self) -> None:
        """Start without processes."""
        self._idle: list[_Reader] = []
        self._lock = threading.Lock()
        self._pid = os.getpid()

    @contextmanager
    def one(self) -> Iterator[_Reader]:
        """Yield a process; it is used again unless the context ends with an exception."""
        reader = self._taken()
        is_done = False
        try:
            yield reader
            is_done = True
        finally:
            with self._lock:
                is_kept = is_done and len(self._idle) < _KEPT and self._pid == os.getpid()
                if is_kept:
                    self._idle.append(reader)
            if not is_kept:
                reader.close()

    def _taken(self) -> _Reader:
        with self._lock:
            if self._pid != os.getpid():  # a forked child must not use the pipes of its parent
                self._idle, self._pid = [], os.getpid()
            while self._idle:
                reader = self._idle.pop()
                if reader.process.poll() is None:
                    return reader
                reader.close()
        return _Reader.started()

    def close(self) -> None:
        """End the idle processes."""
        with self._lock:
            idle, self._idle = self._idle if self._pid == os.getpid() else [], []
        for reader in idle:
            reader.close()


_READERS = ReaderProcesses()
atexit.register(_READERS.close)


def schema_of_file(path: str) -> pa.Schema:
    """Return the columns of a file; raise `ValueError` if it is damaged."""
    (columns,) = _answers(path, ())
    return columns.schema


def batches(path: str, stripes: Sequence[int]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of stripes; raise `ValueError` if one is damaged."""
    for answer in _answers(path, stripes):
        yield from answer.to_batches()


def _answers(path: str, stripes: Sequence[int]) -> Iterator[pa.Table]:
    """Yield an empty table with the columns of a file, and then a table for each stripe."""
    with _READERS.one() as reader:
        request = json.dumps({"path": path, "stripes": list(stripes)})
        with contextlib.suppress(BrokenPipeError):
            reader.requests.write(request.encode() + b"\n")
            reader.requests.flush()
        while True:
            head = reader.answers.read(_HEAD_BYTES)
            size = int.from_bytes(head[1:], "big")
            content = reader.answers.read(size) if len(head) == _HEAD_BYTES else b""
            if len(head) < _HEAD_BYTES or len(content) < size:
                raise ValueError("the file is damaged: its reader crashed")
            if head[:1] == b"D":
                return
            if head[:1] == b"E":
                raise ValueError(content.decode())
            with pa.ipc.open_stream(content) as stream:
                yield stream.read_all()
