"""The state tables of a shard, in its own DuckDB instance, and their changes since the last snapshot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa

from pipeline.kernel.engine import arrow, one
from pipeline.kernel.sql_text import quoted

ID, SINCE = "_id", "_since"
"""The internal columns of every state table: the id of a row, and the first snapshot that contains it."""


@dataclass(frozen=True)
class StateChanges:
    """The changes of a table since the last snapshot: added rows that still exist, and ids of removed rows."""

    added: pa.Table
    removed: pa.Table


@dataclass
class StateTables:
    """The tables of one shard. Rows are added and deleted, never updated."""

    con: duckdb.DuckDBPyConnection
    snapshot: int = 1
    """The number of the next snapshot."""
    _next: dict[str, int] = field(default_factory=dict)

    def create(self, tables: Mapping[str, str]) -> None:
        """Create empty tables, each with the columns of a SELECT."""
        for name, select in tables.items():
            self.con.execute(
                f"create table {quoted(name)} as select *, 0::bigint as {ID}, 0::bigint as {SINCE} "
                f"from ({select}) where false"
            )
            self.con.execute(f"create table {_gone(name)} ({ID} bigint)")
            self._next[name] = 1

    @property
    def tables(self) -> tuple[str, ...]:
        """The names of the tables."""
        return tuple(self._next)

    def add(self, table: str, select: str) -> int:
        """Insert the rows of a SELECT, matching columns by name, and return their number."""
        begin = self._next[table]
        result = self.con.execute(
            f"insert into {quoted(table)} by name "
            f"select *, row_number() over () + {begin - 1} as {ID}, {self.snapshot} as {SINCE} from ({select}\n)"
        ).fetchall()
        added = int(result[0][0])
        self._next[table] = begin + added
        return added

    def forget(self, table: str, condition: str) -> None:
        """Delete the rows that satisfy a condition, which may refer to other tables."""
        name = quoted(table)
        self.con.execute(
            f"insert into {_gone(table)} select {ID} from {name} where {SINCE} < {self.snapshot} and ({condition}\n)"
        )
        self.con.execute(f"delete from {name} where ({condition}\n)")

    def load(self, table: str, rows: pa.Table, *, anew: bool) -> None:
        """Load rows of a snapshot, with their ids; with `anew`, they replace all existing rows."""
        name = quoted(table)
        self.con.register("_loaded", rows)
        if table not in self._next:
            self.con.execute(f"create table {name} as select *, 0::bigint as {SINCE} from _loaded where false")
            self.con.execute(f"create table {_gone(table)} ({ID} bigint)")
        elif anew:
            self.con.execute(f"delete from {name}")
        self.con.execute(f"insert into {name} by name select *, 0 as {SINCE} from _loaded")
        self.con.unregister("_loaded")
        self._next[table] = 1 + int(one(self.con, f"select coalesce(max({ID}), 0) from {name}")[0])

    def reshape(self, table: str, columns: Sequence[str]) -> None:
        """Replace the columns of a table by SQL expressions over its current columns."""
        self.con.execute(
            f"create or replace table {quoted(table)} as select {', '.join([ID, SINCE, *columns])} from {quoted(table)}"
        )

    def remove(self, table: str, numbers: pa.Table) -> None:
        """Delete rows of a snapshot by id."""
        self.con.register("_lost", numbers)
        self.con.execute(f"delete from {quoted(table)} where {ID} in (select {ID} from _lost)")
        self.con.unregister("_lost")

    def drop(self) -> None:
        """Drop all tables."""
        for table in self.tables:
            self.con.execute(f"drop table {quoted(table)}; drop table {_gone(table)}")
        self._next.clear()

    def changes(self, table: str) -> StateChanges:
        """Return the changes of a table since the last snapshot."""
        added = arrow(self.con, f"select * exclude ({SINCE}) from {quoted(table)} where {SINCE} = {self.snapshot}")
        return StateChanges(added, arrow(self.con, f"select {ID} from {_gone(table)} order by {ID}"))

    def mark_snapshot(self) -> None:
        """Start to track changes anew, after a snapshot was written."""
        for table in self.tables:
            self.con.execute(f"delete from {_gone(table)}")
        self.snapshot += 1

    def rows(self, table: str) -> int:
        """Return the number of rows of a table."""
        return int(one(self.con, f"select count(*) from {quoted(table)}")[0])


def _gone(table: str) -> str:
    return quoted(f"{table}_gone")
