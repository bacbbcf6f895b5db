"""Events of Debezium as changes: the columns of the table, `_op`, `_sequence`, `_committed_at` and `_unavailable`.

An event becomes one flat JSON object, which is then decoded as any other JSON. The forms are recognized by their fields:
an envelope with or without its schema, as JSON or Avro, one that was unwrapped, and CloudEvents. What the numbers of
Debezium mean is known only from the names in its schema, or from `types`.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.connectors.kafka.debezium_types import FieldType, converted, field_types
from pipeline.connectors.kafka.decoding import Decoder, RecordOrigin
from pipeline.connectors.kafka.value_formats import VALUE, Debezium
from pipeline.core.errors import Place
from pipeline.core.schema import Schema
from pipeline.core.sources import ReadResult, ScanQuery
from pipeline.kernel.engine import arrow, connect
from pipeline.kernel.sql_text import literal, quoted

if TYPE_CHECKING:
    import duckdb

PLACEHOLDER = "__debezium_unavailable_value"
_PLACEHOLDERS = (PLACEHOLDER, "X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==", f'["{PLACEHOLDER}"]')
"""How Debezium writes that a value was not sent: as text, as bytes in base64, and as an array of texts."""
_INVALID = "not an event of Debezium"
_UNSENT = "column '{}' was not sent with a new row: the database needs REPLICA IDENTITY FULL"
_UNREAD = "column {!r} has a value that is no {}"
_NO_MESSAGE = "op is distinct from 'm'"
"""SQL that leaves out logical messages, which are no changes of rows."""
_OPERATIONS = "case op when 'c' then 'insert' when 'u' then 'update' when 'd' then 'delete' when 'r' then 'read' when 't' then 'truncate' end"
_HIDDEN = "__"
"""The prefix of the fields that Debezium adds to an unwrapped event."""
_SOURCE = (
    "lsn",
    "sequence",
    "snapshot",
    "file",
    "pos",
    "row",
    "commit_lsn",
    "change_lsn",
    "event_serial_no",
    "ts_us",
    "ts_ms",
)
"""The fields of `source` that are used."""
_ENVELOPE = ("op", "before", "after", "source", "transaction", "_op", "_sequence", "__op", "__deleted")
_ADDED = tuple(f"__{part}{name}" for part in ("", "source_") for name in _SOURCE)
_SEQUENCE = """
case when try_cast(f.lsn as bigint) is not null then format('{:016x}-{:016x}-{:08x}',
    case when coalesce(f.snapshot not in ('false', 'incremental'), false) then 0::bigint
    else coalesce(try_cast(try(f.sequence::json->>0) as bigint), 0) end, try_cast(f.lsn as bigint), number)
  when f.file is not null then
    format('{}-{:016x}-{:08x}', f.file, coalesce(try_cast(f.pos as bigint), 0), coalesce(try_cast(f.row as bigint), 0))
  when f.commit_lsn is not null or f.change_lsn is not null then
    format('{}-{}-{:08x}', coalesce(f.commit_lsn, ''), coalesce(f.change_lsn, ''), coalesce(try_cast(f.event_serial_no as bigint), 0))
end"""
"""SQL for the text that orders the events of a database: by commit, then within the transaction.

PostgreSQL has a position for each row, which several rows can share; MySQL the file, its position and the row; SQL Server
the positions of commit and change, and their order. It is null for systems that have none of these.
"""
_COMMITTED = (
    "strftime(try(make_timestamp(coalesce(try_cast(f.ts_us as bigint), try_cast(f.ts_ms as bigint) * 1000))), "
    "'%Y-%m-%d %H:%M:%S.%f+00')"
)
"""SQL for the time at which the database committed a change, as text with a zone."""


@dataclass(frozen=True)
class DebeziumDecoder(Decoder):
    """Decodes the events of a topic. A message without a value, which follows a delete, is no event."""

    events: Debezium = field(default_factory=Debezium)

    def infer(self, records: pa.Table, place: Place) -> Schema:
        """Infer the columns from some events."""
        return super().infer(self._flat(records), place)

    def read(self, records: pa.Table, schema: Schema, partition: RecordOrigin) -> ReadResult:
        """Return the valid and the rejected changes."""
        return super().read(self._flat(records), schema, partition)

    @contextlib.contextmanager
    def scan_together(
        self, con: duckdb.DuckDBPyConnection, ranges: Sequence[tuple[RecordOrigin, pa.Table]], schema: Schema
    ) -> Iterator[ScanQuery | None]:
        """Yield the changes of some partitions as one query; `None` if they need the validating pass."""
        flat = [(partition, self._flat(records)) for partition, records in ranges]
        with super().scan_together(con, flat, schema) as scan:
            yield scan

    def _flat(self, records: pa.Table) -> pa.Table:
        """Return records with flat JSON objects as values, without those that are no changes."""
        values = records.column(VALUE).combine_chunks()
        number = pa.arange(0, len(values))
        parts = [_json_changes(values, number, self.events.types)] if self.events.registry is None else []
        if self.events.registry is not None:
            parts = list(self._avro_changes(values, number))
        changes = pa.concat_tables(parts).sort_by("n") if parts else pa.table({"n": pa.array([], pa.int64()), "v": []})
        kept = records.take(changes.column("n"))
        at = kept.schema.get_field_index(VALUE)
        return kept.set_column(at, VALUE, changes.column("v").cast(pa.binary()))

    def _avro_changes(self, values: pa.BinaryArray, number: pa.Array) -> Iterator[pa.Table]:
        """Decode events in Avro, by the schemas that wrote them."""
        from pipeline.connectors.kafka.avro import AvroCodec  # noqa: PLC0415 - optional dependency

        if self.events.registry is None:
            raise AssertionError("only events in Avro have a registry")
        given = pc.indices_nonzero(values.is_valid())
        values, number = values.take(given), number.take(given)
        is_json = pc.equal(pc.binary_slice(values, 0, 1), b"{")  # rejected changes that are replayed
        for wanted, as_json in ((pc.indices_nonzero(is_json), True), (pc.indices_nonzero(pc.invert(is_json)), False)):
            if not len(wanted):
                continue
            some, places = values.take(wanted), number.take(wanted)
            if as_json:
                yield _json_changes(some, places, self.events.types)
                continue
            codec = AvroCodec(self.events.registry)
            for at, decoded in codec.decoded(some):
                names = decoded.names
                columns = {name: decoded.column(name) for name in names}
                writer = codec.text_of(some[at[0].as_py()].as_py())
                yield _avro_changes(columns, decoded.why, places.take(at), writer, self.events.types)


def decoder_of(decoder: Decoder, events: Debezium) -> DebeziumDecoder:
    """Return the decoder of events for the other options of a decoder."""
    return DebeziumDecoder(
        format="json",
        metadata=decoder.metadata,
        keeps_tombstones=decoder.keeps_tombstones,
        event_time=decoder.event_time,
        new_columns=decoder.new_columns,
        events=events,
    )


def _json_changes(values: pa.BinaryArray, number: pa.Array, types: Mapping[str, str]) -> pa.Table:
    """Return the numbers of the changes among JSON values, and each as a flat object."""
    with connect() as con:
        con.register("_values", pa.table({"n": number, "v": values}))
        con.execute(f"create temp table _events as {_events()}")
        parts = [
            arrow(con, "select n, p::varchar as v from _events where form = 'flat'"),
            _rejected(con, "_events where form = 'invalid'"),
        ]
        written = "select distinct writer, form from _events where form in ('envelope', 'unwrapped')"
        for writer, form in con.execute(written).fetchall():
            parts += _of_writer(con, writer, form, types)
        return pa.concat_tables(part.select(["n", "v"]) for part in parts)


def _events() -> str:
    """Return a SELECT of the events in `_values`: their form, the schema that wrote them, and their fields.

    What a form does not need is not materialized, because events with their schemas are long.
    """
    top, event = _fields("schema", "payload", "specversion", "data", "op"), _fields(*_ENVELOPE, *_ADDED)
    objects = (
        "select n, case when starts_with(ltrim(line), '{') then try_cast(line as json) end as j "
        "from (select n, try(decode(v)) as line from _values where v is not null)"
    )
    cloud = "o.specversion is not null and o.data is not null"
    opened = (
        f"select n, case when {cloud} then o.data else j end as p, "
        f"case when {cloud} then json_transform(o.data, {top}) else o end as t "
        f"from (select n, j, json_transform(j, {top}) as o from ({objects}))"
    )
    payloads = (
        "select n, wrapped, case when wrapped then t.payload else p end as p, "
        "case when wrapped then t.schema::varchar end as writer "
        f"from (select *, t.op is null and (t.payload is not null or t.schema is not null) as wrapped from ({opened}))"
    )
    forms = (
        "select *, case when p is null and wrapped then 'nothing' "
        "when e._op is not null and e._sequence is not null then 'flat' "
        "when e.op is not null and (e.source is not null or e.after is not null) then 'envelope' "
        "when e.__op is not null or e.__deleted is not null then 'unwrapped' else 'invalid' end as form "
        f"from (select *, json_transform(p, {event}) as e from ({payloads}))"
    )
    return f"select n, form, writer, e, case when form in ('flat', 'unwrapped') then p end as p from ({forms})"


def _rejected(con: duckdb.DuckDBPyConnection, events: str) -> pa.Table:
    """Return events as values that the contract rejects because they are no objects: why, and the event."""
    line = "(select n, try(decode(v)) as line from _values)"
    return arrow(
        con,
        f"select n, to_json([{literal(_INVALID)}, line])::varchar as v from (select n from {events}) join {line} using (n)",
    )


def _fields(*names: str) -> str:
    """Return the argument of `json_transform` that takes these fields out of an object at once."""
    return literal(json.dumps(dict.fromkeys(names, "JSON")))


def _of_writer(
    con: duckdb.DuckDBPyConnection, writer: str | None, form: str, types: Mapping[str, str]
) -> list[pa.Table]:
    """Return the changes of one form that were written with the same schema, and those that are rejected."""
    is_envelope = form == "envelope"
    where = f"writer is not distinct from {'null' if writer is None else literal(writer)} and form = {literal(form)}"
    try:
        known = field_types(json.loads(writer) if writer else None, is_envelope=is_envelope) | _declared(types)
    except ValueError:
        return [_rejected(con, f"_events where {where}")]
    op, row, source, order = (
        "e.op->>'$'",
        "case when e.op = '\"d\"' then e.before else e.after end",
        "e.source",
        "e.transaction",
    )
    facts = f"json_transform({source}, {_texts()})"
    if not is_envelope:
        op = "case when e.__deleted->>'$' = 'true' then 'd' else coalesce(e.__op->>'$', 'u') end"
        added = (f"{name} := coalesce(e.__{name}->>'$', e.__source_{name}->>'$')" for name in _SOURCE)
        row, facts, order = "p", f"struct_pack({', '.join(added)})", "null::json"
    con.execute(
        f"create or replace temp table _rows as select n, r, op, {_SEQUENCE} as s, {_COMMITTED} as c from (select n, {row} as r, "
        f"{op} as op, {facts} as f, coalesce(try_cast({order}->>'total_order' as bigint), 0) as number from _events where {where})"
    )
    found = con.execute(
        "select distinct unnest(json_keys(r)) as name from _rows where json_type(r) = 'OBJECT'"
    ).fetchall()
    names = [name for (name,) in sorted(found) if is_envelope or not name.startswith(_HIDDEN)]
    spellings = Counter(name.casefold() for name in names)
    together = [name for name in names if name and spellings[name.casefold()] == 1]
    cells = {name: _field(name) for name in names} | {name: _cell(f"t.{quoted(name)}") for name in together}
    rows = (
        f"select n, op, s, c, r, json_transform(r, {_fields(*together)}) as t from _rows" if together else "from _rows"
    )
    is_change = f"{_OPERATIONS} is not null"
    return [
        arrow(con, f"select n, v from ({_objects(rows, cells, known)}) where {is_change}"),
        _rejected(con, f"_rows where not ({is_change}) and {_NO_MESSAGE}"),
    ]


@dataclass(frozen=True)
class _Cell:
    """SQL for a value of a row, for its text, and for whether Debezium did not send it."""

    value: str
    text: str
    is_missing: str


def _cell(json_value: str) -> _Cell:
    """Return a cell with a value in JSON."""
    missing = (each if each.startswith("[") else json.dumps(each) for each in _PLACEHOLDERS)
    return _Cell(json_value, f"{json_value}->>'$'", f"{json_value} in ({', '.join(map(literal, missing))})")


def _field(name: str) -> _Cell:
    """Return a cell with a field of a row, by a path: names of a struct cannot differ by case only."""
    path = literal("/" + name.replace("~", "~0").replace("/", "~1"))
    return _cell(f"json_extract(r, {path})")


def _texts() -> str:
    return literal(json.dumps(dict.fromkeys(_SOURCE, "VARCHAR")))


def _avro_changes(
    columns: Mapping[str, Any], why: Sequence[str | None], number: pa.Array, writer: str, types: Mapping[str, str]
) -> pa.Table:
    """Return the changes among decoded Avro records of one schema."""
    is_good = pa.array([each is None and "op" in columns for each in why], pa.bool_())
    reasons = [json.dumps([each or _INVALID]) for each in why if each is not None or "op" not in columns]
    rejected = pa.table({"n": number.filter(pc.invert(is_good)), "v": pa.array(reasons, pa.string())})
    if "op" not in columns:
        return rejected
    given = {name: column for name, column in columns.items() if column is not None}
    table = pa.table({"n": number, **given}).filter(is_good)
    known = field_types(json.loads(writer), is_envelope=True) | _declared(types)
    with connect() as con:
        con.register("_decoded", table)
        parts = [name for name in ("after", "before") if name in table.column_names]
        row = f"case when op = 'd' then {parts[-1]} else {parts[0]} end" if parts else "null"
        source = "to_json(source)" if "source" in table.column_names else "null::json"
        order = "to_json(transaction)->>'total_order'" if "transaction" in table.column_names else "null"
        con.execute(
            f"create temp table _rows as select n, r, op, {_SEQUENCE} as s, {_COMMITTED} as c from (select n, {row} as r, op, "
            f"json_transform({source}, {_texts()}) as f, coalesce(try_cast({order} as bigint), 0) as number from _decoded)"
        )
        fields = table.schema.field(parts[0]).type if parts else pa.struct([])
        cells = {each.name: _avro_cell(each) for each in fields}
        change = f"case when {_OPERATIONS} is null then to_json([{literal(_INVALID)}, op])::varchar else v end"
        changes = arrow(
            con, f"select n, {change} as v from ({_objects('from _rows', cells, known)}) where {_NO_MESSAGE}"
        )
    return pa.concat_tables([rejected, changes])


def _avro_cell(column: pa.Field) -> _Cell:
    """Return a cell with a field of a struct; numbers keep their digits."""
    value = f"r.{quoted(column.name)}"
    if pa.types.is_decimal(column.type):
        value = f"{value}::varchar"
    elif pa.types.is_binary(column.type):
        value = f"base64({value})"
    elif pa.types.is_struct(column.type) and {field.name for field in column.type} == {"scale", "value"}:
        digits = f"json_object('scale', {value}.scale, 'value', base64({value}.value))"
        value = f"case when {value} is not null then {digits} end"
    text = f"{value}::varchar"
    return _Cell(value, text, f"{text} in ({', '.join(map(literal, _PLACEHOLDERS))})")


def _declared(types: Mapping[str, str]) -> dict[str, FieldType]:
    return {name: FieldType.of_name(kind) for name, kind in types.items()}


def _objects(rows: str, cells: Mapping[str, _Cell], known: Mapping[str, FieldType]) -> str:
    """Return a SELECT of `n`, `op` and, in `v`, the flat object of each change.

    For a new row without all values, and for a value that is not of its type, `v` is no object, so that it is rejected.
    """
    parts, missing, unread = [], [], []
    for name, cell in cells.items():
        missing.append(f"case when {cell.is_missing} then {literal(name)} end")
        shown = converted(known.get(name), cell.text)
        if shown is not None:
            what = literal(_UNREAD.format(name, known[name].name))
            unread.append(
                f"case when {cell.text} is not null and not {cell.is_missing} and {shown} is null then {what} end"
            )
        parts.append(
            f"{literal(name)}, case when not coalesce({cell.is_missing}, false) then {shown or cell.value} end"
        )
    unsent = f"list_filter([{', '.join(missing)}], lambda x: x is not null)" if missing else "[]::varchar[]"
    own = f"'_op', {_OPERATIONS}, '_sequence', s, '_committed_at', c, '_unavailable', nullif(unsent, []::varchar[])"
    change = f"json_object({', '.join([*parts, own])})"
    lacks = f"json_array(format({literal(_UNSENT)}, unsent[1]), r)"
    wrong = f"coalesce({', '.join(unread)})" if unread else "null"
    shown = (
        f"(case when op = 'c' and len(unsent) > 0 then {lacks} "
        f"when wrong is not null then json_array(wrong, r) else {change} end)::varchar"
    )
    return f"select n, op, {shown} as v from (select *, {unsent} as unsent, {wrong} as wrong from ({rows}))"
