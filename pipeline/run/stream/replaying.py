"""A table of the lake told again as it happened: its rows by event time, as fast as is asked for."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.errors import DefinitionError, RequestError
from pipeline.core.fingerprint import fingerprint
from pipeline.core.reading import MISFIT, POSITION, PROVENANCE, Extent, Flowing, Part, Piece, Reading, Tail
from pipeline.core.replays import Replay
from pipeline.core.schema import Schema
from pipeline.kernel.engine import arrow, connect, listed, quoted
from pipeline.kernel.types import from_arrow
from pipeline.run.workspace import Workspace
from pipeline.sources.fit import REJECTED
from pipeline.sources.tailing import DirectTail

_ROW_BYTES = 64


@dataclass(frozen=True)
class ReplayLog:
    """The rows of one version of a table in the order of a column, then of all others; an offset is a place in it.

    Rows without a value in the column are left out. The order is that of the version that is there when it is opened;
    a stream that goes on after the table changed is told so.
    """

    replay: Replay
    rows: pa.Table
    mark: int | None
    began: float = field(default_factory=time.monotonic, compare=False)

    @classmethod
    def of(cls, workspace: Workspace, replay: Replay) -> ReplayLog:
        """Read the table's newest version and order it; raise `DefinitionError` for a column that it does not have."""
        version = workspace.require(replay.table)
        if replay.by not in version.schema.names:
            raise DefinitionError(
                f"{replay.table!r} has no column {replay.by!r} to be replayed by", got=", ".join(version.schema.names)
            )
        names = [n for n in version.schema.names if n not in PROVENANCE]
        with connect(filesystem=workspace.lake.storage.filesystem()) as con:
            by = quoted(replay.by)
            scan = f"select {listed(names)} from ({version.scan().query()}) where {by} is not null"
            where = "" if replay.where is None else f" and ({replay.where}\n)"
            rows = arrow(con, f"{scan}{where} order by {by}, {listed(names)}")
        return cls(replay, rows.combine_chunks(), version.mark)

    @property
    def fingerprint(self) -> str:
        """Changes with the table, the column and the version."""
        return fingerprint("replay", self.replay.fingerprint, self.mark)

    @property
    def uri(self) -> str:
        """The only partition."""
        return f"replay://{self.replay.table}/{self.replay.fingerprint}"

    def pieces(self) -> Sequence[Piece]:
        """Return the partition."""
        return (Piece(self.uri, self.rows.nbytes, f"{self.mark}"),)

    def schema(self, piece: Piece) -> Schema:
        """Return the table's columns, without those that say where its rows came from."""
        del piece
        return from_arrow(self.rows.schema)

    def parts(self, piece: Piece, target_bytes: int) -> Sequence[Part]:
        """Return all rows as one part."""
        del target_bytes
        return (Part(piece, 0, self.rows.num_rows, 0),)

    def read(self, part: Part, schema: Schema) -> Reading:
        """Return the rows of a range."""
        with connect() as con, self.flow(con, part, schema) as flowing:
            if flowing is None:
                raise AssertionError("rows that are here flow")
            rows = arrow(con, f"select * exclude ({MISFIT}) from ({flowing.query})")
        return Reading(rows, REJECTED.empty_table())

    @contextmanager
    def flow(self, con: duckdb.DuckDBPyConnection, part: Part, schema: Schema) -> Iterator[Flowing | None]:
        """Give the rows of a range."""
        end = self.rows.num_rows if part.end is None else part.end
        name = f"_replayed_{part.begin}"
        rows = self.rows.slice(part.begin, end - part.begin)
        con.register(name, rows.append_column(POSITION, pa.array(range(part.begin, end), pa.int64())))
        columns = ", ".join(f"{quoted(c.name)}::{c.type} as {quoted(c.name)}" for c in schema.columns)
        try:
            yield Flowing(f"select {columns}, {POSITION}, false as {MISFIT} from {name}", end - part.begin, "select 0")
        finally:
            con.unregister(name)

    def parse(self, rows: Sequence[str], schema: Schema) -> Reading:
        """Refuse: no row of a table is ever rejected."""
        del rows, schema
        raise RequestError("a replay rejects no rows, so there are none to read again")

    def extents(self) -> Mapping[str, Extent]:
        """Return how far it is: all of it, or as much as its speed allows since it began."""
        end = self.rows.num_rows
        if self.replay.speed is not None and end:
            times = pc.cast(pc.cast(self.rows.column(self.replay.by), pa.timestamp("us")), pa.int64())
            told = times[0].as_py() + int((time.monotonic() - self.began) * 1e6 * self.replay.speed)
            end = int(pc.sum(pc.less_equal(times, told)).as_py() or 0)
        return {self.uri: Extent(0, end, f"{self.mark}")}

    def offsets_at(self, time: datetime) -> Mapping[str, int]:
        """Return the place of the first row from that time or later."""
        times = pc.cast(pc.cast(self.rows.column(self.replay.by), pa.timestamp("us")), pa.int64())
        micros = int(time.timestamp() * 1e6)
        return {self.uri: int(pc.sum(pc.less(times, micros)).as_py() or 0)}

    @contextmanager
    def tail(self, offsets: Mapping[str, int]) -> Iterator[Tail]:
        """Tell on from an offset."""
        yield DirectTail(self, dict(offsets), ends_at={self.uri: self.rows.num_rows})
