"""The systems of databases that one suite runs against: servers that start here, and those that a variable names.

`HEADWATER_TEST_SQLSERVER_URL`, `…_ORACLE_URL`, `…_BIGQUERY_URL` and `…_SNOWFLAKE_TABLE_URL` name a database, data set or schema
of a server that cannot be started here, in which the suite creates and drops tables. The other systems are named in the
same way: without their variable, a fixture starts a server and gives its URL. So what reads the variables is what
PostgreSQL, MariaDB, SQLite and a double of Snowflake run.
"""

from __future__ import annotations

import datetime as dt
import importlib
import os
import sqlite3
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import duckdb
import pytest
import sqlalchemy as sa

from pipeline import adbc, bigquery, duckdb_file, mysql, oracle, snowflake_table, sql_database, sqlite, sqlserver
from pipeline import postgres as read_postgres
from pipeline.connectors.databases.adbc import AdbcDriver
from pipeline.connectors.databases.connecting import libpq_url
from tests.rigs.mysql import MysqlDatabase

BIGINT, TEXT, NUMBER, FLOAT = "bigint", "varchar", "decimal(20,4)", "double"
DATE, TIMESTAMP, TIMESTAMPTZ, BOOLEAN, BLOB = "date", "timestamp", "timestamptz", "boolean", "blob"
"""The types of the suite, as a contract names them."""


@dataclass(frozen=True)
class Dialect:
    """How a system writes the types and values of the suite; a type that it does not have is missing."""

    types: Mapping[str, str]
    quotes: str = '"'
    time: str = "'{}'"
    blob: str = "x'{}'"
    text: str = "'{}'"
    add_column: str = "add column"
    key: str = "primary key"
    has_booleans: bool = True

    def quote(self, name: str) -> str:
        """Return a name in quotes."""
        begin, end = self.quotes[0], self.quotes[-1]
        return f"{begin}{name.replace(end, end * 2)}{end}"

    def literal(self, value: object) -> str:
        """Return a value as SQL."""
        match value:
            case None:
                written = "null"
            case bool():
                written = str(value).lower() if self.has_booleans else str(int(value))
            case dt.datetime():
                written = self.time.format(value.isoformat(" ", "microseconds"))
            case dt.date():
                written = f"'{value}'"
            case bytes():
                written = self.blob.format(value.hex())
            case str():
                written = self.text.format(value.replace("'", "''"))
            case _:
                written = str(value)
        return written


def _types(*names: str) -> dict[str, str]:
    every = (BIGINT, TEXT, NUMBER, FLOAT, DATE, TIMESTAMP, TIMESTAMPTZ, BOOLEAN, BLOB)
    return {kind: name for kind, name in zip(every, names, strict=True) if name}


POSTGRESQL = Dialect(
    _types("bigint", "varchar(100)", "numeric(20,4)", "double precision", "date", "timestamp", "timestamptz", "boolean", "bytea"),
    blob="'\\x{}'",
)  # fmt: skip
MYSQL = Dialect(
    _types("bigint", "varchar(100)", "decimal(20,4)", "double", "date", "datetime(6)", "", "", "varbinary(10)"),
    quotes="`",
)
SQLITE = Dialect(_types("bigint", "varchar(100)", "", "double", "date", "timestamp", "", "boolean", "blob"))
DUCKDB = Dialect(
    _types("bigint", "varchar", "decimal(20,4)", "double", "date", "timestamp", "timestamptz", "boolean", "blob"),
    blob="unhex('{}')",
)
SQLSERVER = Dialect(
    _types("bigint", "nvarchar(100)", "decimal(20,4)", "float", "date", "datetime2(6)", "datetimeoffset(6)", "bit", "varbinary(10)"),
    quotes="[]",
    blob="0x{}",
    text="N'{}'",
    add_column="add",
    has_booleans=False,
)  # fmt: skip
ORACLE = Dialect(
    _types("number(19)", "varchar2(100 char)", "number(20,4)", "binary_double", "", "timestamp(6)", "timestamp(6) with time zone", "", "raw(10)"),
    time="timestamp '{}'",
    blob="hextoraw('{}')",
    add_column="add",
)  # fmt: skip
BIGQUERY = Dialect(
    _types("int64", "string", "numeric(20,4)", "float64", "date", "datetime", "timestamp", "bool", "bytes"),
    quotes="`",
    blob="from_hex('{}')",
    key="primary key not enforced",
)
SNOWFLAKE = Dialect(
    _types("bigint", "varchar(100)", "number(20,4)", "double", "date", "timestamp_ntz(6)", "timestamp_tz(6)", "boolean", "binary"),
)  # fmt: skip


@dataclass(frozen=True)
class SqlSystem:
    """A system, the reader of its connector, and how statements are run in it."""

    name: str
    dialect: Dialect
    read: Callable[..., Any]
    """Returns a reader for the name of a table and options."""
    run: Callable[[Sequence[str]], None]
    """Runs statements, each in a transaction of its own."""
    finds_key: bool = True
    schema: str = ""
    is_double: bool = False
    """Whether it is a double of Snowflake."""
    misfit: str = ""
    """The assignment of a value that does not fit the type of the columns `name` and `at`; empty if there is none."""

    def shown_null(self, kind: str) -> object:
        """Return what a null is read as: the double of Snowflake answers with 1970 for that of a time."""
        if not self.is_double or kind not in {TIMESTAMP, TIMESTAMPTZ}:
            return None
        return dt.datetime(1970, 1, 1, tzinfo=dt.UTC if kind == TIMESTAMPTZ else None)

    def table(self, columns: Mapping[str, str], key: str = "id") -> SqlTable:
        """Create a table without rows."""
        created = SqlTable(self, f"hw_{uuid.uuid4().hex[:12]}", dict(columns), key)
        created.create()
        return created


@dataclass(frozen=True)
class SqlTable:
    """A table of the suite in a system."""

    system: SqlSystem
    name: str
    columns: dict[str, str]
    """The types, as a contract names them."""
    key: str = "id"

    @property
    def quoted(self) -> str:
        """The name in SQL."""
        return ".".join(map(self.system.dialect.quote, [*filter(None, [self.system.schema]), self.name]))

    def create(self) -> None:
        """Create the table."""
        dialect = self.system.dialect
        columns = [f"{dialect.quote(name)} {dialect.types[kind]}" for name, kind in self.columns.items()]
        columns = [f"{each} not null" if name == self.key else each for name, each in zip(self.columns, columns, strict=True)]  # fmt: skip
        first, _, rest = dialect.key.partition("key")
        self.run(f"create table {self.quoted} ({', '.join(columns)}, {first}key ({dialect.quote(self.key)}){rest})")

    def drop(self) -> None:
        """Drop the table."""
        self.run(f"drop table {self.quoted}")

    def insert(self, *rows: Sequence[object]) -> None:
        """Insert rows, in the order of the columns."""
        values = [", ".join(map(self.system.dialect.literal, row)) for row in rows]
        names = ", ".join(map(self.system.dialect.quote, self.columns))
        self.run(*(f"insert into {self.quoted} ({names}) values ({each})" for each in values))

    def add_column(self, name: str, kind: str) -> None:
        """Add a column."""
        dialect = self.system.dialect
        self.run(f"alter table {self.quoted} {dialect.add_column} {dialect.quote(name)} {dialect.types[kind]}")

    def update(self, change: str, where: str = "") -> None:
        """Set columns, whose names are quoted by `[…]`."""
        self.run(f"update {self.quoted} set {self.sql(change)}" + (f" where {self.sql(where)}" if where else ""))

    def delete(self, where: str) -> None:
        """Delete rows."""
        self.run(f"delete from {self.quoted} where {self.sql(where)}")

    def sql(self, text: str) -> str:
        """Return SQL in which names in square brackets are quoted as the system does."""
        before, *parts = text.split("[")
        return before + "".join(f"{self.system.dialect.quote(n)}{rest}" for n, _, rest in (p.partition("]") for p in parts))  # fmt: skip

    def run(self, *statements: str) -> None:
        """Run statements."""
        self.system.run(statements)

    def reader(self, **options: Any) -> Any:
        """Return a reader of the table."""
        if not self.system.finds_key:
            options = {"key": self.key, **options}
        return self.system.read(".".join([*filter(None, [self.system.schema]), self.name]), **options)


def _by_alchemy(url: str) -> Callable[[Sequence[str]], None]:
    def run(statements: Sequence[str]) -> None:
        engine = sa.create_engine(url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)
        engine.dispose()

    return run


def _by_adbc(database: AdbcDriver) -> Callable[[Sequence[str]], None]:
    def run(statements: Sequence[str]) -> None:
        dbapi = importlib.import_module(f"{database.driver}.dbapi")
        is_libpq = database.driver == "adbc_driver_postgresql"
        url = libpq_url(database.address) if is_libpq else database.address.connection_url()
        options = {"db_kwargs": dict(database.settings)} if database.settings else {}
        given = [url] if database.takes_url else []
        with closing(dbapi.connect(*given, autocommit=True, **options)) as con, closing(con.cursor()) as cursor:
            for statement in statements:
                cursor.execute(statement)

    return run


def _alchemy(name: str, dialect: Dialect, connector: Callable[..., Any], variable: str) -> SqlSystem:
    url = os.environ[variable]

    def read(*table: str, **options: Any) -> Any:
        return connector(f"env:{variable}", *table, **options)

    return SqlSystem(name, dialect, read, _by_alchemy(url))


def _adbc(name: str, dialect: Dialect, connector: Callable[..., Any], variable: str) -> SqlSystem:
    def read(*table: str, **options: Any) -> Any:
        return connector(f"env:{variable}", *table, **options)

    is_double = "account=fakesnow" in os.environ[variable]
    return SqlSystem(name, dialect, read, _by_adbc(read("t").database), finds_key=False, is_double=is_double)


def _bigquery(name: str, variable: str) -> SqlSystem:
    """BigQuery, of `bigquery://project/dataset`."""
    project, _, data_set = os.environ[variable].partition("://")[2].partition("/")

    def read(*table: str, **options: Any) -> Any:
        return bigquery(project, *table, **options)

    return SqlSystem(name, BIGQUERY, read, _by_adbc(read("t").database), finds_key=False, schema=data_set)


def _postgres_by_adbc(url: str, *args: Any, **options: Any) -> Any:
    return adbc("adbc_driver_postgresql", url, *args, **options)


@dataclass(frozen=True)
class Named:
    """A system that a variable names; `start` returns the URL of a server that starts here, from its fixture."""

    make: Callable[[str, str], SqlSystem]
    start: Callable[[pytest.FixtureRequest], str] | None = None


def _postgresql_url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue("pg_database").url)


def _fakesnow_url(request: pytest.FixtureRequest) -> str:
    """The URL of a double of Snowflake, in the form of its driver; none if a variable names an account."""
    account = request.getfixturevalue("snowflake_account")
    if account.is_real:
        pytest.skip("not tested here: set HEADWATER_TEST_SNOWFLAKE_TABLE_URL")
    account.url()  # creates the database
    return f"loader:loopback@127.0.0.1:{account.port}/HEADWATER/PUBLIC?account=fakesnow&protocol=http"


NAMED: Mapping[str, Named] = {
    "sql_database_postgresql": Named(
        lambda name, at: _alchemy(name, POSTGRESQL, sql_database, at),
        lambda request: _postgresql_url(request).replace("postgresql:", "postgresql+psycopg:"),
    ),
    "sql_database_mariadb": Named(
        lambda name, at: _alchemy(name, MYSQL, sql_database, at),
        lambda request: MysqlDatabase(request.getfixturevalue("mariadb"), is_mariadb=True).url.replace(
            "mysql:", "mysql+pymysql:"
        ),
    ),
    "sql_database_sqlite": Named(
        lambda name, at: _alchemy(name, SQLITE, sql_database, at),
        lambda request: f"sqlite:///{request.getfixturevalue('tmp_path')}/named.db",
    ),
    "adbc_postgresql": Named(lambda name, at: _adbc(name, POSTGRESQL, _postgres_by_adbc, at), _postgresql_url),
    "sqlserver": Named(lambda name, at: _alchemy(name, SQLSERVER, sqlserver, at)),
    "oracle": Named(lambda name, at: _alchemy(name, ORACLE, oracle, at)),
    "bigquery": Named(_bigquery),
    "snowflake_table": Named(lambda name, at: _adbc(name, SNOWFLAKE, snowflake_table, at), _fakesnow_url),
}
"""By name: each runs if its variable names a server, and otherwise on the server that starts here, if there is one."""


def _postgres(request: pytest.FixtureRequest) -> SqlSystem:
    database = request.getfixturevalue("pg_database")

    def read(*table: str, **options: Any) -> Any:
        return read_postgres(database.url, *table, **options)

    return SqlSystem("postgres", POSTGRESQL, read, lambda each: database.run(*each), misfit="[at] = 'infinity'")


def _mysql(server: str) -> Callable[[pytest.FixtureRequest], SqlSystem]:
    def system(request: pytest.FixtureRequest) -> SqlSystem:
        database = MysqlDatabase(request.getfixturevalue(server), is_mariadb=server == "mariadb")

        def read(*table: str, **options: Any) -> Any:
            return mysql(database.url, *table, **options)

        def run(statements: Sequence[str]) -> None:
            database.run("set sql_mode = ''", *statements)

        return SqlSystem(server, MYSQL, read, run, misfit="[at] = '0000-00-00'")

    return system


def _sqlite(request: pytest.FixtureRequest) -> SqlSystem:
    path = request.getfixturevalue("tmp_path") / "own.db"

    def read(*table: str, **options: Any) -> Any:
        return sqlite(path, *table, **options)

    def run(statements: Sequence[str]) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as con:
            for statement in statements:
                con.execute(statement)

    return SqlSystem("sqlite", SQLITE, read, run, misfit="[name] = x'00'")


def _duckdb(request: pytest.FixtureRequest) -> SqlSystem:
    path = str(request.getfixturevalue("tmp_path") / "own.duckdb")

    def read(*table: str, **options: Any) -> Any:
        return duckdb_file(path, *table, **options)

    def run(statements: Sequence[str]) -> None:
        with duckdb.connect(path) as con:
            for statement in statements:
                con.execute(statement)

    return SqlSystem("duckdb", DUCKDB, read, run, misfit="[at] = 'infinity'")


OWN: Mapping[str, Callable[[pytest.FixtureRequest], SqlSystem]] = {
    "postgres": _postgres,
    "mariadb": _mysql("mariadb"),
    "mysql": _mysql("mysql_server"),
    "sqlite": _sqlite,
    "duckdb": _duckdb,
}
"""The systems that have a connector of their own."""


def sql_system(name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> SqlSystem:
    """Return a system: of a connector of its own, of a variable, or what starts here instead; skip without one."""
    if name in OWN:
        return OWN[name](request)
    named, variable = NAMED[name], f"HEADWATER_TEST_{name.upper()}_URL"
    if variable not in os.environ:
        if named.start is None:
            pytest.skip(f"not tested here: set {variable}")
        monkeypatch.setenv(variable, named.start(request))
    return named.make(name, variable)
