"""Where work runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Execution = Literal["auto", "inline", "ray"]
"""`inline`: in this process; `ray`: as one Ray Data execution, on a local cluster if none is named; `auto`: on the cluster
that `RAY_ADDRESS` names from `inline_bytes` of input on, else inline, which takes all cores of this machine just as well."""


@dataclass(frozen=True)
class ExecutionLimits:
    """What a step may use: where it is asked to run, what is small enough to stay here, and the memory of a run here."""

    execution: Execution = "auto"
    inline_bytes: int = 1 << 30
    memory_bytes: int | None = None
    has_cluster: bool = True
    """Whether a cluster is there to be joined."""
