"""The broker for benchmarks of streams, and topics filled with events."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.kafka import Cluster
from benchmarks.stream.events import PARTITIONS, Events
from benchmarks.stream.load import Loaded, loaded, loading
from pipeline.core.errors import UnavailableError


@contextmanager
def broker(folder: Path) -> Iterator[Cluster]:
    """Start one broker without retention by time; raises `SystemExit` if Kafka is not available."""
    try:
        cluster = Cluster(Path(tempfile.mkdtemp(prefix="kafka-", dir=folder)), settings={"log.retention.ms": "-1"})
    except UnavailableError as error:
        raise SystemExit(f"benchmarks of streams need Kafka: {error}") from error
    with cluster:
        yield cluster


def backlog(cluster: Cluster, topic: str, events: Events) -> Loaded:
    """Create a topic and fill it."""
    cluster.create_topic(topic, PARTITIONS)
    return loaded(loading(cluster.bootstrap, topic, events))
