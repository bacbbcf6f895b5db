"""Which Ray cluster a process works on: the one it is told of, or a local one of its own."""

from __future__ import annotations

import logging
import os
from typing import Any

import ray

LOOPBACK = "127.0.0.1"


def has_address() -> bool:
    """Return whether `RAY_ADDRESS` names a cluster, as it does in a job."""
    return bool(os.environ.get("RAY_ADDRESS"))


def join() -> None:
    """Join the cluster that `RAY_ADDRESS` names, else start a local one, which takes work only from who has its token.

    Ray's own ports listen on all of the machine's addresses, whatever address the cluster is given.

    Does nothing when this process has joined one already. Without an address Ray would join any cluster that
    happens to run on this machine.
    """
    if ray.is_initialized():
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if not has_address():
        ray.init(address="local", _node_ip_address=LOOPBACK, include_dashboard=False, **quiet)
    elif os.environ["RAY_ADDRESS"].startswith((f"{LOOPBACK}:", "localhost:")):
        ray.init(_node_ip_address=LOOPBACK, **quiet)  # else Ray looks for it at the machine's outer address
    else:
        ray.init(**quiet)
