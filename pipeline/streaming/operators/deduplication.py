"""Deduplication: keeps the first row of each key within a span of event time, or the last row of each key.

key=id, within="1 hour", keep="first"

10:00  10:30  11:00  11:01  11:50       12:30
  o------x------x      o------x-----------o        o is emitted; x is a duplicate
  |<-- 1 hour ->|      |<-- 1 hour -->|
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Literal

from sqlglot import exp

from pipeline.core.definitions import Expectation, Layer, Table, caller, names, streaming_of
from pipeline.core.errors import DefinitionError, Place
from pipeline.core.event_time import format_duration, parse_duration
from pipeline.core.fingerprint import fingerprint
from pipeline.core.partition_fields import partitioning
from pipeline.core.schema import Schema
from pipeline.core.sources import POSITION, SOURCE
from pipeline.core.state_identity import StateIdentity, columns_part
from pipeline.kernel.sql import SqlTransform, parse, sql_table
from pipeline.kernel.sql_text import listed, quoted
from pipeline.streaming.operators.batch_form import (
    LATE,
    StreamedInput,
    before_the_watermark,
    micros,
    require_columns,
    required,
)
from pipeline.streaming.operators.operator import HASH, Emits, Operator, Prepared, WatermarkAdvance, arrived
from pipeline.streaming.operators.state_columns import (
    LOG_POSITION,
    PREFIX,
    from_internal,
    in_log_order,
    internal_list,
    internal_struct,
    to_internal,
)
from pipeline.streaming.operators.state_tables import StateTables

Keep = Literal["first", "last"]
STATE_VERSION = 1
"""The version of the state columns of both operators."""
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class Deduplication:
    """Which rows of a key are kept."""

    key: tuple[str, ...]
    event_time: str
    keep: Keep
    within_us: int | None = None


def deduplicate(  # noqa: PLR0913 - options of a definition
    table: str,
    *,
    key: str | Sequence[str],
    event_time: str,
    keep: Keep = "first",
    within: str | timedelta | None = None,
    partition_by: str | Sequence[str] | None = None,
    expect: Sequence[Expectation] = (),
    layer: Layer = "silver",
    description: str = "",
    lateness: str | timedelta | None = None,
) -> Table:
    """Define a table of the rows of another table without duplicates: rows with equal `key`. Nulls are equal.

    Rows are ordered by `event_time`, then by `_source` and `_position` where the table has them, then by all columns
    from first to last. The result does not depend on the order of arrival. Rows without an event time are excluded.

    `keep="first"` emits the first row of a key once the watermark has passed it. With `within`, later rows of the key
    up to and including that long after it are duplicates; the first row after that is emitted in turn. A stream keeps
    the state of a key for `within`, or forever without it.

    `keep="last"` keeps the last row of a key. A stream emits each new last row immediately; it replaces the previous
    one. The state of a key expires once the watermark has passed its last row.

    `event_time` is also the event time of the resulting table, with `lateness`, for streams that read it.

    Raises `DefinitionError` for `within` with `keep="last"`, an unknown `keep`, and an empty key.
    """
    place = caller()
    columns = names(key)
    if keep not in {"first", "last"}:
        raise DefinitionError("keep= must be 'first' or 'last'", got=repr(keep), place=place)
    if not columns:
        raise DefinitionError("deduplicate needs a key", do="set key= to at least one column", place=place)
    if within is not None and keep == "last":
        raise DefinitionError(
            "within= requires keep='first'",
            got=repr(within),
            do="remove within=, because keep='last' keeps one row per key",
            place=place,
        )
    horizon = None if within is None else parse_duration(within, "within", place) // _MICROSECOND
    how = Deduplication(columns, event_time, keep, horizon)
    return sql_table(
        DeduplicateTransform(f"select * from {quoted(table)}", table, how),
        place,
        expect=tuple(expect),
        layer=layer,
        key=() if within is not None else columns,
        partition_by=partitioning(partition_by, place),
        description=description,
        streaming=streaming_of(None, None, event_time, lateness, place),
    )


@dataclass(frozen=True)
class DeduplicateTransform(SqlTransform):
    """The rows of a table without duplicates, as one SQL statement."""

    table: str
    how: Deduplication

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """The name of the table."""
        return (self.table,)

    @property
    def fingerprint(self) -> str:
        """A hash of the table's name and of the options."""
        return fingerprint("deduplicate", self.table, self.how)

    @property
    def sql(self) -> str:
        """The statement for a table without log positions."""
        return self._sql(())

    def tree_over(self, columns: Mapping[str, Collection[str]]) -> exp.Query:
        """Return the statement, which orders rows with equal times by log position where the table has one."""
        known = {name.lower() for name in columns.get(self.table, ())}
        place = tuple(name for name in (SOURCE, POSITION) if name in known)
        return parse(self._sql(place)) if place else self.tree

    def _sql(self, place: Sequence[str]) -> str:
        how, time = self.how, micros(self.how.event_time)
        key = listed(how.key)
        # the fingerprint makes these names differ from the columns of the table, which are not known here
        row, at, n = (f"_{name}_{self.fingerprint}" for name in ("row", "at", "n"))
        source = f"from {quoted(self.table)} as {row} where {time} is not null"
        ranks = [time, *(f"{row}.{quoted(name)}" for name in place), row]
        if how.keep == "last":
            order = ", ".join(f"{rank} desc" for rank in ranks)
            return f"select * {source} qualify row_number() over (partition by {key} order by {order}) = 1"
        order = ", ".join(ranks)
        if how.within_us is None:
            return f"select * {source} qualify row_number() over (partition by {key} order by {order}) = 1"
        return (
            f"with recursive _ordered as (select *, {time} as {at}, row_number() over (order by {key}, {order}) as {n} "
            f"{source}), "
            f"_linked as (select {n}, min({n}) over (partition by {key} order by {at} {_after(how.within_us)}) as _next "
            "from _ordered), "
            f"_kept as (select min({n}) as {n} from _ordered group by {key} "
            f"union all select _next from _kept join _linked using ({n}) where _next is not null) "
            f"select * exclude ({at}, {n}) from _ordered where {n} in (select {n} from _kept)"
        )

    def operator(self, inputs: Mapping[str, StreamedInput], place: Place) -> Operator:
        """Return the operator that streams the table."""
        streamed = required(self.table, inputs, self.how.event_time, place)
        require_columns(self.table, streamed.schema, self.how.key, place)
        operator_type = FirstOfKey if self.how.keep == "first" else LastOfKey
        return operator_type(self.table, streamed.schema, self.how)


def _after(within_us: int) -> str:
    """Return the window frame of the later rows that are no longer duplicates of a row."""
    return f"range between {within_us + 1} following and unbounded following"


@dataclass(frozen=True)
class _KeyedOperator:
    """The common part of both operators."""

    table: str
    schema: Schema
    how: Deduplication

    @property
    def inputs(self) -> tuple[str, ...]:
        """The name of the table."""
        return (self.table,)

    @property
    def identity(self) -> StateIdentity:
        """The key, how long it is kept, and the columns of the table."""
        how = self.how
        layout = {"key": ", ".join(how.key), **columns_part(self.table, self.schema, how.event_time)}
        within = "for ever" if how.within_us is None else format_duration(timedelta(microseconds=how.within_us))
        return StateIdentity(f"deduplicate, keep {how.keep}", STATE_VERSION, layout, {"within": within})

    def prepare(self, name: str, before: int) -> Prepared:
        """Rows at or after the watermark, with their time `_at` and their log position."""
        time = self.how.event_time
        return Prepared(
            f"select {to_internal(self.schema.names)}, {micros(time)} as _at, {LOG_POSITION} from {quoted(name)}",
            tuple(f"{PREFIX}{column}" for column in self.how.key),
            before_the_watermark(time, before),
            LATE,
        )

    @property
    def _columns(self) -> str:
        return internal_list(self.schema.names)

    @property
    def _out(self) -> str:
        return from_internal(self.schema.names)

    @property
    def _key(self) -> str:
        """The key as one value. Nulls are equal, as in GROUP BY."""
        return internal_struct(self.how.key)


@dataclass(frozen=True)
class FirstOfKey(_KeyedOperator):
    """Keeps the first row of a key, and the next one that is more than `within` after it.

    Its state is the rows that the watermark has not passed (`waiting`) and the time of the last emitted row of each key
    (`kept`).
    """

    @property
    def emits(self) -> Emits:
        """Rows are final."""
        return "append"

    @property
    def horizon(self) -> str | None:
        """Just after the last waiting row."""
        return "select max(_at) + 1 from waiting"

    @property
    def state(self) -> Mapping[str, str]:
        """The tables `waiting` and `kept`."""
        rows = arrived(self.table)
        return {
            "waiting": f"select * from {quoted(rows)}",
            "kept": f"select {internal_list(self.how.key)}, _at, {HASH} from {quoted(rows)}",
        }

    def advance(self, state: StateTables, progress: WatermarkAdvance) -> str:
        """Process the rows that the watermark has passed in order, going from each kept row to the next one."""
        con, key = state.con, internal_list(self.how.key)
        state.add("waiting", f"select * from {quoted(arrived(self.table))}")
        con.execute(
            f"create or replace temp table _due as select {self._columns}, _at, {HASH}, {self._key} as _key, "
            f"row_number() over (order by {key}, {in_log_order(self.schema.names)}) as _n "
            f"from waiting where _at < {progress.watermark}"
        )
        con.execute(
            "create or replace temp table _out as "
            f"with recursive _linked as materialized (select _n, {self._next} as _next from _due), "
            f"_walk as (select min(_n) as _n from _due left join (select _at as _last, {self._key} as _key from kept) "
            f"using (_key) where {self._is_first('_due._at', '_last')} group by _key "
            "union all select _next from _walk join _linked using (_n) where _next is not null) "
            "select * from _due where _n in (select _n from _walk)"
        )
        state.forget("waiting", f"_at < {progress.watermark}")
        if self.how.within_us is not None:  # otherwise a key is emitted once, and its state is kept forever
            state.forget("kept", f"{self._key} in (select _key from _out) or {self._is_expired(progress)}")
        state.add(
            "kept",
            f"select {key}, max(_at) as _at, any_value({HASH}) as {HASH} from _out where not ({self._is_expired(progress)}) "
            "group by all",
        )
        return f"select {self._out} from _out"

    @property
    def _next(self) -> str:
        """SQL for the number of the row that is emitted after an emitted row of the same key."""
        if self.how.within_us is None:
            return "null::bigint"
        return f"min(_n) over (partition by {internal_list(self.how.key)} order by _at {_after(self.how.within_us)})"

    def _is_first(self, at: str, last: str) -> str:
        later = "" if self.how.within_us is None else f" or {at} > {last} + {self.how.within_us}"
        return f"{last} is null{later}"

    def _is_expired(self, progress: WatermarkAdvance) -> str:
        """Return the condition that no later row can be a duplicate of a kept row."""
        return "false" if self.how.within_us is None else f"_at < {progress.watermark - self.how.within_us}"


@dataclass(frozen=True)
class LastOfKey(_KeyedOperator):
    """Emits the last row of a key whenever a later one arrives.

    Its state is the `latest` row of each key until the watermark passes it. Rows that arrive after that are later.
    """

    @property
    def emits(self) -> Emits:
        """A row replaces the previous row with its key."""
        return "upsert"

    @property
    def horizon(self) -> str | None:
        """No rows wait: they are emitted at every change."""
        return None

    @property
    def state(self) -> Mapping[str, str]:
        """The table `latest`."""
        return {"latest": f"select * from {quoted(arrived(self.table))}"}

    def advance(self, state: StateTables, progress: WatermarkAdvance) -> str:
        """Find the last row of each key among the new rows and the stored one."""
        columns = f"{self._columns}, _at, {LOG_POSITION}, {HASH}"
        last = f"{in_log_order(self.schema.names, descending=True)}, _is_new"
        state.con.execute(
            f"create or replace temp table _out as select *, {self._key} as _key from (select {columns}, true as _is_new "
            f"from {quoted(arrived(self.table))} union all select {columns}, false from latest) "
            f"qualify row_number() over (partition by _key order by {last}) = 1"
        )
        state.forget("latest", f"_at < {progress.watermark} or {self._key} in (select _key from _out where _is_new)")
        state.add(
            "latest",
            f"select {columns} from _out where _is_new and _at >= {progress.watermark}",
        )
        return f"select {self._out} from _out where _is_new"
