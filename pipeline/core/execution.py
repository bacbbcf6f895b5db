"""Where work runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Execution = Literal["auto", "inline", "ray"]
"""`inline` runs in this process on all cores. `ray` runs one Ray Data execution, on a local cluster if `RAY_ADDRESS` is not
set. `auto` uses the cluster of `RAY_ADDRESS` for inputs of at least `inline_bytes`, otherwise `inline`."""


@dataclass(frozen=True)
class ExecutionLimits:
    """The limits of a step: executor, inline threshold and local memory."""

    execution: Execution = "auto"
    inline_bytes: int = 1 << 30
    memory_bytes: int | None = None
    has_cluster: bool = True
    """Whether a cluster is configured."""
