"""The Ray cluster of a process: the configured one, or a local one."""

from __future__ import annotations

import logging
import os
from typing import Any

import ray

LOOPBACK = "127.0.0.1"


def has_address() -> bool:
    """Return whether `RAY_ADDRESS` is set, as it is in a Ray job."""
    return bool(os.environ.get("RAY_ADDRESS"))


def join() -> None:
    """Connect to the cluster of `RAY_ADDRESS`, or start a local one, which accepts only clients with its token.

    Ray's ports listen on all addresses of the machine, regardless of the address of the cluster.

    Does nothing if this process is already connected. Without an explicit address, Ray would connect to any cluster that is
    running on this machine.
    """
    if ray.is_initialized():
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if not has_address():
        ray.init(address="local", _node_ip_address=LOOPBACK, include_dashboard=False, **quiet)
    elif os.environ["RAY_ADDRESS"].startswith((f"{LOOPBACK}:", "localhost:")):
        ray.init(_node_ip_address=LOOPBACK, **quiet)  # otherwise Ray uses the machine's external address
    else:
        ray.init(**quiet)
