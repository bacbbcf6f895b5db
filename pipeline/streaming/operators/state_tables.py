"""What a shard remembers: tables in an engine of its own, which spills, and what changed in them since the last snapshot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa

from pipeline.kernel.engine import arrow, one
from pipeline.kernel.sql_text import quoted

ID, SINCE = "_id", "_since"
"""The columns that every table has besides its own: a number of its row, and the snapshot that first had it."""


@dataclass(frozen=True)
class StateChanges:
    """How a table differs from its last snapshot: rows that came and stayed, and the numbers of those that went."""

    added: pa.Table
    removed: pa.Table


@dataclass
class StateTables:
    """The tables of one shard. Rows are added and taken away, never changed."""

    con: duckdb.DuckDBPyConnection
    snapshot: int = 1
    """The number of the snapshot that comes next."""
    _next: dict[str, int] = field(default_factory=dict)

    def create(self, tables: Mapping[str, str]) -> None:
        """Make the tables, each of the columns of a SELECT, empty."""
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
        """Remember the rows of a SELECT, by the names of its columns, and return how many they are."""
        begin = self._next[table]
        result = self.con.execute(
            f"insert into {quoted(table)} by name "
            f"select *, row_number() over () + {begin - 1} as {ID}, {self.snapshot} as {SINCE} from ({select}\n)"
        ).fetchall()
        added = int(result[0][0])
        self._next[table] = begin + added
        return added

    def forget(self, table: str, condition: str) -> None:
        """Forget the rows for which a condition is true; it may look at other tables."""
        name = quoted(table)
        self.con.execute(
            f"insert into {_gone(table)} select {ID} from {name} where {SINCE} < {self.snapshot} and ({condition}\n)"
        )
        self.con.execute(f"delete from {name} where ({condition}\n)")

    def load(self, table: str, rows: pa.Table, *, anew: bool) -> None:
        """Take rows of a snapshot back, with their numbers; `anew` in the place of all that are there."""
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
        """Give a table other columns: SQL expressions over those that it has."""
        self.con.execute(
            f"create or replace table {quoted(table)} as select {', '.join([ID, SINCE, *columns])} from {quoted(table)}"
        )

    def remove(self, table: str, numbers: pa.Table) -> None:
        """Forget rows of a snapshot by their numbers."""
        self.con.register("_lost", numbers)
        self.con.execute(f"delete from {quoted(table)} where {ID} in (select {ID} from _lost)")
        self.con.unregister("_lost")

    def drop(self) -> None:
        """Remove all tables."""
        for table in self.tables:
            self.con.execute(f"drop table {quoted(table)}; drop table {_gone(table)}")
        self._next.clear()

    def changes(self, table: str) -> StateChanges:
        """Return how a table differs from its last snapshot."""
        added = arrow(self.con, f"select * exclude ({SINCE}) from {quoted(table)} where {SINCE} = {self.snapshot}")
        return StateChanges(added, arrow(self.con, f"select {ID} from {_gone(table)} order by {ID}"))

    def mark_snapshot(self) -> None:
        """Begin to note changes anew: a snapshot has them."""
        for table in self.tables:
            self.con.execute(f"delete from {_gone(table)}")
        self.snapshot += 1

    def rows(self, table: str) -> int:
        """Return how many rows a table has."""
        return int(one(self.con, f"select count(*) from {quoted(table)}")[0])


def _gone(table: str) -> str:
    return quoted(f"{table}_gone")
