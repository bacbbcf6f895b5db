"""Changes of a PostgreSQL server in a project: the table that applies them equals the server's, in batch and as a stream."""

from __future__ import annotations

import random
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.commit.moments import Moment
from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.runner import Runner, RunOptions
from pipeline.streaming.planning.plan import Planner
from pipeline.streaming.runtime.options import Intervals, StreamOptions
from pipeline.streaming.runtime.stream import Stream
from pipeline.streaming.runtime.verify import verify
from tests.rigs.postgres import PostgresDatabase

SHOP = """\
from pipeline import postgres_changes, source, sql

shop = postgres_changes({url!r}, "orders", slot={slot!r})
order_changes = source(shop.table("orders"){streamed})
CDC = dict(
    key="id", sequence_by="_sequence", apply_as_deletes="_op = 'delete'", unavailable_columns="_unavailable",
    except_column_list=["_op", "_sequence", "_committed_at"],
)
CHANGES = "select id, n, big, _op, _sequence, _committed_at, _unavailable from order_changes"
orders = sql(CHANGES, apply_as_truncates="_op = 'truncate'", **CDC)
history = sql(CHANGES + " where _op <> 'truncate'", stored_as_scd_type=2, **CDC)
"""

STREAMED = """, stored=False, event_time="_committed_at", lateness="1 hour", schema=dict(
    id="integer", n="integer", big="varchar",
    _op="varchar", _sequence="varchar", _committed_at="timestamptz", _unavailable="varchar[]",
)"""


class DiedError(Exception):
    """Ends a run at a chosen moment."""


@pytest.fixture
def shop(pg: PostgresDatabase, tmp_path: Path):
    slot = f"hw_{uuid.uuid4().hex[:12]}"
    (tmp_path / "headwater.toml").write_text('[project]\nname = "shop"\ndefinitions = "shop.py"\n')
    (tmp_path / "shop.py").write_text(SHOP.format(url=pg.url, slot=slot, streamed=""))
    pg.run(
        "create table orders (id int primary key, n int, big text)",
        "alter table orders alter big set storage external",
        "insert into orders select i, 0, repeat('x', 3000) from generate_series(1, 40) i",
    )
    yield tmp_path
    pg.run(f"select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = '{slot}'")


def change(pg: PostgresDatabase, draw: random.Random) -> None:
    number = draw.randrange(40)
    pg.run(
        f"insert into orders values ({100 + number}, 1, repeat('y', 3000)) on conflict (id) do update set n = orders.n + 1",
        f"update orders set n = n + 1 where id % 5 = {number % 5}",
        f"delete from orders where id % 11 = {number % 11}",
        f"update orders set id = id + 1000 where id % 13 = {number % 13} and id < 1000",
        f"begin; update orders set n = 7 where id < {number}; update orders set big = 'small' where id = {number}; commit",
    )


def in_server(pg: PostgresDatabase) -> list[tuple[object, ...]]:
    with pg.connected() as con:
        return sorted(con.execute("select id, n, big from orders").fetchall())


def in_lake(folder: Path) -> list[tuple[object, ...]]:
    rows = Workspace(load(folder)).query("select id, n, big from orders order by id").to_pylist()
    return [tuple(row.values()) for row in rows]


def test_runs_that_are_killed_give_what_the_server_has(pg: PostgresDatabase, shop: Path):
    draw = random.Random(1)  # noqa: S311 - a test
    for moment in (Moment.DECIDED, Moment.STAGED, Moment.COMMITTED, None, None):

        def observe(event, moment=moment):
            if moment is not None and event.moment is moment:
                raise DiedError

        change(pg, draw)
        try:
            assert Runner(load(shop), observer=observe).run().status == "done"
        except DiedError:
            continue
        assert in_lake(shop) == in_server(pg)
    pg.run("truncate orders", "insert into orders values (1, 1, 'first')")
    Runner(load(shop)).run()
    assert in_lake(shop) == in_server(pg) == [(1, 1, "first")]
    before = Workspace(load(shop)).query("select * from history order by all").to_pylist()
    Runner(load(shop), RunOptions(full=True)).run()
    assert Workspace(load(shop)).query("select * from history order by all").to_pylist() == before


def test_a_stream_that_is_stopped_gives_what_the_server_has(pg: PostgresDatabase, shop: Path):
    text = (shop / "shop.py").read_text()
    (shop / "shop.py").write_text(text.replace('source(shop.table("orders")', f'source(shop.table("orders"){STREAMED}'))
    draw = random.Random(2)  # noqa: S311 - a test
    intervals = Intervals(batch_s=0.01, commit_s=0.1, idle_commit_s=0.1)
    for _ in range(2):
        workspace = Workspace(load(shop))
        plan = Planner(workspace).plan("orders")
        stream = Stream(workspace, plan, replace(StreamOptions(), intervals=intervals))
        for _ in range(3):
            change(pg, draw)
            read = stream.progress.totals["rows_in"]
            while stream.progress.totals["rows_in"] == read:
                stream.run_micro_batch()
        while stream.run_micro_batch():
            pass
        stream.save()
        stream.close()
    assert in_lake(shop) == in_server(pg)
    assert verify(workspace, "orders").holds
