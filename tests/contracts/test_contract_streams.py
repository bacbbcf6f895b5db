"""Streams and queues under the exported contract, each against a real server."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import boto3
import paho.mqtt.publish as mqtt_publish
import pytest
from redis import Redis

from pipeline import kinesis, mqtt, pubsub, rabbitmq_queue, rabbitmq_stream, redis_stream
from pipeline.connectors.queues.receiving import QueueReceiver
from pipeline.testing import ReaderContract, World
from tests.rigs.queues import kinesis_server as kinesis_server  # noqa: PLC0414 - the fixture
from tests.rigs.queues import nats_mqtt as nats_mqtt  # noqa: PLC0414 - likewise
from tests.rigs.queues import pubsub_server as pubsub_server  # noqa: PLC0414 - likewise
from tests.rigs.rabbitmq import RabbitRig
from tests.rigs.rabbitmq import rabbitmq as rabbitmq  # noqa: PLC0414 - the fixture
from tests.rigs.streams import StreamServer
from tests.rigs.streams import valkey as valkey  # noqa: PLC0414 - the fixture

SCHEMA = {"id": "bigint", "name": "varchar"}


def messages(count: int = 9) -> list[str]:
    """Return messages, of which one is not valid, and two are equal."""
    valid = [json.dumps({"id": number % (count - 1), "name": "n"}) for number in range(count - 1)]
    return [*valid, "not JSON"]


class RedisWorld:
    """Two streams, one of which stays empty."""

    schema = SCHEMA

    def __init__(self, server: StreamServer) -> None:
        self._client = Redis(port=server.port)
        self._names = [f"contract-{uuid.uuid4().hex[:8]}-{n}" for n in range(2)]
        for name in self._names:
            self._client.xtrim(name, maxlen=0)
            self._client.xgroup_create(name, "other", mkstream=True)
        self.reader = redis_stream(self._names, url=f"redis://127.0.0.1:{server.port}/0", field="body")

    def produce(self) -> int:
        for body in messages():
            self._client.xadd(self._names[0], {"body": body})
        return 9


class RabbitWorld:
    """Two streams of a RabbitMQ server, one of which stays empty."""

    schema = SCHEMA

    def __init__(self, server: RabbitRig) -> None:
        self._server = server
        self._names = [f"contract-{uuid.uuid4().hex[:8]}-{n}" for n in range(2)]
        with server.channel() as channel:
            for name in self._names:
                channel.queue_declare(name, durable=True, arguments={"x-queue-type": "stream"})
        self.reader = rabbitmq_stream(self._names, url=f"rabbitmq-stream://127.0.0.1:{server.stream_port}/")

    def produce(self) -> int:
        with self._server.channel() as channel:
            for body in messages():
                channel.basic_publish("", self._names[0], body.encode())
        return 9


class QueueWorld:
    """A queue whose messages are in the durable log."""

    schema = SCHEMA

    def __init__(self, folder: Path, server: RabbitRig) -> None:
        self._server, self._name = server, f"contract-{uuid.uuid4().hex[:8]}"
        with server.channel() as channel:
            channel.queue_declare(self._name, durable=True)
        url = f"amqp://127.0.0.1:{server.amqp_port}/"
        self.reader = rabbitmq_queue(self._name, url=url, idle="50 milliseconds", spool=str(folder / "spool"))

    def produce(self) -> int:
        with self._server.channel() as channel:
            for body in messages():
                channel.basic_publish("", self._name, body.encode())
        QueueReceiver(self.reader).receive(0.2, 5)
        return 9


class MqttWorld:
    """A session of an MQTT broker whose messages are in the durable log."""

    schema = SCHEMA

    def __init__(self, folder: Path, server: StreamServer) -> None:
        self._server, self._name = server, f"contract-{uuid.uuid4().hex[:8]}"
        url = f"mqtt://127.0.0.1:{server.port}"
        self.reader = mqtt(
            self._name, client_id=self._name, url=url, idle="50 milliseconds", spool=str(folder / "spool")
        )
        QueueReceiver(self.reader).receive(0.1, 1)

    def produce(self) -> int:
        sent = [{"topic": self._name, "payload": body, "qos": 1} for body in messages()]
        mqtt_publish.multiple(sent, "127.0.0.1", self._server.port)
        QueueReceiver(self.reader).receive(0.2, 5)
        return 9


class KinesisWorld:
    """A stream of Kinesis with two shards, whose records are in the durable log."""

    schema = SCHEMA

    def __init__(self, folder: Path, address: str) -> None:
        self._client = boto3.client("kinesis", region_name="eu-west-1", endpoint_url=address)
        self._name = f"contract-{uuid.uuid4().hex[:8]}"
        self._client.create_stream(StreamName=self._name, ShardCount=2)
        place = {"region": "eu-west-1", "endpoint": address}
        self.reader = kinesis(self._name, idle="50 milliseconds", spool=str(folder / "spool"), **place)

    def produce(self) -> int:
        for number, body in enumerate(messages()):
            self._client.put_record(StreamName=self._name, Data=body.encode(), PartitionKey=f"k{number}")
        QueueReceiver(self.reader).receive(0.2, 5)
        return 9


class PubSubWorld:
    """A subscription of Pub/Sub whose messages are in the durable log."""

    schema = SCHEMA

    def __init__(self, folder: Path) -> None:
        from google.cloud.pubsub_v1 import PublisherClient, SubscriberClient  # noqa: PLC0415 - the fixture skips without

        name = f"contract-{uuid.uuid4().hex[:8]}"
        subscription, self._topic = f"projects/test/subscriptions/{name}", f"projects/test/topics/{name}"
        self._publisher = PublisherClient()
        self._publisher.create_topic(name=self._topic)
        with SubscriberClient() as subscriber:
            subscriber.create_subscription(name=subscription, topic=self._topic)
        self.reader = pubsub(subscription, idle="50 milliseconds", spool=str(folder / "spool"))

    def produce(self) -> int:
        for sent in [self._publisher.publish(self._topic, body.encode()) for body in messages()]:
            sent.result(10)
        QueueReceiver(self.reader).receive(0.3, 5)
        return 9


class TestRedis(ReaderContract):
    @pytest.fixture
    def world(self, valkey: StreamServer) -> World:
        return RedisWorld(valkey)


class TestRabbitStream(ReaderContract):
    @pytest.fixture
    def world(self, rabbitmq: RabbitRig) -> World:
        return RabbitWorld(rabbitmq)


class TestRabbitQueue(ReaderContract):
    @pytest.fixture
    def world(self, rabbitmq: RabbitRig, tmp_path: Path) -> World:
        return QueueWorld(tmp_path, rabbitmq)


class TestMqtt(ReaderContract):
    @pytest.fixture
    def world(self, nats_mqtt: StreamServer, tmp_path: Path) -> World:
        return MqttWorld(tmp_path, nats_mqtt)


@pytest.mark.proof  # each plan asks each shard several times, with the pauses that Kinesis demands
class TestKinesis(ReaderContract):
    @pytest.fixture
    def world(self, kinesis_server: str, tmp_path: Path) -> World:
        return KinesisWorld(tmp_path, kinesis_server)


class TestPubSub(ReaderContract):
    @pytest.fixture
    def world(self, pubsub_server: None, tmp_path: Path) -> World:
        del pubsub_server
        return PubSubWorld(tmp_path)
