"""Writes and reads snapshots of a shard's state: a base file with all rows, then incremental files, with checksums.

A file is a sequence of Arrow IPC streams. Their byte ranges and the SHA-256 of the file are in the manifest that is
committed with the rows, so that a torn or modified file, or one of another epoch, is always detected.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from pipeline.core.epochs import Epoch, StateFile, StateSegment
from pipeline.core.errors import StorageError
from pipeline.kernel.engine import arrow, connect
from pipeline.kernel.sql_text import quoted
from pipeline.streaming.operators.operator import HASH
from pipeline.streaming.operators.state_tables import ID, SINCE, StateTables

ADDED, REMOVED = "came", "gone"
_OPTIONS = pa.ipc.IpcWriteOptions(compression="zstd")


def snapshot_file(state: StateTables, name: str, shard: int, *, base: bool) -> tuple[StateFile, bytes] | None:
    """Return a file with the changes of a shard's state, or with all of it (`base`); `None` if nothing changed.

    The caller must call `StateTables.mark_snapshot` afterwards.
    """
    segments: list[StateSegment] = []
    parts: list[bytes] = []
    end = 0
    for table in state.tables:
        for kind, rows in _table_streams(state, table, base=base):
            if not rows.num_rows and not base:
                continue
            content = _to_ipc(rows)
            segments.append(StateSegment(table, kind, end, end + len(content), rows.num_rows))
            parts.append(content)
            end += len(content)
    if not segments:
        return None
    content = b"".join(parts)
    return StateFile(name, shard, base, hashlib.sha256(content).hexdigest(), tuple(segments)), content


@dataclass(frozen=True)
class RestorePlan:
    """The epoch to restore, how to read its files, and how to convert its state to the current columns."""

    epoch: Epoch
    read: Callable[[str], bytes]
    evolve: Callable[[StateTables], None]


def restore_shard(plan: RestorePlan, state: StateTables, number: int, shards: int) -> None:
    """Restore shard `number` of `shards` into empty tables. The number of shards may differ from that of the epoch.

    Raises `StorageError` for a file that is missing or has a wrong checksum.
    """
    epoch, same = plan.epoch, shards == plan.epoch.shards
    for shard in [number] if same else range(epoch.shards):
        loaded = state if same else _scratch_state()
        for file in epoch.state:
            if file.shard == shard:
                _replay(loaded, file, plan.read)
        plan.evolve(loaded)
        if not same:
            _add_shard_rows(state, loaded, number, shards)


def read_verified(file: StateFile, read: Callable[[str], bytes]) -> bytes:
    """Return the content of a state file; raise `StorageError` if it is missing or has a wrong checksum."""
    content = read(file.path)
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise StorageError(
            f"state file {file.path} is damaged",
            got=f"{len(content)} bytes whose checksum differs from the committed one",
            do="restore the file, restore a savepoint, or read the log again: headwater stream --from earliest",
        )
    return content


def tables_in(epoch: Epoch, read: Callable[[str], bytes]) -> Iterator[tuple[str, pa.Table]]:
    """Yield the state tables of all shards at an epoch, without internal columns. Their rows are unordered."""
    with connect() as con:
        state = StateTables(con)
        for shard in range(epoch.shards):
            for file in epoch.state:
                if file.shard == shard:
                    _replay(state, file, read)
            for table in state.tables:
                yield table, arrow(con, f"select * exclude ({ID}, {SINCE}, {HASH}) from {quoted(table)}")
            state.drop()


def required_files(files: Sequence[StateFile]) -> tuple[StateFile, ...]:
    """Return the files that are still required: the last base of each shard and the files after it."""
    last = {file.shard: number for number, file in enumerate(files) if file.is_base}
    return tuple(file for number, file in enumerate(files) if number >= last.get(file.shard, 0))


def _table_streams(state: StateTables, table: str, *, base: bool) -> list[tuple[str, pa.Table]]:
    if base:
        return [(ADDED, arrow(state.con, f"select * exclude ({SINCE}) from {quoted(table)}"))]
    changes = state.changes(table)
    return [(REMOVED, changes.removed), (ADDED, changes.added)]


def _to_ipc(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema, options=_OPTIONS) as writer:
        writer.write_table(rows)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _replay(state: StateTables, file: StateFile, read: Callable[[str], bytes]) -> None:
    content = read_verified(file, read)
    for segment in file.segments:
        rows = pa.ipc.open_stream(pa.py_buffer(content)[segment.begin : segment.end]).read_all()
        if segment.kind == REMOVED:
            state.remove(segment.table, rows)
        else:
            state.load(segment.table, rows, anew=file.is_base)


def _scratch_state() -> StateTables:
    """Return empty tables in a separate DuckDB instance, for rows that must be redistributed."""
    return StateTables(duckdb.connect(config={"threads": 1}))


def _add_shard_rows(state: StateTables, other: StateTables, number: int, shards: int) -> None:
    for table in other.tables:
        rows = arrow(
            other.con, f"select * exclude ({ID}, {SINCE}) from {quoted(table)} where {HASH} % {shards} = {number}"
        )
        state.con.register("_dealt_anew", rows)
        state.add(table, "select * from _dealt_anew")
        state.con.unregister("_dealt_anew")
    other.con.close()
