"""The state of a Ray cluster: its nodes and their cost, what runs ask of it, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster.jobs import refused_token
from pipeline.batch.ray_address import require_reachable
from pipeline.batch.ray_demand import StatedDemand, stated_demands
from pipeline.core.errors import RequestError, UnavailableError

if TYPE_CHECKING:
    from ray.autoscaler.v2.schema import NodeInfo


@dataclass(frozen=True)
class NodeState:
    """A node of a cluster."""

    type: str
    state: str
    """`busy`, `idle` or `starting`."""
    cpus: float = 0.0
    used_cpus: float = 0.0
    memory_bytes: int = 0
    cost_per_hour: float | None = None


@dataclass(frozen=True)
class ClusterState:
    """A cluster and what is asked of it."""

    address: str
    nodes: tuple[NodeState, ...]
    asked: tuple[StatedDemand, ...]
    waiting_tasks: int
    """The number of tasks and actors for which there is no free node."""
    failed_starts: Mapping[str, str]
    """For each node type of which a node could not be started lately, the reason."""

    @property
    def cost_per_hour(self) -> float | None:
        """The cost of all nodes for an hour; `None` if it is not known for the type of a node with cores."""
        known = [node.cost_per_hour for node in self.nodes if node.cost_per_hour is not None]
        unknown = [node for node in self.nodes if node.cost_per_hour is None]
        return None if any(node.cpus or node.state == "starting" for node in unknown) else sum(known)


def cluster_state(address: str, cost_per_hour: Mapping[str, float]) -> ClusterState:
    """Return the state of the cluster with this address of its GCS, HOST:PORT.

    Raises `UnavailableError` if it does not answer, and `RequestError` for another address and if it requires a token.
    """
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit():
        raise RequestError(
            "not the address of a cluster", got=repr(address), do="pass --address HOST:PORT, for example head-node:6379"
        )
    require_reachable(address)
    import ray  # noqa: PLC0415 - importing Ray takes seconds
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # noqa: PLC0415 - likewise; a compiled module
    from ray.autoscaler.v2.sdk import get_cluster_status  # noqa: PLC0415 - likewise

    try:
        status = get_cluster_status(address)
        asked = stated_demands(GcsClient(address))
    except ray.exceptions.AuthenticationError as error:
        raise refused_token(address) from error
    except (ray.exceptions.RayError, OSError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UnavailableError(f"the cluster {address} cannot be reached", got=reason) from error
    present = [*((node, "busy") for node in status.active_nodes), *((node, "idle") for node in status.idle_nodes)]
    nodes = [_node(node, state, cost_per_hour) for node, state in present]
    pending = [node for node in status.pending_nodes if not _is_one_of(node, present)]
    starting = Counter(node.ray_node_type_name for node in pending)
    for launch in status.pending_launches:
        starting[launch.ray_node_type_name] += launch.count
    nodes += [NodeState(kind, "starting", cost_per_hour=cost_per_hour.get(kind)) for kind in starting.elements()]
    demands = status.resource_demands.ray_task_actor_demand
    return ClusterState(
        address,
        tuple(nodes),
        tuple(asked),
        sum(bundle.count for demand in demands for bundle in demand.bundles_by_count),
        {launch.ray_node_type_name: launch.details or "" for launch in status.failed_launches},
    )


def _is_one_of(pending: NodeInfo, present: Iterable[tuple[NodeInfo, str]]) -> bool:
    """Return whether a pending node has just joined: the autoscaler reports it as pending until its next update."""
    return any(node.instance_id in (pending.details or "") for node, _ in present if node.instance_id)


def _node(node: NodeInfo, state: str, cost_per_hour: Mapping[str, float]) -> NodeState:
    usage = {} if node.resource_usage is None else {each.resource_name: each for each in node.resource_usage.usage}
    cpu, memory = usage.get("CPU"), usage.get("memory")
    return NodeState(
        type=node.ray_node_type_name,
        state=state,
        cpus=0.0 if cpu is None else cpu.total,
        used_cpus=0.0 if cpu is None else cpu.used,
        memory_bytes=0 if memory is None else int(memory.total),
        cost_per_hour=cost_per_hour.get(node.ray_node_type_name),
    )
