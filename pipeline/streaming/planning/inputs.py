"""What a stream reads: for each streamed input its log, the contract of its rows, and when they happened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import duckdb
import pyarrow as pa

from pipeline.batch.row_producers import SourceProducer
from pipeline.batch.work import RowProducer
from pipeline.core.epochs import Epoch, InputProgress
from pipeline.core.event_time import EventTime
from pipeline.core.schema import Column, Schema
from pipeline.core.sources import INGESTED_AT, POSITION, PROVENANCE, SOURCE, Log, PartReader
from pipeline.core.splits import SourceObject, SourceSplit
from pipeline.kernel.engine import empty


@dataclass(frozen=True)
class StreamInput:
    """One streamed input of a stream."""

    name: str
    log: Log
    schema: Schema
    """The contract of the log's rows, as they are read."""
    time: EventTime | None = None
    """When its rows happened; None, for a table of the lake: nothing is known of that."""
    columns: tuple[str, ...] | None = None
    """Those that the stream looks at, besides the event time; None: all."""

    @property
    def read_columns(self) -> tuple[str, ...]:
        """The columns that are made of a row: those looked at, the event time, and where it came from."""
        names = self.schema.names if self.columns is None else self.columns
        time = () if self.time is None else (self.time.column,)
        return tuple(dict.fromkeys((*names, *time, *PROVENANCE)))

    @property
    def is_of_lake(self) -> bool:
        """Whether it is a table of the lake, which another stream may make."""
        return False

    def upstream_epoch(self, offsets: Mapping[str, int], known: InputProgress) -> Epoch | None:
        """Return, for a table whose versions were read now, how far the stream was that made the last of them."""
        del offsets, known
        return None

    def consumed(self, offsets: Mapping[str, int]) -> Mapping[str, int]:
        """Return, for a table of the lake, its name and the version up to which it is consumed."""
        del offsets
        return {}

    @property
    def partition(self) -> str:
        """SQL for the URI of the partition that a row is from."""
        return SOURCE

    def producer(self, reader: PartReader | None, at: str) -> RowProducer:
        """Return what makes rows of ranges that the reader gives, or the log itself; `at` is when they are ingested."""
        kept = set(self.read_columns)
        loose = Schema(tuple(c if c.name in kept else Column(c.name, "VARCHAR") for c in self.schema.columns))
        return SourceProducer(
            cast("PartReader", self.log) if reader is None else reader, loose, at, event_time=self.time
        )

    def empty_rows(self, con: duckdb.DuckDBPyConnection) -> pa.Table:
        """Return the rows that the stream looks at, none of them."""
        kinds = {**self.schema.as_dict(), SOURCE: "VARCHAR", POSITION: "BIGINT", INGESTED_AT: "TIMESTAMPTZ"}
        return empty(con, Schema(tuple(Column(name, kinds[name]) for name in self.read_columns)))


@dataclass(frozen=True)
class OffsetRanges:
    """Offsets to take of an input, by the URI of the partition: from the first on, the second not included."""

    by_partition: Mapping[str, tuple[int, int]]

    def splits(self, stamps: Mapping[str, str]) -> tuple[SourceSplit, ...]:
        """Return them as parts of pieces with these stamps, without the empty ones."""
        return tuple(
            SourceSplit(SourceObject(uri, end - begin, stamps.get(uri, "")), begin, end, begin)
            for uri, (begin, end) in sorted(self.by_partition.items())
            if end > begin
        )
