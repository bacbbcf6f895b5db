"""Groups without a window: a group is emitted again, replacing its previous row, whenever it receives a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from pipeline.core.event_time import format_duration
from pipeline.core.state_identity import StateIdentity
from pipeline.kernel.engine import one
from pipeline.kernel.sql_text import quoted
from pipeline.streaming.operators.grouped_state import GROUPS, STATE_VERSION, UNTIL, Grouping
from pipeline.streaming.operators.operator import BEGINNING, END, HASH, Emits, Prepared, WatermarkAdvance, arrived
from pipeline.streaming.operators.state_tables import StateTables


@dataclass(frozen=True)
class Groups:
    """The operator of GROUP BY without a window.

    With a `ttl`, the state of a group expires when the watermark is that far past its last row, and the next row starts
    it anew. A row is late if its state would expire immediately.
    """

    grouping: Grouping
    ttl_us: int | None = None
    event_time: str = ""
    """The event time column of the input."""
    time: str = ""
    """The same column, as SQL in the statement."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The streamed input."""
        return (self.grouping.name,)

    @property
    def emits(self) -> Emits:
        """A group's row replaces its previous one."""
        return "upsert"

    @property
    def identity(self) -> StateIdentity:
        """The keys, the aggregates, the grouped rows, and how long a group is kept."""
        kept = "for ever" if self.ttl_us is None else format_duration(timedelta(microseconds=self.ttl_us))
        rules = {**self.grouping.rules, "ttl": kept}
        return StateIdentity("group", STATE_VERSION, self.grouping.layout, rules)

    @property
    def state(self) -> Mapping[str, str]:
        """The states by key."""
        return self.grouping.state

    @property
    def horizon(self) -> str | None:
        """No rows wait: they are emitted at every change."""
        return None

    def prepare(self, name: str, before: int) -> Prepared:
        """Return how rows become states by key."""
        del name
        if self.ttl_us is None:
            return self.grouping.prepared("0::bigint", f"{END}::bigint", None, "", of_rows=False)
        late = None if before == BEGINNING else f"epoch_us({quoted(self.event_time)}) + {self.ttl_us} <= {before}"
        # a row without a time does not extend the life of its group
        until = f"coalesce(max(epoch_us({self.time})), {BEGINNING}) + {self.ttl_us}"
        return self.grouping.prepared(
            "0::bigint", until, late, "late: the state of its group has expired", of_rows=True
        )

    def advance(self, state: StateTables, progress: WatermarkAdvance) -> str:
        """Return the rows of the groups that received rows."""
        grouping = self.grouping
        latest = ", ".join((HASH, *grouping.by))
        span = f"max({UNTIL}) over (partition by {latest}) as {UNTIL}"
        if grouping.needs_merge(state):
            grouping.merge(state, f"select * replace ({span}) from {GROUPS}", "true")
        touched = f"select {HASH} from {arrived(grouping.name)}"
        out = grouping.no_rows()
        if grouping.take(state):
            out = grouping.answer(state, f"from {GROUPS} where {HASH} in ({touched})")
        if self.ttl_us is not None:
            self._forget(state, progress.watermark)
        return out

    def _forget(self, state: StateTables, watermark: int) -> None:
        """Delete the groups whose last row has expired. A group that also has newer rows is kept."""
        is_old = f"{UNTIL} <= {watermark}"
        if one(state.con, f"select count(*) from {GROUPS} where {is_old}")[0]:
            seen = f"{HASH} in (select {HASH} from {GROUPS} where {is_old})"
            old = f"select {HASH} from {GROUPS} where {seen} group by {HASH} having max({UNTIL}) <= {watermark}"
            state.forget(GROUPS, f"{is_old} and {HASH} in ({old})")
