"""Groups of a statement as states in a shard's memory, whatever closes them: a window, a gap, or nothing.

A row of the memory is the states of some rows that are together in every window, with their keys `_k0…`, and:

| column | is |
| --- | --- |
| `_from`, `_until` | when they begin, and when they can be forgotten: microseconds, as watermarks are |
| `_hash` | of the keys without the window, so that all windows of a key are in one shard |
| `_level` | 0 as it arrived, 1 merged: as many rows as arrived since are merged with those that were there before |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import duckdb

from pipeline.core.schema import Schema
from pipeline.kernel.aggregates.decomposition import STATES, CallTypes, Decomposition
from pipeline.kernel.engine import arrow, connect, one, schema_of
from pipeline.kernel.scan import Scan, register
from pipeline.kernel.sql_text import quoted
from pipeline.streaming.operators.operator import HASH, Prepared, arrived
from pipeline.streaming.operators.state_tables import StateTables

STATE_VERSION = 1
"""Of the columns above."""
GROUPS = "states"
"""The one table that is remembered."""
FROM, UNTIL, LEVEL = "_from", "_until", "_level"
SPAN = (HASH, FROM, UNTIL)
_COMBINED = "_combined"
MAX_UNMERGED = 1 << 14
"""So many rows may be there that are not merged, however few there are that are."""


@dataclass(frozen=True)
class Grouping:
    """A grouped statement over one streamed input, taken apart."""

    name: str
    """The input."""
    split: Decomposition
    schemas: Mapping[str, Schema]
    """The columns of all tables that the statement reads."""
    windowed: bool
    """Whether `_k0` is a window."""
    layout: Mapping[str, str] = field(default_factory=dict)
    """The parts of the state's identity that every grouped statement has."""
    rules: Mapping[str, str] = field(default_factory=dict)
    max_unmerged: int = MAX_UNMERGED

    @property
    def types(self) -> CallTypes:
        """The types of the keys and of the calls' arguments; the engine is asked when they are first used."""
        return self._types_and_columns[0]

    @property
    def columns(self) -> Schema:
        """Those of the table that comes out; see `types`."""
        return self._types_and_columns[1]

    @cached_property
    def _types_and_columns(self) -> tuple[CallTypes, Schema]:
        with connect() as con:
            register(con, {name: Scan(schema) for name, schema in self.schemas.items()})
            types = self.split.types(con)
            states = arrow(con, self.split.partial())
            con.register(STATES, states.slice(0, 0))
            return types, schema_of(con, self.split.answer(types))

    @property
    def by(self) -> tuple[str, ...]:
        """The columns of the keys without the window."""
        return tuple(f"_k{i}" for i in range(int(self.windowed), len(self.split.keys)))

    @property
    def state(self) -> Mapping[str, str]:
        """The tables of the memory."""
        return {GROUPS: self._arrived()}

    def prepared(self, begin: str, until: str, late: str | None, why: str, *, of_rows: bool) -> Prepared:
        """Return how rows become states that begin and can be forgotten as the SQL says: over rows, or over keys."""
        span = (f"{begin} as {FROM}", f"{until} as {UNTIL}")
        select = self.split.partial(*span) if of_rows else f"select *, {', '.join(span)} from ({self.split.partial()})"
        return Prepared(select, self.by, late, why)

    def take(self, state: StateTables) -> int:
        """Remember the states that arrived, and return how many they are."""
        return state.add(GROUPS, self._arrived())

    def no_rows(self) -> str:
        """Return the SELECT of no rows."""
        columns = ", ".join(f"null::{column.type} as {quoted(column.name)}" for column in self.columns.columns)
        return f"select {columns} limit 0"

    def answer(self, state: StateTables, states: str) -> str:
        """Return the SELECT of the statement's rows over the states of a SELECT, which is run now."""
        _load_states(state.con, states)
        return self.split.answer(self.types)

    def merge(self, state: StateTables, states: str, condition: str) -> None:
        """Put merged states in the place of those that a condition is true for; `states` is a SELECT of these.

        In it, rows of one key have one span.
        """
        con = state.con
        _load_states(con, states)
        # through Arrow, as all states come: the engine does not cast every state to what it is in a table
        con.register(_COMBINED, arrow(con, self.split.combine(self.types, SPAN)))
        try:
            state.forget(GROUPS, condition)
            state.add(GROUPS, f"select *, 1::tinyint as {LEVEL} from {_COMBINED}")
        finally:
            con.unregister(_COMBINED)

    def compact(self, state: StateTables) -> None:
        """Merge the states of each key and span, if it is time."""
        if self.needs_merge(state):
            self.merge(state, f"from {GROUPS}", "true")

    def needs_merge(self, state: StateTables) -> bool:
        """Return whether it is time to merge: each row is merged as often as their number doubles, no more."""
        rows, merged = one(state.con, f"select count(*), count(*) filter (where {LEVEL} = 1) from {GROUPS}")
        return int(rows) - int(merged) >= max(self.max_unmerged, int(merged))

    def _arrived(self) -> str:
        return f"select *, 0::tinyint as {LEVEL} from {arrived(self.name)}"


def _load_states(con: duckdb.DuckDBPyConnection, states: str) -> None:
    con.execute(f"create or replace temp table {STATES} as {states}")
