"""Rows of a data file under the columns of its table, which may have been added, renamed or widened since."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.connectors.extension_types import require_known_types
from pipeline.core.errors import Place, SourceError

FieldOf = Callable[[Sequence[pa.Field], pa.Field], int | None]
"""Returns the index of the field of a file that belongs to a field of the table; `None` if the file does not have it."""


def by_name(fields: Sequence[pa.Field], wanted: pa.Field) -> int | None:
    """Return the field with the same name."""
    return next((n for n, field in enumerate(fields) if field.name == wanted.name), None)


def conformed(
    batch: pa.RecordBatch, schema: pa.Schema, field_of: FieldOf, constants: Mapping[str, pa.Scalar], place: Place
) -> pa.RecordBatch:
    """Return the rows with the columns of a table; a column that the file does not have is null.

    `constants` are the values of columns by their names in the table. Raises `SourceError` for a value that the type of
    the table cannot represent, and for an unknown extension type.
    """
    require_known_types(batch.schema, place)
    columns = []
    for field in schema:
        if field.name in constants:
            columns.append(pa.repeat(constants[field.name], batch.num_rows))
            continue
        at = field_of(list(batch.schema), field)
        try:
            columns.append(
                pa.nulls(batch.num_rows, field.type)
                if at is None
                else _conformed(batch.column(at), batch.schema.field(at), field, field_of)
            )
        except pa.ArrowException as error:
            raise SourceError(
                f"column {field.name!r} of the data file is not {field.type}", got=str(error), place=place
            ) from error
    return pa.RecordBatch.from_arrays(columns, names=schema.names)


def _conformed(values: pa.Array, given: pa.Field, wanted: pa.Field, field_of: FieldOf) -> pa.Array:
    kind = wanted.type
    if given.type.equals(kind, check_metadata=True):
        return values
    if pa.types.is_struct(kind) and pa.types.is_struct(given.type):
        return _struct(values, given.type, kind, field_of)
    if pa.types.is_list(kind) and (pa.types.is_list(given.type) or pa.types.is_large_list(given.type)):
        items = _conformed(values.values, given.type.value_field, kind.value_field, field_of)
        return pa.ListArray.from_arrays(_offsets(values), items, type=kind, mask=_mask(values))
    if pa.types.is_map(kind) and pa.types.is_map(given.type):
        keys = _conformed(values.keys, given.type.key_field, kind.key_field, field_of)
        items = _conformed(values.items, given.type.item_field, kind.item_field, field_of)
        return pa.MapArray.from_arrays(_offsets(values), keys, items, type=kind, mask=_mask(values))
    return values.cast(kind)


def _struct(values: pa.Array, given: pa.StructType, kind: pa.StructType, field_of: FieldOf) -> pa.Array:
    fields, parts = list(given), []
    for field in kind:
        at = field_of(fields, field)
        parts.append(
            pa.nulls(len(values), field.type)
            if at is None
            else _conformed(values.field(at), fields[at], field, field_of)
        )
    return pa.StructArray.from_arrays(parts, fields=list(kind), mask=_mask(values))


def _mask(values: pa.Array) -> pa.Array | None:
    return values.is_null() if values.null_count else None


def _offsets(values: pa.Array) -> pa.Array:
    """Return the offsets of a list or map as a copy, because the constructors refuse a slice together with a mask."""
    return pc.add(values.offsets.cast(pa.int32()), pa.scalar(0, pa.int32()))
