"""Replays a table of the lake as a log: its rows ordered by a column, at a configurable speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.connectors.contract import REJECTED
from pipeline.connectors.direct_tail import DirectTail
from pipeline.connectors.log_batches import plan_log
from pipeline.core.as_of import AsOf
from pipeline.core.cursors import UNBOUNDED, Bound, Cursor, ReadPlan
from pipeline.core.definitions import caller
from pipeline.core.errors import DefinitionError, Place, few
from pipeline.core.fingerprint import fingerprint
from pipeline.core.schema import Schema
from pipeline.core.sources import (
    MISFIT,
    POSITION,
    PROVENANCE,
    Extent,
    LogTraits,
    ReadResult,
    ScanQuery,
    TableRows,
    Tail,
)
from pipeline.core.splits import SourceObject, SourceSplit
from pipeline.kernel.engine import arrow, connect
from pipeline.kernel.sql_text import listed, quoted

_ROW_BYTES = 64


@dataclass(frozen=True)
class Replay:
    """A table to replay; it becomes a reader once it has the table's rows. Create it with `replay`."""

    table: str
    column: str
    speed: float | None = None
    where: str | None = None
    at: datetime | int | None = None
    """The time or the number of the version to replay; `None`: the newest version."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The table."""
        return (self.table,)

    @property
    def fingerprint(self) -> str:
        """Changes with the table, the column, the condition and the version; not with the speed."""
        version = () if self.at is None else (str(self.at),)
        return fingerprint("replay", self.table, self.column, self.where, *version)

    def over(self, rows_of: Callable[[str, AsOf], TableRows]) -> ReplayLog:
        """Return the log of the table's version; raise `DefinitionError` for a column that it does not have."""
        as_of = AsOf(versions={self.table: self.at}) if isinstance(self.at, int) else AsOf(self.at)
        table_rows = rows_of(self.table, as_of)
        if self.column not in table_rows.schema.names:
            raise DefinitionError(
                f"{self.table!r} has no column {self.column!r} to replay by", got=few(table_rows.schema.names)
            )
        return ReplayLog(self, table_rows)


def replay(
    table: str,
    *,
    by: str,
    speed: float | None = None,
    where: str | None = None,
    at: str | datetime | int | None = None,
) -> Replay:
    """Return a log of the rows of a table, ordered by the column `by`, then by all others.

    `speed` is the number of seconds of event time per second (3600: a day in 24 s); without it, all rows are available
    immediately. `where` is a SQL condition on the rows to replay. Delivery: an offset yields the same row as long as
    the table does not change; when it changes, a run reads all of it again, and a stream ends with an error. With `at`,
    the number of a version or a time (ISO 8601, UTC without an offset), that version is replayed, whatever comes later.
    """
    place = caller()
    if speed is not None and speed <= 0:
        raise DefinitionError("speed= must be positive", got=str(speed), place=place)
    return Replay(table, by, speed, where, _version(at, place))


def _version(at: str | datetime | int | None, place: Place) -> datetime | int | None:
    if isinstance(at, str):
        try:
            at = datetime.fromisoformat(at)
        except ValueError as error:
            how = "write a time like 2026-05-01T12:00, or the number of a version"
            raise DefinitionError("at= is not a time", got=repr(at), do=how, place=place) from error
    if isinstance(at, datetime):
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    return at


@dataclass(frozen=True)
class ReplayLog:
    """The rows of one version of a table, ordered by a column, then by all others; an offset is a position in it.

    Rows without a value in the column are excluded. Without `at`, the version is the newest one when the log is created. Its rows are
    read and sorted on first use; planning does not need them.
    """

    replay: Replay
    table: TableRows
    began: float = field(default_factory=time.monotonic, compare=False)

    @cached_property
    def rows(self) -> pa.Table:
        """The ordered rows, without the origin columns."""
        by, columns = quoted(self.replay.column), listed(self._names)
        condition = "" if self.replay.where is None else f" and ({self.replay.where}\n)"
        select = f"select {columns} from ({self.table.query}) where {by} is not null{condition}"
        with connect(filesystem=self.table.filesystem) as con:
            return arrow(con, f"{select} order by {by}, {columns}").combine_chunks()

    @property
    def _names(self) -> tuple[str, ...]:
        return tuple(name for name in self.table.schema.names if name not in PROVENANCE)

    @property
    def traits(self) -> LogTraits:
        """One permanent partition."""
        return LogTraits()

    def plan(self, cursor: Cursor | None, bound: Bound = UNBOUNDED) -> ReadPlan:
        """Return the available rows beyond the offset of a cursor; if the table changed, everything is read again."""
        read_plan = plan_log(self, cursor, bound, row_bytes=_ROW_BYTES)
        if not read_plan.changed:
            return read_plan
        return replace(read_plan, changed=f"{self.replay.table!r} changed", lost=())

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the replay."""
        return self.replay.fingerprint

    @property
    def uri(self) -> str:
        """The only partition."""
        return f"replay://{self.replay.table}/{self.replay.fingerprint}"

    def schema(self, source_object: SourceObject) -> Schema:
        """Return the table's columns, without the origin columns."""
        del source_object
        return self.table.schema.select(self._names)

    def read(self, split: SourceSplit, schema: Schema) -> ReadResult:
        """Return the rows of a range."""
        with connect() as con, self.scan(con, split, schema) as scanned:
            if scanned is None:
                raise AssertionError("a replayed table can always be scanned")
            rows = arrow(con, f"select * exclude ({MISFIT}) from ({scanned.query})")
        return ReadResult(rows, REJECTED.empty_table())

    @contextmanager
    def scan(self, con: duckdb.DuckDBPyConnection, split: SourceSplit, schema: Schema) -> Iterator[ScanQuery | None]:
        """Yield the rows of a range."""
        end = self.rows.num_rows if split.end is None else split.end
        name = f"_replayed_{split.begin}"
        rows = self.rows.slice(split.begin, end - split.begin)
        con.register(name, rows.append_column(POSITION, pa.array(range(split.begin, end), pa.int64())))
        columns = ", ".join(f"{quoted(c.name)}::{c.type} as {quoted(c.name)}" for c in schema.columns)
        try:
            yield ScanQuery(
                f"select {columns}, {POSITION}, false as {MISFIT} from {name}", end - split.begin, "select 0"
            )
        finally:
            con.unregister(name)

    def extents(self) -> Mapping[str, Extent]:
        """Return the available extent: all rows, or as many as the speed allows since the start."""
        end = self.rows.num_rows
        if self.replay.speed is not None and end:
            times = pc.cast(pc.cast(self.rows.column(self.replay.column), pa.timestamp("us")), pa.int64())
            reached = times[0].as_py() + int((time.monotonic() - self.began) * 1e6 * self.replay.speed)
            end = int(pc.sum(pc.less_equal(times, reached)).as_py() or 0)
        return {self.uri: Extent(0, end, f"{self.table.manifest_id}")}

    def offsets_at(self, time: datetime) -> Mapping[str, int]:
        """Return the offset of the first row at or after a time."""
        times = pc.cast(pc.cast(self.rows.column(self.replay.column), pa.timestamp("us")), pa.int64())
        micros = int(time.timestamp() * 1e6)
        return {self.uri: int(pc.sum(pc.less(times, micros)).as_py() or 0)}

    @contextmanager
    def tail(self, offsets: Mapping[str, int]) -> Iterator[Tail]:
        """Read continuously from an offset."""
        yield DirectTail(self, dict(offsets), ends_at={self.uri: self.rows.num_rows})
