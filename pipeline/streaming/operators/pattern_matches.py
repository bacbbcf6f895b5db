"""The operator for patterns. It works in rounds; in a round, all open matches of all keys take their next event.

    open matches, by the event that they wait for     rows that the watermark has passed, numbered per key
      waits for 1 --first matching row--> waits for 2 --...--> complete --no overlap--> emitted
         |  a forbidden row, or `within` has expired: dropped
         |  no matching row yet: kept until the next micro-batch

A round is a few statements. The number of rounds is the largest number of events that one match takes for a step, not
the number of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

import duckdb

from pipeline.core.errors import DefinitionError, Place
from pipeline.core.event_time import format_duration
from pipeline.core.schema import Schema
from pipeline.core.state_identity import StateIdentity, columns_part
from pipeline.kernel.engine import connect, empty, first_line
from pipeline.kernel.sql_text import listed, quoted
from pipeline.streaming.operators.batch_form import (
    LATE,
    StreamedInput,
    batch_result,
    before_the_watermark,
    micros,
    require_columns,
    required,
)
from pipeline.streaming.operators.operator import BEGINNING, HASH, Emits, Prepared, WatermarkAdvance, arrived
from pipeline.streaming.operators.pattern_steps import Pattern, Step
from pipeline.streaming.operators.row_conditions import normalised_sql, qualified_condition, split_conjuncts
from pipeline.streaming.operators.state_columns import (
    LOG_POSITION,
    in_log_order,
    internal_list,
    internal_struct,
    struct,
    to_internal,
)
from pipeline.streaming.operators.state_tables import StateTables

if TYPE_CHECKING:
    import pyarrow as pa

STATE_VERSION = 1
"""The version of the state columns."""
Kind = Literal["forbidden", "continues", "takes"]
_KINDS: tuple[Kind, ...] = ("forbidden", "continues", "takes")
"""The roles of a row for a match, in order of precedence."""


@dataclass(frozen=True)
class Matches:
    """The operator for the matches of a pattern.

    Its state is the rows of each input that the watermark has not passed (`waiting_N`), and the `open` matches, which
    are kept for `within`.
    """

    pattern: Pattern
    streamed: Mapping[str, StreamedInput]

    @property
    def inputs(self) -> tuple[str, ...]:
        """The tables that the steps read."""
        return self.pattern.tables

    @property
    def emits(self) -> Emits:
        """Matches are final."""
        return "append"

    @property
    def identity(self) -> StateIdentity:
        """The steps with their conditions, the key, `within`, and the columns of the inputs."""
        pattern = self.pattern
        layout = {"key": ", ".join(pattern.by), "steps": ", ".join(map(str, pattern.steps))}
        for name, event_time in pattern.event_times:
            layout |= columns_part(name, self._schema(name), event_time)
        rules = {f"condition of {step.name!r}": normalised_sql(step.where) for step in pattern.steps}
        rules["within"] = format_duration(timedelta(microseconds=pattern.within_us))
        rules["after_match"] = "skip to next event" if pattern.overlapping else "skip past last event"
        return StateIdentity("pattern", STATE_VERSION, layout, rules)

    @property
    def horizon(self) -> str | None:
        """Just after the last waiting row or, if matches wait until `within` expires, just after the last expiry."""
        patience = self.pattern.within_us if self.pattern.ends_open else 0
        selects = [f"select max(_at) + {patience} as _last from waiting_{number}" for number in range(len(self.inputs))]
        selects += [f"select max(_began) + {patience} from open"] if self.pattern.ends_open else []
        return f"select max(_last) + 1 from ({' union all '.join(selects)})"

    @property
    def state(self) -> Mapping[str, str]:
        """A table `waiting_N` for each input, and `open`."""
        waiting = {f"waiting_{n}": f"select * from {quoted(arrived(name))}" for n, name in enumerate(self.inputs)}
        first = quoted(arrived(self.inputs[0]))
        events = "".join(f", null::{self._type(step)} as {quoted(step.name)}" for step in self.pattern.events)
        state = "0 as _step, 0 as _taken, _at as _began, _at as _began_i, _at as _last, _at as _last_i, true as _direct"
        return {**waiting, "open": f"select _key, {HASH}, {state}{events} from {first}"}

    def prepare(self, name: str, before: int) -> Prepared:
        """Rows with their time `_at`, their log position, and their key as one value. Nulls are equal."""
        time = dict(self.pattern.event_times)[name]
        return Prepared(
            f"select {to_internal(self._schema(name).names)}, {micros(time)} as _at, {LOG_POSITION}, {struct(self.pattern.by)} as _key "
            f"from {quoted(name)}",
            ("_key",),
            before_the_watermark(time, before),
            LATE,
        )

    def advance(self, state: StateTables, progress: WatermarkAdvance) -> str:
        """Extend the matches by the rows that the watermark has passed, and return the complete ones."""
        con, events = state.con, self.pattern.events
        self._number_rows(state, progress.watermark)
        touched = f"_key in (select _key from _order) or _began < {progress.watermark - self.pattern.within_us}"
        if progress.before != BEGINNING and not _any(con, "_order") and not _any(con, f"open where {touched}"):
            con.execute("create or replace temp table _complete as from open limit 0")
            return self._out()
        con.execute(
            f"create or replace temp table _grown as select {self._columns}, 0::bigint as _n, _step from open limit 0"
        )
        for number in range(len(events) + 1):
            con.execute(
                f"create or replace temp table _await_{number} as select {self._columns}, 0::bigint as _n from open "
                f"where _step = {number} and ({touched})"
            )
        state.forget("open", touched)
        self._begin(con)
        for number in range(len(events) + 1):
            is_first = progress.before == BEGINNING  # every statement runs once, so that errors are reported early
            while is_first or _any(con, f"_await_{number}"):
                self._round(con, number)
                is_first = False
        self._complete(con, progress.watermark)
        kept = f"_began >= {progress.watermark - self.pattern.within_us}"
        state.add(
            "open",
            f"select g.* exclude (_n, _direct), _direct and _n = coalesce(_rows, 0) as _direct from _grown as g "
            f"left join (select _key, max(_n) as _rows from _order group by _key) using (_key) where {kept}",
        )
        return self._out()

    def _out(self) -> str:
        """Return a SELECT of the table's columns for the complete matches."""
        keys = ", ".join(f"_key.{quoted(name)} as {quoted(name)}" for name in self.pattern.by)
        columns = ", ".join(f"({expression}\n) as {quoted(name)}" for name, expression in self.pattern.select)
        return f"select {keys}, {columns} from _complete"

    def _number_rows(self, state: StateTables, watermark: int) -> None:
        """Create `_rows_N`, the due rows of each input, with their number within the key and within the event time."""
        con = state.con
        for number, name in enumerate(self.inputs):
            state.add(f"waiting_{number}", f"select * from {quoted(arrived(name))}")
            columns = self._schema(name).names
            con.execute(
                f"create or replace temp table _due_{number} as select {internal_list(columns)}, _at, {HASH}, _key, "
                f"row_number() over (order by {in_log_order(columns)}) as _w from waiting_{number} where _at < {watermark}"
            )
            state.forget(f"waiting_{number}", f"_at < {watermark}")
        due = " union all ".join(
            f"select _key, _at, {number} as _rank, _w from _due_{number}" for number in range(len(self.inputs))
        )
        con.execute(
            "create or replace temp table _order as "
            "select *, row_number() over (partition by _key order by _at, _rank, _w) as _n, "
            f"row_number() over (partition by _key, _at order by _rank, _w) as _i from ({due})"
        )
        for number in range(len(self.inputs)):
            con.execute(
                f"create or replace temp table _rows_{number} as select d.* exclude (_w), o._n, o._i "
                f"from _due_{number} as d join _order as o on o._w = d._w and o._rank = {number}"
            )

    def _begin(self, con: duckdb.DuckDBPyConnection) -> None:
        """Start a match at each row that satisfies the first step."""
        step = self.pattern.events[0]
        name = quoted(step.name)
        previous = f", (select null::{self._row_type(step)} as previous) as _none" if step.is_list else ""
        others = "".join(f", null as {quoted(other.name)}" for other in self.pattern.events[1:])
        event = f"[{self._row(step)}]" if step.is_list else self._row(step)
        is_done = not step.is_list
        con.execute(
            f"insert into _await_{int(is_done)} by name select {name}._key, {name}.{HASH}, {int(not is_done)} as _taken, "
            f"{name}._at as _began, {name}._i as _began_i, {name}._at as _last, {name}._i as _last_i, true as _direct, "
            f"{name}._n as _n, {event} as {name}{others} from {self._rows(step)} as {name}{previous} where {self._condition(step)}"
        )

    def _round(self, con: duckdb.DuckDBPyConnection, number: int) -> None:
        """Pass the first relevant row to each match that waits for event `number`."""
        con.execute(f"create or replace temp table _now as select *, row_number() over () as _id from _await_{number}")
        con.execute(f"delete from _await_{number}")
        hits = (
            " union all ".join(self._hits(number)) or "select 0::bigint as _id, 0::bigint as _hit, 0 as _kind limit 0"
        )
        con.execute(
            f"create or replace temp table _first as select * from ({hits}) "
            "qualify row_number() over (partition by _id order by _hit, _kind) = 1"
        )
        con.execute(
            f"insert into _grown by name select * exclude (_id), {number} as _step from _now anti join _first using (_id) "
            f"where {self._may_go_on(number)}"
        )
        if number < len(self.pattern.events):
            self._take(con, number, number, "takes")
        if number + 1 < len(self.pattern.events) and self.pattern.events[number].or_more:
            self._take(con, number, number + 1, "continues")

    def _hits(self, number: int) -> Iterator[str]:
        """Yield, for each role of a row, a SELECT of the matches with the first such row of their key."""
        events = self.pattern.events
        for step in self.pattern.forbidden(number):
            yield self._hit(step, "forbidden", "_taken = 0")
        if number == len(events):
            return
        step = events[number]
        yield self._hit(step, "takes", "true")
        if step.or_more and number + 1 < len(events):
            yield self._hit(events[number + 1], "continues", f"_taken >= {step.times}")

    def _hit(self, step: Step, kind: Kind, matters: str) -> str:
        name = quoted(step.name)
        alone, others = split_conjuncts(self._condition(step), self._earlier(step))
        rows = f"(select * from {self._rows(step)} as {name} where {alone})"
        previous = f"{name}[-1]" if step.is_list and kind != "forbidden" else "null"
        state = f"(select *, {previous} as previous from _now where {matters}) as _m"
        in_time = f"{name}._at <= _m._began + {self.pattern.within_us}"
        columns = f"_m._id, {name}._n as _hit, {_KINDS.index(kind)} as _kind"
        if step.contiguity == "strict":
            follows = f"_m._key = {name}._key and {name}._n = _m._n + 1"
            return f"select {columns} from {state} join {rows} as {name} on {follows} and _m._direct and {in_time} and {others}"
        follows = f"_m._key = {name}._key and {name}._n > _m._n"
        if others == "true":
            return f"select {columns} from {state} asof join {rows} as {name} on {follows} where {in_time}"
        return (
            f"select _id, min(_hit) as _hit, _kind from (select {columns} from {state} join {rows} as {name} "
            f"on {follows} and {in_time} and {others}) group by all"
        )

    def _may_go_on(self, number: int) -> str:
        """Return the condition that later rows may be relevant for a match for which no due row was relevant."""
        events = self.pattern.events
        if number == len(events):
            return "true"
        step = events[number]
        if step.contiguity != "strict":
            return "true"
        is_next = "(_direct and _n = coalesce((select max(o._n) from _order as o where o._key = _now._key), 0))"
        ends_well = step.or_more and (number + 1 == len(events) or events[number + 1].contiguity == "relaxed")
        return f"{is_next} or _taken >= {step.times}" if ends_well else is_next

    def _take(self, con: duckdb.DuckDBPyConnection, number: int, event: int, kind: Kind) -> None:
        """Add the row of an event to the matches that take it, and advance them."""
        step = self.pattern.events[event]
        name, row = quoted(step.name), self._row(step)
        taken = "_m._taken + 1" if event == number else "1"
        event_value = f"list_append(_m.{name}, {row})" if step.is_list else row
        changes = (
            f"{name}._at as _last, {name}._i as _last_i, true as _direct, {name}._n as _n, {event_value} as {name}"
        )
        select = (
            f"select _m.* exclude (_id) replace ({changes}, {{taken}} as _taken) from _now as _m join _first as f using (_id) "
            f"join {self._rows(step)} as {name} on {name}._key = _m._key and {name}._n = f._hit "
            f"where f._kind = {_KINDS.index(kind)}"
        )
        if step.or_more:
            con.execute(f"insert into _await_{event} by name {select.format(taken=taken)}")
            return
        for is_done, target in ((True, event + 1), (False, event)):
            there = f"{taken} {'>=' if is_done else '<'} {step.times}"
            moved = select.format(taken="0" if is_done else taken)
            con.execute(f"insert into _await_{target} by name {moved} and {there}")

    def _complete(self, con: duckdb.DuckDBPyConnection, watermark: int) -> None:
        """Create `_complete`, the matches to emit, and delete matches that are complete or dropped from `_grown`."""
        last = len(self.pattern.events)
        end = self.pattern.events[-1]
        is_complete = f"(_step = {last}{f' or (_step = {last - 1} and _taken >= {end.times})' if end.or_more else ''})"
        order = "_last, _last_i, _began, _began_i"
        if self.pattern.ends_open:
            is_complete += f" and _began < {watermark - self.pattern.within_us}"
            order = "_began, _began_i"
        con.execute(
            f"create or replace temp table _candidates as select *, row_number() over (order by _key, {order}) as _c, "
            f"{_position('_began', '_began_i')} as _from, {_position('_last', '_last_i')} as _to "
            f"from _grown where {is_complete}"
        )
        con.execute(f"delete from _grown where {is_complete}")
        if self.pattern.overlapping:
            con.execute("create or replace temp table _complete as from _candidates")
            return
        con.execute(
            "create or replace temp table _complete as with recursive "
            "_next as materialized (select c._c, x._least from _candidates as c asof join (select _key, _from, "
            "min(_c) over (partition by _key order by _from desc rows unbounded preceding) as _least from _candidates) as x "
            "on c._key = x._key and x._from > c._to), "
            "_walk as (select min(_c) as _c from _candidates group by _key "
            "union all select _least from _walk join _next using (_c)) "
            "select * from _candidates where _c in (select _c from _walk)"
        )
        con.execute(
            "delete from _grown using (select _key as _of, max(_to) as _to from _complete group by _key) as done "
            f"where _key = done._of and {_position('_began', '_began_i')} <= done._to"
        )

    @property
    def _columns(self) -> str:
        state = ("_key", HASH, "_taken", "_began", "_began_i", "_last", "_last_i", "_direct")
        return listed((*state, *(step.name for step in self.pattern.events)))

    def _schema(self, name: str) -> Schema:
        return self.streamed[name].schema

    def _rows(self, step: Step) -> str:
        return f"_rows_{self.inputs.index(step.table)}"

    def _row(self, step: Step) -> str:
        return internal_struct(self._schema(step.table).names, quoted(step.name))

    def _earlier(self, step: Step) -> frozenset[str]:
        """Return the other names that a step's condition may use: other events and, for a list, `previous`."""
        previous = {"previous"} if step.is_list else set()
        return frozenset({*previous, *(other.name.lower() for other in self.pattern.events)} - {step.name.lower()})

    def _condition(self, step: Step) -> str:
        """Return the condition of a step over the internal columns of its row."""
        return qualified_condition(step.where, step.name, self._schema(step.table).names, self._earlier(step))

    def _row_type(self, step: Step) -> str:
        columns = self._schema(step.table).columns
        return f"struct({', '.join(f'{quoted(column.name)} {column.type}' for column in columns)})"

    def _type(self, step: Step) -> str:
        return f"{self._row_type(step)}[]" if step.is_list else self._row_type(step)


def validated(matches: Matches, place: Place) -> Matches:
    """Return the matches of a pattern; raise `DefinitionError` if its SQL does not fit its inputs."""
    pattern = matches.pattern
    kinds: dict[str, tuple[str, str]] = {}
    for table, event_time in pattern.event_times:
        schema = required(table, matches.streamed, event_time, place).schema
        require_columns(table, schema, pattern.by, place)
        for column in schema.select(pattern.by).columns:
            other, kind = kinds.setdefault(column.name, (table, column.type))
            if kind != column.type:
                raise DefinitionError(
                    f"{column.name!r} has different types in {other!r} and {table!r}",
                    got=f"{kind} and {column.type}",
                    do="cast one of them in another table",
                    place=place,
                )
    with connect() as con:
        empty_tables = {name: empty(con, matches.streamed[name].schema) for name in matches.inputs}
    matches_in(matches, empty_tables, place)
    return matches


def matches_in(matches: Matches, tables: Mapping[str, pa.Table], place: Place) -> pa.Table:
    """Return the matches in complete tables; raise `DefinitionError` if the SQL does not fit them."""
    try:
        return batch_result(matches, tables)
    except duckdb.Error as error:
        raise DefinitionError(
            "the pattern's SQL does not fit its tables", got=first_line(error), place=place
        ) from error


def _position(at: str, i: str) -> str:
    return f"({at}::hugeint * {1 << 32} + {i})"


def _any(con: duckdb.DuckDBPyConnection, rows: str) -> bool:
    return bool(con.execute(f"select exists (from {rows})").fetchall()[0][0])
