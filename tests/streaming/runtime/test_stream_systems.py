"""Streams over Redis, RabbitMQ and queues: a process that ends between commits loses and doubles nothing, and batch agrees."""

from __future__ import annotations

import itertools
import json
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from redis import Redis

from pipeline.connectors.queues.receiving import QueueReceiver
from pipeline.project import Workspace, load
from pipeline.streaming.planning.plan import Planner
from pipeline.streaming.runtime.job import catch_up
from pipeline.streaming.runtime.options import Intervals, StreamOptions
from pipeline.streaming.runtime.stream import Stream
from pipeline.streaming.runtime.verify import verify
from tests.rigs.rabbitmq import rabbitmq as rabbitmq  # noqa: PLC0414 - the fixture
from tests.rigs.streams import valkey as valkey  # noqa: PLC0414 - likewise

DEFINITIONS = """
from pipeline import rabbitmq_queue, rabbitmq_stream, redis_stream, source, sql

readings = source(
    {reader},
    schema={{"at": "timestamp", "n": "bigint"}},
    event_time="at",
    lateness="1 second",
    stored=False,
)
minutes = sql("select tumble(at, interval '1 minute') as minute, count(*) as readings, sum(n) as total from readings group by all")
even = sql("select at, n from readings where n % 2 = 0")
"""
START = datetime(2026, 1, 1, tzinfo=UTC)
FEW = StreamOptions(
    intervals=Intervals(batch_s=0.05, commit_s=0.01, idle_commit_s=0.01, batch_offsets=150), shards=2, source_tasks=1
)


class System:
    """A stream or a queue, and how to write to it."""

    def __init__(self, server):
        self.server, self.name, self.numbers = server, f"job-{uuid.uuid4().hex[:8]}", itertools.count()

    def bodies(self, count):
        for number in itertools.islice(self.numbers, count):
            yield json.dumps({"at": f"{START + timedelta(seconds=number):%Y-%m-%d %H:%M:%S}", "n": number})

    def received(self, workspace):
        """Wait until the messages that were sent can be read."""


class OfRedis(System):
    def __init__(self, server):
        super().__init__(server)
        self.reader = f'redis_stream("{self.name}", url="redis://127.0.0.1:{server.port}", field="body")'

    def send(self, count):
        with Redis(port=self.server.port) as client:
            for body in self.bodies(count):
                client.xadd(self.name, {"body": body})


class OfRabbitStream(System):
    kind = "stream"

    def __init__(self, server):
        super().__init__(server)
        self.reader = f'rabbitmq_stream("{self.name}", url="rabbitmq-stream://127.0.0.1:{server.stream_port}/")'
        with server.channel() as channel:
            channel.queue_declare(self.name, durable=True, arguments={"x-queue-type": self.kind})

    def send(self, count):
        with self.server.channel() as channel:
            for body in self.bodies(count):
                channel.basic_publish("", self.name, body.encode())


class OfRabbitQueue(OfRabbitStream):
    kind = "classic"

    def __init__(self, server):
        super().__init__(server)
        url = f"amqp://127.0.0.1:{server.amqp_port}/"
        self.reader = f'rabbitmq_queue("{self.name}", url="{url}", idle="300 milliseconds")'

    def received(self, workspace):
        QueueReceiver(workspace.project.graph["readings"].reader).receive(0.3, 20)


def advance(stream, rows):
    """Commit micro-batches until so many rows were read."""
    while stream.progress.totals.get("rows_in", 0) < rows:
        stream.run_micro_batch()
        stream.commit()
    stream.wait()


@pytest.mark.share(1)
@pytest.mark.parametrize(
    ("server", "system"), [("valkey", OfRedis), ("rabbitmq", OfRabbitStream), ("rabbitmq", OfRabbitQueue)]
)
def test_a_stream_that_dies_goes_on_and_agrees_with_batch(request, tmp_path, server, system):
    system = system(request.getfixturevalue(server))
    (tmp_path / "headwater.toml").write_text('[project]\nname = "job"\ndefinitions = "job.py"\n')
    (tmp_path / "job.py").write_text(DEFINITIONS.format(reader=system.reader))
    workspace = Workspace(load(tmp_path))
    system.send(400)
    system.received(workspace)
    for name in ("minutes", "even"):
        stream = Stream(workspace, Planner(workspace).plan(name), FEW)
        advance(stream, 200)
        stream.run_micro_batch()  # is lost
        stream.close()
    system.send(200)
    system.received(workspace)
    job = catch_up(workspace, ("minutes", "even"), stream_options=FEW)
    assert job.streams["even"].progress.totals["rows_in"] == 600
    assert workspace.query("select count(*) as n, sum(n) as total from even").to_pylist() == [
        {"n": 300, "total": sum(range(0, 600, 2))}
    ]
    for name in ("minutes", "even"):
        assert verify(workspace, name).holds
