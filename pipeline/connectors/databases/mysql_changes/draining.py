"""Moves changes from the binary log of MySQL into the log of changes, transaction by transaction."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.connectors.databases.changes.columns import (
    CHANGE_FIELDS,
    DELETE,
    INSERT,
    READ,
    UPDATE,
    ChangeFacts,
)
from pipeline.connectors.databases.changes.log import ChangeLog, LoggedTable, LogState, new_id
from pipeline.connectors.databases.mysql_changes.binlog import RowChange, Transaction, transactions
from pipeline.connectors.databases.mysql_changes.server import (
    BinlogPosition,
    BinlogServer,
    BinlogTable,
    encoded,
)
from pipeline.connectors.databases.mysql_changes.values import text_of
from pipeline.core.errors import SourceError

LOGGED_ROWS = 50_000
"""The number of changes after which the log is written, at the end of a transaction."""
_POSITION = 0xFFFFFFFF


@dataclass
class _Changes:
    """Changes of a table that are not in the log yet."""

    table: BinlogTable
    op: list[int] = field(default_factory=list)
    commit: list[int] = field(default_factory=list)
    index: list[int] = field(default_factory=list)
    committed_us: list[int] = field(default_factory=list)
    values: list[Mapping[str, Any]] = field(default_factory=list)
    unsent: list[tuple[str, ...]] = field(default_factory=list)

    def add(self, change: RowChange, transaction: Transaction, index: int) -> None:
        """Add a change; an update of the key becomes a delete and an insert."""
        key = self.table.key or tuple(column.name for column in self.table.columns)
        if change.op == UPDATE and any(change.before.get(name) != change.after.get(name) for name in key):
            self._add(DELETE, change.before, transaction, index)
            self._add(INSERT, change.after, transaction, index + 1, change.unsent)
        else:
            values = change.before if change.op == DELETE else change.after
            self._add(change.op, values, transaction, index + 1, change.unsent)

    def _add(
        self, op: int, values: Mapping[str, Any], transaction: Transaction, index: int, unsent: tuple[str, ...] = ()
    ) -> None:
        self.op.append(op)
        self.commit.append(transaction.through)
        self.index.append(index)
        self.committed_us.append(transaction.committed_us)
        self.values.append(values)
        self.unsent.append(unsent)

    def rows(self) -> pa.Table:
        """Return the changes as they are logged."""
        facts = ChangeFacts(
            np.array(self.op, np.int8),
            np.array(self.commit, np.uint64),
            np.array(self.index, np.int64),
            np.array(self.committed_us, np.int64),
        )
        columns = [
            pa.array([text_of(column, values.get(column.name)) for values in self.values], pa.string())
            for column in self.table.columns
        ]
        return _table(self.table, columns, facts, self.unsent)


@dataclass
class BinlogDraining:
    """Drains the binary log over one connection, by which several polls are made."""

    server: BinlogServer
    log: ChangeLog
    tables: tuple[str, ...]
    has_snapshot: bool
    _looked_at: int = 0

    def drain(self, *, waits: bool, anew: str = "") -> LogState:
        """Write what is new to the log, and return its state; without `waits`, not if another process does.

        `anew` is a table that is read from its beginning: see `Draining`.
        """
        with self.log.locked(waits=waits) as is_locked:
            state = self.log.state()
            if not is_locked and state is not None:
                return state
            position = self.server.position()
            lost = "" if state is None else self._loss(state, position)
            if lost and not anew:
                raise SourceError(
                    f"changes are lost: {lost}",
                    do="headwater run --full begins again with a new snapshot; a stream then starts with --from earliest",
                    place=self.server.place,
                )
            if state is None or not state.is_complete or lost:
                state = self._begun()
            elif added := [name for name in self.tables if self._needs_snapshot(state, name, anew)]:
                self._caught_up(state, position)
                state = self._begun_with(added)
            if position.end > max(state.through, self._looked_at):
                state = self._caught_up(state, position)
                self._looked_at = position.end
            return state

    def _needs_snapshot(self, state: LogState, name: str, anew: str) -> bool:
        table = state.tables.get(name)
        return table is None or (name == anew and self.has_snapshot and table.first > 0)

    def _loss(self, state: LogState, position: BinlogPosition) -> str:
        """Return why changes are lost; empty if they are not."""
        if not state.is_complete:
            return ""
        if state.system != position.system:
            return "this is another server than the one that was read"
        if state.through > position.end:
            return "the binary log ends before what was read: the server was restored or reset"
        numbers = [encoded(file, 0) for file in self.server.files()]
        if state.through & ~_POSITION not in numbers:
            return "the server removed the binary log that was to be read next"
        return ""

    def _begun(self) -> LogState:
        """Read the tables in a snapshot at a position of the binary log."""
        tables = [self.server.table(name) for name in self.tables]
        position = self.server.snapshot()
        logged = {table.name: self._snapshot(table, position.end) for table in tables}
        self.server.rows("commit")
        state = LogState(new_id(), position.system, position.end, is_complete=True, tables=logged)
        self.log.store(state)
        return state

    def _begun_with(self, names: Sequence[str]) -> LogState:
        """Return the state with the snapshots of added tables; what came before is in the log up to there."""
        tables = [self.server.table(name) for name in names]
        position = self.server.snapshot()
        logged = {table.name: self._snapshot(table, position.end) for table in tables}
        self.server.rows("commit")
        state = self.log.state()
        if state is None:
            raise AssertionError("tables are added only to a log")
        state = replace(state, tables={**state.tables, **logged})
        self.log.store(state)
        return state

    def _snapshot(self, table: BinlogTable, begins_at: int) -> LoggedTable:
        target, now_us = LoggedTable(new_id(), begins_at, table.columns), time.time_ns() // 1000
        if self.has_snapshot:
            for rows in self.server.stored(table, LOGGED_ROWS):
                count = len(rows)
                facts = ChangeFacts(
                    np.full(count, READ, np.int8),
                    np.full(count, begins_at, np.uint64),
                    np.zeros(count, np.int64),
                    np.full(count, now_us),
                )
                columns = [pa.array(values, pa.string()) for values in zip(*rows, strict=True)]
                target = self.log.append(target, _table(table, columns, facts))
        return target

    def _caught_up(self, state: LogState, position: BinlogPosition) -> LogState:
        """Move all transactions up to the present end, which is not before `position`, into the log."""
        state = self.log.tidy(state)
        tables = {name: _with_dropped(self.server.table(name), logged) for name, logged in state.tables.items()}
        pending = {name: _Changes(table) for name, table in tables.items()}
        through = state.through
        with transactions(self.server, state.through, tuple(tables)) as committed:
            for transaction in committed:
                through = transaction.through
                for index, change in enumerate(transaction.changes):
                    if through > state.tables[change.table].begins_at:
                        pending[change.table].add(change, transaction, 2 * index)
                if sum(len(each.op) for each in pending.values()) >= LOGGED_ROWS:
                    state = self._stored(state, pending, through)
                    pending = {name: _Changes(table) for name, table in tables.items()}
        return self._stored(state, pending, max(through, position.end))

    def _stored(self, state: LogState, pending: Mapping[str, _Changes], through: int) -> LogState:
        logged = dict(state.tables)
        for name, changes in pending.items():
            table = logged[name].with_columns(changes.table.columns)
            logged[name] = self.log.append(table, changes.rows()) if changes.op else table
        if logged != state.tables or through != state.through:
            state = replace(state, through=through, tables=logged)
            self.log.store(state)
        return state


def _with_dropped(table: BinlogTable, logged: LoggedTable) -> BinlogTable:
    """Return a table with the columns that it had earlier, because changes from before they were dropped have them."""
    return replace(table, columns=logged.with_columns(table.columns).columns)


def _table(
    table: BinlogTable, columns: Sequence[pa.Array], facts: ChangeFacts, unsent: Sequence[tuple[str, ...]] = ()
) -> pa.Table:
    schema = pa.schema([*(pa.field(column.name, pa.string()) for column in table.columns), *CHANGE_FIELDS])
    kind = CHANGE_FIELDS[-1].type
    missing = pa.array([names or None for names in unsent], kind) if any(unsent) else pa.nulls(len(facts.op), kind)
    return pa.table([*columns, *facts.arrays(), missing], schema)
