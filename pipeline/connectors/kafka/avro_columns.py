"""Avro records decoded by column: each field of all records at once, with NumPy and Arrow.

A record that is invalid is found on its own, and has no influence on the others. Maps of several types, unions of several
types and types that contain themselves are not decoded by column.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.connectors.kafka.avro_records import MORE, AvroRecords, Integers

Decode = Callable[[AvroRecords, Integers], pa.Array]
"""Decodes the next value of the given records, and moves their positions behind it."""

_INT32 = 1 << 31
_DAY_US = 86_400_000_000
_MIN_DAY, _MAX_DAY = -719_162, 2_932_896
"""The first and the last day of the years 1 to 9999."""
_MIN_US, _MAX_US = _MIN_DAY * _DAY_US, (_MAX_DAY + 1) * _DAY_US - 1
_DECIMAL_BYTES, _DECIMAL_DIGITS = 16, 38


@dataclass(frozen=True)
class AvroColumns:
    """Decodes the records of one writer schema. Create it with `columns_of_schema`."""

    names: tuple[str, ...]
    decoders: tuple[Decode, ...]

    def decode(self, values: pa.BinaryArray, head_bytes: int) -> tuple[pa.Table, list[str | None]]:
        """Return the fields of all values, and for each value the reason why it is invalid, or `None`."""
        records, rows = AvroRecords(values, head_bytes), np.arange(len(values))
        why: list[str | None] = [None] * len(values)

        def note(reason: str, before: npt.NDArray[np.bool_]) -> None:
            for at in np.flatnonzero(records.is_bad & ~before):
                why[at] = f"not valid Avro for its schema: {reason}"

        columns = []
        for name, decode in zip(self.names, self.decoders, strict=True):
            before = records.is_bad.copy()
            columns.append(decode(records, rows))
            note(f"field {name!r}", before)
        before = records.is_bad.copy()
        records.fail(np.flatnonzero(records.at < records.end))
        note("trailing bytes", before)
        table = pa.table(columns, list(self.names))
        return table.take(pa.array(rows, mask=records.is_bad)) if records.is_bad.any() else table, why


def columns_of_schema(schema: object) -> AvroColumns | None:
    """Return the decoder of a schema, as parsed JSON; `None` if its records have to be decoded individually."""
    try:
        names, decoders = _fields(schema, {}, "")
    except _NotColumnarError:
        return None
    return AvroColumns(names, decoders)


class _NotColumnarError(Exception):
    """A type cannot be decoded by column."""


Known = dict[str, Decode | None]
"""The types that were defined before, by full name; `None` while a type is being defined."""


def _fields(schema: object, known: Known, space: str) -> tuple[tuple[str, ...], tuple[Decode, ...]]:
    if not isinstance(schema, Mapping) or schema.get("type") != "record" or not schema.get("fields"):
        raise _NotColumnarError
    full = _full_name(schema, space)
    known[full] = None
    inner, fields = full.rpartition(".")[0], schema["fields"]
    decoders = tuple(_decoder(field["type"], known, inner) for field in fields)
    return tuple(field["name"] for field in fields), decoders


def _full_name(schema: Mapping[str, Any], space: str) -> str:
    name, own = str(schema.get("name", "")), schema.get("namespace", space)
    return name if "." in name or not own else f"{own}.{name}"


def _decoder(schema: object, known: Known, space: str) -> Decode:
    """Return the decoder of a type; raise `_NotColumnarError`."""
    if isinstance(schema, list):
        return _union(schema, known, space)
    if isinstance(schema, Mapping):
        return _structured(schema, known, space)
    name = str(schema)
    found = _PRIMITIVES.get(name) or known.get(f"{space}.{name}" if space else name) or known.get(name)
    if found is None:
        raise _NotColumnarError
    return found


def _structured(schema: Mapping[str, Any], known: Known, space: str) -> Decode:
    """Return the decoder of a type with attributes."""
    kind = schema.get("type")
    match kind:
        case "record" | "enum" | "fixed":
            known[_full_name(schema, space)] = decode = _named(schema, known, space)
        case "array":
            decode = _array(_item_decoder(schema["items"], known, space))
        case "map":
            decode = _map(_decoder(schema["values"], known, space))
        case _:
            decode = _logical(schema) or _decoder(kind, known, space)
    return decode


def _logical(schema: Mapping[str, Any]) -> Decode | None:
    """Return the decoder of a logical type; `None` for one that is not known, which Avro ignores."""
    kind, logical = schema.get("type"), schema.get("logicalType")
    if kind == "bytes" and logical == "decimal":
        return _decimal(schema, _sized)
    if logical in _INDIVIDUAL:
        raise _NotColumnarError
    return _LOGICAL.get((kind, logical))


def _item_decoder(schema: object, known: Known, space: str) -> Decode:
    """Return the decoder of an array's items; raise `_NotColumnarError` if they may have no bytes, so that any number fits."""
    if _has_bytes(schema):
        return _decoder(schema, known, space)
    raise _NotColumnarError


def _has_bytes(schema: object) -> bool:
    if not isinstance(schema, Mapping):
        return schema != "null"
    if schema.get("type") == "record":
        return any(_has_bytes(field["type"]) for field in schema["fields"])
    return schema.get("type") != "null" and schema.get("size") != 0


def _named(schema: Mapping[str, Any], known: Known, space: str) -> Decode:
    if schema["type"] == "record":
        names, decoders = _fields(schema, known, space)
        return lambda records, rows: pa.StructArray.from_arrays(
            [decode(records, rows) for decode in decoders], list(names)
        )
    if schema["type"] == "enum":
        symbols = pa.array(schema["symbols"], pa.string())
        return lambda records, rows: symbols.take(pa.array(records.numbers(rows, 0, len(symbols) - 1)))
    size = int(schema["size"])
    if schema.get("logicalType") == "decimal":
        return _decimal(schema, lambda records, rows: records.of_length(rows, np.full(len(rows), size)))
    if schema.get("logicalType") is not None:
        raise _NotColumnarError
    return lambda records, rows: records.of_length(rows, np.full(len(rows), size)).cast(pa.binary())


def _union(schema: Sequence[object], known: Known, space: str) -> Decode:
    """Return the decoder of a type that may be null."""
    others = [at for at, each in enumerate(schema) if each != "null"]
    if len(others) != 1:
        raise _NotColumnarError
    [position] = others
    decode = _decoder(schema[position], known, space)

    def union(records: AvroRecords, rows: Integers) -> pa.Array:
        is_given = (records.numbers(rows, 0, len(schema) - 1) == position) & ~records.is_bad[rows]
        given = decode(records, rows[is_given])
        if is_given.all():
            return given
        places = np.cumsum(is_given) - 1
        return given.take(pa.array(places, mask=~is_given))

    return union


def _array(decode: Decode) -> Decode:
    def array(records: AvroRecords, rows: Integers) -> pa.Array:
        offsets, items = _items(records, rows, decode)
        return pa.ListArray.from_arrays(offsets, items)

    return array


def _map(decode: Decode) -> Decode:
    def entry(records: AvroRecords, rows: Integers) -> pa.Array:
        return pa.StructArray.from_arrays([_string(records, rows), decode(records, rows)], ["key", "value"])

    def map_(records: AvroRecords, rows: Integers) -> pa.Array:
        offsets, entries = _items(records, rows, entry)
        return pa.MapArray.from_arrays(offsets, entries.field(0), entries.field(1))

    return map_


def _items(records: AvroRecords, rows: Integers, decode: Decode) -> tuple[pa.Array, pa.Array]:
    """Decode blocks of items, one item of all records after the other; return the items of each record, with their offsets."""
    left, open_ = np.zeros(len(rows), np.int64), np.arange(len(rows))
    counts = np.zeros(len(rows), np.int64)
    parts, owners = [decode(records, rows[:0])], [open_[:0]]
    while len(open_):
        begins = open_[left[open_] == 0]
        left[begins] = _block_counts(records, rows[begins])
        open_ = open_[(left[open_] > 0) & ~records.is_bad[rows[open_]]]
        if len(open_):
            before = records.at[rows[open_]]
            parts.append(decode(records, rows[open_]))
            owners.append(open_)
            records.fail(rows[open_[records.at[rows[open_]] == before]])  # otherwise it would not end
            left[open_] -= 1
            counts[open_] += 1
    order = np.argsort(np.concatenate(owners), kind="stable")
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
    return offsets, pa.concat_arrays(parts).take(pa.array(order))


def _block_counts(records: AvroRecords, rows: Integers) -> Integers:
    """Decode how many items follow; a negative count is followed by their size in bytes, which is not needed."""
    counts = records.longs(rows)
    is_sized = counts < 0
    if is_sized.any():
        records.numbers(rows[is_sized], 0, (1 << 63) - 1)
        counts = np.where(counts == -(1 << 63), 0, np.abs(counts))
    return counts


def _sized(records: AvroRecords, rows: Integers) -> pa.LargeBinaryArray:
    return records.of_length(rows, records.longs(rows))


def _string(records: AvroRecords, rows: Integers) -> pa.Array:
    found = _sized(records, rows)
    try:
        return found.cast(pa.string())
    except pa.ArrowInvalid:
        is_text = np.array([_is_utf8(each) for each in found.to_pylist()], bool)
        records.fail(rows[~is_text])
        return pc.if_else(pa.array(is_text), found, pa.scalar(b"", pa.large_binary())).cast(pa.string())


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _boolean(records: AvroRecords, rows: Integers) -> pa.Array:
    found = records.of_size(rows, 1)[:, 0]
    records.fail(rows[found > 1])
    return pa.array(found == 1)


def _decimal(schema: Mapping[str, Any], read: Decode) -> Decode:
    """Return the decoder of big-endian numbers in two's complement, which have `precision` digits."""
    precision, scale = schema.get("precision"), schema.get("scale", 0)
    if not isinstance(precision, int) or not isinstance(scale, int) or not 0 < precision <= _DECIMAL_DIGITS:
        raise _NotColumnarError
    kind = pa.decimal128(precision, scale)

    def decimal(records: AvroRecords, rows: Integers) -> pa.Array:
        found = read(records, rows)
        sizes = pc.binary_length(found).to_numpy(zero_copy_only=False)
        numbers = np.zeros((len(rows), _DECIMAL_BYTES), np.uint8)
        records.fail(rows[sizes > _DECIMAL_BYTES])
        for size in set(sizes.tolist()) - {0}:
            if size <= _DECIMAL_BYTES:
                at = np.flatnonzero(sizes == size)
                given = np.frombuffer(b"".join(found.take(pa.array(at)).to_pylist()), np.uint8).reshape(-1, size)
                numbers[at] = np.where(given[:, :1] >= MORE, 255, 0)
                numbers[at, :size] = given[:, ::-1]
        is_long = _exceeds(numbers, 10**precision)
        records.fail(rows[is_long])
        numbers[is_long] = 0
        return pa.Array.from_buffers(kind, len(rows), [None, pa.py_buffer(numbers.tobytes())])

    return decimal


def _exceeds(numbers: npt.NDArray[np.uint8], limit: int) -> npt.NDArray[np.bool_]:
    """Return which numbers of 16 bytes have an absolute value of at least `limit`."""
    low, high = numbers.view("<i8").T
    is_wide = high != low >> 63
    least = min(limit, (1 << 63) - 1)
    found = is_wide | (low >= least) | (low <= -least)
    if limit > least:  # only few numbers are that large
        for at in np.flatnonzero(found):
            found[at] = abs(int.from_bytes(numbers[at].tobytes(), "little", signed=True)) >= limit
    return np.asarray(found)


def _number(kind: pa.DataType, least: int, most: int, factor: int = 1) -> Decode:
    """Return the decoder of a number within limits, which is `factor` units of a type."""
    width = pa.int32() if kind.bit_width == 32 else pa.int64()  # noqa: PLR2004 - the widths of Avro's integers

    def number(records: AvroRecords, rows: Integers) -> pa.Array:
        return pa.array(records.numbers(rows, least, most) * factor).cast(width).cast(kind)

    return number


def _floating(kind: type[np.floating[Any]]) -> Decode:
    size = np.dtype(kind).itemsize

    def floating(records: AvroRecords, rows: Integers) -> pa.Array:
        return pa.array(np.ascontiguousarray(records.of_size(rows, size)).view(kind)[:, 0])

    return floating


def _null(records: AvroRecords, rows: Integers) -> pa.Array:
    del records
    return pa.nulls(len(rows))


_PRIMITIVES: dict[str, Decode] = {
    "null": _null,
    "boolean": _boolean,
    "int": _number(pa.int32(), -_INT32, _INT32 - 1),
    "long": _number(pa.int64(), -(1 << 63), (1 << 63) - 1),
    "float": _floating(np.float32),
    "double": _floating(np.float64),
    "string": _string,
    "bytes": lambda records, rows: _sized(records, rows).cast(pa.binary()),
}
_ZONED, _LOCAL = pa.timestamp("us", "UTC"), pa.timestamp("us")
_LOGICAL: dict[tuple[object, object], Decode] = {
    ("int", "date"): _number(pa.date32(), _MIN_DAY, _MAX_DAY),
    ("int", "time-millis"): _number(pa.time64("us"), 0, _DAY_US // 1000 - 1, 1000),
    ("long", "time-micros"): _number(pa.time64("us"), 0, _DAY_US - 1),
    ("long", "timestamp-millis"): _number(_ZONED, _MIN_US // 1000, _MAX_US // 1000, 1000),
    ("long", "timestamp-micros"): _number(_ZONED, _MIN_US, _MAX_US),
    ("long", "local-timestamp-millis"): _number(_LOCAL, _MIN_US // 1000, _MAX_US // 1000, 1000),
    ("long", "local-timestamp-micros"): _number(_LOCAL, _MIN_US, _MAX_US),
}
_INDIVIDUAL = frozenset({"uuid", "timestamp-nanos", "local-timestamp-nanos", "duration", "big-decimal", "decimal"})
"""Logical types whose values are decoded individually."""
