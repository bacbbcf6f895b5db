"""Parts of the stream benchmarks: generated events, expected results of the queries, and commit times."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta

import duckdb
import pytest

pytest.importorskip("confluent_kafka")

from benchmarks.nexmark.events import KEYS, KINDS, LONGEST_AUCTION, House
from benchmarks.nexmark.queries import QUERIES, Query
from benchmarks.stream import landed
from benchmarks.stream.events import BEGINNING_US, END, PARTITIONS, STAMP, Events
from benchmarks.stream.nexmark import differences, messages
from benchmarks.stream.throughput import concluded
from pipeline.kernel.sql import SqlTransform

HOUSE = House(20_000)


@pytest.fixture(scope="module")
def house():
    """The tables of the auction house."""
    with duckdb.connect() as con:
        HOUSE.build(con)
        yield con


def texts(events):
    """All events of a backlog, as they are sent."""
    some = list(events.messages())
    return [json.loads(text) for batch in some for text in batch.texts], some


def test_events_are_json_of_a_hundred_bytes_and_equal_the_rows_of_the_oracle():
    events = Events(5000, seed=3)
    rows, some = texts(events)
    assert [row["id"] for row in rows] == list(range(5000))
    assert 90 < sum(len(text) for batch in some for text in batch.texts) / 5000 < 105
    with duckdb.connect() as con:
        written = con.sql(events.rows).fetchall()
    read = [(r["id"], datetime.strptime(r["happened_at"], STAMP), r["key"], r["value"]) for r in rows]  # noqa: DTZ007 - UTC
    assert read == written
    assert sum(count for _, _, count, _ in events.windows()) == 5000


def test_events_are_determined_by_the_seed():
    assert texts(Events(500, seed=1))[0] == texts(Events(500, seed=1))[0] != texts(Events(500, seed=2))[0]
    assert [row["id"] for row in texts(Events(10, first=90))[0]] == list(range(90, 100))


def test_key_has_one_partition_and_final_events_close_all_windows():
    _, some = texts(Events(5000))
    partitions_of = {}
    for batch in some:
        for key, partition in zip(batch.keys, batch.partitions, strict=True):
            partitions_of.setdefault(key, set()).add(partition)
    assert all(len(partitions) == 1 for partitions in partitions_of.values())
    assert {p for partitions in partitions_of.values() for p in partitions} == set(range(PARTITIONS))
    last = json.loads(Events(5000).last(2))
    assert (last["key"], last["id"]) == (END, -3)
    assert datetime.strptime(last["happened_at"], STAMP).replace(tzinfo=UTC) > datetime.fromtimestamp(
        BEGINNING_US / 1e6, UTC
    ) + timedelta(minutes=59)


def test_tail_of_an_event_omits_its_time():
    (some,) = Events(3).tails()
    assert json.loads(b'{"happened_at":"x",' + some.texts[2])["id"] == 2


def test_fifty_events_are_one_person_three_auctions_and_bids(house):
    assert [house.sql(f"select count(*) from {kind}").fetchall()[0][0] for kind in KINDS] == [400, 1200, 18400]
    longest = house.sql(f"select max(expires - date_time) <= interval '{LONGEST_AUCTION}' from auctions").fetchall()
    assert longest == [(True,)]
    hot = house.sql(
        "select max(c) * 1000 > sum(c) * 4 from (select count(*) as c from bids group by bidder)"
    ).fetchall()
    assert hot == [(True,)]
    rows = messages(house, "bids").to_pylist()
    first = json.loads(rows[0]["text"])
    assert first["date_time"] == "2025-01-01T00:00:00.000400"
    assert all(int(row["key"]) % PARTITIONS == row["partition"] for row in rows[:100])
    assert KEYS["bids"] == "auction"


def computed_in_batch(house, query: Query):
    """The result of a query's definitions over all rows, with windows in their batch form."""
    with house.cursor() as con:
        con.execute(
            "create or replace temp table sides as select range as id, 'side ' || range as value from range(1000)"
        )
        for name, table in {**query.tables, **query.afterwards}.items():
            text = SqlTransform(table.sql).sql
            if "sequence_by" in table.options:
                key, by = table.options["key"], table.options["sequence_by"]
                text = f"select * from ({text}) qualify row_number() over (partition by {key} order by {by} desc) = 1"
            con.execute(f"create or replace temp table {name} as {text}")
        return con.sql(f"from {query.answer}").to_arrow_table()


@pytest.mark.parametrize("name", [name for name in QUERIES if name != "q18"])  # q18 is not a SQL statement
def test_query_in_batch_equals_its_oracle(house, name):
    query = QUERIES[name]
    rows = computed_in_batch(house, query)
    assert rows.num_rows > 0
    assert differences(house, query, rows) == (0, 0)


def test_missing_and_unexpected_rows_are_counted(house):
    query = QUERIES["q2"]
    actual = computed_in_batch(house, query)
    assert differences(house, query, actual.slice(1)) == (1, 0)
    with house.cursor() as con:
        twice = con.sql("from actual union all from actual").to_arrow_table()
    assert differences(house, query, twice) == (0, actual.num_rows)


def commit(table, number, rows, rows_in):
    """Write a version of a Delta table to its log, with a manifest."""
    log, kept = table / "_delta_log", table / "_headwater"
    for folder in (log, kept):
        folder.mkdir(parents=True, exist_ok=True)
    (kept / f"{number + 10:016x}.json").write_text(json.dumps({"epoch": {"totals": {"rows_in": rows_in}}}))
    file = f"{number}.parquet"
    duckdb.sql(rows).write_parquet(str(table / file))
    count = duckdb.sql(f"select count(*) from ({rows})").fetchall()[0][0]
    add = {"path": file, "dataChange": True, "stats": json.dumps({"numRecords": count})}
    moved = {"path": "compacted.parquet", "dataChange": False, "stats": json.dumps({"numRecords": 99})}
    actions = [{"txn": {"appId": "x", "version": number + 10}}, {"add": add}, {"add": moved}]
    (log / f"{number:020d}.json").write_text("\n".join(json.dumps(action) for action in actions))


def test_row_is_readable_once_the_log_names_its_file(tmp_path):
    written_at = datetime.now(UTC).strftime(STAMP)
    for number in range(2):
        rows = f"select range + {number * 10} as id, timestamp '{written_at}' as happened_at from range(10)"
        commit(tmp_path, number, rows, (number + 1) * 10)
    versions = landed.commits(tmp_path)
    assert [(c.number, c.rows, c.rows_in) for c in versions] == [(0, 10, 10), (1, 10, 20)]
    late = landed.latency(tmp_path, "delta", 10, 10)
    assert 0 <= late.p50 <= late.p99 <= late.most < 60_000
    assert versions[0].at_us <= versions[1].at_us <= time.time_ns() // 1000
    with pytest.raises(SystemExit, match="wrong answer: 10 rows of 10 ids, not 20"):
        landed.latency(tmp_path, "delta", 10, 20)


def test_rate_is_computed_from_the_additional_time_of_the_second_half():
    def case(count, seconds, peer):
        ours = {"headwater": {"parts": {"between_s": 2.0, "between_events": 500.0}}}
        medians = {"headwater": seconds, "flink": peer}
        return {"events": count, "bytes_in": count * 100, "medians": medians, "ours": ours, "peers": {"flink": {}}}

    cases = {"half-1": case(1000, 3.0, 12.0), "whole-1": case(2000, 5.0, 16.0)}
    result = concluded({"cases": cases, "medians": {}, "ours": {"headwater": {}}, "peers": {"flink": {}}})
    assert result["events_per_s"] == {"headwater": 500, "flink": 250}
    assert result["bytes_per_s"]["headwater"] == 50_000
    assert result["ratios"] == {"flink": 0.5}
    assert result["between_commits_per_s"] == 250
