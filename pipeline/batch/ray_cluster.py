"""The Ray cluster of a process: the configured one, or a local one."""

from __future__ import annotations

import logging
import os
import threading
from typing import Any

from pipeline.batch.ray_address import has_address, require_reachable
from pipeline.core.errors import UnavailableError
from pipeline.core.execution import NodeResources
from pipeline.kernel.budget import budget_here

LOOPBACK = "127.0.0.1"
_JOINING = threading.Lock()


def join() -> None:
    """Connect to the cluster of `RAY_ADDRESS`, or start a local one, which accepts only clients with its token.

    Ray's ports listen on all addresses of the machine, regardless of the address of the cluster.

    Does nothing if this process is already connected. Without an explicit address, Ray would connect to any cluster that is
    running on this machine. Raises `UnavailableError` if Ray does not start, or if the cluster cannot be used.
    """
    with _JOINING:
        _join()


def _join() -> None:
    import ray  # noqa: PLC0415 - importing Ray takes seconds

    if ray.is_initialized():
        return
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
    try:
        ray.init(**options)
    except Exception as error:  # Ray raises exceptions of many types here, also plain ones
        ray.shutdown()
        raise UnavailableError(
            f"the Ray cluster {address!r} cannot be used" if address else "Ray cannot be started",
            got=str(error).partition("\n")[0],
            do="check RAY_ADDRESS"
            if address
            else "try again when the machine is less busy, or set HEADWATER_EXECUTION=inline",
        ) from error


def nodes() -> tuple[NodeResources, ...]:
    """Return the nodes on which tasks can run: those of the configured cluster, otherwise this machine.

    Connects to a configured cluster, but does not start a local one.
    """
    if not has_address():
        return (_this_machine(),)
    join()
    import ray  # noqa: PLC0415 - likewise

    known = ray.nodes()  # type: ignore[no-untyped-call]  # Ray is untyped
    alive = [node["Resources"] for node in known if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
    return tuple(sorted(NodeResources(int(node["CPU"]), int(node.get("memory", 0))) for node in alive)) or (
        _this_machine(),
    )


def _this_machine() -> NodeResources:
    here = budget_here()
    return NodeResources(here.slots, here.memory_bytes)
