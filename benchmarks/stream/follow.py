"""A reader that follows a topic and records the arrival time of each committed row."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb
import pyarrow as pa
from confluent_kafka import Consumer, KafkaException, TopicPartition

from benchmarks.peers.topics import made
from benchmarks.stream.landed import Latency, judged

SOME = 5_000


class Follower:
    """The rows received so far; a thread receives more."""

    def __init__(self, brokers: str, topic: str) -> None:
        """Follow the results of a peer for a topic from the beginning, once they exist."""
        self._brokers, self._topic = brokers, made(topic)
        self._texts: list[bytes] = []
        self._times: list[int] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="follower")
        self._thread.start()

    @property
    def count(self) -> int:
        """The number of received rows."""
        return len(self._texts)

    def close(self) -> None:
        """Stop following."""
        self._ended.set()
        self._thread.join()

    def latency(self, first: int, count: int) -> Latency:
        """Return the latencies of the `count` rows with ids from `first` on; exits unless each arrived exactly once."""
        arrivals = pa.table({"text": pa.array(self._texts, pa.binary()), "at_us": self._times})
        with duckdb.connect() as con:
            con.register("arrivals", arrivals)
            quantiles = con.sql(
                f"""select quantile_cont(took, 0.5), quantile_cont(took, 0.99), max(took), count(*), count(distinct id)
                from (
                    select (row->>'id')::bigint as id,
                        (at_us - epoch_us((row->>'happened_at')::timestamp)) / 1000 as took
                    from (select decode(text)::json as row, at_us from arrivals)
                ) where id between {first} and {first + count - 1}"""
            ).fetchall()
        return judged(quantiles[0], count)

    def _follow(self) -> None:
        options = {
            "bootstrap.servers": self._brokers,
            "group.id": "follower",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 10,
            "log_level": 3,
        }
        consumer = Consumer(options)
        while not self._ended.is_set() and not self._assigned(consumer):
            self._ended.wait(0.1)
        while not self._ended.is_set():
            messages = consumer.consume(SOME, 0.05)
            now_us = time.time_ns() // 1000
            for message in messages:
                if message.error() is None:
                    self._texts.append(message.value() or b"")
                    self._times.append(now_us)
        consumer.close()

    def _assigned(self, consumer: Consumer) -> bool:
        try:
            topics = consumer.list_topics(timeout=5).topics
        except KafkaException:
            return False
        if self._topic not in topics or not topics[self._topic].partitions:
            return False
        consumer.assign([TopicPartition(self._topic, partition, 0) for partition in topics[self._topic].partitions])
        return True


@contextmanager
def followed(brokers: str, topic: str) -> Iterator[Follower]:
    """Follow the results of a peer for a topic inside the context."""
    follower = Follower(brokers, topic)
    try:
        yield follower
    finally:
        follower.close()
