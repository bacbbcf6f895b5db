"""Where work runs, and with which resources."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Execution = Literal["auto", "inline", "ray"]
"""`inline` runs in this process on all cores. `ray` runs tasks on the cluster of `RAY_ADDRESS`, or on a local cluster if
it is not set. `auto` uses the cluster of `RAY_ADDRESS` for inputs of at least `inline_bytes`, otherwise `inline`."""


@dataclass(frozen=True, order=True)
class NodeResources:
    """A machine of a cluster, by its resources for tasks."""

    cpus: int
    memory_bytes: int


@dataclass(frozen=True)
class ExecutionLimits:
    """The limits of a step: executor, inline threshold, local memory and cluster."""

    execution: Execution = "auto"
    inline_bytes: int = 1 << 30
    memory_bytes: int | None = None
    has_cluster: bool = True
    """Whether a cluster is configured."""
    nodes: Callable[[], Sequence[NodeResources]] = lambda: (NodeResources(1, 1 << 30),)
    """Returns the nodes of the cluster; called only if the plan depends on them."""
