"""SQL that turns the changes of keys, in any order of arrival, into rows: the current one of each key, or all its versions.

A relation of events has these columns. They cannot have the names of a table's columns, because of their colons.

    k0, k1, …      the key; null for a truncate
    s              the sequence; a struct if there are several columns
    e              0 for a row, 1 for a delete, 2 for a truncate
    u              the names of the columns that the event does not contain, or null
    v:NAME         the other stored columns of a row
    is_new         whether the event has just arrived

At an equal sequence, a delete follows a row. Of several rows of a key with an equal sequence, the greatest one as text
is valid.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from pipeline.core.merge_options import END_AT, START_AT, Merge
from pipeline.core.schema import Schema
from pipeline.kernel.sql_text import literal, quoted
from pipeline.kernel.types import arrow_type

ROW, DELETE, TRUNCATE = 0, 1, 2


@dataclass(frozen=True)
class EventColumns:
    """The columns of a table that applies changes, and of its events. `arriving` are those of the rows that arrive."""

    merge: Merge
    key: tuple[str, ...]
    arriving: Schema

    @property
    def stored(self) -> tuple[str, ...]:
        """The columns of the table, without those of its history."""
        return self.merge.columns(self.key, self.arriving.names)

    @property
    def values(self) -> tuple[str, ...]:
        """The stored columns that are not in the key."""
        return tuple(name for name in self.stored if name not in self.key)

    @property
    def keys(self) -> str:
        """The key in a relation of events."""
        return ", ".join(f"k{number}" for number in range(len(self.key)))

    def events(self, source: str, *, is_new: bool = True) -> str:
        """Return a SELECT of events from rows as they arrive."""
        how = self.merge
        key = ", ".join(f"{quoted(name)} as k{number}" for number, name in enumerate(self.key))
        truncates = "" if how.apply_as_truncates is None else f"when ({how.apply_as_truncates}\n) then {TRUNCATE} "
        deletes = "" if how.apply_as_deletes is None else f"when ({how.apply_as_deletes}\n) then {DELETE} "
        kind = f"case {truncates}{deletes}else {ROW} end" if truncates or deletes else f"{ROW}"
        missing = "null" if how.unavailable is None else quoted(how.unavailable)
        values = "".join(f", {quoted(name)} as {_value(name)}" for name in self.values)
        return (
            f"select {key}, {self.sequence()} as s, ({kind})::tinyint as e, {missing}::varchar[] as u{values}, "
            f"{str(is_new).lower()} as is_new from {source}"
        )

    def sequence(self) -> str:
        """Return SQL for the sequence of a row as it arrives."""
        columns = [quoted(name) for name in self.merge.sequence_by]
        if len(columns) == 1:
            return columns[0]
        return f"struct_pack({', '.join(f's{number} := {name}' for number, name in enumerate(columns))})"

    def all_columns(self) -> str:
        """Return the columns of events, without `is_new`."""
        return ", ".join([self.keys, "s", "e", "u", *map(_value, self.values)])

    def row_text(self) -> str:
        """Return SQL for the content of an event as text, by which rows with an equal sequence are ordered."""
        parts = [f"v{number} := {_value(name)}" for number, name in enumerate(self.values)]
        return f"struct_pack(u := u, {', '.join(parts)})::varchar" if parts else "u::varchar"

    def row_json(self) -> str:
        """Return SQL for an event as the JSON of a row."""
        key = [f"{quoted(name)} := k{number}" for number, name in enumerate(self.key)]
        values = [f"{quoted(name)} := {_value(name)}" for name in self.values]
        by = self.merge.sequence_by
        parts = {name: "s" if len(by) == 1 else f"s.s{number}" for number, name in enumerate(by)}
        sequence = [f"{quoted(name)} := {part}" for name, part in parts.items() if name not in self.stored]
        return f"to_json(struct_pack({', '.join([*key, *values, *sequence])}))::varchar"

    def resolved(self, events: str) -> str:
        """Return a SELECT of the table's rows, and `is_new`, from all events of complete keys, each of them once."""
        if self.merge.apply_as_truncates is not None:
            events = self.with_truncates(events, f"(select distinct s from ({events}) where e = {TRUNCATE})")
        if self.merge.from_snapshots:
            events = self.with_vanished(events, f"({events})")
        return self.rows(events)

    def of_all(self, rows: str) -> str:
        """Return a SELECT of the table's rows from all rows that ever arrived."""
        same = f"row_number() over (partition by {self.keys}, s, e order by {self.row_text()} desc) = 1"
        return (
            f"select * exclude (is_new) from ({self.resolved(f'select * from ({self.events(rows)}) qualify {same}')})"
        )

    @property
    def forgets(self) -> bool:
        """Whether events that later ones have replaced need not be kept: there is no history."""
        return self.merge.scd_type == 1 and not self.merge.from_snapshots

    def needed(self, events: str) -> str:
        """Return the events that still matter, whatever comes, each once: those that others have not replaced.

        Of each key these are the last delete, the last row after it, and the last ones that wrote an inherited column.
        """
        columns = self.all_columns()
        if not self.forgets:
            return f"select distinct {columns} from ({events})"
        written = dict.fromkeys(each for part in self._inheriting for each in part.conditions)
        conditions = [f"e = {ROW}", *written]
        lasts = [
            f"max(case when {condition} then s end) over (partition by {self.keys}) as last_{number}"
            for number, condition in enumerate(conditions)
        ]
        is_last = " or ".join(f"s = last_{number}" for number in range(len(lasts)))
        emptied = f"(select max(s) as emptied_at from ({events}) where e = {TRUNCATE})"
        deleted = f"max(case when e = {DELETE} then s end) over (partition by {self.keys}) as deleted_at"
        marked = f"select *, {deleted}, {', '.join(lasts)} from ({events}) where e <> {TRUNCATE}"
        return (
            f"select distinct {columns} from ({marked}) cross join {emptied} where (emptied_at is null or s > emptied_at) "
            f"and case when e = {DELETE} then s = deleted_at else (deleted_at is null or s > deleted_at) and ({is_last}) end "
            f"union all select distinct {columns} from ({events}) "
            f"where e = {TRUNCATE} and s = (select emptied_at from {emptied})"
        )

    def with_truncates(self, events: str, truncates: str) -> str:
        """Return events with a delete for each key and each truncate. `truncates` is a relation with `s`."""
        nothing = "".join(f", null as {_value(name)}" for name in self.values)
        return (
            f"select * from ({events}) where e <> {TRUNCATE} union all by name "
            f"select {self.keys}, t.s as s, {DELETE}::tinyint as e, null::varchar[] as u{nothing}, false as is_new "
            f"from (select distinct {self.keys} from ({events}) where e <> {TRUNCATE}) cross join {truncates} as t"
        )

    def with_vanished(self, events: str, sequences: str) -> str:
        """Return the rows of snapshots with a delete where the next snapshot does not have their key.

        `sequences` is a relation with the sequence `s` of each snapshot.
        """
        nothing = "".join(f", null as {_value(name)}" for name in self.values)
        after = f"select s, lead(s) over (order by s) as after from (select distinct s from {sequences})"
        return (
            f"select * from ({events}) union all by name "
            f"select {self.keys}, after as s, {DELETE}::tinyint as e, null::varchar[] as u{nothing}, false as is_new "
            f"from (select distinct {self.keys}, n.after as after from ({events}) as o join ({after}) as n using (s) "
            f"where n.after is not null) as gone anti join (select {self.keys}, s as after from ({events})) as kept "
            f"using ({self.keys}, after)"
        )

    def rows(self, events: str) -> str:
        """Return a SELECT of the table's rows from the events of complete keys, each event once; and `is_new`."""
        return self._versions(events) if self.merge.scd_type == 2 else self._current(events)  # noqa: PLR2004 - as above

    def _current(self, events: str) -> str:
        last = f"row_number() over (partition by {self.keys} order by s desc, e desc) = 1"
        return f"select {self._names()}, is_new from (select * from ({self._inherited(events)}) qualify {last}) where e = {ROW}"

    def _versions(self, events: str) -> str:
        tracked = [_value(name) for name in self.merge.tracked.of(self.values)]
        content = f"struct_pack({', '.join(f'v{n} := {name}' for n, name in enumerate(tracked))})" if tracked else "0"
        in_order = f"(partition by {self.keys} order by s, e)"
        begins = (
            f"select *, lead(s) over w as next_s, e <> {ROW} or lag(e) over w is distinct from {ROW} "
            f"or {content} is distinct from lag({content}) over w as begins from ({self._inherited(events)}) window w as {in_order}"
        )
        numbered = f"select *, sum(begins::int) over {in_order} as version from ({begins})"
        first = f"over (partition by {self.keys}, version order by s, e)"
        spans = (
            f"select *, first_value(s) {first} as start_s, first_value(is_new) {first} as starts_new, "
            f"row_number() over (partition by {self.keys}, version order by s desc, e desc) as place from ({numbered})"
        )
        return (
            f"select {self._names()}, start_s as {quoted(START_AT)}, next_s as {quoted(END_AT)}, starts_new as is_new "
            f"from ({spans}) where e = {ROW} and place = 1 and (next_s is null or next_s > start_s)"
        )

    def _names(self) -> str:
        numbers = {name: number for number, name in enumerate(self.key)}
        return ", ".join(
            f"k{numbers[name]} as {quoted(name)}" if name in numbers else f"{_value(name)} as {quoted(name)}"
            for name in self.stored
        )

    def _inherited(self, events: str) -> str:
        """Return the events with the values of preceding events where they have none of their own."""
        inheriting = self._inheriting
        if not inheriting:
            return events
        lives = f"sum((e <> {ROW})::int) over (partition by {self.keys} order by s, e)"
        within = f"(partition by {self.keys}, life order by s, e)"
        parts = (f"{part.value(within)} as {part.column}" for part in inheriting)
        return f"select * replace ({', '.join(parts)}) from (select *, {lives} as life from ({events}))"

    @property
    def _inheriting(self) -> list[_Inheriting]:
        """The columns that can keep the value of a preceding event."""
        ignored = self.merge.ignored_nulls.of(self.values)
        names = self.values if self.merge.unavailable is not None else ignored
        types = self.arriving.as_dict()
        return [
            _inheriting(_value(name), self._is_sent(name), arrow_type(types[name]), ignores_nulls=name in ignored)
            for name in names
        ]

    def _is_sent(self, name: str) -> str:
        """Return the condition of an event that contains a column."""
        if self.merge.unavailable is None:
            return f"e = {ROW}"
        return f"e = {ROW} and not coalesce(list_contains(u, {literal(name)}), false)"


@dataclass(frozen=True)
class _Inheriting:
    """A column, or a field of one, that keeps the value of a preceding event where an event does not write it."""

    column: str
    is_written: str
    """SQL that is true for an event that writes it."""
    fields: tuple[tuple[str, _Inheriting], ...] = ()
    """For a struct whose nulls are ignored: its fields by name, each of which inherits for itself."""

    @property
    def conditions(self) -> Iterator[str]:
        """For each part that inherits for itself: the condition of an event that writes it."""
        yield self.is_written
        for _, part in self.fields:
            yield from part.conditions

    def value(self, within: str) -> str:
        """Return SQL for the last value that was written `within` a window."""
        if not self.fields:
            written = f"case when {self.is_written} then {{'x': {self.column}}} end"
            return f"(last_value({written} ignore nulls) over {within}).x"
        fields = ", ".join(f"{quoted(name)} := {part.value(within)}" for name, part in self.fields)
        return f"case when bool_or({self.is_written}) over {within} then struct_pack({fields}) end"


def _inheriting(column: str, is_sent: str, kind: pa.DataType, *, ignores_nulls: bool) -> _Inheriting:
    """Return how a column, or a field, inherits; lists and maps do so as a whole."""
    if not ignores_nulls:
        return _Inheriting(column, is_sent)
    fields = kind if pa.types.is_struct(kind) else ()
    parts = (
        (
            each.name,
            _inheriting(f"struct_extract({column}, {literal(each.name)})", is_sent, each.type, ignores_nulls=True),
        )
        for each in fields
    )
    return _Inheriting(column, f"{is_sent} and {column} is not null", tuple(parts))


def _value(name: str) -> str:
    return quoted(f"v:{name}")
