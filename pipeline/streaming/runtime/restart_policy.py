"""Decides whether a stream restarts after an error: a pure function of the error and of previous restarts.

A stream waits without limit for a system that does not answer. For other transient errors, the number of restarts is
limited.
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


MOST_RECOVERIES = 3
"""How often a stream replaces lost workers between two commits before it restarts."""


@dataclass(frozen=True)
class RestartPolicy:
    """How often a stream restarts after transient errors."""

    most: int = 5
    within_s: float = 300.0
    first_wait_s: float = 0.5
    longest_wait_s: float = 15.0

    def wait_s(self, restarts: Sequence[float], now: float, error: BaseException | None = None) -> float | None:
        """Return the time to wait before the next restart, doubling each time; `None` if there are no more restarts.

        `restarts` are the times of previous restarts by the same clock as `now`; only those of the last `within_s`
        count. After an `UnavailableError` or `OutcomeUnknownError`, there is always another restart: it waits for the store.
        """
        lately = sum(now - at <= self.within_s for at in restarts)
        if lately >= self.most and not isinstance(error, UnavailableError | OutcomeUnknownError):
            return None
        return float(min(self.first_wait_s * 2 ** min(lately, self.most), self.longest_wait_s))


def may_recover(error: BaseException, recoveries: int) -> bool:
    """Return whether a stream replaces lost workers after an error instead of restarting.

    `recoveries` is their number since the last commit. A stream that loses workers again and again without a commit
    in between restarts.
    """
    return is_loss(error) and recoveries < MOST_RECOVERIES


def may_pass(error: BaseException) -> bool:
    """Return whether an error is transient, so that a stream may resume from its last commit: a failed store or worker.

    Conflicts are not: another process runs the stream. Errors caused by a definition, an expectation, a
    setting, the state or the log are not either, because they would occur again.
    """
    return (isinstance(error, _PASSING) and not isinstance(error, IncompatibleStateError)) or is_loss(error)


def is_loss(error: BaseException) -> bool:
    """Return whether an error means that Ray lost a worker, a node or their objects; not an error of the worker itself."""
    names = {kind.__name__ for kind in type(error).__mro__ if kind.__module__.startswith("ray.")}
    return bool(names) and "RayTaskError" not in names
