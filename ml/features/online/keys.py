"""The key of an entity in the online store: text that is the same for the rows of a view and for what is asked for."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.errors import SchemaError

_BETWEEN, _ESCAPE = "\x1f", "\\"


def entity_types(schema: pa.Schema, entity: tuple[str, ...]) -> pa.Schema:
    """Return the entity columns of a view with their types.

    Raises `SchemaError` for a type that does not identify: floating-point numbers, binary and nested types.
    """
    for name in entity:
        kind = schema.field(name).type
        if not (
            pa.types.is_integer(kind)
            or pa.types.is_boolean(kind)
            or pa.types.is_date(kind)
            or pa.types.is_timestamp(kind)
            or pa.types.is_decimal128(kind)
            or _is_text(kind)
        ):
            raise SchemaError(
                f"the entity column {name!r} cannot identify rows of the online store",
                got=str(kind),
                do="convert it to text, an integer, a date or a time",
            )
    return pa.schema([schema.field(name) for name in entity])


def entity_keys(columns: list[pa.Array]) -> pa.Array:
    """Return the key of each row as binary; null if a column is null. The columns have the types of the view."""
    texts = [_text(column, is_escaped=len(columns) > 1) for column in columns]
    joined = texts[0] if len(texts) == 1 else pc.binary_join_element_wise(*texts, _BETWEEN)
    return joined.cast(pa.binary())


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _text(column: pa.Array, *, is_escaped: bool) -> pa.Array:
    if not _is_text(column.type):
        number = column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column
        return number.cast(pa.string())
    text = column.cast(pa.string())
    if not is_escaped:
        return text
    doubled = pc.replace_substring(text, _ESCAPE, _ESCAPE * 2)
    return pc.replace_substring(doubled, _BETWEEN, f"{_ESCAPE}u")
