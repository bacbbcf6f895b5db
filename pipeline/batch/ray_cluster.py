"""The Ray cluster of a process: the configured one, or a local one."""

from __future__ import annotations

import logging
import os
from typing import Any

import ray

from pipeline.batch.ray_address import require_reachable
from pipeline.core.errors import UnavailableError

LOOPBACK = "127.0.0.1"


def join() -> None:
    """Connect to the cluster of `RAY_ADDRESS`, or start a local one, which accepts only clients with its token.

    Ray's ports listen on all addresses of the machine, regardless of the address of the cluster.

    Does nothing if this process is already connected. Without an explicit address, Ray would connect to any cluster that is
    running on this machine. Raises `UnavailableError` if Ray does not start, or if the cluster cannot be used.
    """
    if ray.is_initialized():
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = os.environ.get("RAY_ADDRESS", "")
    if not address:
        options |= {"address": "local", "_node_ip_address": LOOPBACK, "include_dashboard": False}
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
