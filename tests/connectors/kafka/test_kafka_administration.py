"""Administration of topics: creation, and checks for problems."""

from __future__ import annotations

import subprocess
import sys

from pipeline.connectors.kafka import kafka as source
from pipeline.connectors.kafka.administration import create, hanging_transactions, topics


def test_topics_are_created_once_and_checked(kafka):
    reader = source(["admin-a", "admin-b"], servers=kafka.bootstrap)

    assert create(reader, partitions=3) == ("admin-a", "admin-b")
    assert create(reader) == ()

    by_name = {topic.name: topic for topic in topics(reader)}
    assert {name: topic.partitions for name, topic in by_name.items()} == {"admin-a": 3, "admin-b": 3}
    assert by_name["admin-a"].warnings == ("one replica: if its broker loses its disk, records are lost",)
    assert hanging_transactions(reader) == ()


def test_problems_are_reported(kafka):
    name = "admin-short"
    kafka.create_topic(name, 1, settings={"retention.ms": "60000", "cleanup.policy": "compact,delete"})

    [topic] = topics(source(name, servers=kafka.bootstrap))

    assert topic.retention_s == 60
    assert topic.compacted
    assert [worry.partition(":")[0] for worry in topic.warnings] == [
        "retention is 0.0166667 h",
        "one replica",
        "compacted",
    ]


ASKED = """
from pipeline.core.errors import SourceError
from pipeline.connectors.kafka import kafka
from pipeline.connectors.kafka.administration import create
try:
    create(kafka("t", servers="127.0.0.1:9"))
except SourceError as error:
    print(error)
"""


def test_unreachable_brokers():
    """Runs in a subprocess, because the client leaks the sockets of refused connections."""
    process = subprocess.run([sys.executable, "-c", ASKED], capture_output=True, text=True, check=True)

    assert process.stdout.startswith("Kafka does not answer: got ")
    assert "check servers=, or wait until Kafka is available" in process.stdout
