"""Extension types of Arrow: a name by which another system gives the values of a column a meaning of its own.

What a value means is not known for an unknown name, so such a column is refused. Nothing that a file says about an
extension type is ever loaded, such as a pickled class of Python.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from pipeline.core.errors import Place, SourceError

_NAME = b"ARROW:extension:name"
_KNOWN = frozenset({"arrow.uuid", "arrow.json"})
"""The types of Arrow's specification whose values a lake stores exactly."""


def require_known_types(schema: pa.Schema, place: Place) -> None:
    """Raise `SourceError` for the first column that has an unknown extension type, or contains one."""
    for column in schema:
        unknown = next((each for each in _extensions(column) if each[0] not in _KNOWN), None)
        if unknown is not None:
            name, storage = unknown
            raise SourceError(
                f"column {column.name!r} has an extension type that is not known",
                got=f"{name}, stored as {storage}",
                do="write the column without the extension type",
                place=place,
            )


def _extensions(field: pa.Field) -> Iterator[tuple[str, pa.DataType]]:
    """Yield name and storage of the extension types of a field and of the fields within it."""
    kind = field.type
    if isinstance(kind, pa.BaseExtensionType):
        yield kind.extension_name, kind.storage_type
        return
    name = (field.metadata or {}).get(_NAME)
    if name is not None:
        yield name.decode(errors="replace"), kind
    if pa.types.is_dictionary(kind):
        yield from _extensions(pa.field(field.name, kind.value_type))
    for number in range(kind.num_fields):
        yield from _extensions(kind.field(number))
