"""Ctrl-C and SIGTERM for what runs until it is stopped: the first lets it end well, the second ends it at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

INTERRUPTED = 128
"""Added to the number of a signal it is the exit code of a process that a signal ended."""
_SAME_S = 0.2
"""A signal that comes again within it is the same one: some programs send it to a process and to its group."""


@dataclass
class Stopped:
    """Which signal asked for the end, if one did."""

    by: int | None = None
    at: float = 0.0

    @property
    def code(self) -> int:
        """The exit code: 130 after Ctrl-C, 143 after SIGTERM, 0 when nobody asked."""
        return 0 if self.by is None else INTERRUPTED + self.by


@contextmanager
def stoppable(stop: Callable[[], None], say: Callable[[], None]) -> Iterator[Stopped]:
    """Call `stop` and `say` at the first signal, and end the process at the second; only the main thread can.

    No exception is raised in between, so nothing is cut short by the first.
    """
    stopped = Stopped()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return

    def hear(number: int, frame: FrameType | None) -> None:
        del frame
        if stopped.by is not None and time.monotonic() - stopped.at < _SAME_S:
            return
        if stopped.by is not None:
            sys.stderr.write("\nended at once; what was not committed is read again by the next start\n")
            sys.stderr.flush()
            os._exit(INTERRUPTED + number)
        stopped.by, stopped.at = number, time.monotonic()
        stop()
        say()

    before = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
