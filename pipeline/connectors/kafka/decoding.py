"""Decodes values into columns: valid rows, and rejected rows with their reason and a text to replay them from.

The fast path and the validating pass apply the same SQL expressions.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.connectors import values
from pipeline.connectors.column_names import ColumnNames
from pipeline.connectors.contract import (
    RAW,
    CellExpressions,
    RawTable,
    any_misfit,
    apply_contract,
    cast_cells,
    casts,
    check_columns,
    text_cells,
    typed_cells,
)
from pipeline.connectors.files.csv.reader import Dialect
from pipeline.connectors.files.json import reader as json_reader
from pipeline.connectors.kafka.partitions import Partition
from pipeline.connectors.kafka.record_codecs import codec_of
from pipeline.connectors.kafka.records import WHY, Codec, Decoded, DecodedRecords, RenamedRecords, columns_of
from pipeline.connectors.kafka.value_formats import FETCHED, TYPES, VALUE, Avro, Format, Metadata, Protobuf
from pipeline.connectors.nested_values import only_keys
from pipeline.connectors.values import ConversionRule
from pipeline.core import scratch
from pipeline.core.errors import Place, SchemaError, SourceError
from pipeline.core.event_time import EventTime
from pipeline.core.schema import Column, Schema
from pipeline.core.sources import MISFIT, POSITION, SOURCE, NewColumns, ReadResult, ScanQuery
from pipeline.kernel.engine import connect
from pipeline.kernel.sql_text import literal, quoted

BASE64 = "base64:"
"""Prefix of a binary value that is stored as text."""
_NO_FAULTS = "select 0"
_TIMES = {"DATE": "%Y-%m-%d", "TIMESTAMP": "%Y-%m-%d %H:%M:%S.%f"}
"""Text format of a message timestamp that serves as event time: in UTC here, with its offset for other types."""
_VALUE_PREFIX = "own:"
"""Prefix of decoded columns, which distinguishes them from the metadata columns."""


class RecordOrigin(Protocol):
    """The partition of records: its URI, the name of its topic or stream, and its number in it."""

    @property
    def uri(self) -> str: ...  # noqa: D102 - see above

    @property
    def topic(self) -> str: ...  # noqa: D102 - see above

    @property
    def number(self) -> int: ...  # noqa: D102 - see above


@dataclass(frozen=True)
class Decoder:
    """Decodes the records of a topic according to a contract."""

    format: Format
    metadata: Metadata
    keeps_tombstones: bool = False
    event_time: EventTime | None = None
    """The event time; messages without a value use the message timestamp."""
    new_columns: NewColumns = "discard_value"
    """What happens to fields that are not in the contract."""
    naming: ColumnNames = field(default_factory=ColumnNames)
    """Which fields have another name in the table."""

    def infer(self, records: pa.Table, place: Place) -> Schema:
        """Infer the schema from some records; raise `SourceError` if none can be decoded."""
        extra = {name: TYPES[name] for name in self.metadata.columns}
        if self.format in {"raw", "text"}:
            return Schema.of({VALUE: "BLOB" if self.format == "raw" else "VARCHAR", **extra})
        values = records.column(VALUE).drop_null()
        if self._codec is None:
            inferred = _inferred(values, place, self.naming)
        else:
            types = self._codec.schema(values.to_pylist(), place).as_dict()
            fields_of = self.naming.of_distinct_fields(types, place)
            inferred = Schema.of({name: types[fields[0]] for name, fields in fields_of.items()})
        return Schema.of({**inferred.as_dict(), **extra})

    def check_columns(self, schema: Schema, place: Place) -> None:
        """Raise `SchemaError` if these records cannot have the columns of the contract."""
        check_columns(schema, schema.names, place)
        for column in schema.columns:
            if column.name in TYPES and column.name not in self.metadata.columns:
                field = column.name.removeprefix("_")
                raise SchemaError(
                    f"the column {column.name!r} is message metadata that is not fetched",
                    do=f"use kafka(…, metadata=({field!r},))",
                    place=place,
                )
        value_columns = self._value_columns(schema)
        if self.format in {"raw", "text"} and len(value_columns) != 1:
            got = ", ".join(column.name for column in value_columns) or "none"
            problem = f"a topic of {self.format} values has one column beside those of its messages"
            raise SchemaError(problem, got=got, do="pass schema= with one column", place=place)

    @contextlib.contextmanager
    def scan(
        self, con: duckdb.DuckDBPyConnection, records: pa.Table, schema: Schema, partition: RecordOrigin
    ) -> Iterator[ScanQuery | None]:
        """Yield records as a query; `None` if they need the validating pass."""
        with self.scan_together(con, [(partition, records)], schema) as scan:
            yield scan and replace(scan, query=f"select * exclude ({SOURCE}) from ({scan.query})")

    @contextlib.contextmanager
    def scan_together(
        self, con: duckdb.DuckDBPyConnection, ranges: Sequence[tuple[RecordOrigin, pa.Table]], schema: Schema
    ) -> Iterator[ScanQuery | None]:
        """Yield the records of some partitions as one query with `_source`; `None` if they need the validating pass."""
        schema = self.naming.keyed(schema)
        tables = [] if MISFIT in schema.names else [self._scannable(table, schema, p) for p, table in ranges]
        scannable = [table for table in tables if table is not None]
        if len(scannable) < len(ranges):
            yield None
            return
        table = pa.concat_tables(scannable)
        name = f"kafka_{id(table):x}"
        con.register(name, table)
        try:
            yield ScanQuery(self._query(name, schema), table.num_rows, _NO_FAULTS)
        finally:
            with contextlib.suppress(duckdb.Error):  # the connection may already be closed or broken
                con.unregister(name)

    def read(self, records: pa.Table, schema: Schema, partition: RecordOrigin) -> ReadResult:
        """Return the valid and the rejected rows."""
        schema = self.naming.keyed(schema)
        with connect() as con:
            con.register("_records", records)
            if self._codec is not None:
                con.register("_columns", self._decoded(records, schema, con, partition))
                con.execute(f"create temp table {RAW} as select r.*, c.* from _records r positional join _columns c")
                return _apply_contract(
                    con, schema, RawTable(self._cells(schema, partition), "", why=WHY), in_text=False
                )
            value_schema = Schema(self._value_columns(schema))
            is_object = json_reader.is_object("line") if self.format == "json" else "true"
            con.execute(
                f"create temp table {RAW} as select *, {is_object} as is_object from "
                f"(select *, try(decode({VALUE})) as line from _records)"
            )
            source = f"(select *, line as shown from {RAW})"
            if self.format == "json":
                objects = f"(select * replace (case when is_object then line end as line), line as shown from {RAW})"
                source = json_reader.with_texts(value_schema, objects)
            keys_of = self.naming.of_fields(self._keys(con))
            beyond = json_reader.values_of(self._undeclared(schema, keys_of, partition), keys_of)
            raw = RawTable(
                self._cells(schema, partition),
                "",
                why=f"({self._invalid_reason(value_schema)})",
                source=source,
                undeclared=beyond,
            )
            return _apply_contract(con, schema, raw, in_text=True)

    def parse(self, rows: Sequence[str], schema: Schema) -> ReadResult:
        """Decode rejected rows again; metadata that is not part of the value, such as the key, is null."""
        values = [_bytes(row) for row in rows]
        arrays = {VALUE: pa.array(values, pa.binary()), POSITION: pa.array(np.arange(1, len(rows) + 1))}
        for name in self.metadata.columns:
            if name in FETCHED:
                arrays[name] = pa.nulls(len(rows), FETCHED[name])
        return self.read(pa.table(arrays), schema, Partition("rejected", 0))

    def __getstate__(self) -> dict[str, object]:
        """Pickle the options only; the codec is created again, with an empty cache of schemas."""
        return {name: value for name, value in self.__dict__.items() if name != "_codec"}

    @cached_property
    def _codec(self) -> Codec | None:
        return codec_of(self.format, self.naming) if isinstance(self.format, Avro | Protobuf) else None

    def _value_columns(self, schema: Schema) -> tuple[Column, ...]:
        """Return the columns that are decoded from the value."""
        return tuple(c for c in schema.columns if c.name not in TYPES)

    def _cells(self, schema: Schema, partition: RecordOrigin | None = None) -> CellExpressions:
        """Return the SQL expressions of the value's and the metadata columns; without a partition, all come from the table."""
        value = self._value_cells(Schema(self._value_columns(schema)))
        message = self._message_columns(schema, partition)
        raw = {c.name: value.raw.get(c.name) or message[c.name] for c in schema.columns}
        time = "" if self.event_time is None else self.event_time.column
        if self.event_time is not None and time in value.raw:
            raw[time] = self._event_time_text(self.event_time, schema.as_dict()[time], raw[time])

        def rule(column: Column, raw: str, cast: str) -> ConversionRule:
            if column.name == time and column.name in value.raw:
                return values.of_text(column, raw, cast)
            if column.name in value.raw:
                return value.rule(column, raw, cast)
            kind = "VARCHAR" if (column.name, column.type) == ("_key", "VARCHAR") else TYPES[column.name]
            return values.of_type(column, raw, kind)

        return CellExpressions(raw, rule)

    def _event_time_text(self, event_time: EventTime, kind: str, raw: str) -> str:
        """Return SQL for the text of an event time: the message timestamp if there is no value."""
        number = event_time.number_of("_timestamp")
        time = (
            f"({number})::varchar"
            if number
            else f"strftime(_timestamp at time zone 'UTC', {literal(_TIMES.get(kind, '%Y-%m-%d %H:%M:%S.%f+00'))})"
        )
        return f"case when {VALUE} is null then {time} else ({raw})::varchar end"

    def _value_cells(self, value_schema: Schema) -> CellExpressions:
        if self._codec is not None:
            return typed_cells(
                {c.name: quoted(_VALUE_PREFIX + c.name) for c in value_schema.columns}, value_schema.as_dict()
            )
        if self.format == "json":
            return json_reader.cells(value_schema)
        if self.format == "raw":
            return typed_cells(dict.fromkeys(value_schema.names, VALUE), dict.fromkeys(value_schema.names, "BLOB"))
        return text_cells(dict.fromkeys(value_schema.names, "line"))

    def _message_columns(self, schema: Schema, partition: RecordOrigin | None) -> dict[str, str]:
        """Return SQL for the metadata columns."""
        message = {name: quoted(name) for name in TYPES} | {"_offset": POSITION}
        if partition is not None:
            message |= {"_topic": literal(partition.topic), "_partition": f"{partition.number}::integer"}
        if schema.as_dict().get("_key") == "VARCHAR":
            message["_key"] = "decode(_key, 'replace')"
        return message

    def _invalid_reason(self, value_schema: Schema) -> str:
        """Return SQL for the reason why a value is not a valid record, or null."""
        tombstone = f"when {VALUE} is null then {'null' if self.keeps_tombstones else literal('no value')}"
        if self.format == "raw":
            return f"case {tombstone} end"
        text = f"when shown is null then {literal('not UTF-8')}"
        json = f"when not is_object then {literal('not a JSON object')}" if self.format == "json" else ""
        both = f"else {json_reader.both_names(value_schema)}" if self.format == "json" else ""
        return f"case {tombstone} {text} {json} {both} end"

    def _keys(self, con: duckdb.DuckDBPyConnection) -> tuple[str, ...]:
        """Return the keys of the JSON objects in `raw`, if undeclared fields matter."""
        if self.new_columns == "discard_value" or self.format != "json":
            return ()
        result = con.execute(f"select distinct unnest(json_keys(line)) as key from {RAW} where is_object order by key")
        return tuple(str(row[0]) for row in result.fetchall())

    def _undeclared(self, schema: Schema, names: Iterable[str], partition: RecordOrigin) -> tuple[str, ...]:
        """Return the undeclared fields that reject a row; raise `SchemaError` for fields that fail the step."""
        if self.new_columns == "discard_value":
            return ()
        return check_columns(
            schema, tuple(dict.fromkeys((*schema.names, *names))), Place(partition.uri), self.new_columns
        )

    def _scannable(self, records: pa.Table, schema: Schema, partition: RecordOrigin) -> pa.Table | None:
        """Return the relation that a query can scan, or `None` if a value is not a valid record."""
        if not self.keeps_tombstones and records.column(VALUE).null_count:
            return None
        if self._codec is not None:
            with connect() as con:
                decoded = self._decoded(records, schema, con, partition)
            if decoded.column(WHY).null_count < decoded.num_rows:
                return None
            for name in decoded.column_names:
                records = records.append_column(name, decoded.column(name))
        elif self.format != "raw":
            try:
                records = records.append_column("line", records.column(VALUE).cast(pa.string()))
            except pa.ArrowInvalid:  # not UTF-8
                return None
        constants = {
            SOURCE: pa.scalar(partition.uri),
            "_topic": pa.scalar(partition.topic),
            "_partition": pa.scalar(partition.number, pa.int32()),
        }
        for name, value in constants.items():
            records = records.append_column(name, pa.repeat(value, records.num_rows))
        return records

    def _query(self, name: str, schema: Schema) -> str:
        source, other, value_schema = quoted(name), "false", Schema(self._value_columns(schema))
        if self.format == "json" and not value_schema.columns:
            other = f"(line is not null and not {json_reader.is_object('line')})"
        elif self.format == "json":
            # invalid JSON aborts the query; valid JSON that begins with a brace is an object
            source = json_reader.with_texts(value_schema, source)
            other = "not coalesce(starts_with(line, '{'), true)"
            other += f" or {json_reader.both_names(value_schema)} is not null" if self.naming.rename else ""
            if self.new_columns != "discard_value":
                keys = json_reader.keys_in(value_schema)
                other += f" or not coalesce({only_keys('json_keys(line)', keys)}, true)"
        cells = self._cells(schema)
        return (
            f"select {casts(schema)}, {SOURCE}, {POSITION}, ({other} or {any_misfit(schema, cells)}) as {MISFIT} "
            f"from {cast_cells(schema, cells, source)}"
        )

    def _decoded(
        self, records: pa.Table, schema: Schema, con: duckdb.DuckDBPyConnection, partition: RecordOrigin
    ) -> pa.Table:
        """Return the columns of the values, and `_why` for values that cannot be decoded."""
        assert self._codec is not None  # noqa: S101 - checked by the caller
        value_schema = Schema(self._value_columns(schema))
        groups = list(self._groups(records.column(VALUE).combine_chunks()))
        if self.naming.rename:
            groups = [(at, RenamedRecords(decoded, self.naming)) for at, decoded in groups]
        names = dict.fromkeys(name for _, decoded in groups for name in decoded.names)
        undeclared = self._undeclared(schema, names, partition)
        tables = [columns_of(decoded, value_schema, undeclared, con) for _, decoded in groups]
        table = pa.concat_tables(tables or [columns_of(DecodedRecords([], []), value_schema, (), con)])
        if len(groups) > 1:
            table = table.take(pc.sort_indices(pa.concat_arrays([at.cast(pa.int64()) for at, _ in groups])))
        return table.rename_columns([*(f"{_VALUE_PREFIX}{name}" for name in value_schema.names), WHY])

    def _groups(self, values: pa.BinaryArray) -> Iterator[tuple[pa.Array, Decoded]]:
        """Yield the decoded values in groups, each with their places."""
        assert self._codec is not None  # noqa: S101 - checked by the caller
        if not values.null_count:
            if len(values):
                yield from self._codec.decoded(values)
            return
        nulls, others = pc.indices_nonzero(values.is_null()), pc.indices_nonzero(values.is_valid())
        yield nulls, DecodedRecords([{}] * len(nulls), [None if self.keeps_tombstones else "no value"] * len(nulls))
        if len(others):
            for at, decoded in self._codec.decoded(values.take(others)):
                yield others.take(at), decoded


def _apply_contract(con: duckdb.DuckDBPyConnection, schema: Schema, raw: RawTable, *, in_text: bool) -> ReadResult:
    """Return the valid rows; `raw.why` is SQL for the reason why a value is not a valid record, or null."""
    why = raw.why
    encoded = f"'{BASE64}' || base64({VALUE})"
    # text is stored unchanged, unless it begins with the prefix of binary values
    text = f"when shown <> '' and not starts_with(shown, '{BASE64}') then shown" if in_text else ""
    row = f"case when {VALUE} is null then '' {text} else {encoded} end"
    key = schema.as_dict().get("_key")
    if key == "VARCHAR":
        why = (
            f"coalesce({why}, case when _key is not null and try(decode(_key)) is null then 'the key is not UTF-8' end)"
        )
    return apply_contract(con, schema, replace(raw, row=row, bad=f"({why}) is not null", why=why))


def _bytes(row: str) -> bytes | None:
    if not row:
        return None
    if row.startswith(BASE64):
        with contextlib.suppress(binascii.Error, ValueError):
            return base64.b64decode(row.removeprefix(BASE64), validate=True)
    return row.encode()


def _inferred(values: pa.ChunkedArray, place: Place, naming: ColumnNames) -> Schema:
    """Infer the fields of JSON objects: they are written to a file, one per line, which DuckDB reads as JSON."""
    with scratch.folder("json") as folder, connect() as con:
        path = str(Path(folder) / "values.ndjson")
        con.register("_values", pa.table({VALUE: values}))
        con.execute(
            f"copy (select json(line)::varchar from (select try(decode({VALUE})) as line from _values) "
            f"where {json_reader.is_object('line')}) to {literal(path)} "
            "(format csv, header false, quote '', escape '', delimiter '\x01')"
        )
        if pc.count(values).as_py() == 0 or not Path(path).stat().st_size:
            raise SourceError("no record contains a JSON object", do="pass schema=, or check format=", place=place)
        return json_reader.infer(con, path, place, Dialect(naming=naming))
