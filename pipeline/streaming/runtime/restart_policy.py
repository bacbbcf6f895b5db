"""What becomes of a stream after an error: a pure decision on the error and on the restarts so far.

A system that does not answer is waited for as long as it takes. Any other error that may pass has so many restarts.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass

import duckdb

from pipeline.core.errors import IncompatibleStateError, OutcomeUnknownError, StorageError, UnavailableError

_PASSING: tuple[type[BaseException], ...] = (
    UnavailableError,
    StorageError,
    OutcomeUnknownError,
    OSError,
    BrokenExecutor,
    duckdb.IOException,
    duckdb.OutOfMemoryException,
)


@dataclass(frozen=True)
class RestartPolicy:
    """How often a stream is opened again after errors that may pass."""

    most: int = 5
    within_s: float = 300.0
    first_wait_s: float = 0.5
    longest_wait_s: float = 15.0

    def wait_s(self, restarts: Sequence[float], now: float, error: BaseException | None = None) -> float | None:
        """Return how long to wait before the next restart, twice as long each time; `None`: no more of them.

        `restarts` are the times of those so far, by the same clock as `now`. Only those of the last `within_s` count.
        After an `UnavailableError` there is always a next one.
        """
        lately = sum(now - at <= self.within_s for at in restarts)
        if lately >= self.most and not isinstance(error, UnavailableError):
            return None
        return float(min(self.first_wait_s * 2 ** min(lately, self.most), self.longest_wait_s))


def may_pass(error: BaseException) -> bool:
    """Return whether a stream that met an error may go on from its last commit: its store or a worker failed.

    Not so a conflict, which says that somebody else runs the stream, and not what a definition, an expectation, a
    setting, the state or the log itself is the reason for: that would be met again.
    """
    return (isinstance(error, _PASSING) and not isinstance(error, IncompatibleStateError)) or _is_loss(error)


def _is_loss(error: BaseException) -> bool:
    """Return whether an error says that Ray lost a worker, a node or what they held."""
    names = {kind.__name__ for kind in type(error).__mro__ if kind.__module__.startswith("ray.")}
    return bool(names) and "RayTaskError" not in names
