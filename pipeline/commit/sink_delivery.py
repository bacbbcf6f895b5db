"""Delivers the changes of a table to a sink, read from the files of the table's versions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import duckdb
import pyarrow as pa

from pipeline.commit.commit_plan import row_key
from pipeline.core.errors import StorageError
from pipeline.core.schema import compare
from pipeline.core.sinks import Delivery, SharesFiles, Sink, SinkContext, SinkPosition
from pipeline.kernel.engine import arrow, arrow_reader, connect, first_line, schema_of
from pipeline.kernel.pool import Limits
from pipeline.kernel.scan import Scan
from pipeline.kernel.sql_text import listed, quoted
from pipeline.kernel.type_widening import is_wider
from pipeline.lake import Version, VersionChange
from pipeline.lake.holds import Hold, place_hold
from pipeline.project.holds import sink_hold
from pipeline.project.workspace import Workspace

_BLOCK_ROWS = 10_000


@dataclass
class DeliveryReport:
    """A completed delivery: its version, and the number of added and deleted rows."""

    to: SinkPosition
    rows: int = 0
    removed: int = 0


class SinkSender:
    """Delivers a table to one sink. After an error it is closed; a new one continues from the sink's version."""

    def __init__(self, workspace: Workspace, sink: Sink) -> None:
        """Open the sink's target; raises as `Destination.open` does."""
        settings = workspace.settings
        self._sink = sink
        self._table = workspace.table(sink.table)
        self._key = row_key(workspace.stored(sink.table))
        self._limits = Limits(memory_bytes=settings.memory_bytes)
        self._target = sink.to.open(
            SinkContext(settings.name, settings.env, sink.name, settings.state, settings.online, settings.memory_bytes)
        )

    def reached(self) -> SinkPosition | None:
        """Return the sink's version."""
        return self._target.reached()

    def behind(self) -> int:
        """Return the number of versions that the sink has not received."""
        now, reached = self._table.number(), self._target.reached()
        return 0 if now is None else max(0, now - (-1 if reached is None else reached.version))

    def send(self) -> DeliveryReport | None:
        """Deliver all changes up to the newest version in one delivery; `None` if there are none.

        Raises the errors of `Target.write`, and `StorageError` if files of the table cannot be read.
        """
        now = self._table.version(lenient=True)
        since = self._target.reached()
        if now is None or since == SinkPosition(now.number, now.manifest_id):
            return None
        sent = DeliveryReport(SinkPosition(now.number, now.manifest_id))
        with connect(self._limits, filesystem=self._table.storage.filesystem()) as con:
            try:
                self._target.write(self._delivery(con, now, since, sent))
            except (duckdb.Error, pa.ArrowException, OSError) as error:
                raise StorageError(
                    f"rows of table {self._table.name!r} cannot be read", got=first_line(error), do="check its files"
                ) from error
        self._hold(now)
        return sent

    def _hold(self, version: Version) -> None:
        """Hold the version that the target has instead of the one before, if it refers to the files of the lake."""
        if isinstance(self._sink.to, SharesFiles) and self._sink.to.shares_files:
            reason = f"sink {self._sink.name}"
            place_hold(self._table.storage, Hold(sink_hold(self._sink.name), version.number, reason))

    def close(self) -> None:
        """Close the target."""
        self._target.close()

    def _delivery(
        self, con: duckdb.DuckDBPyConnection, now: Version, since: SinkPosition | None, sent: DeliveryReport
    ) -> Delivery:
        change = None if since is None else self._table.change_since(since.version, since.manifest_id, now)
        changes = None if change is None else _changes(con, change, now, self._key)
        rows, removed = (now.scan().query(), None) if changes is None else changes
        lost = _none(con, now) if removed is None else arrow(con, removed)
        sent.removed = lost.num_rows
        files = tuple(file.uri for file in now.files)
        counted = _counted(con, rows, sent)
        current = partial(_current, con, now)
        return Delivery(sent.to, since, counted, lost, self._key, files, is_whole=changes is None, current=current)


def send(workspace: Workspace, sink: Sink) -> DeliveryReport | None:
    """Open a sink, deliver all changes of its table, and close it; see `SinkSender.send`."""
    sender = SinkSender(workspace, sink)
    try:
        return sender.send()
    finally:
        sender.close()


def _changes(
    con: duckdb.DuckDBPyConnection, change: VersionChange, now: Version, key: tuple[str, ...]
) -> tuple[str, str | None] | None:
    """Return SELECTs of the added and the deleted rows; `None` if the table had other columns before.

    Rows that were rewritten with wider types are neither.
    """
    added = Scan(now.schema, change.added).query()
    if not change.removed:
        return added, None
    removed = Scan(now.schema, change.removed).query()
    try:
        before = schema_of(con, removed)
    except duckdb.BinderException:
        return None
    retyped = compare(before, schema_of(con, added)).retyped
    if not all(is_wider(kind, wider) for _, kind, wider in retyped):
        return None
    if retyped:
        typed = ", ".join(f"{quoted(c.name)}::{c.type} as {quoted(c.name)}" for c in now.schema.columns)
        added, removed = (f"select {typed} from ({rows})" for rows in (added, removed))
    if not key:
        return f"({added}) except all ({removed})", f"({removed}) except all ({added})"
    same = " and ".join(f"w.{quoted(name)} is not distinct from c.{quoted(name)}" for name in key)
    deleted = f"select * from ({removed}) w where not exists (select 1 from (select {listed(key)} from ({added})) c where {same})"
    return f"({added}) except all ({removed})", deleted


def _none(con: duckdb.DuckDBPyConnection, now: Version) -> pa.Table:
    return arrow(con, Scan(now.schema).query())


def _current(con: duckdb.DuckDBPyConnection, now: Version, among: pa.Table | None) -> pa.RecordBatchReader:
    """Return the rows of a version: all, or those whose values in some columns a table contains."""
    rows = now.scan().query()
    if among is not None:
        con.register("_among", among)
        same = " and ".join(f"w.{quoted(name)} is not distinct from a.{quoted(name)}" for name in among.column_names)
        rows = f"select w.* from ({rows}) w semi join _among a on {same}"
    return arrow_reader(con, rows, _BLOCK_ROWS)


def _counted(con: duckdb.DuckDBPyConnection, query: str, sent: DeliveryReport) -> pa.RecordBatchReader:
    """Yield the rows of a query, and count them."""
    reader = arrow_reader(con, query, _BLOCK_ROWS)

    def blocks() -> Iterator[pa.RecordBatch]:
        for block in reader:
            sent.rows += block.num_rows
            yield block

    return pa.RecordBatchReader.from_batches(reader.schema, blocks())
