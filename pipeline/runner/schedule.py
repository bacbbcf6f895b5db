"""Steps side by side: each starts after the steps it reads, and a step that reads a failed one is skipped."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Generic, TypeVar

from pipeline.kernel.engine import Stop, stopped_by

T = TypeVar("T")
_THREAD = "headwater-step-"
_GRACE_S = 5.0
"""How long an interrupted run waits for its steps: an engine stops at once, a user's function may not."""


@dataclass(frozen=True)
class BlockedStep:
    """A step that was not started, because a step above it failed."""

    reads: str
    """The input that is missing."""
    failed: str
    """The step that failed: the input, or a step above it."""

    def __str__(self) -> str:
        """Return the reason."""
        if self.reads == self.failed:
            return f"skipped: reads {self.reads!r}, which failed"
        return f"skipped: reads {self.reads!r}, which was skipped because {self.failed!r} failed"


def ready(waiting: Mapping[str, Collection[str]], running: Collection[str]) -> list[str]:
    """Return the waiting steps whose inputs are all done, in their order."""
    return [name for name, reads in waiting.items() if not any(read in waiting or read in running for read in reads)]


def blocked(reads: Collection[str], failed: Mapping[str, str]) -> BlockedStep | None:
    """Return why a step cannot be done; `failed` gives for each step that was not done the one whose failure is the cause."""
    return next((BlockedStep(read, failed[read]) for read in reads if read in failed), None)


@dataclass(frozen=True)
class Schedule(Generic[T]):
    """Steps by name, inputs first, each with the steps it reads; what does one; and what hears how each ended."""

    reads: Mapping[str, Collection[str]]
    do: Callable[[str], T]
    ended: Callable[[str, T | Exception | BlockedStep], None]
    """Called in the thread of `run`, for one step after the other, before any step that reads it starts."""

    def run(self, threads: int) -> None:
        """Do all steps, at most `threads` at once, the first in order first.

        An exception of a step ends that step alone. Raises what `ended` raises and what is no `Exception`, such as
        `KeyboardInterrupt`: the statements of the other steps are interrupted then.
        """
        waiting, failed = dict(self.reads), dict[str, str]()
        running: dict[str, threading.Thread] = {}
        finished: SimpleQueue[tuple[str, T | BaseException]] = SimpleQueue()
        stop = Stop()
        try:
            while waiting or running:
                for name in ready(waiting, running):
                    above = blocked(self.reads[name], failed)
                    if above is not None:
                        del waiting[name]
                        failed[name] = above.failed
                        self.ended(name, above)
                    elif len(running) < threads:
                        del waiting[name]
                        running[name] = self._start(name, finished, stop)
                if not running:
                    continue  # a step was skipped: those that read it are next
                name, outcome = _next(finished)
                del running[name]
                if isinstance(outcome, Exception):
                    failed[name] = name
                self.ended(name, outcome)
        except BaseException:
            _interrupt(stop, list(running.values()))
            raise

    def _start(self, name: str, finished: SimpleQueue[tuple[str, T | BaseException]], stop: Stop) -> threading.Thread:
        def work() -> None:
            outcome: T | BaseException
            try:
                with stopped_by(stop):
                    outcome = self.do(name)
            except BaseException as error:  # noqa: BLE001 - `run` decides what becomes of it
                outcome = error
            finished.put((name, outcome))

        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(work,), name=f"{_THREAD}{name}", daemon=True)
        thread.start()
        return thread


def _next(finished: SimpleQueue[tuple[str, T | BaseException]]) -> tuple[str, T | Exception]:
    """Wait for a step to end and return how it did; raise what is to end the run."""
    name, outcome = finished.get()
    if isinstance(outcome, BaseException) and not isinstance(outcome, Exception):
        raise outcome
    return name, outcome


def _interrupt(stop: Stop, threads: Sequence[threading.Thread]) -> None:
    """Interrupt the statements of threads until these end: an interrupt between two statements is lost."""
    until = time.monotonic() + _GRACE_S
    for thread in threads:
        while thread.is_alive() and time.monotonic() < until:
            stop.now()
            thread.join(0.05)


def has_running_steps() -> bool:
    """Return whether a step of an interrupted run is still at work, in code that cannot be interrupted."""
    return any(thread.name.startswith(_THREAD) for thread in threading.enumerate())
