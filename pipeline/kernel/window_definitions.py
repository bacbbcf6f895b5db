"""Windowed aggregations defined in Python instead of SQL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from pipeline.core.definitions import Emit, Expectation, Layer, Table, caller, names
from pipeline.core.errors import DefinitionError
from pipeline.core.event_time import parse_duration
from pipeline.kernel.sql import sql
from pipeline.kernel.sql_text import quoted
from pipeline.kernel.windows.sql import Kind, interval

START, END = "window_start", "window_end"


@dataclass(frozen=True)
class WindowSpec:
    """The windows over a time column, for `window`."""

    kind: Kind
    on: str
    lengths: tuple[timedelta, ...]

    def sql(self, word: str) -> str:
        """Return the call of a window function, for example `tumble` or `tumble_end`."""
        intervals = ", ".join(interval(length // timedelta(microseconds=1)) for length in self.lengths)
        return f"{word}({quoted(self.on)}, {intervals})"


def tumble(size: str | timedelta, *, on: str) -> WindowSpec:
    """Consecutive windows of `size` (`'15 minutes'`); each row is in exactly one."""
    return WindowSpec("tumble", on, (parse_duration(size, "size"),))


def hop(size: str | timedelta, *, every: str | timedelta, on: str) -> WindowSpec:
    """Windows of `size` that start at intervals of `every`; each row is in all windows that contain its time."""
    return WindowSpec("hop", on, (parse_duration(every, "every"), parse_duration(size, "size")))


def session(gap: str | timedelta, *, on: str) -> WindowSpec:
    """Windows that end once a key has no row for `gap`."""
    return WindowSpec("session", on, (parse_duration(gap, "gap"),))


def window(
    windows: WindowSpec,
    *,
    of: str,
    by: str | Sequence[str] = (),
    where: str | None = None,
    key: str | Sequence[str] | None = None,
    partition_by: str | Sequence[str] | None = None,
    expect: Sequence[Expectation] = (),
    layer: Layer = "silver",
    description: str = "",
    emit: Emit | None = None,
    event_time: str | None = None,
    lateness: str | timedelta | None = None,
    **aggregates: str,
) -> Table:
    """Define a table of aggregates of the table `of`, grouped by window and by the columns `by`.

    Its columns are `window_start` (inclusive), `window_end` (exclusive), the columns `by`, and `aggregates`, which are SQL
    expressions by name. By default, its key is the window and `by`. The table is identical to one defined in SQL;
    `docs/windows.md` compares both.

    Raises `DefinitionError` without aggregates, and for duplicate column names.
    """
    place = caller()
    columns = names(by)
    if not aggregates:
        raise DefinitionError("window() requires aggregates", do="add one, such as flights='count(*)'", place=place)
    taken = [START, END, *columns, *aggregates]
    twice = next((name for name in taken if taken.count(name) > 1), None)
    if twice is not None:
        raise DefinitionError(f"duplicate column name {twice!r}", do="rename one", place=place)
    chosen = [f"{windows.sql(windows.kind)} as {START}", f"{windows.sql(f'{windows.kind}_end')} as {END}"]
    chosen += [quoted(name) for name in columns]
    chosen += [f"{expression} as {quoted(name)}" for name, expression in aggregates.items()]
    condition = f" where {where}" if where else ""
    return sql(
        f"select {', '.join(chosen)} from {quoted(of)}{condition} group by all",
        key=(START, *columns) if key is None else key,
        partition_by=partition_by,
        expect=expect,
        layer=layer,
        description=description,
        emit=emit,
        event_time=event_time,
        lateness=lateness,
    )
