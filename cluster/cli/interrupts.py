"""Handles Ctrl-C and SIGTERM during a run, also if an engine replaces the `KeyboardInterrupt` with an error of its own."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import typer

from pipeline.runner.events import Event, Observer
from pipeline.runner.schedule import has_running_steps

_BY_SIGNAL = 128
"""Added to the number of a signal, as shells do."""


class Interrupts:
    """Records whether the user has requested an interrupt."""

    def __init__(self) -> None:
        """Start without a requested interrupt."""
        self._number: int | None = None

    @property
    def code(self) -> int:
        """The exit code: 130 after Ctrl-C, 143 after SIGTERM."""
        return _BY_SIGNAL + (self._number or signal.SIGINT)

    def request(self, number: int, frame: FrameType | None) -> None:
        """Record a signal, and raise `KeyboardInterrupt` like Python's handler."""
        del frame
        self._number = number
        raise KeyboardInterrupt

    def before(self, observer: Observer) -> Observer:
        """Return an observer that raises `KeyboardInterrupt` at the next event, in case the first one was lost."""

        def observe(event: Event) -> None:
            if self._number is not None:
                raise KeyboardInterrupt
            observer(event)

        return observe


def leave(code: int) -> NoReturn:
    """End the command after an interrupt; immediately if a step is running that cannot be interrupted.

    Commits are atomic, so this is safe. A normal exit would wait for the step's threads or crash with them.
    """
    if has_running_steps():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise typer.Exit(code)


@contextmanager
def interrupts() -> Iterator[Interrupts]:
    """Handle Ctrl-C and SIGTERM inside the context. Only the main thread can; in others this does nothing."""
    state = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield state
        return
    before = {number: signal.signal(number, state.request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield state
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
