"""Reads a table or a query of a database by a cursor column, or in full.

Delivery: with a cursor, each row once per value of its cursor, if it is committed within the lag; without one, the rows
of the table, read again when the database changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.connectors.databases.columns import REJECTED_ROW, DatabaseColumn, FetchedColumn, select_list
from pipeline.connectors.databases.cursor_values import Lag, NullCursors
from pipeline.connectors.databases.cursor_window import (
    QueryOptions,
    QueryRange,
    identity_list,
    plan_query,
    without_lag,
)
from pipeline.connectors.databases.deletes import DELETED, KeyComparison, deletes_of, vanished_rows
from pipeline.connectors.databases.reader import DatabaseReader
from pipeline.connectors.databases.seen_rows import hashes_of
from pipeline.connectors.databases.sessions import LocalDatabase, SqlDatabase, SqlSession
from pipeline.core.clock import Clock, now
from pipeline.core.cursors import UNBOUNDED, Bound, Cursor, ReadPlan
from pipeline.core.errors import DefinitionError
from pipeline.core.findings import Finding, FindingState
from pipeline.core.fingerprint import fingerprint
from pipeline.core.sources import TableRows
from pipeline.core.splits import SourceSplit


@dataclass(frozen=True)
class QueryReader(DatabaseReader):
    """A table or a query of a database."""

    database: SqlDatabase
    options: QueryOptions

    @property
    def fingerprint(self) -> str:
        """A hash of the options that determine the rows; the server is not part of it, and the lag neither."""
        policy = () if self.new_columns == "freeze" else (self.new_columns,)
        deletes = self.options.deletes
        marks = () if deletes is None else ("deletes", deletes.when, deletes.every is not None)
        return fingerprint(self.database.system, without_lag(self.options), *policy, *marks)

    def within(self, folder: Path) -> QueryReader:
        """Return the reader with the relative path of a file resolved against a folder."""
        database = self.database
        return self.replacing(database=database.within(folder)) if isinstance(database, LocalDatabase) else self

    def plan(self, cursor: Cursor | None, bound: Bound = UNBOUNDED) -> ReadPlan:
        """Return the rows that are new since a cursor, ordered by its value and the key."""
        with self.database.connected() as session:
            return plan_query(self.database, session, self.options, cursor, bound)

    @contextmanager
    def opened(self, split: SourceSplit) -> Iterator[_QueryAccess]:
        """Connect to the database."""
        with self.database.connected() as session:
            yield _QueryAccess(self.database, session, self.options, QueryRange.of(split.source_object.stamp))

    def check(self) -> Sequence[Finding]:
        """Check that the table can be read; raise `SourceError` if not."""
        with self.database.connected() as session:
            session.columns(self.options.relation(self.database))
        return (Finding(self.options.shown, FindingState.OK, "can be read"),)


@dataclass(frozen=True)
class _QueryAccess:
    """See `SplitAccess`."""

    database: SqlDatabase
    session: SqlSession
    options: QueryOptions
    rows: QueryRange

    def columns(self) -> tuple[DatabaseColumn, ...]:
        columns = self.session.columns(self.options.relation(self.database))
        wanted, deletes = self.options.columns, self.options.deletes
        chosen = tuple(column for column in columns if not wanted or column.name in wanted)
        return chosen if deletes is None else (*chosen, deletes.column())

    def fetch(self, columns: Sequence[FetchedColumn]) -> pa.Table:
        relation, rows = self.options.relation(self.database), self.rows
        if rows.vanished is not None:
            return vanished_rows(columns, rows.identity, rows.vanished)
        items = select_list(columns, self.database.quote, self._rejection)
        texts = [REJECTED_ROW] if any(each.misfit for each in columns) else []
        if rows.hashes is not None:
            texts += [f"_id{n}" for n in range(len(rows.identity))]
            known = {column.name: column for column in self.session.columns(relation)}
            items = f"{items}, {identity_list(self.database, known, rows.identity)}"
        where = f" where {rows.condition}" if rows.condition else ""
        order = f" order by {rows.order}" if rows.order else ""
        fetched = self.session.rows(f"select {items} from {relation} t{where}{order}", columns, texts)
        return fetched if rows.hashes is None else _only(fetched, len(rows.identity), rows.hashes)

    def _rejection(self, misfits: Sequence[FetchedColumn], columns: Sequence[DatabaseColumn]) -> str:
        """Return SQL for a rejected row, which has the columns of the table."""
        is_marked = self.options.deletes is not None
        return self.database.rejection(misfits, [each for each in columns if not (is_marked and each.name == DELETED)])


@dataclass(frozen=True)
class ComparedReader(QueryReader):
    """A table or a query whose keys are compared with those of the table of its source, to find rows that vanished."""

    stored: TableRows | None = field(default=None, compare=False, repr=False)
    clock: Clock = field(default=now, compare=False, repr=False)

    def compared_with(self, stored: TableRows | None) -> ComparedReader:
        """Return the reader with the newest version of the table."""
        return self.replacing(stored=stored)

    def __getstate__(self) -> dict[str, object]:
        """Pickle without the rows of the table, which only a plan needs."""
        return {**vars(self), "stored": None}

    def plan(self, cursor: Cursor | None, bound: Bound = UNBOUNDED) -> ReadPlan:
        """Return the rows that are new since a cursor, and when it is time, those of keys that vanished."""
        with self.database.connected() as session:
            comparison = KeyComparison(self.clock(), self.stored)
            return plan_query(self.database, session, self.options, cursor, bound, comparison)


def reader_of_query(database: SqlDatabase, options: QueryOptions) -> QueryReader:
    """Return the reader of a table or a query."""
    is_compared = options.deletes is not None and options.deletes.every is not None
    return ComparedReader(database, options) if is_compared else QueryReader(database, options)


def _only(rows: pa.Table, identity: int, hashes: Sequence[str]) -> pa.Table:
    """Return the rows with these hashes, without the columns that identify them."""
    names = [f"_id{n}" for n in range(identity)]
    is_planned = pc.is_in(hashes_of(rows, names), pa.array(hashes, pa.string()))
    return rows.filter(is_planned).drop_columns(names)


def query_options(
    table: str | None,
    query: str | None,
    *,
    columns: Sequence[str] = (),
    key: str | Sequence[str] = (),
    cursor: str | None = None,
    lag: Lag | None = None,
    null_cursors: NullCursors = "include",
    deleted_when: str | None = None,
    reconcile: str | timedelta | None = None,
) -> QueryOptions:
    """Return the options of a reader; raise `DefinitionError` if they contradict each other."""
    if bool(table) == bool(query):
        raise DefinitionError("a database is read by either a table or a query", do="pass table= or query=")
    if isinstance(columns, str):
        raise DefinitionError("columns= must be a list of names", got=repr(columns), do=f"write columns=[{columns!r}]")
    if null_cursors not in {"include", "exclude", "refuse"}:
        raise DefinitionError('null_cursors= must be "include", "exclude" or "refuse"', got=repr(null_cursors))
    if lag is not None and cursor is None:
        raise DefinitionError("lag= needs the name of a column as cursor=", got=repr(lag), do="remove lag=")
    if query and cursor and not key:
        raise DefinitionError(
            "a query with a cursor needs a key", do='pass key="…", with columns that are unique together'
        )
    names = (key,) if isinstance(key, str) else tuple(key)
    text = (query or "").strip().removesuffix(";")
    deletes = deletes_of(deleted_when, reconcile, cursor)
    return QueryOptions(table or "", text, tuple(columns), names, cursor, lag, null_cursors, deletes)
