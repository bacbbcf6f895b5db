"""Logs that are silent, unavailable, shortened or compacted: where a stream begins, waits, and what it reports."""

from __future__ import annotations

import json
import threading
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from benchmarks.kafka import Cluster
from pipeline.core.errors import (
    DefinitionError,
    OutcomeUnknownError,
    RequestError,
    SourceError,
    SourceUnavailableError,
    UnavailableError,
)
from pipeline.project import Workspace, load
from pipeline.reprocessing.dead_letters import replay_letters
from pipeline.reprocessing.quarantine import quarantined_rows
from pipeline.streaming.runtime.job import StreamJob, StreamJobOptions
from pipeline.streaming.runtime.options import Intervals, StreamOptions
from pipeline.streaming.runtime.restart_policy import RestartPolicy
from pipeline.streaming.runtime.start_position import parse_start
from pipeline.streaming.runtime.verify import verify
from tests.rigs.conservation import conserved
from tests.streaming.runtime.test_stream_operations import until

FAST = StreamOptions(intervals=Intervals(batch_s=0.02, commit_s=0.05, idle_commit_s=0.1), shards=2)
SECONDS = "timestamp '2026-01-01' + to_seconds(id)"


class Topic:
    """A topic with one partition whose records have an id and a time."""

    def __init__(self, cluster: Cluster, partitions: int = 1, **settings: str) -> None:
        self.name = f"logs-{uuid.uuid4().hex[:8]}"
        self.servers = cluster.bootstrap
        cluster.create_topic(self.name, partitions, settings=settings)
        self._producer = Producer({"bootstrap.servers": cluster.bootstrap, "log_level": 0})

    def send(
        self, ids, key: str | None = None, value=lambda i: json.dumps({"id": i, "at": f"2026-01-01T00:{i:02}:00"})
    ):
        for i in ids:
            self._producer.produce(self.name, value(i), key=key, partition=0)
        assert self._producer.flush(20) == 0

    def forget(self, before: int) -> None:
        admin = AdminClient({"bootstrap.servers": self.servers, "log_level": 0})
        for future in admin.delete_records([TopicPartition(self.name, 0, before)]).values():
            future.result(20)


def project(folder: Path, reader: str, text: str, schema: str = '"id": "bigint", "at": "timestamp"') -> Path:
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "headwater.toml").write_text('[project]\nname = "p"\ndefinitions = "p.py"\n')
    (folder / "p.py").write_text(
        "from pipeline import files, kafka, quarantine, source, sql\n"
        f'events = source({reader}, schema={{{schema}}}, event_time="at", stored=False)\n'
        f"{text}"
    )
    return folder


ROWS = 'rows = sql("select id, at from events")\n'
MINUTES = (
    "minutes = sql(\"select tumble(at, interval '1 minute') as minute, count(*) as n from events group by all\", "
    'key="minute")\n'
)


def kafka_of(topic: Topic, options: str = "") -> str:
    return f"kafka({topic.name!r}, servers={topic.servers!r}{options})"


def stream(folder: Path, *names: str, stream_options: StreamOptions = FAST, **wanted: object) -> StreamJob:
    running = StreamJob(
        Workspace(load(folder)), StreamJobOptions(names, until_caught_up=True, stream_options=stream_options, **wanted)
    )
    running.run()
    return running


def ids(folder: Path) -> list[int]:
    return Workspace(load(folder)).query("select id from rows order by id").column("id").to_pylist()


# -- where it begins


def test_a_start_at_the_end_is_committed_without_rows(kafka, tmp_path):
    topic = Topic(kafka)
    folder = project(tmp_path, kafka_of(topic), ROWS)
    topic.send(range(5))
    stream(folder, begin=parse_start("latest"))
    topic.send(range(5, 8))
    stream(folder)

    assert ids(folder) == [5, 6, 7]
    conserved(Workspace(load(folder)), "rows")


def test_a_start_at_the_end_survives_an_immediate_crash(kafka, tmp_path):
    topic = Topic(kafka)
    folder = project(tmp_path, kafka_of(topic), ROWS)
    topic.send(range(5))
    workspace = Workspace(load(folder))
    running = StreamJob(workspace, StreamJobOptions(stream_options=FAST, begin=parse_start("latest")))
    thread = threading.Thread(target=running.run)
    thread.start()
    until(lambda: workspace.version("rows") is not None, "the commit of where it begins")
    committed = workspace.require("rows").manifest.epoch
    running.stop()
    thread.join()

    assert list(committed.offsets.values()) == [5]


# -- rows missing from the log


@pytest.mark.proof
def test_rows_deleted_by_retention_are_reported_and_can_be_accepted(kafka, tmp_path):
    topic = Topic(kafka)
    folder = project(tmp_path, kafka_of(topic), ROWS)
    topic.send(range(5))
    stream(folder)
    topic.send(range(5, 10))
    topic.forget(8)

    with pytest.raises(SourceError, match=r"--accept-gaps"):
        stream(folder)
    assert ids(folder) == list(range(5))
    stream(folder, stream_options=replace(FAST, accept_gaps=True))

    assert ids(folder) == [0, 1, 2, 3, 4, 8, 9]
    manifest = Workspace(load(folder)).require("rows").manifest
    assert [(gap.begin, gap.end) for gap in manifest.gaps] == [(5, 8)]
    topic.send([10])
    stream(folder)
    assert len(Workspace(load(folder)).require("rows").manifest.gaps) == 1


def test_rows_of_archived_files_are_reported_as_lost(tmp_path):
    folder = project(tmp_path, 'files("data/*.csv")', ROWS)
    for name, i in (("a", 1), ("b", 2)):
        (folder / "data" / f"{name}.csv").write_text(f"id,at\n{i},2026-01-01 00:00:00\n")
    stream(folder)
    (folder / "data" / "a.csv").unlink()

    result = verify(Workspace(load(folder)), "rows")

    assert (result.lost, result.missing, result.unexpected) == (1, 0, 1)
    assert result.holds


def test_windows_over_files_that_were_archived_cannot_be_verified(tmp_path):
    folder = project(tmp_path, 'files("data/*.csv")', MINUTES)
    (folder / "data" / "a.csv").write_text("id,at\n1,2026-01-01 00:00:00\n")
    stream(folder)
    (folder / "data" / "a.csv").unlink()

    result = verify(Workspace(load(folder)), "minutes")

    assert result.lost == 1
    assert not result.holds or result.unexpected == 0


def test_rows_removed_by_compaction_are_reported_as_lost(tmp_path):
    try:
        cluster = Cluster(tmp_path / "kafka", settings={"log.cleaner.backoff.ms": "50"})
    except UnavailableError as error:
        pytest.skip(str(error))
    with cluster:
        topic = Topic(
            cluster,
            **{
                "cleanup.policy": "compact",
                "segment.ms": "100",
                "min.cleanable.dirty.ratio": "0.001",
                "max.compaction.lag.ms": "100",
            },
        )
        folder = project(tmp_path / "project", kafka_of(topic), ROWS)
        topic.send(range(5), key="same")
        stream(folder)
        number = iter(range(100, 10_000))
        workspace = Workspace(load(folder))

        def is_compacted() -> bool:
            topic.send([next(number) % 60], key="other")
            return verify(workspace, "rows").lost > 0

        until(is_compacted, "compaction")
        result = verify(workspace, "rows")

    assert result.holds
    assert result.lost == result.unexpected > 0


# -- dead letters


def test_dead_letters_of_kafka_are_replayed(kafka, tmp_path):
    topic = Topic(kafka)
    topic.send(range(6))
    small = 'rows = sql("select id, at from events", expect=[quarantine("small", "id < MOST")])\n'
    folder = project(tmp_path, kafka_of(topic), small.replace("MOST", "4"))
    stream(folder)
    assert ids(folder) == [0, 1, 2, 3]

    project(tmp_path, kafka_of(topic), small.replace("MOST", "5"))

    assert replay_letters(Workspace(load(folder)), "rows").rows_out == 1
    assert ids(folder) == [0, 1, 2, 3, 4]
    assert quarantined_rows(Workspace(load(folder)), "rows").num_rows == 1


# -- tombstones


@pytest.mark.share(1)
@pytest.mark.parametrize("kind", ["timestamp", "timestamptz", "date"])
def test_a_tombstone_has_the_time_of_its_message(kafka, tmp_path, kind):
    topic = Topic(kafka)
    text = (
        'accounts = sql("select coalesce(id, try_cast(_key as bigint)) as id, at, id is null as gone from events '
        'where _key is not null", key="id", sequence_by="at", apply_as_deletes="gone")\n'
    )
    folder = project(
        tmp_path,
        kafka_of(topic, ', metadata=["key"], tombstones="keep"'),
        text,
        f'"id": "bigint", "at": "{kind}", "_key": "varchar"',
    )
    at = "2026-01-01" if kind == "date" else "2026-01-01T00:00:00Z" if kind == "timestamptz" else "2026-01-01T00:00:00"
    for number in (1, 2, 3):
        topic.send([number], key=str(number), value=lambda i: json.dumps({"id": i, "at": at}))
    topic.send([2], key="2", value=lambda _: None)
    topic.send([4], key=None, value=lambda _: None)  # a tombstone without a key has no effect
    stream(folder)
    workspace = Workspace(load(folder))

    assert workspace.query("select id from accounts order by id").column("id").to_pylist() == [1, 3]
    assert quarantined_rows(workspace, "accounts").num_rows == 0
    conserved(workspace, "accounts")


def test_a_tombstone_after_its_delete_changes_nothing_more(kafka, tmp_path):
    """As Debezium sends them: a delete, then a message with the same key and no value, and one without a key."""
    topic = Topic(kafka)
    text = (
        "accounts = sql(\"select coalesce(id, try_cast(_key as bigint)) as id, at, id is null or op = 'd' as gone from events "
        'where coalesce(id::varchar, _key) is not null", key="id", sequence_by="at", apply_as_deletes="gone")\n'
    )
    schema = '"id": "bigint", "op": "varchar", "at": "timestamp", "_key": "varchar"'
    folder = project(tmp_path, kafka_of(topic, ', metadata=["key"], tombstones="keep"'), text, schema)
    for second, (number, op) in enumerate(((1, "c"), (2, "c"), (2, "d"))):
        value = json.dumps({"id": number, "op": op, "at": f"2026-01-01T00:00:0{second}"})
        topic.send([number], key=str(number), value=lambda _, value=value: value)
    topic.send([2], key="2", value=lambda _: None)
    topic.send([3], key=None, value=lambda i: json.dumps({"id": i, "op": "c", "at": "2026-01-01T00:00:04"}))
    topic.send([4], key=None, value=lambda _: None)
    stream(folder)
    workspace = Workspace(load(folder))

    assert workspace.query("select id from accounts order by id").column("id").to_pylist() == [1, 3]
    conserved(workspace, "accounts")


# -- unavailable systems


@pytest.mark.proof
def test_a_stream_waits_for_an_unavailable_broker(tmp_path):
    try:
        cluster = Cluster(tmp_path / "kafka")
    except UnavailableError as error:
        pytest.skip(str(error))
    with cluster:
        topic = Topic(cluster)
        folder = project(tmp_path / "project", kafka_of(topic), ROWS)
        topic.send(range(5))
        workspace = Workspace(load(folder))
        running = StreamJob(
            workspace,
            StreamJobOptions(
                stream_options=FAST, restart_policy=RestartPolicy(most=1, first_wait_s=0.05, longest_wait_s=0.1)
            ),
        )
        thread = threading.Thread(target=running.run)
        thread.start()
        until(lambda: running.statuses["rows"].totals.get("rows_out") == 5, "rows")
        cluster.kill()
        until(lambda: running.statuses["rows"].status == "waiting", "waiting")
        assert "has not answered since" in running.statuses["rows"].error
        assert not running.is_ready
        cluster.start()
        topic.send(range(5, 8))
        until(lambda: running.statuses["rows"].totals.get("rows_out") == 8, "more rows")
        until(lambda: running.is_ready, "readiness")
        running.stop()
        thread.join()
        assert not running.errors
    assert ids(folder) == list(range(8))


def test_restarts_for_an_unavailable_system_are_unlimited():
    restart_policy = RestartPolicy(most=2, longest_wait_s=4.0)
    away, broken = SourceUnavailableError("Kafka does not answer"), SourceError("no")

    for waits in (away, OutcomeUnknownError("the commit was not answered")):
        assert [restart_policy.wait_s([0.0] * n, 1.0, waits) for n in (0, 1, 2, 50)] == [0.5, 1.0, 2.0, 2.0]
    assert restart_policy.wait_s([0.0] * 2, 1.0, broken) is None


# -- tables that cannot be streamed


def test_an_event_time_that_is_a_number_is_named(tmp_path):
    folder = project(tmp_path, 'files("data/*.csv")', ROWS, '"id": "bigint", "at": "bigint"')

    with pytest.raises(
        DefinitionError,
        match=r"the event time 'at' of source 'events' is BIGINT.*event_time='epoch_ms\(at\)' in a source",
    ):
        stream(folder)


def test_a_missing_key_is_named(tmp_path):
    folder = project(
        tmp_path, 'files("data/*.csv")', 'rows = sql("select id, count(*) as n from events group by id")\n'
    )

    with pytest.raises(RequestError, match=r"no table of this project can be streamed: got rows: .*set key="):
        stream(folder)
