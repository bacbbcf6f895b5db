"""How much of a processor a response takes, by which the cache decides whether it is worth another server."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class ProcessorTime:
    """The time of the threads that work for a request; that of the engine's own threads is not in it."""

    def __init__(self) -> None:
        """Begin with none."""
        self.seconds = 0.0


CURRENT_TIME: ContextVar[ProcessorTime | None] = ContextVar("processor time", default=None)
"""That of the request of this task, and of the threads that work for it."""


def timed(function: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    """Call a function, and add the time of this thread to that of the request."""
    spent, begun = CURRENT_TIME.get(), time.thread_time()
    try:
        return function(*args, **options)
    finally:
        if spent is not None:
            spent.seconds += time.thread_time() - begun
