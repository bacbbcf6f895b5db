"""Tables of PostgreSQL are read by transaction: no row version is lost or doubled, whenever it is committed."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import postgres as read_postgres
from pipeline.connectors.databases.postgres.session import EXPORTED
from pipeline.connectors.databases.postgres.windows import RowRange, TransactionProgress, tuple_id, versions
from pipeline.core.cursors import Bound, Cursor
from pipeline.core.errors import DefinitionError, SettingsError, SourceError, SourceUnavailableError
from tests.rigs.proofs import examples

REFERENCE, SECRET = "env:PG_PASSWORD", "s3cret"


class Reading:
    """Runs that follow each other: each one continues from the cursor of the previous one."""

    def __init__(self, reader):
        self.reader, self.cursor, self.rows, self.notes = reader, None, [], ()

    def run(self, bound=None):
        """Return the rows of a run; `None` if everything has to be read again."""
        plan = self.reader.plan(self.cursor, *([] if bound is None else [bound]))
        if plan.changed:
            return None
        rows = []
        for split in plan.splits:
            rows += self.reader.read(split, self.reader.schema(split.source_object)).rows.to_pylist()
        self.notes = plan.notes
        if plan.splits:
            self.cursor = Cursor(**json.loads(json.dumps(asdict(plan.cursor))))
        self.rows += rows
        return sorted((row["id"], row.get("v")) for row in rows)


@pytest.fixture
def orders(pg):
    pg.run("create table orders (id bigint, v int, at timestamptz)", "create index on orders (at)")
    return pg


def insert(con, *ids, v=0, at="2026-01-01"):
    for each in ids:
        con.execute("insert into orders values (%s, %s, %s)", (each, v, at))


@pytest.mark.parametrize("cursor", ["xmin", "at"])
def test_a_row_that_is_committed_late_is_read_once(orders, cursor):
    reading = Reading(read_postgres(orders.url, "public.orders", columns=["id", "v"], cursor=cursor))
    with orders.connected() as late, orders.connected() as con:
        insert(con, 1)
        late.execute("begin")
        insert(late, 2, at="2025-12-31 23:55")
        insert(con, 3)
        assert reading.run() == [(1, 0)]
        assert reading.notes == ("1 row of transactions newer than the oldest open one are left for the next run",)
        insert(con, 4)
        assert reading.run() == []
        late.execute("commit")
        assert reading.run() == [(2, 0), (3, 0), (4, 0)]
        assert reading.run() == []


@pytest.mark.parametrize("cursor", ["xmin", "at"])
def test_a_row_of_a_subtransaction_that_ends_late_is_read_once(orders, cursor):
    reading = Reading(read_postgres(orders.url, "public.orders", columns=["id", "v"], cursor=cursor))
    with orders.connected() as late, orders.connected() as con:
        late.execute("begin")
        insert(late, 1)
        late.execute("savepoint a")
        insert(late, 2)
        late.execute("release a")
        insert(con, 3)
        assert reading.run() == []
        late.execute("commit")
        assert reading.run() == [(1, 0), (2, 0), (3, 0)]


@pytest.mark.parametrize("cursor", ["xmin", "at"])
def test_equal_cursors_are_neither_lost_nor_doubled(orders, cursor):
    reading = Reading(read_postgres(orders.url, "public.orders", columns=["id", "v"], cursor=cursor))
    with orders.connected() as con:
        insert(con, 1, 2, 3)
        assert reading.run(Bound(rows=2)) == [(1, 0), (2, 0)]
        insert(con, 4)
        assert reading.run(Bound(rows=2)) == [(3, 0)]
        assert reading.run() == [(4, 0)]
        for _ in range(2):
            assert reading.run() == []
        assert len({row["_position"] for row in reading.rows}) == 4


def test_versions_of_a_row_are_read_and_deleted_rows_remain(orders):
    reading = Reading(read_postgres(orders.url, "public.orders", columns=["id", "v"], cursor="xmin"))
    with orders.connected() as con:
        insert(con, 1, 2)
        assert reading.run() == [(1, 0), (2, 0)]
        con.execute("update orders set v = 1 where id = 1")
        con.execute("update orders set v = 2 where id = 1")
        con.execute("delete from orders where id = 2")
        assert reading.run() == [(1, 2)]


def test_a_table_without_a_cursor_is_read_again_if_rows_vanish_or_change(orders):
    reading = Reading(read_postgres(orders.url, "public.orders", columns=["id", "v"]))
    with orders.connected() as con:
        insert(con, 1, 2)
        assert reading.run() == [(1, 0), (2, 0)]
        insert(con, 3)
        assert reading.run() == [(3, 0)]
        for change in ("update orders set v = 5 where id = 1", "delete from orders where id = 2", "truncate orders"):
            con.execute(change)
            assert reading.run() is None
            reading.cursor = None
            reading.run()
    assert reading.reader.plan(reading.cursor).splits == ()


@pytest.mark.parametrize(("policy", "ids"), [("include", [1, 2, 3]), ("exclude", [1, 3])])
def test_null_cursors(orders, policy, ids):
    reader = read_postgres(orders.url, "public.orders", columns=["id"], cursor="at", null_cursors=policy)
    reading = Reading(reader)
    with orders.connected() as con:
        insert(con, 1)
        reading.run()
        insert(con, 2, at=None)
        insert(con, 3)
        reading.run()
        assert [row["id"] for row in reading.rows] == ids
        assert reading.run() == []


def test_null_cursors_can_be_refused(orders):
    reader = read_postgres(orders.url, "public.orders", cursor="at", null_cursors="refuse")
    with orders.connected() as con:
        insert(con, 1, 2, at=None)
    with pytest.raises(SourceError, match="the cursor 'at' is null: got 2 rows"):
        reader.plan(None)


def test_an_infinite_or_future_cursor_does_not_hide_the_others(orders):
    reading = Reading(read_postgres(orders.url, "public.orders", columns=["id"], cursor="at"))
    with orders.connected() as con:
        insert(con, 1)
        insert(con, 2, at="infinity")
        insert(con, 3, at="2999-01-01")
        insert(con, 4, at="-infinity")
        assert len(reading.run()) == 4
        assert reading.cursor.value["high"] == "2026-01-01 00:00:00+00"
        insert(con, 5)
        assert reading.run() == [(5, None)]


def test_a_number_that_is_none_does_not_hide_the_others(orders):
    with orders.connected() as con:
        con.execute("create table measured (id bigint primary key, at numeric)")
        con.execute("insert into measured values (1, 1), (2, 'NaN')")
        reading = Reading(read_postgres(orders.url, "public.measured", columns=["id"], cursor="at"))
        assert len(reading.run()) == 2
        assert reading.cursor.value["high"] == "1"
        con.execute("insert into measured values (3, 2)")
        assert [row[0] for row in reading.run()] == [3]


def test_an_index_is_used_for_a_cursor_column(orders):
    with orders.connected() as con:
        con.execute(
            "insert into orders select i, 0, timestamptz '2026-01-01' + i * interval '1 minute' from generate_series(1, 20000) i"
        )
        con.execute("analyze orders")
        reader = read_postgres(orders.url, "public.orders", cursor="at")
        first = reader.plan(None)
        insert(con, 30000, at="2027-01-01")
        split = reader.plan(first.cursor).splits[0]
        query = RowRange.of(split.source_object.stamp).query("*", 10**6)
        plan = "\n".join(row[0] for row in con.execute(f"explain {query}"))
    assert "Index Scan" in plan


def test_a_lag_limits_how_late_a_row_may_be(orders):
    reading = Reading(read_postgres(orders.url, "public.orders", columns=["id"], cursor="at", lag="1 hour"))
    with orders.connected() as con:
        insert(con, 1)
        reading.run()
        insert(con, 2, at="2025-12-31 23:00")
        insert(con, 3, at="2025-12-31 22:59:59")
        assert reading.run() == [(2, None)]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("int", ["1", "2", "2"]),
        ("numeric", ["1.5", "1.50001", "2"]),
        ("date", ["'2026-01-01'", "'2026-01-01'", "'2026-01-02'"]),
        ("timestamp", ["'2026-01-01 00:00:00.000001'", "'2026-01-01 00:00:00.000002'", "'2026-01-02'"]),
        ("text", ["'a'", "'b'", "'b'"]),
    ],
)
def test_cursors_of_each_type(pg, kind, values):
    pg.run(f"create table c (id int, at {kind})")
    reading = Reading(read_postgres(pg.url, "public.c", columns=["id"], cursor="at"))
    for number, value in enumerate(values):
        pg.run(f"insert into c values ({number}, {value})")
        assert reading.run() == [(number, None)]
        assert reading.run() == []


def test_a_changed_type_of_the_cursor_means_that_everything_is_read_again(orders):
    reader = read_postgres(orders.url, "public.orders", cursor="at")
    with orders.connected() as con:
        insert(con, 1)
        plan = reader.plan(None)
        con.execute("alter table orders alter at type timestamp")
    assert reader.plan(plan.cursor).changed == "the type of the cursor changed from timestamptz to timestamp"


def test_another_server_means_that_everything_is_read_again(pg):
    pg.run("create table t (id int primary key)", "insert into t values (1)")
    reader = read_postgres(pg.url, "t")
    cursor = reader.plan(None).cursor
    assert cursor.value["system"].isdigit()
    assert reader.plan(cursor).changed == ""
    other = Cursor(cursor.kind, {**cursor.value, "system": "1"})
    assert reader.plan(other).changed.startswith("this is another server than the one that was read")
    before = Cursor(cursor.kind, {name: value for name, value in cursor.value.items() if name != "system"})
    assert reader.plan(before).changed == ""
    with pg.connected() as con:
        con.execute("revoke execute on function pg_control_system() from public")
        con.execute("create role limited login")
        con.execute("grant select on t to limited")
        try:
            assert "system" not in read_postgres(pg.as_user("limited"), "t").plan(None).cursor.value
        finally:
            con.execute("grant execute on function pg_control_system() to public")
            con.execute("drop owned by limited")
            con.execute("drop role limited")


def test_a_restored_server_means_that_everything_is_read_again(orders):
    cursor = TransactionProgress(through=10**15, rows=1).cursor()
    assert (
        read_postgres(orders.url, "public.orders").plan(cursor).changed
        == "the server has older transactions than before: it was restored"
    )


def test_partitions_that_are_added_are_read(pg):
    pg.run(
        "create table p (id int) partition by range (id)", "create table p1 partition of p for values from (0) to (10)"
    )
    reading = Reading(read_postgres(pg.url, "public.p", cursor="xmin"))
    pg.run("insert into p values (1)")
    assert reading.run() == [(1, None)]
    pg.run("create table old (id int)", "insert into old values (11)", "insert into p values (2)")
    assert reading.run() == [(2, None)]
    pg.run("alter table p attach partition old for values from (10) to (20)")
    assert reading.run() == [(11, None)]
    assert {row["_position"] for row in reading.rows} == {1, 2, 3}


def test_large_tables_are_divided_and_read_in_one_snapshot(pg):
    pg.run("create table big (id int, pad text)", "alter table big alter pad set storage plain")
    pg.run("insert into big select i, repeat('x', 1900) from generate_series(1, 36000) i")
    reader = read_postgres(pg.url, "public.big", columns=["id"])
    plan = reader.plan(None)
    assert len(plan.splits) == 2
    assert [split.begin for split in plan.splits] == [0, plan.splits[0].end]
    pg.run("update big set id = -id where id in (1, 36000)", "delete from big where id = 2")
    schema = reader.schema(plan.splits[0].source_object)
    in_snapshot = [reader.read(split, schema).rows for split in plan.splits]
    ids = [each for rows in in_snapshot for each in rows["id"].to_pylist()]
    assert ids == list(range(1, 36001))
    EXPORTED.close()
    later = [reader.read(split, schema).rows for split in plan.splits]
    assert [each for rows in later for each in rows["id"].to_pylist()] == list(range(3, 36000))
    assert reader.plan(plan.cursor).changed == "rows were updated or deleted"


def test_a_table_that_is_rewritten_is_planned_again(orders):
    reader = read_postgres(orders.url, "public.orders")
    with orders.connected() as con:
        insert(con, 1, 2)
        bounded = reader.plan(None, Bound(rows=1))
        plan = reader.plan(None)
        con.execute("vacuum full orders")
        split = plan.splits[0]
        with pytest.raises(SourceUnavailableError, match="rewritten, for example by VACUUM FULL"):
            reader.read(split, reader.schema(split.source_object))
        assert reader.plan(bounded.cursor).changed == "the table was rewritten while it was read"


def test_the_kept_snapshot_does_not_lock_the_table(orders):
    with orders.connected() as con:
        insert(con, 1)
        assert read_postgres(orders.url, "public.orders").plan(None).splits
        con.execute("set lock_timeout = '2s'")
        con.execute("alter table orders add x int")


def test_a_connection_that_is_ended_is_unavailable(orders):
    reader = read_postgres(orders.url, "public.orders")
    with orders.connected() as con:
        insert(con, 1)
        plan = reader.plan(None)
        with reader.opened(plan.splits[0]) as access:
            con.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name <> '' or pid <> pg_backend_pid()"
            )
            with pytest.raises(SourceUnavailableError, match="PostgreSQL is unavailable"):
                access.columns()
    rows = [reader.read(split, reader.schema(split.source_object)).rows.num_rows for split in plan.splits]
    assert rows == [1]


def test_a_server_that_is_not_there_is_unavailable():
    reader = read_postgres("postgresql://reader@127.0.0.1:1/shop", "public.orders")
    with pytest.raises(SourceUnavailableError, match=r"Connection refused.*\(postgresql://127.0.0.1:1/shop\)"):
        reader.plan(None)


def test_missing_rights_are_an_error(orders):
    orders.run("create role reader login")
    reader = read_postgres(orders.as_user("reader"), "public.orders")
    with pytest.raises(SourceError, match="permission denied for table orders") as caught:
        reader.plan(None)
    assert not isinstance(caught.value, SourceUnavailableError)
    with pytest.raises(SourceError, match='role "nobody" does not exist') as caught:
        read_postgres(orders.as_user("nobody"), "public.orders").plan(None)
    assert not isinstance(caught.value, SourceUnavailableError)
    orders.run("grant select on orders to reader")
    assert reader.plan(None).splits == ()
    assert reader.check()[0].what == "public.orders"
    orders.run("drop owned by reader", "drop role reader")


def test_what_cannot_be_read_by_transaction(orders):
    with pytest.raises(SourceError, match=r"there is no such table: got \"public\".\"nothing\""):
        read_postgres(orders.url, "public.nothing").plan(None)
    orders.run("create view w as select * from orders")
    with pytest.raises(SourceError, match=r"only a table has row versions: got public\.w, a view"):
        read_postgres(orders.url, "public.w").plan(None)
    with pytest.raises(SourceError, match="no column 'att' to be the cursor; did you mean 'at'"):
        read_postgres(orders.url, "public.orders", cursor="att").plan(None)
    orders.run("create table u (a uuid)")
    with pytest.raises(SourceError, match="'a' cannot be the cursor: got the type uuid"):
        read_postgres(orders.url, "public.u", cursor="a").plan(None)
    with pytest.raises(DefinitionError, match="a cursor that is a time must be a duration"):
        read_postgres(orders.url, "public.orders", cursor="at", lag=5).plan(None)
    with pytest.raises(DefinitionError, match="a cursor that is a number must be a number"):
        read_postgres(orders.url, "public.orders", cursor="id", lag="1 hour").plan(None)
    orders.run("create table x (a text)")
    with pytest.raises(DefinitionError, match="a cursor that is a text has no lag"):
        read_postgres(orders.url, "public.x", cursor="a", lag=3).plan(None)


def test_a_view_is_read_by_a_query(orders):
    with orders.connected() as con:
        insert(con, 1, 2)
        insert(con, 3, at="infinity")
        con.execute("create view w as select * from orders where id > 1")
        reader = read_postgres(
            orders.url, query="select * from w;", key="id", cursor="at", lag="1 hour", columns=["id"]
        )
        reading = Reading(reader)
        assert reading.run() == [(2, None), (3, None)]
        assert reading.run() == []
        full = read_postgres(orders.url, query="select * from w")
        split = full.plan(None).splits[0]
        result = full.read(split, full.schema(split.source_object))
        assert result.rows["id"].to_pylist() == [2]
        assert result.rejected["reason"].to_pylist() == ["column 'at' is not TIMESTAMPTZ: infinity"]
        assert full.plan(full.plan(None).cursor).changed == "it is read in full by each run"


def test_late_rows_of_a_query_are_read_once(orders):
    reader = read_postgres(orders.url, query="select id, at from orders", key="id", cursor="at", lag="1 hour")
    reading = Reading(reader)
    with orders.connected() as con:
        insert(con, 1)
        assert reading.run() == [(1, None)]
        insert(con, 2, at="2025-12-31 23:00")
        insert(con, 3, at="2025-12-31 22:59")
        assert reading.run() == [(2, None)]
        insert(con, 4)
        assert reading.run() == [(4, None)]
        assert reading.run() == []


def test_options_that_contradict_each_other():
    url = "postgresql://reader@db.example.com/shop"
    with pytest.raises(DefinitionError, match="either a table or a query"):
        read_postgres(url)
    with pytest.raises(DefinitionError, match="a query has no transactions"):
        read_postgres(url, query="select 1", cursor="xmin")
    with pytest.raises(DefinitionError, match="a table is read by transaction, without a key"):
        read_postgres(url, "public.orders", key="id")
    with pytest.raises(DefinitionError, match="lag= needs the name of a column"):
        read_postgres(url, "public.orders", lag="1 hour")
    with pytest.raises(DefinitionError, match="null_cursors= must be"):
        read_postgres(url, "public.orders", null_cursors="drop")
    with pytest.raises(DefinitionError, match=r"columns= must be a list of names: got 'id'; write columns=\['id'\]"):
        read_postgres(url, "public.orders", columns="id")
    with pytest.raises(DefinitionError, match="lag= must not be negative"):
        read_postgres(url, "public.orders", cursor="id", lag=-1)
    with pytest.raises(DefinitionError, match="lag= is not a duration"):
        read_postgres(url, "public.orders", cursor="at", lag="soon")


def test_a_password_is_never_shown(orders, monkeypatch):
    with pytest.raises(DefinitionError, match="the URL of a database contains a password"):
        read_postgres("postgresql://reader:s3cret@db/shop", "public.orders")
    with pytest.raises(DefinitionError, match="contains a password"):
        read_postgres("postgresql://reader@db/shop?password=s3cret", "public.orders")
    with pytest.raises(DefinitionError, match="password= must be a reference"):
        read_postgres("postgresql://reader@db/shop", "public.orders", password=SECRET)
    with pytest.raises(DefinitionError, match="not the URL of a database"):
        read_postgres("postgresql://[db/shop", "public.orders")
    with pytest.raises(SettingsError, match="'PG_PASSWORD' with the password of a database is not set"):
        read_postgres(orders.url, "public.orders", password=REFERENCE).plan(None)
    monkeypatch.setenv("PG_PASSWORD", "s3cr/et%?")
    monkeypatch.setenv("PG_URL", orders.url.replace("headwater@", "headwater:s3cret@"))
    insert_one = "insert into orders values (1)"
    orders.run(insert_one)
    for reader in (
        read_postgres(orders.url, "public.orders", password=REFERENCE),
        read_postgres("env:PG_URL", "public.orders"),
    ):
        plan = reader.plan(None)
        shown = repr(reader) + repr(plan) + reader.fingerprint
        assert "s3cr" not in shown
        assert plan.splits[0].source_object.uri.endswith(f"/{orders.name}/public.orders")
        assert "headwater@" not in plan.splits[0].source_object.uri


def test_row_ranges_are_text_and_back():
    rows = RowRange("public.t", 1, 2, (0, 0), (3, 4), 5, 6, "true", "0001", has_all=True)
    assert RowRange.of(rows.stamp()) == rows
    assert tuple_id("(12,3)") == (12, 3)


@pytest.mark.parametrize(
    ("xmin", "window", "is_read"),
    [
        (100, (0, 101, 150), True),
        (101, (0, 101, 150), False),
        (2**32 - 1, (2**32 - 5, 2**32 + 3, 2**32 + 10), True),  # before the wrap
        (3, (2**32 - 5, 2**32 + 4, 2**32 + 10), True),  # after it
        (5, (2**32 - 5, 2**32 + 4, 2**32 + 10), False),
        (2**32 - 6, (2**32 - 5, 2**32 + 4, 2**32 + 10), False),
    ],
)
def test_transaction_ids_that_wrap_around(orders, xmin, window, is_read):
    with orders.connected() as con:
        condition = versions(*window).replace("t.xmin::text", f"'{xmin}'::text")
        assert con.execute(f"select {condition}").fetchone()[0] is is_read


class Writers:
    """Two connections, one of which may have an open transaction; `deleted` are the ids of deleted rows."""

    def __init__(self, con, late):
        self.con, self.late, self.is_open, self.deleted, self.number = con, late, False, set(), 0

    def write(self, step):
        self.number += 1
        row = (self.number, self.number)
        if step == "insert":
            self.con.execute("insert into orders values (%s, %s)", row)
        elif step == "late" and self.is_open:
            self.late.execute("insert into orders values (%s, %s)", row)
        elif step == "update":
            change = "update orders set v = %s, at = clock_timestamp() where id = (select min(id) from orders)"
            self.con.execute(change, row[:1])
        elif step == "delete":
            gone = self.con.execute("delete from orders where id = (select max(id) from orders) returning id")
            self.deleted |= {each for (each,) in gone}
        elif step in {"begin", "commit"} and self.is_open is (step == "commit"):
            self.late.execute(step)
            self.is_open = not self.is_open


STEPS = st.lists(
    st.sampled_from(["insert", "update", "delete", "begin", "late", "commit", "run", "bounded"]), max_size=25
)


@settings(max_examples=examples(8, 200), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, cursor=st.sampled_from(["xmin", "at"]))
def test_any_interleaving_delivers_the_last_version_of_every_row_once(pg, steps, cursor):
    pg.run(
        "drop table if exists orders",
        "create table orders (id bigint, v int, at timestamptz default clock_timestamp())",
    )
    reading = Reading(read_postgres(pg.url, "public.orders", columns=["id", "v"], cursor=cursor))
    with pg.connected() as con, pg.connected() as late:
        writers = Writers(con, late)
        for step in [*steps, "commit", "run", "run"]:
            if step in {"run", "bounded"}:
                assert reading.run(Bound(rows=1) if step == "bounded" else None) is not None
            else:
                writers.write(step)
        while reading.run():
            pass
        now = set(con.execute("select id, v from orders").fetchall())
    versions_read = Counter((row["id"], row["v"]) for row in reading.rows)
    assert set(versions_read.values()) <= {1}
    newest = {}
    for row in reading.rows:
        newest[row["id"]] = max(newest.get(row["id"], 0), row["v"])
    assert {(each, v) for each, v in newest.items() if each not in writers.deleted} == now
