"""A function with a state per key. A call passes, for many keys, the rows of the next event time of each, or its timer.

key a   rows 10:00 10:00   10:20       timer 10:30        one call for all keys that are due
key b   rows         10:10
calls     a1 b1            a2          a3
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import duckdb
import pyarrow as pa

from pipeline.core.errors import USER_CODE_ERRORS, DefinitionError, Place, did_you_mean
from pipeline.core.event_time import format_duration
from pipeline.core.fingerprint import of_function
from pipeline.core.schema import Column, Schema
from pipeline.core.state_identity import StateIdentity, columns_part
from pipeline.kernel.engine import arrow, connect, first_line, schema_of
from pipeline.kernel.frames import raised_at
from pipeline.kernel.sql_text import listed, quoted
from pipeline.streaming.operators.batch_form import LATE, StreamedInput, before_the_watermark, micros
from pipeline.streaming.operators.operator import HASH, Emits, Prepared, WatermarkAdvance, arrived
from pipeline.streaming.operators.state_columns import (
    LOG_POSITION,
    PREFIX,
    from_internal,
    in_log_order,
    internal,
    internal_list,
    struct,
    to_internal,
)
from pipeline.streaming.operators.state_evolution import evolve
from pipeline.streaming.operators.state_tables import StateTables

STATE_VERSION = 1
"""The version of the state columns besides the declared ones."""
TIMER = "_timer"
"""The state column with the time at which the function is called for the key without rows."""
_INTERNAL = Schema.of({"_seen": "bigint", "_due": "bigint"})
"""The times, in microseconds, of a key's last row and of its timer."""


@dataclass(frozen=True)
class StateSpec:
    """The state of a function per key, the columns of its output, and how it is called."""

    name: str
    key: tuple[str, ...]
    state: Schema
    defaults: tuple[tuple[str, str], ...]
    gives: Schema
    ttl_us: int
    batched: bool


@dataclass(frozen=True)
class KeyedStateOperator:
    """A function with a state per key.

    Its state is the rows that the watermark has not passed (`waiting`) and the `states` of the keys, which are kept for
    the time to live after the last row of the key.
    """

    function: Callable[..., Any]
    table: str
    streamed: StreamedInput
    spec: StateSpec
    place: Place

    @property
    def inputs(self) -> tuple[str, ...]:
        """The name of the input."""
        return (self.table,)

    @property
    def emits(self) -> Emits:
        """Rows are final."""
        return "append"

    @property
    def identity(self) -> StateIdentity:
        """The function's code, the declaration and time to live of its state, the key, and the columns of the input."""
        spec, defaults = self.spec, dict(self.spec.defaults)
        declared = [
            f"{c.name} {c.type}" + (f" default {defaults[c.name]}" if c.name in defaults else "")
            for c in spec.state.columns
        ]
        layout = {
            "key": ", ".join(spec.key),
            **columns_part(self.table, self.streamed.schema, self.streamed.event_time),
        }
        rules = {
            "state columns": ", ".join(declared),
            "ttl": format_duration(timedelta(microseconds=spec.ttl_us)),
            "batched": str(spec.batched).lower(),
            f"code of {spec.name!r}": of_function(self.function),
        }
        return StateIdentity("stateful", STATE_VERSION, layout, rules)

    @property
    def horizon(self) -> str | None:
        """Just after the last waiting row and the last timer."""
        return (
            "select max(_last) + 1 from (select max(_at) as _last from waiting union all select max(_due) from states)"
        )

    @property
    def state(self) -> Mapping[str, str]:
        """The tables `waiting` and `states`."""
        rows = quoted(arrived(self.table))
        columns = [*_INTERNAL.columns, *self._state_schema.columns]
        state = ", ".join(f"null::{column.type} as {quoted(column.name)}" for column in columns)
        return {"waiting": f"select * from {rows}", "states": f"select _key, {HASH}, {state} from {rows}"}

    def prepare(self, name: str, before: int) -> Prepared:
        """Rows with their time `_at`, their log position, and their key as one value. Nulls are equal."""
        time = self.streamed.event_time
        return Prepared(
            f"select {to_internal(self.streamed.schema.names)}, {micros(time)} as _at, {LOG_POSITION}, "
            f"{struct(self.spec.key)} as _key from {quoted(name)}",
            ("_key",),
            before_the_watermark(time, before),
            LATE,
        )

    def advance(self, state: StateTables, progress: WatermarkAdvance) -> str:
        """Call the function until no row and no timer is due."""
        con, ttl = state.con, self.spec.ttl_us
        state.add("waiting", f"select * from {quoted(arrived(self.table))}")
        con.execute(
            "create or replace temp table _todo as select * exclude (_gap), sum(_gap) over (partition by _key order by _at) "
            f"as _run from (select {self._columns}, _at, {LOG_POSITION}, {HASH}, _key, (_at - lag(_at, 1, _at) over (partition by _key "
            f"order by _at) > {ttl})::bigint as _gap from waiting where _at < {progress.watermark})"
        )
        state.forget("waiting", f"_at < {progress.watermark}")
        touched = (
            f"_key in (select _key from _todo) or _due < {progress.watermark} or _seen < {progress.watermark - ttl}"
        )
        con.execute(f"create or replace temp table _states as select {self._state_columns} from states where {touched}")
        state.forget("states", touched)
        out: list[pa.Table] = []
        while self._has_turn(con, progress.watermark):
            out.append(self._run_turn(con))
        state.add("states", f"select * from _states where _seen >= {progress.watermark - ttl}")
        if not out:
            columns = ", ".join(f"null::{c.type} as {quoted(c.name)}" for c in self.spec.gives.columns)
            return f"select {columns} limit 0"
        con.register("_out_of_turns", pa.concat_tables(out))
        return "select * from _out_of_turns"

    @property
    def evolving(self) -> frozenset[str]:
        """The table `states`."""
        return frozenset({"states"})

    def evolved(self, before: Schema) -> tuple[str, ...]:
        """Return SQL over `states` with the columns `before`, one expression for each current column.

        Raises `DefinitionError` for a key or a column that cannot be converted.
        """
        types = self.streamed.schema.as_dict()
        key = f"struct({', '.join(f'{quoted(name)} {types[name]}' for name in self.spec.key)})"
        with connect() as con:
            keys = schema_of(con, f"select null::{key} as _key, 0::ubigint as {HASH}").columns
        now = Schema((*keys, *_INTERNAL.columns, *self._state_schema.columns))
        defaults = {f"{PREFIX}{name}": default for name, default in self.spec.defaults}
        return evolve(before, now, defaults, self.place)

    def _has_turn(self, con: duckdb.DuckDBPyConnection, watermark: int) -> bool:
        """Create `_turn`, the keys that are due: whether the timer of each fires, and until when its rows are due."""
        ttl = self.spec.ttl_us
        until = "coalesce(_ends, _last)" if self.spec.batched else "_next"
        con.execute(
            f"create or replace temp table _turn as select _key, {HASH}, _seen, _ends as _due, _run, _fires, "
            f"coalesce(not _fires and _next > _seen + {ttl}, _seen is null) as _is_new, "
            f"if(_fires, null, {until}) as _until from ("
            f"select *, coalesce(_ends < {watermark} and (_next is null or _ends < _next), false) as _fires from ("
            f"select _key, coalesce(r.{HASH}, s.{HASH}) as {HASH}, r._next, r._last, r._run, s._seen, "
            f"if(s._due <= s._seen + {ttl}, s._due, null) as _ends from "
            f"(select _key, min(_at) as _next, max(_at) as _last, min(_run) as _run, any_value({HASH}) as {HASH} "
            "from _todo group by _key) as r full join _states as s using (_key))) where _fires or _next is not null"
        )
        return bool(con.execute("select exists (from _turn)").fetchall()[0][0])

    def _run_turn(self, con: duckdb.DuckDBPyConnection) -> pa.Table:
        """Call the function once, store the states that it returns, and return its rows."""
        defaults = dict(self.spec.defaults)
        columns = "".join(
            f", if(t._is_new, ({defaults.get(c.name, 'null')})::{c.type}, s.{internal(c.name)}) as {quoted(c.name)}"
            for c in self.spec.state.columns
        )
        keys = ", ".join(f"t._key.{quoted(name)} as {quoted(name)}" for name in self.spec.key)
        state = arrow(
            con,
            f"select {keys}{columns}, if(t._is_new, null, make_timestamptz(s._due)) as {TIMER} "
            "from _turn as t left join _states as s using (_key) order by t._key",
        )
        due_rows = "_todo semi join _turn as t on _todo._key = t._key and _todo._at <= t._until and _todo._run = t._run"
        names = self.streamed.schema.names
        rows = arrow(con, f"select {from_internal(names)} from (from {due_rows}) order by {in_log_order(names)}")
        con.execute(f"create or replace temp table _last as select _key, max(_at) as _at from {due_rows} group by _key")
        con.execute(
            "delete from _todo using _turn as t where _todo._key = t._key and _todo._at <= t._until and _todo._run = t._run"
        )
        states, out = self._call(state, rows)
        self._keep(con, states)
        return self._cast_to_schema(con, out, self.spec.gives, "rows")

    def _call(self, state: pa.Table, rows: pa.Table) -> tuple[pa.Table, pa.Table]:
        try:
            result = self.function(state, rows)
        except USER_CODE_ERRORS as error:
            raise DefinitionError(
                f"stateful {self.spec.name!r} raised {type(error).__name__}",
                got=str(error),
                place=raised_at(error, self.place),
            ) from error
        if not (isinstance(result, tuple) and len(result) == 2 and all(isinstance(part, pa.Table) for part in result)):  # noqa: PLR2004 - a pair
            raise DefinitionError(
                f"stateful {self.spec.name!r} must return a tuple of two Arrow tables, the states and the rows",
                got=type(result).__name__,
                place=self.place,
            )
        return result

    def _keep(self, con: duckdb.DuckDBPyConnection, states: pa.Table) -> None:
        types = self.streamed.schema.as_dict()
        keys = [Column(name, types[name]) for name in self.spec.key]
        if TIMER not in states.column_names:
            states = states.append_column(TIMER, pa.nulls(states.num_rows, pa.timestamp("us", "UTC")))
        declared = Schema((*keys, *self.spec.state.columns, Column(TIMER, "TIMESTAMPTZ")))
        con.register("_new_states", self._cast_to_schema(con, states, declared, "states"))
        key = struct(self.spec.key)
        counts = con.execute(
            f"select count(*), count(distinct {key}), count(*) filter (where {key} not in (select _key from _turn)) from _new_states"
        ).fetchall()
        rows, distinct, unknown = counts[0]
        if rows > distinct or unknown:
            raise DefinitionError(
                f"stateful {self.spec.name!r} returned states of unknown keys, or several states of one key",
                got=f"{rows} states of {distinct} keys, {unknown} of unknown keys",
                do="return at most one state for each key of `state`",
                place=self.place,
            )
        con.execute("delete from _states where _key in (select _key from _turn)")
        due = f"epoch_us(n.{TIMER})"
        columns = "".join(f", n.{internal(name)}" for name in self.spec.state.names)
        taken = "".join(f", {quoted(name)} as {internal(name)}" for name in self.spec.state.names)
        con.execute(
            f"insert into _states select t._key, t.{HASH}, coalesce(l._at, t._seen), "
            f"if(t._fires and {due} <= t._due, null, {due}){columns} "
            f"from (select {TIMER}, {key} as _key{taken} from _new_states) as n "
            "join _turn as t using (_key) left join _last as l using (_key)"
        )
        con.unregister("_new_states")

    def _cast_to_schema(self, con: duckdb.DuckDBPyConnection, table: pa.Table, declared: Schema, what: str) -> pa.Table:
        """Return a table that the function returned with the declared columns, in their types and order."""
        name = self.spec.name
        for missing in (column for column in declared.names if column not in table.column_names):
            raise DefinitionError(
                f"stateful {name!r} returned {what} without the column {missing!r}",
                do=did_you_mean(missing, table.column_names),
                place=self.place,
            )
        for unknown in (column for column in table.column_names if column not in declared.names):
            raise DefinitionError(
                f"stateful {name!r} returned {what} with the column {unknown!r}, which is not declared",
                do=did_you_mean(unknown, declared.names),
                place=self.place,
            )
        con.register("_to_fit", table)
        try:
            columns = (f"{quoted(column.name)}::{column.type} as {quoted(column.name)}" for column in declared.columns)
            return arrow(con, f"select {', '.join(columns)} from _to_fit")
        except duckdb.Error as error:
            raise DefinitionError(
                f"stateful {name!r} returned {what} that cannot be cast to the declared types",
                got=first_line(error),
                place=self.place,
            ) from error
        finally:
            con.unregister("_to_fit")

    @property
    def _columns(self) -> str:
        return internal_list(self.streamed.schema.names)

    @property
    def _state_schema(self) -> Schema:
        return Schema(tuple(Column(f"{PREFIX}{c.name}", c.type) for c in self.spec.state.columns))

    @property
    def _state_columns(self) -> str:
        return listed(("_key", HASH, *_INTERNAL.names, *self._state_schema.names))
