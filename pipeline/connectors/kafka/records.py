"""Converts records that a library decodes individually to columns of a contract's types."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import duckdb
import pyarrow as pa

from pipeline.connectors.values import type_mismatch
from pipeline.core.errors import Place, SourceError
from pipeline.core.schema import Schema
from pipeline.kernel.engine import empty, schema_of

Record = Mapping[str, object]
WHY = "_why"


class UndecodableError(Exception):
    """A value is not valid in its format; the message is the reason."""


class Codec(Protocol):
    """Decodes values of one format."""

    def decode(self, value: bytes) -> Record:
        """Return the fields of a value; raise `UndecodableError`, or `SourceError` if the registry is unavailable."""

    def schema(self, values: Sequence[bytes], place: Place) -> Schema:
        """Return the columns of the values' schema; raise `SourceError` if none can be determined."""


@dataclass(frozen=True)
class DecodedRecords:
    """Decoded records, and for each the reason why its value is invalid, or null."""

    records: list[Record]
    why: list[str | None]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the fields that have a value in any record, in order of first occurrence."""
        return tuple(
            dict.fromkeys(name for record in self.records for name, value in record.items() if value is not None)
        )


def decode(codec: Codec, values: Sequence[bytes | None], *, keeps_tombstones: bool) -> DecodedRecords:
    """Decode values individually."""
    why: list[str | None] = [None] * len(values)
    records: list[Record] = [{}] * len(values)
    for at, value in enumerate(values):
        if value is None:
            why[at] = None if keeps_tombstones else "no value"
            continue
        try:
            records[at] = codec.decode(value)
        except UndecodableError as error:
            why[at] = str(error)
    return DecodedRecords(records, why)


def columns_of(
    decoded: DecodedRecords, schema: Schema, undeclared: Sequence[str], con: duckdb.DuckDBPyConnection
) -> pa.Table:
    """Return the fields as columns of the contract's types, and `_why`: the reason why a row is rejected, or null.

    Rows with a value in one of the `undeclared` fields are rejected too.
    """
    why = list(decoded.why)
    for name in undeclared:
        for at, record in enumerate(decoded.records):
            if record.get(name) is not None:
                why[at] = _append_reason(why[at], f"column {name!r} is not in the contract: {record[name]}")
    arrow_schema = empty(con, schema).schema if schema.columns else pa.schema([])
    columns = {}
    for column in schema.columns:
        cells = [_plain(record.get(column.name)) for record in decoded.records]
        kind = arrow_schema.field(column.name).type
        columns[column.name] = _column(cells, kind, why, lambda value, c=column: f"{type_mismatch(c)}{value}")  # type: ignore[misc]
    return pa.table({**columns, WHY: pa.array(why, pa.string())})


def _append_reason(why: str | None, more: str) -> str:
    return more if why is None else f"{why}; {more}"


def inferred(records: Sequence[Record], con: duckdb.DuckDBPyConnection, place: Place) -> Schema:
    """Infer the columns of decoded records; raise `SourceError` if there are none."""
    if not records:
        raise SourceError("no record can be decoded", do="pass schema=, or check format=", place=place)
    table = pa.Table.from_pylist([{name: _plain(value) for name, value in record.items()} for record in records])
    con.register("_decoded", table)
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
