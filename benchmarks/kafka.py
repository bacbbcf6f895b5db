"""The brokers of benchmarks and tests; `python -m benchmarks.kafka` downloads Apache Kafka."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from cluster.local.kafka.brokers import LocalBrokers
from cluster.local.kafka.download import VERSION, home
from cluster.local.kafka.node import START_S, BrokerError, BrokerNode
from pipeline.core.errors import UnavailableError

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient

__all__ = ["VERSION", "BrokerError", "Cluster", "home"]


class Cluster(LocalBrokers):
    """Brokers, with a client that creates topics."""

    def create_topic(
        self, name: str, partitions: int = 1, *, replicas: int = 1, settings: Mapping[str, str] | None = None
    ) -> None:
        """Create a topic and wait until every partition has a leader that all brokers know."""
        from confluent_kafka.cimpl import NewTopic  # noqa: PLC0415 - fetching needs no client

        topic = NewTopic(name, partitions, replicas, config=dict(settings or {}))
        admin = self.admin()  # keep a reference: its requests end with it
        for creation in admin.create_topics([topic], operation_timeout=START_S).values():
            creation.result()
        for node in self.nodes:
            if not node.ended.is_set():
                self._await(node, name, partitions)

    def _await(self, node: BrokerNode, name: str, partitions: int) -> None:
        """Wait until a broker knows a topic and the leaders of all its partitions."""
        from confluent_kafka.admin import AdminClient  # noqa: PLC0415 - fetching needs no client

        admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{node.port}", "log_level": 0})
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            metadata = admin.list_topics(name, timeout=START_S).topics[name].partitions
            if len(metadata) == partitions and all(partition.leader >= 0 for partition in metadata.values()):
                return
            time.sleep(0.02)
        raise BrokerError(f"broker {node.number} does not know the topic {name!r}")

    def admin(self) -> AdminClient:
        """Return a new client for topics and settings."""
        from confluent_kafka.admin import AdminClient  # noqa: PLC0415 - likewise

        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})


if __name__ == "__main__":
    try:
        print(home())
    except UnavailableError as error:
        sys.exit(str(error))
