"""Runs steps concurrently: each starts after its inputs, and steps downstream of a failed one are skipped."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from pipeline.kernel.engine import Stop, stopped_by

T = TypeVar("T")
_THREAD = "headwater-step-"
_HANDLES_SIGNALS_EVERY_S = 0.5
_GRACE_S = 5.0
"""How long an interrupted run waits for its steps: DuckDB stops immediately, user functions may not."""


@dataclass(frozen=True)
class BlockedStep:
    """A step that was not started because an upstream step failed."""

    reads: str
    """The input that is missing."""
    failed: str
    """The failed step: the input, or one of its upstream steps."""

    @property
    def reason(self) -> str:
        """Why it is skipped."""
        if self.reads == self.failed:
            return f"reads {self.reads!r}, which failed"
        return f"reads {self.reads!r}, which was skipped because {self.failed!r} failed"


def ready(waiting: Mapping[str, Collection[str]], running: Collection[str]) -> list[str]:
    """Return the waiting steps whose inputs are all completed, in order."""
    return [name for name, reads in waiting.items() if not any(read in waiting or read in running for read in reads)]


def blocked(reads: Collection[str], failed: Mapping[str, str]) -> BlockedStep | None:
    """Return why a step cannot run; `failed` maps each step that did not complete to the step that failed."""
    return next((BlockedStep(read, failed[read]) for read in reads if read in failed), None)


@dataclass(frozen=True)
class Schedule(Generic[T]):
    """Steps by name in dependency order, each with its inputs; the function that runs a step; the callback at its end."""

    reads: Mapping[str, Collection[str]]
    do: Callable[[str], T]
    ended: Callable[[str, T | Exception | BlockedStep], None]
    """Called in the thread of `run`, for one step at a time, before any downstream step starts."""

    def run(self, threads: int) -> None:
        """Run all steps in order, at most `threads` concurrently.

        An exception of a step ends only that step. Errors of `ended`, and exceptions that are not an `Exception`, such
        as `KeyboardInterrupt`, are raised after the statements of the other steps have been interrupted.
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
                    continue  # a step was skipped: check its downstream steps next
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
            except BaseException as error:  # noqa: BLE001 - handled by `run`
                outcome = error
            finished.put((name, outcome))

        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(work,), name=f"{_THREAD}{name}", daemon=True)
        thread.start()
        return thread


def _next(finished: SimpleQueue[tuple[str, T | BaseException]]) -> tuple[str, T | Exception]:
    """Wait for a step to end and return its result; raise errors that end the run.

    Python handles a signal that arrives just before a wait only when the wait ends, so it must end now and then.
    """
    while True:
        with suppress(Empty):
            name, outcome = finished.get(timeout=_HANDLES_SIGNALS_EVERY_S)
            break
    if isinstance(outcome, BaseException) and not isinstance(outcome, Exception):
        raise outcome
    return name, outcome


def _interrupt(stop: Stop, threads: Sequence[threading.Thread]) -> None:
    """Interrupt the statements of threads repeatedly until they end: an interrupt between statements is lost."""
    until = time.monotonic() + _GRACE_S
    for thread in threads:
        while thread.is_alive() and time.monotonic() < until:
            stop.now()
            thread.join(0.05)


def has_running_steps() -> bool:
    """Return whether a step of an interrupted run is still running code that cannot be interrupted."""
    return any(thread.name.startswith(_THREAD) for thread in threading.enumerate())
