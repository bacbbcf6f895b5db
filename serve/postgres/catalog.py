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
from serve.postgres.catalog_rows import CatalogRows
from serve.postgres.catalog_tables import DEFINITIONS, FUNCTIONS, PREFIX, TABLES
from serve.postgres.values import Encoder, sending
from serve.prepared_sql import NO_COLUMN
from serve.queries.deadlines import StatementDeadlines
from serve.queries.engine import DIVISION
from serve.queries.sql_guard import guarded
from serve.queries.values import shown
from serve.reading import Reading
from serve.visible_tables import VisibleTable, visible_tables

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
        self._engines: OrderedDict[tuple[str, tuple[VisibleTable, ...]], duckdb.DuckDBPyConnection] = OrderedDict()
        self._deadlines = StatementDeadlines()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Forget all catalogs."""
        self._deadlines.close()
        with self._lock:
            for each in self._engines.values():
                each.close()
            self._engines.clear()

    def tables(self, caller: Caller) -> tuple[VisibleTable, ...]:
        """Return the tables that a caller may read, as it sees them."""
        return visible_tables(self._reading, caller)

    def schema(self, caller: Caller, sql: str) -> Schema:
        """Return the columns of a SELECT about the catalog.

        Raises `HttpError` if it contains anything else than such questions need, and for what the catalog does not have.
        """
        with self._asking(caller) as cursor:
            return schema_of(cursor, _checked(sql))

    def rows(self, caller: Caller, sql: str, forms: Sequence[int]) -> tuple[Schema, Sequence[Encoder], pa.Table]:
        """Return the columns of a SELECT about the catalog, what is sent of its rows, and how that becomes bytes; see `sending`.

        Raises as `schema` does, and `OverloadError` for one that takes too long.
        """
        checked = _checked(sql)
        with self._asking(caller) as cursor:
            schema = schema_of(cursor, checked)
            made, encoders = sending(checked, schema, forms)
            return schema, encoders, cursor.sql(f"select * from ({made}) limit {_MOST_ROWS}").to_arrow_table()

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


def _checked(sql: str) -> str:
    return guarded(sql, TABLES, more_functions=_ADDED).sql(lambda name: f"select * from main.{quoted(name)}")


def _made(tables: Sequence[VisibleTable], database: str, user: str) -> duckdb.DuckDBPyConnection:
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
