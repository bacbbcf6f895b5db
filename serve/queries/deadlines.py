"""Interrupts statements that run for too long, or for nobody: one thread for all of them, because a thread for each costs more than a quick statement."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

from serve.queries.cancellation import CURRENT, Cancellation

_EVERY_S = 0.05
"""How often it looks, and interrupts again: an interrupt before the statement runs is lost."""


class StatementDeadlines:
    """The statements that run now, each with the time until which it may. Thread-safe."""

    def __init__(self) -> None:
        """Start no thread until there is a statement."""
        self._running: dict[int, tuple[float, Cancellation | None, duckdb.DuckDBPyConnection]] = {}
        self._lock = threading.Lock()
        self._any = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    @contextmanager
    def within(self, cursor: duckdb.DuckDBPyConnection, seconds: float) -> Iterator[None]:
        """Interrupt what a cursor runs within the context after this many seconds, or when the request is cancelled."""
        with self._lock:
            self._running[id(cursor)] = (time.monotonic() + seconds, CURRENT.get(), cursor)
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="deadlines", daemon=True)
                self._thread.start()
        self._any.set()
        try:
            yield
        finally:
            with self._lock:
                del self._running[id(cursor)]

    def close(self) -> None:
        """End the thread."""
        self._is_closed = True
        self._any.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        while not self._is_closed:
            self._any.wait()
            time.sleep(_EVERY_S)
            now = time.monotonic()
            with self._lock:  # so that a statement does not end between the look and the interrupt
                for until, cancellation, cursor in self._running.values():
                    if now >= until or (cancellation is not None and cancellation.is_cancelled):
                        cursor.interrupt()
                if not self._running:
                    self._any.clear()
