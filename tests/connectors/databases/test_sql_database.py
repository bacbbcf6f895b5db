"""Databases that are read by a dialect of SQLAlchemy or a driver of ADBC."""

from __future__ import annotations

import datetime as dt
import sqlite3
from contextlib import closing
from decimal import Decimal

import pyarrow as pa
import pytest
import sqlalchemy as sa
import sqlglot
from sqlalchemy.dialects import oracle as oracle_dialect
from sqlalchemy.dialects import sqlite as sqlite_dialect

from pipeline import adbc, files, snowflake_table, sql_database
from pipeline.connectors.databases.adbc import AdbcDriver
from pipeline.connectors.databases.adbc import exact_text as adbc_text
from pipeline.connectors.databases.address import DatabaseAddress
from pipeline.connectors.databases.columns import DatabaseColumn
from pipeline.connectors.databases.cursor_window import QueryOptions, plan_query
from pipeline.connectors.databases.sql_database import (
    AlchemyDatabase,
    as_stored,
    exact_text,
    exact_value,
    reflected_type,
    sampled_type,
    stored_name,
)
from pipeline.connectors.databases.warehouses import bigquery as read_bigquery
from pipeline.connectors.kafka import Avro
from pipeline.core.cursors import UNBOUNDED, Bound
from pipeline.core.errors import DefinitionError, SettingsError, SourceError, SourceUnavailableError
from pipeline.core.schema import Schema
from pipeline.warehouse.snowflake.connection import snowflake_address


def read(reader, schema=None):
    plan = reader.plan(None)
    contract = reader.schema(plan.splits[0].source_object) if schema is None else Schema.of(schema)
    results = [reader.read(split, contract) for split in plan.splits]
    rows = [row for result in results for row in result.rows.to_pylist()]
    return contract, rows, [row for result in results for row in result.rejected.to_pylist()]


def test_values_of_postgres_by_sqlalchemy(pg):
    pg.run(
        'create table "odd ""t""" (i bigint primary key, s smallint, n numeric(20,4), u numeric, t text, b bytea, d date, at timestamp, z timestamptz, f float8, ok boolean, id uuid, e time)',
    )
    pg.run(
        "insert into \"odd \"\"t\"\"\" values (1, 2, 1.5, 1e40, 'x', '\\x00ff', '2026-01-01', '2026-01-01 00:00:00.5', '2026-01-01 00:00+01', 0.1, true, '00000000-0000-0000-0000-000000000001', '10:00')"
    )
    reader = sql_database(pg.url.replace("postgresql:", "postgresql+psycopg:"), 'public.odd "t"')
    contract, rows, bad = read(reader)
    assert contract.as_dict()["n"] == "DECIMAL(20,4)"
    assert (list(rows[0].values()), bad) == (
        [
            1,
            2,
            Decimal("1.5000"),
            "1" + "0" * 40,
            "x",
            b"\x00\xff",
            dt.date(2026, 1, 1),
            dt.datetime(2026, 1, 1, 0, 0, 0, 500000),  # noqa: DTZ001 - naive
            dt.datetime(2025, 12, 31, 23, tzinfo=dt.UTC),
            0.1,
            True,
            "00000000-0000-0000-0000-000000000001",
            "10:00:00",
            1,
        ],
        [],
    )


def test_values_of_another_type_are_rejected(tmp_path):
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as con:
        con.execute("create table v (i integer, d date, f boolean)")
        con.executemany(
            "insert into v values (?, ?, ?)", [(1, "2026-01-01", True), ("abc", "2026-01-01", True), (3, "soon", False)]
        )
    reader = sql_database(f"sqlite:///{tmp_path}/a.db", "v")
    _, rows, bad = read(reader)
    assert [(row["i"], row["_position"]) for row in rows] == [(1, 1)]
    assert [row["reason"] for row in bad] == ["column 'i' is not BIGINT: abc", "column 'd' is not DATE: soon"]


def test_large_results_are_streamed(tmp_path):
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as con:
        con.execute("begin")
        con.execute("create table v (i integer primary key, t text)")
        con.executemany("insert into v values (?, ?)", [(n, None if n < 15000 else "x") for n in range(25000)])
        con.execute("commit")
        con.execute("begin")
        con.execute("create table w (i integer)")
        con.executemany("insert into w values (?)", [(n if n < 15000 else "word",) for n in range(15002)])
        con.execute("commit")
    assert [len(part) for part in read(sql_database(f"sqlite:///{tmp_path}/a.db", "v"))[1:]] == [25000, 0]
    assert [len(part) for part in read(sql_database(f"sqlite:///{tmp_path}/a.db", "w"))[1:]] == [15000, 2]


def test_queries_take_the_types_of_their_first_values(maria):
    url = maria.url.replace("mysql:", "mysql+pymysql:")
    query = "select 1 as i, 1.5 as n, 'a' as t, null as x, cast('2026-01-01' as date) as d"
    contract, rows, _ = read(sql_database(url, query=query))
    assert contract.as_dict() == {"i": "BIGINT", "n": "VARCHAR", "t": "VARCHAR", "x": "VARCHAR", "d": "DATE"}
    assert rows == [{"i": 1, "n": "1.5", "t": "a", "x": None, "d": dt.date(2026, 1, 1), "_position": 1}]
    assert read(
        sql_database(url, query=query), {"i": "int", "n": "decimal(5,2)", "t": "varchar", "x": "int", "d": "date"}
    )[1][0]["n"] == Decimal("1.50")


def test_types_of_python_values():
    naive, zoned = dt.datetime(2026, 1, 1), dt.datetime(2026, 1, 1, tzinfo=dt.UTC)  # noqa: DTZ001 - naive
    assert sampled_type([naive, None]) == "TIMESTAMP"
    assert sampled_type([zoned]) == "TIMESTAMPTZ"
    assert sampled_type([naive, zoned]) == "VARCHAR"
    assert sampled_type([1, True]) == "VARCHAR"
    assert sampled_type([]) == "VARCHAR"
    assert reflected_type(sa.Numeric(50, 2)) == "VARCHAR"
    assert reflected_type(sa.DateTime(timezone=True)) == "TIMESTAMPTZ"
    assert reflected_type(sa.VARBINARY(5)) == "BLOB"


def test_databases_that_cannot_be_read(pg):
    url = pg.url.replace("postgresql:", "postgresql+psycopg:")
    with pytest.raises(SourceError, match=r'there is no such table: got "public"\."nothing"'):
        sql_database(url, "public.nothing").plan(None)
    with pytest.raises(SourceError, match=r"a database refuses to be read: got .*syntax error"):
        sql_database(url, query="selec 1").plan(None)
    with pytest.raises(SourceUnavailableError, match="a database is unavailable"):
        sql_database("postgresql+psycopg://reader@127.0.0.1:1/shop", "t").plan(None)
    with pytest.raises(SourceError, match='role "nobody" does not exist') as caught:
        sql_database(pg.as_user("nobody").replace("postgresql:", "postgresql+psycopg:"), "t").plan(None)
    assert not isinstance(caught.value, SourceUnavailableError)
    with pytest.raises(SourceError, match="driver of a database is not installed"):
        sql_database("nosuchdialect://reader@db/shop", "t").plan(None)
    with pytest.raises(DefinitionError, match="contains a password"):
        sql_database("postgresql://reader:s3cret@db/shop", "t")
    pg.run("create table v (i int)")
    assert sql_database(url, "public.v").check()[0].detail == "can be read"
    with pytest.raises(SourceError, match="no primary key"):
        sql_database(url, "public.v", cursor="i").plan(None)


def test_values_of_postgres_by_adbc(pg):
    pg.run(
        "create table v (i int, n numeric, id uuid, iv interval)",
        "insert into v values (1, 1.5, '00000000-0000-0000-0000-000000000001', '1 day')",
    )
    reader = adbc("adbc_driver_postgresql", pg.url, "public.v")
    contract, rows, _ = read(reader, {"i": "int", "n": "decimal(5,2)", "id": "varchar", "iv": "varchar"})
    assert rows == [
        {"i": 1, "n": Decimal("1.50"), "id": "00000000-0000-0000-0000-000000000001", "iv": "1 day", "_position": 1}
    ]
    assert reader.plan(reader.plan(None).cursor).changed == "it is read in full by each run"
    assert contract.names == ("i", "n", "id", "iv")


def test_adbc_drivers_that_cannot_be_used(pg, monkeypatch):
    with pytest.raises(SourceError, match="the ADBC driver adbc_driver_nosuch needs an extra"):
        adbc("adbc_driver_nosuch", "nosuch://db", "t").plan(None)
    with pytest.raises(SourceUnavailableError, match="Connection refused"):
        adbc("adbc_driver_postgresql", "postgresql://reader@127.0.0.1:1/shop", "t").plan(None)
    with pytest.raises(SourceError, match="does not exist") as caught:
        adbc("adbc_driver_postgresql", pg.as_user("nobody"), "t").plan(None)
    assert not isinstance(caught.value, SourceUnavailableError)
    with pytest.raises(DefinitionError, match=r"the setting 'auth\.token' must be a reference"):
        adbc("adbc_driver_postgresql", pg.url, "t", settings={"auth.token": "s3cret"})
    monkeypatch.setenv("TOKEN", "s3cret")
    shown = repr(adbc("adbc_driver_postgresql", pg.url, "t", settings={"auth.token": "env:TOKEN"}))
    assert "s3cret" not in shown
    with pytest.raises(AssertionError, match="no misfits are known"):
        AdbcDriver("x", DatabaseAddress("x://db")).rejection([], [])
    with pytest.raises(AssertionError, match="no misfits are known"):
        AlchemyDatabase(DatabaseAddress("sqlite://")).rejection([], [])


class Recorder:
    """A session without a database: records the queries, and answers each with one row."""

    def __init__(self, database):
        self.database, self.queries = database, []

    def columns(self, relation):
        del relation
        kinds = {"ID": "BIGINT", "AT": "TIMESTAMP", "V": "VARCHAR"}
        return tuple(
            DatabaseColumn(n, k, f"t.{self.database.quote(n)}", f"cast(t.{self.database.quote(n)} as varchar(4000))")
            for n, k in kinds.items()
        )

    def key(self, table):
        del table
        return ("ID",)

    def table(self, query):
        self.queries.append(query)
        if query.startswith("select count"):
            return pa.table({"n": [3]})
        if " as high " in query:
            return pa.table({"high": ["2026-01-01 00:00:00"]})
        return pa.table({"_id0": ["1"], "_id1": ["2026-01-01 00:00:00"]})

    def stamp(self):
        return None


class Dialect(AlchemyDatabase):
    """A dialect whose driver is not installed."""

    @property
    def system(self):
        return self.address.url.partition(":")[0]

    def quote(self, name):
        return f"[{name}]" if self.system == "mssql" else f'"{name}"'


@pytest.mark.parametrize(
    ("database", "dialect"),
    [
        (Dialect(DatabaseAddress("mssql://db")), "tsql"),
        (Dialect(DatabaseAddress("oracle://db")), "oracle"),
        (AdbcDriver("adbc_driver_snowflake", DatabaseAddress("snowflake://db")), "snowflake"),
        (read_bigquery("p", "t").database, "bigquery"),
    ],
    ids=["sqlserver", "oracle", "snowflake", "bigquery"],
)
def test_the_sql_of_systems_without_a_server_is_in_their_dialect(database, dialect):
    session = Recorder(database)
    options = QueryOptions("shop.orders", key=("ID",), cursor="AT", lag="1 hour")
    first = plan_query(database, session, options, None, UNBOUNDED)
    plan_query(database, session, options, first.cursor, Bound(rows=10))
    assert len(session.queries) > 6
    for query in session.queries:
        sqlglot.parse_one(query, dialect=dialect)
    if dialect in {"tsql", "oracle"}:
        assert not any(" limit " in query for query in session.queries)
    if dialect == "oracle":
        assert any("timestamp '2025-12-31 23:00:00'" in query for query in session.queries)


@pytest.mark.parametrize(
    ("dialect", "kind", "text"),
    [
        ("mssql", "TIMESTAMP", "convert(varchar(33), t.x, 126)"),
        ("mssql", "TIMESTAMPTZ", "convert(varchar(33), t.x, 126)"),
        ("mssql", "DATE", "convert(varchar(33), t.x, 126)"),
        ("mssql", "DOUBLE", "convert(varchar(33), t.x, 3)"),
        ("mssql", "VARCHAR", "cast(t.x as nvarchar(4000))"),
        ("mssql", "BIGINT", "cast(t.x as nvarchar(4000))"),
        ("oracle", "TIMESTAMP", "to_char(cast(t.x as timestamp(9)), 'YYYY-MM-DD HH24:MI:SS.FF9')"),
        ("oracle", "TIMESTAMPTZ", "to_char(sys_extract_utc(t.x), 'YYYY-MM-DD HH24:MI:SS.FF9') || '+00:00'"),
        ("oracle", "DECIMAL(10,2)", "to_char(t.x, 'TM9', 'nls_numeric_characters=''.,''')"),
        ("oracle", "VARCHAR", None),
        ("postgresql", "TIMESTAMP", None),
    ],
)
def test_the_text_of_a_value_is_exact_in_each_dialect(dialect, kind, text):
    assert exact_text(dialect, "t.x", kind) == text
    if text is not None:
        sqlglot.parse_one(f"select {text} from t", dialect={"mssql": "tsql"}.get(dialect, dialect))


@pytest.mark.parametrize(
    ("system", "kind", "value", "sql"),
    [
        ("mssql", "TIMESTAMP", "2026-01-01T00:00:00.1234567", "'2026-01-01T00:00:00.1234567'"),
        ("mssql", "TIMESTAMP", "2026-01-01 00:00:00.003000", "'2026-01-01T00:00:00.003'"),
        ("mssql", "TIMESTAMPTZ", "2026-01-01 00:00:00.003999+00:00", "'2026-01-01T00:00:00.003+00:00'"),
        ("mssql", "DATE", "2026-01-01", "'2026-01-01'"),
        ("mssql", "VARCHAR", "a b.1234", "'a b.1234'"),
        ("mssql", "VARCHAR", "\u65e5", "N'\u65e5'"),
        ("oracle", "TIMESTAMP", "2026-01-01 00:00:00.000000001", "timestamp '2026-01-01 00:00:00.000000001'"),
        ("oracle", "DATE", "2026-01-01", "timestamp '2026-01-01 00:00:00'"),
    ],
)
def test_the_literal_of_a_value_is_exact_in_each_dialect(system, kind, value, sql):
    column = DatabaseColumn("x", kind, "t.x", "t.x")
    assert Dialect(DatabaseAddress(f"{system}://db")).literal(column, value) == sql


def test_names_of_oracle_are_those_that_it_stores():
    """SQLAlchemy reflects ID as `id`, and `id`, which is another column, as a name that is quoted."""
    oracles, others = oracle_dialect.dialect(), sqlite_dialect.dialect()
    for name in ("ID", "id", "Mixed Case", "SELECT", "_x"):
        assert stored_name(oracles, oracles.normalize_name(name)) == name
        assert oracles.denormalize_name(as_stored(oracles, name, "")[0]) == name
        assert stored_name(others, name) == name
    assert as_stored(oracles, "t", "shop") == ("t", "shop")
    assert oracles.denormalize_name(as_stored(oracles, "t", "shop")[1]) == "shop"
    assert as_stored(others, "t", "") == ("t", None)


def test_times_of_oracle_and_snowflake_keep_their_zone_and_digits():
    assert exact_value("oracle", "t.x", "TIMESTAMPTZ") == "sys_extract_utc(t.x)"  # the driver gives the local time
    assert [exact_value(name, "t.x", "TIMESTAMP") for name in ("oracle", "mssql")] == ["t.x", "t.x"]
    digits = "'YYYY-MM-DD HH24:MI:SS.FF9'"
    assert adbc_text("snowflake", "t.x", "TIMESTAMP") == f"to_varchar(t.x, {digits})"
    utc = f"to_varchar(convert_timezone('UTC', t.x), {digits}) || '+00:00'"
    assert adbc_text("snowflake", "t.x", "TIMESTAMPTZ") == utc
    assert [adbc_text("snowflake", "t.x", "DATE"), adbc_text("postgresql", "t.x", "TIMESTAMP")] == [None, None]


HIDDEN = [
    "jo:s3cret@account/shop/public",
    "jo@corp.example:s3cret@account/shop/public",
    "host=db user=jo password=s3cret dbname=shop",
    "Driver={X};Server=db;UID=jo;PWD=s3cret",
    "jo:s3cret@db:5432",
    "postgresql:jo:s3cret@db/shop",
    "postgresql://jo:s3cret/@db/shop",
    "postgresql://jo:@s3cret/x@db/shop",
    "postgresql://jo:s3cret?@db/shop",
    "postgresql://jo:12?s3cret@db/shop",
    "postgresql://jo:12/s3cret@db/shop",
    "postgresql://jo:s3cret#@db/shop",
    "postgresql://jo:12#s3cret@db/shop",
    "mongodb://jo:s3cret/x@a:27017,b:27017/shop",
]


@pytest.mark.parametrize("url", HIDDEN)
def test_an_address_that_is_not_clear_is_refused_without_being_shown(url, monkeypatch):
    with pytest.raises(DefinitionError, match="URL of a database") as written:
        DatabaseAddress(url)
    monkeypatch.setenv("DB_URL", url)
    by_reference = DatabaseAddress("env:DB_URL")
    for use in (by_reference.public, by_reference.connection_url):
        with pytest.raises(SettingsError, match="URL of a database") as used:
            use()
        assert "s3cret" not in f"{written.value} {used.value}"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql+psycopg://jo:s3cret@db:5432/shop?sslmode=require", "postgresql://db:5432/shop"),
        ("postgresql://jo%40corp:s3%2Fcret@db/shop?user=me@corp.example", "postgresql://db/shop"),
        ("postgresql://jo@corp.example:s3cret@db/shop", "postgresql://db/shop"),
        ("mongodb://jo:s3cret@a:27017,[::1]:27018/shop?replicaSet=r", "mongodb://a:27017,[::1]:27018/shop"),
        ("postgresql:///shop?host=/run/postgresql", "postgresql:///shop"),
        ("sqlite:////data/jo:s3cret@b.db", "sqlite:///b.db"),
        ("mssql+pyodbc:///?odbc_connect=Server%3Ddb%3BUID%3Djo%3BPWD%3Ds3cret", "mssql:"),
        ("oracle+oracledb://jo:s3cret@db/?service_name=shop", "oracle://db"),
        ("grpc+tls://db.example.com:443", "grpc://db.example.com:443"),
    ],
)
def test_an_address_is_shown_without_credentials(url, shown, monkeypatch):
    monkeypatch.setenv("DB_URL", url)
    address = DatabaseAddress("env:DB_URL")
    assert address.public() == shown
    if "s3cret" in url and not url.startswith("sqlite"):
        assert "s3cret" not in address.redacted("login of jo with s3cret failed, PWD=s3cret")
        with pytest.raises(DefinitionError, match="contains a password"):
            DatabaseAddress(url)


def test_addresses_of_other_systems_are_not_shown_with_a_password():
    with pytest.raises(DefinitionError, match="URL of a schema registry contains a user") as registry:
        Avro("https://jo:s3cret@registry.example.com")
    with pytest.raises(DefinitionError, match="port in a URI of files is no number") as file:
        files("sftp://jo:s3cret/x@host/data/*.csv", format="csv")
    with pytest.raises(SettingsError, match=r"the URL of the warehouse is incomplete: got snowflake://…") as warehouse:
        snowflake_address("snowflake://jo:s3cret/x@account/SHOP/PUBLIC")
    assert not any("s3cret" in str(each.value) for each in (registry, file, warehouse))


@pytest.mark.parametrize("url", ["jo:s3cret@account/shop/public", "snowflake://jo:s3cret@account/shop/public"])
def test_the_form_of_snowflakes_driver_is_shown_without_its_password(url, monkeypatch):
    monkeypatch.setenv("DB_URL", url)
    monkeypatch.setenv("DB_PASSWORD", "n/w")
    with pytest.raises(DefinitionError, match="contains a password"):
        snowflake_table(url, "T")
    database = snowflake_table("env:DB_URL", "T").database
    assert (database.uri, database.address.connection_url()) == (
        "snowflake://account/shop/public",
        "jo:s3cret@account/shop/public",
    )
    assert database.address.redacted("incorrect password s3cret") == "incorrect password …"
    other = snowflake_table("jo@account/shop/public", "T", password="env:DB_PASSWORD").database.address  # noqa: S106 - a reference
    assert other.connection_url() == "jo:n%2Fw@account/shop/public"
