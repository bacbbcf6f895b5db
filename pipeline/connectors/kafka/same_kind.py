"""Casts of decoded columns that fail for each value that the other type does not have, as the conversion of single values does."""

from __future__ import annotations

import pyarrow as pa


def cast_same_kind(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray | None:
    """Return a column with another type; `None` if one of its values changes, or if the types are not of the same kind."""
    if not _is_same_kind(column.type, kind):
        return None
    try:
        return column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None


def _is_same_kind(kind: pa.DataType, other: pa.DataType) -> bool:
    is_ = pa.types
    inner, other_inner = _inner_types(kind), _inner_types(other)
    if inner or other_inner:
        return list(inner) == list(other_inner) and all(_is_same_kind(inner[n], other_inner[n]) for n in inner)
    if is_.is_timestamp(kind) and is_.is_timestamp(other):
        return (kind.tz is None) == (other.tz is None)
    if is_.is_integer(kind):
        return bool(is_.is_integer(other) or is_.is_floating(other) or is_.is_decimal(other))
    return bool(is_.is_null(kind) or kind == other) or any(is_one(kind) and is_one(other) for is_one in _KINDS)


def _inner_types(kind: pa.DataType) -> dict[str, pa.DataType]:
    """Return the types of a nested type's parts by their names, in order; none for another type."""
    if pa.types.is_struct(kind):
        return {f".{field.name}": field.type for field in kind}
    if pa.types.is_map(kind):
        return {"key": kind.key_type, "value": kind.item_type}
    return {"element": kind.value_type} if pa.types.is_list(kind) else {}


_KINDS = (pa.types.is_floating, pa.types.is_decimal, pa.types.is_time)
