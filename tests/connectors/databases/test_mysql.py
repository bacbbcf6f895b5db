"""MySQL and MariaDB: values arrive as they are, or as rejected rows; a server that is gone is unavailable."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal

import pymysql
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import mysql
from pipeline.connectors.databases.address import DatabaseAddress
from pipeline.connectors.databases.mysql import translated
from pipeline.core.errors import DefinitionError, SourceError, SourceUnavailableError
from pipeline.core.schema import Schema
from tests.rigs.proofs import examples

# by type: the type of the lake, and pairs of a value in SQL and the value that is read
VALUES = {
    "tinyint": ("TINYINT", [("-128", -128)]),
    "tinyint unsigned": ("SMALLINT", [("255", 255)]),
    "boolean": ("TINYINT", [("true", 1), ("2", 2)]),
    "smallint unsigned": ("INTEGER", [("65535", 65535)]),
    "mediumint": ("INTEGER", [("-8388608", -8388608)]),
    "int unsigned": ("BIGINT", [("4294967295", 4294967295)]),
    "bigint": ("BIGINT", [("-9223372036854775808", -(2**63))]),
    "bigint unsigned": ("DECIMAL(20,0)", [("18446744073709551615", Decimal(2**64 - 1))]),
    "decimal(20,4)": (
        "DECIMAL(20,4)",
        [("1.5", Decimal("1.5000")), ("-9999999999999999.9999", Decimal("-9999999999999999.9999"))],
    ),
    "decimal(10,0)": ("DECIMAL(10,0)", [("5", Decimal(5))]),
    "decimal(12,12)": ("DECIMAL(12,12)", [("0.000000000001", Decimal("0.000000000001"))]),
    "decimal(65,10)": ("VARCHAR", [("1e50", "1" + "0" * 50 + ".0000000000")]),
    "float": ("FLOAT", [("1.5", 1.5)]),
    "double": ("DOUBLE", [("0.1", 0.1)]),
    "date": ("DATE", [("'9999-12-31'", date(9999, 12, 31)), ("'1000-01-01'", date(1000, 1, 1))]),
    "datetime(6)": ("TIMESTAMP", [("'2024-01-02 03:04:05.123456'", datetime(2024, 1, 2, 3, 4, 5, 123456))]),  # noqa: DTZ001 - naive
    "timestamp(6) null": (
        "TIMESTAMPTZ",
        [("'2024-01-02 03:04:05.123456'", datetime(2024, 1, 2, 3, 4, 5, 123456, UTC))],
    ),
    "time(6)": ("VARCHAR", [("'-838:59:58.5'", "-838:59:58.500000"), ("'25:00:00'", "25:00:00.000000")]),
    "year": ("SMALLINT", [("2024", 2024)]),
    "varchar(20)": ("VARCHAR", [("'é😀 '", "é😀 "), ("''", "")]),
    "varchar(20) character set latin1": ("VARCHAR", [("'é'", "é")]),
    "text": ("VARCHAR", [("'a\\\\nb'", "a\\nb")]),
    "enum('a','b')": ("VARCHAR", [("'b'", "b")]),
    "set('a','b')": ("VARCHAR", [("'a,b'", "a,b")]),
    "json": ("VARCHAR", [('\'{"b": 1, "a": 1.10}\'', '{"b": 1, "a": 1.10}')]),
    "bit(5)": ("VARCHAR", [("b'101'", "00101")]),
    "blob": ("BLOB", [("x'00ff'", b"\x00\xff")]),
    "binary(3)": ("BLOB", [("'a'", b"a\x00\x00")]),
    "uuid": ("VARCHAR", [("'00000000-0000-0000-0000-000000000001'", "00000000-0000-0000-0000-000000000001")]),
    "inet6": ("VARCHAR", [("'::1'", "::1")]),
    "point": ("VARCHAR", [("point(1, 2)", "POINT(1 2)")]),
}


def read(reader, schema=None):
    plan = reader.plan(None)
    contract = reader.schema(plan.splits[0].source_object) if schema is None else Schema.of(schema)
    results = [reader.read(split, contract) for split in plan.splits]
    rows = [row for result in results for row in result.rows.to_pylist()]
    return contract, rows, [row for result in results for row in result.rejected.to_pylist()]


@pytest.mark.parametrize("kind", VALUES)
def test_a_value_is_read_as_it_is(mysql_database, kind):
    stored, cases = VALUES[kind]
    if kind in {"uuid", "inet6"} and not mysql_database.is_mariadb:
        pytest.skip("MySQL has no such type")
    if kind == "json" and not mysql_database.is_mariadb:  # it stores what a document means, not its text
        cases = [(cases[0][0], '{"a": 1.1, "b": 1}')]
    values = [f"insert into v values ({n}, {sql})" for n, (sql, _) in enumerate(cases)]
    create = f"create table v (n int primary key, x {kind})"
    mysql_database.run("set time_zone = '+00:00'", create, *values, "insert into v values (99, null)")
    contract, rows, rejected = read(mysql(mysql_database.url, "v"))
    assert contract.as_dict()["x"] == stored
    assert [row["x"] for row in rows] == [*(expected for _, expected in cases), None]
    assert rejected == []


def test_a_user_with_a_password(mysql_database, monkeypatch):
    user = f"reader_{mysql_database.name}"[:32]
    mysql_database.run(
        f"create user {user}@'127.0.0.1' identified by 'a-secret'",
        f"grant select on *.* to {user}@'127.0.0.1'",
        "create table v (n int primary key)",
        "insert into v values (1)",
    )
    monkeypatch.setenv("READER_PASSWORD", "a-secret")
    url = mysql_database.url.replace("headwater@", f"{user}@")
    reader = mysql(url, "v", password="env:READER_PASSWORD")  # noqa: S106 - a reference
    assert read(reader)[1] == [{"n": 1, "_position": 1}]
    monkeypatch.setenv("READER_PASSWORD", "another")
    with pytest.raises(SourceError, match=r"MySQL refuses to be read: got .*Access denied") as raised:
        read(reader)
    assert "another" not in str(raised.value)


@pytest.mark.parametrize(
    ("kind", "value", "shown"),
    [
        ("date", "'0000-00-00'", "column 'x' is not DATE: 0000-00-00"),
        ("date", "'2024-00-10'", "column 'x' is not DATE: 2024-00-10"),
        ("datetime", "'0000-00-00'", "column 'x' is not TIMESTAMP: 0000-00-00 00:00:00"),
        ("timestamp null", "'0000-00-00'", "column 'x' is not TIMESTAMPTZ: 0000-00-00 00:00:00"),
    ],
)
def test_a_zero_date_is_a_rejected_row(mysql_database, kind, value, shown):
    create = f"create table v (n int primary key, x {kind}, b blob, d decimal(5,2))"
    rows = f"insert into v values (1, null, null, 1), (2, {value}, x'00', 1.5), (3, null, null, 2)"
    mysql_database.run("set sql_mode = ''", create, rows)
    reader = mysql(mysql_database.url, "v")
    contract, good, bad = read(reader)
    assert [(row["n"], row["_position"]) for row in good] == [(1, 1), (3, 3)]
    assert [(row["_position"], row["reason"]) for row in bad] == [(2, shown)]
    assert json.loads(bad[0]["row"]) == {"n": 2, "x": shown.partition(": ")[2], "b": "00", "d": 1.5}
    assert reader.parse([bad[0]["row"]], contract).rejected.num_rows == 1
    _, texts, none = read(reader, {"n": "int", "x": "varchar", "b": "blob", "d": "varchar"})
    assert (texts[1]["x"], texts[1]["d"], none) == (shown.partition(": ")[2], "1.50", [])


def test_the_zone_of_the_server_does_not_matter(mysql_database):
    insert = "insert into v values (1, '2024-01-01 05:00:00', '2024-01-01 05:00:00')"
    create = "create table v (n int primary key, ts timestamp null, dt datetime)"
    mysql_database.run("set time_zone = '+05:00'", create, insert)
    at = datetime(2024, 1, 1, 5)  # noqa: DTZ001 - naive
    assert read(mysql(mysql_database.url, "v"))[1] == [
        {"n": 1, "ts": at.replace(hour=0, tzinfo=UTC), "dt": at, "_position": 1}
    ]


def test_names_views_queries_and_keys(mysql_database):
    mysql_database.run(
        "create table `odd ``t` (`na!e` int, `a.b` int, primary key (`a.b`, `na!e`))",
        "insert into `odd ``t` values (1, 2)",
    )
    mysql_database.run("create view w as select `na!e` + 1 as n from `odd ``t`")
    assert read(mysql(mysql_database.url, "odd `t"))[1] == [{"na!e": 1, "a.b": 2, "_position": 1}]
    assert read(mysql(mysql_database.url, f"{mysql_database.name}.w"), {"n": "int"})[1] == [{"n": 2, "_position": 1}]
    assert read(mysql(mysql_database.url, query="select 'it''s' as x;"))[1] == [{"x": "it's", "_position": 1}]
    plan = mysql(mysql_database.url, "odd `t", cursor="na!e").plan(None)
    assert json.loads(plan.splits[0].source_object.stamp)["identity"] == ["a.b", "na!e", "na!e"]


def test_backslashes_in_values_and_names(mysql_database):
    mysql_database.run("create table v (`a\\b` varchar(20) primary key, d date)", "set sql_mode = ''")
    with mysql_database.connected() as con, con.cursor() as cursor:
        cursor.execute("set sql_mode = ''")
        cursor.execute("insert into v values (%s, null), (%s, '0000-00-00')", ("x\\", "x\\n'"))
    reader = mysql(mysql_database.url, "v", cursor="a\\b")
    _, rows, bad = read(reader)
    assert [row["a\\b"] for row in rows] == ["x\\"]
    assert json.loads(bad[0]["row"])["a\\b"] == "x\\n'"
    assert reader.plan(reader.plan(None).cursor).splits == ()


def test_a_late_commit_is_read_once(mysql_database):
    mysql_database.run("create table v (id int primary key, at datetime(6), index (at))")
    reader = mysql(mysql_database.url, "v", columns=["id"], cursor="at", lag="1 minute")
    cursor, rows = None, []

    def run():
        nonlocal cursor
        plan = reader.plan(cursor)
        cursor = plan.cursor if plan.splits else cursor
        got = [
            row["id"] for split in plan.splits for row in reader.read(split, Schema.of({"id": "int"})).rows.to_pylist()
        ]
        rows.extend(got)
        return got

    with mysql_database.connected() as late:
        late.begin()
        late.cursor().execute("insert into v values (1, '2026-01-01 00:00:00')")
        mysql_database.run("insert into v values (2, '2026-01-01 00:00:30')")
        assert run() == [2]
        late.commit()
        assert run() == [1]
        assert run() == []


def test_a_table_without_a_cursor_is_read_by_each_run(mysql_database):
    mysql_database.run("create table v (id int primary key)", "insert into v values (1)")
    reader = mysql(mysql_database.url, "v")
    assert reader.plan(reader.plan(None).cursor).changed == "it is read in full by each run"


def test_a_server_that_ends_the_connection_is_unavailable(mysql_database):
    mysql_database.run("create table v (id int primary key)", "insert into v values (1)")
    reader = mysql(mysql_database.url, "v")
    split = reader.plan(None).splits[0]
    with reader.opened(split) as access:
        with mysql_database.connected() as con:
            con.cursor().execute(f"kill {access.session.connection.thread_id()}")
        with pytest.raises(SourceUnavailableError, match="MySQL is unavailable"):
            access.columns()
    assert reader.read(split, Schema.of({"id": "int"})).rows.num_rows == 1


def test_a_server_that_is_not_there_is_unavailable():
    with pytest.raises(SourceUnavailableError, match=r"Can't connect to MySQL server.*\(mysql://127.0.0.1:1/shop\)"):
        mysql("mysql://reader@127.0.0.1:1/shop", "v").plan(None)


def test_missing_rights_are_an_error(mysql_database, monkeypatch):
    mysql_database.run(
        "create table v (id int)", f"create user '{mysql_database.name}'@'127.0.0.1' identified by 's3cr/et'"
    )
    url = f"mysql://{mysql_database.name}@127.0.0.1:{mysql_database.port}/"
    monkeypatch.setenv("MYSQL_PASSWORD", "wr0ng")
    reference = "env:MYSQL_PASSWORD"
    with pytest.raises(SourceError, match="Access denied for user") as caught:
        mysql(url, "v", password=reference).plan(None)
    assert not isinstance(caught.value, SourceUnavailableError)
    assert "wr0ng" not in str(caught.value)
    monkeypatch.setenv("MYSQL_PASSWORD", "s3cr/et")
    with pytest.raises(SourceError, match="SELECT command denied") as caught:
        mysql(url, f"{mysql_database.name}.v", password=reference).plan(None)
    assert not isinstance(caught.value, SourceUnavailableError)
    mysql_database.run(f"grant select on {mysql_database.name}.* to '{mysql_database.name}'@'127.0.0.1'")
    reader = mysql(url, f"{mysql_database.name}.v", password=reference)
    mysql_database.run("insert into v values (7)")
    assert read(reader)[1] == [{"id": 7, "_position": 1}]
    assert reader.check()[0].detail == "can be read"
    assert "s3cr" not in repr(reader) + repr(reader.plan(None))
    with pytest.raises(SourceError, match=r"Table .* doesn't exist"):
        mysql(mysql_database.url, "nothing").plan(None)
    with pytest.raises(DefinitionError, match="contains a password"):
        mysql("mysql://reader:s3cret@db/shop", "v")


def test_errors_that_pass_are_told_from_others():
    address = DatabaseAddress("mysql://reader@db/shop")
    deadlock = RuntimeError("MySqlError { ERROR 1213 (40001): Deadlock found }")
    assert isinstance(translated(deadlock, address), SourceUnavailableError)
    assert isinstance(translated(RuntimeError("timed out waiting for connection"), address), SourceUnavailableError)
    assert not isinstance(translated(pymysql.ProgrammingError(1064, "syntax"), address), SourceUnavailableError)


TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=50)


@settings(max_examples=examples(15, 200), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.tuples(
            *(
                st.one_of(st.none(), each)
                for each in (
                    st.integers(0, 2**64 - 1),
                    st.decimals(-(10**13), 10**13, places=4),
                    TEXT,
                    st.datetimes(datetime(1000, 1, 1)),  # noqa: DTZ001 - naive
                    st.dates(date(1000, 1, 1)),
                    st.floats(allow_nan=False, allow_infinity=False),
                    st.binary(max_size=50),
                )
            )
        ),
        max_size=15,
    )
)
def test_random_values_arrive_unchanged(mysql_database, rows):
    mysql_database.run(
        "drop table if exists v",
        "create table v (n int primary key auto_increment, u bigint unsigned, d decimal(18,4), t text character set utf8mb4, at datetime(6), da date, f double, b blob)",
    )
    with mysql_database.connected() as con, con.cursor() as cursor:
        cursor.executemany("insert into v (u, d, t, at, da, f, b) values (%s, %s, %s, %s, %s, %s, %s)", rows)
    reader = mysql(mysql_database.url, "v", columns=["u", "d", "t", "at", "da", "f", "b"])
    plan = reader.plan(None)
    results = [reader.read(split, reader.schema(split.source_object)) for split in plan.splits]
    assert sum(result.rejected.num_rows for result in results) == 0
    got = [tuple(row.values())[:-1] for result in results for row in result.rows.to_pylist()]
    assert got == [(None if u is None else Decimal(u), *rest) for u, *rest in rows]
