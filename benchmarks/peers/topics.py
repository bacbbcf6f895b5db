"""The topic that a peer writes to if it has no other exactly-once sink, and its content."""

from __future__ import annotations

from pathlib import Path

from confluent_kafka import Consumer, KafkaError, TopicPartition

SOME = 10_000


def made(topic: str) -> str:
    """Return the name of the topic to which a peer writes the results of another topic."""
    return f"{topic}-made"


def drained(brokers: str, topic: str, to: str) -> None:
    """Write all committed messages of a topic, which are JSON, to a folder, one per line."""
    Path(to).mkdir()
    consumer = Consumer(
        {
            "bootstrap.servers": brokers,
            "group.id": "drained",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
        }
    )
    partitions = consumer.list_topics(topic).topics[topic].partitions
    consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
    remaining = set(partitions)
    with Path(to, "0.json").open("wb") as file:
        while remaining:
            for message in consumer.consume(SOME, 1.0):
                error = message.error()
                if error is None:
                    file.write((message.value() or b"") + b"\n")
                elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - it has no public name
                    remaining.discard(message.partition())
                else:
                    raise SystemExit(str(error))
    consumer.close()
