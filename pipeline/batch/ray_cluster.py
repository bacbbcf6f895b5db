"""The Ray cluster of a process: the configured one, or a local one."""

from __future__ import annotations

import atexit
import ctypes
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from pipeline.batch.ray_address import has_address, require_reachable
from pipeline.core.cluster_settings import ClusterSettings
from pipeline.core.errors import RequestError, UnavailableError
from pipeline.core.execution import NodeResources
from pipeline.core.logs import logger
from pipeline.kernel.budget import LEAST_BYTES, budget_here

log = logger(__name__)
LOOPBACK = "127.0.0.1"
_SIGACTION_BYTES = 256
"""More than the size of the C library's `struct sigaction`."""
MOST_NODES = 1000
"""The maximum number of nodes of a type that a step is planned for, if the autoscaler has no limit."""
_JOINING = threading.Lock()


def join() -> None:
    """Connect to the cluster of `RAY_ADDRESS`, or start a local one, which accepts only clients with its token.

    Ray's ports listen on all addresses of the machine, regardless of the address of the cluster.

    Does nothing if this process is already connected. Without an explicit address, Ray would connect to any cluster that is
    running on this machine. Raises `UnavailableError` if Ray does not start, or if the cluster cannot be used, and `RequestError` if it requires
    another token.
    """
    with _JOINING:
        _join()


def _join() -> None:
    import ray  # noqa: PLC0415 - importing Ray takes seconds

    if ray.is_initialized():
        return
    ray._private.worker.print_to_stdstream = _log_of_node  # noqa: SLF001 - `log_to_driver` does not apply to nodes
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = os.environ.get("RAY_ADDRESS", "")
    if not address:
        here = _this_machine()
        options |= {"address": "local", "_node_ip_address": LOOPBACK, "include_dashboard": False}
        options |= {"num_cpus": here.cpus, "_memory": here.memory_bytes}
    elif address.startswith((f"{LOOPBACK}:", "localhost:")):
        options["_node_ip_address"] = LOOPBACK  # otherwise Ray uses the machine's external address
    if address:
        require_reachable(address)
        _require_token(address)
    try:
        with keeping_handler(signal.SIGTERM):
            if address:
                ray.init(**options)
            else:
                _in_lasting_thread(lambda: ray.init(**options))
    except Exception as error:  # Ray raises exceptions of many types here, also plain ones
        ray.shutdown()
        raise UnavailableError(
            f"the Ray cluster {address!r} cannot be used" if address else "Ray cannot be started",
            got=str(error).partition("\n")[0],
            do="check RAY_ADDRESS"
            if address
            else "try again when the machine is less busy, or set HEADWATER_EXECUTION=inline",
        ) from error
    atexit.register(ray.shutdown)  # before Ray's own handler, which first waits 0.5 s for messages of workers


def _in_lasting_thread(start: Callable[[], object]) -> None:
    """Call a function in a thread that lives as long as this process.

    The kernel kills the processes of a local cluster together with the thread that started them, such as that of a step.
    """
    done: Future[object] = Future()

    def work() -> None:
        try:
            done.set_result(start())
        except BaseException as error:  # noqa: BLE001 - it is raised in the caller
            done.set_exception(error)
        else:
            threading.Event().wait()

    threading.Thread(target=work, name="local cluster", daemon=True).start()
    done.result()


@contextmanager
def keeping_handler(number: signal.Signals) -> Iterator[None]:
    """Keep this process's handler of a signal: Ray installs one of its own, which ends the process with a stack trace.

    Python can only set handlers in the main thread, so the handler of the C library is restored too.
    """
    handler = signal.getsignal(number)
    library, action = ctypes.CDLL(None), ctypes.create_string_buffer(_SIGACTION_BYTES)
    library.sigaction(number, None, action)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(number, handler)
        library.sigaction(number, action, None)


def _log_of_node(data: Any, ignore_prefix: bool) -> None:  # noqa: FBT001 - Ray's signature
    """Log what Ray would print: messages of its nodes, about lost workers and waiting tasks, which are reported otherwise."""
    del ignore_prefix
    log.debug("message of a Ray node", text="\n".join(data.get("lines", ())))


def _require_token(address: str) -> None:
    """Raise `RequestError` if a cluster at HOST:PORT requires another token. `ray.init` does not say so, after 20 seconds."""
    import ray  # noqa: PLC0415 - likewise
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # noqa: PLC0415 - likewise; a compiled module

    if not address.rpartition(":")[2].isdigit() or "://" in address:
        return  # `auto` or `local`, or a server of Ray Client
    try:
        GcsClient(address)
    except ray.exceptions.AuthenticationError as error:
        raise RequestError(
            f"the Ray cluster {address!r} did not accept the token",
            do="set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to the token of the cluster if it is not in ~/.ray/auth_token",
        ) from error
    except (ray.exceptions.RayError, OSError, RuntimeError):
        return  # `ray.init` tries again


def nodes(asked: ClusterSettings) -> tuple[NodeResources, ...]:
    """Return the nodes on which tasks can run: those of the configured cluster, otherwise this machine.

    If a cluster has no nodes for tasks yet, these are the nodes that it can add. Connects to a configured cluster, but does
    not start a local one. Raises `UnavailableError` if no node can run tasks.
    """
    return _present(_needs(asked)) or possible_nodes(asked) if has_address() else (_this_machine(),)


def possible_nodes(asked: ClusterSettings) -> tuple[NodeResources, ...]:
    """Return the nodes that a step is planned for: the present ones and those that the cluster can add for it.

    What it can add is known from its autoscaler, if that reports it to Ray, otherwise from the maximum number of cores in
    the settings: nodes like the largest present one. Raises `UnavailableError` if no node can run tasks.
    """
    if not has_address():
        return (_this_machine(),)
    present, addable = _present(_needs(asked)), _addable(_needs(asked))
    known = max(present, addable, key=_cores)
    if not known and asked.max_cpus is not None:
        known = (NodeResources(1, asked.task_memory_bytes or LEAST_BYTES),)
    if not known:
        raise UnavailableError(
            "the Ray cluster has no nodes for tasks with these resources",
            got=", ".join(f"{name} {amount:,.10g}" for name, amount in _needs(asked).items()),
            do="add nodes, or set max_cpus in [env.….cluster] if its autoscaler adds them",
        )
    missing = 0 if addable or asked.max_cpus is None else asked.max_cpus - _cores(known)
    return (*known, *[max(known)] * min(MOST_NODES, max(0, -(-missing // max(known).cpus))))


def free_nodes(asked: ClusterSettings, possible: int) -> tuple[NodeResources, ...] | None:
    """Return what is free now on the nodes on which tasks can run; `None` if fewer than the `possible` nodes are present."""
    if not has_address() or possible > len(_present(_needs(asked))):
        return None
    return _for_tasks(_free().values(), _needs(asked))


def idle_slots(needs: Mapping[str, float]) -> int:
    """Return how many tasks with these resources could start now."""
    used = {name: amount for name, amount in needs.items() if amount}
    return sum(min(int(node.get(name, 0) // amount) for name, amount in used.items()) for node in _free().values())


def _free() -> Mapping[str, Mapping[str, float]]:
    """Return the free resources of each node."""
    import ray  # noqa: PLC0415 - likewise

    known: Mapping[str, Mapping[str, float]] = ray._private.state.available_resources_per_node()  # type: ignore[no-untyped-call]  # noqa: SLF001 - Ray has no public API for it
    return known


def _needs(asked: ClusterSettings) -> dict[str, float]:
    """Return the resources that a node must have for one task, by Ray's names."""
    memory = {"memory": float(asked.task_memory_bytes)} if asked.task_memory_bytes else {}
    return {"CPU": 1.0, **memory, **asked.resources}


def _cores(known: Iterable[NodeResources]) -> int:
    return sum(node.cpus for node in known)


def _present(needs: Mapping[str, float]) -> tuple[NodeResources, ...]:
    join()
    import ray  # noqa: PLC0415 - likewise

    known = ray.nodes()  # type: ignore[no-untyped-call]  # Ray is untyped
    return _for_tasks([node["Resources"] for node in known if node["Alive"]], needs)


def _addable(needs: Mapping[str, float]) -> tuple[NodeResources, ...]:
    """Return the nodes of a cluster at the limits of its autoscaler; none if it does not report them."""
    join()
    import ray  # noqa: PLC0415 - likewise

    config: Any = ray._private.state.state.get_cluster_config()  # noqa: SLF001 - Ray has no public API for it
    groups = () if config is None else config.node_group_configs
    counts = [(dict(g.resources), MOST_NODES if g.max_count < 0 else min(g.max_count, MOST_NODES)) for g in groups]
    return _for_tasks([node for node, count in counts for _ in range(count)], needs)


def _for_tasks(known: Iterable[Mapping[str, float]], needs: Mapping[str, float]) -> tuple[NodeResources, ...]:
    suitable = [node for node in known if all(node.get(name, 0) >= amount for name, amount in needs.items())]
    return tuple(sorted(NodeResources(int(node["CPU"]), int(node.get("memory", 0))) for node in suitable))


def _this_machine() -> NodeResources:
    here = budget_here()
    return NodeResources(here.slots, here.memory_bytes)
