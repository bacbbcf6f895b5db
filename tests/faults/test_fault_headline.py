"""End-to-end test: keyed messages through Kafka while brokers and the streams' process are killed or stopped.

Nothing is lost or duplicated, both for readers at the end and for readers that follow all versions. The messages of a
key stay in order.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from datetime import datetime, timedelta

import duckdb
import pytest

from benchmarks.kafka import Cluster
from pipeline.core.errors import HeadwaterError, UnavailableError
from pipeline.streaming.runtime.options import Intervals
from pipeline.streaming.runtime.verify import verify
from tests.faults.streams import (
    TOML,
    Child,
    Clicks,
    Follower,
    Orders,
    committed_once_each,
    feed_is_snapshot,
    quarantine_of,
    run,
    start,
)

PROJECT = """\
from pipeline import kafka, quarantine, source, sql

clicks = source(
    kafka("clicks", servers="{servers}"),
    schema={{"id": "bigint", "seq": "bigint", "key": "varchar", "happened": "timestamp", "amount": "integer"}},
    event_time="happened", lateness="1 hour", stored=False,
)
kept = sql("select id, seq, key, amount, _source, _position from clicks", expect=[quarantine("sold", "amount > 4")])
minutes = sql("select tumble(happened, interval '1 minute') as minute, key, count(*) as n, sum(id)::bigint as ids from clicks group by all")
"""
NAMES = ("kept", "minutes")
PACE = Intervals(batch_s=0.05, commit_s=0.1, idle_commit_s=0.5)
KEYS = 50
BEGUN = datetime(2026, 1, 1)  # noqa: DTZ001 - as in the messages


class Writer:
    """Writes keyed messages in order, each acknowledged by the required brokers. Some messages are invalid."""

    def __init__(self, servers: str) -> None:
        from confluent_kafka import Producer  # noqa: PLC0415 - where there is none, the test is skipped first

        self._producer = Producer(
            {"bootstrap.servers": servers, "enable.idempotence": True, "log_level": 0, "message.timeout.ms": 120_000}
        )
        self.ids = 0
        self.poison = 0
        self._seq: Counter[str] = Counter()

    def write(self, count: int) -> None:
        for _ in range(count):
            key = f"k{self.ids * 7919 % KEYS}"
            self._seq[key] += 1
            happened = (BEGUN + timedelta(seconds=self.ids)).isoformat()
            row = {"id": self.ids, "seq": self._seq[key], "key": key, "happened": happened, "amount": self.ids % 97}
            self._produce(key, json.dumps(row))
            if self.ids % 501 == 7:
                self._produce(key, "{no json")
                self.poison += 1
            self.ids += 1

    def _produce(self, key: str, text: str) -> None:
        while True:
            try:
                self._producer.produce("clicks", text, key=key)
            except BufferError:
                self._producer.poll(0.1)
            else:
                self._producer.poll(0)
                return

    def flush(self) -> None:
        assert self._producer.flush(120) == 0


@pytest.mark.fault(14)
@pytest.mark.parametrize(
    ("seed", "size"),
    [
        pytest.param(0, (1, 1_000, 4), id="quick", marks=[pytest.mark.proof]),
        pytest.param(1, (3, 100_000, 100), id="headline", marks=[pytest.mark.proof, pytest.mark.timeout(3600)]),
    ],
)
def test_nothing_is_lost_or_duplicated_after_random_kills(tmp_path, seed, size, record_property):
    brokers, messages, kills = size
    dice = random.Random(seed)  # noqa: S311 - a seed for faults
    try:
        cluster = Cluster(tmp_path / "kafka", brokers, {"min.insync.replicas": str(min(brokers, 2))})
    except UnavailableError as error:
        pytest.skip(str(error))
    with cluster:
        cluster.create_topic("clicks", 4, replicas=brokers)
        clicks = Clicks(tmp_path / "project")
        clicks.folder.mkdir()
        (clicks.folder / "headwater.toml").write_text(TOML)
        (clicks.folder / "clicks.py").write_text(PROJECT.format(servers=cluster.bootstrap))
        writer = Writer(cluster.bootstrap)
        writer.write(messages // (kills + 1))
        writer.flush()
        killed: Counter[str] = Counter()
        orders = Orders(str(clicks.folder), NAMES, forever=True, intervals=PACE)
        with Follower(clicks, NAMES, every_s=0.1):
            child = start(orders)
            try:
                while sum(killed.values()) < kills:
                    writer.write(messages // (kills + 1))
                    child = _trouble(dice, cluster, child, orders, killed)
            finally:
                child.process.kill()
                child.process.join()
            writer.write(max(messages - writer.ids, 0))
            writer.flush()
            assert run(Orders(str(clicks.folder), NAMES, intervals=PACE, shards=2)) is not None
        record_property("ended", dict(killed))
        _nothing_is_lost_or_duplicated(clicks, writer)


def _trouble(dice, cluster, child, orders, killed) -> Child:
    """Inject one fault after a random delay."""
    what = dice.choice(("worker killed", "worker killed", "worker ended", "broker killed", "broker stopped"))
    child.process.join(dice.uniform(0.2, 2.5))
    if child.process.exitcode is not None:
        assert isinstance(child.wait(), HeadwaterError)  # it could not continue and reported it
        return start(_otherwise(dice, orders))
    killed[what] += 1
    if what == "worker killed":
        child.process.kill()
        child.process.join()
        return start(_otherwise(dice, orders))
    if what == "worker ended":
        os.kill(child.process.pid, signal.SIGINT)
        child.process.join(180)
        assert child.process.exitcode is not None
        return start(_otherwise(dice, orders))
    number = dice.randint(1, cluster.bootstrap.count(",") + 1)
    (cluster.kill if what == "broker killed" else cluster.stop)(number)
    time.sleep(dice.uniform(0, 0.5))
    cluster.start(number)
    return child


def _otherwise(dice, orders) -> Orders:
    return Orders(
        orders.folder, NAMES, shards=dice.randint(1, 3), source_tasks=dice.randint(1, 3), forever=True, intervals=PACE
    )


def _nothing_is_lost_or_duplicated(clicks, writer) -> None:
    workspace = clicks.workspace()
    for name in NAMES:
        committed_once_each(workspace, name)
        feed_is_snapshot(workspace, name)
        assert verify(workspace, name).holds
    with duckdb.connect() as con:
        for name in NAMES:
            con.register(name, workspace.lake.rows(workspace.table(name)))
            con.register(f"aside_{name}", quarantine_of(workspace, name))
        fates = "select id from kept union all select (\"row\"->>'id')::bigint from aside_kept where reasons = 'sold'"
        ids = [i for (i,) in con.sql(f"select id from ({fates}) order by id").fetchall()]
        assert ids == list(range(writer.ids))
        for name in NAMES:
            poison = con.sql(
                f"select count(*), count(distinct (_source, _position)) from aside_{name} where reasons <> 'sold'"
            ).fetchall()[0]
            assert poison == (writer.poison, writer.poison), name
        counted = con.sql("select sum(n), sum(ids) from minutes").fetchall()[0]
        assert counted == (writer.ids, writer.ids * (writer.ids - 1) // 2)
        disordered = con.sql(
            "select key from (select key, seq, lag(seq) over (partition by key order by _position) as before from kept) where seq <= before"
        ).fetchall()
        assert not disordered
