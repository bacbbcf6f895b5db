"""Decoders of Avro files without compression: by column with Polars, or record by record with fastavro."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from datetime import date, time
from importlib.util import find_spec
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.connectors.files.avro_blocks import AvroContainer
from pipeline.connectors.files.avro_types import AvroFileColumns, is_columnar, without_logical_types
from pipeline.core.extras import imports_of

Blocks = list[tuple[int, bytes]]
"""The number of records of each block, and the records without compression."""
Decoder = Callable[[Blocks], pa.Table]
_MOST_US = 1 << 62
"""Later than any year that a lake stores, so that the contract rejects it."""


def decoder_of(container: AvroContainer, columns: AvroFileColumns, types: pa.Schema) -> Decoder:
    """Return a decoder of blocks, which raises `ValueError` for damaged ones.

    It decodes by column if the schema allows it and Polars is installed, which is about ten times as fast.
    """
    by_record = _RecordDecoder(container, columns)
    if not is_columnar(container.schema) or find_spec("polars") is None:
        return lambda blocks: cast_columns(by_record(blocks), types)

    def decode(blocks: Blocks) -> pa.Table:
        rows = _by_column(container.plain(blocks, container.schema))
        return cast_columns(by_record(blocks) if rows is None else rows, types)

    return decode


def _by_column(content: bytes) -> pa.Table | None:
    """Return the rows; `None` if the library fails, so that the other one names what is damaged."""
    import polars as pl  # noqa: PLC0415 - an extra

    try:
        return pl.read_avro(io.BytesIO(content)).to_arrow()
    except (pl.exceptions.PanicException, Exception):  # noqa: BLE001 - the first is not an `Exception`
        return None


class _RecordDecoder:
    """Decodes record by record, for all types."""

    def __init__(self, container: AvroContainer, columns: AvroFileColumns) -> None:
        self._container, self._columns = container, columns
        fields = [
            field if field["name"] in columns.as_text else {**field, "type": without_logical_types(field["type"])}
            for field in container.schema["fields"]
        ]
        self._schema = {**container.schema, "fields": fields}
        self._convert = {field.name: _converter(field.type) for field in columns.types}
        self._convert |= dict.fromkeys(columns.as_text, _text)

    def __call__(self, blocks: Blocks) -> pa.Table:
        with imports_of("files", "reading this Avro file"):
            import fastavro  # noqa: PLC0415 - an extra

        content = self._container.plain(blocks, self._schema)
        try:
            records = list(fastavro.reader(io.BytesIO(content)))
            columns = [self._column(records, field) for field in self._columns.types]
        except Exception as error:  # the library's exceptions have no common base class
            raise ValueError(f"a record cannot be decoded: {type(error).__name__} {error}") from error
        return pa.table(columns, schema=self._columns.types)

    def _column(self, records: list[Any], field: pa.Field) -> pa.Array:
        convert, name = self._convert[field.name], field.name
        if convert is None:
            return pa.array([record[name] for record in records], field.type)
        return pa.array([convert(record[name]) for record in records], field.type)


def _converter(kind: pa.DataType) -> Callable[[Any], Any] | None:
    """Return what converts a decoded value to one that Arrow takes; `None` if nothing has to be converted."""
    if pa.types.is_map(kind):
        convert = _converter(kind.item_type)
        return lambda value: (
            value and [(key, item if convert is None else convert(item)) for key, item in value.items()]
        )
    if pa.types.is_list(kind):
        of_item = _converter(kind.value_type)
        return None if of_item is None else lambda value: value and [of_item(item) for item in value]
    if pa.types.is_struct(kind):
        fields = {field.name: _converter(field.type) for field in kind}
        changed = {name: convert for name, convert in fields.items() if convert is not None}
        return (lambda value: value and {**value, **{n: c(value[n]) for n, c in changed.items()}}) if changed else None
    return None


def _text(value: Any) -> str | None:
    """Return a value as JSON text."""
    return None if value is None else json.dumps(value, ensure_ascii=False, default=_scalar_text)


def _scalar_text(value: Any) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value.isoformat() if isinstance(value, date | time) else str(value)


def cast_columns(rows: pa.Table, types: pa.Schema) -> pa.Table:
    """Return columns with the types that a lake stores; times that they do not have become ones that a contract rejects."""
    columns = []
    for column, field in zip(rows.columns, types, strict=True):
        try:
            columns.append(column.cast(field.type))
        except pa.ArrowInvalid:
            if not pa.types.is_timestamp(field.type):
                raise
            limit = _MOST_US // 1000  # Avro has no units but micro- and milliseconds
            numbers = column.cast(pa.int64())
            bounded = pc.max_element_wise(pc.min_element_wise(numbers, limit), -limit, skip_nulls=False)
            columns.append(pc.multiply(pc.if_else(pc.is_null(numbers), None, bounded), 1000).cast(field.type))
    return pa.table(columns, schema=types)
