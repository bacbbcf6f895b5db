"""Workers that live as long as a stream: each with its own thread here, or as an actor of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Protocol


class Worker(Protocol):
    """What works: it keeps an engine and other things that are not passed on, and gives them back in the end."""

    def close(self) -> None:
        """Give back what it holds."""


class WorkerHandle(Protocol):
    """A worker, wherever it is. Its calls are done one after the other, in order."""

    def call(self, method: str, *args: Any, **named: Any) -> Future[Any]:
        """Begin a call of a method and return its future."""

    def close(self) -> None:
        """Let the worker give back what it holds, after the calls that were begun."""


class ThreadWorker:
    """A worker in a thread of its own: its engine lets go of Python's lock while it works."""

    def __init__(self, make: Callable[[], Worker], name: str) -> None:
        """Begin to make the worker, in its thread; an error is raised by the first call."""
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._made = self._pool.submit(make)

    def call(self, method: str, *args: Any, **named: Any) -> Future[Any]:
        """Begin a call."""
        return self._pool.submit(lambda: getattr(self._made.result(), method)(*args, **named))

    def close(self) -> None:
        """Wait for what was begun and close the worker."""
        with suppress(Exception):  # what could not be made has nothing to give back; the error was raised by a call
            self._pool.submit(lambda: self._made.result().close()).result()
        self._pool.shutdown()


class ActorWorker:
    """A worker as a Ray actor. Losing it, or its node, raises at the next call: a stream then goes on from its last commit."""

    def __init__(self, make: Callable[[], Worker], name: str) -> None:
        """Begin to make the worker on the cluster."""
        import ray  # noqa: PLC0415 - importing Ray takes seconds

        self._actor: Any = ray.remote(_Acting).options(num_cpus=1, max_concurrency=1).remote(make)
        self.name = name

    def call(self, method: str, *args: Any, **named: Any) -> Future[Any]:
        """Begin a call."""
        found: Future[Any] = self._actor.call.remote(method, *args, **named).future()
        return found

    def close(self) -> None:
        """Close the worker and end its actor."""
        import ray  # noqa: PLC0415 - likewise

        with suppress(Exception):  # it may be lost already
            ray.get(self._actor.call.remote("close"), timeout=10)
        with suppress(Exception):
            ray.kill(self._actor)


class _Acting:
    def __init__(self, make: Callable[[], Worker]) -> None:
        self._worker = make()

    def call(self, method: str, *args: Any, **named: Any) -> Any:
        return getattr(self._worker, method)(*args, **named)
