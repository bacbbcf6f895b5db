"""Reads the changes of a table from the log of changes, in batch and as a stream.

Delivery: each change once. A position is the number of a change in the log of its table, which is durable before the
database may forget the change.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import ClassVar, Protocol, Self

import pyarrow as pa

from pipeline.connectors.arrow import ArrowReader
from pipeline.connectors.contract import check_columns, undeclared_names
from pipeline.connectors.databases.address import DatabaseAddress
from pipeline.connectors.databases.changes.columns import CHANGE_COLUMNS, CHANGE_FIELDS
from pipeline.connectors.databases.changes.log import ChangeLog, LoggedColumn, LoggedTable, LogState
from pipeline.connectors.databases.changes.unsent import rejecting
from pipeline.connectors.databases.typed_rows import read_result
from pipeline.connectors.direct_tail import DirectTail
from pipeline.connectors.log_batches import plan_log
from pipeline.core.cursors import UNBOUNDED, Bound, Cursor, ReadPlan
from pipeline.core.errors import DefinitionError, Place, SourceError, did_you_mean
from pipeline.core.event_time import parse_duration
from pipeline.core.findings import Finding
from pipeline.core.fingerprint import fingerprint
from pipeline.core.schema import Column, Schema
from pipeline.core.sources import Extent, LogTraits, ReadResult, Tail
from pipeline.core.splits import SourceObject, SourceSplit

_ROW_BYTES = 300
"""Assumed size of a change for planning."""
_REUSE_S = 0.05
"""How long a tail uses the positions that it knows, because each look at the database costs."""
DEFAULT_FOLDER = ".headwater/changes"
"""Where the log of changes is, relative to the project's folder."""
Keep = str | timedelta | None
"""How long changes stay in the log."""
Drain = Callable[[], LogState]
"""Moves what is new in the database into the log, unless another process does, and returns the state of the log."""


def kept_seconds(keep: Keep) -> float | None:
    """Return the option as seconds; raise `DefinitionError` if it is invalid."""
    return None if keep is None else parse_duration(keep, "keep=").total_seconds()


class Draining(Protocol):
    """A connection to a database, from which changes are moved into the log."""

    def drain(self, *, waits: bool, anew: str = "") -> LogState:
        """Write what is new to the log, and return its state; without `waits`, not if another process does.

        `anew` is a table that is read from its beginning: it gets a new snapshot if its first changes are no longer in
        the log, and all tables do if changes were lost, which otherwise raises `SourceError`.
        """


@dataclass(frozen=True, kw_only=True)
class ChangeSource(ABC):
    """The changes of tables of a database, which are moved into a log. Read one of the tables with `table`."""

    address: DatabaseAddress
    tables: tuple[str, ...]
    has_snapshot: bool = True
    spool: str = field(default=DEFAULT_FOLDER, compare=False)
    kept_s: float | None = field(default=None, compare=False)
    """How long changes stay in the log; `None`: always."""
    folder: str = field(default=".", compare=False)
    """The folder for a relative `spool`: the project's folder, once the project is loaded."""

    function: ClassVar[str]
    """The name of the function that creates it."""
    complete_setting: ClassVar[str]
    """The setting with which the database sends all values of a row."""

    @abstractmethod
    def connected(self) -> AbstractContextManager[Draining]:
        """Connect to the database; raise `SourceUnavailableError` if it does not answer."""

    @abstractmethod
    def column_types(self, columns: Sequence[LoggedColumn]) -> tuple[Column, ...]:
        """Return the columns of a table with the types under which they are stored."""

    @abstractmethod
    def typed(self, rows: pa.Table, columns: Sequence[LoggedColumn], schema: Schema) -> pa.Table:
        """Return logged rows with typed values."""

    @abstractmethod
    def check(self) -> Sequence[Finding]:
        """Check that changes can be read; raise `SourceError` if not."""

    @property
    def log_name(self) -> tuple[str, ...]:
        """What the log is named by: the address without credentials, and what else tells one from another."""
        return (self.address.public(),)

    def full_name(self, table: str) -> str:
        """Return the name of a table as it is in `tables`."""
        return table

    def table(self, name: str) -> ChangeTable:
        """Return the changes of one of the tables; raise `DefinitionError` if it is not one of them."""
        full = self.full_name(name)
        if full not in self.tables:
            raise DefinitionError("this table is not read", got=repr(name), do=did_you_mean(full, self.tables))
        return ChangeTable(self, full)

    @property
    def fingerprint(self) -> str:
        """A hash of the options that determine the rows of all tables; the server is not part of it."""
        return fingerprint(self.function, self.has_snapshot)

    @property
    def log(self) -> ChangeLog:
        """The log."""
        return ChangeLog(Path(self.folder) / self.spool / fingerprint(*self.log_name), self.kept_s)

    def uri(self, table: str) -> str:
        """Return the URI of a table: that of the database without user and password, and the table's name."""
        return f"{self.address.public()}/{table}"

    def drained(self, *, anew: str = "") -> LogState:
        """Move everything that is new into the log; `anew` is a table that is read from its beginning."""
        with self.connected() as draining:
            return draining.drain(waits=True, anew=anew)

    @contextmanager
    def draining(self) -> Iterator[Drain]:
        """Connect to the database for several calls."""
        with self.connected() as draining:
            yield lambda: draining.drain(waits=False)

    def within(self, folder: Path) -> Self:
        """Return the source with a relative `spool` resolved against a folder."""
        return replace(self, folder=str(folder))


@dataclass(frozen=True)
class ChangeTable(ArrowReader):
    """The changes of one table of a database. Create it by `table` of a source of changes."""

    source: ChangeSource
    table: str

    @property
    def fingerprint(self) -> str:
        """A hash of the options that determine the rows; the location of the database is not part of it."""
        policy = () if self.new_columns == "freeze" else (self.new_columns,)
        return fingerprint(self.source.fingerprint, self.table, *policy)

    @property
    def uri(self) -> str:
        """The URI of the table, which is the only partition."""
        return self.source.uri(self.table)

    @property
    def traits(self) -> LogTraits:
        """The partition is not removed."""
        return LogTraits()

    def within(self, folder: Path) -> ChangeTable:
        """Return the reader with a relative log resolved against a folder."""
        return self.replacing(source=self.source.within(folder))

    def plan(self, cursor: Cursor | None, bound: Bound = UNBOUNDED) -> ReadPlan:
        """Move what is new into the log, and return the changes beyond the cursor.

        Without a cursor, a log whose changes were lost, or are no longer kept, begins again with a new snapshot;
        otherwise that is an error.
        """
        state = self.source.drained(anew=self.table if cursor is None else "")
        return plan_log(_Extents(self, state), cursor, bound, row_bytes=_ROW_BYTES)

    def extents(self) -> Mapping[str, Extent]:
        """Move what is new into the log, and return the numbers of the changes in it."""
        return self.extents_in(self.source.drained())

    def extents_in(self, state: LogState) -> Mapping[str, Extent]:
        """Return the numbers of the changes in a state of the log; to read those that are not kept is an error."""
        table = state.tables.get(self.table)
        return {} if table is None else {self.uri: Extent(0, table.rows, table.id)}

    def offsets_at(self, time: datetime) -> Mapping[str, int]:
        """Return the number of the first change that was committed at or after a time."""
        return {self.uri: self.source.log.number_at(self._logged(""), int(time.timestamp() * 1e6))}

    @contextmanager
    def tail(self, offsets: Mapping[str, int]) -> Iterator[Tail]:
        """Read changes as they are committed, over one connection."""
        with self.source.draining() as drain:
            yield DirectTail(_TailedTable(self, drain), dict(offsets), reuse_s=_REUSE_S)

    def schema(self, source_object: SourceObject) -> Schema:
        """Return the columns of the table, and those of changes; the table may be empty."""
        table = self._logged(source_object.stamp)
        return Schema((*self.source.column_types(table.columns), *CHANGE_COLUMNS))

    def beyond(self, split: SourceSplit, schema: Schema) -> Schema:
        """Return the columns that are not in the contract."""
        columns = self.schema(split.source_object)
        return columns.select(undeclared_names(schema, columns.names))

    def batches(self, split: SourceSplit) -> Iterator[pa.RecordBatch]:
        """Yield the changes of a range with the types of the table."""
        table = self._logged(split.source_object.stamp)
        schema = self.schema(split.source_object)
        yield from self.source.typed(self._rows(table, split), table.columns, schema).to_batches()

    def read(self, split: SourceSplit, schema: Schema) -> ReadResult:
        """Return the changes of a range at their numbers; raise `SchemaError` for columns other than the contract's.

        A column that the table did not have when a change was committed is null. A new row of which the database did
        not send a value is rejected.
        """
        table = self._logged(split.source_object.stamp)
        wanted = set(schema.names)
        own = (
            *(column.name for column in table.columns),
            *(column.name for column in CHANGE_COLUMNS if column.name in wanted),
        )
        undeclared = check_columns(schema, own, Place(self.uri), self.new_columns)
        logged = self._rows(table, split)
        rows = self.source.typed(logged, table.columns, schema).select(list(own))
        return read_result(rejecting(rows, logged, self.source.complete_setting), schema, undeclared, split.begin)

    def check(self) -> Sequence[Finding]:
        """Check that changes can be read; raise `SourceError` if not."""
        return self.source.check()

    def _logged(self, stamp: str) -> LoggedTable:
        """Return the table in the log; raise `SourceError` if it is not there, or is another one than planned."""
        state = self.source.log.state()
        table = None if state is None else state.tables.get(self.table)
        if table is None or (stamp and table.id != stamp):
            raise SourceError(
                "the log of changes does not contain the planned changes",
                got=f"no changes of {self.table} in {self.source.log.folder}, or those of a later snapshot",
                do="run again; if tasks run on several machines, set spool= to a folder that all of them have",
                place=Place(self.uri),
            )
        return table

    def _rows(self, table: LoggedTable, split: SourceSplit) -> pa.Table:
        end = table.rows if split.end is None else split.end
        rows = self.source.log.changes(table, split.begin, end)
        fields = [*(pa.field(column.name, pa.string()) for column in table.columns), *CHANGE_FIELDS]
        present = set(rows.column_names)
        values = [rows[f.name] if f.name in present else pa.nulls(rows.num_rows, f.type) for f in fields]
        return pa.table(values, pa.schema(fields))


@dataclass(frozen=True)
class _Extents:
    """The extents in a state of the log, for a plan."""

    table: ChangeTable
    state: LogState

    def extents(self) -> Mapping[str, Extent]:
        return self.table.extents_in(self.state)

    def offsets_at(self, time: datetime) -> Mapping[str, int]:
        return self.table.offsets_at(time)


@dataclass(frozen=True)
class _TailedTable:
    """A table whose extents are those after a drain over an open connection."""

    table: ChangeTable
    drain: Drain

    @property
    def traits(self) -> LogTraits:
        return self.table.traits

    def extents(self) -> Mapping[str, Extent]:
        return self.table.extents_in(self.drain())

    def offsets_at(self, time: datetime) -> Mapping[str, int]:
        return self.table.offsets_at(time)

    def tail(self, offsets: Mapping[str, int]) -> AbstractContextManager[Tail]:
        return self.table.tail(offsets)

    def read(self, split: SourceSplit, schema: Schema) -> ReadResult:
        return self.table.read(split, schema)
