"""Windows of a fixed length: state is kept once per pane and shared by all windows that contain the pane.

    windows, one each slide      |---------w0---------|
                                           |---------w1---------|
    panes                        |----p0---|----p1---|----p2----|        w0 = p0 + p1, w1 = p1 + p2

A window closes when the watermark reaches its end. The state of a pane is deleted with the last of its windows. A row
is late if all of its windows have closed. If some are still open, the row counts in those, and a note in the quarantine
records which ones it is too late for. Its state then begins at the watermark.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from pipeline.core.state_identity import StateIdentity
from pipeline.kernel.sql_text import quoted
from pipeline.kernel.windows.sql import MONDAY_US, Window
from pipeline.streaming.operators.grouped_state import FROM, GROUPS, STATE_VERSION, UNTIL, Grouping
from pipeline.streaming.operators.operator import BEGINNING, HASH, PARTLY, Emits, Prepared, WatermarkAdvance, arrived
from pipeline.streaming.operators.state_tables import StateTables

ENDS = "_ends"


@dataclass(frozen=True)
class Panes:
    """The operator of `tumble` and `hop`."""

    grouping: Grouping
    window: Window
    event_time: str
    """The event time column of the input."""
    emits: Emits

    @property
    def inputs(self) -> tuple[str, ...]:
        """The streamed input."""
        return (self.grouping.name,)

    @property
    def identity(self) -> StateIdentity:
        """The window, the keys, the aggregates, and the grouped rows."""
        layout = {**self.grouping.layout, "window": self.window.in_words}
        return StateIdentity(self.window.kind, STATE_VERSION, layout, self.grouping.rules)

    @property
    def state(self) -> Mapping[str, str]:
        """The states by pane and key."""
        return self.grouping.state

    @property
    def horizon(self) -> str | None:
        """The end of the last open window; `None` with `emit="change"`, which does not wait."""
        return f"select max({UNTIL}) from {GROUPS}" if self.emits == "append" else None

    def prepare(self, name: str, before: int) -> Prepared:
        """Return how rows become states by pane and key. A row is late if all of its windows have closed."""
        del name
        late = None if before == BEGINNING else f"{self._until(quoted(self.event_time))} <= {before}"
        begin, partly, note = "epoch_us(_k0)", None, ""
        if late is not None and not self.window.months:
            # equivalent and cheaper: before the first window that has not closed
            size, slide = self.window.size_us, self.window.slide_us
            closed = MONDAY_US + (before - size - MONDAY_US) // slide * slide  # begin of the last closed one
            late = f"epoch_us({quoted(self.event_time)}) < {closed + slide}"
            if slide < size:
                partly = f"epoch_us({quoted(self.event_time)}) < {closed + size}"
                begin = f"greatest(epoch_us(_k0), {before})"
                note = f"{PARTLY}{datetime.fromtimestamp(before / 1e6, UTC):%Y-%m-%d %H:%M:%S.%f}"
        why = "all its windows have closed"
        return replace(
            self.grouping.prepared(begin, self._until("_k0"), late, why, of_rows=False), partly_late=partly, note=note
        )

    def advance(self, state: StateTables, progress: WatermarkAdvance) -> str:
        """Return the rows of the windows that close or, with `emit="change"`, of those that received rows."""
        self.grouping.compact(state)
        arrived_states = self.grouping.take(state)
        out = self.grouping.no_rows()
        if self.emits == "append" and self._some_close(progress):
            out = self.grouping.answer(state, self._by_window(GROUPS, progress.before, progress.watermark))
        elif self.emits == "upsert" and arrived_states:
            out = self._touched(state, progress.before)
        if self._some_close(progress):
            state.forget(GROUPS, f"{UNTIL} <= {progress.watermark}")
        return out

    def _touched(self, state: StateTables, before: int) -> str:
        new = arrived(self.grouping.name)
        if self.window.kind == "tumble":
            return self.grouping.answer(state, f"from {GROUPS} semi join {new} using ({HASH}, {UNTIL})")
        touched = f"select distinct {HASH}, {ENDS} from ({self._by_window(new, before)})"
        near = f"(from {GROUPS} where {HASH} in (select {HASH} from {new}))"
        states = self._by_window(near, before)
        return self.grouping.answer(state, f"from ({states}) semi join ({touched}) using ({HASH}, {ENDS})")

    def _some_close(self, progress: WatermarkAdvance) -> bool:
        """Return whether a window may end after `before` and not after the watermark."""
        if self.window.months:
            return True
        first = MONDAY_US + self.window.size_us
        ends = [(at - first) // self.window.slide_us for at in (progress.before, progress.watermark)]
        return ends[0] < ends[1]

    def _until(self, time: str) -> str:
        """Return SQL for the end of the last window that contains a time, in microseconds like watermarks."""
        begin = f"time_bucket({self.window.step}, {time})"
        if self.window.months:
            return f"epoch_us({begin} + {self.window.length})"
        return f"epoch_us({begin}) + {self.window.size_us}"

    def _by_window(self, states: str, before: int, watermark: int | None = None) -> str:
        """Return a SELECT of the states by window, for windows that end after `before` and not after the watermark."""
        if self.window.kind == "tumble":
            closes = "" if watermark is None else f" and {UNTIL} <= {watermark}"
            return f"select *, {UNTIL} as {ENDS} from {states} where {UNTIL} > {before}{closes}"
        slide, begins = self.window.slide_us, f"greatest({FROM}, {before})"
        first = "0" if watermark is None else f"greatest(0, ({UNTIL} - {watermark} + {slide - 1}) // {slide})"
        last = f"({UNTIL} - {begins} - 1) // {slide} + 1"
        ends = f"{UNTIL} - unnest(range({first}, {last})) * {slide}"
        kind = self.grouping.types.keys[0]
        rows = f"select *, {ends} as {ENDS} from {states} where {UNTIL} > {begins}"
        return f"select * replace (make_timestamp({ENDS} - {self.window.size_us})::{kind} as _k0) from ({rows})"
