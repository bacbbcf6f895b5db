"""Nodes as processes of this machine, for Ray's autoscaler. It runs in the autoscaler's own process."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray._raylet import (  # type: ignore[attr-defined]  # a compiled module
    GCS_AUTOSCALER_CLUSTER_CONFIG_KEY,
    GCS_AUTOSCALER_STATE_NAMESPACE,
    GcsClient,
)
from ray.autoscaler.node_provider import NodeProvider
from ray.autoscaler.tags import (
    NODE_KIND_HEAD,
    STATUS_UP_TO_DATE,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_STATUS,
    TAG_RAY_USER_NODE_TYPE,
)
from ray.core.generated.autoscaler_pb2 import ClusterConfig  # type: ignore[attr-defined]  # generated

from cluster.local.nodes import AUTOSCALER, HEAD, OPTIONS, ended, record, temporary

_END_S = 10.0


@dataclass(frozen=True)
class _Process:
    tags: dict[str, str]
    process: subprocess.Popen[bytes] | None
    """`None` for the head node, which the autoscaler does not start."""

    @property
    def is_running(self) -> bool:
        return self.process is None or self.process.poll() is None


class LocalNodeProvider(NodeProvider):
    """See Ray's `NodeProvider`. `provider_config` has the address of the cluster and its folder."""

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        """Create the provider with the head node only."""
        super().__init__(provider_config, cluster_name)
        tags = {
            TAG_RAY_NODE_KIND: NODE_KIND_HEAD,
            TAG_RAY_USER_NODE_TYPE: HEAD,
            TAG_RAY_NODE_STATUS: STATUS_UP_TO_DATE,
        }
        self._nodes = {HEAD: _Process(tags, None)}
        self._lock = threading.Lock()
        self._folder = Path(provider_config["folder"])
        self._report()
        (self._folder / AUTOSCALER).touch()

    def _report(self) -> None:
        """Tell Ray which nodes the cluster can have; runs divide their work for them."""
        config = ClusterConfig()
        for kind, group in self.provider_config["node_types"].items():
            config.node_group_configs.add(name=kind, max_count=group["max_count"], resources=group["resources"])
        GcsClient(self.provider_config["gcs_address"]).internal_kv_put(
            GCS_AUTOSCALER_CLUSTER_CONFIG_KEY.encode(),
            config.SerializeToString(),
            True,  # noqa: FBT003 - an older value is overwritten
            GCS_AUTOSCALER_STATE_NAMESPACE.encode(),
        )

    def non_terminated_nodes(self, tag_filters: Mapping[str, str]) -> list[str]:
        """Return the ids of the running nodes with these tags; a node that has died is forgotten."""
        with self._lock:
            self._nodes = {name: node for name, node in self._nodes.items() if node.is_running}
            return [name for name, node in self._nodes.items() if tag_filters.items() <= node.tags.items()]

    def is_running(self, node_id: str) -> bool:
        """Return whether a node is running."""
        return node_id in self._nodes and self._nodes[node_id].is_running

    def is_terminated(self, node_id: str) -> bool:
        """Return whether a node has ended."""
        return not self.is_running(node_id)

    def node_tags(self, node_id: str) -> dict[str, str]:
        """Return the tags of a node."""
        return dict(self._nodes[node_id].tags)

    def internal_ip(self, node_id: str) -> str:
        """Return a node's address."""
        return node_id

    external_ip = internal_ip

    def set_node_tags(self, node_id: str, tags: Mapping[str, str]) -> None:
        """Change tags of a node."""
        self._nodes[node_id].tags.update(tags)

    def create_node_with_resources_and_labels(
        self,
        node_config: Mapping[str, Any],
        tags: Mapping[str, str],
        count: int,
        resources: Mapping[str, float],
        labels: Mapping[str, str],
    ) -> None:
        """Start nodes."""
        del node_config, labels
        for _ in range(count):
            name = f"local-{secrets.token_hex(4)}"
            node = _Process({**tags, TAG_RAY_NODE_STATUS: STATUS_UP_TO_DATE}, self._started(name, tags, resources))
            with self._lock:
                self._nodes[name] = node

    def _started(self, name: str, tags: Mapping[str, str], resources: Mapping[str, float]) -> subprocess.Popen[bytes]:
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", *OPTIONS),
            f"--address={self.provider_config['gcs_address']}",
            f"--num-cpus={int(resources.get('CPU', 1))}",
            f"--temp-dir={temporary(name)}",
            "--dashboard-agent-listen-port=0",
        ]
        if "memory" in resources:
            command.append(f"--memory={int(resources['memory'])}")
        environ = {
            **os.environ,
            "RAY_CLOUD_INSTANCE_ID": name,
            "RAY_NODE_TYPE_NAME": tags[TAG_RAY_USER_NODE_TYPE],
        }
        with (self._folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(  # noqa: S603 - our own command, without a shell
                command, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        record(self._folder / f"{name}.pid", process.pid)
        return process

    def terminate_node(self, node_id: str) -> None:
        """Stop a node and its tasks."""
        with self._lock:
            node = self._nodes.pop(node_id, None)
        if node is None or node.process is None or not node.is_running:
            return
        ended(node.process.pid, signal.SIGTERM)
        try:
            node.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            ended(node.process.pid, signal.SIGKILL)
        (self._folder / f"{node_id}.pid").unlink(missing_ok=True)
        shutil.rmtree(temporary(node_id), ignore_errors=True)
