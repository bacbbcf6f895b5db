"""The values of a row as bytes, and back: exact, and by column rather than by value.

A row is the bits of its nulls, then the columns of fixed width, then the lengths of the others, then their bytes. Numbers are
little-endian, as in Arrow's buffers, so NaN, infinity and the digits of decimals stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.errors import SchemaError

_LENGTH_BYTES = 4
_TEXTS = (pa.string(), pa.binary())


class RowFormat:
    """The bytes of rows with certain columns."""

    def __init__(self, schema: pa.Schema) -> None:
        """Prepare the format; raise `SchemaError` for a column whose type is not supported."""
        self.schema = pa.schema([(each.name, _stored_type(each)) for each in schema])
        widths = {n: _width(each.type) for n, each in enumerate(self.schema)}
        self._fixed = [n for n, width in widths.items() if width is not None]
        self._varying = [n for n, width in widths.items() if width is None]
        self._null_bytes = (len(widths) + 7) // 8
        self._places: dict[int, slice] = {}
        """Where each column is in the head of a row: its value, or the length of one of varying length."""
        at = self._null_bytes
        for n in (*self._fixed, *self._varying):
            self._places[n] = slice(at, at := at + (widths[n] or _LENGTH_BYTES))
        self._runs = _runs(self._fixed, self._places, [each.type for each in self.schema])
        self._head_bytes = at
        self._missing = b"\xff" * self._null_bytes + b"\x00" * (at - self._null_bytes)

    def encode(self, rows: pa.RecordBatch) -> pa.Array:
        """Return the bytes of each row. The columns have the names and order of the schema."""
        columns = [_cast(rows.column(n), each) for n, each in enumerate(self.schema)]
        head = np.zeros((rows.num_rows, self._head_bytes), np.uint8)
        nulls = np.stack([_is_null(each) for each in columns], axis=1)
        head[:, : self._null_bytes] = np.packbits(nulls, axis=1, bitorder="little")
        for n in self._fixed:
            head[:, self._places[n]] = _fixed_bytes(columns[n], self._places[n])
        texts = [_bytes_of(columns[n], self.schema[n].name) for n in self._varying]
        for n, text in zip(self._varying, texts, strict=True):
            lengths = np.asarray(pc.binary_length(text)).astype("<u4")
            head[:, self._places[n]] = lengths.view(np.uint8).reshape(-1, _LENGTH_BYTES)
        buffers = [None, pa.py_buffer(head)]
        heads = pa.Array.from_buffers(pa.binary(self._head_bytes), rows.num_rows, buffers).cast(pa.binary())
        return pc.binary_join_element_wise(heads, *texts, b"") if texts else heads

    def decode(self, rows: Sequence[bytes | None]) -> list[pa.Array]:
        """Return the columns of rows that `encode` wrote; a row that is `None` is null in all columns."""
        size = self._head_bytes
        joined = b"".join([self._missing if row is None else row[:size] for row in rows])
        head = np.frombuffer(joined, np.uint8).reshape(len(rows), size)
        nulls = np.unpackbits(head[:, : self._null_bytes], axis=1, bitorder="little", count=len(self.schema))
        validity = {n: _validity(nulls[:, n]) for n in np.flatnonzero(nulls.any(axis=0)).tolist()}
        columns: dict[int, Any] = {}
        for run in self._runs:
            columns.update(run.arrays(head, validity))
        at = np.full(len(rows), size)
        for n in self._varying:
            lengths = np.ascontiguousarray(head[:, self._places[n]]).view("<u4").reshape(-1)
            ends = at + lengths
            bounds = zip(rows, at.tolist(), ends.tolist(), strict=True)
            parts = [b"" if row is None else row[begin:end] for row, begin, end in bounds]
            columns[n] = _varying_array(self.schema[n].type, parts, lengths, validity.get(n))
            at = ends
        return [columns[n] for n in range(len(self.schema))]


@dataclass(frozen=True)
class _Run:
    """Columns of one width that are side by side in the head of a row, with their types."""

    place: slice
    width: int
    types: tuple[tuple[int, pa.DataType], ...]

    def arrays(self, head: np.ndarray[Any, Any], validity: Mapping[int, pa.Buffer]) -> Iterator[tuple[int, pa.Array]]:
        """Yield the number and the values of each column; they share one buffer."""
        rows = len(head)
        values = np.ascontiguousarray(head[:, self.place].reshape(rows, len(self.types), self.width).transpose(1, 0, 2))
        data, size = pa.py_buffer(values), rows * self.width
        for number, (n, kind) in enumerate(self.types):
            if pa.types.is_boolean(kind):
                bits = pa.py_buffer(np.packbits(values[number].reshape(-1), bitorder="little"))
            else:
                bits = data.slice(number * size, size)
            yield n, pa.Array.from_buffers(kind, rows, [validity.get(n), bits])


def _runs(fixed: Sequence[int], places: Mapping[int, slice], types: Sequence[pa.DataType]) -> list[_Run]:
    """Group the columns of fixed width that follow each other and have one width."""
    runs: list[_Run] = []
    for n in fixed:
        place, column = places[n], ((n, types[n]),)
        width = place.stop - place.start
        if runs and runs[-1].width == width:
            runs[-1] = _Run(slice(runs[-1].place.start, place.stop), width, (*runs[-1].types, *column))
        else:
            runs.append(_Run(place, width, column))
    return runs


def _stored_type(column: pa.Field) -> pa.DataType:
    """Return the type of a column's values in the store; raise `SchemaError` if there is none."""
    kind = column.type
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    if kind in _TEXTS or pa.types.is_boolean(kind) or _width(kind) is not None:
        return kind
    if _is_list(kind) and _width(kind.value_type) is not None and not pa.types.is_boolean(kind.value_type):
        return pa.list_(pa.field("item", kind.value_type))
    raise SchemaError(
        f"feature {column.name!r} cannot be stored online",
        got=str(kind),
        do="select numbers, text, booleans, dates, times, or lists of numbers",
    )


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _width(kind: pa.DataType) -> int | None:
    """Return the bytes of each value, and `None` if they differ or the type is not supported."""
    if pa.types.is_boolean(kind):
        return 1
    is_fixed = (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal128(kind)
        or pa.types.is_date(kind)
        or pa.types.is_timestamp(kind)
        or pa.types.is_time(kind)
    )
    return kind.bit_width // 8 if is_fixed else None


def _cast(column: pa.Array, field: pa.Field) -> pa.Array:
    return column if column.type == field.type else column.cast(field.type)


def _is_null(column: pa.Array) -> np.ndarray[Any, Any]:
    return np.asarray(column.is_null().cast(pa.uint8()))


def _fixed_bytes(column: pa.Array, place: slice) -> np.ndarray[Any, Any]:
    """Return the bytes of each value, zero for null."""
    width = place.stop - place.start
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    data = column.buffers()[1]
    if data is None:  # all values are null
        return np.zeros((len(column), width), np.uint8)
    start = column.offset * width
    values = np.frombuffer(data, np.uint8)[start : start + len(column) * width].reshape(-1, width)
    return values if column.null_count == 0 else np.where(_is_null(column)[:, None] == 1, np.uint8(0), values)


def _bytes_of(column: pa.Array, name: str) -> pa.Array:
    """Return the values of text or a list as bytes, empty for null."""
    if not pa.types.is_list(column.type):
        return column.cast(pa.binary()).fill_null(b"")
    values = column.flatten()  # without what null lists refer to
    if values.null_count:
        raise SchemaError(
            f"a list of feature {name!r} has an element that is null",
            do="remove it, for example with list_filter, or replace it",
        )
    width = values.type.bit_width // 8
    data = values.buffers()[1]
    begin = values.offset * width
    raw = b"" if data is None else data[begin : begin + len(values) * width]
    lengths = np.asarray(column.value_lengths().fill_null(0)).astype(np.int64) * width
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.Array.from_buffers(pa.binary(), len(column), [None, pa.py_buffer(offsets), pa.py_buffer(raw)])


def _validity(is_null: np.ndarray[Any, Any]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(1 - is_null, bitorder="little"))


def _varying_array(
    kind: pa.DataType, parts: list[bytes], lengths: np.ndarray[Any, Any], validity: pa.Buffer | None
) -> pa.Array:
    width = 1 if kind in _TEXTS else kind.value_type.bit_width // 8
    offsets = np.zeros(len(parts) + 1, np.int32)
    np.cumsum(lengths // width, out=offsets[1:])
    data = pa.py_buffer(b"".join(parts))
    if kind in _TEXTS:
        return pa.Array.from_buffers(kind, len(parts), [validity, pa.py_buffer(offsets), data])
    values = pa.Array.from_buffers(kind.value_type, int(offsets[-1]), [None, data])
    return pa.Array.from_buffers(kind, len(parts), [validity, pa.py_buffer(offsets)], children=[values])
