"""The groups of a statement as partial aggregate states in a shard, with and without windows.

A row of state holds the partial aggregates of rows that are in the same windows, with their keys `_k0…`, and:

| column | meaning |
| --- | --- |
| `_from`, `_until` | the begin of the span, and when the state expires, in microseconds like watermarks |
| `_hash` | a hash of the keys without the window, so that all windows of a key are in one shard |
| `_level` | 0 as it arrived, 1 merged |
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
"""The version of the columns above."""
GROUPS = "states"
"""The only state table."""
FROM, UNTIL, LEVEL = "_from", "_until", "_level"
SPAN = (HASH, FROM, UNTIL)
_MERGED = "_merged_states"
MAX_UNMERGED = 1 << 14
"""The number of unmerged rows up to which states are never merged."""


@dataclass(frozen=True)
class Grouping:
    """A grouped statement over one streamed input, decomposed into partial aggregates and a final step."""

    name: str
    """The name of the input."""
    decomposition: Decomposition
    schemas: Mapping[str, Schema]
    """The columns of all tables that the statement reads."""
    windowed: bool
    """Whether `_k0` is a window."""
    layout: Mapping[str, str] = field(default_factory=dict)
    """The common part of the state identity of all grouped statements."""
    rules: Mapping[str, str] = field(default_factory=dict)
    max_unmerged: int = MAX_UNMERGED

    @property
    def types(self) -> CallTypes:
        """The types of the keys and of the aggregates' arguments, determined by DuckDB on first use."""
        return self._types_and_columns[0]

    @property
    def columns(self) -> Schema:
        """The columns of the result, determined like `types`."""
        return self._types_and_columns[1]

    @cached_property
    def _types_and_columns(self) -> tuple[CallTypes, Schema]:
        with connect() as con:
            register(con, {name: Scan(schema) for name, schema in self.schemas.items()})
            types = self.decomposition.types(con)
            states = arrow(con, self.decomposition.partial())
            con.register(STATES, states.slice(0, 0))
            return types, schema_of(con, self.decomposition.answer(types))

    @property
    def by(self) -> tuple[str, ...]:
        """The key columns without the window."""
        return tuple(f"_k{i}" for i in range(int(self.windowed), len(self.decomposition.keys)))

    @property
    def state(self) -> Mapping[str, str]:
        """The state tables."""
        return {GROUPS: self._arrived()}

    def prepared(self, begin: str, until: str, late: str | None, why: str, *, of_rows: bool) -> Prepared:
        """Return how rows become states; `begin` and `until` are SQL over rows (`of_rows`) or over keys."""
        span = (f"{begin} as {FROM}", f"{until} as {UNTIL}")
        select = (
            self.decomposition.partial(*span)
            if of_rows
            else f"select *, {', '.join(span)} from ({self.decomposition.partial()})"
        )
        return Prepared(select, self.by, late, why)

    def take(self, state: StateTables) -> int:
        """Store the states that arrived and return their number."""
        return state.add(GROUPS, self._arrived())

    def no_rows(self) -> str:
        """Return a SELECT of no rows."""
        columns = ", ".join(f"null::{column.type} as {quoted(column.name)}" for column in self.columns.columns)
        return f"select {columns} limit 0"

    def answer(self, state: StateTables, states: str) -> str:
        """Run `states`, a SELECT of states, and return the SELECT of the statement's rows over them."""
        _load_states(state.con, states)
        return self.decomposition.answer(self.types)

    def merge(self, state: StateTables, states: str, condition: str) -> None:
        """Replace the states that satisfy a condition by merged ones.

        `states` is a SELECT of these states in which all rows of a key have the same span.
        """
        con = state.con
        _load_states(con, states)
        # through Arrow, like all states: DuckDB cannot cast every state to its type in a table
        con.register(_MERGED, arrow(con, self.decomposition.merge(self.types, SPAN)))
        try:
            state.forget(GROUPS, condition)
            state.add(GROUPS, f"select *, 1::tinyint as {LEVEL} from {_MERGED}")
        finally:
            con.unregister(_MERGED)

    def compact(self, state: StateTables) -> None:
        """Merge the states of each key and span if necessary."""
        if self.needs_merge(state):
            self.merge(state, f"from {GROUPS}", "true")

    def needs_merge(self, state: StateTables) -> bool:
        """Return whether there are at least as many unmerged as merged rows, so that a row is merged log(n) times."""
        rows, merged = one(state.con, f"select count(*), count(*) filter (where {LEVEL} = 1) from {GROUPS}")
        return int(rows) - int(merged) >= max(self.max_unmerged, int(merged))

    def _arrived(self) -> str:
        return f"select *, 0::tinyint as {LEVEL} from {arrived(self.name)}"


def _load_states(con: duckdb.DuckDBPyConnection, states: str) -> None:
    con.execute(f"create or replace temp table {STATES} as {states}")
