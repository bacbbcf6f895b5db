"""Whether what a request computes is still needed: statements for which nobody waits are interrupted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Cancellation:
    """Says once that nobody waits any more. Thread-safe."""

    def __init__(self) -> None:
        """Begin with somebody who waits."""
        self._is_cancelled = False
        self._callbacks: list[Callable[[], object]] = []
        self._lock = threading.Lock()

    @property
    def is_cancelled(self) -> bool:
        """Whether nobody waits any more."""
        return self._is_cancelled

    def cancel(self) -> None:
        """Say that nobody waits any more."""
        with self._lock:
            if self._is_cancelled:
                return
            self._is_cancelled = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    @contextmanager
    def calling(self, callback: Callable[[], object]) -> Iterator[None]:
        """Call a function if nobody waits any more, at once if that is so already, unless the context has ended."""
        with self._lock:
            is_cancelled = self._is_cancelled
            if not is_cancelled:
                self._callbacks.append(callback)
        if is_cancelled:
            callback()
        try:
            yield
        finally:
            with self._lock:
                if callback in self._callbacks:
                    self._callbacks.remove(callback)


CURRENT: ContextVar[Cancellation | None] = ContextVar("cancellation", default=None)
"""That of the request of this task, and of the threads that work for it."""
