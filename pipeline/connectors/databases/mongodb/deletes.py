"""Deleted documents: marked by a filter, or missing when the ids of a collection are compared with those of the table.

Ids are compared as the table has them: an id of the collection is first converted to the type of the column `_id`.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from pipeline.connectors.databases.deletes import DELETED, missing_keys, require_key
from pipeline.connectors.databases.mongodb.documents import lines_of, single_documents, written
from pipeline.connectors.files.csv.reader import Dialect
from pipeline.connectors.files.json import reader as json_reader
from pipeline.core.errors import Place, SourceError
from pipeline.core.schema import Schema
from pipeline.core.sources import TableRows
from pipeline.kernel.engine import connect
from pipeline.kernel.sql_text import quoted

_ID = "_id"
_WITHOUT_ID = b"\x05\x00\x00\x00\x00"
"""An empty document as BSON."""
_OBJECT_ID = b"\x16\x00\x00\x00\x07_id\x00"
"""How a document that has only an object id as its `_id` begins: with its length, the type and the name."""
_OBJECT_ID_BYTES = 22


def deleted_ids(batches: Iterable[bytes], place: Place) -> frozenset[bytes]:
    """Return documents that have only an `_id`, each as BSON; raise `SourceError` if one has none, as in some views."""
    ids = frozenset(document for raw in batches for document in single_documents(raw))
    if _WITHOUT_ID in ids:
        raise SourceError(
            "deleted_when= needs documents with an _id, by which the deleted ones are recognized",
            got="a document without _id",
            do="add _id to the view, or remove deleted_when=",
            place=place,
        )
    return ids


def vanished_ids(stored: TableRows, batches: Iterable[bytes], place: Place) -> tuple[str, ...]:
    """Return the ids that the table of the source has and the collection does not, as JSON and in order.

    `batches` are documents that have only an `_id`, as BSON. Raises `SourceError` if the table lacks a column.
    """
    require_key(stored, [_ID])
    column = stored.schema.select((_ID,))
    kind = stored.schema.as_dict()[_ID]
    present = [_typed([], column, place)]
    for raw in batches:
        texts = object_ids(raw) if kind == "VARCHAR" else None
        present.append(_typed(lines_of(raw), column, place) if texts is None else pa.table({_ID: texts}))
    text = f"{quoted(_ID)}::varchar" if kind == "JSON" else f"to_json({quoted(_ID)})::varchar"
    return tuple(key[0] for key in missing_keys(stored, {_ID: kind}, pa.concat_tables(present), [text]))


def object_ids(raw: bytes) -> pa.Array | None:
    """Return the ids of documents that have only an `_id` as `lines_of` writes them, `None` if not all are object ids."""
    count, rest = divmod(len(raw), _OBJECT_ID_BYTES)
    if rest:
        return None
    documents = np.frombuffer(raw, np.uint8).reshape(count, _OBJECT_ID_BYTES)
    begin = len(_OBJECT_ID)
    if not (documents[:, :begin] == np.frombuffer(_OBJECT_ID, np.uint8)).all():
        return None
    digits = documents[:, begin:-1].tobytes().hex().encode()
    offsets = np.arange(count + 1, dtype=np.int32) * 24
    return pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(digits))


def vanished_lines(ids: Iterable[str]) -> list[str]:
    """Return documents that vanished as lines of JSON."""
    return [f'{{"{_ID}":{each},"{DELETED}":true}}' for each in ids]


def _typed(lines: list[str], column: Schema, place: Place) -> pa.Table:
    """Return ids with the type of the table; one that does not fit is in quarantine, and not in the table."""
    with written(lines) as path, connect() as con:
        return json_reader.read(con, path, column, place, Dialect()).rows.select([_ID])
