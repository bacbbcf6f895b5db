"""Workers that live as long as a stream: threads of this process, or actors of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar

from pipeline.core.logs import logger

log = logger(__name__)


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

    def close(self) -> None:
        """Close the worker after all started calls have ended."""


class ThreadWorker(Generic[W]):
    """A worker in its own thread. DuckDB releases the GIL while it runs."""

    def __init__(self, create: Callable[[], W], name: str) -> None:
        """Start to create the worker in its thread. If that fails, the first call raises the error."""
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._worker = self._pool.submit(create)

    def submit(self, method: Callable[Concatenate[W, P], R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Start a call."""
        return self._pool.submit(lambda: method(self._worker.result(), *args, **kwargs))

    def close(self) -> None:
        """Wait for all started calls and close the worker."""
        if self._worker.exception() is None:  # otherwise a call has raised it, and there is nothing to close
            self._pool.submit(lambda: self._worker.result().close()).result()
        self._pool.shutdown()


class ActorWorker(Generic[W]):
    """A worker as a Ray actor. If it or its node is lost, the next call raises, and the stream restarts."""

    def __init__(self, create: Callable[[], W], name: str) -> None:
        """Start to create the worker on the cluster."""
        import ray  # noqa: PLC0415 - importing Ray takes seconds

        self._actor: Any = ray.remote(_Actor).options(num_cpus=1, max_concurrency=1).remote(create)
        self.name = name

    def submit(self, method: Callable[Concatenate[W, P], R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Start a call."""
        future: Future[R] = self._actor.call.remote(method.__name__, *args, **kwargs).future()
        return future

    def close(self) -> None:
        """Close the worker and kill its actor, which may already be lost."""
        import ray  # noqa: PLC0415 - likewise

        try:
            ray.get(self._actor.call.remote("close"), timeout=10)
        except (ray.exceptions.RayError, OSError) as error:
            log.debug("worker was not closed", worker=self.name, error=str(error))
        ray.kill(self._actor)


class _Actor:
    def __init__(self, create: Callable[[], Worker]) -> None:
        self._worker = create()

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return getattr(self._worker, method)(*args, **kwargs)


def worker_type(*, on_ray: bool) -> type[ThreadWorker[Any] | ActorWorker[Any]]:
    """Return the class of workers: Ray actors or threads."""
    return ActorWorker if on_ray else ThreadWorker


def results(futures: Iterable[Future[R]]) -> list[R]:
    """Return the results of calls; raise the first error."""
    return [future.result() for future in list(futures)]
