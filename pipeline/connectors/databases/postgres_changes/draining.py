"""Moves changes from a replication slot into the log of changes; the slot is advanced when they are on disk.

The first time, the slot is created, and the tables are read in the snapshot that belongs to it. A table that is added
later gets a snapshot of its own, and its changes follow from there on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from pipeline.connectors.databases.changes.columns import CHANGE_FIELDS, READ, ChangeFacts
from pipeline.connectors.databases.changes.log import ChangeLog, LoggedColumn, LoggedTable, LogState, new_id
from pipeline.connectors.databases.postgres_changes.messages import MessageDecoder, PublishedRelation, ReadTable
from pipeline.connectors.databases.postgres_changes.server import (
    ChangeServer,
    PublishedTable,
    ServerPosition,
    connected,
    lsn_of,
    lsn_text,
)
from pipeline.connectors.databases.postgres_changes.tuples import copied, padded
from pipeline.connectors.databases.postgres_changes.unsent import with_stored_values
from pipeline.connectors.databases.postgres_changes.values import as_text
from pipeline.core.errors import SourceError
from pipeline.kernel.sql_text import quoted

PEEKED_CHANGES = 200_000
"""The number of changes after which the log is written and the slot is advanced, at the end of a transaction."""
_CHUNK_BYTES = 16 << 20
_CHUNK_ROWS = 200_000
_QUIET_BYTES = 16 << 20
"""How much log without changes of the tables the server keeps before the slot is advanced."""


@dataclass
class SlotDraining:
    """Drains a slot over one connection, by which several polls are made."""

    server: ChangeServer
    log: ChangeLog
    slot: str
    publication: str
    tables: tuple[str, ...]
    has_snapshot: bool
    _looked_at: int = 0
    """The end of the server's log when it was drained last: there is nothing new before it moves."""
    _read: Mapping[str, ReadTable] = field(default_factory=dict)

    def drain(self, *, waits: bool, anew: str = "") -> LogState:
        """Write what is new to the log, and return its state; without `waits`, not if another process does.

        `anew` is a table that is read from its beginning: see `Draining`. Raises `SourceError` if they were lost, and
        `SourceUnavailableError` if the server does not answer.
        """
        with self.log.locked(waits=waits) as is_locked:
            state = self.log.state()
            if not is_locked and state is not None:
                return state
            position = self.server.position()
            state = self._started(state, position, restarts=bool(anew))
            if not self._read:
                state = self._with_tables(state, anew)
            if position.inserted > max(state.through, self._looked_at):
                state = self._caught_up(state)
            return state

    def _started(self, state: LogState | None, position: ServerPosition, *, restarts: bool) -> LogState:
        """Return the state of a log whose slot goes on from it; begin the log if there is none."""
        slot = self.server.slot(self.slot)
        if state is None and slot is not None:
            raise SourceError(
                f"the replication slot {self.slot!r} exists, but its changes are not in the log on this machine",
                got=f"no log in {self.log.folder}",
                do=f"use another slot=, or remove it: SELECT pg_drop_replication_slot('{self.slot}')",
                place=self.server.place,
            )
        if state is None or not state.is_complete:
            return self._begun(position)
        lost = _loss(self.slot, state, slot, position)
        if not lost:
            if slot is not None and slot["confirmed"] < state.through:
                self.server.advance(self.slot, state.through)
            return state
        if restarts:
            return self._begun(position)
        raise SourceError(
            f"changes after {lsn_text(state.through)} are lost: {lost}",
            do="headwater run --full begins again with a new snapshot; a stream then starts with --from earliest",
            place=self.server.place,
        )

    def _begun(self, position: ServerPosition) -> LogState:
        """Create the slot, and read the tables in its snapshot. If this is interrupted, it is repeated."""
        self._read, self._looked_at = {}, 0
        tables = [self.server.table(name) for name in self.tables]
        state = LogState(new_id(), position.system)
        self.log.store(state)
        self.server.drop_slot(self.slot)
        self.server.publish(self.publication, self.tables)
        self.server.require_complete(self.publication)
        with connected(self.server.address, replication=True) as replication:
            begins_at, snapshot = _slot_created(replication, self.slot, "")
            logged = self._snapshot(tables, begins_at, snapshot)
        state = replace(state, through=begins_at, is_complete=True, tables=logged)
        self.log.store(state)
        return state

    def _with_tables(self, state: LogState, anew: str) -> LogState:
        """Return the state with all tables that are to be read: those that it lacks get a snapshot.

        So does one that is read `anew` if its first changes are no longer in the log.

        A table that is no longer published, because it was dropped or created again, is no longer in the state.
        """
        published = self.server.published(self.publication)
        removed = {anew} if self.has_snapshot and anew in state.tables and state.tables[anew].first else set()
        kept = {name: table for name, table in state.tables.items() if name in published - removed}
        added = [self.server.table(name) for name in self.tables if name not in kept]
        if added:
            self.server.publish(self.publication, [table.name for table in added])
            with connected(self.server.address, replication=True) as replication:
                begins_at, snapshot = _slot_created(replication, f"{self.slot}_{new_id()[:8]}", "TEMPORARY ")
                kept |= self._snapshot(added, begins_at, snapshot)
        self.server.require_complete(self.publication)
        if added or len(kept) < len(state.tables):
            state = replace(state, tables=kept)
            self.log.store(state)
        self._read = {n: ReadTable(table.begins_at, self.server.table(n).key) for n, table in kept.items()}
        return state

    def _snapshot(self, tables: Sequence[PublishedTable], begins_at: int, snapshot: str) -> dict[str, LoggedTable]:
        """Write the rows of tables to the log, as they are in an exported snapshot."""
        with connected(self.server.address) as reader:
            reader.run("begin isolation level repeatable read, read only")
            reader.run(f"set transaction snapshot '{snapshot}'")
            logged = {}
            for table in tables:
                target = LoggedTable(new_id(), begins_at, table.columns)
                _require_names(table.name, [column.name for column in table.columns], reader)
                if self.has_snapshot:
                    for rows in _snapshot_rows(reader, table, begins_at):
                        target = self.log.append(target, rows)
                logged[table.name] = target
            return logged

    def _caught_up(self, state: LogState) -> LogState:
        """Move everything that the slot has into the log, in several steps."""
        state = self.log.tidy(state)
        while True:
            position = self._position(state)
            decoder = MessageDecoder(state.through, self._read, self.server.place)
            logged, relations, count = dict(state.tables), list[PublishedRelation](), 0
            for messages in _chunks(self.server.peek(self.slot, self.publication, PEEKED_CHANGES)):
                count += len(messages)
                for changes in decoder.decode(messages):
                    relations.append(changes.relation)
                    rows = with_stored_values(changes, self.server.address)
                    logged[changes.relation.name] = self.log.append(logged[changes.relation.name], rows)
            for relation in dict.fromkeys(relations):  # the connection is free again to ask for their types
                logged[relation.name] = logged[relation.name].with_columns(self._columns(relation))
            is_all = count < PEEKED_CHANGES
            is_on_disk = position.flushed >= position.inserted
            through = max(state.through, decoder.end, position.inserted if is_all and is_on_disk else 0)
            if logged != state.tables or through - state.through > _QUIET_BYTES or not is_all:
                state = replace(state, through=through, tables=logged)
                self.log.store(state)
                self.server.advance(self.slot, through)
            if is_all:
                self._looked_at = position.inserted if is_on_disk else 0
                return state

    def _position(self, state: LogState) -> ServerPosition:
        """Return the end of the server's log. If the slot holds back much of it, what is known of it is made durable.

        Only a position that is on disk, and between two records, may be confirmed: on a busy server, the end of the log
        is not. A message that is committed writes everything before it to disk.
        """
        position = self.server.position()
        if position.flushed < position.inserted and position.inserted - state.through > _QUIET_BYTES:
            self.server.run("select pg_logical_emit_message(true, 'headwater', '')")
            position = replace(position, flushed=self.server.position().flushed)
        return position

    def _columns(self, relation: PublishedRelation) -> tuple[LoggedColumn, ...]:
        types = self.server.types_of([column.type_oid for column in relation.columns])
        columns = []
        for column in relation.columns:
            kind, modifier = types[column.type_oid]
            columns.append(LoggedColumn(column.name, kind, column.modifier if modifier is None else modifier))
        return tuple(columns)


def _loss(name: str, state: LogState, slot: Mapping[str, object] | None, position: ServerPosition) -> str:
    """Return why changes are lost; empty if they are not."""
    if state.system != position.system:
        return "this is another server than the one that was read"
    if state.through > position.inserted:
        return f"the server was restored to an earlier state, {lsn_text(position.inserted)}"
    if slot is None:
        return f"the replication slot {name!r} does not exist any more"
    confirmed = int(str(slot["confirmed"]))
    reasons = {
        f"the replication slot {name!r} belongs to another database or output plugin": slot["plugin"] != "pgoutput"
        or not slot["is_ours"],
        f"the server removed the log that the slot {name!r} needed, because of max_slot_wal_keep_size": slot[
            "wal_status"
        ]
        == "lost",
        f"another consumer advanced the slot {name!r} to {lsn_text(confirmed)}": confirmed > state.through,
    }
    return next((reason for reason, is_so in reasons.items() if is_so), "")


def _slot_created(replication: ChangeServer, name: str, kind: str) -> tuple[int, str]:
    """Create a slot, and return its position and the name of its snapshot, which lives as long as the connection is idle."""
    statement = f"CREATE_REPLICATION_SLOT {quoted(name)} {kind}LOGICAL pgoutput (SNAPSHOT 'export')"
    row = replication.rows(statement)[0]
    return lsn_of(row["consistent_point"]), row["snapshot_name"]


def _require_names(table: str, names: Sequence[str], server: ChangeServer) -> None:
    reserved = {each.name for each in CHANGE_FIELDS}
    for name in names:
        if name in reserved:
            raise SourceError(
                f"the column name {name!r} is reserved for changes", got=table, do="rename it", place=server.place
            )


def _snapshot_rows(server: ChangeServer, table: PublishedTable, begins_at: int) -> Iterator[pa.Table]:
    """Yield the rows of a table as changes before all others."""
    items = ", ".join(as_text(column) for column in table.columns)
    relation = ".".join(quoted(part) for part in table.name.split("."))
    now_us, width = time.time_ns() // 1000, len(table.columns)
    schema = pa.schema([*(pa.field(column.name, pa.string()) for column in table.columns), *CHANGE_FIELDS])
    for blocks in _chunks(server.copied(f"select {items} from {relation} t")):
        data, begin, _ = padded(blocks)
        count = len(blocks)
        facts = ChangeFacts(
            np.full(count, READ, np.int8),
            np.full(count, begins_at, np.uint64),
            np.zeros(count, np.int64),
            np.full(count, now_us),
        )
        values = [each.texts(data) for each in copied(data, begin, width)]
        yield pa.table([*values, *facts.arrays(), pa.nulls(count, CHANGE_FIELDS[-1].type)], schema)


def _chunks(blocks: Iterator[bytes]) -> Iterator[list[bytes]]:
    """Yield blocks in lists of a limited size."""
    size, part = 0, []
    for block in blocks:
        part.append(block)
        size += len(block)
        if size >= _CHUNK_BYTES or len(part) >= _CHUNK_ROWS:
            yield part
            size, part = 0, []
    if part:
        yield part
