"""Converts records that a library decodes individually to columns of a contract's types."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import duckdb
import pyarrow as pa

from pipeline.connectors.column_names import ColumnNames
from pipeline.connectors.kafka.same_kind import cast_same_kind
from pipeline.connectors.values import type_mismatch
from pipeline.core.errors import Place, SourceError
from pipeline.core.schema import Schema
from pipeline.kernel.engine import empty, schema_of

Record = Mapping[str, object]
WHY = "_why"


class UndecodableError(Exception):
    """A value is not valid in its format; the message is the reason."""


class Decoded(Protocol):
    """Decoded records."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the fields that have a value in any record, in order of first occurrence."""

    @property
    def why(self) -> Sequence[str | None]:
        """For each record the reason why its value is invalid, or `None`."""

    def cells(self, name: str) -> Sequence[object]:
        """Return the values of a field, `None` where a record does not have it."""

    def column(self, name: str) -> pa.ChunkedArray | None:
        """Return the values of a field with the type of its schema; `None` if that is not known."""


class Codec(Protocol):
    """Decodes values of one format."""

    def decoded(self, values: pa.BinaryArray) -> Iterator[tuple[pa.Array, Decoded]]:
        """Decode values that are not null: yield groups of records, each with their places among the values.

        Raises `SourceError` if the registry is unavailable.
        """

    def decode(self, value: bytes) -> Record:
        """Return the fields of a value; raise `UndecodableError`, or `SourceError` if the registry is unavailable."""

    def schema(self, values: Sequence[bytes], place: Place) -> Schema:
        """Return the columns of the values' schema; raise `SourceError` if none can be determined."""


@dataclass(frozen=True)
class DecodedRecords:
    """Records that were decoded individually."""

    records: list[Record]
    why: list[str | None]

    @property
    def names(self) -> tuple[str, ...]:
        """See `Decoded`."""
        return tuple(
            dict.fromkeys(name for record in self.records for name, value in record.items() if value is not None)
        )

    def cells(self, name: str) -> Sequence[object]:
        """See `Decoded`."""
        return [record.get(name) for record in self.records]

    def column(self, name: str) -> None:
        """Return `None`: each record may have a schema of its own."""


@dataclass(frozen=True)
class DecodedColumns:
    """Records that were decoded together."""

    columns: pa.Table
    why: list[str | None]

    @property
    def names(self) -> tuple[str, ...]:
        """See `Decoded`."""
        columns = zip(self.columns.column_names, self.columns.columns, strict=True)
        return tuple(name for name, column in columns if column.null_count < len(column))

    def cells(self, name: str) -> Sequence[object]:
        """See `Decoded`."""
        cells: list[object] = self.column(name).to_pylist()
        return cells

    def column(self, name: str) -> pa.ChunkedArray:
        """See `Decoded`."""
        if name in self.columns.column_names:
            return self.columns.column(name)
        return pa.chunked_array([pa.nulls(self.columns.num_rows)])


@dataclass(frozen=True)
class RenamedRecords:
    """Decoded records with the names of the table; one that has a value for the old and the new name of a field is invalid."""

    decoded: Decoded
    naming: ColumnNames

    @cached_property
    def _fields(self) -> Mapping[str, tuple[str, ...]]:
        """The fields with a value by their names in the table: two if some records have the old, and some the new name."""
        return self.naming.of_fields(self.decoded.names)

    @property
    def names(self) -> tuple[str, ...]:
        """See `Decoded`."""
        return tuple(self._fields)

    @property
    def why(self) -> Sequence[str | None]:
        """See `Decoded`."""
        why = list(self.decoded.why)
        for fields in self._fields.values():
            if len(fields) > 1:
                for at, cells in enumerate(zip(*map(self.decoded.cells, fields), strict=True)):
                    if sum(cell is not None for cell in cells) > 1:
                        both = " and ".join(map(repr, fields))
                        why[at] = _append_reason(why[at], f"has {both}, which are one column by rename=")
        return why

    def cells(self, name: str) -> Sequence[object]:
        """See `Decoded`."""
        columns = [self.decoded.cells(field) for field in self._fields_of(name)]
        if len(columns) == 1:
            return columns[0]
        return [next((cell for cell in cells if cell is not None), None) for cells in zip(*columns, strict=True)]

    def column(self, name: str) -> pa.ChunkedArray | None:
        """See `Decoded`."""
        fields = self._fields_of(name)
        return self.decoded.column(fields[0]) if len(fields) == 1 else None

    def _fields_of(self, name: str) -> tuple[str, ...]:
        old_name = next((old for old, new in self.naming.rename if new == name), name)
        return self._fields.get(name, (old_name,))


def decode_individually(codec: Codec, values: Sequence[bytes]) -> DecodedRecords:
    """Decode values one after the other."""
    why: list[str | None] = [None] * len(values)
    records: list[Record] = [{}] * len(values)
    for at, value in enumerate(values):
        try:
            records[at] = codec.decode(value)
        except UndecodableError as error:
            why[at] = str(error)
    return DecodedRecords(records, why)


def columns_of(decoded: Decoded, schema: Schema, undeclared: Sequence[str], con: duckdb.DuckDBPyConnection) -> pa.Table:
    """Return the fields as columns of the contract's types, and `_why`: the reason why a row is rejected, or null.

    Rows with a value in one of the `undeclared` fields are rejected too.
    """
    why = list(decoded.why)
    for name in undeclared:
        for at, cell in enumerate(decoded.cells(name)):
            if cell is not None:
                why[at] = _append_reason(why[at], f"column {name!r} is not in the contract: {cell}")
    arrow_schema = empty(con, schema).schema if schema.columns else pa.schema([])
    columns = {}
    for column in schema.columns:
        kind = arrow_schema.field(column.name).type
        found = decoded.column(column.name)
        converted = None if found is None else cast_same_kind(found, kind)
        if converted is None:
            cells = [_plain(cell) for cell in decoded.cells(column.name)]
            converted = _column(cells, kind, why, lambda value, c=column: f"{type_mismatch(c)}{value}")  # type: ignore[misc]
        columns[column.name] = converted
    return pa.table({**columns, WHY: pa.array(why, pa.string())})


def _append_reason(why: str | None, more: str) -> str:
    return more if why is None else f"{why}; {more}"


def inferred(records: Sequence[Record], con: duckdb.DuckDBPyConnection, place: Place) -> Schema:
    """Infer the columns of decoded records; raise `SourceError` if there are none."""
    if not records:
        raise SourceError("no record can be decoded", do="pass schema=, or check format=", place=place)
    names = dict.fromkeys(name for record in records for name in record)  # each may have a schema of its own
    con.register("_decoded", pa.table({name: [_plain(record.get(name)) for record in records] for name in names}))
    return schema_of(con, "select * from _decoded")


def _column(cells: list[object], kind: pa.DataType, why: list[str | None], reason: Callable[[object], str]) -> pa.Array:
    """Cast values to a type; where that fails, the value is null and the reason is recorded."""
    try:
        return pa.array(cells, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        for at, cell in enumerate(cells):
            try:
                pa.array([cell], kind)
            except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
                why[at] = _append_reason(why[at], reason(cell))
                cells[at] = None
        return pa.array(cells, kind)


def _plain(value: object) -> object:
    """Return a value in the form that Arrow's builders accept: maps as lists of pairs, recursively."""
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value
