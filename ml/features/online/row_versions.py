"""What an entity's features are, and will be: versions in the order in which they become available.

A version is shown from the time at which it is available until the next one is. Only a row that is newer than all rows of its
entity that were available before it is a version, so a late row that is older than the current one is none. A version that
was replaced before the horizon, the earliest time for which the store answers, is dropped: most entities have one.

    available ───●──────────●───────────▶        a row that is older than another and available later is never shown
                 version    version

Rows of one event time are corrections of each other: the one that became known last counts.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

FORMAT_VERSION = 1
_HEAD = struct.Struct("<IqqqB")
_DTYPE = np.dtype([("size", "<u4"), ("available", "<i8"), ("time", "<i8"), ("known", "<i8"), ("deleted", "u1")])
ROW_VERSIONS = pa.schema(
    {
        "key": pa.binary(),
        "available": pa.int64(),
        "time": pa.int64(),
        "known": pa.int64(),
        "deleted": pa.bool_(),
        "row": pa.binary(),
    }
)
"""Versions of several entities. Times are microseconds since 1970, UTC; `row` is null for one that deletes the entity."""


@dataclass(frozen=True)
class RowVersion:
    """The version of an entity that is shown at a time: when it became available, its event time, and its row."""

    available: int
    time: int
    known: int
    deleted: bool
    row: bytes


def version_at(value: bytes, time: int, *, strict: bool) -> RowVersion | None:
    """Return the version that is shown at a time, with `strict` just before it; `None` if there is none yet."""
    shown, at = None, 0
    while at < len(value):
        size, available, event_time, known, deleted = _HEAD.unpack_from(value, at)
        if available > time or (strict and available == time):
            break
        at += _HEAD.size
        shown = (available, event_time, known, deleted, at, size)
        at += size
    if shown is None:
        return None
    available, event_time, known, deleted, at, size = shown
    return RowVersion(available, event_time, known, bool(deleted), value[at : at + size])


@dataclass(frozen=True)
class PackedVersions:
    """Entities in the store: their keys, the value of each, and the event time of the newest row of each."""

    keys: list[bytes]
    values: list[bytes]
    newest: list[int]


def pack(versions: pa.Table) -> PackedVersions:
    """Return the versions as the store has them; they are in the order of their key and of availability."""
    table = versions.combine_chunks()
    rows = _column(table, "row").fill_null(b"")
    head = np.zeros(len(rows), _DTYPE)
    head["size"] = np.asarray(pc.binary_length(rows))
    for name in ("available", "time", "known"):
        head[name] = np.asarray(_column(table, name))
    head["deleted"] = np.asarray(_column(table, "deleted").cast(pa.uint8()))
    heads = pa.Array.from_buffers(pa.binary(_HEAD.size), len(rows), [None, pa.py_buffer(head)]).cast(pa.binary())
    packed = pc.binary_join_element_wise(heads, rows, b"")
    runs = pc.run_end_encode(_column(table, "key"))
    ends = np.asarray(runs.run_ends)
    offsets = pa.array(np.concatenate([[0], ends]), pa.int32())
    values = pc.binary_join(pa.ListArray.from_arrays(offsets, packed), b"").to_pylist()
    return PackedVersions(runs.values.to_pylist(), values, head["time"][ends - 1].tolist())


def unpack(keys: Sequence[bytes], values: Sequence[bytes | None]) -> pa.Table:
    """Return the versions of values; an entity without a value has none."""
    present = [(key, value) for key, value in zip(keys, values, strict=True) if value]
    data = np.frombuffer(b"".join([value for _, value in present]), np.uint8)
    ends = np.cumsum([len(value) for _, value in present], dtype=np.int64)
    at = ends - np.array([len(value) for _, value in present], dtype=np.int64)
    owner = np.arange(len(present))
    parts = []
    while len(owner):  # the first versions of all values, then the second versions of those that have one
        head = data[at[:, None] + np.arange(_HEAD.size)].reshape(-1).view(_DTYPE)
        begin = at + _HEAD.size
        at = begin + head["size"]
        rows = [data[a:b].tobytes() for a, b in zip(begin.tolist(), at.tolist(), strict=True)]
        parts.append(_versions([present[n][0] for n in owner], head, rows))
        rest = at < ends[owner]
        at, owner = at[rest], owner[rest]
    return pa.concat_tables(parts) if parts else ROW_VERSIONS.empty_table()


def merged(con: duckdb.DuckDBPyConnection, stored: pa.Table, new: pa.Table, now: int) -> pa.Table:
    """Return the versions of entities after new rows have come, in the order of `pack`.

    A new row replaces the stored one of the same times. `now` is the horizon.
    """
    con.register("_stored", stored)
    con.register("_new", new)
    try:
        return con.sql(_MERGE, params={"now": now}).to_arrow_table()
    finally:
        con.unregister("_stored")
        con.unregister("_new")


_MERGE = """
    with every as (select *, 0 as priority from _stored union all select *, 1 as priority from _new),
    corrected as (
        select key, time, known, unnest(arg_max({available: available, deleted: deleted, row: row}, priority))
        from every group by key, time, known
    ),
    compared as (
        select *, max((time, known)) over (
            partition by key order by available, time, known rows between unbounded preceding and 1 preceding
        ) as before
        from corrected
    ),
    versions as (
        select * exclude before, lead(available) over (partition by key order by available, time, known) as following
        from compared where before is null or (time, known) > before
    )
    select key, available, time, known, deleted, row from versions
    where following is null or (following <> available and following >= $now)
    order by key, available
"""


def _column(table: pa.Table, name: str) -> Any:
    column = table[name]
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _versions(keys: list[bytes], head: np.ndarray[Any, Any], rows: list[bytes]) -> pa.Table:
    return pa.table(
        [
            pa.array(keys, pa.binary()),
            *(pa.array(np.ascontiguousarray(head[name])) for name in ("available", "time", "known")),
            pa.array(head["deleted"] == 1),
            pa.array(rows, pa.binary()),
        ],
        schema=ROW_VERSIONS,
    )
