"""Brokers are killed while they are read (row 14): acknowledged messages arrive once and in order."""

from __future__ import annotations

import json

import pytest
from confluent_kafka import Producer

from benchmarks.kafka import Cluster
from pipeline.connectors.kafka import kafka
from pipeline.core.errors import UnavailableError
from pipeline.core.schema import Schema
from pipeline.core.sources import POSITION
from pipeline.core.splits import SourceSplit
from tests.rigs.logs import source_objects

pytestmark = [pytest.mark.proof, pytest.mark.fault(14)]
IDS = Schema.of({"id": "BIGINT"})
SOON_S = 60.0


def brokers(folder, count):
    try:
        return Cluster(folder, count)
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("count", [1, 3])
def test_a_tail_continues_while_brokers_are_killed(count, tmp_path):
    with brokers(tmp_path, count) as cluster:
        cluster.create_topic("t", replicas=count)
        log = kafka("t", servers=cluster.bootstrap)
        producer = Producer({"bootstrap.servers": cluster.bootstrap, "log_level": 0, "enable.idempotence": True})
        source_object = source_objects(log)[0]
        taken, at = [], 0
        with log.tail({source_object.uri: 0}) as tail:
            for period in range(4):
                if period:
                    cluster.kill(1 + period % count)
                    assert tail.ready(0.1).rows == 0
                for number in range(period * 100, period * 100 + 100):
                    producer.produce("t", json.dumps({"id": number}))
                if period and count == 1:
                    cluster.start(1)
                assert producer.flush(SOON_S) == 0
                while at < (period + 1) * 100:
                    end = tail.ready(SOON_S).offsets[source_object.uri]
                    reading = tail.reader().read(SourceSplit(source_object, at, end), IDS)
                    taken += zip(reading.rows["id"].to_pylist(), reading.rows[POSITION].to_pylist(), strict=True)
                    at = end
                if period and count > 1:
                    cluster.start(1 + period % count)
        assert taken == [(number, number) for number in range(400)]
        again = log.read(SourceSplit(source_object, 0, 400), IDS)
        assert again.rows["id"].to_pylist() == list(range(400))
