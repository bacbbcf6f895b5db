"""Session windows: rows of a key that are less than a gap apart. Overlapping states are merged.

    rows of a key       a b   c            d            gap: |---|
    sessions            |-------...|       |...|        each row spans one gap; overlapping spans are merged

A session closes when the watermark reaches its end, one gap after its last row; no row in time can extend it then. A
row before the watermark is late, because its session may have closed. A row at the watermark is in time, its session is
open.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.core.state_identity import StateIdentity
from pipeline.kernel.engine import one
from pipeline.kernel.sql_text import quoted
from pipeline.kernel.windows.sql import Window
from pipeline.streaming.operators.grouped_state import FROM, GROUPS, STATE_VERSION, UNTIL, Grouping
from pipeline.streaming.operators.operator import BEGINNING, HASH, Emits, Prepared, WatermarkAdvance
from pipeline.streaming.operators.state_tables import ID, StateTables

_SESSIONS = "_sessions"


@dataclass(frozen=True)
class Sessions:
    """The operator of `session`."""

    grouping: Grouping
    window: Window
    event_time: str
    """The event time column of the input."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The streamed input."""
        return (self.grouping.name,)

    @property
    def emits(self) -> Emits:
        """The row of a session is emitted when the session closes."""
        return "append"

    @property
    def identity(self) -> StateIdentity:
        """The gap, the keys, the aggregates, and the grouped rows."""
        layout = {**self.grouping.layout, "window": self.window.in_words}
        return StateIdentity("session", STATE_VERSION, layout, self.grouping.rules)

    @property
    def state(self) -> Mapping[str, str]:
        """The states by key and session."""
        return self.grouping.state

    @property
    def horizon(self) -> str | None:
        """The end of the last open session."""
        return f"select max({UNTIL}) from {GROUPS}"

    def prepare(self, name: str, before: int) -> Prepared:
        """Return how rows become states by key and stretch of rows that are less than a gap apart.

        A row before the watermark is late: its session may have closed, and sessions never overlap.
        """
        del name
        time, gap = f"epoch_us({self.window.time.sql('duckdb')})", self.window.gap_us
        late = None if before == BEGINNING else f"epoch_us({quoted(self.event_time)}) < {before}"
        begin, until = f"min({time})", f"max({time}) + {gap}"
        return self.grouping.prepared(begin, until, late, "its session may have closed", of_rows=True)

    def advance(self, state: StateTables, progress: WatermarkAdvance) -> str:
        """Return the rows of the sessions that close.

        Only keys with a state that is at least a gap old are processed, and their states are merged. Therefore a key
        that receives rows continuously is processed once per gap.
        """
        grouping = self.grouping
        grouping.take(state)
        is_due = f"{UNTIL} <= {progress.watermark}"
        if grouping.needs_merge(state):
            self._assign_sessions(state, "true")
        elif one(state.con, f"select count(*) from {GROUPS} where {is_due}")[0]:
            self._assign_sessions(state, f"{HASH} in (select {HASH} from {GROUPS} where {is_due})")
        else:
            return grouping.no_rows()
        closed = f"_end <= {progress.watermark}"
        self._merge(state, f"not ({closed}) and _parts > 1")
        out = grouping.answer(state, self._states(closed))
        state.forget(GROUPS, f"{ID} in (select {ID} from {_SESSIONS} where {closed})")
        return out

    def _assign_sessions(self, state: StateTables, condition: str) -> None:
        """Assign the states of some keys to their sessions."""
        keys = ", ".join((HASH, *self.grouping.by))
        before = f"over (partition by {keys} order by {FROM} rows between unbounded preceding and 1 preceding)"
        is_first = f"coalesce({FROM} >= max({UNTIL}) {before}, true) as _is_first"
        rows = f"select *, {is_first} from {GROUPS} where {condition}"
        start = f"max({FROM}) filter (where _is_first) over (partition by {keys} order by {FROM}) as _start"
        of_session = f"over (partition by {keys}, _start)"
        state.con.execute(
            f"create or replace temp table {_SESSIONS} as "
            f"select *, max({UNTIL}) {of_session} as _end, count(*) {of_session} as _parts from (select *, {start} from ({rows}))"
        )

    def _merge(self, state: StateTables, condition: str) -> None:
        parts = f"{ID} in (select {ID} from {_SESSIONS} where {condition})"
        self.grouping.merge(state, self._states(condition), parts)

    def _states(self, condition: str) -> str:
        """Return a SELECT of the states with their session as the window."""
        kind = self.grouping.types.keys[0]
        span = f"make_timestamp(_start)::{kind} as _k0, _start as {FROM}, _end as {UNTIL}"
        return f"select * replace ({span}) from {_SESSIONS} where {condition}"
