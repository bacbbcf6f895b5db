"""Answers questions about the catalog in an engine of its own, which has nothing but the names and types that the caller may see."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

import duckdb
import pyarrow as pa

from pipeline.core.schema import Schema
from pipeline.kernel.engine import schema_of
from pipeline.kernel.sql_text import quoted
from pipeline.kernel.types import arrow_type
from serve.access.caller import Caller
from serve.http_errors import HttpError, OverloadError
from serve.postgres.catalog_rows import CatalogRows, CatalogTable
from serve.postgres.catalog_tables import DEFINITIONS, FUNCTIONS, PREFIX, TABLES
from serve.prepared_sql import NO_COLUMN
from serve.queries.deadlines import StatementDeadlines
from serve.queries.engine import DIVISION
from serve.queries.sql_guard import guarded
from serve.queries.values import shown
from serve.reading import Reading
from serve.status import visible_schema

_MOST_CATALOGS = 16
_MOST_ROWS = 100_000
_PATIENCE_S = 10.0
_ADDED = frozenset(f"{PREFIX}{name}" for name in FUNCTIONS)


class PostgresCatalog:
    """The catalogs of callers. Callers that see the same share one. Thread-safe."""

    def __init__(self, reading: Reading, database: str) -> None:
        """Use the tables of a project; `database` is its name."""
        self._reading = reading
        self._database = database
        self._engines: OrderedDict[tuple[str, tuple[CatalogTable, ...]], duckdb.DuckDBPyConnection] = OrderedDict()
        self._deadlines = StatementDeadlines()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Forget all catalogs."""
        self._deadlines.close()
        with self._lock:
            for each in self._engines.values():
                each.close()
            self._engines.clear()

    def tables(self, caller: Caller) -> tuple[CatalogTable, ...]:
        """Return the tables that a caller may read and that are computed, as it sees them."""
        grants = self._reading.authorizer.readable(caller)
        found = (self._table(caller, grant.definition.name) for grant in grants)
        return tuple(each for each in found if each is not None)

    def checked(self, sql: str) -> str:
        """Return a SELECT about the catalog, ready to be run; raise `HttpError` if it contains anything else than such questions need."""
        return guarded(sql, TABLES, more_functions=_ADDED).sql(lambda name: f"select * from main.{quoted(name)}")

    def schema(self, caller: Caller, checked: str) -> Schema:
        """Return the columns of a checked SELECT; raise `HttpError` for what the catalog does not have."""
        with self._asking(caller) as cursor:
            return schema_of(cursor, checked)

    def rows(self, caller: Caller, checked: str) -> pa.Table:
        """Return the rows of a checked SELECT; raise as `schema` does, and `OverloadError` for one that takes too long."""
        with self._asking(caller) as cursor:
            return cursor.sql(f"select * from ({checked}) limit {_MOST_ROWS}").to_arrow_table()

    @contextmanager
    def _asking(self, caller: Caller) -> Iterator[duckdb.DuckDBPyConnection]:
        with closing(self._engine(caller).cursor()) as cursor, self._deadlines.within(cursor, _PATIENCE_S):
            try:
                yield cursor
            except (duckdb.InterruptException, duckdb.OutOfMemoryException) as error:
                raise OverloadError("the question about the catalog takes too long", do="ask for less") from error
            except duckdb.Error as error:  # it has only what the caller may see, so that its text may be seen too
                first = str(error).partition("\n")[0]
                column = NO_COLUMN.search(first)
                if column is not None:
                    raise HttpError(f"there is no column {shown(column[1] or column[2])}") from error
                do = "docs/postgres.md says what the catalog has"
                raise HttpError("the catalog cannot be asked this", got=shown(first[:200]), do=do) from error

    def _table(self, caller: Caller, name: str) -> CatalogTable | None:
        reading = self._reading
        grant = reading.authorizer.grant(caller, name)
        schema, version = visible_schema(reading, caller, grant), reading.tables.newest(name)
        if schema is None or version is None:
            return None
        references = tuple(
            (mine, each.table, theirs)
            for each in reading.related.readable(grant.definition, caller)
            if each.is_single
            for mine, theirs in each.pairs
        )
        key = reading.authorizer.columns(grant, caller, version).key
        estimate = reading.authorizer.estimate(grant, version, None) or 0
        return CatalogTable(name, schema, key, grant.definition.description, estimate, references)

    def _engine(self, caller: Caller) -> duckdb.DuckDBPyConnection:
        key = (caller.name, self.tables(caller))
        with self._lock:
            found = self._engines.get(key)
            if found is None:
                found = self._engines[key] = _made(key[1], self._database, caller.name)
                if len(self._engines) > _MOST_CATALOGS:
                    self._engines.popitem(last=False)
            self._engines.move_to_end(key)
            return found


def _made(tables: Sequence[CatalogTable], database: str, user: str) -> duckdb.DuckDBPyConnection:
    con = duckdb.connect(":memory:", config={"memory_limit": "256MB", "threads": 1, "enable_external_access": False})
    con.execute("set python_enable_replacements = false; set timezone = 'UTC'")
    con.execute(DEFINITIONS)
    con.execute(DIVISION)
    for name, rows in CatalogRows(database, user).add(tables).items():
        if rows:
            columns = schema_of(con, f"select * from main.{quoted(name)}").columns
            schema = pa.schema([pa.field(each.name, arrow_type(each.type)) for each in columns])
            con.register("rows", pa.Table.from_pylist(rows, schema))
            con.execute(f"insert into {quoted(name)} select * from rows")
            con.unregister("rows")
    con.execute("set lock_configuration = true")
    return con
