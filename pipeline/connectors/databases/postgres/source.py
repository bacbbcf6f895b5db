"""Tables of PostgreSQL, read by transaction: each row version once, with exact values.

Delivery: each row version once, however late it was committed; versions that were replaced before they were read are
left out. Rows come in the order of their places in the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

import pyarrow as pa

from pipeline.connectors.databases.address import DatabaseAddress
from pipeline.connectors.databases.columns import DatabaseColumn, FetchedColumn, select_list
from pipeline.connectors.databases.cursor_values import Lag, NullCursors
from pipeline.connectors.databases.postgres.planning import TableToPlan, plan_table
from pipeline.connectors.databases.postgres.server import PostgresServer
from pipeline.connectors.databases.postgres.session import EXPORTED, PostgresSession, connected, session
from pipeline.connectors.databases.postgres.types import (
    CURSOR_KINDS,
    NUMBER_KINDS,
    TIME_KINDS,
    rejection,
    select_columns,
)
from pipeline.connectors.databases.postgres.windows import RowRange, WindowColumn
from pipeline.connectors.databases.query_reader import QueryReader, query_options, reader_of_query
from pipeline.connectors.databases.reader import DatabaseReader
from pipeline.core.cursors import UNBOUNDED, Bound, Cursor, ReadPlan
from pipeline.core.errors import DefinitionError, Place, SourceError, SourceUnavailableError, did_you_mean
from pipeline.core.event_time import parse_duration
from pipeline.core.findings import Finding, FindingState
from pipeline.core.fingerprint import fingerprint
from pipeline.core.splits import SourceSplit
from pipeline.kernel.sql_text import quoted

TRANSACTION = "xmin"
"""The cursor of every table: the transaction that wrote a row version."""
_DEFAULT_LAG, _DEFAULT_LAG_NUMBER = timedelta(minutes=10), 10_000
_NEWEST = "select pg_snapshot_xmax(pg_current_snapshot())::text::bigint as newest"
_FULL_SCAN = "set_config('enable_indexscan', 'off', false), set_config('enable_bitmapscan', 'off', false)"


@dataclass(frozen=True)
class _Access:
    """See `SplitAccess`."""

    session: PostgresSession
    relation: str
    names: tuple[str, ...]
    rows: RowRange
    is_in_snapshot: bool

    def columns(self) -> tuple[DatabaseColumn, ...]:
        return self.session.columns(self.relation, select_columns(self.names))

    def fetch(self, columns: Sequence[FetchedColumn]) -> pa.Table:
        rows, newest = self.rows, None
        if not (self.is_in_snapshot and rows.has_all and not rows.since):
            newest = self.session.row(_NEWEST)["newest"]
        if not rows.condition:
            self.session.table(f"select {_FULL_SCAN}")
        fetched = self.session.table(rows.query(select_list(columns, quoted, rejection), newest))
        node = self.session.row("select pg_relation_filenode($1::bigint::oid)::bigint as node", (rows.oid,))["node"]
        if node != rows.file_node:
            raise SourceUnavailableError(
                "a table was rewritten, for example by VACUUM FULL, TRUNCATE or ALTER TABLE, after its parts were planned",
                got=rows.heap,
                do="run again",
                place=Place(self.session.address.public()),
            )
        return fetched


@dataclass(frozen=True)
class Postgres(DatabaseReader):
    """A table of PostgreSQL. Create it with `postgres`."""

    address: DatabaseAddress
    table: str
    columns: tuple[str, ...] = ()
    cursor: str | None = None
    lag: Lag | None = None
    null_cursors: NullCursors = "include"

    @property
    def fingerprint(self) -> str:
        """A hash of the options that determine the rows; the server is not part of it, and the lag neither."""
        policy = () if self.new_columns == "freeze" else (self.new_columns,)
        return fingerprint("postgres", self.table, self.columns, self.cursor, self.null_cursors, *policy)

    @property
    def place(self) -> Place:
        """The database, as shown in error messages."""
        return Place(self.address.public())

    @property
    def relation(self) -> str:
        """The quoted name of the table, for SQL."""
        return ".".join(quoted(part) for part in self.table.split("."))

    def plan(self, cursor: Cursor | None, bound: Bound = UNBOUNDED) -> ReadPlan:
        """Return the row versions since a cursor; all ranges are read in one snapshot while this process lives."""
        exporting = connected(self.address)
        is_kept = False
        try:
            snapshot = str(exporting.row("select pg_export_snapshot() as name")["name"])
            with session(self.address, snapshot) as (opened, _):
                table = TableToPlan(self.place.file, self.relation, self._cursor_column(opened), self.cursor is None)
                plan = plan_table(opened, table, cursor, bound)
            if plan.splits:
                plan = replace(plan, splits=tuple(_in_snapshot(split, snapshot) for split in plan.splits))
                EXPORTED.keep(self._key, exporting)  # it has read no table, so it locks none
                is_kept = True
            return plan
        finally:
            if not is_kept:
                exporting.close()

    @property
    def _key(self) -> object:
        return (self.address, self.table, self.columns, self.cursor)

    @contextmanager
    def opened(self, split: SourceSplit) -> Iterator[_Access]:
        """Connect to the server, in the snapshot of the plan if it still exists."""
        rows = RowRange.of(split.source_object.stamp)
        with session(self.address, rows.snapshot or None) as (connection, is_in_snapshot):
            yield _Access(connection, self.relation, self.columns, rows, is_in_snapshot)

    def check(self) -> Sequence[Finding]:
        """Check that the table can be read; raise `SourceError` if not."""
        with session(self.address) as (opened, _):
            opened.columns(self.relation, select_columns(self.columns))
            self._cursor_column(opened)
        return (Finding(self.table, FindingState.OK, "can be read"),)

    def _cursor_column(self, opened: PostgresSession) -> WindowColumn | None:
        if self.cursor is None or self.cursor == TRANSACTION:
            return None
        kinds = {name: kind for name, kind, _ in opened.described(self.relation, "*")}
        kind = kinds.get(self.cursor)
        if kind is None:
            raise SourceError(
                f"there is no column {self.cursor!r} to be the cursor",
                do=did_you_mean(self.cursor, kinds),
                place=self.place,
            )
        if kind not in CURSOR_KINDS:
            raise SourceError(
                f"the column {self.cursor!r} cannot be the cursor",
                got=f"the type {kind}",
                do="choose a number, a time or a text",
                place=self.place,
            )
        return WindowColumn(self.cursor, kind, _lag(self.lag, kind), self.null_cursors)


def _in_snapshot(split: SourceSplit, snapshot: str) -> SourceSplit:
    rows = replace(RowRange.of(split.source_object.stamp), snapshot=snapshot)
    return replace(split, source_object=replace(split.source_object, stamp=rows.stamp()))


def _lag(lag: Lag | None, kind: str) -> str:
    """Return the lag as SQL for a type of the cursor; empty for none."""
    if kind in NUMBER_KINDS:
        if not isinstance(lag, int | None):
            raise DefinitionError(
                "the lag of a cursor that is a number must be a number", got=repr(lag), do="lag=10_000"
            )
        return str(_DEFAULT_LAG_NUMBER if lag is None else lag)
    if kind in TIME_KINDS:
        if isinstance(lag, int):
            raise DefinitionError(
                "the lag of a cursor that is a time must be a duration", got=repr(lag), do='lag="10 minutes"'
            )
        duration = _DEFAULT_LAG if lag is None else parse_duration(lag, "lag")
        return f"interval '{duration // timedelta(microseconds=1)} microseconds'"
    if lag is not None:
        raise DefinitionError("a cursor that is a text has no lag", got=repr(lag), do="remove lag=")
    return ""


def postgres(
    url: str,
    table: str | None = None,
    *,
    query: str | None = None,
    columns: Sequence[str] = (),
    key: str | Sequence[str] = (),
    cursor: str | None = None,
    lag: Lag | None = None,
    null_cursors: NullCursors = "include",
    deleted_when: str | None = None,
    reconcile: str | timedelta | None = None,
    password: str | None = None,
) -> Postgres | QueryReader:
    """Read a table or a query of PostgreSQL 14 or later; a table can be partitioned, or a materialized view.

        orders = source(postgres("postgresql://reader@db.example.com/shop", "public.orders", password="env:PG_PASSWORD"))

    `url` is a URL without a password, or `env:NAME` or `file:PATH` with an entire URL. `columns` are those to read; by
    default all of them.

    Without `cursor`, the rows are those of the table: a run appends what was inserted, and reads everything again if
    rows were updated or deleted. With `cursor="xmin"`, a run appends every row version that was written since the last
    one: inserted and updated rows; deleted rows remain. Both look at the entire table. With the name of an indexed
    column, for example `cursor="updated_at"`, a run looks only at rows whose value is at most `lag` before the greatest
    one that was read (10 minutes, or 10,000 for a number), and among these reads only those that were not read before.
    `null_cursors` says what happens to rows without a value: they are read, left out, or an error.

    A query is read by each run. With `cursor` and `key`, the columns that identify a row, a run reads the rows above the
    greatest value that was read, and those at most `lag` below it that are new; by default, there is no lag.

    `deleted_when` and `reconcile` add the column `_deleted`; see docs/deletes.md. Then a table is read as a query:
    by a cursor column and its primary key or `key`.

    Raises `DefinitionError` for a password that is written out, and for contradictory options.
    """
    chosen = None if cursor == TRANSACTION else cursor
    options = query_options(
        table,
        query,
        columns=columns,
        key=key,
        cursor=chosen,
        lag=lag,
        null_cursors=null_cursors,
        deleted_when=deleted_when,
        reconcile=reconcile,
    )
    if isinstance(lag, str | timedelta):
        parse_duration(lag, "lag")
    if isinstance(lag, int) and lag < 0:
        raise DefinitionError("lag= must not be negative", got=repr(lag))
    address = DatabaseAddress(url, password)
    if table is None:
        if cursor == TRANSACTION:
            raise DefinitionError("a query has no transactions", do="name a column of it as cursor=")
        return reader_of_query(PostgresServer(address), options)
    if options.deletes is not None:
        if cursor is None or cursor == TRANSACTION:
            raise DefinitionError(
                "deleted_when= and reconcile= need the name of a column as cursor=",
                got=f"cursor={cursor!r}",
                do='pass cursor="…", for example the time of the last change',
            )
        return reader_of_query(PostgresServer(address), options)
    if key:
        raise DefinitionError("a table is read by transaction, without a key", got=repr(key), do="remove key=")
    return Postgres(address, table, tuple(columns), cursor, lag, null_cursors)
