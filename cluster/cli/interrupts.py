"""Ctrl-C that is not lost: an engine that fails as it is interrupted takes the interrupt for its own."""

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


class Interrupts:
    """Whether the user has asked to stop."""

    def __init__(self) -> None:
        """Nobody has."""
        self._is_asked = False

    def ask(self, number: int, frame: FrameType | None) -> None:
        """Remember a signal, and raise `KeyboardInterrupt` as Python's own handler does."""
        del number, frame
        self._is_asked = True
        raise KeyboardInterrupt

    def before(self, observer: Observer) -> Observer:
        """Return an observer that raises `KeyboardInterrupt` at the next event, if the first one went astray."""

        def observe(event: Event) -> None:
            if self._is_asked:
                raise KeyboardInterrupt
            observer(event)

        return observe


def leave(code: int) -> NoReturn:
    """End the command after an interrupt; at once, if a step is at work that cannot be interrupted.

    What is committed is whole, and the interpreter would wait for the step's threads or be ended by them.
    """
    if has_running_steps():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise typer.Exit(code)


@contextmanager
def interrupts() -> Iterator[Interrupts]:
    """Watch for Ctrl-C for the time of the context; only the main thread can."""
    state = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield state
        return
    before = signal.signal(signal.SIGINT, state.ask)
    try:
        yield state
    finally:
        signal.signal(signal.SIGINT, before)
