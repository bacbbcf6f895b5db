"""Publish the departures and arrivals of the lake to Kafka topics, which the streams of this project read.

headwater run
python publish.py localhost:9092
FLIGHTS_KAFKA=localhost:9092 headwater stream
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from confluent_kafka import Producer

from pipeline import kafka
from pipeline.connectors.kafka.administration import create
from pipeline.project import Workspace, load

TOPICS = {"departures": "departed_at", "arrivals": "arrived_at"}


def publish(servers: str) -> None:
    """Create missing topics, and publish the flights to them in event-time order, keyed by plane."""
    workspace = Workspace(load(Path(__file__).parent))
    create(kafka(list(TOPICS), servers=servers))
    producer = Producer({"bootstrap.servers": servers, "linger.ms": 50, "queue.buffering.max.messages": 1_000_000})
    for topic, at in TOPICS.items():
        rows = workspace.query(f"select * from flights where {at} is not null order by {at}").to_pylist()
        for row in rows:
            plane = (row["tailnum"] or "").encode()
            producer.produce(topic, json.dumps(row, default=str).encode(), key=plane)
        producer.flush()
        print(f"{len(rows):,} {topic}")  # noqa: T201 - a script that is run manually


if __name__ == "__main__":
    publish(sys.argv[1] if len(sys.argv) > 1 else "localhost:9092")
