"""A log that is computed: every row is a function of its offset, so any range can be made again, anywhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime

import duckdb

from pipeline.connectors.contract import REJECTED
from pipeline.connectors.direct_tail import DirectTail
from pipeline.connectors.log_batches import plan_log
from pipeline.core.cursors import UNBOUNDED, Bound, Cursor, ReadPlan
from pipeline.core.errors import RequestError, SourceError
from pipeline.core.fingerprint import fingerprint
from pipeline.core.schema import Schema
from pipeline.core.sources import MISFIT, POSITION, Extent, LogTraits, ReadResult, ScanQuery, Tail
from pipeline.core.splits import SourceObject, SourceSplit
from pipeline.kernel.engine import arrow, connect, first_line, schema_of
from pipeline.kernel.sql_text import quoted

_ROW_BYTES = 64


@dataclass(frozen=True)
class Generator:
    """Rows made of SQL expressions over `i`, the offset in the partition from 0, and `p`, the partition's number."""

    columns: Mapping[str, str]
    partitions: int = 1
    count: int | None = None
    """How many rows each partition has in the end; without it there is no end."""
    per_second: float | None = None
    """How many rows a second each partition gets from `began` on; without it all are there at once."""
    began: float = field(default_factory=time.time, compare=False)
    base: int = field(default=0, compare=False)
    """How many rows each partition had when it `began`: a tail goes on from where it is."""

    @property
    def fingerprint(self) -> str:
        """Changes with the columns and the number of partitions and rows."""
        return fingerprint("generator", tuple(self.columns.items()), self.partitions, self.count)

    @property
    def traits(self) -> LogTraits:
        """Partitions are independent of each other, and stay."""
        return LogTraits()

    def plan(self, cursor: Cursor | None, bound: Bound = UNBOUNDED) -> ReadPlan:
        """Return ranges of the rows beyond the offsets of a cursor; `SourceError` where there is no end to them."""
        return plan_log(self, cursor, bound, row_bytes=_ROW_BYTES)

    def schema(self, piece: SourceObject) -> Schema:
        """Return the columns with the types that the engine gives their expressions."""
        del piece
        with connect() as con:
            try:
                return schema_of(con, self._rows(0, 0, 0))
            except duckdb.Error as error:
                raise _unreadable(error) from error

    def read(self, part: SourceSplit, schema: Schema) -> ReadResult:
        """Make the rows of a range again."""
        with connect() as con, self.scan(con, part, schema) as scanned:
            if scanned is None:
                raise AssertionError("a generator's rows always flow")
            rows = arrow(con, f"select * exclude ({MISFIT}) from ({scanned.query})")
        return ReadResult(rows, REJECTED.empty_table())

    @contextmanager
    def scan(self, con: duckdb.DuckDBPyConnection, part: SourceSplit, schema: Schema) -> Iterator[ScanQuery | None]:
        """Give the rows of a range, in the contract's types."""
        number = int(part.piece.uri.rpartition("/")[2])
        end = self.extents()[part.piece.uri].end if part.end is None else part.end
        columns = ", ".join(f"{quoted(c.name)}::{c.type} as {quoted(c.name)}" for c in schema.columns)
        try:
            schema_of(con, f"select {columns} from ({self._rows(number, 0, 0)})")
        except duckdb.Error as error:
            raise _unreadable(error) from error
        rows = self._rows(number, part.begin, end)
        query = f"select {columns}, {POSITION}, false as {MISFIT} from ({rows})"
        yield ScanQuery(query, end - part.begin, "select 0")

    def extents(self) -> Mapping[str, Extent]:
        """Return what there is now."""
        end = self.count
        if self.per_second is not None:
            so_far = self.base + max(int((time.time() - self.began) * self.per_second), 0)
            end = so_far if end is None else min(so_far, end)
        end_offset = (1 << 62) if end is None else end
        return {f"generator://{self.fingerprint}/{number}": Extent(0, end_offset) for number in range(self.partitions)}

    def offsets_at(self, time: datetime) -> Mapping[str, int]:
        """Refuse: rows are made when they are read."""
        del time
        raise RequestError("a generator's rows have no time at which they were written", do="give offsets")

    @contextmanager
    def tail(self, offsets: Mapping[str, int]) -> Iterator[Tail]:
        """Read on from offsets."""
        ends = None if self.count is None else dict.fromkeys(offsets, self.count)
        behind = max(offsets.values(), default=0) > max(e.end for e in self.extents().values())
        log = replace(self, base=max(offsets.values()), began=time.time()) if behind else self
        yield DirectTail(log, dict(offsets), ends_at=ends)

    def _rows(self, number: int, begin: int, end: int) -> str:
        columns = ", ".join(f"({text}) as {quoted(name)}" for name, text in self.columns.items())
        base = f"select range as i, {number}::bigint as p from range({begin}, {end})"
        return f"select {columns}, i as {POSITION} from ({base})"


def _unreadable(error: duckdb.Error) -> SourceError:
    return SourceError(
        "a column of the generator cannot be made", got=first_line(error), do="write SQL over `i` and `p`"
    )


def generate(
    columns: Mapping[str, str], *, partitions: int = 1, count: int | None = None, per_second: float | None = None
) -> Generator:
    """Return a log of computed rows: `columns` maps names to SQL expressions over `i` (0, 1, 2 …) and `p`, the partition.

    With `count` each partition ends after so many rows; with `per_second` it grows by so many a second.
    Delivery: the same offset gives the same row, always.
    """
    return Generator(dict(columns), partitions, count, per_second)
