"""Workers that live as long as a stream: threads of this process, or actors of a Ray cluster (`actor_workers`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import Concatenate, Generic, ParamSpec, Protocol, TypeVar


class Worker(Protocol):
    """An object with resources that cannot be sent to another process, for example a DuckDB instance."""

    def close(self) -> None:
        """Release its resources."""


W = TypeVar("W", bound=Worker)
W_co = TypeVar("W_co", bound=Worker, covariant=True)
P = ParamSpec("P")
R = TypeVar("R")


class WorkerHandle(Protocol[W_co]):
    """A handle to a worker in any place. Its calls run sequentially, in order."""

    def submit(self, method: Callable[Concatenate[W_co, P], R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Start a call of one of the worker's methods, for example `SourceTask.take`, and return its future."""

    def wait_started(self) -> None:
        """Wait until the worker has a place; raise `UnavailableError` if there is none for it."""

    def close(self) -> None:
        """Close the worker after all started calls have ended."""

    def abandon(self) -> None:
        """End a worker that is lost, without waiting for it."""


StartWorker = Callable[[Callable[[], W], str], WorkerHandle[W]]
"""Starts a worker: from the function that creates it in its place, and its name, for example `shard-3`."""


class ThreadWorker(Generic[W]):
    """A worker in its own thread. DuckDB releases the GIL while it runs."""

    def __init__(self, create: Callable[[], W], name: str) -> None:
        """Start to create the worker in its thread. If that fails, the first call raises the error."""
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._worker = self._pool.submit(create)

    def submit(self, method: Callable[Concatenate[W, P], R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Start a call."""
        return self._pool.submit(lambda: method(self._worker.result(), *args, **kwargs))

    def wait_started(self) -> None:
        """Do nothing: there is always a thread."""

    def abandon(self) -> None:
        """End the thread after all started calls."""
        self._pool.shutdown(wait=False)

    def close(self) -> None:
        """Wait for all started calls and close the worker."""
        if self._worker.exception() is None:  # otherwise a call has raised it, and there is nothing to close
            self._pool.submit(lambda: self._worker.result().close()).result()
        self._pool.shutdown()


def results(futures: Iterable[Future[R]]) -> list[R]:
    """Return the results of calls; raise the first error."""
    return [future.result() for future in list(futures)]


def replace_lost(
    workers: list[WorkerHandle[W]],
    calls: Sequence[Future[R]],
    start: Callable[[int], WorkerHandle[W]],
    is_loss: Callable[[BaseException], bool],
) -> tuple[int, ...]:
    """Wait for a call of each worker; put a new worker, from `start`, in the place of each one that was lost.

    Returns the numbers of the lost workers. Raises the first error that is not a loss, after all calls have ended.
    """
    numbers, errors, lost = {call: number for number, call in enumerate(calls)}, [], []
    for call in as_completed(numbers):
        error, number = call.exception(), numbers[call]
        if error is None:
            continue
        if not is_loss(error):
            errors.append(error)
            continue
        workers[number].abandon()
        workers[number] = start(number)
        lost.append(number)
    if errors:
        raise errors[0]
    return tuple(sorted(lost))
