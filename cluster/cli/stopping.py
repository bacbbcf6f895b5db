"""Handles Ctrl-C and SIGTERM for long-running commands: the first ends them gracefully, the second immediately."""

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
"""The exit code of a process ended by a signal is this plus the signal's number."""
_SAME_S = 0.2
"""Signals within this time count as one, because some programs signal a process and also its group."""


@dataclass
class Stopped:
    """The signal that requested the end, if any."""

    by: int | None = None
    at: float = 0.0

    @property
    def code(self) -> int:
        """The exit code: 130 after Ctrl-C, 143 after SIGTERM, 0 without a signal."""
        return 0 if self.by is None else INTERRUPTED + self.by


@contextmanager
def stoppable(stop: Callable[[], None], say: Callable[[], None]) -> Iterator[Stopped]:
    """Call `stop` and `say` at the first signal, and end the process at the second.

    No exception is raised at the first signal, so running work is not interrupted. In threads other than the main
    thread, no signals are handled.
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
            sys.stderr.write("\nended immediately; the next start reads uncommitted rows again\n")
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
