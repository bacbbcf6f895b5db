"""Values that the server does not send when a row gets another key: they are read from the table.

An update of the key is a delete and an insert. A large value (TOAST) that it left as it was is in neither of them, and
the row of the new key has no earlier change from which it could keep the value.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.connectors.databases.address import DatabaseAddress
from pipeline.connectors.databases.changes.columns import UNAVAILABLE
from pipeline.connectors.databases.changes.unsent import lacks_values
from pipeline.connectors.databases.postgres_changes.messages import DecodedChanges, PublishedRelation
from pipeline.connectors.databases.postgres_changes.server import ChangeServer, connected
from pipeline.connectors.databases.postgres_changes.tuples import Integers
from pipeline.connectors.databases.postgres_changes.values import as_text
from pipeline.kernel.sql_text import literal, quoted

_KEYS = 1000
"""The number of rows that one query reads."""
Texts = tuple[str | None, ...]


def with_stored_values(changes: DecodedChanges, address: DatabaseAddress) -> pa.Table:
    """Return changes in which rows with another key have all values, over a connection of its own.

    A value is the one that the table has now. If the row does not exist any more, its columns remain unavailable.
    """
    rows = changes.rows
    at = np.flatnonzero(lacks_values(rows).to_numpy(zero_copy_only=False))
    if not len(at):
        return rows
    lacking = rows.take(pa.array(at))
    key = [column.name for column in changes.relation.columns if column.is_key]
    keys: list[Texts] = list(zip(*(lacking[name].to_pylist() for name in key), strict=True))
    unsent: list[list[str]] = lacking[UNAVAILABLE].to_pylist()
    names = sorted(set(itertools.chain.from_iterable(unsent)))
    with connected(address) as server:
        stored = dict(_stored(server, changes.relation, key, names, list(dict.fromkeys(keys))))
    for place, name in enumerate(names):
        found = [number for number, lacks in enumerate(unsent) if name in lacks and keys[number] in stored]
        values = pa.array([stored[keys[number]][place] for number in found], pa.string())
        rows = _replaced(rows, name, _mask(rows, at[found]), values)
    is_found = _mask(rows, at[[number for number, each in enumerate(keys) if each in stored]])
    where = rows.schema.get_field_index(UNAVAILABLE)
    names_left = rows[UNAVAILABLE].take(pa.array(np.arange(rows.num_rows), mask=is_found))
    return rows.set_column(where, rows.schema.field(where), names_left)


def _stored(
    server: ChangeServer, relation: PublishedRelation, key: Sequence[str], names: Sequence[str], keys: Sequence[Texts]
) -> Iterator[tuple[Texts, Texts]]:
    """Yield the key and the values of rows that still exist, if the table still has these columns."""
    columns = {column.name: as_text(column) for column in server.columns(relation.oid)}
    if not {*key, *names} <= set(columns):
        return
    table = server.rows("select %s::bigint::oid::regclass::text as name", (relation.oid,))[0]["name"]
    items = ", ".join(f"{columns[name]} as c{number}" for number, name in enumerate((*key, *names)))
    names_of_key = ", ".join(f"t.{quoted(name)}" for name in key)
    for first in range(0, len(keys), _KEYS):
        part = (", ".join(literal(text or "") for text in each) for each in keys[first : first + _KEYS])
        wanted = ", ".join(f"({each})" for each in part)
        for row in server.rows(f"select {items} from {table} t where ({names_of_key}) in ({wanted})"):
            texts = tuple(row.values())
            yield texts[: len(key)], texts[len(key) :]


def _mask(rows: pa.Table, at: Integers) -> npt.NDArray[np.bool_]:
    mask = np.zeros(rows.num_rows, bool)
    mask[at] = True
    return mask


def _replaced(rows: pa.Table, name: str, mask: npt.NDArray[np.bool_], values: pa.Array) -> pa.Table:
    column = rows[name].combine_chunks()
    where = rows.schema.get_field_index(name)
    return rows.set_column(where, rows.schema.field(where), pc.replace_with_mask(column, pa.array(mask), values))
