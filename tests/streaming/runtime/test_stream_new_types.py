"""Types that widen in a stream: its table, the streams that read it, their state, and the record of the change."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from confluent_kafka import Producer

from pipeline.core.errors import IncompatibleStateError, RequestError, SchemaError
from pipeline.core.schema import Schema
from pipeline.core.state_identity import StateIdentity, columns_part
from pipeline.kernel.type_widening import is_wider
from pipeline.streaming.runtime.verify import verify
from tests.faults.streams import Kill, Orders, run
from tests.streaming.runtime.test_stream_new_columns import count, put, wait_for

SOURCE = """
from pathlib import Path
from pipeline import deduplicate, files, kafka, sink, source, sql, to_callback

raw = source(READER, event_time="at", new_types="evolve", OPTIONS)
"""
ROWS = 'rows = sql("select id, v from raw")\n'
WINDOWS = """
by_minute = sql(
    "select tumble(at, interval '1 minute') as minute, sum(v) as v from raw group by all", layer="gold"
)
"""
GROUPS = 'by_id = sql("select id, max(v) as v, count(*) as n from raw group by all", key="id")\n'
DELIVERED = """
def deliver(version, rows):
    with (Path(__file__).parent / "delivered").open("a") as file:
        file.writelines(f"{row['id']} {row['v']}\\n" for row in rows.to_pylist())

delivered = sink("rows", to=to_callback(deliver))
"""
OTHERS = """
positive = sql("select id from raw where v > 0")
timed = sql("select at, v from raw")
above = sql("select tumble(at, interval '1 minute') as minute, max(v) as v from timed group by all", key="minute")
once = deduplicate("raw", key="id", event_time="at", within="1 hour")
beside = sql("select r.id, t.v from raw r join timed t on r.v = t.v and t.at between r.at and r.at + interval '1 second'")
"""
DECLARED = 'schema={"at": "timestamp", "id": "bigint", "v": "integer"}'
HEAD = "at,id,v\n"
FIRST = f"{HEAD}2024-01-01 00:00:00,1,1\n2024-01-01 00:10:00,2,2\n2024-01-01 00:10:05,1,\n"
SECOND = f"{HEAD}2024-01-01 00:10:10,2,0.5\n2024-01-01 00:20:00,3,7\n"
KILLS = 24
"""The number of points at which streams are killed, evenly over a whole run."""
ONLY_WIDER = f"{HEAD}2024-01-01 00:10:10,2,0.5\n"


@pytest.fixture
def project(plant):
    """A function that writes the project with these tables, and returns its folder."""

    def write(tables=ROWS + WINDOWS + GROUPS, options=DECLARED, reader='files("data/*.csv")'):
        folder = plant(text=SOURCE.replace("OPTIONS", options).replace("READER", reader) + tables)
        (folder / "data").mkdir(exist_ok=True)
        return folder

    return write


def type_of(streams, folder, name, column="v"):
    return streams.opened(folder).version(name).schema.as_dict()[column]


def holds(folder, streams):
    workspace = streams.opened(folder)
    for name in workspace.table_names:
        result = verify(workspace, name)
        assert result.holds, (name, result)


def caught_up(streams, folder, *names, **options):
    restarts = []
    job = streams.start(
        folder, *names, until_caught_up=True, on_restart=lambda name, words: restarts.append((name, words)), **options
    )
    job.run()
    return restarts


def test_a_type_widens_while_streams_run(project, streams):
    folder = project(ROWS + WINDOWS + DELIVERED)
    put(folder, "f1.csv", FIRST)
    restarts = []
    with streams.alive(streams.start(folder, on_restart=lambda name, words: restarts.append((name, words)))):
        wait_for(lambda: all(count(streams, folder, name) for name in ("rows", "by_minute")))
        put(folder, "f2.csv", SECOND)
        wait_for(lambda: count(streams, folder, "rows") == 5 and count(streams, folder, "by_minute") == 2)

    assert {type_of(streams, folder, name) for name in ("raw", "rows", "by_minute")} == {"DOUBLE"}
    assert streams.rows(folder, "rows", "id, v") == [(1, 1.0), (1, None), (2, 0.5), (2, 2.0), (3, 7.0)]
    assert [v for _, v in streams.rows(folder, "by_minute", "minute, v")] == [1.0, 2.5]
    (said,) = [words for name, words in restarts if name == "raw"]
    assert "'v' is DOUBLE now, not INTEGER, read by rows, by_minute" in said
    (change,) = streams.opened(folder).catalog.column_changes("raw")
    assert (change.column, change.type_before, change.type) == ("v", "INTEGER", "DOUBLE")
    assert set(change.read_by) == {"rows", "by_minute", "delivered"}
    with streams.opened(folder).warehouse.read() as con:
        assert con.execute("select v, typeof(v) from by_minute order by 1").fetchall() == [
            (1.0, "DOUBLE"),
            (2.5, "DOUBLE"),
        ]
    delivered = (folder / "delivered").read_text().splitlines()
    assert sorted(delivered) == ["1 1", "1 None", "2 0.5", "2 2", "3 7.0"]
    holds(folder, streams)


@pytest.mark.proof
@pytest.mark.parametrize("declared", [DECLARED, 'schema={"at": "timestamp", "v": "integer"}, new_columns="evolve"', ""])
def test_state_of_every_kind_goes_on_with_the_wider_type(project, streams, declared):
    folder = project(ROWS + WINDOWS + GROUPS + OTHERS, declared)
    put(folder, "f1.csv", FIRST)
    caught_up(streams, folder)
    put(folder, "f2.csv", SECOND)
    caught_up(streams, folder)
    assert streams.rows(folder, "by_id", "id, v, n") == [(1, 1.0, 2), (2, 2.0, 2), (3, 7.0, 1)]
    assert [v for _, v in streams.rows(folder, "above", "minute, v")] == [1.0, 2.0]
    assert streams.rows(folder, "positive") == [(1,), (2,), (2,), (3,)]
    holds(folder, streams)


@pytest.mark.proof
def test_a_stream_that_follows_later_reads_rows_of_both_types_once(project, streams):
    folder = project(ROWS + GROUPS)
    put(folder, "f1.csv", FIRST)
    caught_up(streams, folder)
    put(folder, "f2.csv", f"{HEAD}2024-01-01 00:10:06,4,4\n")
    caught_up(streams, folder, "raw")
    put(folder, "f3.csv", ONLY_WIDER)
    caught_up(streams, folder, "raw")
    put(folder, "f4.csv", f"{HEAD}2024-01-01 00:20:00,3,7\n")
    caught_up(streams, folder, "raw")
    assert type_of(streams, folder, "rows") == "INTEGER"

    caught_up(streams, folder, "rows", "by_id")
    assert streams.rows(folder, "rows") == [(1, 1.0), (1, None), (2, 0.5), (2, 2.0), (3, 7.0), (4, 4.0)]
    assert streams.rows(folder, "by_id") == [(1, 1.0, 2), (2, 2.0, 2), (3, 7.0, 1), (4, 4.0, 1)]
    holds(folder, streams)


@pytest.mark.proof
@pytest.mark.parametrize(
    ("kind", "values", "wider"),
    [
        ("tinyint", (1, 300), "SMALLINT"),
        ("bigint", (1, 2**70), "DECIMAL(38,0)"),
        ("decimal(6,2)", (1.25, 0.125), "DECIMAL(38,3)"),
    ],
)
def test_the_narrowest_type_is_taken(project, streams, kind, values, wider):
    folder = project("", f'schema={{"at": "timestamp", "id": "bigint", "v": "{kind}"}}')
    for number, value in enumerate(values):
        put(folder, f"f{number}.csv", f"{HEAD}2024-01-01 00:00:0{number},1,{value}\n")
        caught_up(streams, folder)
    assert type_of(streams, folder, "raw") == wider
    assert count(streams, folder, "raw") == 2


@pytest.mark.proof
def test_the_first_rows_may_need_a_wider_type_and_others_fit_none(project, streams):
    folder = project(ROWS)
    put(folder, "f1.csv", f"{HEAD}2024-01-01 00:00:00,1,3000000000\n2024-01-01 00:00:01,2,n/a\n")
    caught_up(streams, folder)
    assert type_of(streams, folder, "raw") == "BIGINT"
    assert streams.rows(folder, "rows") == [(1, 3_000_000_000)]
    assert streams.opened(folder).lake.quarantine("raw").version().rows == 1
    holds(folder, streams)


def test_a_type_that_would_change_a_stored_value_ends_the_stream(project, streams):
    folder = project("", DECLARED.replace("integer", "bigint"))
    put(folder, "f1.csv", f"{HEAD}2024-01-01 00:00:00,1,{2**53 + 1}\n")
    caught_up(streams, folder)
    put(folder, "f2.csv", ONLY_WIDER)
    with pytest.raises(
        SchemaError, match=r"would change a value of table 'raw': got 9007199254740993; declare the type"
    ):
        caught_up(streams, folder)
    assert (type_of(streams, folder, "raw"), count(streams, folder, "raw")) == ("BIGINT", 1)


@pytest.mark.proof
@pytest.mark.parametrize(
    ("tables", "error", "reason"),
    [
        (GROUPS.replace('key="id"', 'key="id", ttl="1 hour"'), RequestError, "expiry by ttl= depends on arrival order"),
        (
            'by_id = sql("select id, at, v from raw", key="id", sequence_by="at")',
            IncompatibleStateError,
            "its columns differ",
        ),
    ],
)
def test_what_cannot_follow_ends_with_advice_and_keeps_its_rows(project, streams, tables, error, reason):
    folder = project(tables)
    put(folder, "f1.csv", FIRST)
    caught_up(streams, folder)
    before = streams.rows(folder, "by_id")
    put(folder, "f2.csv", SECOND)
    with pytest.raises(error, match=rf"{reason}(?s:.*)headwater stream by_id --from earliest"):
        caught_up(streams, folder)
    assert streams.rows(folder, "by_id") == before
    assert count(streams, folder, "raw") == 5
    caught_up(streams, folder, "by_id", begin="earliest")
    holds(folder, streams)


def messages(numbers, *, wider):
    for number in numbers:
        value = number / 2 if wider and number % 3 == 0 else number
        at = datetime.fromtimestamp(1704067200 + number * 7, UTC)
        yield json.dumps({"at": f"{at:%Y-%m-%d %H:%M:%S}", "id": number, "v": value})


@pytest.fixture
def topic(kafka, project, streams):
    """A project that has read 40 messages with integers, and then received 40, of which some are not."""
    name = "widening"
    kafka.create_topic(name, 2)
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "log_level": 0})

    def send(numbers, *, wider):
        for number, message in zip(numbers, messages(numbers, wider=wider), strict=True):
            producer.produce(name, message, partition=number % 2)
        assert producer.flush(30) == 0

    groups = "by_five = sql('select id % 5 as five, sum(v) as v, count(*) as n from raw group by all', key='five')\n"
    reader = f'kafka("{name}", servers="{kafka.bootstrap}")'
    folder = project(WINDOWS + groups, f'{DECLARED}, lateness="1 minute"', reader)
    send(range(40), wider=False)
    caught_up(streams, folder)
    send(range(40, 80), wider=True)
    return folder


@pytest.mark.proof
def test_streams_of_a_topic_that_are_killed_around_the_change_lose_and_repeat_nothing(topic, streams, tmp_path):
    names = ("raw", "by_minute", "by_five")

    def copied(name):
        return shutil.copytree(topic, tmp_path / name)

    def killed(folder, kill):
        orders = Orders(str(folder), names, kill=kill, files=True, drain=False)
        return run(orders)

    points = killed(copied("whole"), None)
    expected = {
        name: streams.rows(tmp_path / "whole", name, "* exclude (_ingested_at)" if name == "raw" else "*")
        for name in names
    }
    assert type_of(streams, tmp_path / "whole", "by_five") == "DOUBLE"
    assert len(expected["raw"]) == len({row[1] for row in expected["raw"]}) == 80
    assert sum(n for _, _, n in expected["by_five"]) == 80
    holds(tmp_path / "whole", streams)
    for nth in range(1, len(points), 1 + len(points) // KILLS):
        folder = copied(f"killed-{nth}")
        assert killed(folder, Kill(nth)) is None
        caught_up(streams, folder)
        found = {
            name: streams.rows(folder, name, "* exclude (_ingested_at)" if name == "raw" else "*") for name in names
        }
        assert found == expected, nth
        holds(folder, streams)


def test_identities_that_differ_by_wider_types_only():
    def identity(kind, kept="for ever", **more):
        columns = {"at": "TIMESTAMP", "of (x, y)": "STRUCT(a INTEGER, b DECIMAL(3,1))", "v": kind, **more}
        return StateIdentity("group", 1, {"keys": "id", **columns_part("raw", Schema.of(columns), "at")}, {"ttl": kept})

    assert identity("BIGINT").widens(identity("INTEGER"), is_wider)
    assert identity("DECIMAL(38,3)").widens(identity("DECIMAL(6,2)"), is_wider)
    assert not identity("INTEGER").widens(identity("INTEGER"), is_wider)
    assert not identity("INTEGER").widens(identity("BIGINT"), is_wider)
    assert not identity("VARCHAR").widens(identity("BIGINT"), is_wider)
    assert not identity("BIGINT", "1 hour").widens(identity("INTEGER"), is_wider)
    derived = identity("DOUBLE")
    assert replace(derived, layout={**derived.layout, "keys": ""}).widens(identity("INTEGER"), is_wider)
    assert not identity("BIGINT", b="DATE").widens(identity("INTEGER"), is_wider)
