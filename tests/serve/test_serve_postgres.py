"""PostgreSQL's protocol: what a server of PostgreSQL returns for the same rows, to the drivers that people use."""

from __future__ import annotations

import asyncio
import csv
import io
import os
import shutil
import subprocess
import threading
import time
from decimal import Decimal
from pathlib import Path

import adbc_driver_postgresql.dbapi as adbc
import asyncpg
import polars as pl
import psycopg
import pytest
import sqlalchemy
from psycopg import sql as composed

from pipeline.governance.audit_records import records
from serve.postgres.server import PostgresEndpoint
from tests.rigs.postgres import postgres as postgres  # noqa: PLC0414 - the fixture
from tests.serve.conftest import ORDERS, open_cafe

TYPES = "order_id bigint primary key, day date, paid_at timestamptz, guest text, cups integer, price numeric(10,2), rating float8, is_member boolean"
SAME = [
    "select * from cafe_orders order by order_id",
    'select "order_id", guest as "Who" from "public"."cafe_orders" as o where o.cups > 1 order by 1 desc',
    "select guest from cafe_orders where guest ~ '^[AB]' or guest ilike '%žo%' order by 1",
    "select guest from cafe_orders where guest !~* 'o' and guest like '10\\%' order by 1",
    "select guest from cafe_orders where day between '2026-01-05' and '2026-01-06' order by guest collate \"C\"",
    "select cups, count(*), min(day), max(paid_at), bool_and(is_member) from cafe_orders group by cups order by cups desc nulls last",
    "select count(*) filter (where cups > 1), string_agg(guest, ',' order by order_id) from cafe_orders",
    "select cups / 2, 7 / 2, -7 / 2, cups % 2, price * 2, order_id + 1 from cafe_orders where cups is not null order by order_id",
    "select order_id, row_number() over (partition by cups order by order_id) from cafe_orders order by order_id",
    "select count from (select count(*) from cafe_orders) as s",
    "select * from cafe_orders limit 0",
    "select order_id from cafe_orders order by order_id offset 1 fetch first 2 rows only",
    "select order_id from cafe_orders order by price desc, order_id",
    "select rating from cafe_orders order by rating desc nulls last, order_id",
    "select case when cups > 1 then 'many' else 'few' end, coalesce(cups, 0), nullif(cups, 1) from cafe_orders order by order_id",
    "with big as (select * from cafe_orders where price > 2) select guest from big union all select 'x' order by 1",
    "select date_trunc('month', day)::date, extract(year from day)::int, day + 1, day - date '2026-01-01' from cafe_orders order by order_id",
    "select paid_at at time zone 'UTC', paid_at::date, to_char(paid_at, 'YYYY-MM') from cafe_orders order by order_id",
    "select cast(price as int), price::text, order_id::text || '!', guest::varchar(2) from cafe_orders order by order_id",
    "select upper(guest), length(guest), substring(guest from 1 for 2), position('n' in guest), replace(guest, 'n', 'm') from cafe_orders order by 1",
    "select distinct cups from cafe_orders order by cups nulls first",
    "select a.order_id, b.guest from cafe_orders a left join cafe_orders b on a.order_id = b.order_id + 1 order by 1",
    "select guest from cafe_orders where order_id in (select max(order_id) from cafe_orders)",
    "select exists (select 1 from cafe_orders where cups > 2), (select max(cups) from cafe_orders)",
    "select 1, 'a', null, true, 1.5, e'a\\tb', 'it''s', $$x'y$$, date '2020-02-29', timestamp '2020-01-01 10:00:00.25', interval '1 day 2 hours'",
    "select '\\x00ff'::bytea, 'Infinity'::float8, '-Infinity'::float8, 'NaN'::float8, 1e300::float8, 0.1::float4, 3::float8, -0.0::float8",
    "select 123456789012345678::int8, 32767::int2, 99999999.99::numeric(10,2), 0.0001::numeric(10,4), -0.5::numeric(5,2), 10000::numeric(9,1)",
    "select '12:34:56.789'::time, '0044-03-15'::date, '2020-01-01 00:00:00+02'::timestamptz, '9999-12-31'::date",
    "select current_database(), current_schema, 1 as current_user",
    "select 'public'::text = any(current_schemas(false)), pg_is_in_recovery()",
    "select format_type(1700, 655366), format_type(23, null), 'int4'::regtype::oid",
    "select attname, format_type(atttypid, atttypmod) from pg_attribute where attrelid = 'cafe_orders'::regclass and attnum > 0 order by attnum",
    "select table_name, column_name, data_type, is_nullable from information_schema.columns where table_schema = 'public' and table_name = 'cafe_orders' order by ordinal_position",
    "select kcu.column_name from information_schema.table_constraints tc join information_schema.key_column_usage kcu using (constraint_name) where tc.table_name = 'cafe_orders' and tc.constraint_type = 'PRIMARY KEY'",
    "select c.relname, c.relkind from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace where n.nspname = 'public' and c.relname like 'cafe%' order by 1",
    "select i.indisprimary, pg_get_indexdef(i.indexrelid) from pg_index i where i.indrelid = 'public.cafe_orders'::regclass",
    "show standard_conforming_strings",
    "show transaction isolation level",
]  # fmt: skip
"""Statements that mean the same to a server of PostgreSQL."""
LONG = f"select count(*) from {', '.join(f'cafe_orders t{n}' for n in range(14))} where {' + '.join(f't{n}.order_id' for n in range(14))} = 47"
"""Hours."""
NUMBERS = {20, 21, 23, 700, 701, 1700}
REFUSED = [
    ("select nope from cafe_orders", "42703"), ("select * from nope", "42P01"), ("select * from other.cafe_orders", "3F000"),
    ("select * from elsewhere.public.cafe_orders", "3D000"), ("selec 1", "0A000"), ("select (", "42601"), ("select 'a", "42601"),
    ("insert into cafe_orders values (1)", "0A000"), ("delete from cafe_orders", "0A000"), ("create table x (a int)", "0A000"),
    ("explain select 1", "0A000"), ("vacuum", "0A000"), ("select read_text('/etc/passwd')", "42601"),
    ("select * from read_parquet('/etc/*')", "42601"), ("select * from '/etc/passwd'", "42P01"), ("select pg_read_file('/etc/passwd')", "42601"),
    ("select pg_sleep(10)", "42601"), ("select * from pg_catalog.pg_authid", "3F000"), ("select * from pg_shadow", "42P01"), ("show nonsense", "42704"),
    ("set nonsense = 1", "42704"), ("set client_encoding = 'latin1'", "22023"), ("select $1", "42P02"), ("fetch 1 from nothing", "34000"),
    ("select current_setting('x') from duckdb_settings()", "42601"), ("select * from pg_class, duckdb_settings()", "42601"),
    ("select getenv('HOME') from pg_class", "42601"), ("select 'x'::nonsense", "0A000"),
    ("select sum(guest) from cafe_orders", "42804"), ("select * from pg_class where relname = read_text('x')", "42601"),
]  # fmt: skip


@pytest.fixture(scope="module")
def cafe(tmp_path_factory):
    return open_cafe(tmp_path_factory.mktemp("cafe"))


@pytest.fixture(scope="module")
def server(cafe):
    with cafe.client() as client:
        server = PostgresEndpoint(client.app.state.backend, "127.0.0.1", 0)
        yield server
        server.close()


@pytest.fixture(scope="module")
def key(cafe):
    return cafe.key(roles=["staff"])


def options(server, key):
    return {"host": "127.0.0.1", "port": server.port, "user": "me", "password": key, "dbname": "cafe"}


@pytest.fixture
def connection(server, key):
    with psycopg.connect(**options(server, key), autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="module")
def peer(postgres):
    """A server of PostgreSQL with the same rows."""
    with psycopg.connect(postgres.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("drop database if exists cafe")
        connection.execute("create database cafe")
    url = postgres.replace("+psycopg", "").rpartition("/")[0] + "/cafe"
    with psycopg.connect(url, autocommit=True, options="-c timezone=UTC") as connection:
        connection.execute(f"create table cafe_orders ({TYPES})")
        for row in csv.reader(io.StringIO(ORDERS)):
            values = [None if text == "" else text for text in row]
            connection.execute(
                composed.SQL("insert into cafe_orders values ({})").format(composed.SQL(", ").join(values))
            )
        yield connection


def answered(connection, sql, *, binary):
    cursor = connection.execute(sql, binary=binary)
    result = cursor.pgresult
    raw = [[result.get_value(row, column) for column in range(result.nfields)] for row in range(result.ntuples)]
    return (
        [each.name for each in cursor.description],
        [each.type_code for each in cursor.description],
        cursor.fetchall(),
        raw,
    )


def number(value):
    return value if value is None else float(value)


@pytest.mark.parametrize("sql", SAME)
def test_rows_names_and_types_are_those_of_postgresql(connection, peer, sql):
    for binary in (False, True):
        names, oids, rows, raw = answered(connection, sql, binary=binary)
        their_names, their_oids, their_rows, their_raw = answered(peer, sql, binary=binary)
        assert names == their_names
        assert len(rows) == len(their_rows)
        for column, (oid, theirs) in enumerate(zip(oids, their_oids, strict=True)):
            mine, expected = ([row[column] for row in each] for each in (rows, their_rows))
            if {oid, theirs} <= NUMBERS and oid != theirs:
                assert list(map(number, mine)) == list(map(number, expected))
                continue
            assert repr(mine) == repr(expected)
            if oid == theirs and oid != 1700 and not binary:
                assert [row[column] for row in raw] == [row[column] for row in their_raw]


def test_columns_of_a_table_have_the_types_of_postgresql(connection, peer):
    for binary in (False, True):
        mine, theirs = (answered(each, SAME[0], binary=binary) for each in (connection, peer))
        assert mine[1] == theirs[1]
        assert mine[3] == theirs[3], "the same bytes"


@pytest.mark.parametrize(("sql", "code"), REFUSED)
def test_what_is_refused_has_a_code_and_the_session_goes_on(connection, sql, code):
    with pytest.raises(psycopg.Error) as caught:
        connection.execute(sql)
    assert caught.value.sqlstate == code, caught.value
    assert connection.execute("select count(*) from cafe_orders").fetchone() == (5,)


def test_parameters_in_text_and_in_binary(connection):
    sql = "select guest from cafe_orders where cups = %s and price > %s and guest <> %s and day >= %s limit %s"
    for _ in range(7):  # psycopg prepares a statement that it has sent five times
        rows = connection.execute(sql, (1, Decimal("2.4"), "Ann", "2026-01-05", 3)).fetchall()
        assert rows == [("Žoë 🫖",)]
    typed = "select %b::int + 1, %b::text, %b::float8, %b::bool, %b::bytea, %b::numeric(10,2)"
    assert connection.execute(typed, (41, "it's; --", 1.5, True, b"\x00\xff", Decimal("-12345.67"))).fetchone() == (
        42, "it's; --", 1.5, True, b"\x00\xff", Decimal("-12345.67"),
    )  # fmt: skip
    injected = "' or true --"
    assert connection.execute("select count(*) from cafe_orders where guest = %s", (injected,)).fetchone() == (0,)
    assert connection.execute(
        "select guest from cafe_orders where order_id = any(%s) order by 1", ([1, 2],)
    ).fetchall() == [("Ann",), ("Bo",)]
    assert (
        connection.execute(
            "select guest from cafe_orders where guest = any(%s)", (["Ann", 'O\'Hara, "Kit"', None],)
        ).rowcount
        == 2
    )
    assert connection.execute("select %s::text is null", (None,)).fetchone() == (True,)
    for form in ("%s", "%b"):
        exact = connection.execute(f"select {form} = 1.123456789012345678", (Decimal("1.123456789012345678"),))
        assert exact.fetchone() == (True,)


@pytest.mark.parametrize(
    "options",
    [
        "", "(format csv, header)", "with csv header", "(format binary)", "binary", "(format csv, delimiter ';', null 'N')", "(delimiter '|')",
        "(format csv, quote '''', header false)",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "query",
    [
        "(select * from cafe_orders order by order_id)", "cafe_orders (order_id, guest, cups)", "(select 1 where false)", "(select '\\.')",
        "(select e'a\\tb\\n\\\\c', ',\"', '', null, '\\.')",
    ],
)  # fmt: skip
def test_copies_have_the_bytes_of_postgresql(connection, peer, query, options):
    copied = []
    for each in (connection, peer):
        with each.cursor().copy(f"copy {query} to stdout {options}") as copy:
            copied.append([bytes(part) for part in copy])
    assert copied[0] == copied[1]


@pytest.mark.parametrize(
    "sql",
    [
        "copy cafe_orders to '/tmp/x'", "copy cafe_orders from stdin", "copy (select 1) to stdout (format csv, force_quote *)",
        "copy (select 1) to program 'x'", "copy (select $1) to stdout", "copy (delete from x) to stdout",
    ],
)  # fmt: skip
def test_copies_that_are_refused(connection, sql):
    with pytest.raises(psycopg.Error) as caught:
        connection.execute(sql)
    assert caught.value.sqlstate in {"0A000", "42601"}
    assert connection.execute("select 1").fetchone() == (1,)


def test_adbc_and_connectorx_read_in_binary(server, key):
    url = f"postgresql://me:{key}@127.0.0.1:{server.port}/cafe"
    sql = "select order_id, day, paid_at, guest, rating, is_member from cafe_orders where cups > 0 order by order_id"
    with adbc.connect(url) as connected, connected.cursor() as cursor:
        cursor.execute(sql)
        found = cursor.fetch_arrow_table()
        kinds = [str(kind) for kind in found.schema.types]
        assert kinds == ["int64", "date32[day]", "timestamp[us, tz=UTC]", "string", "double", "bool"]
        assert found.column("order_id").to_pylist() == [1, 2, 3, 4]
        cursor.execute("select guest from cafe_orders where cups = $1 order by 1", (1,))
        assert cursor.fetchall() == [("Ann",), ("Žoë 🫖",)]
    frame = pl.read_database_uri("select order_id, paid_at, price, guest from cafe_orders", url)
    assert sorted(frame["order_id"]) == [1, 2, 3, 4, 5]


def test_asyncpg_has_all_values_in_binary_form(server, key, connection):
    async def ask():
        found = await asyncpg.connect(host="127.0.0.1", port=server.port, user="me", password=key, database="cafe")
        try:
            rows = await found.fetch(
                "select * from cafe_orders where order_id = any($1) and price > $2 order by order_id limit $3",
                [1, 2, 5],
                Decimal(0),
                9,
            )
            async with found.transaction():
                numbers = [
                    row[0] async for row in found.cursor("select order_id from cafe_orders order by 1", prefetch=2)
                ]
            await found.reset()
            with pytest.raises(asyncpg.UndefinedTableError):
                await found.fetch("select * from nope")
            return [tuple(row) for row in rows], numbers
        finally:
            await found.close()

    rows, numbers = asyncio.run(ask())
    assert repr(rows) == repr(
        connection.execute("select * from cafe_orders where order_id in (1, 2) order by 1").fetchall()
    )
    assert numbers == [1, 2, 3, 4, 5]


@pytest.mark.proof
def test_jdbc(server, key):
    folder = Path(__file__).parents[2] / ".peers" / "jars"
    driver = next(folder.glob("postgresql-*.jar"), None)
    if driver is None or shutil.which("java") is None:
        pytest.skip("the JDBC driver of PostgreSQL or Java is not installed: make peers")
    program = Path(__file__).parents[1] / "rigs" / "PostgresClient.java"
    url = f"jdbc:postgresql://127.0.0.1:{server.port}/cafe"
    words = ["java", "-cp", str(driver), str(program), url, key]
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "table cafe_orders One row per order." in lines
    assert [line for line in lines if line.startswith(("column", "key", "index", "right", "imported"))] == [
        "column order_id int8 0", "column day date 1", "column paid_at timestamptz 1", "column guest text 1", "column cups int4 1",
        "column price numeric 1", "column rating float8 1", "column is_member bool 1", "key order_id 1 cafe_orders_pkey",
        "index cafe_orders_pkey order_id", "right SELECT",
    ]  # fmt: skip
    assert [line for line in lines if line.startswith("row")] == [
        f"row {turn} {row}" for turn in range(4) for row in ("Ann 2.50", "Žoë 🫖 2.50")
    ]
    assert [line for line in lines if line.startswith("fetched")] == [f"fetched {number}" for number in range(1, 6)]
    assert lines[-2:] == ["error 42P01", "valid true public cafe"]


def test_sqlalchemy_finds_tables_columns_and_keys(server, key):
    engine = sqlalchemy.create_engine(f"postgresql+psycopg://me:{key}@127.0.0.1:{server.port}/cafe")
    try:
        inspector = sqlalchemy.inspect(engine)
        assert sorted(inspector.get_table_names()) == ["cafe_orders", "cups", "guests", "nobody", "shapes"]
        assert inspector.get_pk_constraint("cafe_orders")["constrained_columns"] == ["order_id"]
        assert inspector.get_table_comment("cafe_orders") == {"text": "One row per order."}
        assert (
            str({each["name"]: each["type"] for each in inspector.get_columns("cafe_orders")}["price"])
            == "NUMERIC(10, 2)"
        )
        orders = sqlalchemy.Table("cafe_orders", sqlalchemy.MetaData(), autoload_with=engine)
        asked = (
            sqlalchemy.select(orders.c.cups, sqlalchemy.func.sum(orders.c.price))
            .where(orders.c.cups > 1)
            .group_by(orders.c.cups)
        )
        with engine.connect() as found:
            assert sorted(found.execute(asked).all()) == [(2, Decimal("5.00")), (3, Decimal("7.50"))]
    finally:
        engine.dispose()


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (r"\dt", " public | cafe_orders | table | cafe"),
        (r"\d cafe_orders", '    "cafe_orders_pkey" PRIMARY KEY, btree (order_id)'),
        (r"\d+ guests", " guest  | text "),
        (r"\l", " cafe | cafe "),
        (r"\dn", " public | cafe"),
        (r"\du", " a test "),
        (r"\di", " public | cafe_orders_pkey | index | cafe  | cafe_orders"),
        (r"\dp guests", "a test=r/cafe"),
        ("select guest, cups from cafe_orders where order_id = 1", " Ann   |    1"),
    ],
)
def test_psql(server, key, command, expected):
    program = shutil.which("psql")
    if program is None:
        pytest.skip("psql is not installed")
    words = [program, "-X", "-h", "127.0.0.1", "-p", str(server.port), "-U", "me", "-d", "cafe", "-c", command]
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, env={"PGPASSWORD": key, "LC_ALL": "C.UTF-8"}
    )
    assert expected in done.stdout, done.stdout + done.stderr


def test_transactions_and_cursors(connection):
    assert connection.execute("begin isolation level read committed read only").statusmessage == "BEGIN"
    connection.execute("declare c1 cursor for select order_id from cafe_orders order by 1")
    assert connection.execute("fetch 2 from c1").fetchall() == [(1,), (2,)]
    assert connection.execute("fetch forward all from c1").fetchall() == [(3,), (4,), (5,)]
    assert connection.execute("close c1").statusmessage == "CLOSE CURSOR"
    with pytest.raises(psycopg.errors.UndefinedTable):
        connection.execute("select * from nope")
    with pytest.raises(psycopg.errors.InFailedSqlTransaction):
        connection.execute("select 1")
    assert connection.execute("commit").statusmessage == "ROLLBACK"
    connection.execute('declare "C 2" no scroll cursor with hold for select 1')
    assert connection.execute('fetch all in "C 2"').fetchall() == [(1,)]
    with pytest.raises(psycopg.errors.NoActiveSqlTransaction):
        connection.execute("declare c3 cursor for select 1")
    connection.execute("begin")
    connection.execute("declare c4 cursor for select 1")
    connection.execute("commit")
    with pytest.raises(psycopg.errors.InvalidCursorName):
        connection.execute("fetch 1 from c4")
    connection.execute("begin; savepoint a; rollback to a; release a; commit")
    with (
        psycopg.connect(**{**connection.info.get_parameters(), "password": connection.info.password}) as other,
        other.cursor(name="n") as cursor,
    ):
        cursor.itersize = 2
        assert [row[0] for row in cursor.execute("select order_id from cafe_orders order by 1")] == [1, 2, 3, 4, 5]


def test_several_statements_and_settings(connection):
    cursor = connection.execute("set application_name = 'report; 1'; select 1; select 2")
    assert [cursor.statusmessage, cursor.nextset() and cursor.fetchall(), cursor.nextset() and cursor.fetchall()] == [
        "SET",
        [(1,)],
        [(2,)],
    ]
    assert connection.execute("show application_name").fetchone() == ("report; 1",)
    assert connection.execute("set session datestyle to 'ISO, DMY'").statusmessage == "SET"
    assert connection.execute("set names 'utf8'").statusmessage == "SET"
    assert connection.execute("set time zone 'Europe/Berlin'").statusmessage == "SET"
    assert connection.execute("show time zone").fetchone() == ("UTC",)
    assert connection.execute("").statusmessage is None or True
    assert connection.execute("discard all").statusmessage == "DISCARD ALL"


def test_a_statement_is_cancelled_and_the_session_goes_on(connection):
    timer = threading.Timer(0.3, connection.cancel_safe)
    timer.start()
    begun = time.monotonic()
    with pytest.raises(psycopg.errors.QueryCanceled):
        connection.execute(LONG)
    timer.join()
    assert time.monotonic() - begun < 5
    assert connection.execute("select 1").fetchone() == (1,)


@pytest.mark.usefixtures("server")
def test_statements_are_in_the_audit_log(cafe, connection):
    connection.execute("select order_id from cafe_orders where cups > 0")
    until = time.monotonic() + 5
    while time.monotonic() < until:
        found = [
            each for each in records(cafe.root / ".headwater" / "audit" / "dev") if each.get("table") == "cafe_orders"
        ]
        if found and found[-1]["rows"] == 4:
            break
        time.sleep(0.05)
    last = found[-1]
    assert (last["path"], last["method"], last["status"], last["rows"], last["caller_name"]) == (
        "/postgres",
        "SELECT",
        200,
        4,
        "a test",
    )
