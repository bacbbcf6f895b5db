"""Queues through the durable log: on disk before the acknowledgement, recognized if they come again, and clear errors."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
import uuid

import boto3
import paho.mqtt.publish as mqtt_publish
import pika
import pytest

from cluster.local.ports import unused_port
from pipeline.connectors.queues.kinesis import kinesis
from pipeline.connectors.queues.kinesis_client import KinesisSubscription
from pipeline.connectors.queues.mqtt import mqtt
from pipeline.connectors.queues.pubsub import pubsub
from pipeline.connectors.queues.queue_log import QueueLog
from pipeline.connectors.queues.rabbitmq_queue import rabbitmq_queue
from pipeline.connectors.queues.receiving import QueueReceiver
from pipeline.connectors.spool.record_log import parts_of
from pipeline.core.errors import DefinitionError, SourceError, SourceUnavailableError
from pipeline.core.schema import Schema
from tests.rigs import proofs
from tests.rigs.queues import MOSQUITTO, configured, mosquitto_program
from tests.rigs.queues import kinesis_server as kinesis_server  # noqa: PLC0414 - the fixture
from tests.rigs.queues import mosquitto as mosquitto  # noqa: PLC0414 - likewise
from tests.rigs.queues import nats_mqtt as nats_mqtt  # noqa: PLC0414 - likewise
from tests.rigs.queues import pubsub_server as pubsub_server  # noqa: PLC0414 - likewise
from tests.rigs.rabbitmq import rabbitmq as rabbitmq  # noqa: PLC0414 - likewise
from tests.rigs.streams import started

SCHEMA = Schema.of({"id": "BIGINT"})
IDLE = "400 milliseconds"


class QueueRig:
    """A queue with messages, and a reader of it."""

    def send(self, *bodies, ids=None):
        raise NotImplementedError

    def reader(self, **options):
        raise NotImplementedError


class MqttRig(QueueRig):
    def __init__(self, server, folder):
        self.port, self.folder, self.name = server.port, folder, f"t{uuid.uuid4().hex[:8]}"
        QueueReceiver(self.reader()).receive(0.1, 1)  # the broker keeps messages once the session exists

    def send(self, *bodies, ids=None):
        del ids
        messages = [{"topic": f"{self.name}/a", "payload": body, "qos": 1} for body in bodies]
        mqtt_publish.multiple(messages, "127.0.0.1", self.port)

    def reader(self, **options):
        url = f"mqtt://127.0.0.1:{self.port}"
        return mqtt(f"{self.name}/#", client_id=self.name, url=url, idle=IDLE, spool=str(self.folder), **options)


class RabbitRig(QueueRig):
    def __init__(self, server, folder, **arguments):
        self.server, self.folder, self.name = server, folder, f"q{uuid.uuid4().hex[:8]}"
        with server.channel() as channel:
            channel.queue_declare(self.name, durable=True, arguments=arguments)

    def send(self, *bodies, ids=None):
        with self.server.channel() as channel:
            for number, body in enumerate(bodies):
                properties = pika.BasicProperties(message_id=ids and ids[number], headers={"kind": "new"})
                channel.basic_publish("", self.name, body, properties)

    def reader(self, **options):
        url = f"amqp://127.0.0.1:{self.server.amqp_port}/"
        return rabbitmq_queue(self.name, url=url, idle=IDLE, spool=str(self.folder), **options)


class KinesisRig(QueueRig):
    def __init__(self, address, folder):
        self.address, self.folder, self.name = address, folder, f"s{uuid.uuid4().hex[:8]}"
        self.client = boto3.client("kinesis", region_name="eu-west-1", endpoint_url=address)
        self.client.create_stream(StreamName=self.name, ShardCount=2)

    def send(self, *bodies, ids=None):
        del ids
        for number, body in enumerate(bodies):
            self.client.put_record(StreamName=self.name, Data=body, PartitionKey=f"k{number}")

    def reader(self, **options):
        return kinesis(
            self.name, region="eu-west-1", endpoint=self.address, idle=IDLE, spool=str(self.folder), **options
        )


class PubSubRig(QueueRig):
    def __init__(self, folder):
        from google.cloud.pubsub_v1 import PublisherClient, SubscriberClient  # noqa: PLC0415 - the fixture skips without

        self.folder, self.name = folder, f"p{uuid.uuid4().hex[:8]}"
        self.publisher = PublisherClient()
        self.topic = f"projects/test/topics/{self.name}"
        self.publisher.create_topic(name=self.topic)
        with SubscriberClient() as subscriber:
            subscriber.create_subscription(name=f"projects/test/subscriptions/{self.name}", topic=self.topic)

    def send(self, *bodies, ids=None):
        del ids
        for body in bodies:
            self.publisher.publish(self.topic, body, kind="new").result(10)

    def reader(self, **options):
        return pubsub(f"projects/test/subscriptions/{self.name}", idle=IDLE, spool=str(self.folder), **options)


RIGS = {
    "mosquitto": lambda request, folder: MqttRig(request.getfixturevalue("mosquitto"), folder),
    "nats": lambda request, folder: MqttRig(request.getfixturevalue("nats_mqtt"), folder),
    "rabbitmq": lambda request, folder: RabbitRig(request.getfixturevalue("rabbitmq"), folder),
    "kinesis": lambda request, folder: KinesisRig(request.getfixturevalue("kinesis_server"), folder),
    "pubsub": lambda request, folder: (request.getfixturevalue("pubsub_server"), PubSubRig(folder))[1],
}


@pytest.fixture(params=RIGS)
def rig(request, tmp_path):
    return RIGS[request.param](request, tmp_path)


def read(reader, cursor=None, schema=SCHEMA):
    plan = reader.plan(cursor)
    results = [reader.read(split, schema) for split in plan.splits]
    return [row for each in results for row in each.rows.to_pylist()], results, plan


def bodies(reader: QueueLog) -> list[object]:
    logs = [reader.partition(uri.rpartition("/")[2]) for uri in sorted(reader.extents())]
    return [json.loads(parts_of(line)[2]) for log in logs for line in log.records(0, 1 << 40)]


@pytest.mark.share(1)
def test_messages_are_read_once_and_what_is_not_json_is_quarantined(rig):
    rig.send(b'{"id": 1}', b"not JSON", b'{"id": 2}', b"\xff\xfe")
    rows, results, plan = read(rig.reader())
    assert sorted(row["id"] for row in rows) == [1, 2]
    rejected = sorted(text for each in results for text in each.rejected["row"].to_pylist())
    assert rejected == ['"base64://4="', '"not JSON"']
    rig.send(b'{"id": 3}')
    rows, _, plan = read(rig.reader(), plan.cursor)
    assert [row["id"] for row in rows] == [3]
    assert read(rig.reader(), plan.cursor)[0] == []


def test_texts_and_changed_metadata_keep_what_was_acknowledged(rig):
    rig.send("23.5 °C".encode())
    rows, _, _ = read(rig.reader(format="text"), schema=Schema.of({"value": "VARCHAR"}))
    assert [row["value"] for row in rows] == ["23.5 °C"]
    schema = Schema.of({"value": "VARCHAR", "_received_at": "TIMESTAMPTZ"})
    rows, _, _ = read(rig.reader(format="text", metadata=("received_at",)), schema=schema)
    assert [row["value"] for row in rows] == ["23.5 °C"]
    assert rows[0]["_received_at"] is not None


def test_a_process_that_ends_before_the_acknowledgement_gets_its_messages_again(rig, monkeypatch):
    """Those with an id are stored once; MQTT has none, so they come twice."""
    rig.send(b'{"id": 1}', b'{"id": 2}', ids=["a", "b"])

    class DiedError(Exception):
        pass

    reader = rig.reader()
    with monkeypatch.context() as patch:
        original = QueueReceiver._store  # noqa: SLF001 - a fault between writing and acknowledging

        def store_and_die(self, messages):
            original(self, messages)
            raise DiedError

        patch.setattr(QueueReceiver, "_store", store_and_die)
        with pytest.raises(DiedError):
            reader.plan(None)
    until = time.monotonic() + 20
    while len(bodies(reader)) < 2 and time.monotonic() < until:
        QueueReceiver(reader).receive(0.4, 20)
    expected = [1, 2]
    if isinstance(rig, MqttRig):
        QueueReceiver(reader).receive(0.4, 20)
        assert {each["id"] for each in bodies(reader)} == {1, 2}
        return
    if isinstance(rig, PubSubRig):  # the deadline of the fake is ten seconds
        QueueReceiver(reader).receive(11, 20)
    assert sorted(each["id"] for each in bodies(reader)) == expected


def test_a_message_that_could_not_be_stored_is_not_acknowledged(rabbitmq, tmp_path, monkeypatch):
    rig = RabbitRig(rabbitmq, tmp_path)
    rig.send(b'{"id": 1}')

    def fail(self, messages):
        del self, messages
        raise SourceError("records cannot be written below x")

    with monkeypatch.context() as patch:
        patch.setattr(QueueReceiver, "_store", fail)
        with pytest.raises(SourceError, match="records cannot be written"):
            rig.reader().plan(None)
    assert [row["id"] for row in read(rig.reader())[0]] == [1]


def test_a_published_message_that_is_sent_again_is_stored_once(rabbitmq, tmp_path):
    rig = RabbitRig(rabbitmq, tmp_path)
    rig.send(b'{"id": 1}', b'{"id": 1}', ids=["a", "a"])
    rig.send(b'{"id": 1}', ids=["a"])
    schema = Schema.of(
        {"id": "BIGINT", "_id": "VARCHAR", "_routing_key": "VARCHAR", "_headers": "STRUCT(kind VARCHAR)"}
    )
    rows, _, _ = read(rig.reader(metadata=("id", "routing_key", "headers")), schema=schema)
    assert [(row["_id"], row["_routing_key"], row["_headers"]) for row in rows] == [("a", rig.name, {"kind": "new"})]


def test_a_quorum_queue_and_many_messages(rabbitmq, tmp_path):
    rig = RabbitRig(rabbitmq, tmp_path, **{"x-queue-type": "quorum"})
    rig.send(*(b'{"id": %d}' % number for number in range(2500)))
    assert [row["id"] for row in read(rig.reader())[0]] == list(range(2500))


def test_a_stream_receives_while_it_is_read(rig):
    reader = rig.reader()
    offsets = {uri: extent.begin for uri, extent in reader.extents().items()}
    with reader.tail(offsets) as tail:
        rig.send(b'{"id": 1}', b'{"id": 2}')
        until = time.monotonic() + 20
        while len(bodies(reader)) < 2 and time.monotonic() < until:
            tail.ready(0.5)
        tail.add({uri: 0 for uri in reader.extents() if uri not in offsets})
        assert sum(tail.ready(5).offsets.values()) == 2


def test_only_one_process_receives(rig):
    rig.send(b'{"id": 1}')
    reader = rig.reader()
    from pipeline.connectors.spool.receiving import only_receiver  # noqa: PLC0415 - only here

    with only_receiver(reader.home) as is_only:
        assert is_only
        assert reader.plan(None).splits == ()
    assert [row["id"] for row in read(reader)[0]] == [1]


def test_kinesis_continues_each_shard_with_its_metadata(kinesis_server, tmp_path):
    rig = KinesisRig(kinesis_server, tmp_path)
    rig.send(*(b'{"id": %d}' % number for number in range(20)))
    schema = Schema.of({"id": "BIGINT", "_key": "VARCHAR", "_sequence": "VARCHAR", "_arrived_at": "TIMESTAMPTZ"})
    reader = rig.reader(metadata=("key", "sequence", "arrived_at"))
    rows, results, plan = read(reader, schema=schema)
    assert sorted(row["id"] for row in rows) == list(range(20))
    assert len(results) == 2
    assert all(row["_key"] == f"k{row['id']}" for row in rows)
    rig.send(*(b'{"id": %d}' % number for number in range(20, 30)))
    rows, _, _ = read(rig.reader(metadata=("key", "sequence", "arrived_at")), plan.cursor, schema)
    assert sorted(row["id"] for row in rows) == list(range(20, 30))


def test_kinesis_reads_new_shards_after_their_parents(kinesis_server, tmp_path):
    rig = KinesisRig(kinesis_server, tmp_path)
    rig.send(b'{"id": 1}', b'{"id": 2}', b'{"id": 3}')
    shard = rig.client.list_shards(StreamName=rig.name)["Shards"][0]
    low, high = (int(shard["HashKeyRange"][name]) for name in ("StartingHashKey", "EndingHashKey"))
    rig.client.split_shard(
        StreamName=rig.name, ShardToSplit=shard["ShardId"], NewStartingHashKey=str((low + high) // 2)
    )
    rig.send(b'{"id": 4}', b'{"id": 5}', b'{"id": 6}')
    reader = rig.reader()
    assert sorted(row["id"] for row in read(reader)[0]) == [1, 2, 3, 4, 5, 6]
    assert len(reader.extents()) == 4


def test_kinesis_begins_again_after_the_last_record_if_an_iterator_has_expired(kinesis_server, tmp_path):
    rig = KinesisRig(kinesis_server, tmp_path)
    subscription = KinesisSubscription(rig.reader())
    try:
        rig.send(b"1", b"2", b"3")
        assert len(subscription.receive(0)) == 3
        shard = next(iter(subscription._last))  # noqa: SLF001 - the fault
        subscription._iterators[shard] = subscription._iterator(shard)  # noqa: SLF001
        assert subscription.receive(0) == []
    finally:
        subscription.close()


def test_servers_that_are_not_there_are_named(tmp_path):
    absent = [
        (mqtt("a", client_id="c", url="mqtt://127.0.0.1:9", spool=str(tmp_path)), "the MQTT broker does not answer"),
        (rabbitmq_queue("q", url="amqp://127.0.0.1:9/", spool=str(tmp_path)), "the RabbitMQ server does not answer"),
    ]
    for reader, message in absent:
        with pytest.raises(SourceUnavailableError, match=rf"{message}: got .*; check url="):
            reader.plan(None)


def test_kinesis_errors_are_named(kinesis_server, tmp_path, monkeypatch):
    reader = kinesis("none", region="eu-west-1", endpoint=kinesis_server, spool=str(tmp_path))
    with pytest.raises(SourceError, match="the stream 'none' does not exist in eu-west-1"):
        reader.plan(None)
    absent = kinesis("none", region="eu-west-1", endpoint="http://127.0.0.1:9", spool=str(tmp_path))
    with pytest.raises(SourceUnavailableError, match=r"Kinesis does not answer: got .*check region= and endpoint="):
        absent.plan(None)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(SourceError, match="there are no credentials for Kinesis"):
        reader.plan(None)


def test_rabbitmq_errors_are_named(rabbitmq, tmp_path, monkeypatch):
    url = f"amqp://127.0.0.1:{rabbitmq.amqp_port}/"
    with pytest.raises(SourceError, match="the queue 'none' does not exist"):
        rabbitmq_queue("none", url=url, spool=str(tmp_path)).plan(None)
    monkeypatch.setenv("RABBITMQ_PASSWORD", "wrong")
    refused = rabbitmq_queue("q", url=url, password="env:RABBITMQ_PASSWORD", spool=str(tmp_path))  # noqa: S106 - a reference
    with pytest.raises(SourceError, match="RabbitMQ refuses the user") as error:
        refused.plan(None)
    assert "wrong" not in str(error.value) + repr(refused)
    with pytest.raises(SourceError, match="RabbitMQ refuses the user"):
        rabbitmq_queue("q", url=f"{url}other", spool=str(tmp_path)).plan(None)
    with pytest.raises(SourceError, match="the file of authorities cannot be read"):
        rabbitmq_queue("q", url="amqps://127.0.0.1", ca="none.pem", spool=str(tmp_path)).plan(None)


def receive_for(subscription, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        subscription.receive(0.1)


def test_a_queue_that_is_deleted_while_it_is_read_is_named(rabbitmq, tmp_path):
    rig = RabbitRig(rabbitmq, tmp_path)
    with rig.reader().subscription() as subscription:
        with rabbitmq.channel() as channel:
            channel.queue_delete(rig.name)
        with pytest.raises(SourceUnavailableError, match="does not deliver messages of the queue any more"):
            receive_for(subscription, 2)


def test_mqtt_errors_are_named(tmp_path, monkeypatch):
    program = mosquitto_program()
    (tmp_path / "users").write_text("me:$7$101$bad$bad\n")
    (tmp_path / "acl").write_text("topic write allowed/#\n")
    port = unused_port()
    text = MOSQUITTO.format(port=port).replace("allow_anonymous true", "allow_anonymous false")
    with started([program, "-c", str(configured(tmp_path, text))], port):
        monkeypatch.setenv("MQTT_PASSWORD", "wrong")
        url = f"mqtt://127.0.0.1:{port}"
        refused = mqtt("a", client_id="c", url=url, user="me", password="env:MQTT_PASSWORD", spool=str(tmp_path))  # noqa: S106 - a reference
        with pytest.raises(SourceError, match=r"the MQTT broker refuses the client: got .*check user="):
            refused.plan(None)
        assert "wrong" not in repr(refused)
    with pytest.raises(SourceError, match="the file of authorities cannot be read"):
        mqtt("a", client_id="c", url="mqtts://127.0.0.1", ca="none.pem", spool=str(tmp_path)).plan(None)


def test_a_broker_that_ends_is_named(tmp_path):
    program = mosquitto_program()
    port = unused_port()
    config = configured(tmp_path, MOSQUITTO.format(port=port))
    reader = mqtt("a", client_id="c", url=f"mqtt://127.0.0.1:{port}", spool=str(tmp_path))
    server = started([program, "-c", str(config)], port)
    server.__enter__()
    with reader.subscription() as subscription:
        server.__exit__(None, None, None)
        with pytest.raises(SourceUnavailableError, match="the connection to the MQTT broker was lost"):
            receive_for(subscription, 5)


def test_pubsub_errors_are_named(pubsub_server, tmp_path):
    assert pubsub_server
    reader = pubsub("projects/test/subscriptions/none", idle=IDLE, spool=str(tmp_path))
    with pytest.raises(SourceError, match="the subscription 'projects/test/subscriptions/none' does not exist"):
        reader.plan(None)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mqtt((), client_id="c"), "an MQTT source needs topics and the name of its session"),
        (lambda: mqtt("a", client_id="c", qos=0), "qos= must be 1 or 2: got 0; use 1 or 2"),
        (lambda: mqtt("a", client_id="c", url="mqtt://me:pw@host"), "the URL of an MQTT broker contains a user"),
        (
            lambda: mqtt("a", client_id="c", url="tcp://host"),
            "the URL of an MQTT broker is not known: got 'tcp://host'",
        ),
        (lambda: mqtt("a", client_id="c", ca="x"), "ca= needs a URL with TLS"),
        (
            lambda: mqtt("a", client_id="c", format="jsn"),
            "unknown format of the messages of a queue: got 'jsn'; did you",
        ),
        (lambda: mqtt("a", client_id="c", metadata=("id",)), "unknown metadata: got 'id'"),
        (lambda: rabbitmq_queue(""), "a RabbitMQ source needs the name of a queue"),
        (lambda: rabbitmq_queue("q", url="amqp://me:pw@host"), "the URL of a RabbitMQ server contains a user"),
        (
            lambda: rabbitmq_queue("q", url="http://host"),
            "the URL of a RabbitMQ server is not known: got 'http://host'",
        ),
        (lambda: rabbitmq_queue("q", ca="x"), "ca= needs a URL with TLS"),
        (lambda: kinesis("", region="x"), "a Kinesis source needs the name of a stream and a region"),
        (lambda: pubsub("orders"), "the name of a Pub/Sub subscription is not complete: got 'orders'; write projects/"),
    ],
)
def test_invalid_options_are_refused(make, message):
    with pytest.raises(DefinitionError, match=message):
        make()


RECEIVES = """
import sys
from pipeline import mqtt, rabbitmq_queue
from pipeline.connectors.queues.receiving import QueueReceiver
kind, name, port, folder = sys.argv[1:]
if kind == "rabbitmq":
    reader = rabbitmq_queue(name, url=f"amqp://127.0.0.1:{port}/", spool=folder)
else:
    reader = mqtt(f"{name}/#", client_id=name, url=f"mqtt://127.0.0.1:{port}", spool=folder)
print("ready", flush=True)
QueueReceiver(reader).receive(1, 60)
"""


@pytest.mark.share(1)
@pytest.mark.parametrize("kind", ["rabbitmq", "mosquitto", "nats_mqtt"])
def test_processes_that_are_killed_at_any_time_lose_nothing(request, tmp_path, kind):
    """A process receives while messages are sent, and is killed again and again; messages with ids are stored once."""
    server = request.getfixturevalue(kind)
    rig = (RabbitRig if kind == "rabbitmq" else MqttRig)(server, tmp_path)
    port = server.amqp_port if kind == "rabbitmq" else server.port
    draw, sent = random.Random(7), 0  # noqa: S311 - a reproducible seed
    for _ in range(10 if proofs.PROOFS else 3):
        with subprocess.Popen(
            [sys.executable, "-c", RECEIVES, kind, rig.name, str(port), str(tmp_path)], stdout=subprocess.PIPE
        ) as process:
            process.stdout.readline()
            numbers = range(sent, sent + 300)
            rig.send(*(b'{"id": %d}' % number for number in numbers), ids=[str(number) for number in numbers])
            sent += 300
            time.sleep(draw.random() / 10)
            process.kill()
    reader = rig.reader()
    until = time.monotonic() + 60
    while len({each["id"] for each in bodies(reader)}) < sent and time.monotonic() < until:
        QueueReceiver(reader).receive(1, 20)
    found = [each["id"] for each in bodies(reader)]
    assert set(found) == set(range(sent))
    if kind == "rabbitmq":
        assert len(found) == sent
