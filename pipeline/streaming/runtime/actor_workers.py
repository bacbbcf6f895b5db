"""Workers of a stream as actors of a Ray cluster: where they are placed, what they reserve, how they end.

An actor belongs to the driver that started it: Ray ends it with the driver, also if that is killed. An actor is never
restarted by Ray; the stream replaces a lost one (`Stream.recover`).
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import ray

from pipeline.batch.ray_cluster import join
from pipeline.core.errors import UnavailableError
from pipeline.core.logs import logger
from pipeline.streaming.runtime.restart_policy import is_loss
from pipeline.streaming.runtime.workers import Worker

log = logger(__name__)
MAX_PENDING_CALLS = 4
"""The maximum number of calls of a worker that have not ended. A stream has one per worker, and at most three while it recovers."""
_CLOSE_S = 10.0
_CONNECT_S = 1.0
_NODES_FOR_S = 2.0
"""How long the answer which nodes do not respond is used."""
W = TypeVar("W", bound=Worker)
P = ParamSpec("P")
R = TypeVar("R")


@dataclass
class ActorStarter:
    """Starts the workers of one stream as actors, spread over the nodes that respond."""

    stream: str
    """The project and the stream, as in `plant.by_minute`; the name of an actor is `plant.by_minute.shard-3`."""
    cpus: float
    """The CPUs that each worker reserves. It does not limit what the worker uses."""
    start_s: float = 60.0
    """How long a worker waits for a node with free resources."""
    _silent: tuple[str, ...] = field(default=(), init=False)
    _asked_at: float = field(default=float("-inf"), init=False)

    def __post_init__(self) -> None:
        """Join the cluster."""
        join()

    def __call__(self, create: Callable[[], W], name: str) -> ActorWorker[W]:
        """Start to create a worker on the cluster. If that fails, the first call raises the error."""
        options: dict[str, Any] = {
            "num_cpus": self.cpus,
            "scheduling_strategy": "SPREAD",
            "max_concurrency": 1,
            "max_pending_calls": MAX_PENDING_CALLS,
        }
        if time.monotonic() - self._asked_at > _NODES_FOR_S:
            self._silent, self._asked_at = silent_nodes(), time.monotonic()
        if self._silent:
            options["label_selector"] = {"ray.io/node-id": f"!in({','.join(self._silent)})"}
        return ActorWorker(_actor(create, f"{self.stream}.{name}", options), f"{self.stream}.{name}", self)


class ActorWorker(Generic[W]):
    """A worker as a Ray actor. If it or its node is lost, this call and all later ones raise an error of Ray."""

    def __init__(self, actor: Any, name: str, starter: ActorStarter) -> None:
        """Use a new actor, and let it create its worker."""
        self.name = name
        self._actor = actor
        self._starter = starter
        self._loss: BaseException | None = None
        self._started = actor.ping.remote()
        actor.create.remote()

    def submit(self, method: Callable[Concatenate[W, P], R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Start a call."""
        if self._loss is not None:  # Ray would try to reach its node again for seconds
            lost: Future[R] = Future()
            lost.set_exception(self._loss)
            return lost
        future: Future[R] = self._actor.call.remote(method.__name__, *args, **kwargs).future()
        future.add_done_callback(self._note_loss)
        return future

    def _note_loss(self, call: Future[Any]) -> None:
        error = call.exception()
        if error is not None and is_loss(error):
            self._loss = error

    def wait_started(self) -> None:
        """Wait until the actor has a node; raise `UnavailableError` if no node has room for it in time."""
        cpus, start_s = self._starter.cpus, self._starter.start_s
        try:
            ray.get(self._started, timeout=start_s)
        except ray.exceptions.GetTimeoutError as error:
            raise UnavailableError(
                f"the cluster has no room for the worker {self.name}",
                got=f"no node with {cpus:g} free CPU within {start_s:g} s",
                do="add nodes, stop other work, use fewer --shards, or reduce stream_worker_cpus in [env.….cluster]",
            ) from error

    def close(self) -> None:
        """Close the worker and kill its actor, which may already be lost."""
        try:
            if self._loss is None:
                ray.get(self._actor.call.remote("close"), timeout=_CLOSE_S)
        except (ray.exceptions.RayError, OSError) as error:
            log.debug("worker was not closed", worker=self.name, error=str(error))
        self.abandon()

    def abandon(self) -> None:
        """Kill the actor."""
        ray.kill(self._actor)


class _Actor:
    """Creates its worker after it has answered `ping`, so that a missing node and a slow start are told apart."""

    def __init__(self, create: Callable[[], Worker]) -> None:
        self._create = create
        self._worker: Worker | None = None
        self._error: Exception | None = None

    def ping(self) -> None:
        """Answer that the actor runs."""

    def create(self) -> None:
        """Create the worker, or keep the error for the first call."""
        try:
            self._worker = self._create()
        except Exception as error:  # noqa: BLE001 - raised by the next call
            self._error = error

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        if self._error is not None:
            raise self._error
        return getattr(self._worker, method)(*args, **kwargs)


def _actor(create: Callable[[], Worker], name: str, options: dict[str, Any]) -> Any:
    """Start an actor under a name, or a longer one if Ray has not released the name of an earlier actor yet."""
    remote: Any = ray.remote(_Actor)
    try:
        return remote.options(name=name, **options).remote(create)
    except ValueError:
        return remote.options(name=f"{name}.{secrets.token_hex(2)}", **options).remote(create)


def silent_nodes() -> tuple[str, ...]:
    """Return the ids of nodes that the cluster counts as alive although nothing listens there.

    Ray notices a killed node only by its health check, and places actors there until then; these never run.
    """
    known = ray.nodes()  # type: ignore[no-untyped-call]  # Ray is untyped
    return tuple(node["NodeID"] for node in known if node["Alive"] and not _listens(node))


def _listens(node: dict[str, Any]) -> bool:
    try:
        socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), timeout=_CONNECT_S).close()
    except OSError:
        return False
    return True
