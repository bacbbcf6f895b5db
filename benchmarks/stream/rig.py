"""The broker that streams are measured with, and topics full of events."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.kafka import Cluster, UnavailableError
from benchmarks.stream.events import PARTITIONS, Events
from benchmarks.stream.load import Loaded, loaded, loading


@contextmanager
def broker(folder: Path) -> Iterator[Cluster]:
    """Start one broker that keeps everything, however old its time says it is; `SystemExit` where Kafka cannot be had."""
    try:
        cluster = Cluster(Path(tempfile.mkdtemp(prefix="kafka-", dir=folder)), settings={"log.retention.ms": "-1"})
    except UnavailableError as error:
        raise SystemExit(f"streams are measured with Kafka: {error}") from error
    with cluster:
        yield cluster


def backlog(cluster: Cluster, topic: str, events: Events) -> Loaded:
    """Make a topic and fill it."""
    cluster.create_topic(topic, PARTITIONS)
    return loaded(loading(cluster.bootstrap, topic, events))
