"""A Ray cluster of two nodes on this machine, of which the second can be killed, frozen and replaced."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from pipeline.batch.ray_cluster import join


class Nodes:
    """A cluster whose head has one core, and its second node."""

    def __init__(self, cluster: Any, cpus: int) -> None:
        self.cluster = cluster
        self.cpus = cpus
        self.second = cluster.add_node(num_cpus=cpus)

    def replace(self) -> None:
        """Kill the second node, and add another one."""
        self.cluster.remove_node(self.second, allow_graceful=False)
        self.second = self.cluster.add_node(num_cpus=self.cpus)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop all processes of the second node without closing a connection, like a machine that vanishes; then kill them."""
        raylets = {process.process.pid for process in self.second.all_processes["raylet"]}
        pids = raylets | {pid for pid, parent, _ in processes() if parent in raylets}
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids - raylets:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.replace()

    def workers(self) -> list[int]:
        """The processes of the nodes' workers; without the agents of a node, which would take it with them."""
        raylets = {
            process.process.pid for node in self.cluster.list_all_nodes() for process in node.all_processes["raylet"]
        }
        found = [(pid, name) for pid, parent, name in processes() if parent in raylets]
        return [pid for pid, name in found if name.startswith("ray::") and "Agent" not in name]


def processes() -> Iterator[tuple[int, int, str]]:
    """Yield id, parent and command line of the processes of this machine."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            yield int(folder.name), parent, (folder / "cmdline").read_text()
        except OSError:  # it has just ended
            continue


@contextmanager
def cluster_with(cpus: int = 1, **environ: str) -> Iterator[Nodes]:
    """Start a cluster with these environment variables, configured by RAY_ADDRESS as in production.

    `cpus` are the cores of the second node. A process can use only one cluster at a time.
    """
    import ray  # noqa: PLC0415 - importing Ray takes seconds
    from ray.cluster_utils import Cluster  # noqa: PLC0415

    assert not ray.is_initialized(), "this process would use the cluster that it is connected to"

    with pytest.MonkeyPatch.context() as patch:
        for name, value in environ.items():
            patch.setenv(name, value)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        patch.setenv("RAY_ADDRESS", cluster.address)
        try:
            join()  # on the head, before there is another node: a process ends with the node that it has joined
            yield Nodes(cluster, cpus)
        finally:
            ray.shutdown()
            cluster.shutdown()
