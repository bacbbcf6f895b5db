"""The estimated time of a statement on a cluster: all rows in one worker, or in buckets on all nodes.

The constants are medians of `python -m benchmarks.costs` (TPC-H at scale 1, one core); only their ratio matters.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.core.execution import NodeResources

COMPUTE_S = 1.9
"""The seconds of a core for reading and combining 1 GB of files."""
CUT_S = 10.1
"""The seconds of a core for partitioning 1 GB of files, and for reading the buckets."""
ROUND_S = 0.2
"""The time until all tasks of a round have started and ended, without their work."""


def gathered_s(size_bytes: int, node: NodeResources) -> float:
    """Return the seconds of a statement over all rows in one worker with all cores of a node."""
    return COMPUTE_S * size_bytes / 1e9 / node.cpus


def in_buckets_s(size_bytes: int, cut_bytes: int, nodes: Sequence[NodeResources]) -> float:
    """Return the seconds of a statement in buckets on all nodes, of which `cut_bytes` must be partitioned."""
    slots = sum(node.cpus for node in nodes)
    return (COMPUTE_S * size_bytes + CUT_S * cut_bytes) / 1e9 / slots + 2 * ROUND_S
